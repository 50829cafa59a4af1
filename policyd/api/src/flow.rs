// SPDX-License-Identifier: GPL-3.0-only
//! Flows, who decides them, and the routes that they take.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Pass or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The packet passes.
    Allow,
    /// The packet is refused.
    Deny,
}

impl Verdict {
    /// The lower-case word used in text and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Allow => "allow",
            Verdict::Deny => "deny",
        }
    }
}

/// A verdict and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Decision {
    /// Pass or not.
    pub verdict: Verdict,
    /// `SET/RULE`; or `default (from VM)`, `default (to)`, `process unknown`, `no rule`, `no backend of SET/ROUTE`.
    pub rule: String,
    /// The policy generation that decided.
    pub generation: u64,
}

/// One end of a flow as an identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Routed {
    /// `SET/ROUTE`; none where the route is no more, or the flow has been sent elsewhere by itself.
    pub route: Option<String>,
    /// What the backend runs.
    pub version: Option<String>,
    /// Its address and port.
    pub backend: SocketAddr,
    /// The rule that decides denies the flow, and sends it here instead.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub instead: bool,
}

/// How a backend of a route stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Flow {
    /// Domain whose vif this is.
    pub domain: String,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, `sctp`, or the number.
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Timing {
    /// Microseconds from SYN to SYN-ACK.
    pub setup_us: Option<u64>,
    /// Microseconds from the first data of who opened it to the first of the other; from the SYN, where the other speaks first.
    #[serde(default)]
    pub first_byte_us: Option<u64>,
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

/// What lookups of flows' owners have cost and given since the daemon started.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
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
    /// Packets that were held until the owner of their flow was known.
    #[serde(default)]
    pub held: u64,
    /// Of those, let go once their flow had a verdict.
    #[serde(default)]
    pub released: u64,
    /// Of those held, dropped since it took too long.
    #[serde(default)]
    pub late: u64,
    /// Of those held, dropped since nobody owns their flow, or nobody could say who does.
    #[serde(default)]
    pub unowned: u64,
    /// Not held: there was no room for more.
    #[serde(default)]
    pub no_room: u64,
    /// Of those let go, not taken by the kernel.
    #[serde(default)]
    pub lost: u64,
    /// Mean time from the vif and back to it of those let go, µs.
    #[serde(default)]
    pub wait_mean_us: f64,
    /// Time within which 99 of 100 of them went on, µs.
    #[serde(default)]
    pub wait_p99_us: f64,
}
