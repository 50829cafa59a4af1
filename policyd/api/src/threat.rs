// SPDX-License-Identifier: GPL-3.0-only
//! What looks like an attack, and by which rule.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::guest::{Process, Severity};

/// A rule by which threats are found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ThreatRule {
    /// Its name, as `reverse-shell`.
    pub id: String,
    /// How bad it is at worst.
    pub severity: Severity,
    /// The technique's number in MITRE ATT&CK, as `T1059.004`.
    pub technique: String,
    /// What it looks for, in a sentence.
    pub about: String,
    /// Who does that honestly, in a sentence.
    pub benign: String,
}

/// Something that a rule found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Threat {
    /// The rule's name.
    pub rule: String,
    /// How bad.
    pub severity: Severity,
    /// The technique's number in MITRE ATT&CK.
    pub technique: String,
    /// What was found, in a sentence.
    pub title: String,
    /// The facts that speak for it, each in a sentence.
    pub evidence: Vec<String>,
    /// The process, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Box<Process>>,
    /// What was done about it, if an answer was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
}

/// A threat in the list of those that were found, by earlier daemons, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KnownThreat {
    /// The domain's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The domain's id when it was found last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domid: Option<u16>,
    /// Found first, nanoseconds since 1970.
    pub first_ns: u64,
    /// Found last, nanoseconds since 1970.
    pub last_ns: u64,
    /// How often. Told as an event once, and again when it comes after an hour of quiet.
    pub count: u64,
    /// What was found first.
    #[serde(flatten)]
    pub threat: Threat,
}

/// Which threats are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ThreatQuery {
    /// Domain name or id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// At least so bad.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
}

/// Threats, the newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Threats {
    /// Those that were found.
    pub threats: Vec<KnownThreat>,
    /// Threats that were let go for room, or whose record was damaged.
    pub forgotten: u64,
    /// Events that came faster than they could be looked at.
    pub missed: u64,
}
