// SPDX-License-Identifier: GPL-3.0-only
//! Exports: what goes into one, and those that are written beside the store with each change.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use policyd_api::Generation;
use policyd_api::chain::sha256;
use policyd_api::export::{Export, ExportedSet};
use policyd_api::{Author, Version};

use crate::damage::beside;
use crate::store::{AUDIT_BASE, AUDIT_HEAD};
use crate::trees::{Batch, In, Trees};
use crate::{StoreError, history, migrate, now_ns, texts};

/// Entries of the audit log in an automatic export: enough to go on from.
const AUDIT_TAIL: u64 = 1000;

/// What an export is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everything that is kept: texts of older generations and the audit log, too.
    All,
    /// The sets in force, what the history says of older ones, the end of the audit log.
    InForce,
}

/// Reads an export out of the trees.
pub fn collect(trees: &Trees, scope: Scope) -> Result<Export, StoreError> {
    let mut export = Export {
        generation: history::generation(trees)?,
        made_ns: now_ns(),
        ..Export::default()
    };
    let mut texts = BTreeSet::new();
    for set in trees.iter::<ExportedSet>(In::Sets) {
        let (key, record) = set?;
        texts.insert(record.version.text.clone());
        export
            .sets
            .insert(String::from_utf8_lossy(&key).into_owned(), record);
    }
    for generation in trees.iter::<Generation>(In::History) {
        let generation = generation?.1;
        if scope == Scope::All {
            let versions = generation.edits.iter().flat_map(|e| [&e.before, &e.after]);
            texts.extend(versions.flatten().map(|v| v.text.clone()));
        }
        export.history.push(generation);
    }
    for id in texts {
        // One that an earlier import did not bring is not there.
        if let Some(text) = texts::get(trees, &id)? {
            add_text(&mut export, id, &text);
        }
    }
    export.audit = history::chain(
        trees,
        match scope {
            Scope::All => u64::MAX,
            Scope::InForce => AUDIT_TAIL,
        },
    )?;
    Ok(export)
}

/// What can be read of a damaged store, if that is any set at all.
pub fn salvage(trees: &Trees) -> Option<Export> {
    let mut export = Export {
        generation: history::generation(trees)
            .or_else(|_| migrate::old_generation(trees))
            .unwrap_or(0),
        made_ns: now_ns(),
        ..Export::default()
    };
    for (key, record) in trees.iter::<ExportedSet>(In::Sets).flatten() {
        if let Ok(Some(text)) = texts::get(trees, &record.version.text) {
            add_text(&mut export, record.version.text.clone(), &text);
            export
                .sets
                .insert(String::from_utf8_lossy(&key).into_owned(), record);
        }
    }
    for (name, old) in migrate::old_sets(trees).unwrap_or_default() {
        let Ok(old) = old else { continue };
        let id = sha256(old.text.as_bytes());
        add_text(&mut export, id.clone(), &old.text);
        let record = ExportedSet {
            version: Version {
                text: id,
                file: old.file,
            },
            generation: old.generation,
            applied_ns: old.applied_ns,
            by: Author {
                uid: old.by_uid,
                name: None,
            },
        };
        export.generation = export.generation.max(record.generation);
        export.sets.insert(name, record);
    }
    (!export.sets.is_empty()).then_some(export)
}

/// Puts sets, history and texts of an export.
pub fn fill(batch: &mut Batch, export: &Export) -> Result<(), StoreError> {
    for (name, set) in &export.sets {
        batch.put(In::Sets, name.as_bytes(), set)?;
    }
    for generation in &export.history {
        batch.put(In::History, &generation.generation.to_be_bytes(), generation)?;
    }
    for (id, parts) in &export.texts {
        batch.put(In::Texts, id.as_bytes(), parts)?;
    }
    for (id, part) in &export.parts {
        batch.put_bytes(In::Parts, id.as_bytes(), part.clone().into_bytes());
    }
    Ok(())
}

/// Puts the audit log of an export, into a store that has none.
pub fn fill_audit(batch: &mut Batch, export: &Export) -> Result<(), StoreError> {
    for entry in &export.audit.entries {
        batch.put(In::Audit, &entry.seq.to_be_bytes(), entry)?;
    }
    batch.put(In::Meta, AUDIT_BASE, &export.audit.base)?;
    batch.put(In::Meta, AUDIT_HEAD, &export.audit.head)
}

fn add_text(export: &mut Export, id: String, text: &str) {
    let mut ids = Vec::new();
    for part in texts::split(text) {
        let part_id = sha256(part.as_bytes());
        export
            .parts
            .entry(part_id.clone())
            .or_insert_with(|| part.to_owned());
        ids.push(part_id);
    }
    export.texts.insert(id, ids);
}

/// Writes an export beside the store, whole or not at all, and lets go of the oldest.
pub fn write_beside(store: &Path, export: &Export, keep: usize) -> Result<PathBuf, StoreError> {
    let dir = beside(store, "exports");
    let file = dir.join(format!("generation-{:020}.json", export.generation));
    write(&file, export)?;
    // By number, of which the newest are kept: those of a generation that was taken back are overwritten.
    for old in files(&dir).into_keys().rev().skip(keep) {
        let _ = fs::remove_file(dir.join(format!("generation-{old:020}.json")));
    }
    Ok(file)
}

/// Writes a file so that after a crash it is the old one or the new one.
pub fn write(file: &Path, export: &Export) -> Result<(), StoreError> {
    let bytes = export.to_bytes()?;
    let dir = file.parent().unwrap_or(Path::new("."));
    let write = || -> io::Result<()> {
        fs::create_dir_all(dir)?;
        let mut temporary = tempfile::Builder::new().prefix(".export-").tempfile_in(dir)?;
        temporary.write_all(&bytes)?;
        temporary.as_file().sync_all()?;
        temporary.persist(file).map_err(|e| e.error)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|e| StoreError::Export {
        path: file.to_owned(),
        why: e.to_string(),
    })
}

/// The newest export beside the store that is whole.
pub fn newest(store: &Path) -> Option<(PathBuf, Export)> {
    for (_, file) in files(&beside(store, "exports")).into_iter().rev() {
        let read = fs::read(&file)
            .map_err(|e| e.to_string())
            .and_then(|bytes| Export::from_bytes(&bytes).map_err(|e| e.to_string()));
        match read {
            Ok(export) => return Some((file, export)),
            Err(e) => log::error!("{}: {e}", file.display()),
        }
    }
    None
}

/// The automatic exports, by generation.
fn files(dir: &Path) -> BTreeMap<u64, PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let number = name
                .to_str()?
                .strip_prefix("generation-")?
                .strip_suffix(".json")?;
            Some((number.parse().ok()?, entry.path()))
        })
        .collect()
}
