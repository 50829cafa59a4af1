// SPDX-License-Identifier: GPL-3.0-only
//! What older versions of policyd wrote.
//!
//! Layout 1 had a tree `policies` (records with their text, by name) and `meta/generation` as eight bytes. It had no history, so
//! the sets that it had become the first generation that is known.

use policyd_api::chain::{Attempt, Outcome};
use policyd_api::export::ExportedSet;
use policyd_api::{Action, Author, Edit, Generation, Version};
use serde::{Deserialize, Serialize};

use crate::store::GENERATION;
use crate::trees::{Batch, In, Trees};
use crate::{StoreError, history, now_ns, texts};

const LAYOUT: &[u8] = b"layout";
/// The layout that this version writes.
const CURRENT: u32 = 2;
const OLD_TREE: &str = "policies";

/// A set in layout 1.
#[derive(Serialize, Deserialize)]
pub struct OldRecord {
    /// The text.
    pub text: String,
    /// The file.
    pub file: String,
    /// Generation that brought it.
    pub generation: u64,
    /// Nanoseconds since 1970.
    pub applied_ns: u64,
    /// User id in dom0.
    pub by_uid: u32,
}

/// Brings the trees to the current layout, by one transaction. `used`: something had been written.
///
/// # Errors
/// [`StoreError::Damaged`] for a record that is not readable, or a layout of a later version.
pub fn migrate(trees: &Trees, used: bool) -> Result<(), StoreError> {
    match trees.get::<u32>(In::Meta, LAYOUT)? {
        Some(CURRENT) => {
            // Left over if the daemon ended between both steps.
            return match trees.old_tree(OLD_TREE)? {
                Some(_) => trees.drop_tree(OLD_TREE),
                None => Ok(()),
            };
        }
        Some(other) => {
            return Err(StoreError::Damaged {
                what: "layout".into(),
                why: format!("it is {other}, and this version knows {CURRENT}"),
            });
        }
        None if used && trees.old_tree(OLD_TREE)?.is_none() => {
            return Err(StoreError::Damaged {
                what: "log".into(),
                why: "nothing of what was written is in it".into(),
            });
        }
        None => {}
    }
    let generation = old_generation(trees)?;
    let mut batch = Batch::default();
    let mut edits = Vec::new();
    for (name, old) in old_sets(trees)? {
        let old = old?;
        let version = Version {
            text: texts::put(trees, &mut batch, &old.text)?,
            file: old.file,
        };
        let record = ExportedSet {
            version: version.clone(),
            generation: old.generation,
            applied_ns: old.applied_ns,
            by: Author {
                uid: old.by_uid,
                name: None,
            },
        };
        batch.put(In::Sets, name.as_bytes(), &record)?;
        edits.push(Edit {
            set: name,
            before: None,
            after: Some(version),
        });
    }
    batch.put(In::Meta, LAYOUT, &CURRENT)?;
    batch.put(In::Meta, GENERATION, &generation)?;
    if generation > 0 {
        let time_ns = now_ns();
        let what = Generation {
            generation,
            time_ns,
            by: Author::default(),
            action: Action::Migrate,
            to: None,
            message: Some("taken over from the store of an older policyd, which kept no history".into()),
            edits: edits.clone(),
            stage: None,
        };
        batch.put(In::History, &generation.to_be_bytes(), &what)?;
        let attempt = Attempt {
            time_ns,
            by: Author::default(),
            action: Action::Migrate,
            what: "layout 1".into(),
            message: None,
            outcome: Outcome::Stored { generation },
            edits,
        };
        history::append(trees, &mut batch, vec![attempt], u64::MAX)?;
    }
    trees.commit(&batch)?;
    match trees.old_tree(OLD_TREE)? {
        Some(_) => trees.drop_tree(OLD_TREE),
        None => Ok(()),
    }
}

/// A set of layout 1, or why it cannot be read.
type OldSet = (String, Result<OldRecord, StoreError>);

/// The sets of a store in layout 1.
pub fn old_sets(trees: &Trees) -> Result<Vec<OldSet>, StoreError> {
    let Some(tree) = trees.old_tree(OLD_TREE)? else {
        return Ok(Vec::new());
    };
    tree.iter()
        .map(|item| {
            let (key, value) = item?;
            let name = String::from_utf8_lossy(&key).into_owned();
            let record = serde_json::from_slice(&value).map_err(|e| StoreError::Damaged {
                what: format!("policies/{name}"),
                why: e.to_string(),
            });
            Ok((name, record))
        })
        .collect()
}

/// The generation of a store in layout 1; 0 for a new store.
pub fn old_generation(trees: &Trees) -> Result<u64, StoreError> {
    match trees.get_bytes(In::Meta, GENERATION)? {
        None => Ok(0),
        Some(bytes) => {
            <[u8; 8]>::try_from(&*bytes)
                .map(u64::from_be_bytes)
                .map_err(|_| StoreError::Damaged {
                    what: "meta/generation".into(),
                    why: format!("it has {} bytes, not 8", bytes.len()),
                })
        }
    }
}
