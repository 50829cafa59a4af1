// SPDX-License-Identifier: GPL-3.0-only
//! What a host lacks for the mesh, and how to get it.
//!
//! Each room looks at one side of the host and asks it through [`Host`] alone, so that hosts can be made for tests. Nothing is
//! changed by looking.

mod daemon;
mod host;
mod kernel;
mod xen;

use serde::Serialize;

pub use daemon::check as daemon;
pub use host::{Host, Live};

/// How a thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// The mesh works, and does less than it could; or it could not be found out.
    Warn,
    /// The mesh does not run, or does not enforce.
    Fail,
}

impl Level {
    /// The word in tables and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: a word.
    pub check: &'static str,
    /// How it stands.
    pub level: Level,
    /// What was found: a sentence.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Finding {
        Finding {
            check,
            level: Level::Ok,
            found: found.into(),
            remedy: None,
        }
    }

    fn warn(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding {
            check,
            level: Level::Warn,
            found: found.into(),
            remedy: Some(remedy.into()),
        }
    }

    fn fail(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding {
            level: Level::Fail,
            ..Finding::warn(check, found, remedy)
        }
    }
}

/// Looks at the host: its privileges, Xen, the domains' configuration, the kernel.
pub fn host(host: &impl Host) -> Vec<Finding> {
    let mut findings = privileges(host);
    findings.extend(xen::check(host));
    findings.extend(kernel::check(host));
    findings
}

fn privileges(host: &impl Host) -> Vec<Finding> {
    let status = host.read("/proc/self/status").unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    // Real, effective, saved, file system.
    match ids.and_then(|ids| ids.split_whitespace().nth(1)) {
        Some("0") => Vec::new(),
        _ => vec![Finding::warn(
            "root",
            "not run as root: not everything can be looked at",
            "sudo xmesh doctor",
        )],
    }
}

/// A version's first two numbers.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests;
