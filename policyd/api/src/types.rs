// SPDX-License-Identifier: GPL-3.0-only
//! What travels over the API. Every struct is plain data; field names are the JSON names.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::control::StoreStatus;

/// How much of a domain the daemon sees. Ordered: a later degree sees more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Nothing is enforced on this domain: it has no vif, or it is dom0.
    Off,
    /// The VM and the port only: no kernel was understood (yet).
    Vm,
    /// Processes and sockets are read from guest memory, no traps.
    Lookup,
    /// As `altp2m`, by breakpoints in the guest's own memory, which the guest could see.
    Breakpoint,
    /// Every connect, listen, exec and exit traps before it takes effect.
    Altp2m,
}

impl Mode {
    /// The lower-case word used in tables and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Off => "off",
            Mode::Vm => "vm",
            Mode::Lookup => "lookup",
            Mode::Breakpoint => "breakpoint",
            Mode::Altp2m => "altp2m",
        }
    }
}

/// The daemon itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Version of policyd.
    pub version: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// Process id of its guardian.
    pub guardian: Option<u32>,
    /// Seconds since the daemon started.
    pub uptime: u64,
    /// The policy generation in force.
    pub generation: u64,
    /// Xen's version, as `4.17.5`.
    pub xen: String,
    /// Events not delivered to slow readers since the start.
    pub events_lost: u64,
    /// Flows whose owner was looked up.
    #[serde(default)]
    pub lookups: Lookups,
    /// The store of policies.
    #[serde(default)]
    pub store: StoreStatus,
}

/// One domain on this host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Domain {
    /// Domain id.
    pub id: u16,
    /// Name in xenstore.
    pub name: String,
    /// UUID, in the usual 8-4-4-4-12 form.
    pub uuid: String,
    /// `running`, `paused`, `shutdown`, `dying`.
    pub state: String,
    /// Degree of sight.
    pub mode: Mode,
    /// Why sight is not better than `mode`, or what is not covered; with the remedy. Empty when all is well.
    pub problems: Vec<String>,
    /// Release of the guest's kernel (`uname -r`), once known.
    pub kernel: Option<String>,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Processes alive.
    pub processes: usize,
    /// TCP and UDP sockets with a peer.
    pub connections: usize,
    /// Flows the datapath tracks on this domain's vifs.
    pub flows: usize,
    /// Its network interfaces.
    pub vifs: Vec<Vif>,
    /// Addresses the domain is known by.
    pub addresses: Vec<IpAddr>,
    /// Probes in the guest.
    pub probes: Vec<Probe>,
    /// Events handled since the attach.
    pub traps: u64,
}

/// A virtual interface of a domain, as dom0 sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Vif {
    /// Interface name in dom0, as `vif3.0`.
    pub name: String,
    /// The guest's MAC address, from xenstore.
    pub mac: Option<String>,
    /// Whether the datapath is attached to it.
    pub covered: bool,
}

/// One probe armed in a guest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Probe {
    /// The kernel function probed.
    pub function: String,
    /// `skip` (one exit), `step` (single-step), or why it is not armed.
    pub resume: String,
    /// Guest-virtual address of the instruction that it stands on, as `0xffffffff81000000`; none if it is not armed.
    #[serde(default)]
    pub address: Option<String>,
    /// Times it fired.
    pub hits: u64,
    /// Mean time that a trap took in the daemon, µs.
    #[serde(default)]
    pub mean_us: f64,
    /// Time within which 99 of 100 traps were done, µs.
    #[serde(default)]
    pub p99_us: f64,
    /// The longest, µs.
    #[serde(default)]
    pub max_us: f64,
    /// Accesses of the guest to the probe's page that trapped too; shared by the probes on one page.
    #[serde(default)]
    pub page_accesses: u64,
    /// Share of one vCPU's time that it has cost since the attach, 0 to 1.
    #[serde(default)]
    pub share: f64,
}

/// A process in a guest, or what is left of one that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id (thread group) in the guest's initial pid namespace.
    pub pid: u32,
    /// Its parent's process id.
    pub ppid: u32,
    /// Real, effective user and group id in the guest's initial user namespace.
    pub uid: u32,
    /// Effective user id.
    pub euid: u32,
    /// Group id.
    pub gid: u32,
    /// The user who logged in (audit), if any.
    pub loginuid: Option<u32>,
    /// Name of the task, at most 15 bytes.
    pub comm: String,
    /// Path of the executable in the process's mount namespace; none for kernel threads.
    pub exe: Option<String>,
    /// The executable's file has been unlinked.
    pub exe_deleted: bool,
    /// Arguments, as far as they could be read.
    pub args: Vec<String>,
    /// Container id, from the cgroup path.
    pub container: Option<String>,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Start, nanoseconds after the guest's boot.
    pub start_time_ns: u64,
    /// Executables of its ancestors, nearest first.
    pub parents: Vec<String>,
}

/// A TCP or UDP socket of a guest and who owns it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Connection {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Local address and port.
    pub local: SocketAddr,
    /// Peer; none for a listener.
    pub remote: Option<SocketAddr>,
    /// As `ss` prints it: `LISTEN`, `ESTAB`, `SYN-SENT`, …
    pub state: String,
    /// Owner's process id, if known.
    pub pid: Option<u32>,
    /// Owner's user id.
    pub uid: Option<u32>,
    /// Owner's executable.
    pub exe: Option<String>,
    /// Inode number of the network namespace.
    pub netns: u32,
}

/// Pass or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The packet passes.
    Allow,
    /// The packet is refused.
    Deny,
}

/// A verdict and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Pass or not.
    pub verdict: Verdict,
    /// `SET/RULE`; or `default (from VM)`, `default (to)`, `process unknown`, `no rule`, `no backend of SET/ROUTE`.
    pub rule: String,
    /// The policy generation that decided.
    pub generation: u64,
}

/// One end of a flow as an identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// Name of the domain; none for a peer outside.
    pub domain: Option<String>,
    /// Executable.
    pub exe: Option<String>,
    /// Process id.
    pub pid: Option<u32>,
    /// User id.
    pub uid: Option<u32>,
    /// Services it belongs to, as `SET/SERVICE`.
    pub services: Vec<String>,
    /// SPIFFE-like id.
    pub id: String,
}

/// The backend that a flow to a route goes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routed {
    /// `SET/ROUTE`; none where the route is no more, or the flow has been sent elsewhere by itself.
    pub route: Option<String>,
    /// What the backend runs.
    pub version: Option<String>,
    /// Its address and port.
    pub backend: SocketAddr,
}

/// How a backend of a route stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    /// It takes flows.
    Up,
    /// It keeps the flows it has and takes no new ones.
    Draining,
    /// The same, until it comes back.
    Down,
    /// Its domain is no more, and its flows end.
    Gone,
}

impl BackendState {
    /// The lower-case word used in tables and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            BackendState::Up => "up",
            BackendState::Draining => "draining",
            BackendState::Down => "down",
            BackendState::Gone => "gone",
        }
    }
}

/// One address of a route, and who serves it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// `SET/ROUTE`.
    pub name: String,
    /// Its address and port.
    pub address: SocketAddr,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// All flows from one address go to one backend.
    pub affinity: bool,
    /// Its backends.
    pub backends: Vec<RouteBackend>,
}

/// One backend of a route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouteBackend {
    /// Its address and port.
    pub address: SocketAddr,
    /// Its domain; none outside of this host.
    pub domain: Option<String>,
    /// What it runs.
    pub version: Option<String>,
    /// What it serves: `share`, `failover`, or `denied`.
    pub role: String,
    /// Its weight among the others, as it is now.
    pub weight: u16,
    /// The part of new flows that this comes to, 0 to 1. Canaries are besides.
    pub share: f64,
    /// How it stands.
    pub state: BackendState,
    /// Why it takes no flows.
    pub why: Option<String>,
    /// Flows of this host's domains that are with it.
    pub flows: usize,
}

/// One flow at a vif.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Flow {
    /// Domain whose vif this is.
    pub domain: String,
    /// `tcp`, `udp`, `icmp`, or the number.
    pub protocol: String,
    /// The guest's side.
    pub local: SocketAddr,
    /// The other side.
    pub remote: SocketAddr,
    /// Whether the guest started it.
    pub outgoing: bool,
    /// Where it goes, if that is not the other side itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Routed>,
    /// Who in the guest, if known.
    pub who: Option<Party>,
    /// Verdict, rule and generation.
    pub decision: Decision,
    /// Packets and bytes from the guest.
    pub packets_out: u64,
    /// Bytes from the guest (layer 3 length).
    pub bytes_out: u64,
    /// Packets to the guest.
    pub packets_in: u64,
    /// Bytes to the guest.
    pub bytes_in: u64,
    /// Age in milliseconds.
    pub age_ms: u64,
    /// Milliseconds since the last packet.
    pub idle_ms: u64,
    /// `new`, `established`, `closed`, or `-` for datagrams.
    pub state: String,
    /// TCP, as its packets passed the vif.
    #[serde(default)]
    pub timing: Timing,
}

/// How a TCP connection fares, as its packets passed the vif.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// Microseconds from SYN to SYN-ACK.
    pub setup_us: Option<u64>,
    /// Smoothed microseconds from data of the guest to its ACK: the way to the peer and back.
    pub rtt_out_us: Option<u64>,
    /// The same for data to the guest: the way into the guest and back.
    pub rtt_in_us: Option<u64>,
    /// Segments from the guest that had passed before.
    pub retransmissions_out: u32,
    /// The same to the guest.
    pub retransmissions_in: u32,
    /// Segments by which the guest said that it takes no more data.
    pub zero_windows_out: u32,
    /// The same of the peer.
    pub zero_windows_in: u32,
}

/// Users, groups and capabilities of a process, numbered as in the guest's initial user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Real user id.
    pub uid: u32,
    /// Effective user id.
    pub euid: u32,
    /// Real group id.
    pub gid: u32,
    /// Effective group id.
    pub egid: u32,
    /// Permitted capabilities, a bit each, numbered as in linux/capability.h.
    pub permitted: u64,
    /// Effective capabilities.
    pub effective: u64,
}

/// How a flow and its owner were seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seen {
    /// By a trap, before its first packet.
    #[default]
    Trap,
    /// By reading the guest's tables, once the vif had seen its first packet.
    Lookup,
}

/// What lookups of flows' owners have cost and given since the daemon started.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Lookups {
    /// Lookups made.
    pub made: u64,
    /// Of them, those that found an owner.
    pub found: u64,
    /// Not made: too many waited, or the guest had used its share.
    pub dropped: u64,
    /// Mean time of one, µs.
    pub mean_us: f64,
    /// Time within which 99 of 100 were done, µs.
    pub p99_us: f64,
}

/// Something that happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Event {
    /// Rises by one with each event; a gap means that a slow reader lost some.
    pub seq: u64,
    /// Nanoseconds since 1970, dom0's clock.
    pub time_ns: u64,
    /// Domain name; none for the daemon's own events.
    pub domain: Option<String>,
    /// Domain id.
    pub domid: Option<u16>,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// The kinds of event.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum What {
    /// A process was forked.
    Fork {
        /// The child, still with its parent's executable.
        process: Process,
    },
    /// A process runs a new executable.
    Exec {
        /// The process after the exec.
        process: Process,
    },
    /// A process ended.
    Exit {
        /// The process as it was.
        process: Process,
        /// Its exit status, as in wait(2): status << 8 or a signal number.
        code: u32,
    },
    /// A process took other credentials, but for those that an exec gives.
    Cred {
        /// The process as it was.
        process: Process,
        /// What it had.
        before: Credentials,
        /// What it has.
        after: Credentials,
    },
    /// A TCP socket began to listen.
    Listen {
        /// The listener.
        process: Process,
        /// Address and port.
        local: SocketAddr,
    },
    /// A UDP socket that is not connected got its port.
    Bind {
        /// Who bound it, or sent from it first.
        process: Process,
        /// Address and port.
        local: SocketAddr,
    },
    /// A TCP socket stopped listening, or a UDP socket gave its port back.
    Close {
        /// Who had begun to listen.
        process: Process,
        /// `tcp` or `udp`.
        protocol: String,
        /// Address and port.
        local: SocketAddr,
    },
    /// A process took a connection that a peer opened.
    Accept {
        /// The server.
        process: Process,
        /// Its address and port.
        local: SocketAddr,
        /// The peer's.
        remote: SocketAddr,
        /// Who is at the peer, as far as known.
        from: Box<Party>,
        /// How it was seen.
        #[serde(default)]
        seen: Seen,
    },
    /// A process opens a connection. Seen by a trap, the verdict was in force before its first packet; seen by a lookup,
    /// the first packet met the rules for an unknown process.
    Connect {
        /// The client.
        process: Process,
        /// `tcp`, or `udp` for a connected socket.
        #[serde(default = "tcp")]
        protocol: String,
        /// Source address and port.
        local: SocketAddr,
        /// Destination.
        remote: SocketAddr,
        /// Who is at the destination, or the backend that it goes to, as far as known.
        to: Box<Party>,
        /// The backend, if it is for a route.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        route: Option<Box<Routed>>,
        /// The verdict.
        decision: Decision,
        /// How it was seen.
        #[serde(default)]
        seen: Seen,
    },
    /// A guest sends what none of its processes owns: by a raw socket, by the kernel itself, or by who hides.
    Unowned {
        /// `tcp` or `udp`.
        protocol: String,
        /// The guest's side.
        local: SocketAddr,
        /// The other side.
        remote: SocketAddr,
    },
    /// The datapath refused a packet.
    Refused {
        /// `out` (from the guest) or `in`.
        direction: String,
        /// `tcp`, `udp`, …
        protocol: String,
        /// The guest's side.
        local: SocketAddr,
        /// The other side.
        remote: SocketAddr,
        /// Who in the guest, if known.
        who: Option<Box<Party>>,
        /// The backend that it was for, if it is for a route and had one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        route: Option<Box<Routed>>,
        /// The verdict.
        decision: Decision,
    },
    /// A backend of a route stands otherwise than before.
    Backend {
        /// `SET/ROUTE`.
        route: String,
        /// The route's address and port.
        address: SocketAddr,
        /// The backend's.
        backend: SocketAddr,
        /// The backend's domain; none outside of this host.
        #[serde(skip_serializing_if = "Option::is_none", rename = "backend_domain")]
        domain: Option<String>,
        /// What it runs.
        version: Option<String>,
        /// How it stands now.
        state: BackendState,
        /// Why it takes no flows.
        why: Option<String>,
    },
    /// Sight of a domain changed.
    Sight {
        /// The degree now.
        mode: Mode,
        /// Why, in a sentence.
        message: String,
    },
    /// A domain came or went.
    Domain {
        /// `created` or `destroyed`.
        change: String,
    },
    /// The policy changed.
    Policy {
        /// Generation now in force.
        generation: u64,
        /// What was done, as `apply shop`.
        change: String,
    },
    /// The store of policies is not as it should be.
    Store {
        /// What is wrong, and what to do.
        message: String,
    },
    /// A process, thread or module of a guest hides.
    Hidden {
        /// What was found.
        finding: Finding,
    },
    /// A guest's kernel is not as it should be.
    Integrity {
        /// What was found.
        finding: Finding,
    },
    /// Events were lost on the way.
    Lost {
        /// How many.
        count: u64,
        /// Where.
        place: String,
    },
}

impl What {
    /// Every word that names a kind.
    pub const KINDS: [&str; 19] = [
        "fork",
        "exec",
        "exit",
        "cred",
        "listen",
        "bind",
        "close",
        "accept",
        "connect",
        "unowned",
        "refused",
        "backend",
        "sight",
        "domain",
        "policy",
        "store",
        "hidden",
        "integrity",
        "lost",
    ];

    /// The word that names the kind, as in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            What::Fork { .. } => "fork",
            What::Exec { .. } => "exec",
            What::Exit { .. } => "exit",
            What::Cred { .. } => "cred",
            What::Listen { .. } => "listen",
            What::Bind { .. } => "bind",
            What::Close { .. } => "close",
            What::Accept { .. } => "accept",
            What::Connect { .. } => "connect",
            What::Unowned { .. } => "unowned",
            What::Refused { .. } => "refused",
            What::Backend { .. } => "backend",
            What::Sight { .. } => "sight",
            What::Domain { .. } => "domain",
            What::Policy { .. } => "policy",
            What::Store { .. } => "store",
            What::Hidden { .. } => "hidden",
            What::Integrity { .. } => "integrity",
            What::Lost { .. } => "lost",
        }
    }
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Honest tools do this too, as tracing does.
    Notice,
    /// Rare on an honest machine.
    Warning,
    /// Nothing honest does this.
    Alert,
}

impl Severity {
    /// The lower-case word used in text and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Notice => "notice",
            Severity::Warning => "warning",
            Severity::Alert => "alert",
        }
    }
}

/// Something in a guest that an untouched kernel does not show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// A word for the kind, as `hidden-process` or `system-call`.
    pub kind: String,
    /// The finding as a sentence, evidence included.
    pub message: String,
    /// Of a hidden process or thread, the number that it says it has; of an unheld socket, that of a hidden process that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The name that what hides says it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where what hides was seen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seen_in: Vec<String>,
    /// Where it was not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_in: Vec<String>,
}

/// What a check of one domain's kernel found, and how far it went.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Check {
    /// Name of the domain.
    pub domain: String,
    /// What was found, the worst first.
    pub findings: Vec<Finding>,
    /// What could not be checked, and why.
    pub unchecked: Vec<String>,
    /// Tasks, threads included.
    pub tasks: usize,
    /// TCP and UDP sockets that a program opened.
    pub sockets: usize,
    /// Modules.
    pub modules: usize,
    /// Entries of system-call tables.
    pub system_calls: usize,
    /// Registers by which vCPUs enter the kernel.
    pub registers: usize,
    /// Gates of the interrupt descriptor table.
    pub gates: usize,
    /// Places in the code that the kernel patches itself.
    pub sites: usize,
    /// Constant tables of operations.
    pub operations: usize,
    /// Bytes of the kernel's code.
    pub text: usize,
    /// Functions that were compared with what they were at the first check; 0 at the first.
    pub functions: usize,
    /// Milliseconds it took.
    pub took_ms: u64,
}

impl Check {
    /// The worst severity found.
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }
}

/// A process, a domain whose process is not known, or an address outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphNode {
    /// `DOMAIN/PID`, `DOMAIN` or the address; names the node in edges.
    pub id: String,
    /// Name of the domain; none for an address outside.
    pub domain: Option<String>,
    /// Process id.
    pub pid: Option<u32>,
    /// Name of the process, while it runs.
    pub comm: Option<String>,
    /// Executable.
    pub exe: Option<String>,
    /// Of a peer outside.
    pub address: Option<std::net::IpAddr>,
}

/// A way for data from one node to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphEdge {
    /// Who writes a pipe; who opened a connection.
    pub from: String,
    /// The other end.
    pub to: String,
    /// `pipe`, `fifo`, `unix`, `tcp`, `udp`, …
    pub via: String,
    /// A path, or the address and port that the connection was opened to.
    pub name: Option<String>,
    /// How many pipes or connections this stands for.
    pub count: u64,
    /// Bytes of packets at the vif from `from` to `to`, where they were counted.
    pub bytes: Option<u64>,
    /// Bytes back.
    pub bytes_back: Option<u64>,
}

/// Data flow of one domain at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Graph {
    /// Name of the domain.
    pub domain: String,
    /// Every end of an edge, by id.
    pub nodes: Vec<GraphNode>,
    /// The edges.
    pub edges: Vec<GraphEdge>,
}

/// Which events a reader wants.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct EventFilter {
    /// Domain name or id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Kinds, comma-separated, as `exec,exit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Only events with a higher `seq`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Keep the stream open and send what comes.
    #[serde(default)]
    pub follow: bool,
}

/// A policy set in the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PolicySummary {
    /// Name of the set.
    pub name: String,
    /// Its description.
    pub description: Option<String>,
    /// Number of services.
    pub services: usize,
    /// Number of rules.
    pub rules: usize,
    /// Number of routes.
    #[serde(default)]
    pub routes: usize,
    /// Generation in which it was last changed.
    pub generation: u64,
    /// When, nanoseconds since 1970.
    pub applied_ns: u64,
    /// The user id in dom0 who applied it.
    pub by_uid: u32,
    /// That user's name at the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_name: Option<String>,
}

/// A policy set with its text.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PolicyDocument {
    /// What the list shows.
    #[serde(flatten)]
    pub summary: PolicySummary,
    /// The text as it was applied.
    pub text: String,
}

/// A question: what would happen to this flow?
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExplainRequest {
    /// Source domain by name or id; or an address outside.
    pub from: String,
    /// Source executable.
    #[serde(default)]
    pub exe: Option<String>,
    /// Source user id.
    #[serde(default)]
    pub uid: Option<u32>,
    /// Destination domain by name or id, an address, or a route as `ROUTE` or `SET/ROUTE`.
    pub to: String,
    /// Destination port; of a route its own.
    #[serde(default)]
    pub port: Option<u16>,
    /// `tcp` or `udp`.
    #[serde(default = "tcp")]
    pub protocol: String,
}

fn tcp() -> String {
    "tcp".into()
}

/// The answer to [`ExplainRequest`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Explained {
    /// The verdict.
    pub decision: Decision,
    /// Source as an identity.
    pub from: Party,
    /// Destination as an identity (with the process that listens there, if seen).
    pub to: Party,
    /// The walk to the verdict, line by line.
    pub why: Vec<String>,
}

/// What the API answers when it refuses.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong and what to do, one problem a line.
    pub error: String,
}

/// Which system calls of a domain are to be traced, and for how long.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceFilter {
    /// Names of calls, and `%process`, `%network`, `%file` for many at once; comma-separated.
    pub syscall: String,
    /// Only of this process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Only of processes with this executable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// Most calls a second, of all processes together, that are read; the daemon has a default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// End after so many calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// End after so many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<u64>,
}

/// One item of a trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TraceItem {
    /// The probes are armed: what happens from now on is told.
    Begin {
        /// Calls that are traced.
        calls: Vec<String>,
        /// What is not traced in full, a sentence each.
        gaps: Vec<String>,
    },
    /// A call that has returned, or never will.
    Call(TracedCall),
    /// More calls came than the limit allows.
    LeftOut {
        /// Calls that were seen, but not read.
        count: u64,
        /// For a part of the second nothing was seen, so that there may be more.
        at_least: bool,
    },
    /// The reader was too slow for some calls.
    Lost {
        /// How many.
        count: u64,
    },
    /// The trace is over.
    End {
        /// Why, where it was not asked for.
        why: Option<String>,
    },
}

/// A system call, as strace would tell it, and who made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracedCall {
    /// When it was made, nanoseconds since 1970.
    pub time_ns: u64,
    /// Process id in the guest's initial pid namespace.
    pub pid: u32,
    /// Thread id there.
    pub tid: u32,
    /// Name of the task.
    pub comm: String,
    /// Path of the executable, as it was when the call was made.
    pub exe: Option<String>,
    /// Real user id.
    pub uid: u32,
    /// Effective user id.
    pub euid: u32,
    /// Container id.
    pub container: Option<String>,
    /// `x86_64`, or `i386` for a call of the 32-bit ABI.
    pub abi: String,
    /// Name of the call.
    pub syscall: String,
    /// Arguments, each as strace shows it.
    pub args: Vec<String>,
    /// The result's register; none where the call did not return.
    pub result: Option<i64>,
    /// Name of the error, if it was one.
    pub error: Option<String>,
    /// The whole call in one line: `close(3) = 0`.
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_in_json_are_those_that_are_listed() {
        // serde's own list of the variants is in its complaint about one that is none.
        let complaint =
            serde_json::from_str::<What>(r#"{"kind": "none"}"#).expect_err("there is no such kind");
        let listed: Vec<String> = What::KINDS.iter().map(|kind| format!("`{kind}`")).collect();
        assert!(complaint.to_string().contains(&listed.join(", ")), "{complaint}");
    }
}
