// SPDX-License-Identifier: GPL-3.0-only
//! What a policy would do that is not in force: to flows of the past, and to those that come while it runs beside the one that is.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::control::{Author, SourceText};
use crate::flow::Verdict;
use crate::flow_history::PastFlow;

/// Sets that are to be tried on flows of the past, in place of those of their names or beside the others that are in force.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayRequest {
    /// The documents; each is a set of its own.
    pub documents: Vec<SourceText>,
    /// From when on, seconds since 1970; a week ago unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Until when, seconds since 1970; now unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

/// Flows that another policy would treat in another way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Difference {
    /// The flows, with what became of them and by which rule.
    #[serde(flatten)]
    pub flow: PastFlow,
    /// What would have become of them.
    pub would: Verdict,
    /// By what, as in a decision.
    pub would_rule: String,
    /// What becomes of such flows by the policy in force now.
    pub now: Verdict,
    /// Why it is not sure; none where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsure: Option<String>,
    /// One of them, where they were seen one by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub example: Option<FlowExample>,
}

/// One flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowExample {
    /// The guest's side.
    pub local: SocketAddr,
    /// The other side.
    pub remote: SocketAddr,
    /// The process in the guest, if it was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
}

/// What another policy would change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Differences {
    /// Flows that were looked at.
    pub flows: u64,
    /// Of those, what neither policy decides: locks, routes without a backend, kinds of flow too many to keep each.
    pub not_judged: u64,
    /// Flows that passed and would be denied.
    pub cut: u64,
    /// Flows that were denied and would pass.
    pub opened: u64,
    /// Which, those with most flows first; at most 1000.
    pub differences: Vec<Difference>,
    /// Kinds of flow that differ, too, and are not listed.
    pub left_out: u64,
}

/// What a policy would have done to flows of the past.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Replay {
    /// From when on, seconds since 1970.
    pub since: u64,
    /// Until when, seconds since 1970.
    pub until: u64,
    /// What it would have changed.
    #[serde(flatten)]
    pub differences: Differences,
}

/// Sets that are to be tried beside those in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShadowRequest {
    /// The documents; each is a set of its own. None: nothing is tried any more.
    pub documents: Vec<SourceText>,
}

/// The policy that runs beside the one in force, and what it would do otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShadowStatus {
    /// Names of the files of its sets; none: there is no such policy.
    pub files: Vec<String>,
    /// Who asked for it.
    pub by: Author,
    /// Since when it runs, or the policy in force was last changed; seconds since 1970.
    pub since: u64,
    /// Why it does not run, where it is not valid beside the sets in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What it would do otherwise.
    #[serde(flatten)]
    pub differences: Differences,
}
