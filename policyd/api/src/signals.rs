// SPDX-License-Identifier: GPL-3.0-only
//! Golden signals: how services fare with one another.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::histogram::Histogram;

/// Which signals are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalsQuery {
    /// Seconds to look back, 60 to 3600; 300 unless told. Taken by whole minutes, the one that is under way included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u64>,
    /// Name of who opens the connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Name of who they go to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// How services fare with one another.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Signals {
    /// From when on `window` of each pair is, seconds since 1970.
    pub since: u64,
    /// Until when: now.
    pub until: u64,
    /// The most connections of the window first.
    pub pairs: Vec<PairSignals>,
    /// What makes pairs slow, the worst first.
    pub findings: Vec<Bottleneck>,
    /// Kinds of flow that found no room of their own and are counted as from and to `(others)`.
    pub folded: u64,
}

/// Who an end of connections is: what signals are added up by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Peer {
    /// `SET/SERVICE`, the domain's name where it is of no service, `world` for all outside of this host, or `(others)`.
    pub name: String,
    /// What the name is of.
    pub kind: PeerKind,
}

/// What a peer is.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum PeerKind {
    /// A service of policy.
    Service,
    /// A domain, all of whose processes without a service are one.
    #[default]
    Domain,
    /// Outside of this host.
    World,
    /// Too many to be told apart.
    Others,
}

/// The signals of one pair of parties.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PairSignals {
    /// Who opens the connections.
    pub from: Peer,
    /// Who they go to.
    pub to: Peer,
    /// The version of a route that they went to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `tcp`, `udp`, ….
    pub protocol: String,
    /// Port of the server; none where the protocol has none, or many are told as one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Flows that are open now.
    pub open: u64,
    /// Since the daemon runs. These only grow.
    pub total: Totals,
    /// In the window.
    pub window: Window,
    /// The route that they went to, as `SET/ROUTE`: a version means something only with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// How times of the window are distributed; told where a version is, since versions are compared by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<Times>,
}

/// How times are distributed, so that those of several pairs can be added up: all in µs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Times {
    /// As `setup_us`.
    #[serde(default)]
    pub setup_us: Histogram,
    /// As `first_byte_us`.
    #[serde(default)]
    pub first_byte_us: Histogram,
}

/// Counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Totals {
    /// Flows that were opened, those denied included.
    pub connections: u64,
    /// Of them, denied.
    pub denied: u64,
    /// Of those allowed, TCP connections that did not come about: refused by the server, or not answered.
    pub failed: u64,
    /// Packets from who opened them.
    pub packets_out: u64,
    /// Packets to who opened them.
    pub packets_in: u64,
    /// Bytes from who opened them, Ethernet headers included.
    pub bytes_out: u64,
    /// Bytes to who opened them.
    pub bytes_in: u64,
    /// TCP segments that came twice, from who opened them.
    pub retransmissions_out: u64,
    /// The same from the server.
    pub retransmissions_in: u64,
    /// TCP segments by which who opened them said that it takes no more.
    pub zero_windows_out: u64,
    /// The same of the server.
    pub zero_windows_in: u64,
}

impl Totals {
    /// Adds what was counted elsewhere or at another time.
    pub fn add(&mut self, other: &Totals) {
        let sum = u64::saturating_add;
        *self = Totals {
            connections: sum(self.connections, other.connections),
            denied: sum(self.denied, other.denied),
            failed: sum(self.failed, other.failed),
            packets_out: sum(self.packets_out, other.packets_out),
            packets_in: sum(self.packets_in, other.packets_in),
            bytes_out: sum(self.bytes_out, other.bytes_out),
            bytes_in: sum(self.bytes_in, other.bytes_in),
            retransmissions_out: sum(self.retransmissions_out, other.retransmissions_out),
            retransmissions_in: sum(self.retransmissions_in, other.retransmissions_in),
            zero_windows_out: sum(self.zero_windows_out, other.zero_windows_out),
            zero_windows_in: sum(self.zero_windows_in, other.zero_windows_in),
        };
    }
}

/// What was counted and measured in a window of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Window {
    /// Counts.
    #[serde(flatten)]
    pub counts: Totals,
    /// TCP: from SYN to SYN-ACK.
    pub setup_us: Quantiles,
    /// TCP: from the client's data to the server's ACK, at the vif: network to the server and back. One value a look at the flow.
    pub server_rtt_us: Quantiles,
    /// TCP: from the server's data to the client's ACK.
    pub client_rtt_us: Quantiles,
    /// TCP: from the client's first data to the server's first; from the SYN, where the server speaks first.
    pub first_byte_us: Quantiles,
}

/// How values are distributed, within 1 % of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Quantiles {
    /// How many values there are.
    pub count: u64,
    /// Their mean; 0 without values, as all that follow.
    pub mean: f64,
    /// Half of them are at most this.
    pub p50: f64,
    /// Nine of ten.
    pub p90: f64,
    /// 99 of a hundred.
    pub p99: f64,
    /// All of them.
    pub max: f64,
}

/// Which side makes a pair slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Culprit {
    /// Who opens the connections does not keep up.
    Client,
    /// What is between the two.
    Network,
    /// Who answers.
    Server,
    /// A rate that policy gives.
    Qos,
}

/// What makes a pair slow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Bottleneck {
    /// Who opens the connections.
    pub from: Peer,
    /// Who they go to.
    pub to: Peer,
    /// The version of a route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Port of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Which side.
    pub culprit: Culprit,
    /// What shows it, in a sentence with figures.
    pub evidence: String,
    /// How many times as slow as it would be without; at least 1.
    pub factor: f64,
}
