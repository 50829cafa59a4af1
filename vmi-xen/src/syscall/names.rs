// SPDX-License-Identifier: GPL-3.0-only
//! Numbers that have names: flags, commands, families.
//!
//! The values are those of Linux's uapi headers for x86-64, taken from the libc
//! crate where it has them; i386 has the same ones in everything that is listed
//! here. The order of flags is that in which strace shows them.

use std::fmt::Write;

/// A set of names.
#[derive(Debug)]
pub struct Names {
    /// What a number without a name is called in a comment.
    pub unknown: &'static str,
    /// Names and values; of two with one value the first counts.
    pub names: &'static [(&'static str, u64)],
}

impl Names {
    /// Name of exactly this value.
    pub fn name(&self, value: u64) -> Option<&'static str> {
        self.names
            .iter()
            .find(|(_, known)| *known == value)
            .map(|(name, _)| *name)
    }

    /// Appends the name of a value that is one of the set.
    pub fn one(&self, out: &mut String, value: u64) {
        match self.name(value) {
            Some(name) => out.push_str(name),
            // Writing to a string does not fail; neither does it below.
            None => drop(write!(out, "{value:#x} /* {} */", self.unknown)),
        }
    }

    /// Appends the flags that a value is made of, joined by `|`.
    pub fn flags(&self, out: &mut String, value: u64) {
        if value == 0 {
            out.push_str(self.name(0).unwrap_or("0"));
            return;
        }
        let start = out.len();
        let rest = self.known(out, value);
        if rest != 0 {
            let nothing_known = out.len() == start;
            separate(out, start);
            let _ = write!(out, "{rest:#x}");
            if nothing_known {
                let _ = write!(out, " /* {} */", self.unknown);
            }
        }
    }

    /// Appends the names of the flags in `value` and returns the bits that have
    /// none.
    fn known(&self, out: &mut String, value: u64) -> u64 {
        let start = out.len();
        let mut rest = value;
        for &(name, flag) in self.names {
            if flag != 0 && rest & flag == flag {
                separate(out, start);
                out.push_str(name);
                rest &= !flag;
            }
        }
        rest
    }
}

fn separate(out: &mut String, start: usize) {
    if out.len() > start {
        out.push('|');
    }
}

/// Appends flags of which the low bits are a number of their own: that one's
/// name first.
pub fn mixed(out: &mut String, value: u64, mask: u64, kinds: &Names, flags: &Names) {
    kinds.one(out, value & mask);
    if value & !mask != 0 {
        out.push('|');
        flags.flags(out, value & !mask);
    }
}

/// A row of names: `NAME` has the libc crate's value, `NAME = value` its own.
macro_rules! names {
    ($(#[$doc:meta])* $set:ident, $unknown:literal: $($name:ident $(= $value:expr)?),+ $(,)?) => {
        $(#[$doc])*
        pub static $set: Names = Names {
            unknown: $unknown,
            names: &[$((stringify!($name), names!(@ $name $($value)?))),+],
        };
    };
    (@ $name:ident) => { libc::$name as u32 as u64 };
    (@ $name:ident $value:expr) => { $value };
}

names!(/// Access modes of open(2).
    ACCESS_MODE, "O_???": O_RDONLY, O_WRONLY, O_RDWR, O_ACCMODE);
names!(/// Flags of open(2) above the access mode.
    OPEN, "O_???": O_CREAT, O_EXCL, O_NOCTTY, O_TRUNC, O_APPEND, O_NONBLOCK, O_SYNC, O_ASYNC, O_DSYNC, O_DIRECT,
    O_LARGEFILE = 0o100_000, O_NOFOLLOW, O_NOATIME, O_CLOEXEC, O_PATH, O_TMPFILE, O_DIRECTORY);
names!(/// Special directory of the *at calls.
    AT_DIR, "AT_???": AT_FDCWD = 0xffff_ff9c);
names!(/// Flags of the *at calls. Value 0x200 differs by call: see [`UNLINKAT`] and [`FACCESSAT`].
    AT, "AT_???": AT_SYMLINK_NOFOLLOW, AT_SYMLINK_FOLLOW, AT_NO_AUTOMOUNT, AT_EMPTY_PATH, AT_RECURSIVE);
names!(/// Flags of unlinkat(2).
    UNLINKAT, "AT_???": AT_REMOVEDIR);
names!(/// Flags of faccessat2(2).
    FACCESSAT, "AT_???": AT_SYMLINK_NOFOLLOW, AT_EACCESS, AT_EMPTY_PATH);
names!(/// Flags of statx(2).
    STATX_FLAGS, "AT_???": AT_STATX_SYNC_AS_STAT = 0, AT_STATX_FORCE_SYNC, AT_STATX_DONT_SYNC, AT_SYMLINK_NOFOLLOW,
    AT_SYMLINK_FOLLOW, AT_NO_AUTOMOUNT, AT_EMPTY_PATH, AT_RECURSIVE);
names!(/// Fields asked of statx(2).
    STATX_MASK, "STATX_???": STATX_ALL = 0xfff, STATX_BASIC_STATS = 0x7ff, STATX_TYPE, STATX_MODE, STATX_NLINK,
    STATX_UID, STATX_GID, STATX_ATIME, STATX_MTIME, STATX_CTIME, STATX_INO, STATX_SIZE, STATX_BLOCKS, STATX_BTIME,
    STATX_MNT_ID = 0x1000, STATX_DIOALIGN = 0x2000);
names!(/// Rights asked of access(2).
    ACCESS, "?_OK": F_OK, R_OK, W_OK, X_OK);
names!(/// Origins of lseek(2).
    WHENCE, "SEEK_???": SEEK_SET, SEEK_CUR, SEEK_END, SEEK_DATA, SEEK_HOLE);
names!(/// Protections of memory.
    PROT, "PROT_???": PROT_NONE, PROT_READ, PROT_WRITE, PROT_EXEC, PROT_SEM = 8, PROT_GROWSDOWN, PROT_GROWSUP);
names!(/// Kinds of mapping, the low four bits of mmap(2)'s flags.
    MAP_KIND, "MAP_???": MAP_FILE, MAP_SHARED, MAP_PRIVATE, MAP_SHARED_VALIDATE);
names!(/// Flags of mmap(2).
    MAP, "MAP_???": MAP_FIXED, MAP_ANONYMOUS, MAP_32BIT, MAP_NORESERVE, MAP_POPULATE, MAP_NONBLOCK, MAP_GROWSDOWN,
    MAP_DENYWRITE, MAP_EXECUTABLE, MAP_LOCKED, MAP_STACK, MAP_HUGETLB, MAP_SYNC, MAP_FIXED_NOREPLACE);
names!(/// Flags of mremap(2).
    MREMAP, "MREMAP_???": MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP = 4);
names!(/// Flags of msync(2).
    MSYNC, "MS_???": MS_ASYNC, MS_INVALIDATE, MS_SYNC);
names!(/// Flags of mlockall(2).
    MLOCKALL, "MCL_???": MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT);
names!(/// Advice on memory.
    MADVICE, "MADV_???": MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_DONTNEED, MADV_FREE,
    MADV_REMOVE, MADV_DONTFORK, MADV_DOFORK, MADV_MERGEABLE, MADV_UNMERGEABLE, MADV_HUGEPAGE, MADV_NOHUGEPAGE,
    MADV_DONTDUMP, MADV_DODUMP, MADV_WIPEONFORK, MADV_KEEPONFORK, MADV_COLD, MADV_PAGEOUT, MADV_POPULATE_READ,
    MADV_POPULATE_WRITE, MADV_DONTNEED_LOCKED = 24, MADV_COLLAPSE = 25, MADV_HWPOISON, MADV_SOFT_OFFLINE);
names!(/// Advice on files.
    FADVICE, "POSIX_FADV_???": POSIX_FADV_NORMAL, POSIX_FADV_RANDOM, POSIX_FADV_SEQUENTIAL, POSIX_FADV_WILLNEED,
    POSIX_FADV_DONTNEED, POSIX_FADV_NOREUSE);
names!(/// Address families.
    FAMILY, "AF_???": AF_UNSPEC, AF_UNIX, AF_INET, AF_AX25, AF_IPX, AF_APPLETALK, AF_NETROM, AF_BRIDGE, AF_ATMPVC,
    AF_X25, AF_INET6, AF_ROSE, AF_DECnet, AF_NETBEUI, AF_SECURITY, AF_KEY, AF_NETLINK, AF_PACKET, AF_ASH, AF_ECONET,
    AF_ATMSVC, AF_RDS, AF_SNA, AF_IRDA, AF_PPPOX, AF_WANPIPE, AF_LLC, AF_IB, AF_MPLS, AF_CAN, AF_TIPC, AF_BLUETOOTH,
    AF_IUCV, AF_RXRPC, AF_ISDN, AF_PHONET, AF_IEEE802154, AF_CAIF, AF_ALG, AF_NFC, AF_VSOCK, AF_KCM = 41,
    AF_QIPCRTR = 42, AF_SMC = 43, AF_XDP, AF_MCTP = 45);
names!(/// Types of socket, the low four bits of socket(2)'s type.
    SOCK, "SOCK_???": SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_RDM, SOCK_SEQPACKET, SOCK_DCCP,
    SOCK_PACKET = 10);
names!(/// Flags of a socket's type and of accept4(2).
    SOCK_FLAGS, "SOCK_???": SOCK_CLOEXEC, SOCK_NONBLOCK);
names!(/// Protocols over IP.
    IPPROTO, "IPPROTO_???": IPPROTO_IP, IPPROTO_ICMP, IPPROTO_IGMP, IPPROTO_IPIP, IPPROTO_TCP, IPPROTO_EGP,
    IPPROTO_PUP, IPPROTO_UDP, IPPROTO_IDP, IPPROTO_TP, IPPROTO_DCCP, IPPROTO_IPV6, IPPROTO_RSVP, IPPROTO_GRE,
    IPPROTO_ESP, IPPROTO_AH, IPPROTO_ICMPV6, IPPROTO_MTP, IPPROTO_BEETPH, IPPROTO_ENCAP, IPPROTO_PIM, IPPROTO_COMP,
    IPPROTO_L2TP = 115, IPPROTO_SCTP, IPPROTO_UDPLITE, IPPROTO_MPLS, IPPROTO_ETHERNET = 143, IPPROTO_RAW,
    IPPROTO_MPTCP);
names!(/// Protocols of netlink.
    NETLINK, "NETLINK_???": NETLINK_ROUTE, NETLINK_UNUSED, NETLINK_USERSOCK, NETLINK_FIREWALL, NETLINK_SOCK_DIAG,
    NETLINK_NFLOG, NETLINK_XFRM, NETLINK_SELINUX, NETLINK_ISCSI, NETLINK_AUDIT, NETLINK_FIB_LOOKUP,
    NETLINK_CONNECTOR, NETLINK_NETFILTER, NETLINK_IP6_FW, NETLINK_DNRTMSG, NETLINK_KOBJECT_UEVENT, NETLINK_GENERIC,
    NETLINK_SCSITRANSPORT, NETLINK_ECRYPTFS, NETLINK_RDMA, NETLINK_CRYPTO);
names!(/// Flags of sending and receiving.
    MSG, "MSG_???": MSG_OOB, MSG_PEEK, MSG_DONTROUTE, MSG_CTRUNC, MSG_PROBE = 0x10, MSG_TRUNC, MSG_DONTWAIT, MSG_EOR,
    MSG_WAITALL, MSG_FIN, MSG_SYN, MSG_CONFIRM, MSG_RST, MSG_ERRQUEUE, MSG_NOSIGNAL, MSG_MORE, MSG_WAITFORONE,
    MSG_BATCH = 0x4_0000, MSG_FASTOPEN, MSG_CMSG_CLOEXEC);
names!(/// Directions of shutdown(2).
    SHUT, "SHUT_???": SHUT_RD, SHUT_WR, SHUT_RDWR);
names!(/// Levels of socket options.
    SOL, "SOL_???": SOL_IP = 0, SOL_SOCKET, SOL_TCP, SOL_UDP, SOL_IPV6, SOL_ICMPV6, SOL_SCTP = 132, SOL_RAW,
    SOL_PACKET, SOL_NETLINK, SOL_ALG, SOL_TLS, SOL_XDP);
names!(/// Options at SOL_SOCKET.
    SO, "SO_???": SO_DEBUG, SO_REUSEADDR, SO_TYPE, SO_ERROR, SO_DONTROUTE, SO_BROADCAST, SO_SNDBUF, SO_RCVBUF,
    SO_KEEPALIVE, SO_OOBINLINE, SO_NO_CHECK, SO_PRIORITY, SO_LINGER, SO_BSDCOMPAT, SO_REUSEPORT, SO_PASSCRED,
    SO_PEERCRED, SO_RCVLOWAT, SO_SNDLOWAT, SO_RCVTIMEO_OLD = 20, SO_SNDTIMEO_OLD = 21, SO_BINDTODEVICE,
    SO_ATTACH_FILTER, SO_DETACH_FILTER, SO_PEERNAME, SO_TIMESTAMP_OLD = 29, SO_ACCEPTCONN, SO_PEERSEC,
    SO_SNDBUFFORCE, SO_RCVBUFFORCE, SO_PASSSEC, SO_TIMESTAMPNS_OLD = 35, SO_MARK, SO_TIMESTAMPING_OLD = 37,
    SO_PROTOCOL, SO_DOMAIN, SO_RXQ_OVFL, SO_WIFI_STATUS, SO_PEEK_OFF, SO_NOFCS, SO_LOCK_FILTER, SO_SELECT_ERR_QUEUE,
    SO_BUSY_POLL, SO_MAX_PACING_RATE, SO_BPF_EXTENSIONS, SO_INCOMING_CPU, SO_ATTACH_BPF, SO_ATTACH_REUSEPORT_CBPF = 51,
    SO_ATTACH_REUSEPORT_EBPF = 52, SO_CNX_ADVICE = 53, SO_MEMINFO = 55, SO_INCOMING_NAPI_ID = 56, SO_COOKIE = 57,
    SO_PEERGROUPS = 59, SO_ZEROCOPY = 60, SO_TXTIME = 61, SO_BINDTOIFINDEX = 62, SO_DETACH_REUSEPORT_BPF = 68,
    SO_PREFER_BUSY_POLL = 69, SO_BUSY_POLL_BUDGET = 70, SO_NETNS_COOKIE = 71, SO_BUF_LOCK = 72,
    SO_RESERVE_MEM = 73, SO_TXREHASH = 74, SO_RCVMARK = 75, SO_PASSPIDFD = 76, SO_PEERPIDFD = 77);
names!(/// Options at SOL_TCP.
    TCP, "TCP_???": TCP_NODELAY, TCP_MAXSEG, TCP_CORK, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_SYNCNT,
    TCP_LINGER2, TCP_DEFER_ACCEPT, TCP_WINDOW_CLAMP, TCP_INFO, TCP_QUICKACK, TCP_CONGESTION, TCP_MD5SIG,
    TCP_THIN_LINEAR_TIMEOUTS = 16, TCP_THIN_DUPACK = 17, TCP_USER_TIMEOUT, TCP_REPAIR, TCP_REPAIR_QUEUE,
    TCP_QUEUE_SEQ, TCP_REPAIR_OPTIONS, TCP_FASTOPEN, TCP_TIMESTAMP, TCP_NOTSENT_LOWAT = 25, TCP_CC_INFO = 26,
    TCP_SAVE_SYN = 27, TCP_SAVED_SYN = 28, TCP_REPAIR_WINDOW = 29, TCP_FASTOPEN_CONNECT = 30, TCP_ULP = 31,
    TCP_MD5SIG_EXT = 32, TCP_FASTOPEN_KEY = 33, TCP_FASTOPEN_NO_COOKIE = 34, TCP_ZEROCOPY_RECEIVE = 35,
    TCP_INQ = 36, TCP_TX_DELAY = 37);
names!(/// Options at SOL_IP.
    IP, "IP_???": IP_TOS, IP_TTL, IP_HDRINCL, IP_OPTIONS, IP_ROUTER_ALERT, IP_RECVOPTS, IP_RETOPTS, IP_PKTINFO,
    IP_PKTOPTIONS, IP_MTU_DISCOVER, IP_RECVERR, IP_RECVTTL, IP_RECVTOS, IP_MTU = 14, IP_FREEBIND, IP_IPSEC_POLICY,
    IP_XFRM_POLICY, IP_PASSSEC, IP_TRANSPARENT, IP_ORIGDSTADDR, IP_MINTTL, IP_NODEFRAG, IP_CHECKSUM = 23,
    IP_BIND_ADDRESS_NO_PORT, IP_RECVFRAGSIZE = 25, IP_MULTICAST_IF, IP_MULTICAST_TTL, IP_MULTICAST_LOOP,
    IP_ADD_MEMBERSHIP, IP_DROP_MEMBERSHIP, IP_UNICAST_IF);
names!(/// Options at SOL_IPV6.
    IPV6, "IPV6_???": IPV6_UNICAST_HOPS, IPV6_MULTICAST_IF, IPV6_MULTICAST_HOPS, IPV6_MULTICAST_LOOP,
    IPV6_ADD_MEMBERSHIP, IPV6_DROP_MEMBERSHIP, IPV6_MTU_DISCOVER, IPV6_MTU, IPV6_RECVERR, IPV6_V6ONLY,
    IPV6_RECVPKTINFO, IPV6_PKTINFO, IPV6_RECVHOPLIMIT, IPV6_HOPLIMIT, IPV6_RECVTCLASS, IPV6_TCLASS,
    IPV6_TRANSPARENT = 75, IPV6_FREEBIND = 78);
names!(/// Options at SOL_NETLINK.
    NETLINK_OPTION, "NETLINK_???": NETLINK_ADD_MEMBERSHIP, NETLINK_DROP_MEMBERSHIP, NETLINK_PKTINFO,
    NETLINK_BROADCAST_ERROR, NETLINK_NO_ENOBUFS, NETLINK_RX_RING, NETLINK_TX_RING, NETLINK_LISTEN_ALL_NSID,
    NETLINK_LIST_MEMBERSHIPS, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK);
names!(/// Flags of clone(2), above the signal in the low eight bits.
    CLONE, "CLONE_???": CLONE_VM, CLONE_FS, CLONE_FILES, CLONE_SIGHAND, CLONE_PIDFD, CLONE_PTRACE, CLONE_VFORK,
    CLONE_PARENT, CLONE_THREAD, CLONE_NEWNS, CLONE_SYSVSEM, CLONE_SETTLS, CLONE_PARENT_SETTID,
    CLONE_CHILD_CLEARTID, CLONE_DETACHED, CLONE_UNTRACED, CLONE_CHILD_SETTID, CLONE_NEWCGROUP, CLONE_NEWUTS,
    CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, CLONE_IO, CLONE_CLEAR_SIGHAND = 1 << 32,
    CLONE_INTO_CGROUP = 1 << 33);
names!(/// Namespaces of unshare(2) and setns(2).
    NAMESPACE, "CLONE_NEW???": CLONE_VM, CLONE_FS, CLONE_FILES, CLONE_SIGHAND, CLONE_THREAD, CLONE_NEWNS,
    CLONE_SYSVSEM, CLONE_NEWTIME = 0x80, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID,
    CLONE_NEWNET);
names!(/// Options of wait4(2) and waitid(2).
    WAIT, "W???": WNOHANG, WUNTRACED, WEXITED, WCONTINUED, WNOWAIT, __WNOTHREAD, __WALL, __WCLONE);
names!(/// What waitid(2) waits for.
    WAIT_ID, "P_???": P_ALL, P_PID, P_PGID, P_PIDFD = 3);
names!(/// Commands of fcntl(2).
    FCNTL, "F_???": F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_GETLK, F_SETLK, F_SETLKW, F_SETOWN, F_GETOWN,
    F_SETSIG = 10, F_GETSIG = 11, F_GETLK64 = 12, F_SETLK64 = 13, F_SETLKW64 = 14, F_SETOWN_EX = 15,
    F_GETOWN_EX = 16, F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW, F_SETLEASE, F_GETLEASE, F_NOTIFY, F_DUPFD_CLOEXEC,
    F_SETPIPE_SZ, F_GETPIPE_SZ, F_ADD_SEALS, F_GET_SEALS, F_GET_RW_HINT = 1035, F_SET_RW_HINT = 1036,
    F_GET_FILE_RW_HINT = 1037, F_SET_FILE_RW_HINT = 1038);
names!(/// Flags of a file descriptor.
    FD, "FD_???": FD_CLOEXEC);
names!(/// Types of lock.
    LOCK, "F_???": F_RDLCK, F_WRLCK, F_UNLCK);
names!(/// Operations of flock(2).
    FLOCK, "LOCK_???": LOCK_SH, LOCK_EX, LOCK_UN, LOCK_NB);
names!(/// Operations of epoll_ctl(2).
    EPOLL_CTL, "EPOLL_CTL_???": EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD);
names!(/// Events of epoll.
    EPOLL, "EPOLL???": EPOLLIN, EPOLLPRI, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLRDNORM, EPOLLRDBAND, EPOLLWRNORM,
    EPOLLWRBAND, EPOLLMSG, EPOLLRDHUP, EPOLLEXCLUSIVE, EPOLLWAKEUP, EPOLLONESHOT, EPOLLET);
names!(/// Flags of epoll_create1(2).
    EPOLL_CREATE, "EPOLL_???": EPOLL_CLOEXEC);
names!(/// Events of poll(2).
    POLL, "POLL???": POLLIN, POLLPRI, POLLOUT, POLLRDNORM, POLLWRNORM, POLLRDBAND, POLLWRBAND, POLLERR, POLLHUP,
    POLLNVAL, POLLMSG = 0x400, POLLREMOVE = 0x1000, POLLRDHUP);
names!(/// Flags of eventfd2(2).
    EVENTFD, "EFD_???": EFD_SEMAPHORE, EFD_CLOEXEC, EFD_NONBLOCK);
names!(/// Flags of timerfd_create(2).
    TIMERFD, "TFD_???": TFD_CLOEXEC, TFD_NONBLOCK);
names!(/// Flags of timerfd_settime(2).
    TIMERFD_SET, "TFD_???": TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET);
names!(/// Flags of timer_settime(2) and clock_nanosleep(2).
    TIMER, "TIMER_???": TIMER_ABSTIME);
names!(/// Flags of signalfd4(2).
    SIGNALFD, "SFD_???": SFD_CLOEXEC, SFD_NONBLOCK);
names!(/// Flags of inotify_init1(2).
    INOTIFY_INIT, "IN_???": IN_CLOEXEC, IN_NONBLOCK);
names!(/// Events of inotify.
    INOTIFY, "IN_???": IN_ACCESS, IN_MODIFY, IN_ATTRIB, IN_CLOSE_WRITE, IN_CLOSE_NOWRITE, IN_OPEN, IN_MOVED_FROM,
    IN_MOVED_TO, IN_CREATE, IN_DELETE, IN_DELETE_SELF, IN_MOVE_SELF, IN_UNMOUNT, IN_Q_OVERFLOW, IN_IGNORED,
    IN_ONLYDIR, IN_DONT_FOLLOW, IN_EXCL_UNLINK, IN_MASK_CREATE, IN_MASK_ADD, IN_ISDIR, IN_ONESHOT);
names!(/// Flags of memfd_create(2).
    MEMFD, "MFD_???": MFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_HUGETLB, MFD_NOEXEC_SEAL = 8, MFD_EXEC = 16);
names!(/// Flags of getrandom(2).
    RANDOM, "GRND_???": GRND_NONBLOCK, GRND_RANDOM, GRND_INSECURE);
names!(/// Flags of splice(2).
    SPLICE, "SPLICE_F_???": SPLICE_F_MOVE, SPLICE_F_NONBLOCK, SPLICE_F_MORE, SPLICE_F_GIFT);
names!(/// Flags of fallocate(2).
    FALLOCATE, "FALLOC_FL_???": FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_NO_HIDE_STALE = 4,
    FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_ZERO_RANGE, FALLOC_FL_INSERT_RANGE, FALLOC_FL_UNSHARE_RANGE);
names!(/// Flags of preadv2(2) and pwritev2(2).
    RWF, "RWF_???": RWF_HIPRI, RWF_DSYNC, RWF_SYNC, RWF_NOWAIT, RWF_APPEND);
names!(/// Flags of renameat2(2).
    RENAME, "RENAME_???": RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT);
names!(/// Flags of setxattr(2).
    XATTR, "XATTR_???": XATTR_CREATE, XATTR_REPLACE);
names!(/// Flags of mount(2).
    MOUNT, "MS_???": MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_SYNCHRONOUS, MS_REMOUNT, MS_MANDLOCK, MS_DIRSYNC,
    MS_NOSYMFOLLOW = 256, MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_MOVE, MS_REC, MS_SILENT, MS_POSIXACL, MS_UNBINDABLE,
    MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_RELATIME, MS_KERNMOUNT, MS_I_VERSION, MS_STRICTATIME, MS_LAZYTIME);
names!(/// Flags of umount2(2).
    UMOUNT, "MNT_???": MNT_FORCE, MNT_DETACH, MNT_EXPIRE, UMOUNT_NOFOLLOW);
names!(/// Flags of close_range(2).
    CLOSE_RANGE, "CLOSE_RANGE_???": CLOSE_RANGE_UNSHARE, CLOSE_RANGE_CLOEXEC);
names!(/// Clocks.
    CLOCK, "CLOCK_???": CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID,
    CLOCK_MONOTONIC_RAW, CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME, CLOCK_REALTIME_ALARM,
    CLOCK_BOOTTIME_ALARM, CLOCK_TAI);
names!(/// Interval timers.
    ITIMER, "ITIMER_???": ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF);
names!(/// Limits of resources.
    RLIMIT, "RLIMIT_???": RLIMIT_CPU, RLIMIT_FSIZE, RLIMIT_DATA, RLIMIT_STACK, RLIMIT_CORE, RLIMIT_RSS, RLIMIT_NPROC,
    RLIMIT_NOFILE, RLIMIT_MEMLOCK, RLIMIT_AS, RLIMIT_LOCKS, RLIMIT_SIGPENDING, RLIMIT_MSGQUEUE, RLIMIT_NICE,
    RLIMIT_RTPRIO, RLIMIT_RTTIME);
names!(/// Whose usage getrusage(2) tells.
    RUSAGE, "RUSAGE_???": RUSAGE_SELF, RUSAGE_CHILDREN, RUSAGE_BOTH = 0xffff_fffe, RUSAGE_THREAD);
names!(/// Whose priority.
    PRIO, "PRIO_???": PRIO_PROCESS, PRIO_PGRP, PRIO_USER);
names!(/// Policies of scheduling.
    SCHED, "SCHED_???": SCHED_OTHER, SCHED_FIFO, SCHED_RR, SCHED_BATCH, SCHED_IDLE, SCHED_DEADLINE);
names!(/// Commands of sigprocmask(2).
    SIG_HOW, "SIG_???": SIG_BLOCK, SIG_UNBLOCK, SIG_SETMASK);
names!(/// Special handlers of signals.
    SIG_HANDLER, "SIG_???": SIG_DFL = 0, SIG_IGN = 1, SIG_ERR = u64::MAX);
names!(/// Flags of sigaction(2).
    SIG_ACTION, "SA_???": SA_RESTORER = 0x400_0000, SA_ONSTACK, SA_RESTART, SA_NODEFER, SA_RESETHAND, SA_SIGINFO,
    SA_NOCLDSTOP, SA_NOCLDWAIT, SA_UNSUPPORTED = 0x400, SA_EXPOSE_TAGBITS = 0x800);
names!(/// Commands of futex(2), the low seven bits.
    FUTEX, "FUTEX_???": FUTEX_WAIT, FUTEX_WAKE, FUTEX_FD, FUTEX_REQUEUE, FUTEX_CMP_REQUEUE, FUTEX_WAKE_OP,
    FUTEX_LOCK_PI, FUTEX_UNLOCK_PI, FUTEX_TRYLOCK_PI, FUTEX_WAIT_BITSET, FUTEX_WAKE_BITSET, FUTEX_WAIT_REQUEUE_PI,
    FUTEX_CMP_REQUEUE_PI, FUTEX_LOCK_PI2);
names!(/// Commands of arch_prctl(2).
    ARCH, "ARCH_???": ARCH_SET_GS = 0x1001, ARCH_SET_FS = 0x1002, ARCH_GET_FS = 0x1003, ARCH_GET_GS = 0x1004,
    ARCH_GET_CPUID = 0x1011, ARCH_SET_CPUID = 0x1012, ARCH_GET_XCOMP_SUPP = 0x1021, ARCH_GET_XCOMP_PERM = 0x1022,
    ARCH_REQ_XCOMP_PERM = 0x1023, ARCH_MAP_VDSO_X32 = 0x2001, ARCH_MAP_VDSO_32 = 0x2002, ARCH_MAP_VDSO_64 = 0x2003,
    ARCH_SHSTK_ENABLE = 0x5001, ARCH_SHSTK_DISABLE = 0x5002, ARCH_SHSTK_LOCK = 0x5003, ARCH_SHSTK_UNLOCK = 0x5004,
    ARCH_SHSTK_STATUS = 0x5005);
names!(/// Commands of prctl(2).
    PRCTL, "PR_???": PR_SET_PDEATHSIG, PR_GET_PDEATHSIG, PR_GET_DUMPABLE, PR_SET_DUMPABLE, PR_GET_KEEPCAPS,
    PR_SET_KEEPCAPS, PR_SET_NAME, PR_GET_NAME, PR_GET_SECCOMP, PR_SET_SECCOMP, PR_CAPBSET_READ, PR_CAPBSET_DROP,
    PR_GET_SECUREBITS, PR_SET_SECUREBITS, PR_SET_TIMERSLACK, PR_GET_TIMERSLACK, PR_SET_MM, PR_SET_CHILD_SUBREAPER,
    PR_GET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS, PR_SET_THP_DISABLE, PR_GET_THP_DISABLE,
    PR_CAP_AMBIENT, PR_SET_PTRACER = 0x5961_6d61, PR_SET_VMA = 0x5356_4d41);
names!(/// Requests of ptrace(2).
    PTRACE, "PTRACE_???": PTRACE_TRACEME, PTRACE_PEEKTEXT, PTRACE_PEEKDATA, PTRACE_PEEKUSER, PTRACE_POKETEXT,
    PTRACE_POKEDATA, PTRACE_POKEUSER, PTRACE_CONT, PTRACE_KILL, PTRACE_SINGLESTEP, PTRACE_GETREGS, PTRACE_SETREGS,
    PTRACE_GETFPREGS, PTRACE_SETFPREGS, PTRACE_ATTACH, PTRACE_DETACH, PTRACE_SYSCALL, PTRACE_SETOPTIONS,
    PTRACE_GETEVENTMSG, PTRACE_GETSIGINFO, PTRACE_SETSIGINFO, PTRACE_GETREGSET, PTRACE_SETREGSET, PTRACE_SEIZE,
    PTRACE_INTERRUPT, PTRACE_LISTEN, PTRACE_PEEKSIGINFO, PTRACE_GETSIGMASK = 0x420a, PTRACE_SETSIGMASK = 0x420b);
names!(/// Operations of seccomp(2).
    SECCOMP, "SECCOMP_SET_MODE_???": SECCOMP_SET_MODE_STRICT, SECCOMP_SET_MODE_FILTER, SECCOMP_GET_ACTION_AVAIL,
    SECCOMP_GET_NOTIF_SIZES);
names!(/// Commands of bpf(2).
    BPF, "BPF_???": BPF_MAP_CREATE = 0, BPF_MAP_LOOKUP_ELEM = 1, BPF_MAP_UPDATE_ELEM = 2, BPF_MAP_DELETE_ELEM = 3,
    BPF_MAP_GET_NEXT_KEY = 4, BPF_PROG_LOAD = 5, BPF_OBJ_PIN = 6, BPF_OBJ_GET = 7, BPF_PROG_ATTACH = 8,
    BPF_PROG_DETACH = 9, BPF_PROG_TEST_RUN = 10, BPF_PROG_GET_NEXT_ID = 11, BPF_MAP_GET_NEXT_ID = 12,
    BPF_PROG_GET_FD_BY_ID = 13, BPF_MAP_GET_FD_BY_ID = 14, BPF_OBJ_GET_INFO_BY_FD = 15, BPF_PROG_QUERY = 16,
    BPF_RAW_TRACEPOINT_OPEN = 17, BPF_BTF_LOAD = 18, BPF_BTF_GET_FD_BY_ID = 19, BPF_TASK_FD_QUERY = 20,
    BPF_MAP_LOOKUP_AND_DELETE_ELEM = 21, BPF_MAP_FREEZE = 22, BPF_BTF_GET_NEXT_ID = 23, BPF_MAP_LOOKUP_BATCH = 24,
    BPF_MAP_LOOKUP_AND_DELETE_BATCH = 25, BPF_MAP_UPDATE_BATCH = 26, BPF_MAP_DELETE_BATCH = 27,
    BPF_LINK_CREATE = 28, BPF_LINK_UPDATE = 29, BPF_LINK_GET_FD_BY_ID = 30, BPF_LINK_GET_NEXT_ID = 31,
    BPF_ENABLE_STATS = 32, BPF_ITER_CREATE = 33, BPF_LINK_DETACH = 34, BPF_PROG_BIND_MAP = 35);
names!(/// Requests of ioctl(2) that most programs make.
    IOCTL, "_IOC": TCGETS, TCSETS, TCSETSW, TCSETSF, TCSBRK, TCXONC, TCFLSH, TIOCEXCL, TIOCNXCL, TIOCSCTTY,
    TIOCGPGRP, TIOCSPGRP, TIOCOUTQ, TIOCSTI, TIOCGWINSZ, TIOCSWINSZ, TIOCMGET, TIOCNOTTY, TIOCGSID,
    TIOCGPTN = 0x8004_5430, TIOCSPTLCK = 0x4004_5431, FIONREAD, FIONBIO, FIOASYNC, FIOCLEX, FIONCLEX,
    SIOCGIFNAME = 0x8910, SIOCGIFCONF = 0x8912, SIOCGIFFLAGS = 0x8913, SIOCSIFFLAGS = 0x8914, SIOCGIFADDR = 0x8915,
    SIOCSIFADDR = 0x8916, SIOCGIFMTU = 0x8921, SIOCGIFHWADDR = 0x8927, SIOCGIFINDEX = 0x8933, SIOCETHTOOL = 0x8946,
    BLKGETSIZE64 = 0x8008_1272, FICLONE = 0x4004_9409, FS_IOC_GETFLAGS = 0x8008_6601, FS_IOC_SETFLAGS = 0x4008_6602);
names!(/// Commands of reboot(2).
    REBOOT, "LINUX_REBOOT_CMD_???": LINUX_REBOOT_CMD_CAD_OFF = 0, LINUX_REBOOT_CMD_CAD_ON = 0x89ab_cdef,
    LINUX_REBOOT_CMD_HALT = 0xcdef_0123, LINUX_REBOOT_CMD_KEXEC = 0x4558_4543,
    LINUX_REBOOT_CMD_POWER_OFF = 0x4321_fedc, LINUX_REBOOT_CMD_RESTART = 0x0123_4567,
    LINUX_REBOOT_CMD_RESTART2 = 0xa1b2_c3d4, LINUX_REBOOT_CMD_SW_SUSPEND = 0xd000_fce2);
names!(/// Flags of finit_module(2).
    MODULE_INIT, "MODULE_INIT_???": MODULE_INIT_IGNORE_MODVERSIONS = 1, MODULE_INIT_IGNORE_VERMAGIC = 2,
    MODULE_INIT_COMPRESSED_FILE = 4);
names!(/// Calls behind socketcall(2) of i386.
    SOCKETCALL, "SYS_???": SYS_SOCKET = 1, SYS_BIND = 2, SYS_CONNECT = 3, SYS_LISTEN = 4, SYS_ACCEPT = 5,
    SYS_GETSOCKNAME = 6, SYS_GETPEERNAME = 7, SYS_SOCKETPAIR = 8, SYS_SEND = 9, SYS_RECV = 10, SYS_SENDTO = 11,
    SYS_RECVFROM = 12, SYS_SHUTDOWN = 13, SYS_SETSOCKOPT = 14, SYS_GETSOCKOPT = 15, SYS_SENDMSG = 16,
    SYS_RECVMSG = 17, SYS_ACCEPT4 = 18, SYS_RECVMMSG = 19, SYS_SENDMMSG = 20);
names!(/// Types of file in st_mode.
    FILE_TYPE, "S_IF???": S_IFREG, S_IFDIR, S_IFLNK, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK);
names!(/// Bits of a mode that are neither type nor permissions.
    MODE_BITS, "S_I???": S_ISUID, S_ISGID, S_ISVTX);

/// Signals by number, 1 to 31; those above are real-time ones.
pub const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The first real-time signal of the kernel; strace names them by it.
const RT_MIN: u64 = 32;

/// Appends the name of a signal; with `SIG` in front unless it stands in a set.
pub fn signal(out: &mut String, number: u64, in_set: bool) {
    let known = number
        .checked_sub(1)
        .and_then(|at| SIGNALS.get(usize::try_from(at).ok()?));
    let prefix = if in_set { "" } else { "SIG" };
    let _ = match (known, number) {
        (Some(name), _) => write!(out, "{prefix}{name}"),
        (None, RT_MIN) => write!(out, "{prefix}RTMIN"),
        (None, RT_MIN..=64) => write!(out, "{prefix}RT_{}", number - RT_MIN),
        (None, _) => write!(out, "{number}"),
    };
}
