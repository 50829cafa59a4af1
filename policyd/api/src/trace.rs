// SPDX-License-Identifier: GPL-3.0-only
//! System calls, as they are traced.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which system calls of a domain are to be traced, and for how long.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TraceFilter {
    /// Names of calls, and `%process`, `%network`, `%file` for many at once; comma-separated.
    pub syscall: String,
    /// Only of this process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Only of processes with this executable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// Most calls a second, of all processes together, that are read; the daemon has a default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// End after so many calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// End after so many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<u64>,
}

/// One item of a trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TraceItem {
    /// The probes are armed: what happens from now on is told.
    Begin {
        /// Calls that are traced.
        calls: Vec<String>,
        /// What is not traced in full, a sentence each.
        gaps: Vec<String>,
    },
    /// A call that has returned, or never will.
    Call(TracedCall),
    /// More calls came than the limit allows.
    LeftOut {
        /// Calls that were seen, but not read.
        count: u64,
        /// For a part of the second nothing was seen, so that there may be more.
        at_least: bool,
    },
    /// Traps cost the guest more than its budget: no call is seen for a while.
    Rest {
        /// For how long.
        seconds: u64,
        /// What they cost, as a sentence without its subject.
        why: String,
    },
    /// That is over: what happens from now on is told again.
    Resumed,
    /// The reader was too slow for some calls.
    Lost {
        /// How many.
        count: u64,
    },
    /// The trace is over.
    End {
        /// Why, where it was not asked for.
        why: Option<String>,
    },
}

/// A system call, as strace would tell it, and who made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TracedCall {
    /// When it was made, nanoseconds since 1970.
    pub time_ns: u64,
    /// Process id in the guest's initial pid namespace.
    pub pid: u32,
    /// Thread id there.
    pub tid: u32,
    /// Name of the task.
    pub comm: String,
    /// Path of the executable, as it was when the call was made.
    pub exe: Option<String>,
    /// Real user id.
    pub uid: u32,
    /// Effective user id.
    pub euid: u32,
    /// Container id.
    pub container: Option<String>,
    /// `x86_64`, or `i386` for a call of the 32-bit ABI.
    pub abi: String,
    /// Name of the call.
    pub syscall: String,
    /// Arguments, each as strace shows it.
    pub args: Vec<String>,
    /// The result's register; none where the call did not return.
    pub result: Option<i64>,
    /// Name of the error, if it was one.
    pub error: Option<String>,
    /// The whole call in one line: `close(3) = 0`.
    pub text: String,
}
