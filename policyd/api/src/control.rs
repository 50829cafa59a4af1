// SPDX-License-Identifier: GPL-3.0-only
//! Changes of policy and what is kept of them: generations, the audit log, and what is asked of both.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::chain::{Anchor, AuditEntry, Chain};

/// Who asked for something, by the kernel's word or a certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Author {
    /// User id in dom0; 4294967295, which nobody has there, for who came by certificate.
    pub uid: u32,
    /// Name of that user in dom0 at the time, if it had one; of who came by certificate `cert:` and its first name, as `cert:CN=alice`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What kind of change it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Sets were put in force.
    Apply,
    /// A set was taken out of force.
    Delete,
    /// All sets were made what they were at an earlier generation.
    Rollback,
    /// All sets were made those of an export.
    Import,
    /// Sets were put in force for some VMs first.
    Stage,
    /// What held for some VMs holds for all.
    Promote,
    /// What held for some VMs was taken back.
    Abandon,
    /// The store took over what an older version of policyd had written.
    Migrate,
    /// A damaged store was set aside.
    Recover,
}

impl Action {
    /// The lower-case word used in text and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Apply => "apply",
            Action::Delete => "delete",
            Action::Rollback => "rollback",
            Action::Import => "import",
            Action::Stage => "stage",
            Action::Promote => "promote",
            Action::Abandon => "abandon",
            Action::Migrate => "migrate",
            Action::Recover => "recover",
        }
    }
}

/// A text of a set, by its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Version {
    /// SHA-256 of the text, 64 hexadecimal digits.
    pub text: String,
    /// Name of the file it came from.
    pub file: String,
}

/// What a change did to one set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Edit {
    /// Name of the set.
    pub set: String,
    /// What it was; none if it is new.
    pub before: Option<Version>,
    /// What it became; none if it is gone.
    pub after: Option<Version>,
}

/// One generation of the policy and how it came about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Generation {
    /// Its number; rises by one with each change.
    pub generation: u64,
    /// When, nanoseconds since 1970.
    pub time_ns: u64,
    /// Who.
    pub by: Author,
    /// What kind of change.
    pub action: Action,
    /// Of a rollback, the generation gone back to; of an import, that of the export.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
    /// Why, in the words of who did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What it did to which set, by name. Sets that stayed as they were are not here.
    pub edits: Vec<Edit>,
    /// What holds for some VMs from then on: until another generation has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<Stage>,
}

/// A change that holds for some VMs first: for flows with one of them at an end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Stage {
    /// Names of VMs, or patterns of them.
    pub vms: Vec<String>,
    /// Since when, nanoseconds since 1970.
    pub since_ns: u64,
    /// When it is to hold for all if nothing speaks against it; none: when somebody says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ns: Option<u64>,
    /// What holds there of which set.
    pub edits: Vec<Edit>,
}

/// For whom a change is to hold first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StageOptions {
    /// Names of VMs, or patterns of them, at least one.
    pub vms: Vec<String>,
    /// After so many seconds without trouble it holds for all; none: when somebody says so. 1 to 604800.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

/// What is being rolled out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rollout {
    /// The change; none: nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<Stage>,
    /// Flows of its VMs in the ten minutes before.
    pub before: Refusals,
    /// Flows of its VMs since.
    pub since: Refusals,
}

/// How many flows were refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refusals {
    /// Flows that were opened.
    pub flows: u64,
    /// Of them, refused by policy.
    pub refused: u64,
}

/// A part of the history, the newest first.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct HistoryPage {
    /// The generation in force.
    pub generation: u64,
    /// The oldest generation that can be gone back to.
    pub oldest: u64,
    /// The generations.
    pub generations: Vec<Generation>,
    /// What to ask for with `before` to go on; none at the end.
    pub next: Option<u64>,
}

/// A part of the audit log, the newest first.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct AuditPage {
    /// The newest entry of all.
    pub head: Anchor,
    /// The entries.
    pub entries: Vec<AuditEntry>,
    /// What to ask for with `before` to go on; none at the end.
    pub next: Option<u64>,
}

/// Which part of the history or the audit log is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    /// Only what has a lower number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// At most so many; 1 to 1000, 100 unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub limit: Option<usize>,
    /// Of the history: only changes of this set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
}

/// Texts of the sets at a generation.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct SetsAt {
    /// The generation.
    pub generation: u64,
    /// Text by name of the set.
    pub sets: BTreeMap<String, String>,
}

/// A document that is to be applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SourceText {
    /// Name of the file, for messages.
    pub file: String,
    /// The document.
    pub text: String,
}

/// One or more sets that are to be put in force by one change.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    /// The documents; each is a set of its own.
    pub documents: Vec<SourceText>,
    /// Validate and compile only.
    #[serde(default)]
    pub dry_run: bool,
    /// Why, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// For whom it is to hold first; none: for all at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<StageOptions>,
}

/// What goes with any other change.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeOptions {
    /// Validate and compile only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Why, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What a change did.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Applied {
    /// Names of the sets that changed.
    pub names: Vec<String>,
    /// The generation now in force (unchanged for a dry run).
    pub generation: u64,
    /// Live flows whose verdict changed; 0 for a dry run.
    pub flows_changed: usize,
    /// Whether it was a dry run.
    pub dry_run: bool,
}

/// What a check of the audit log in the daemon found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditCheck {
    /// Entries looked at.
    pub entries: u64,
    /// The newest entry as the daemon has noted it.
    pub head: Anchor,
    /// Where and how the chain is broken; none if it is whole.
    pub broken: Option<String>,
}

/// How the store is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoreStatus {
    /// Number of the newest entry of the audit log.
    pub audit_entries: u64,
    /// Its hash. Who notes it elsewhere can prove later that nothing before it was changed or cut off.
    pub audit_head: String,
    /// The newest automatic export.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_export: Option<String>,
    /// What is wrong, and what to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

impl AuditCheck {
    /// Checks a log; with `noted`, the hash of an entry that was noted elsewhere, also that the log still has it.
    pub fn of(chain: &Chain, noted: Option<&str>) -> AuditCheck {
        let broken = match (chain.verify(), noted) {
            (Err(broken), _) => Some(broken.to_string()),
            (Ok(()), Some(noted)) if !chain.has(noted) => Some(format!(
                "no entry of the audit log has the hash {noted}: it was cut off or replaced, or is older than what is kept"
            )),
            _ => None,
        };
        AuditCheck {
            entries: chain.entries.len() as u64,
            head: chain.head.clone(),
            broken,
        }
    }
}
