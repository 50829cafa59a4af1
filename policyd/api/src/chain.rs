// SPDX-License-Identifier: GPL-3.0-only
//! The audit log's hash chain: each entry holds the hash of the one before, so that none can be changed, taken out or
//! put in without breaking all that follow.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::control::{Action, Author, Edit};

/// The hash before the first entry.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A place in the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Anchor {
    /// Number of the entry; 0 is before the first.
    pub seq: u64,
    /// Its hash.
    pub hash: String,
}

impl Default for Anchor {
    fn default() -> Anchor {
        Anchor {
            seq: 0,
            hash: GENESIS.into(),
        }
    }
}

/// What became of what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum Outcome {
    /// It was made durable, as this generation.
    Stored {
        /// The generation.
        generation: u64,
    },
    /// It was stored, could not be put in force, and was taken back.
    Withdrawn {
        /// The generation, which another change may have.
        generation: u64,
        /// Why.
        why: String,
    },
    /// Nothing was changed.
    Refused {
        /// Why.
        why: String,
    },
}

/// Something that was asked and what became of it; an entry of the log without its place there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Attempt {
    /// When, nanoseconds since 1970.
    pub time_ns: u64,
    /// Who.
    pub by: Author,
    /// What kind of change.
    pub action: Action,
    /// What it was about: names of sets, a generation.
    pub what: String,
    /// Why it was asked, in the words of who did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// What it did to which set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edits: Vec<Edit>,
}

/// An entry of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditEntry {
    /// Its number; rises by one.
    pub seq: u64,
    /// What was asked.
    #[serde(flatten)]
    pub attempt: Attempt,
    /// Hash of the entry before.
    pub previous: String,
    /// SHA-256 of all of the above as JSON, in this order; 64 hexadecimal digits.
    pub hash: String,
}

/// Part of the log: its entries from one place to another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Chain {
    /// The entry before the first.
    pub base: Anchor,
    /// The entries, the oldest first.
    pub entries: Vec<AuditEntry>,
    /// The last, as it was noted beside the log.
    pub head: Anchor,
}

/// Where a chain is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the audit log is broken at entry {seq}: {why}")]
pub struct Broken {
    /// Number of the entry.
    pub seq: u64,
    /// What is wrong there.
    pub why: String,
}

/// SHA-256 as 64 hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl AuditEntry {
    /// The entry that follows `before`.
    pub fn after(before: &Anchor, attempt: Attempt) -> AuditEntry {
        let mut entry = AuditEntry {
            seq: before.seq.saturating_add(1),
            attempt,
            previous: before.hash.clone(),
            hash: String::new(),
        };
        entry.hash = entry.digest();
        entry
    }

    /// Its place in the chain.
    pub fn anchor(&self) -> Anchor {
        Anchor {
            seq: self.seq,
            hash: self.hash.clone(),
        }
    }

    fn digest(&self) -> String {
        #[derive(Serialize)]
        struct Hashed<'e> {
            seq: u64,
            attempt: &'e Attempt,
            previous: &'e str,
        }
        let hashed = Hashed {
            seq: self.seq,
            attempt: &self.attempt,
            previous: &self.previous,
        };
        // Strings and numbers always have a JSON form; were it not so, the empty text would match no stored hash.
        sha256(&serde_json::to_vec(&hashed).unwrap_or_default())
    }
}

impl Chain {
    /// Checks every link, and that the chain ends where it was noted to end.
    ///
    /// # Errors
    /// The first place where it is broken.
    pub fn verify(&self) -> Result<(), Broken> {
        let mut at = self.base.clone();
        for entry in &self.entries {
            let broken = |why: &str| {
                Err(Broken {
                    seq: entry.seq,
                    why: why.into(),
                })
            };
            if entry.seq != at.seq.saturating_add(1) {
                return broken(&format!("entry {} comes before it; some are missing", at.seq));
            }
            if entry.previous != at.hash {
                return broken(
                    "it does not follow the entry before: that one was changed or put in its place",
                );
            }
            if entry.hash != entry.digest() {
                return broken("its text is not what its hash says: it was changed");
            }
            at = entry.anchor();
        }
        if at != self.head {
            return Err(Broken {
                seq: at.seq,
                why: format!(
                    "the log ends there, but its head was noted as entry {}, {}: the end was cut off or replaced",
                    self.head.seq, self.head.hash
                ),
            });
        }
        Ok(())
    }

    /// Whether `hash`, noted elsewhere, is that of an entry of this part.
    pub fn has(&self, hash: &str) -> bool {
        self.base.hash == hash || self.entries.iter().any(|entry| entry.hash == hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(n: u64) -> Chain {
        let mut chain = Chain::default();
        for generation in 1..=n {
            let attempt = Attempt {
                time_ns: generation,
                by: Author::default(),
                action: Action::Apply,
                what: "shop".into(),
                message: None,
                outcome: Outcome::Stored { generation },
                edits: Vec::new(),
            };
            let entry = AuditEntry::after(&chain.head, attempt);
            chain.head = entry.anchor();
            chain.entries.push(entry);
        }
        chain
    }

    #[test]
    fn a_chain_is_whole_and_stays_so_as_json() {
        let whole = chain(5);
        assert_eq!(whole.verify(), Ok(()));
        let text = serde_json::to_string(&whole).unwrap();
        let back: Chain = serde_json::from_str(&text).unwrap();
        assert_eq!((back.verify(), &back), (Ok(()), &whole));
    }

    #[test]
    fn each_way_to_change_it_is_found_and_placed() {
        let at = |edit: &dyn Fn(&mut Chain)| {
            let mut chain = chain(5);
            edit(&mut chain);
            chain.verify().unwrap_err().seq
        };
        assert_eq!(at(&|c| c.entries[2].attempt.by.uid = 7), 3);
        assert_eq!(at(&|c| drop(c.entries.remove(2))), 4);
        assert_eq!(at(&|c| drop(c.entries.pop())), 4);
        assert_eq!(at(&|c| c.entries.swap(1, 2)), 3);
        assert_eq!(at(&|c| drop(c.entries.remove(0))), 2);
        // Changed, and its own hash made to fit: the next one does not follow.
        assert_eq!(
            at(&|c| {
                c.entries[1].attempt.what = "other".into();
                c.entries[1].hash = c.entries[1].digest();
            }),
            3
        );
        // All made to fit from there on: only the head tells.
        assert_eq!(
            at(&|c| {
                let mut before = c.entries[1].anchor();
                for entry in &mut c.entries[2..] {
                    entry.attempt.by.uid = 7;
                    *entry = AuditEntry::after(&before, entry.attempt.clone());
                    before = entry.anchor();
                }
            }),
            5
        );
    }
}
