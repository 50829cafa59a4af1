// SPDX-License-Identifier: GPL-3.0-only
//! What else travels over the API: the daemon, its policy sets, questions and errors.

use crate::control::StoreStatus;
use crate::flow::{Decision, Lookups, Party};
use crate::flow_history::FlowHistoryStatus;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The daemon itself.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
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
    /// Reports of flows and refusals that the datapath had no room for, of all domains that there are.
    #[serde(default)]
    pub datapath_events_lost: u64,
    /// Flows whose owner was looked up.
    #[serde(default)]
    pub lookups: Lookups,
    /// The store of policies.
    #[serde(default)]
    pub store: StoreStatus,
    /// The history of flows.
    #[serde(default)]
    pub flow_history: FlowHistoryStatus,
}

/// A policy set in the store.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
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
    /// The user id in dom0 who applied it, as in [`crate::Author`].
    pub by_uid: u32,
    /// That user's name at the time, as there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_name: Option<String>,
}

/// A policy set with its text.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PolicyDocument {
    /// What the list shows.
    #[serde(flatten)]
    pub summary: PolicySummary,
    /// The text as it was applied.
    pub text: String,
}

/// A question: what would happen to this flow?
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
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
    /// Destination port; of a route its own. None where the protocol has no ports.
    #[serde(default)]
    pub port: Option<u16>,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, `sctp`, or the number.
    #[serde(default = "tcp")]
    pub protocol: String,
}

pub(crate) fn tcp() -> String {
    "tcp".into()
}

/// The answer to [`ExplainRequest`].
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ErrorBody {
    /// What is wrong and what to do, one problem a line.
    pub error: String,
}
