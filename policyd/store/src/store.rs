// SPDX-License-Identifier: GPL-3.0-only
//! The store: one writer at a time, readers that see whole generations, and what is done when sled fails.

mod failure;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use policyd_api::chain::{Anchor, Attempt, AuditEntry, Outcome};
use policyd_api::export::{Export, ExportedSet};
use policyd_api::{Action, Author, Edit, Generation, Stage, StoreStatus, Version};

use crate::damage::{self, Recovery};
use crate::space::{Ballast, free};
use crate::trees::{Batch, In, OpenFailure, Trees};
use crate::{Config, StoreError, export, history, migrate, texts};

pub(crate) const GENERATION: &[u8] = b"generation";
pub(crate) const AUDIT_HEAD: &[u8] = b"audit-head";
pub(crate) const AUDIT_BASE: &[u8] = b"audit-base";
pub(crate) const RECOVERY: &[u8] = b"recovery";

/// Refused attempts that wait for room on the disk; more are only counted.
const PENDING: usize = 1000;
/// Unneeded texts are looked for once in so many generations.
const SWEEP_EVERY: u64 = 64;

/// A set in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its record.
    pub record: ExportedSet,
    /// Its text.
    pub text: String,
}

/// A change that was validated and is to be made durable.
#[derive(Debug, Clone)]
pub struct Change {
    /// The generation that it makes; one above the one in force.
    pub generation: u64,
    /// When, nanoseconds since 1970.
    pub time_ns: u64,
    /// Who asked.
    pub by: Author,
    /// What kind.
    pub action: Action,
    /// Of a rollback or an import, the generation that the sets come from.
    pub to: Option<u64>,
    /// Why.
    pub message: Option<String>,
    /// What it is about, for the audit log.
    pub what: String,
    /// By name of the set: file and text, or none for a set that is to go.
    pub edits: Vec<(String, Option<(String, String)>)>,
    /// What is to hold for some VMs from this generation on; what was to, before, does no longer.
    pub stage: Option<StagedChange>,
    /// Of an import into a store without a history of its own: the export, whose history goes on. Edits are against its sets.
    pub continues: Option<Box<Export>>,
}

/// What holds for some VMs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedChange {
    /// Names of VMs, or patterns of them.
    pub vms: Vec<String>,
    /// Since when, nanoseconds since 1970.
    pub since_ns: u64,
    /// When it is to hold for all, nanoseconds since 1970.
    pub until_ns: Option<u64>,
    /// By name of the set: file and text, or none for a set that does not hold there.
    pub edits: Vec<(String, Option<(String, String)>)>,
}

/// What takes a stored change back.
#[derive(Debug)]
pub struct Undo {
    generation: u64,
    inverse: Batch,
    attempt: Attempt,
}

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Shared>);

struct Shared {
    path: PathBuf,
    config: Config,
    ballast: Ballast,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    /// None after sled has failed, until it is opened again.
    trees: Option<Trees>,
    /// A change that was refused and may be on disk all the same.
    unsettled: Option<(Undo, String)>,
    /// Refused attempts that did not fit the disk.
    pending: Vec<Attempt>,
    pending_lost: u64,
    /// What is wrong, and stays so until the daemon starts anew.
    problems: Vec<String>,
    export_failed: Option<String>,
    last_export: Option<PathBuf>,
}

impl Store {
    /// Opens the store, making it if it is not there. One of an older layout is migrated; a damaged one is set aside, and a new
    /// one begins with the last good export ([`Store::recovery`]).
    ///
    /// # Errors
    /// When the store is another's, or cannot be read for a reason that is not in its files.
    pub fn open(path: &Path, config: Config) -> Result<Store, StoreError> {
        if let Some(parent) = path.parent() {
            // What is wrong with it, opening will tell.
            let _ = std::fs::create_dir_all(parent);
        }
        let ballast = Ballast::of(damage::beside(path, "ballast"), config.ballast);
        let (trees, problems) = open_trees(path, &ballast)?;
        let (last_export, newest) = export::newest(path)
            .map(|(file, export)| (file, export.generation))
            .unzip();
        let store = Store(Arc::new(Shared {
            path: path.to_owned(),
            ballast,
            config,
            state: RwLock::new(State {
                trees: Some(trees),
                problems,
                last_export,
                ..State::default()
            }),
        }));
        store.0.ballast.take();
        // The first of a store, and that of a change whose daemon ended before it was written.
        let (generation, recovery) = (store.generation()?, store.recovery()?);
        if recovery.is_none() && newest != Some(generation) {
            store.export_beside();
        }
        let swept = store.read(texts::sweep);
        if let Err(e) = swept {
            log::warn!("texts that nothing needs stay in the store: {e}");
        }
        Ok(store)
    }

    /// The last generation that was stored; 0 for a new store.
    pub fn generation(&self) -> Result<u64, StoreError> {
        self.read(history::generation)
    }

    /// The sets in force, by name, with the generation.
    pub fn sets(&self) -> Result<(u64, Vec<(String, Set)>), StoreError> {
        self.read(|trees| Ok((history::generation(trees)?, history::sets(trees)?)))
    }

    /// Generations below `before`, the newest first, at most `limit`; those that changed `set`, if one is named. And the
    /// oldest that can be gone back to.
    pub fn history(
        &self,
        before: u64,
        limit: usize,
        set: Option<&str>,
    ) -> Result<(Vec<Generation>, u64), StoreError> {
        self.read(|trees| Ok((history::list(trees, before, limit, set)?, history::oldest(trees)?)))
    }

    /// What holds for some VMs, with its texts.
    ///
    /// # Errors
    /// Where it cannot be read; the sets in force are in the store all the same.
    pub fn stage(&self) -> Result<Option<StagedChange>, StoreError> {
        self.read(history::stage)
    }

    /// File and text of each set as it was at a generation.
    pub fn sets_at(&self, generation: u64) -> Result<Vec<(String, String, String)>, StoreError> {
        self.read(|trees| history::sets_at(trees, generation))
    }

    /// Makes a change durable, and notes it in history and audit log.
    ///
    /// # Errors
    /// Nothing was changed then, unless it is [`StoreError::Unsettled`].
    pub fn commit(&self, change: &Change) -> Result<Undo, StoreError> {
        let state = &mut *self.write();
        self.settle(state)?;
        let room = free(&self.0.path).unwrap_or(u64::MAX);
        if room < self.0.config.reserve {
            return Err(StoreError::Full {
                path: self.0.path.clone(),
                free: room,
                reserve: self.0.config.reserve,
            });
        }
        self.flush_pending(state)?;
        let trees = self.trees(state)?;
        let (batch, attempt) = self.batch(trees, change)?;
        let inverse = trees.inverse(&batch, |tree| matches!(tree, In::Sets | In::History | In::Meta))?;
        let undo = Undo {
            generation: change.generation,
            // The audit log is never set back: it is told of the withdrawal instead.
            inverse: inverse.without(In::Meta, &[AUDIT_HEAD, AUDIT_BASE]),
            attempt,
        };
        if let Err(e) = trees.commit(&batch) {
            return Err(self.failed(state, Some(undo), e));
        }
        if change.generation.is_multiple_of(SWEEP_EVERY)
            && let Err(e) = texts::sweep(trees)
        {
            log::warn!("texts that nothing needs stay in the store: {e}");
        }
        Ok(undo)
    }

    /// Takes a stored change back. Its generation was never in force, so the next change may have it.
    ///
    /// # Errors
    /// [`StoreError::Unsettled`]: it is tried again with the next change.
    pub fn take_back(&self, undo: Undo, why: &str) -> Result<(), StoreError> {
        let state = &mut *self.write();
        state.unsettled = Some((undo, why.to_owned()));
        self.settle(state)
    }

    /// Notes in the audit log what was asked and refused. Without room on the disk that waits in memory.
    pub fn refused(&self, attempt: Attempt) {
        let mut state = self.write();
        let note = || {
            if state.pending.len() < PENDING {
                state.pending.push(attempt);
            } else {
                state.pending_lost += 1;
            }
            // Less room will do than for a change: it is one small record.
            if free(&self.0.path).unwrap_or(u64::MAX) < self.0.config.reserve / 4 {
                return Ok(());
            }
            self.settle(&mut state)?;
            self.flush_pending(&mut state)
        };
        if let Err(e) = note() {
            log::error!("a refused attempt waits to be written to the audit log: {e}");
        }
    }

    /// Entries of the audit log below `before`, the newest first, at most `limit`; and its head.
    pub fn audit(&self, before: u64, limit: usize) -> Result<(Vec<AuditEntry>, Anchor), StoreError> {
        self.read(|trees| Ok((history::audit(trees, before, limit)?, history::head(trees)?)))
    }

    /// The audit log as far as it is kept.
    pub fn chain(&self) -> Result<policyd_api::chain::Chain, StoreError> {
        self.read(|trees| history::chain(trees, u64::MAX))
    }

    /// What is in the store at this moment, as an export.
    pub fn export(&self, scope: export::Scope) -> Result<Export, StoreError> {
        self.read(|trees| export::collect(trees, scope))
    }

    /// Writes the export that the store could be restored from. A failure is said, and no reason to refuse the change.
    pub fn export_beside(&self) {
        let result = self
            .export(export::Scope::InForce)
            .and_then(|export| export::write_beside(&self.0.path, &export, self.0.config.exports));
        let mut state = self.0.state.write().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(file) => {
                state.last_export = Some(file);
                state.export_failed = None;
            }
            Err(e) => {
                log::error!("the automatic export failed: {e}");
                state.export_failed = Some(format!("the automatic export failed: {e}"));
            }
        }
    }

    /// What was set aside and what the store goes on with, until an import says what is to hold.
    pub fn recovery(&self) -> Result<Option<Recovery>, StoreError> {
        self.read(|trees| trees.get(In::Meta, RECOVERY))
    }

    /// How the store is.
    pub fn status(&self) -> StoreStatus {
        let read = self.read(|trees| {
            let recovery: Option<Recovery> = trees.get(In::Meta, RECOVERY)?;
            Ok((history::head(trees)?, recovery))
        });
        let state = self.0.state.read().unwrap_or_else(PoisonError::into_inner);
        let mut problems = state.problems.clone();
        let (head, recovery) = match read {
            Ok((head, recovery)) => (head, recovery),
            Err(e) => {
                problems.push(e.to_string());
                (Anchor::default(), None)
            }
        };
        problems.extend(recovery.map(|r| r.to_string()));
        problems.extend(state.export_failed.clone());
        let waiting = state.pending.len() as u64 + state.pending_lost;
        if waiting > 0 {
            problems.push(format!(
                "{waiting} refused attempts wait for room on the disk to be written to the audit log"
            ));
        }
        if let Some(room) = free(&self.0.path).ok().filter(|f| *f < self.0.config.reserve) {
            problems.push(format!(
                "only {room} bytes are free on the disk of {}: changes of policy are refused until there is room",
                self.0.path.display()
            ));
        }
        StoreStatus {
            audit_entries: head.seq,
            audit_head: head.hash,
            last_export: state.last_export.as_ref().map(|p| p.display().to_string()),
            problems,
        }
    }

    /// The writes of a change, and what the audit log says of it.
    fn batch(&self, trees: &Trees, change: &Change) -> Result<(Batch, Attempt), StoreError> {
        let mut batch = Batch::default();
        let audit_goes_on = match &change.continues {
            Some(export) => {
                export::fill(&mut batch, export)?;
                history::head(trees)? == Anchor::default()
            }
            None => false,
        };
        let mut edits = Vec::new();
        for (set, after) in &change.edits {
            let before: Option<ExportedSet> = match &change.continues {
                Some(export) => export.sets.get(set).cloned(),
                None => trees.get(In::Sets, set.as_bytes())?,
            };
            let after = match after {
                Some((file, text)) => {
                    let version = Version {
                        text: texts::put(trees, &mut batch, text)?,
                        file: file.clone(),
                    };
                    let record = ExportedSet {
                        version: version.clone(),
                        generation: change.generation,
                        applied_ns: change.time_ns,
                        by: change.by.clone(),
                    };
                    batch.put(In::Sets, set.as_bytes(), &record)?;
                    Some(version)
                }
                None => {
                    batch.remove(In::Sets, set.as_bytes());
                    None
                }
            };
            edits.push(Edit {
                set: set.clone(),
                before: before.map(|set| set.version),
                after,
            });
        }
        let stage = match &change.stage {
            Some(staged) => Some(stage(trees, &mut batch, staged)?),
            None => None,
        };
        let attempt = Attempt {
            time_ns: change.time_ns,
            by: change.by.clone(),
            action: change.action,
            what: change.what.clone(),
            message: change.message.clone(),
            outcome: Outcome::Stored {
                generation: change.generation,
            },
            edits: match (&stage, change.action) {
                (Some(stage), Action::Stage) => stage.edits.clone(),
                _ => edits.clone(),
            },
        };
        let generation = Generation {
            generation: change.generation,
            time_ns: change.time_ns,
            by: change.by.clone(),
            action: change.action,
            to: change.to,
            message: change.message.clone(),
            edits,
            stage,
        };
        batch.put(In::History, &change.generation.to_be_bytes(), &generation)?;
        batch.put(In::Meta, GENERATION, &change.generation)?;
        if trees.get_bytes(In::Meta, RECOVERY)?.is_some() {
            batch.remove(In::Meta, RECOVERY);
        }
        history::prune(trees, &mut batch, change.generation, self.0.config.generations)?;
        match (&change.continues, audit_goes_on) {
            (Some(export), true) => {
                export::fill_audit(&mut batch, export)?;
                let entry = AuditEntry::after(&export.audit.head, attempt.clone());
                batch.put(In::Audit, &entry.seq.to_be_bytes(), &entry)?;
                batch.put(In::Meta, AUDIT_HEAD, &entry.anchor())?;
            }
            _ => history::append(trees, &mut batch, vec![attempt.clone()], self.0.config.audit)?,
        }
        Ok((batch, attempt))
    }
}

/// Puts the texts of what holds for some VMs.
fn stage(trees: &Trees, batch: &mut Batch, staged: &StagedChange) -> Result<Stage, StoreError> {
    let mut edits = Vec::new();
    for (set, after) in &staged.edits {
        let before: Option<ExportedSet> = trees.get(In::Sets, set.as_bytes())?;
        let after = match after {
            Some((file, text)) => Some(Version {
                text: texts::put(trees, batch, text)?,
                file: file.clone(),
            }),
            None => None,
        };
        edits.push(Edit {
            set: set.clone(),
            before: before.map(|set| set.version),
            after,
        });
    }
    Ok(Stage {
        vms: staged.vms.clone(),
        since_ns: staged.since_ns,
        until_ns: staged.until_ns,
        edits,
    })
}

/// Opens, migrates and checks; sets aside what is damaged. With what there is to say of it.
fn open_trees(path: &Path, ballast: &Ballast) -> Result<(Trees, Vec<String>), StoreError> {
    let failed = |source| StoreError::Open {
        path: path.to_owned(),
        source,
    };
    // Sled takes a log whose beginning it cannot read for a new one.
    let used = damage::was_used(path);
    let first = Trees::open(path);
    let opened = match first {
        Err(OpenFailure::Error(e)) if failure::is_full(&e) && ballast.give_up() => {
            log::warn!(
                "the disk of {} is full: the ballast beside it was given up to open it",
                path.display()
            );
            Trees::open(path)
        }
        other => other,
    };
    let damaged = match opened {
        Ok(trees) => match migrate::migrate(&trees, used).and_then(|()| damage::check(&trees, path)) {
            Ok(problems) => return Ok((trees, problems)),
            Err(StoreError::Damaged { what, why }) => {
                let salvage = export::salvage(&trees);
                return damage::set_aside(path, &format!("{what}: {why}"), salvage, Some(trees));
            }
            Err(e) => return Err(e),
        },
        Err(OpenFailure::Panic) => "sled panicked over its files".to_owned(),
        Err(OpenFailure::Error(e)) if damage::is_damage(&e) => e.to_string(),
        Err(OpenFailure::Error(e)) => return Err(failed(e)),
    };
    damage::set_aside(path, &damaged, None, None)
}
