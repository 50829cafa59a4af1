// SPDX-License-Identifier: GPL-3.0-only
//! Offsets of open files, sockets, the kernel's tables of them, and network namespaces.

use super::member::{Array, Scalar, Size, offsets};

offsets! {
    /// Open files, as far as sockets need it.
    FileOffsets {
        files: u64 = "task_struct.files",
        fdt: u64 = "files_struct.fdt",
        max_fds: u64 = "fdtable.max_fds",
        fd: u64 = "fdtable.fd",
        f_inode: u64 = "file.f_inode",
        private_data: u64 = "file.private_data",
        i_mode: u64 = "inode.i_mode",
        socket_sk: u64 = "socket.sk",
    }
}

offsets! {
    /// Sockets of TCP and UDP over IPv4.
    SockOffsets {
        family: u64 = "sock.__sk_common.skc_family",
        state: u64 = "sock.__sk_common.skc_state",
        /// Big-endian.
        dport: u64 = "sock.__sk_common.skc_dport",
        /// Host order.
        num: u64 = "sock.__sk_common.skc_num",
        daddr: u64 = "sock.__sk_common.skc_daddr",
        rcv_saddr: u64 = "sock.__sk_common.skc_rcv_saddr",
        net: u64 = "sock.__sk_common.skc_net.net",
        /// Its hash, whose low bits number its bucket.
        hash: u64 = "sock.__sk_common.skc_hash",
        /// Bytes of `struct sock_common`.
        common_len: Size = "sock.__sk_common",
        net_inum: u64 = "net.ns.inum",
        protocol: Scalar = "sock.sk_protocol",
        ack_backlog: u64 = "sock.sk_ack_backlog",
        max_ack_backlog: u64 = "sock.sk_max_ack_backlog",
    }
}

offsets! {
    /// Addresses of sockets over IPv6.
    Sock6Offsets {
        daddr: u64 = "sock.__sk_common.skc_v6_daddr",
        rcv_saddr: u64 = "sock.__sk_common.skc_v6_rcv_saddr",
    }
}

offsets! {
    /// From a socket to its inode, which names it in /proc.
    SocketInodeOffsets {
        sk_socket: u64 = "sock.sk_socket",
        inode: u64 = "socket_alloc.vfs_inode",
        i_ino: u64 = "inode.i_ino",
        file: u64 = "socket.file",
    }
}

offsets! {
    /// The kernel's tables of TCP sockets that are connected or were.
    TcpTableOffsets {
        buckets: u64 = "inet_hashinfo.ehash",
        mask: u64 = "inet_hashinfo.ehash_mask",
        chain: u64 = "inet_ehash_bucket.chain",
        link: u64 = "sock.__sk_common.skc_nulls_node",
        /// The state that a small structure stands for.
        substate: u64 = "inet_timewait_sock.tw_substate",
    }
}

offsets! {
    /// Listening TCP sockets, in a table of their own…
    ListenTableOffsets {
        buckets: u64 = "inet_hashinfo.lhash2",
        mask: u64 = "inet_hashinfo.lhash2_mask",
        chain: u64 = "inet_listen_hashbucket.nulls_head",
    }
}

offsets! {
    /// … or, in kernels before 5.19, in an array.
    ListenArrayOffsets {
        buckets: Array = "inet_hashinfo.listening_hash",
        chain: u64 = "inet_listen_hashbucket.nulls_head",
    }
}

offsets! {
    /// Connections that wait to be accepted, or for their handshake's end.
    AcceptOffsets {
        queue: u64 = "inet_connection_sock.icsk_accept_queue.rskq_accept_head",
        next: u64 = "request_sock.dl_next",
        sk: u64 = "request_sock.sk",
        listener: u64 = "request_sock.__req_common.skc_listener",
    }
}

offsets! {
    /// The kernel's tables of UDP sockets.
    UdpTableOffsets {
        buckets: u64 = "udp_table.hash",
        mask: Scalar = "udp_table.mask",
        chain: u64 = "udp_hslot.head",
        link: u64 = "sock.__sk_common.skc_node",
    }
}

offsets! {
    /// Network namespaces, their devices, and IPv4 addresses.
    NetOffsets {
        list: u64 = "net.list",
        inum: u64 = "net.ns.inum",
        dev_base_head: u64 = "net.dev_base_head",
        dev_list: u64 = "net_device.dev_list",
        dev_name: u64 = "net_device.name",
        ip_ptr: u64 = "net_device.ip_ptr",
        ifa_list: u64 = "in_device.ifa_list",
        ifa_next: u64 = "in_ifaddr.ifa_next",
        ifa_local: u64 = "in_ifaddr.ifa_local",
        ifa_prefixlen: u64 = "in_ifaddr.ifa_prefixlen",
    }
}

offsets! {
    /// IPv6 addresses of devices.
    Net6Offsets {
        ip6_ptr: u64 = "net_device.ip6_ptr",
        addr_list: u64 = "inet6_dev.addr_list",
        if_list: u64 = "inet6_ifaddr.if_list",
        addr: u64 = "inet6_ifaddr.addr",
        prefix_len: u64 = "inet6_ifaddr.prefix_len",
    }
}

offsets! {
    /// Who waits on a socket: its queue of what is to be woken.
    SocketWaitOffsets {
        sk_wq: u64 = "sock.sk_wq",
        queue: u64 = "socket_wq.wait.head",
        func: u64 = "wait_queue_entry.func",
        private: u64 = "wait_queue_entry.private",
        entry: u64 = "wait_queue_entry.entry",
    }
}

offsets! {
    /// Calls of poll(2) and select(2) that wait.
    PollOffsets {
        task: u64 = "poll_wqueues.polling_task",
    }
}

offsets! {
    /// From what is to tell an epoll instance to who waits there.
    EpollOffsets {
        wait: u64 = "eppoll_entry.wait",
        base: u64 = "eppoll_entry.base",
        ep: u64 = "epitem.ep",
        /// In epoll_wait(2)…
        wq: u64 = "eventpoll.wq.head",
        /// … and by another poll or epoll.
        poll_wait: u64 = "eventpoll.poll_wait.head",
    }
}

offsets! {
    /// Sockets that no program opened.
    KernelSocketOffsets {
        is_kernels: Scalar = "sock.sk_kern_sock",
    }
}

offsets! {
    /// Files on their way between processes, in messages of Unix sockets.
    FlightOffsets {
        /// A list head, as `struct sk_buff` begins.
        queue: u64 = "sock.sk_receive_queue.next",
        next: u64 = "sk_buff.next",
        sk: u64 = "sk_buff.sk",
        cb: u64 = "sk_buff.cb",
        files: u64 = "unix_skb_parms.fp",
        count: Scalar = "scm_fp_list.count",
        list: Array = "scm_fp_list.fp",
    }
}

offsets! {
    /// Pipes, FIFOs and local sockets: what joins processes of one guest.
    LocalOffsets {
        f_mode: Scalar = "file.f_mode",
        f_path: u64 = "file.f_path" | "file.__f_path",
        i_ino: u64 = "inode.i_ino",
        family: u64 = "sock.__sk_common.skc_family",
        unix_peer: u64 = "unix_sock.peer",
        unix_addr: u64 = "unix_sock.addr",
        addr_len: u64 = "unix_address.len",
        addr_name: u64 = "unix_address.name",
    }
}
