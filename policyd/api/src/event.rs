// SPDX-License-Identifier: GPL-3.0-only
//! What happened, as the event log tells it.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::flow::{BackendState, Decision, Party, Routed};
use crate::guest::{Finding, Mode, Process};
use crate::measured::Text;
use crate::threat::Threat;

/// Users, groups and capabilities of a process, numbered as in the guest's initial user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Seen {
    /// By a trap, before its first packet.
    #[default]
    Trap,
    /// By reading the guest's tables, once the vif had seen its first packet.
    Lookup,
    /// By a trap, under the address that it has inside of its guest. The guest translates that (NAT), and this is the flow as the
    /// vif sees it.
    Translated,
}

/// Something that happened.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
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
    /// The text of a process's program is not what it should be, or is again.
    Measured {
        /// The process.
        process: Process,
        /// What was seen.
        text: Text,
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
        #[serde(default = "crate::types::tcp")]
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
    /// A rule in dry run would have decided a flow otherwise than it was.
    DryRun {
        /// `tcp`, `udp`, …
        protocol: String,
        /// The guest's side.
        local: SocketAddr,
        /// The other side.
        remote: SocketAddr,
        /// The guest opened it; else it was opened to the guest.
        outgoing: bool,
        /// Who in the guest.
        who: Box<Party>,
        /// What it would have been, and by which rule.
        would: Decision,
        /// So many flows the rule would have decided so by now.
        count: u64,
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
    /// Something looks like an attack.
    Threat {
        /// What was found.
        threat: Box<Threat>,
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
    pub const KINDS: [&str; 22] = [
        "fork",
        "exec",
        "exit",
        "cred",
        "measured",
        "listen",
        "bind",
        "close",
        "accept",
        "connect",
        "unowned",
        "refused",
        "dryrun",
        "backend",
        "sight",
        "domain",
        "policy",
        "store",
        "hidden",
        "integrity",
        "threat",
        "lost",
    ];

    /// The word that names the kind, as in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            What::Fork { .. } => "fork",
            What::Exec { .. } => "exec",
            What::Exit { .. } => "exit",
            What::Cred { .. } => "cred",
            What::Measured { .. } => "measured",
            What::Listen { .. } => "listen",
            What::Bind { .. } => "bind",
            What::Close { .. } => "close",
            What::Accept { .. } => "accept",
            What::Connect { .. } => "connect",
            What::Unowned { .. } => "unowned",
            What::Refused { .. } => "refused",
            What::DryRun { .. } => "dryrun",
            What::Backend { .. } => "backend",
            What::Sight { .. } => "sight",
            What::Domain { .. } => "domain",
            What::Policy { .. } => "policy",
            What::Store { .. } => "store",
            What::Hidden { .. } => "hidden",
            What::Integrity { .. } => "integrity",
            What::Threat { .. } => "threat",
            What::Lost { .. } => "lost",
        }
    }
}

/// Which events a reader wants.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
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
