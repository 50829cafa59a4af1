// SPDX-License-Identifier: GPL-3.0-only
//! What must survive: policy sets and the generation counter, in sled.
//!
//! A change is one sled transaction over both trees, then a flush; [`Store`] returns only after the flush, so
//! what was acknowledged is on disk and what was not is wholly absent.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sled::Transactional;
use sled::transaction::{ConflictableTransactionError, TransactionError};

const GENERATION: &[u8] = b"generation";

/// Bytes of cache sled may keep; policies are small, dom0's memory is dear.
const CACHE: u64 = 16 << 20;

/// What can go wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Sled could not open its files.
    #[error(
        "cannot open the store {}: {source}; if another policyd runs, stop it; if the disk was full or the files are damaged, \
         move the directory away and apply your policy files again",
        path.display()
    )]
    Open {
        /// Directory of the store.
        path: PathBuf,
        /// Sled's word.
        source: sled::Error,
    },
    /// Sled failed later on.
    #[error("the store failed: {0}; nothing was changed. Is the disk full?")]
    Sled(#[from] sled::Error),
    /// A stored record is not what this version writes.
    #[error(
        "the store's record of policy {name} is damaged ({why}); delete it with `xmesh policy-delete {name}` and apply it again"
    )]
    Damaged {
        /// Name of the set.
        name: String,
        /// What the decoder said.
        why: String,
    },
}

/// A stored policy set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The text as it was applied.
    pub text: String,
    /// Name of the file it came from.
    pub file: String,
    /// Generation that brought it.
    pub generation: u64,
    /// Nanoseconds since 1970.
    pub applied_ns: u64,
    /// User id in dom0 who applied it.
    pub by_uid: u32,
}

/// The name of a set and its record, or why that cannot be read.
pub type Stored = (String, Result<Record, StoreError>);

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    db: sled::Db,
    policies: sled::Tree,
    meta: sled::Tree,
}

impl Store {
    /// Opens the store, making it if it is not there.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        let open = || -> sled::Result<Store> {
            let db = sled::Config::new()
                .path(path)
                .cache_capacity(CACHE)
                .mode(sled::Mode::LowSpace)
                .open()?;
            Ok(Store {
                policies: db.open_tree("policies")?,
                meta: db.open_tree("meta")?,
                db,
            })
        };
        open().map_err(|source| StoreError::Open {
            path: path.to_path_buf(),
            source,
        })
    }

    /// The last generation that was stored; 0 for a new store.
    pub fn generation(&self) -> Result<u64, StoreError> {
        Ok(self.meta.get(GENERATION)?.map_or(0, |v| decode_generation(&v)))
    }

    /// All policy sets, by name. A damaged record is an entry of its own, so that one does not hide the rest.
    pub fn policies(&self) -> Result<Vec<Stored>, StoreError> {
        self.policies
            .iter()
            .map(|item| {
                let (key, value) = item?;
                let name = String::from_utf8_lossy(&key).into_owned();
                let record = serde_json::from_slice(&value).map_err(|e| StoreError::Damaged {
                    name: name.clone(),
                    why: e.to_string(),
                });
                Ok((name, record))
            })
            .collect()
    }

    /// Puts a set in place of what had its name, and notes `generation` as the one in force.
    pub fn put(&self, name: &str, record: &Record, generation: u64) -> Result<(), StoreError> {
        let value = serde_json::to_vec(record).map_err(|e| StoreError::Damaged {
            name: name.into(),
            why: e.to_string(),
        })?;
        self.change(generation, |policies| {
            policies.insert(name.as_bytes(), value.as_slice())?;
            Ok(())
        })
    }

    /// Removes a set, and notes `generation` as the one in force.
    pub fn remove(&self, name: &str, generation: u64) -> Result<(), StoreError> {
        self.change(generation, |policies| {
            policies.remove(name.as_bytes())?;
            Ok(())
        })
    }

    fn change(
        &self,
        generation: u64,
        edit: impl Fn(
            &sled::transaction::TransactionalTree,
        ) -> Result<(), ConflictableTransactionError<std::convert::Infallible>>,
    ) -> Result<(), StoreError> {
        (&self.policies, &self.meta)
            .transaction(|(policies, meta)| {
                edit(policies)?;
                meta.insert(GENERATION, &generation.to_be_bytes())?;
                Ok(())
            })
            .map_err(|e| match e {
                TransactionError::Storage(e) => StoreError::Sled(e),
                TransactionError::Abort(never) => match never {},
            })?;
        self.db.flush()?;
        Ok(())
    }
}

fn decode_generation(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(generation: u64) -> Record {
        Record {
            text: format!("policy: p{generation}\n"),
            file: "p.yaml".into(),
            generation,
            applied_ns: 7,
            by_uid: 0,
        }
    }

    #[test]
    fn what_was_put_is_there_after_reopening() {
        let dir = tempfile::tempdir().expect("a directory");
        {
            let store = Store::open(dir.path()).expect("opens");
            assert_eq!(store.generation().expect("reads"), 0);
            store.put("a", &record(1), 1).expect("puts");
            store.put("b", &record(2), 2).expect("puts");
            store.put("a", &record(3), 3).expect("puts");
            store.remove("b", 4).expect("removes");
        }
        let store = Store::open(dir.path()).expect("opens again");
        assert_eq!(store.generation().expect("reads"), 4);
        let all = store.policies().expect("lists");
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].0, "a");
        assert_eq!(all[0].1.as_ref().expect("whole"), &record(3));
    }

    #[test]
    fn a_damaged_record_is_named_and_hides_no_other() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opens");
        store.put("good", &record(1), 1).expect("puts");
        store.policies.insert(b"bad", b"{\"text\":").expect("inserts");
        let all = store.policies().expect("lists");
        let bad = all.iter().find(|(n, _)| n == "bad").expect("listed");
        let text = bad.1.as_ref().expect_err("damaged").to_string();
        assert!(text.contains("xmesh policy-delete bad"), "{text}");
        assert!(all.iter().any(|(n, r)| n == "good" && r.is_ok()));
    }

    #[test]
    fn a_second_opener_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let _first = Store::open(dir.path()).expect("opens");
        let error = Store::open(dir.path()).err().expect("locked").to_string();
        assert!(error.contains("another policyd"), "{error}");
    }
}
