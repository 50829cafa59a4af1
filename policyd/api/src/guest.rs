// SPDX-License-Identifier: GPL-3.0-only
//! What is seen of a domain: itself, its processes, its sockets, its kernel.

use std::net::{IpAddr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How much of a domain the daemon sees. Ordered: a later degree sees more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
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

/// One domain on this host.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
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
    /// Its labels, by key.
    #[serde(default)]
    pub labels: Vec<Label>,
    /// How it is virtualised: `pv`, `pvh` or `hvm`; none where that is not known.
    #[serde(default)]
    pub guest_type: Option<String>,
    /// Its pool of processors; none where that is not known.
    #[serde(default)]
    pub pool: Option<String>,
}

/// A label of a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Label {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// Where it is said: `set SET ("PATTERN")`, or a node of xenstore.
    pub from: String,
}

/// A virtual interface of a domain, as dom0 sees it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Vif {
    /// Interface name in dom0, as `vif3.0`.
    pub name: String,
    /// The guest's MAC address, from xenstore.
    pub mac: Option<String>,
    /// Whether the datapath is attached to it.
    pub covered: bool,
}

/// One probe armed in a guest.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Probe {
    /// The kernel function probed; `(traces)` for all probes of traces as one.
    pub function: String,
    /// `skip` (one exit), `step` (single-step), or why it is not armed; how many of traces there are.
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

/// Sets of capabilities of a process, in its user namespace: a bit each, numbered as in linux/capability.h. In JSON 16 hexadecimal
/// digits, as in /proc/PID/status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "as named in capabilities(7)")]
pub struct Capabilities {
    #[serde(with = "digits")]
    #[schemars(with = "String")]
    pub inheritable: u64,
    #[serde(with = "digits")]
    #[schemars(with = "String")]
    pub permitted: u64,
    #[serde(with = "digits")]
    #[schemars(with = "String")]
    pub effective: u64,
    #[serde(with = "digits")]
    #[schemars(with = "String")]
    pub bounding: u64,
    #[serde(with = "digits")]
    #[schemars(with = "String")]
    pub ambient: u64,
}

/// A set of bits as 16 hexadecimal digits.
mod digits {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bits: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{bits:016x}"))
    }

    pub fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<u64, D::Error> {
        let text = String::deserialize(from)?;
        u64::from_str_radix(&text, 16)
            .map_err(|e| D::Error::custom(format!("`{text}` is no set of bits: {e}")))
    }
}

/// A process in a guest, or what is left of one that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    /// Control group, as `/system.slice/nginx.service`.
    #[serde(default)]
    pub cgroup: Option<String>,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Inode number of the PID namespace; 0 where not known.
    #[serde(default)]
    pub pidns: u32,
    /// Inode number of the mount namespace; 0 where not known.
    #[serde(default)]
    pub mntns: u32,
    /// Capabilities.
    #[serde(default)]
    pub capabilities: Capabilities,
    /// Start, nanoseconds after the guest's boot.
    pub start_time_ns: u64,
    /// Executables of its ancestors, nearest first.
    pub parents: Vec<String>,
}

/// A TCP or UDP socket of a guest and who owns it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
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

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Graph {
    /// Name of the domain.
    pub domain: String,
    /// Every end of an edge, by id.
    pub nodes: Vec<GraphNode>,
    /// The edges.
    pub edges: Vec<GraphEdge>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_travel_as_proc_writes_them() {
        let sets = Capabilities {
            permitted: 0x1ff_ffff_ffff,
            effective: 0xa804_25fb,
            ..Capabilities::default()
        };
        let text = serde_json::to_string(&sets).unwrap();
        assert!(text.contains(r#""effective":"00000000a80425fb""#), "{text}");
        assert_eq!(serde_json::from_str::<Capabilities>(&text).unwrap(), sets);
        let error = serde_json::from_str::<Capabilities>(&text.replace("a80425fb", "no"));
        assert!(error.unwrap_err().to_string().contains("is no set of bits"));
    }
}
