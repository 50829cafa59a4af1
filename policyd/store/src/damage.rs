// SPDX-License-Identifier: GPL-3.0-only
//! Damaged stores: how they are noticed, set aside, and what the new store begins with.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use policyd_api::chain::{Attempt, Outcome};
use policyd_api::export::Export;
use policyd_api::{Action, Author, Generation};
use serde::{Deserialize, Serialize};

use crate::store::{GENERATION, RECOVERY};
use crate::trees::{Batch, In, OpenFailure, Trees};
use crate::{StoreError, export, history, migrate, now_ns};

/// What was set aside, and what the store goes on with until an import says what is to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// Where the damaged store is now.
    pub aside: PathBuf,
    /// What was damaged.
    pub why: String,
    /// The export whose sets are in force meanwhile; none if there was none.
    pub export: Option<PathBuf>,
    /// Its generation.
    pub generation: u64,
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let aside = self.aside.display();
        write!(
            f,
            "the store was damaged ({}) and is set aside as {aside}; ",
            self.why
        )?;
        match &self.export {
            Some(export) => write!(
                f,
                "the last good export, of generation {}, is in force, and no change is taken until you have looked at it and said \
                 `xmesh policy-import {}`",
                self.generation,
                export.display()
            ),
            None => write!(
                f,
                "there is no good export of it: what the vifs have stays in force until you apply your policy files again \
                 or `xmesh policy-import` a backup"
            ),
        }
    }
}

/// A path beside the store, as `/var/lib/policyd/store.exports`.
pub fn beside(store: &Path, suffix: &str) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// Whether sled's error tells of damaged files, not of a disk, a right or another daemon.
pub fn is_damage(e: &sled::Error) -> bool {
    match e {
        sled::Error::Corruption { .. } | sled::Error::ReportableBug(_) | sled::Error::Unsupported(_) => true,
        sled::Error::Io(e) => matches!(
            e.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
        ),
        sled::Error::CollectionNotFound(_) => true,
    }
}

/// Whether there was something in the store: an export of it is there, or its log has what only a record has.
pub fn was_used(path: &Path) -> bool {
    const IN_RECORDS: &[u8] = b"\"applied_ns\"";
    export::newest(path).is_some()
        || fs::read(path.join("db")).is_ok_and(|log| log.windows(IN_RECORDS.len()).any(|w| w == IN_RECORDS))
}

/// Reads all that the store must have. What is wrong with the audit log alone is said, and no reason to do without the sets.
///
/// # Errors
/// [`StoreError::Damaged`] names what is.
pub fn check(trees: &Trees, path: &Path) -> Result<Vec<String>, StoreError> {
    let generation = history::generation(trees)?;
    history::sets(trees)?;
    for item in trees.iter::<Generation>(In::History) {
        item?;
    }
    for item in trees.iter::<Vec<String>>(In::Texts) {
        item?;
    }
    let newest = history::list(trees, u64::MAX, 1, None)?;
    if let Some(newest) = newest.first().filter(|n| n.generation != generation) {
        return Err(StoreError::Damaged {
            what: "generation".into(),
            why: format!(
                "it is {generation}, and the history ends at {}",
                newest.generation
            ),
        });
    }
    let mut problems = Vec::new();
    let chain = history::chain(trees, u64::MAX)?;
    if let Err(broken) = chain.verify() {
        problems.push(format!("{broken}; `xmesh audit --verify` tells more"));
    }
    // Exports are written after the store, so none can be ahead of a store that has lost nothing.
    if let Some((file, export)) = export::newest(path) {
        if export.generation > generation {
            return Err(StoreError::Damaged {
                what: "generation".into(),
                why: format!(
                    "it is {generation}, and the export {} was made at {}: changes were lost",
                    file.display(),
                    export.generation
                ),
            });
        }
        if !chain.has(&export.audit.head.hash) && export.audit.head.seq > chain.base.seq {
            problems.push(format!(
                "the audit log has no entry {} with hash {}, which the export {} has: its end was cut off or replaced",
                export.audit.head.seq,
                export.audit.head.hash,
                file.display()
            ));
        }
    }
    for problem in &problems {
        log::error!("{problem}");
    }
    Ok(problems)
}

/// Moves the store aside and begins a new one, with the newest good export if there is one, else with what was salvaged.
pub fn set_aside(
    path: &Path,
    why: &str,
    salvage: Option<Export>,
    open: Option<Trees>,
) -> Result<(Trees, Vec<String>), StoreError> {
    // Sled's files are locked as long as they are open.
    drop(open);
    let stuck = |source| StoreError::Stuck {
        path: path.to_owned(),
        why: why.to_owned(),
        source,
    };
    let aside = free_name(path);
    fs::rename(path, &aside).map_err(stuck)?;
    if let Some(parent) = path.parent() {
        let _ = File::open(parent).and_then(|dir| dir.sync_all());
    }
    let export = export::newest(path).or_else(|| {
        let salvage = salvage?;
        let file = beside(path, "exports").join(format!("salvaged-{:020}.json", salvage.generation));
        export::write(&file, &salvage)
            .inspect_err(|e| log::error!("what could be read of the damaged store could not be written: {e}"))
            .ok()?;
        Some((file, salvage))
    });
    let trees = match Trees::open(path) {
        Ok(trees) => trees,
        Err(OpenFailure::Error(source)) => {
            return Err(StoreError::Open {
                path: path.to_owned(),
                source,
            });
        }
        Err(OpenFailure::Panic) => return Err(stuck(io::Error::other("sled panicked over a new store"))),
    };
    migrate::migrate(&trees, false)?;
    let recovery = Recovery {
        aside,
        why: why.to_owned(),
        generation: export.as_ref().map_or(0, |(_, export)| export.generation),
        export: export.as_ref().map(|(file, _)| file.clone()),
    };
    seed(&trees, export.map(|(_, export)| export), &recovery)?;
    log::error!("{recovery}");
    Ok((trees, Vec::new()))
}

/// Fills a new store from an export; history and audit log go on from there.
fn seed(trees: &Trees, export: Option<Export>, recovery: &Recovery) -> Result<(), StoreError> {
    let export = export.unwrap_or_default();
    let mut batch = Batch::default();
    export::fill(&mut batch, &export)?;
    export::fill_audit(&mut batch, &export)?;
    batch.put(In::Meta, GENERATION, &export.generation)?;
    batch.put(In::Meta, RECOVERY, recovery)?;
    trees.commit(&batch)?;
    let mut batch = Batch::default();
    let attempt = Attempt {
        time_ns: now_ns(),
        by: Author::default(),
        action: Action::Recover,
        what: recovery.aside.display().to_string(),
        message: None,
        outcome: Outcome::Stored {
            generation: export.generation,
        },
        edits: Vec::new(),
    };
    history::append(trees, &mut batch, vec![attempt], u64::MAX)?;
    Ok(trees.commit(&batch)?)
}

/// `store.damaged-SECONDS`, with a number more if there is one already.
fn free_name(path: &Path) -> PathBuf {
    let stamp = now_ns() / 1_000_000_000;
    let first = beside(path, &format!("damaged-{stamp}"));
    std::iter::once(first)
        .chain((1..u32::MAX).map(|n| beside(path, &format!("damaged-{stamp}-{n}"))))
        .find(|p| !p.exists())
        .unwrap_or_else(|| beside(path, "damaged"))
}
