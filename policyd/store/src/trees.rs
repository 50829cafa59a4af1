// SPDX-License-Identifier: GPL-3.0-only
//! Sled's side: the trees, and how they are opened, read and written.

use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sled::Transactional;
use sled::transaction::{ConflictableTransactionError, TransactionError, TransactionalTree};

use crate::{StoreError, patience};

/// Bytes of cache sled may keep; policies are small, dom0's memory is dear.
const CACHE: u64 = 16 << 20;

/// Which tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum In {
    /// Single records, by name.
    Meta,
    /// Sets in force, by name.
    Sets,
    /// Generations, by number.
    History,
    /// Lists of parts, by SHA-256 of the text.
    Texts,
    /// Parts of texts, by their SHA-256.
    Parts,
    /// The audit log, by number.
    Audit,
}

const NAMES: [&str; 6] = ["meta", "sets", "history", "texts", "parts", "audit"];

/// The open store.
pub struct Trees {
    db: sled::Db,
    trees: Vec<sled::Tree>,
}

/// Writes that are made together.
#[derive(Debug, Default)]
pub struct Batch(Vec<Write>);

/// A record and what it becomes; none: it goes.
type Write = (In, Vec<u8>, Option<Vec<u8>>);

/// What sled can do wrong at opening: an error, or a panic over files that it did not write.
pub enum OpenFailure {
    /// It says so.
    Error(sled::Error),
    /// It panicked.
    Panic,
}

impl Batch {
    /// Puts a record.
    pub fn put<T: Serialize>(&mut self, tree: In, key: &[u8], value: &T) -> Result<(), StoreError> {
        let value = serde_json::to_vec(value).map_err(|e| StoreError::Damaged {
            what: String::from_utf8_lossy(key).into_owned(),
            why: e.to_string(),
        })?;
        self.put_bytes(tree, key, value);
        Ok(())
    }

    /// Puts bytes as they are.
    pub fn put_bytes(&mut self, tree: In, key: &[u8], value: Vec<u8>) {
        self.0.push((tree, key.to_vec(), Some(value)));
    }

    /// Takes a record out.
    pub fn remove(&mut self, tree: In, key: &[u8]) {
        self.0.push((tree, key.to_vec(), None));
    }

    /// Number of writes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Appends the writes of another.
    pub fn append_copy(&mut self, other: &Batch) {
        self.0.extend(other.0.iter().cloned());
    }

    /// The batch without some records of a tree.
    pub fn without(mut self, tree: In, keys: &[&[u8]]) -> Batch {
        self.0
            .retain(|(of, key, _)| *of != tree || !keys.contains(&key.as_slice()));
        self
    }
}

impl Trees {
    /// Opens sled's files, making them if there are none.
    pub fn open(path: &Path) -> Result<Trees, OpenFailure> {
        let open = || -> sled::Result<Trees> {
            let db = sled::Config::new()
                .path(path)
                .cache_capacity(CACHE)
                .mode(sled::Mode::LowSpace)
                .open()?;
            let trees = NAMES
                .iter()
                .map(|name| db.open_tree(name))
                .collect::<Result<_, _>>()?;
            Ok(Trees { db, trees })
        };
        // Of damaged files sled's reader believes a lot; what it then asserts must not end the daemon.
        match catch_unwind(AssertUnwindSafe(|| patience::open(open))) {
            Ok(result) => result.map_err(OpenFailure::Error),
            Err(_) => Err(OpenFailure::Panic),
        }
    }

    /// Reads a record.
    pub fn get<T: DeserializeOwned>(&self, tree: In, key: &[u8]) -> Result<Option<T>, StoreError> {
        self.get_bytes(tree, key)?
            .map(|value| decode(tree, key, &value))
            .transpose()
    }

    /// Reads bytes as they are.
    pub fn get_bytes(&self, tree: In, key: &[u8]) -> Result<Option<sled::IVec>, StoreError> {
        Ok(self.tree(tree).get(key)?)
    }

    /// All records in the order of their keys; from the other end with `.rev()`.
    pub fn iter<T: DeserializeOwned>(
        &self,
        tree: In,
    ) -> impl DoubleEndedIterator<Item = Result<(sled::IVec, T), StoreError>> + use<T> {
        self.range(tree, &[], None)
    }

    /// The records from a key on, up to and without another.
    pub fn range<T: DeserializeOwned>(
        &self,
        tree: In,
        from: &[u8],
        to: Option<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = Result<(sled::IVec, T), StoreError>> + use<T> {
        let to = to.map_or(Bound::Unbounded, |to| Bound::Excluded(to.to_vec()));
        let range = (Bound::Included(from.to_vec()), to);
        self.tree(tree).range::<Vec<u8>, _>(range).map(move |item| {
            let (key, value) = item?;
            let value = decode(tree, &key, &value)?;
            Ok((key, value))
        })
    }

    /// All keys.
    pub fn keys(&self, tree: In) -> impl DoubleEndedIterator<Item = Result<sled::IVec, StoreError>> {
        self.tree(tree).iter().keys().map(|key| Ok(key?))
    }

    /// A tree that an older layout had, if it is there.
    pub fn old_tree(&self, name: &str) -> Result<Option<sled::Tree>, StoreError> {
        if !self.db.tree_names().iter().any(|n| n == name.as_bytes()) {
            return Ok(None);
        }
        Ok(Some(self.db.open_tree(name)?))
    }

    /// Takes a tree of an older layout out.
    pub fn drop_tree(&self, name: &str) -> Result<(), StoreError> {
        self.db.drop_tree(name)?;
        self.db.flush()?;
        Ok(())
    }

    /// What brings the records that `batch` changes back to what they are now.
    pub fn inverse(&self, batch: &Batch, of: impl Fn(In) -> bool) -> Result<Batch, StoreError> {
        let mut inverse = Batch::default();
        for (tree, key, _) in batch.0.iter().filter(|(tree, ..)| of(*tree)) {
            let value = self.get_bytes(*tree, key)?.map(|v| v.to_vec());
            inverse.0.push((*tree, key.clone(), value));
        }
        Ok(inverse)
    }

    /// Makes all writes or none, and returns when they are on disk.
    pub fn commit(&self, batch: &Batch) -> sled::Result<()> {
        self.trees
            .as_slice()
            .transaction(|trees: &Vec<TransactionalTree>| {
                for (tree, key, value) in &batch.0 {
                    let Some(tree) = trees.get(*tree as usize) else {
                        continue;
                    };
                    match value {
                        Some(value) => tree.insert(key.as_slice(), value.as_slice())?,
                        None => tree.remove(key.as_slice())?,
                    };
                }
                Ok::<(), ConflictableTransactionError<std::convert::Infallible>>(())
            })
            .map_err(|e| match e {
                TransactionError::Storage(e) => e,
                TransactionError::Abort(never) => match never {},
            })?;
        self.db.flush()?;
        Ok(())
    }

    fn tree(&self, tree: In) -> &sled::Tree {
        // One for each name of the array that the variants number.
        &self.trees[tree as usize]
    }
}

fn decode<T: DeserializeOwned>(tree: In, key: &[u8], value: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(value).map_err(|e| {
        let name = NAMES.get(tree as usize).copied().unwrap_or_default();
        let key = match <[u8; 8]>::try_from(key) {
            Ok(number) if matches!(tree, In::History | In::Audit) => u64::from_be_bytes(number).to_string(),
            _ => String::from_utf8_lossy(key).into_owned(),
        };
        StoreError::Damaged {
            what: format!("{name}/{key}"),
            why: e.to_string(),
        }
    })
}
