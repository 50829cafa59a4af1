// SPDX-License-Identifier: GPL-3.0-only
//! What the datapath counts and measures.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Counters and measurements of the datapath, of one domain or all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Stats {
    /// By domain.
    pub domains: Vec<DomainStats>,
    /// By domain, other end and rule.
    pub connections: Vec<ConnectionStats>,
    /// Every rule in dry run, whichever the domain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dry_runs: Vec<DryRunStats>,
}

/// Flows that a rule in dry run would have decided otherwise, since it is in dry run or the daemon runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DryRunStats {
    /// `SET/RULE`.
    pub rule: String,
    /// Those that it would have let pass.
    pub allow: u64,
    /// Those that it would have denied.
    pub deny: u64,
}

/// The packets at the vifs of one domain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DomainStats {
    /// The domain.
    pub domain: String,
    /// From the guest.
    pub out: PacketCounts,
    /// To the guest.
    #[serde(rename = "in")]
    pub into: PacketCounts,
}

/// Packets in one direction since the domain was first seen. Each is in exactly one of `passed`, `denied` and `held` (a RST
/// made at the vif is in none); the other counts say why, or what was not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PacketCounts {
    /// Let through; with segmentation offload a packet has up to 64 KB.
    pub passed: u64,
    /// Bytes of those, Ethernet header included.
    pub passed_bytes: u64,
    /// Denied.
    pub denied: u64,
    /// Of the denied, answered with a RST.
    pub resets: u64,
    /// Dropped for headers that are cut short or contradict themselves.
    pub malformed: u64,
    /// TCP segments that open no connection and belong to none.
    pub stray: u64,
    /// From the guest, but not from its own addresses, where those are locked.
    pub forged: u64,
    /// Later fragments of a packet whose first fragment did not pass.
    pub fragments: u64,
    /// Neither IP nor ARP, or with more tags than are looked behind.
    pub unknown_l3: u64,
    /// To another MAC address than the guest's.
    pub foreign: u64,
    /// For a route that had no backend for them.
    pub unserved: u64,
    /// To the MAC address of routes, but of none of their flows.
    pub unrouted: u64,
    /// Flows that there was no room to remember.
    pub flow_errors: u64,
    /// Events that the datapath had no room for.
    pub events_lost: u64,
    /// First packets that were kept until the owner of their flow was looked up.
    pub held: u64,
    /// Of the held, those that came back, and were then passed or denied; the others were dropped.
    pub released: u64,
    /// Of the denied, those that were to be held, and could not be.
    pub unheld: u64,
    /// Of the passed, those that went straight to another guest's interface, past the bridge.
    pub direct: u64,
}

impl PacketCounts {
    /// Every count with its name, in order.
    pub fn named(&self) -> [(&'static str, u64); 18] {
        [
            ("passed", self.passed),
            ("passed_bytes", self.passed_bytes),
            ("denied", self.denied),
            ("resets", self.resets),
            ("malformed", self.malformed),
            ("stray", self.stray),
            ("forged", self.forged),
            ("fragments", self.fragments),
            ("unknown_l3", self.unknown_l3),
            ("foreign", self.foreign),
            ("unserved", self.unserved),
            ("unrouted", self.unrouted),
            ("flow_errors", self.flow_errors),
            ("events_lost", self.events_lost),
            ("held", self.held),
            ("released", self.released),
            ("unheld", self.unheld),
            ("direct", self.direct),
        ]
    }
}

/// How TCP connections of one domain fared that one rule decided, to or from one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectionStats {
    /// The domain at whose vif this was measured.
    pub domain: String,
    /// Whether the guest opened them.
    pub outgoing: bool,
    /// The other end: a domain, or an address block of the policy as `192.0.2.0/24`. None where an earlier daemon named it.
    pub peer: Option<String>,
    /// What decided, as in a decision; of a rule of an older generation only the number is known: `rule NUMBER of GENERATION`.
    pub rule: String,
    /// µs from SYN to SYN-ACK; one value a connection.
    pub setup_us: Distribution,
    /// µs from data of the guest to its ACK: the way to the peer and back.
    pub rtt_out_us: Distribution,
    /// The same for data to the guest: the way into the guest and back.
    pub rtt_in_us: Distribution,
    /// Segments from the guest that had passed before; one value a connection that ended.
    pub retransmissions_out: Distribution,
    /// The same to the guest.
    pub retransmissions_in: Distribution,
    /// Segments by which the guest said that it takes no more data; one value a connection that ended.
    pub zero_windows_out: Distribution,
    /// The same of the peer.
    pub zero_windows_in: Distribution,
}

/// How values are distributed. They are counted in intervals of powers of two, so a percentile is the end of the interval that
/// it lies in: at most so much, and more than half of it. 2147483647 stands for all above, too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Distribution {
    /// How many values there are.
    pub values: u64,
    /// Their sum.
    pub sum: u64,
    /// Half of them are at most this; none without values.
    pub p50: Option<u64>,
    /// Nine of ten.
    pub p90: Option<u64>,
    /// 99 of a hundred.
    pub p99: Option<u64>,
}
