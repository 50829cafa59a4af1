// SPDX-License-Identifier: GPL-3.0-only
//! Offsets of the kernel structures that the engine reads, from the kernel's
//! own BTF.
//!
//! Each group of offsets is one capability: where this kernel lacks a member
//! (a feature compiled out, a structure reshaped by a version this engine does
//! not know) that group is an error that names the member, and the others stay.

use super::btf::{BitField, Btf, BtfError, Member, MissingMember};
use thiserror::Error;

/// Why a group of offsets is not known.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// The kernel's structures differ from what is known.
    #[error(transparent)]
    Missing(#[from] MissingMember),
    /// The kernel was built without BTF (CONFIG_DEBUG_INFO_BTF).
    #[error("this kernel carries no BTF (built without CONFIG_DEBUG_INFO_BTF)")]
    NoBtf,
    /// The kernel's BTF could not be read.
    #[error("this kernel's BTF cannot be read: {0}")]
    Unreadable(String),
}

impl From<BtfError> for LayoutError {
    fn from(error: BtfError) -> Self {
        Self::Unreadable(error.to_string())
    }
}

/// A group of offsets, or why there is none.
pub type Group<T> = Result<T, LayoutError>;

/// Value of one field of an offset structure, from a member's description.
trait FromMember: Sized {
    fn from_member(member: Member) -> Self;
}

impl FromMember for u64 {
    fn from_member(member: Member) -> Self {
        u64::from(member.offset)
    }
}

/// The size of a member in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromMember for Size {
    fn from_member(member: Member) -> Self {
        Self(u64::from(member.size))
    }
}

/// A member that may be a bit-field and whose size differs between kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scalar {
    /// Offset in bytes.
    pub offset: u64,
    /// Size in bytes, 8 at most.
    pub size: u8,
    /// Set if it is a bit-field.
    pub bits: Option<BitField>,
}

impl FromMember for Scalar {
    fn from_member(member: Member) -> Self {
        Self {
            offset: u64::from(member.offset),
            size: member.size.min(8) as u8,
            bits: member.bits,
        }
    }
}

/// An array in a structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Array {
    /// Offset of the first element in bytes.
    pub offset: u64,
    /// Number of elements.
    pub count: u32,
}

impl FromMember for Array {
    fn from_member(member: Member) -> Self {
        Self {
            offset: u64::from(member.offset),
            count: member.count,
        }
    }
}

/// Defines a structure of offsets and how each is found in BTF. Of several
/// paths the first that exists is taken: names that changed between versions.
macro_rules! offsets {
    ($(#[$doc:meta])* $name:ident {
        $($(#[$field_doc:meta])* $field:ident : $ty:ty = $($path:literal)|+ ,)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name {
            $(
                #[doc = concat!("`", $($path, "` ",)+)]
                $(#[$field_doc])*
                pub $field: $ty,
            )*
        }

        impl $name {
            fn resolve(btf: &Btf<'_>) -> Group<Self> {
                Ok(Self {
                    $($field: FromMember::from_member(first(btf, &[$($path),+])?),)*
                })
            }
        }
    };
}

fn first(btf: &Btf<'_>, paths: &[&str]) -> Result<Member, MissingMember> {
    let mut missing = None;
    for path in paths {
        match btf.member(path) {
            Ok(member) => return Ok(member),
            Err(error) => missing = missing.or(Some(error)),
        }
    }
    Err(missing.unwrap_or(MissingMember { path: String::new() }))
}

offsets! {
    /// The core of `struct task_struct`: without it no process is seen.
    TaskOffsets {
        pid: u64 = "task_struct.pid",
        tgid: u64 = "task_struct.tgid",
        comm: u64 = "task_struct.comm",
        flags: u64 = "task_struct.flags",
        tasks: u64 = "task_struct.tasks",
        real_parent: u64 = "task_struct.real_parent",
        group_leader: u64 = "task_struct.group_leader",
        mm: u64 = "task_struct.mm",
        real_cred: u64 = "task_struct.real_cred",
        /// Counts calls of exec.
        self_exec_id: Scalar = "task_struct.self_exec_id",
        /// Nanoseconds since boot, of the thread.
        start_time: u64 = "task_struct.start_boottime" | "task_struct.real_start_time",
    }
}

offsets! {
    /// The threads of a process.
    ThreadOffsets {
        signal: u64 = "task_struct.signal",
        thread_node: u64 = "task_struct.thread_node",
        thread_head: u64 = "signal_struct.thread_head",
    }
}

offsets! {
    /// What the entry code notes of a thread.
    ThreadInfoOffsets {
        status: u64 = "task_struct.thread_info.status",
    }
}

offsets! {
    /// A process that calls exec.
    ExecOffsets {
        in_execve: Scalar = "task_struct.in_execve",
    }
}

offsets! {
    /// What a process leaves behind.
    ExitOffsets {
        exit_code: u64 = "task_struct.exit_code",
        signal: u64 = "task_struct.signal",
        flags: u64 = "signal_struct.flags",
        group_exit_code: u64 = "signal_struct.group_exit_code",
    }
}

offsets! {
    /// Credentials.
    CredOffsets {
        uid: u64 = "cred.uid",
        euid: u64 = "cred.euid",
        suid: u64 = "cred.suid",
        fsuid: u64 = "cred.fsuid",
        gid: u64 = "cred.gid",
        egid: u64 = "cred.egid",
        sgid: u64 = "cred.sgid",
        fsgid: u64 = "cred.fsgid",
    }
}

offsets! {
    /// Sets of capabilities, 64 bits each.
    CapabilityOffsets {
        inheritable: u64 = "cred.cap_inheritable",
        permitted: u64 = "cred.cap_permitted",
        effective: u64 = "cred.cap_effective",
        bounding: u64 = "cred.cap_bset",
        ambient: u64 = "cred.cap_ambient",
    }
}

offsets! {
    /// Supplementary groups.
    GroupOffsets {
        group_info: u64 = "cred.group_info",
        count: u64 = "group_info.ngroups",
        ids: u64 = "group_info.gid",
    }
}

offsets! {
    /// The user namespace.
    UserNamespaceOffsets {
        user_ns: u64 = "cred.user_ns",
        inum: u64 = "user_namespace.ns.inum",
    }
}

offsets! {
    /// The audit session.
    AuditOffsets {
        loginuid: u64 = "task_struct.loginuid",
    }
}

offsets! {
    /// A process's memory: arguments and page tables.
    ArgsOffsets {
        arg_start: u64 = "mm_struct.arg_start",
        arg_end: u64 = "mm_struct.arg_end",
        env_start: u64 = "mm_struct.env_start",
        env_end: u64 = "mm_struct.env_end",
        pgd: u64 = "mm_struct.pgd",
    }
}

offsets! {
    /// From a process to its executable's path and its root directory.
    ExeOffsets {
        exe_file: u64 = "mm_struct.exe_file",
        f_path: u64 = "file.f_path" | "file.__f_path",
        fs: u64 = "task_struct.fs",
        root: u64 = "fs_struct.root",
    }
}

offsets! {
    /// Paths: directory entries and mounts.
    PathOffsets {
        path_mnt: u64 = "path.mnt",
        path_dentry: u64 = "path.dentry",
        d_parent: u64 = "dentry.d_parent",
        name: u64 = "dentry.d_name.name",
        name_len: u64 = "dentry.d_name.len",
        /// Null once the entry is unhashed, that is deleted.
        hash_pprev: u64 = "dentry.d_hash.pprev",
        /// `struct vfsmount` inside `struct mount`.
        mnt: u64 = "mount.mnt",
        mnt_parent: u64 = "mount.mnt_parent",
        mnt_mountpoint: u64 = "mount.mnt_mountpoint",
        mnt_root: u64 = "vfsmount.mnt_root",
    }
}

offsets! {
    /// Network and mount namespaces.
    NamespaceOffsets {
        nsproxy: u64 = "task_struct.nsproxy",
        net_ns: u64 = "nsproxy.net_ns",
        mnt_ns: u64 = "nsproxy.mnt_ns",
        net_inum: u64 = "net.ns.inum",
        mnt_inum: u64 = "mnt_namespace.ns.inum",
    }
}

offsets! {
    /// The PID namespace.
    PidNamespaceOffsets {
        thread_pid: u64 = "task_struct.thread_pid",
        level: u64 = "pid.level",
        numbers: u64 = "pid.numbers",
        upid_nr: u64 = "upid.nr",
        upid_ns: u64 = "upid.ns",
        inum: u64 = "pid_namespace.ns.inum",
    }
}

offsets! {
    /// Control groups, for the name of a container.
    CgroupOffsets {
        cgroups: u64 = "task_struct.cgroups",
        dfl_cgrp: u64 = "css_set.dfl_cgrp",
        subsys: Array = "css_set.subsys",
        css_cgroup: u64 = "cgroup_subsys_state.cgroup",
        kn: u64 = "cgroup.kn",
        kn_name: u64 = "kernfs_node.name",
        kn_parent: u64 = "kernfs_node.parent" | "kernfs_node.__parent",
    }
}

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
    /// Other ways to a task than the list of all processes: what a rootkit that
    /// takes a task off that list must also think of.
    KinshipOffsets {
        children: u64 = "task_struct.children",
        sibling: u64 = "task_struct.sibling",
        exit_state: u64 = "task_struct.exit_state",
    }
}

offsets! {
    /// The table of PIDs: an XArray of `struct pid`, each with its tasks.
    PidTableOffsets {
        /// From a PID namespace.
        xa_head: u64 = "pid_namespace.idr.idr_rt.xa_head",
        /// Of a node: how many low bits of the index lie below it.
        node_shift: u64 = "xa_node.shift",
        node_slots: Array = "xa_node.slots",
        /// A list head for each kind of PID; the first kind is the thread's own.
        pid_tasks: u64 = "pid.tasks",
        pid_links: u64 = "task_struct.pid_links",
    }
}

offsets! {
    /// Run queues: what runs, and what waits for a CPU.
    RunQueueOffsets {
        curr: u64 = "rq.curr",
        idle: u64 = "rq.idle",
        cfs_tasks: u64 = "rq.cfs_tasks",
        group_node: u64 = "task_struct.se.group_node",
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
    /// Loaded modules: their list, their objects in sysfs, the tree of their
    /// addresses.
    ModuleOffsets {
        list: u64 = "module.list",
        name: u64 = "module.name",
        state: u64 = "module.state",
        kset_list: u64 = "kset.list",
        kobj_entry: u64 = "kobject.entry",
        mkobj_kobj: u64 = "module_kobject.kobj",
        mkobj_mod: u64 = "module_kobject.mod",
        tree: u64 = "mod_tree_root.root.tree",
        mtn_mod: u64 = "mod_tree_node.mod",
        mtn_node: u64 = "mod_tree_node.node",
        rb_right: u64 = "rb_node.rb_right",
        rb_left: u64 = "rb_node.rb_left",
    }
}

/// Where a module says which memory is its own: one area up to 6.3, an array of
/// them since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModuleMemory {
    /// Offset of the first area in `struct module`.
    pub first: u64,
    /// Bytes from one area to the next.
    pub stride: u64,
    /// Number of areas.
    pub count: u32,
    /// Offset of the area's address in it.
    pub base: u64,
    /// Offset of its length in bytes, 32 bits wide.
    pub size: u64,
}

impl ModuleMemory {
    fn resolve(btf: &Btf<'_>) -> Group<Self> {
        let (areas, kind) = match btf.member("module.mem") {
            Ok(areas) => (areas, "module_memory"),
            Err(_) => (btf.member("module.core_layout")?, "module_layout"),
        };
        let of = |member: &str| btf.member(&format!("{kind}.{member}"));
        Ok(Self {
            first: u64::from(areas.offset),
            stride: u64::from(areas.size / areas.count.max(1)),
            count: areas.count,
            base: u64::from(of("base")?.offset),
            size: u64::from(of("size")?.offset),
        })
    }
}

offsets! {
    /// Symbols of code that BPF made: programs, trampolines, dispatchers.
    BpfSymbolOffsets {
        lnode: u64 = "bpf_ksym.lnode",
        start: u64 = "bpf_ksym.start",
        end: u64 = "bpf_ksym.end",
        name: u64 = "bpf_ksym.name",
    }
}

offsets! {
    /// ftrace: the places it may patch, and who asked for it.
    FtraceOffsets {
        page_next: u64 = "ftrace_page.next",
        page_records: u64 = "ftrace_page.records",
        page_index: u64 = "ftrace_page.index",
        ip: u64 = "dyn_ftrace.ip",
        ops_func: u64 = "ftrace_ops.func",
        ops_next: u64 = "ftrace_ops.next",
        ops_trampoline: u64 = "ftrace_ops.trampoline",
        ops_trampoline_size: u64 = "ftrace_ops.trampoline_size",
    }
}

offsets! {
    /// Kernel probes.
    KprobeOffsets {
        hlist: u64 = "kprobe.hlist",
        addr: u64 = "kprobe.addr",
        pre_handler: u64 = "kprobe.pre_handler",
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

/// Every offset the engine uses, by capability.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The core of a task.
    pub task: Group<TaskOffsets>,
    /// Threads of a process.
    pub thread: Group<ThreadOffsets>,
    /// Which ABI a thread's system call is of.
    pub thread_info: Group<ThreadInfoOffsets>,
    /// Calls of exec under way.
    pub exec: Group<ExecOffsets>,
    /// Exit statuses.
    pub exit: Group<ExitOffsets>,
    /// Credentials.
    pub cred: Group<CredOffsets>,
    /// Sets of capabilities.
    pub capability: Group<CapabilityOffsets>,
    /// Supplementary groups.
    pub groups: Group<GroupOffsets>,
    /// User namespace.
    pub user_namespace: Group<UserNamespaceOffsets>,
    /// Login session.
    pub audit: Group<AuditOffsets>,
    /// Arguments and page tables.
    pub args: Group<ArgsOffsets>,
    /// Executable and root directory.
    pub exe: Group<ExeOffsets>,
    /// Paths.
    pub path: Group<PathOffsets>,
    /// Network and mount namespaces.
    pub namespace: Group<NamespaceOffsets>,
    /// PID namespace.
    pub pid_namespace: Group<PidNamespaceOffsets>,
    /// Size in bytes of `struct upid`.
    pub upid_size: Group<u64>,
    /// Control groups.
    pub cgroup: Group<CgroupOffsets>,
    /// Open files.
    pub file: Group<FileOffsets>,
    /// Sockets.
    pub sock: Group<SockOffsets>,
    /// Sockets over IPv6.
    pub sock6: Group<Sock6Offsets>,
    /// Inodes of sockets.
    pub socket_inode: Group<SocketInodeOffsets>,
    /// Table of TCP sockets.
    pub tcp_table: Group<TcpTableOffsets>,
    /// Size in bytes of a bucket of it.
    pub tcp_bucket: Group<u64>,
    /// Listening TCP sockets, as a table.
    pub listen_table: Group<ListenTableOffsets>,
    /// Listening TCP sockets, as an array.
    pub listen_array: Group<ListenArrayOffsets>,
    /// Size in bytes of a bucket of either.
    pub listen_bucket: Group<u64>,
    /// Connections that nobody has accepted yet.
    pub accept: Group<AcceptOffsets>,
    /// Table of UDP sockets.
    pub udp_table: Group<UdpTableOffsets>,
    /// Size in bytes of a bucket of it.
    pub udp_bucket: Group<u64>,
    /// A network namespace's own tables of TCP, in kernels from 6.1 on.
    pub net_tcp_tables: Group<u64>,
    /// A network namespace's own table of UDP, in kernels from 6.2 on.
    pub net_udp_table: Group<u64>,
    /// What a network namespace mixes into the hashes of its sockets.
    pub net_hash_mix: Group<u64>,
    /// Network namespaces, devices and IPv4 addresses.
    pub net: Group<NetOffsets>,
    /// IPv6 addresses.
    pub net6: Group<Net6Offsets>,
    /// Pipes and local sockets.
    pub local: Group<LocalOffsets>,
    /// Parents and children.
    pub kinship: Group<KinshipOffsets>,
    /// The table of PIDs.
    pub pid_table: Group<PidTableOffsets>,
    /// Run queues.
    pub run_queue: Group<RunQueueOffsets>,
    /// Who waits on a socket.
    pub socket_wait: Group<SocketWaitOffsets>,
    /// Who waits by poll.
    pub poll: Group<PollOffsets>,
    /// Who waits by epoll.
    pub epoll: Group<EpollOffsets>,
    /// The kernel's own sockets.
    pub kernel_socket: Group<KernelSocketOffsets>,
    /// Files on their way between processes.
    pub flight: Group<FlightOffsets>,
    /// Loaded modules.
    pub module: Group<ModuleOffsets>,
    /// Memory of loaded modules.
    pub module_memory: Group<ModuleMemory>,
    /// Symbols of BPF's code.
    pub bpf_symbol: Group<BpfSymbolOffsets>,
    /// ftrace.
    pub ftrace: Group<FtraceOffsets>,
    /// Size in bytes of `struct dyn_ftrace`.
    pub dyn_ftrace_size: Group<u64>,
    /// Kernel probes.
    pub kprobe: Group<KprobeOffsets>,
    /// `pcpu_hot.current_task`, in kernels from 6.2 to 6.14.
    pub pcpu_hot_current: Group<u64>,
}

impl Layout {
    /// Looks every offset up.
    pub fn from_btf(btf: &Btf<'_>) -> Self {
        let size = |name: &str| {
            btf.size_of(name).map(u64::from).ok_or_else(|| {
                LayoutError::Missing(MissingMember {
                    path: name.to_owned(),
                })
            })
        };
        let member = |path: &str| {
            btf.member(path)
                .map(|member| u64::from(member.offset))
                .map_err(LayoutError::from)
        };
        Self {
            task: TaskOffsets::resolve(btf),
            thread: ThreadOffsets::resolve(btf),
            thread_info: ThreadInfoOffsets::resolve(btf),
            exec: ExecOffsets::resolve(btf),
            exit: ExitOffsets::resolve(btf),
            cred: CredOffsets::resolve(btf),
            capability: CapabilityOffsets::resolve(btf),
            groups: GroupOffsets::resolve(btf),
            user_namespace: UserNamespaceOffsets::resolve(btf),
            audit: AuditOffsets::resolve(btf),
            args: ArgsOffsets::resolve(btf),
            exe: ExeOffsets::resolve(btf),
            path: PathOffsets::resolve(btf),
            namespace: NamespaceOffsets::resolve(btf),
            pid_namespace: PidNamespaceOffsets::resolve(btf),
            upid_size: size("upid"),
            cgroup: CgroupOffsets::resolve(btf),
            file: FileOffsets::resolve(btf),
            sock: SockOffsets::resolve(btf),
            sock6: Sock6Offsets::resolve(btf),
            socket_inode: SocketInodeOffsets::resolve(btf),
            tcp_table: TcpTableOffsets::resolve(btf),
            tcp_bucket: size("inet_ehash_bucket"),
            listen_table: ListenTableOffsets::resolve(btf),
            listen_array: ListenArrayOffsets::resolve(btf),
            listen_bucket: size("inet_listen_hashbucket"),
            accept: AcceptOffsets::resolve(btf),
            udp_table: UdpTableOffsets::resolve(btf),
            udp_bucket: size("udp_hslot"),
            net_tcp_tables: member("net.ipv4.tcp_death_row.hashinfo"),
            net_udp_table: member("net.ipv4.udp_table"),
            net_hash_mix: member("net.hash_mix"),
            net: NetOffsets::resolve(btf),
            net6: Net6Offsets::resolve(btf),
            local: LocalOffsets::resolve(btf),
            kinship: KinshipOffsets::resolve(btf),
            pid_table: PidTableOffsets::resolve(btf),
            run_queue: RunQueueOffsets::resolve(btf),
            socket_wait: SocketWaitOffsets::resolve(btf),
            poll: PollOffsets::resolve(btf),
            epoll: EpollOffsets::resolve(btf),
            kernel_socket: KernelSocketOffsets::resolve(btf),
            flight: FlightOffsets::resolve(btf),
            module: ModuleOffsets::resolve(btf),
            module_memory: ModuleMemory::resolve(btf),
            bpf_symbol: BpfSymbolOffsets::resolve(btf),
            ftrace: FtraceOffsets::resolve(btf),
            dyn_ftrace_size: size("dyn_ftrace"),
            kprobe: KprobeOffsets::resolve(btf),
            pcpu_hot_current: member("pcpu_hot.current_task"),
        }
    }

    /// A layout without any offset, all for the same reason.
    pub fn absent(why: &LayoutError) -> Self {
        fn no<T>(why: &LayoutError) -> Group<T> {
            Err(why.clone())
        }
        Self {
            task: no(why),
            thread: no(why),
            thread_info: no(why),
            exec: no(why),
            exit: no(why),
            cred: no(why),
            capability: no(why),
            groups: no(why),
            user_namespace: no(why),
            audit: no(why),
            args: no(why),
            exe: no(why),
            path: no(why),
            namespace: no(why),
            pid_namespace: no(why),
            upid_size: no(why),
            cgroup: no(why),
            file: no(why),
            sock: no(why),
            sock6: no(why),
            socket_inode: no(why),
            tcp_table: no(why),
            tcp_bucket: no(why),
            listen_table: no(why),
            listen_array: no(why),
            listen_bucket: no(why),
            accept: no(why),
            udp_table: no(why),
            udp_bucket: no(why),
            net_tcp_tables: no(why),
            net_udp_table: no(why),
            net_hash_mix: no(why),
            net: no(why),
            net6: no(why),
            local: no(why),
            kinship: no(why),
            pid_table: no(why),
            run_queue: no(why),
            socket_wait: no(why),
            poll: no(why),
            epoll: no(why),
            kernel_socket: no(why),
            flight: no(why),
            module: no(why),
            module_memory: no(why),
            bpf_symbol: no(why),
            ftrace: no(why),
            dyn_ftrace_size: no(why),
            kprobe: no(why),
            pcpu_hot_current: no(why),
        }
    }

    /// Whether processes can be told: without that a guest is seen by its name and ports alone.
    ///
    /// # Errors
    /// What is missing.
    pub fn sees_processes(&self) -> Group<()> {
        self.task.clone().and(self.cred.clone()).map(drop)
    }

    /// Whether sockets can be read.
    ///
    /// # Errors
    /// What is missing.
    pub fn sees_sockets(&self) -> Group<()> {
        self.sees_processes().and(self.sock.clone()).map(drop)
    }

    /// What this kernel lacks, one line each: the capability and why. Empty if
    /// everything is understood. What only some kernels have is left out:
    /// `pcpu_hot`, and tables of a network namespace's own; and what only
    /// makes lookups faster.
    pub fn gaps(&self) -> Vec<(&'static str, LayoutError)> {
        fn gap<T>(name: &'static str, group: &Group<T>) -> Option<(&'static str, LayoutError)> {
            group.as_ref().err().map(|why| (name, why.clone()))
        }
        let listeners = match &self.listen_array {
            Ok(_) => None,
            Err(_) => gap("table of listening sockets", &self.listen_table),
        };
        [
            gap("tasks", &self.task),
            gap("threads", &self.thread),
            gap("ABI of system calls", &self.thread_info),
            gap("calls of exec", &self.exec),
            gap("exit statuses", &self.exit),
            gap("credentials", &self.cred),
            gap("capabilities", &self.capability),
            gap("supplementary groups", &self.groups),
            gap("user namespace", &self.user_namespace),
            gap("login user", &self.audit),
            gap("arguments", &self.args),
            gap("executable", &self.exe),
            gap("paths", &self.path),
            gap("namespaces", &self.namespace),
            gap("PID namespace", &self.pid_namespace),
            gap("PID namespace", &self.upid_size),
            gap("containers", &self.cgroup),
            gap("open files", &self.file),
            gap("sockets", &self.sock),
            gap("IPv6 sockets", &self.sock6),
            gap("inodes of sockets", &self.socket_inode),
            gap("table of TCP sockets", &self.tcp_table),
            gap("table of TCP sockets", &self.tcp_bucket),
            listeners,
            gap("table of listening sockets", &self.listen_bucket),
            gap("connections not accepted yet", &self.accept),
            gap("table of UDP sockets", &self.udp_table),
            gap("table of UDP sockets", &self.udp_bucket),
            gap("interface addresses", &self.net),
            gap("IPv6 interface addresses", &self.net6),
            gap("pipes and local sockets", &self.local),
            gap("parents and children", &self.kinship),
            gap("the table of PIDs", &self.pid_table),
            gap("run queues", &self.run_queue),
            gap("who waits on sockets", &self.socket_wait),
            gap("who waits by poll", &self.poll),
            gap("who waits by epoll", &self.epoll),
            gap("the kernel's own sockets", &self.kernel_socket),
            gap("files on their way between processes", &self.flight),
            gap("modules", &self.module),
            gap("modules' memory", &self.module_memory),
            gap("BPF's code", &self.bpf_symbol),
            gap("ftrace", &self.ftrace),
            gap("ftrace", &self.dyn_ftrace_size),
            gap("kernel probes", &self.kprobe),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}
