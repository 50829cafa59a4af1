// SPDX-License-Identifier: GPL-3.0-only
//! Flows of the past, as they are kept: added up by who, to whom, on which port, with what verdict.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::flow::Verdict;

/// One end of flows of the past.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct FlowEnd {
    /// Name of the domain; none for an end outside of this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// UUID of the domain, in the common form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Address; of a block its first. None for ends that are too many to be told apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Length of the block's prefix, where addresses outside were too many to keep each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<u8>,
    /// Effective user id of the process; none where the process is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Its executable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// Its container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Its arguments; none where they are long, or differ too often to keep each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// Its groups and its login; none where these are not kept: they are many, or differ too often, or an earlier version wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<FlowUser>,
    /// Executables of its ancestors, the nearest first; none where these are not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parents: Option<Vec<String>>,
    /// Whether dom0 gave the domain this address; none where an earlier version wrote it, and for an end outside of this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<bool>,
    /// Services that it belonged to, as `SET/SERVICE`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
}

/// As whom a process ran, beside its user id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct FlowUser {
    /// Effective group id.
    pub gid: u32,
    /// Supplementary groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<u32>,
    /// User id of the login that it came from; none where there was no login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loginuid: Option<u32>,
}

impl FlowEnd {
    /// In a few words: `web1:/usr/bin/curl`, `192.0.2.7`, `203.0.113.0/24`.
    pub fn label(&self) -> String {
        match (&self.domain, &self.exe, self.address, self.prefix) {
            (Some(domain), Some(exe), ..) => format!("{domain}:{exe}"),
            (Some(domain), None, ..) => domain.clone(),
            (None, _, Some(address), Some(prefix)) => format!("{address}/{prefix}"),
            (None, _, Some(address), None) => address.to_string(),
            (None, _, None, _) => "(others)".into(),
        }
    }
}

/// What flows of the past have in common that are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct FlowName {
    /// Who opened them.
    pub from: FlowEnd,
    /// Who they went to: of a route the backend.
    pub to: FlowEnd,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, `sctp`, or the number.
    pub protocol: String,
    /// The port they went to; 0 where the protocol has none. None: many ports, too many to keep each.
    pub port: Option<u16>,
    /// Pass or not.
    pub verdict: Verdict,
    /// What decided, as in a decision.
    pub rule: String,
    /// Whether rules and defaults decided: not a lock, nor the want of a backend.
    pub by_policy: bool,
}

/// How many such flows there were in some time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowTotals {
    /// Flows that were opened; of those denied, attempts.
    pub flows: u64,
    /// Reports of a vif that it refused packets of them.
    pub refused: u64,
    /// Packets from who opened them.
    pub packets_out: u64,
    /// Bytes from who opened them, Ethernet headers included.
    pub bytes_out: u64,
    /// Packets to who opened them.
    pub packets_in: u64,
    /// Bytes to who opened them.
    pub bytes_in: u64,
    /// When the first was seen, seconds since 1970.
    pub first: u64,
    /// When the last was, seconds since 1970.
    pub last: u64,
}

impl FlowTotals {
    /// Adds what was counted elsewhere or at another time.
    pub fn add(&mut self, other: &FlowTotals) {
        let (first, last) = match self.last {
            0 => (other.first, other.last),
            last => (self.first.min(other.first), last.max(other.last)),
        };
        let sum = |a: u64, b: u64| a.saturating_add(b);
        *self = FlowTotals {
            flows: sum(self.flows, other.flows),
            refused: sum(self.refused, other.refused),
            packets_out: sum(self.packets_out, other.packets_out),
            bytes_out: sum(self.bytes_out, other.bytes_out),
            packets_in: sum(self.packets_in, other.packets_in),
            bytes_in: sum(self.bytes_in, other.bytes_in),
            first,
            last,
        };
    }
}

/// Flows of the past that are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PastFlow {
    /// What they have in common.
    #[serde(flatten)]
    pub name: FlowName,
    /// How many there were.
    #[serde(flatten)]
    pub totals: FlowTotals,
}

/// Which flows of the past are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PastQuery {
    /// From when on, seconds since 1970; an hour ago unless told. What is older than a day is kept by the hour, and later by the day:
    /// the answer says which time it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Until when, seconds since 1970; now unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// Who opened them: a domain or pattern of domains, with `:EXE` a program, `SET/SERVICE`, an address or block, or `world`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Who they went to, in the same words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The port they went to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// What decided: `SET/RULE`, or the start of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// At most so many; 1 to 1000, 100 unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub limit: Option<usize>,
    /// Leave out so many: `next` of the page before. The same `since` and `until` as that page's give the same order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip: Option<usize>,
}

/// A part of the flows of the past, those with most flows first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PastPage {
    /// From when on these are counted, seconds since 1970.
    pub since: u64,
    /// Until when, seconds since 1970.
    pub until: u64,
    /// How many there are on all pages.
    pub all: usize,
    /// The flows.
    pub flows: Vec<PastFlow>,
    /// What to ask for with `skip` to go on; none at the end.
    pub next: Option<usize>,
}

/// How the history of flows is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowHistoryStatus {
    /// Whether one is kept.
    pub kept: bool,
    /// Bytes that it has on the disk.
    pub bytes: u64,
    /// Bytes that it may have.
    pub limit: u64,
    /// Kinds of flow that are told apart.
    pub names: usize,
    /// Notes of flows that came faster than they could be taken; these flows are missing until the next look at all flows.
    pub lost: u64,
    /// Minutes that could not be written.
    pub unwritten: u64,
    /// What is wrong, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}
