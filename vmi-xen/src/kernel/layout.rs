// SPDX-License-Identifier: GPL-3.0-only
//! Offsets of the kernel structures that the engine reads, from the kernel's
//! own BTF.
//!
//! Each group of offsets is one capability: where this kernel lacks a member
//! (a feature compiled out, a structure reshaped by a version this engine does
//! not know) that group is an error that names the member, and the others stay.

mod code;
mod member;
mod process;
mod socket;

use thiserror::Error;

use super::btf::{Btf, BtfError, MissingMember};
use member::{offset, size};

pub use code::*;
pub use member::{Array, Scalar, Size};
pub use process::*;
pub use socket::*;

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

/// Defines [`Layout`]: each group, how it is looked up, and what its lack is called. `_`: nothing to speak of, since only some
/// kernels have it, or it only makes lookups faster.
macro_rules! layout {
    ($($(#[$doc:meta])* $field:ident : $ty:ty = $lookup:expr, $lack:tt;)*) => {
        /// Every offset the engine uses, by capability.
        #[derive(Debug, Clone)]
        pub struct Layout {
            $($(#[$doc])* pub $field: Group<$ty>,)*
        }

        impl Layout {
            /// Looks every offset up.
            pub fn from_btf(btf: &Btf<'_>) -> Self {
                Self { $($field: $lookup(btf),)* }
            }

            /// A layout without any offset, all for the same reason.
            pub fn absent(why: &LayoutError) -> Self {
                Self { $($field: Err(why.clone()),)* }
            }

            fn lacks(&self) -> Vec<Option<(&'static str, LayoutError)>> {
                vec![$(lack!(self.$field, $lack),)*]
            }
        }
    };
}

macro_rules! lack {
    ($group:expr, _) => {
        None
    };
    ($group:expr, $name:literal) => {
        $group.as_ref().err().map(|why| ($name, why.clone()))
    };
}

layout! {
    /// The core of a task.
    task: TaskOffsets = TaskOffsets::resolve, "tasks";
    /// Threads of a process.
    thread: ThreadOffsets = ThreadOffsets::resolve, "threads";
    /// Which ABI a thread's system call is of.
    thread_info: ThreadInfoOffsets = ThreadInfoOffsets::resolve, "ABI of system calls";
    /// Calls of exec under way.
    exec: ExecOffsets = ExecOffsets::resolve, "calls of exec";
    /// Exit statuses.
    exit: ExitOffsets = ExitOffsets::resolve, "exit statuses";
    /// Credentials.
    cred: CredOffsets = CredOffsets::resolve, "credentials";
    /// Sets of capabilities.
    capability: CapabilityOffsets = CapabilityOffsets::resolve, "capabilities";
    /// Supplementary groups.
    groups: GroupOffsets = GroupOffsets::resolve, "supplementary groups";
    /// User namespace.
    user_namespace: UserNamespaceOffsets = UserNamespaceOffsets::resolve, "user namespace";
    /// Login session.
    audit: AuditOffsets = AuditOffsets::resolve, "login user";
    /// Arguments and page tables.
    args: ArgsOffsets = ArgsOffsets::resolve, "arguments";
    /// Executable and root directory.
    exe: ExeOffsets = ExeOffsets::resolve, "executable";
    /// Mapped memory.
    mapping: MappingOffsets = MappingOffsets::resolve, "mapped memory";
    /// Mappings as a list.
    mapping_list: MappingListOffsets = MappingListOffsets::resolve, _;
    /// Mappings as a tree.
    maple: MapleOffsets = MapleOffsets::resolve, _;
    /// What a page of memory is of.
    page: PageOffsets = PageOffsets::resolve, "what pages are of";
    /// Size in bytes of `struct page`.
    page_size: u64 = size("page"), "what pages are of";
    /// Files below an overlay.
    backing_file: BackingFileOffsets = BackingFileOffsets::resolve, _;
    /// Paths.
    path: PathOffsets = PathOffsets::resolve, "paths";
    /// Network and mount namespaces.
    namespace: NamespaceOffsets = NamespaceOffsets::resolve, "namespaces";
    /// PID namespace.
    pid_namespace: PidNamespaceOffsets = PidNamespaceOffsets::resolve, "PID namespace";
    /// Size in bytes of `struct upid`.
    upid_size: u64 = size("upid"), "PID namespace";
    /// Control groups.
    cgroup: CgroupOffsets = CgroupOffsets::resolve, "containers";
    /// Open files.
    file: FileOffsets = FileOffsets::resolve, "open files";
    /// Sockets.
    sock: SockOffsets = SockOffsets::resolve, "sockets";
    /// Sockets over IPv6.
    sock6: Sock6Offsets = Sock6Offsets::resolve, "IPv6 sockets";
    /// Inodes of sockets.
    socket_inode: SocketInodeOffsets = SocketInodeOffsets::resolve, "inodes of sockets";
    /// Table of TCP sockets.
    tcp_table: TcpTableOffsets = TcpTableOffsets::resolve, "table of TCP sockets";
    /// Size in bytes of a bucket of it.
    tcp_bucket: u64 = size("inet_ehash_bucket"), "table of TCP sockets";
    /// Listening TCP sockets, as a table.
    listen_table: ListenTableOffsets = ListenTableOffsets::resolve, _;
    /// Listening TCP sockets, as an array.
    listen_array: ListenArrayOffsets = ListenArrayOffsets::resolve, _;
    /// Size in bytes of a bucket of either.
    listen_bucket: u64 = size("inet_listen_hashbucket"), "table of listening sockets";
    /// Connections that nobody has accepted yet.
    accept: AcceptOffsets = AcceptOffsets::resolve, "connections not accepted yet";
    /// Table of UDP sockets.
    udp_table: UdpTableOffsets = UdpTableOffsets::resolve, "table of UDP sockets";
    /// Size in bytes of a bucket of it.
    udp_bucket: u64 = size("udp_hslot"), "table of UDP sockets";
    /// A network namespace's own tables of TCP, in kernels from 6.1 on.
    net_tcp_tables: u64 = offset("net.ipv4.tcp_death_row.hashinfo"), _;
    /// A network namespace's own table of UDP, in kernels from 6.2 on.
    net_udp_table: u64 = offset("net.ipv4.udp_table"), _;
    /// What a network namespace mixes into the hashes of its sockets.
    net_hash_mix: u64 = offset("net.hash_mix"), _;
    /// The next sequence number that a TCP socket sends.
    tcp_write_seq: u64 = offset("tcp_sock.write_seq"), _;
    /// Network namespaces, devices and IPv4 addresses.
    net: NetOffsets = NetOffsets::resolve, "interface addresses";
    /// IPv6 addresses.
    net6: Net6Offsets = Net6Offsets::resolve, "IPv6 interface addresses";
    /// Pipes and local sockets.
    local: LocalOffsets = LocalOffsets::resolve, "pipes and local sockets";
    /// Parents and children.
    kinship: KinshipOffsets = KinshipOffsets::resolve, "parents and children";
    /// The table of PIDs.
    pid_table: PidTableOffsets = PidTableOffsets::resolve, "the table of PIDs";
    /// Run queues.
    run_queue: RunQueueOffsets = RunQueueOffsets::resolve, "run queues";
    /// Who waits on a socket.
    socket_wait: SocketWaitOffsets = SocketWaitOffsets::resolve, "who waits on sockets";
    /// Who waits by poll.
    poll: PollOffsets = PollOffsets::resolve, "who waits by poll";
    /// Who waits by epoll.
    epoll: EpollOffsets = EpollOffsets::resolve, "who waits by epoll";
    /// The kernel's own sockets.
    kernel_socket: KernelSocketOffsets = KernelSocketOffsets::resolve, "the kernel's own sockets";
    /// Files on their way between processes.
    flight: FlightOffsets = FlightOffsets::resolve, "files on their way between processes";
    /// Loaded modules.
    module: ModuleOffsets = ModuleOffsets::resolve, "modules";
    /// Memory of loaded modules.
    module_memory: ModuleMemory = ModuleMemory::resolve, "modules' memory";
    /// Symbols of BPF's code.
    bpf_symbol: BpfSymbolOffsets = BpfSymbolOffsets::resolve, "BPF's code";
    /// ftrace.
    ftrace: FtraceOffsets = FtraceOffsets::resolve, "ftrace";
    /// Size in bytes of `struct dyn_ftrace`.
    dyn_ftrace_size: u64 = size("dyn_ftrace"), "ftrace";
    /// Kernel probes.
    kprobe: KprobeOffsets = KprobeOffsets::resolve, "kernel probes";
    /// `pcpu_hot.current_task`, in kernels from 6.2 to 6.14.
    pcpu_hot_current: u64 = offset("pcpu_hot.current_task"), _;
}

impl Layout {
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
    /// everything is understood.
    pub fn gaps(&self) -> Vec<(&'static str, LayoutError)> {
        // Of these a kernel has one or the other.
        let listeners = match &self.listen_array {
            Ok(_) => None,
            Err(_) => lack!(self.listen_table, "table of listening sockets"),
        };
        let mappings = match &self.mapping_list {
            Ok(_) => None,
            Err(_) => lack!(self.maple, "list of mapped memory"),
        };
        let either = [listeners, mappings];
        self.lacks().into_iter().chain(either).flatten().collect()
    }
}
