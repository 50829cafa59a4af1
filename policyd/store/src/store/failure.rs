// SPDX-License-Identifier: GPL-3.0-only
//! What is done when sled fails: it is opened again, and what was refused is taken back if it is on disk all the same.

use std::sync::{PoisonError, RwLockWriteGuard};

use policyd_api::chain::{Attempt, Outcome};

use super::{State, Store, Undo};
use crate::trees::{Batch, OpenFailure, Trees};
use crate::{StoreError, history, now_ns};

impl Store {
    /// Takes back what was refused, if it is on disk.
    pub(super) fn settle(&self, state: &mut State) -> Result<(), StoreError> {
        let keep = self.0.config.audit;
        let Some((undo, why)) = state.unsettled.take() else {
            return Ok(());
        };
        let trees = match self.trees(state) {
            Ok(trees) => trees,
            Err(e) => {
                state.unsettled = Some((undo, why));
                return Err(e);
            }
        };
        let take_back = || -> Result<Option<Batch>, StoreError> {
            if history::generation(trees)? != undo.generation {
                return Ok(None);
            }
            let mut batch = Batch::default();
            batch.append_copy(&undo.inverse);
            let attempt = Attempt {
                time_ns: now_ns(),
                outcome: Outcome::Withdrawn {
                    generation: undo.generation,
                    why: why.clone(),
                },
                ..undo.attempt.clone()
            };
            history::append(trees, &mut batch, vec![attempt], keep)?;
            Ok(Some(batch))
        };
        let done = take_back().and_then(|batch| match batch {
            Some(batch) => Ok(trees.commit(&batch)?),
            None => Ok(()),
        });
        done.map_err(|e| {
            state.unsettled = Some((undo, why));
            match e {
                StoreError::Sled(e) => {
                    state.trees = None;
                    StoreError::Unsettled(e)
                }
                e => e,
            }
        })
    }

    /// Sled has failed: it takes nothing more until it is opened again. What it was to write is taken back if it is there.
    pub(super) fn failed(&self, state: &mut State, undo: Option<Undo>, e: sled::Error) -> StoreError {
        state.trees = None;
        state.unsettled = undo.map(|undo| (undo, format!("the store failed: {e}")));
        // Opening wants to write, too.
        let gave_up = is_full(&e) && self.0.ballast.give_up();
        let settled = self.settle(state);
        if gave_up {
            self.0.ballast.take();
        }
        match settled {
            Ok(()) => StoreError::Sled(e),
            Err(again) => {
                log::error!("the store failed ({e}) and could not be brought back yet: {again}");
                StoreError::Unsettled(e)
            }
        }
    }

    pub(super) fn flush_pending(&self, state: &mut State) -> Result<(), StoreError> {
        if state.pending.is_empty() {
            return Ok(());
        }
        let mut attempts = state.pending.clone();
        if state.pending_lost > 0
            && let Some(last) = attempts.last_mut()
            && let Outcome::Refused { why } = &mut last.outcome
        {
            why.push_str(&format!(
                " ({} more attempts after this one were refused for want of room)",
                state.pending_lost
            ));
        }
        let trees = self.trees(state)?;
        let mut batch = Batch::default();
        history::append(trees, &mut batch, attempts, self.0.config.audit)?;
        if let Err(e) = trees.commit(&batch) {
            // If they are there all the same they are told twice, which is better than not at all.
            return Err(self.failed(state, None, e));
        }
        state.pending.clear();
        state.pending_lost = 0;
        Ok(())
    }

    /// The open trees, opened again if sled had failed.
    pub(super) fn trees<'s>(&self, state: &'s mut State) -> Result<&'s Trees, StoreError> {
        if state.trees.is_none() {
            let trees = match Trees::open(&self.0.path) {
                Ok(trees) => trees,
                Err(OpenFailure::Error(source)) => {
                    return Err(StoreError::Open {
                        path: self.0.path.clone(),
                        source,
                    });
                }
                Err(OpenFailure::Panic) => {
                    return Err(StoreError::Damaged {
                        what: "log".into(),
                        why: "sled cannot read it again".into(),
                    });
                }
            };
            state.trees = Some(trees);
        }
        match &state.trees {
            Some(trees) => Ok(trees),
            None => Err(StoreError::Sled(sled::Error::ReportableBug(
                "the store is closed".into(),
            ))),
        }
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read<T>(
        &self,
        work: impl FnOnce(&Trees) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        {
            let state = self.0.state.read().unwrap_or_else(PoisonError::into_inner);
            // Readers must not see what was refused.
            if let (Some(trees), None) = (&state.trees, &state.unsettled) {
                return work(trees);
            }
        }
        let state = &mut *self.write();
        self.settle(state)?;
        work(self.trees(state)?)
    }
}

/// Whether sled failed for want of room.
pub(super) fn is_full(e: &sled::Error) -> bool {
    matches!(e, sled::Error::Io(e) if matches!(e.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use policyd_api::{Action, Author};

    use super::*;
    use crate::{Change, Config};

    fn open(path: &Path) -> Store {
        let config = Config {
            reserve: 0,
            ballast: 0,
            audit: 3,
            ..Config::default()
        };
        Store::open(path, config).expect("opens")
    }

    fn change(generation: u64, text: &str) -> Change {
        Change {
            generation,
            time_ns: 1,
            by: Author::default(),
            action: Action::Apply,
            to: None,
            message: None,
            what: "a".into(),
            edits: vec![("a".into(), Some(("a.yaml".into(), text.into())))],
            continues: None,
            stage: None,
        }
    }

    fn assert_is(store: &Store, generation: u64, text: &str) {
        let (at, sets) = store.sets().expect("reads");
        assert_eq!((at, sets[0].1.text.as_str()), (generation, text));
        store.chain().expect("reads").verify().expect("whole");
        let (history, _) = store.history(u64::MAX, 10, None).expect("reads");
        assert_eq!(history.len() as u64, generation);
    }

    /// Sled says that it failed, and has written everything.
    #[test]
    fn what_was_refused_and_is_on_disk_is_taken_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("store");
        let store = open(&path);
        store.commit(&change(1, "one")).expect("stores");
        let undo = store.commit(&change(2, "two")).expect("stores");
        let full = sled::Error::Io(std::io::ErrorKind::StorageFull.into());
        let error = store.failed(&mut store.write(), Some(undo), full);
        assert!(matches!(error, StoreError::Sled(_)), "{error}");
        assert_is(&store, 1, "one");
        let (entries, _) = store.audit(u64::MAX, 1).expect("reads");
        assert!(matches!(
            entries[0].attempt.outcome,
            Outcome::Withdrawn { generation: 2, .. }
        ));
        store.commit(&change(2, "three")).expect("stores");
        assert_is(&store, 2, "three");
        drop(store);
        assert_is(&open(&path), 2, "three");
    }

    /// And cannot be opened again at once: it is taken back before anybody reads.
    #[test]
    fn what_cannot_be_taken_back_yet_is_before_anybody_reads_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("store");
        let store = open(&path);
        store.commit(&change(1, "one")).expect("stores");
        let undo = store.commit(&change(2, "two")).expect("stores");
        let hidden = dir.path().join("hidden");
        {
            let mut state = store.write();
            state.trees = None;
            std::fs::rename(&path, &hidden).expect("is renamed");
            std::fs::write(&path, "in the way").expect("writes");
            let full = sled::Error::Io(std::io::ErrorKind::StorageFull.into());
            let error = store.failed(&mut state, Some(undo), full);
            assert!(matches!(error, StoreError::Unsettled(_)), "{error}");
        }
        assert!(store.sets().is_err());
        assert!(store.commit(&change(2, "three")).is_err());
        std::fs::remove_file(&path).expect("goes");
        std::fs::rename(&hidden, &path).expect("comes back");
        assert_is(&store, 1, "one");
    }

    #[test]
    fn the_audit_log_is_not_set_back_with_a_change() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = open(&dir.path().join("store"));
        for generation in 1..=5 {
            store.commit(&change(generation, "one")).expect("stores");
        }
        let undo = store.commit(&change(6, "two")).expect("stores");
        store.take_back(undo, "a test").expect("takes back");
        assert_is(&store, 5, "one");
        let chain = store.chain().expect("reads");
        assert_eq!((chain.base.seq, chain.head.seq), (4, 7));
    }
}
