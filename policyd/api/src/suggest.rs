// SPDX-License-Identifier: GPL-3.0-only
//! Policy from behaviour: what is asked for, and what the answer has.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::flow_history::{FlowTotals, PastFlow};
use crate::replay::Differences;

/// From which flows of the past a policy is to be learned, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SuggestQuery {
    /// From when on, seconds since 1970; an hour ago unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Until when, seconds since 1970; now unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// Names or patterns of the domains that it is to cover, separated by commas; all that have flows unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
    /// Name of the set; `suggested` unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Generalise nothing: domains, ports and addresses only as they were seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<bool>,
    /// Also allow what no program was seen for, though the domain's programs can be seen: by domain and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<bool>,
    /// Length of the prefix of the widest block of IPv4 addresses outside, 0 to 32; 24 unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 32))]
    pub widest: Option<u8>,
    /// The same for IPv6, 0 to 128; 48 unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 128))]
    pub widest6: Option<u8>,
    /// On flows from when on its effect is tried, seconds since 1970; a week ago unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tried: Option<u64>,
}

/// A policy that was learned, and what the one in force says too much.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Suggested {
    /// From when on flows were looked at, seconds since 1970.
    pub since: u64,
    /// Until when, seconds since 1970.
    pub until: u64,
    /// What was learned.
    #[serde(flatten)]
    pub suggestion: Suggestion,
    /// From when on its effect was tried, seconds since 1970.
    pub tried: u64,
    /// What it would have done to flows since then, put in force in place of the set of its name and beside the others.
    pub effect: Differences,
    /// What of the policy in force was used since `since`.
    pub usage: PolicyUsage,
}

/// The least policy that allows what was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Suggestion {
    /// Name of the set.
    pub name: String,
    /// The document, with comments.
    pub text: String,
    /// Flows that it was learned from.
    pub flows: u64,
    /// Domains whose default it makes deny.
    pub covered: Vec<String>,
    /// Its rules, in the order of the document.
    pub rules: Vec<SuggestedRule>,
    /// What was refused, and would stay so, those with most attempts first; at most 1000.
    pub refused: Vec<PastFlow>,
    /// What passed and is not allowed by it, and why, those with most flows first; at most 1000.
    pub left_out: Vec<LeftOut>,
    /// What passed when its program was not known yet, and is taken to be of a program that did the same; at most 1000.
    pub assumed: Vec<PastFlow>,
    /// What was refused and would pass all the same, since no rule can tell it from what is allowed; at most 1000.
    pub opened: Vec<PastFlow>,
    /// Kinds of flow that the lists above have no room for.
    pub unlisted: usize,
}

/// A rule of a suggestion, and what it was learned from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SuggestedRule {
    /// Its name within the set.
    pub name: String,
    /// The flows that it was learned from.
    #[serde(flatten)]
    pub totals: FlowTotals,
    /// Pairs of ends (domains, or domain and address) that it allows to meet.
    pub pairs: u64,
    /// Of those, how many were seen to.
    pub pairs_seen: u64,
    /// In what it allows more than was seen, each as a sentence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub generalised: Vec<String>,
    /// Some of the flows, those with most first.
    pub examples: Vec<String>,
}

/// Flows that passed, and that a suggestion does not allow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeftOut {
    /// The flows.
    #[serde(flatten)]
    pub flow: PastFlow,
    /// Why not.
    pub why: String,
}

/// What of the policy in force was used.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyUsage {
    /// Rules that decided no flow.
    pub unused: Vec<UnusedRule>,
    /// Rules that let pass more than what used them, the widest first.
    pub wide: Vec<WideRule>,
}

/// A rule that decided no flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UnusedRule {
    /// `SET/RULE`.
    pub rule: String,
    /// `allow`, `audit` or `deny`.
    pub action: String,
    /// Since when it is in force as it is, seconds since 1970; none where the history of policy does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_force_since: Option<u64>,
    /// It is in force for longer than that: nothing older was looked at.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub or_longer: bool,
}

/// A rule that lets pass more than what used it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WideRule {
    /// `SET/RULE`.
    pub rule: String,
    /// The flows that it decided.
    #[serde(flatten)]
    pub totals: FlowTotals,
    /// How many times as much it allows as was used: the product of `allowed / used` of all that it is wide in. More than 1.
    pub factor: f64,
    /// In what it is wide.
    pub excess: Vec<Excess>,
}

/// In what a rule is wide.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Excess {
    /// In what.
    pub of: Dimension,
    /// How many it allows: domains that there are, programs that are known in them, ports, addresses, protocols.
    pub allowed: u64,
    /// How many of them used it. At least 1.
    pub used: u64,
    /// It also allows what nobody has seen yet; counted as one more in `allowed`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub open_ended: bool,
    /// The same in a sentence, with what to write instead.
    pub says: String,
}

/// What a rule can be wide in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Dimension {
    /// Domains that may open flows.
    FromVm,
    /// Their programs.
    FromProgram,
    /// Addresses outside that may open flows.
    FromAddress,
    /// Domains that flows may go to.
    ToVm,
    /// Their programs.
    ToProgram,
    /// Addresses outside that flows may go to.
    ToAddress,
    /// Ports.
    Port,
    /// Protocols.
    Protocol,
}

impl Dimension {
    /// The word used in tables and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Dimension::FromVm => "from-vm",
            Dimension::FromProgram => "from-program",
            Dimension::FromAddress => "from-address",
            Dimension::ToVm => "to-vm",
            Dimension::ToProgram => "to-program",
            Dimension::ToAddress => "to-address",
            Dimension::Port => "port",
            Dimension::Protocol => "protocol",
        }
    }
}
