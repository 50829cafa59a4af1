// SPDX-License-Identifier: GPL-3.0-only
//! What others keep beside the history: notes by name, and records by number.
//!
//! Compaction copies them, and nothing else takes them away: who writes them bounds them.

use std::sync::PoisonError;

use serde::{Deserialize, Serialize};

use super::{FlowStore, FlowsError, to_json};

/// Records of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Records<T> {
    /// Those that are whole, by number.
    pub whole: Vec<(u64, T)>,
    /// Numbers of those that are not what this version writes.
    pub damaged: Vec<u64>,
}

impl<T> Default for Records<T> {
    fn default() -> Records<T> {
        Records {
            whole: Vec::new(),
            damaged: Vec::new(),
        }
    }
}

impl FlowStore {
    /// A small record that others keep here: it is on the disk when this returns.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn put_note(&self, name: &str, value: &impl Serialize) -> Result<(), FlowsError> {
        let disk = self.0.disk.read().unwrap_or_else(PoisonError::into_inner);
        self.has_room(&disk, 0)?;
        let mut batch = sled::Batch::default();
        batch.insert(note_key(name), to_json(value)?);
        disk.write(batch)
    }

    /// What was put there; none, too, if it is not what this version writes.
    pub fn note<T: for<'d> Deserialize<'d>>(&self, name: &str) -> Option<T> {
        let disk = self.0.disk.read().unwrap_or_else(PoisonError::into_inner);
        let bytes = disk.get(&note_key(name)).ok()??;
        serde_json::from_slice(&bytes).ok()
    }

    /// Writes records of a kind by their numbers, and takes away those of which nothing is given. They are on the disk when this
    /// returns, all or none of them.
    ///
    /// # Errors
    /// When they could not be written.
    pub fn put_records<T: Serialize>(
        &self,
        kind: &str,
        changes: impl IntoIterator<Item = (u64, Option<T>)>,
    ) -> Result<(), FlowsError> {
        let mut batch = sled::Batch::default();
        let mut bytes = 0;
        for (number, record) in changes {
            let key = record_key(kind, number);
            match record {
                Some(record) => {
                    let record = to_json(&record)?;
                    bytes += (key.len() + record.len()) as u64;
                    batch.insert(key, record);
                }
                None => batch.remove(key),
            }
        }
        let disk = self.0.disk.read().unwrap_or_else(PoisonError::into_inner);
        self.has_room(&disk, bytes)?;
        disk.write(batch)
    }

    /// The records of a kind, in the order of their numbers.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn records<T: for<'d> Deserialize<'d>>(&self, kind: &str) -> Result<Records<T>, FlowsError> {
        let disk = self.0.disk.read().unwrap_or_else(PoisonError::into_inner);
        let (first, last) = (record_key(kind, 0), record_key(kind, u64::MAX));
        let mut records = Records::default();
        // The end is no part of the range; nobody gets as far as that number.
        for item in disk.range(first.clone()..last)? {
            let (key, value) = item?;
            let number = key.get(first.len() - size_of::<u64>()..);
            let number = number.and_then(|number| <[u8; 8]>::try_from(number).ok());
            let Some(number) = number.map(u64::from_be_bytes) else {
                continue;
            };
            match serde_json::from_slice(&value) {
                Ok(record) => records.whole.push((number, record)),
                Err(_) => records.damaged.push(number),
            }
        }
        Ok(records)
    }
}

fn note_key(name: &str) -> Vec<u8> {
    format!("t-{name}").into_bytes()
}

/// The kind ends with a byte that no text has within.
fn record_key(kind: &str, number: u64) -> Vec<u8> {
    let mut key = format!("r-{kind}\0").into_bytes();
    key.extend(number.to_be_bytes());
    key
}
