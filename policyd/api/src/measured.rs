// SPDX-License-Identifier: GPL-3.0-only
//! What programs processes run, by the text in their memory.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::guest::Process;

/// What the text of a process's program is, beside the programs of the policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Measured {
    /// Nobody has looked yet, or nothing of it is in memory.
    #[default]
    Unknown,
    /// No program of the policy lies where its executable does.
    Unregistered,
    /// It is that of a program of the policy.
    Same,
    /// It is that of none of them.
    Changed,
}

impl Measured {
    /// The lower-case word used in text and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Measured::Unknown => "unknown",
            Measured::Unregistered => "unregistered",
            Measured::Same => "same",
            Measured::Changed => "changed",
        }
    }
}

/// What a look at the text of a process's program showed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Text {
    /// Beside the programs of the policy.
    pub measured: Measured,
    /// Which of them it is, as `set/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// How many of its pages are in memory.
    pub pages: u64,
    /// Where in the file pages differ from the program that is nearest: bytes, at most the first 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<u64>,
    /// Where in the file pages are that somebody wrote to in this process's memory alone: bytes, at most the first 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub private: Vec<u64>,
    /// Nothing of its executable is mapped where it could be executed: what runs is something else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unmapped: bool,
}

/// A process whose text was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MeasuredProcess {
    /// The domain.
    pub domain: String,
    /// The process.
    pub process: Process,
    /// What was seen last.
    pub text: Text,
}

/// Those that were looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MeasuredProcesses {
    /// By domain and process.
    pub processes: Vec<MeasuredProcess>,
    /// Processes that were to be looked at and found no room.
    pub dropped: u64,
}

/// Which processes.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MeasuredQuery {
    /// Domain name or id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
}
