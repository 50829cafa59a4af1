// SPDX-License-Identifier: GPL-3.0-only
//! Sets, generations and the audit log, as they are read from the trees and appended to.

use std::collections::BTreeMap;

use policyd_api::chain::{Anchor, Attempt, AuditEntry, Chain};
use policyd_api::export::ExportedSet;
use policyd_api::{Edit, Generation, Version};

use crate::store::{AUDIT_BASE, AUDIT_HEAD, GENERATION, Set, StagedChange};
use crate::trees::{Batch, In, Trees};
use crate::{StoreError, texts};

/// The generation of the sets in force.
pub fn generation(trees: &Trees) -> Result<u64, StoreError> {
    Ok(trees.get(In::Meta, GENERATION)?.unwrap_or(0))
}

/// The sets in force with their texts.
pub fn sets(trees: &Trees) -> Result<Vec<(String, Set)>, StoreError> {
    trees
        .iter::<ExportedSet>(In::Sets)
        .map(|item| {
            let (key, record) = item?;
            let name = String::from_utf8_lossy(&key).into_owned();
            let text = texts::get(trees, &record.version.text)?.ok_or_else(|| StoreError::Damaged {
                what: format!("set {name}"),
                why: "its text is missing".into(),
            })?;
            Ok((name, Set { record, text }))
        })
        .collect()
}

/// Generations below `before`, the newest first.
pub fn list(
    trees: &Trees,
    before: u64,
    limit: usize,
    set: Option<&str>,
) -> Result<Vec<Generation>, StoreError> {
    let end = before.to_be_bytes();
    trees
        .range::<Generation>(In::History, &[], Some(&end))
        .rev()
        .map(|item| Ok(item?.1))
        .filter(|item: &Result<Generation, StoreError>| match (item, set) {
            (Ok(generation), Some(set)) => generation.edits.iter().any(|edit| edit.set == set),
            _ => true,
        })
        .take(limit)
        .collect()
}

/// The oldest generation that can be gone back to: the one before the first whose change is kept.
pub fn oldest(trees: &Trees) -> Result<u64, StoreError> {
    match trees.iter::<Generation>(In::History).next() {
        Some(first) => Ok(first?.1.generation.saturating_sub(1)),
        None => generation(trees),
    }
}

/// What holds for some VMs by the last generation.
pub fn stage(trees: &Trees) -> Result<Option<StagedChange>, StoreError> {
    let newest = generation(trees)?.to_be_bytes();
    let newest: Option<Generation> = trees.get(In::History, &newest)?;
    let Some(stage) = newest.and_then(|generation| generation.stage) else {
        return Ok(None);
    };
    let text = |edit: Edit| match edit.after {
        Some(version) => match texts::get(trees, &version.text)? {
            Some(text) => Ok((edit.set, Some((version.file, text)))),
            None => Err(StoreError::NoText { set: edit.set }),
        },
        None => Ok((edit.set, None)),
    };
    Ok(Some(StagedChange {
        vms: stage.vms,
        since_ns: stage.since_ns,
        until_ns: stage.until_ns,
        edits: stage.edits.into_iter().map(text).collect::<Result<_, _>>()?,
    }))
}

/// File and text of each set at a generation: from what is in force, the changes since are undone.
pub fn sets_at(trees: &Trees, asked: u64) -> Result<Vec<(String, String, String)>, StoreError> {
    let (oldest, newest) = (oldest(trees)?, generation(trees)?);
    if asked < oldest || asked > newest {
        return Err(StoreError::NoSuchGeneration {
            asked,
            oldest,
            newest,
        });
    }
    let mut versions: BTreeMap<String, Version> = BTreeMap::new();
    for set in trees.iter::<ExportedSet>(In::Sets) {
        let (key, record) = set?;
        versions.insert(String::from_utf8_lossy(&key).into_owned(), record.version);
    }
    let after = asked.saturating_add(1).to_be_bytes();
    for item in trees.range::<Generation>(In::History, &after, None).rev() {
        for edit in item?.1.edits {
            match edit.before {
                Some(before) => versions.insert(edit.set, before),
                None => versions.remove(&edit.set),
            };
        }
    }
    versions
        .into_iter()
        .map(|(set, version)| match texts::get(trees, &version.text)? {
            Some(text) => Ok((set, version.file, text)),
            None => Err(StoreError::NoText { set }),
        })
        .collect()
}

/// Takes out what the history keeps no longer once `newest` is there.
pub fn prune(trees: &Trees, batch: &mut Batch, newest: u64, keep: usize) -> Result<(), StoreError> {
    let first_kept = newest.saturating_sub(keep as u64).saturating_add(1);
    for key in trees.keys(In::History) {
        let key = key?;
        if *key >= first_kept.to_be_bytes()[..] {
            break;
        }
        batch.remove(In::History, &key);
    }
    Ok(())
}

/// The newest entry of the audit log.
pub fn head(trees: &Trees) -> Result<Anchor, StoreError> {
    Ok(trees.get(In::Meta, AUDIT_HEAD)?.unwrap_or_default())
}

/// Appends to the audit log, and takes out of it what is kept no longer.
pub fn append(trees: &Trees, batch: &mut Batch, attempts: Vec<Attempt>, keep: u64) -> Result<(), StoreError> {
    let mut head = head(trees)?;
    for attempt in attempts {
        let entry = AuditEntry::after(&head, attempt);
        head = entry.anchor();
        batch.put(In::Audit, &entry.seq.to_be_bytes(), &entry)?;
    }
    batch.put(In::Meta, AUDIT_HEAD, &head)?;
    let first_kept = head.seq.saturating_sub(keep).saturating_add(1).to_be_bytes();
    let mut base = None;
    for item in trees.range::<AuditEntry>(In::Audit, &[], Some(&first_kept)) {
        let (key, entry) = item?;
        batch.remove(In::Audit, &key);
        base = Some(entry.anchor());
    }
    if let Some(base) = base {
        batch.put(In::Meta, AUDIT_BASE, &base)?;
    }
    Ok(())
}

/// Entries of the audit log below `before`, the newest first.
pub fn audit(trees: &Trees, before: u64, limit: usize) -> Result<Vec<AuditEntry>, StoreError> {
    let end = before.to_be_bytes();
    trees
        .range::<AuditEntry>(In::Audit, &[], Some(&end))
        .rev()
        .take(limit)
        .map(|item| Ok(item?.1))
        .collect()
}

/// The last `limit` entries of the audit log.
pub fn chain(trees: &Trees, limit: u64) -> Result<Chain, StoreError> {
    let head = head(trees)?;
    let first = head.seq.saturating_sub(limit).saturating_add(1).to_be_bytes();
    let entries: Vec<AuditEntry> = trees
        .range::<AuditEntry>(In::Audit, &first, None)
        .map(|item| Ok(item?.1))
        .collect::<Result<_, StoreError>>()?;
    // Of the whole log, what is noted as its beginning must be; of a part, its first entry says what was before it.
    let noted: Anchor = trees.get(In::Meta, AUDIT_BASE)?.unwrap_or_default();
    let base = match entries.first() {
        Some(entry) if entry.seq > noted.seq + 1 && limit < head.seq => Anchor {
            seq: entry.seq - 1,
            hash: entry.previous.clone(),
        },
        _ => noted,
    };
    Ok(Chain { base, entries, head })
}
