// SPDX-License-Identifier: GPL-3.0-only
//! Texts by their content, in parts that versions of a text share.
//!
//! A part ends at a line whose hash says so, so a change of some lines makes a part or two new, wherever it is: a
//! hundred versions of a megabyte that differ by a line take ten megabytes of disk, sled's own overhead included.

use std::collections::BTreeSet;

use policyd_api::chain::sha256;
use policyd_api::export::ExportedSet;
use policyd_api::{Edit, Generation};

use crate::StoreError;
use crate::trees::{Batch, In, Trees};

/// One line in so many ends a part.
const LINES: u32 = 64;
/// Longest part, in bytes; a line can be longer than any part should be.
const LONGEST: usize = 16 << 10;

/// Splits a text; the parts together are the text.
pub fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut at) = (0, 0);
    for line in text.split_inclusive('\n') {
        at += line.len();
        while at - start > LONGEST {
            // A character has at most four bytes, so a boundary is near.
            let end = (start + 1..=start + LONGEST)
                .rev()
                .find(|i| text.is_char_boundary(*i))
                .unwrap_or(at);
            parts.push(&text[start..end]);
            start = end;
        }
        if fnv(line.as_bytes()).is_multiple_of(LINES) && at > start {
            parts.push(&text[start..at]);
            start = at;
        }
    }
    if start < text.len() {
        parts.push(&text[start..]);
    }
    parts
}

/// FNV-1a: where a part ends needs no hash that resists an attacker, only one that never changes.
fn fnv(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash: u32, b| {
        (hash ^ u32::from(*b)).wrapping_mul(0x0100_0193)
    })
}

/// Puts a text, unless it is there. Returns its id.
pub fn put(trees: &Trees, batch: &mut Batch, text: &str) -> Result<String, StoreError> {
    let id = sha256(text.as_bytes());
    if trees.get_bytes(In::Texts, id.as_bytes())?.is_some() {
        return Ok(id);
    }
    let mut ids = Vec::new();
    for part in split(text) {
        let part_id = sha256(part.as_bytes());
        if trees.get_bytes(In::Parts, part_id.as_bytes())?.is_none() {
            batch.put_bytes(In::Parts, part_id.as_bytes(), part.as_bytes().to_vec());
        }
        ids.push(part_id);
    }
    batch.put(In::Texts, id.as_bytes(), &ids)?;
    Ok(id)
}

/// A text by its id, if it is kept.
pub fn get(trees: &Trees, id: &str) -> Result<Option<String>, StoreError> {
    let Some(parts) = trees.get::<Vec<String>>(In::Texts, id.as_bytes())? else {
        return Ok(None);
    };
    let damaged = |why: &str| StoreError::Damaged {
        what: format!("text {id}"),
        why: why.into(),
    };
    let mut text = Vec::new();
    for part in parts {
        let bytes = trees.get_bytes(In::Parts, part.as_bytes())?;
        text.extend_from_slice(&bytes.ok_or_else(|| damaged("a part is missing"))?);
    }
    if sha256(&text) != id {
        return Err(damaged("its checksum is wrong"));
    }
    String::from_utf8(text)
        .map(Some)
        .map_err(|_| damaged("it is not UTF-8"))
}

/// Takes texts out that neither a set in force nor the history names, and parts that are of no text.
pub fn sweep(trees: &Trees) -> Result<(), StoreError> {
    let mut texts = BTreeSet::new();
    for set in trees.iter::<ExportedSet>(In::Sets) {
        texts.insert(set?.1.version.text);
    }
    for generation in trees.iter::<Generation>(In::History) {
        let Generation { edits, stage, .. } = generation?.1;
        let staged = stage.map(|stage| stage.edits).unwrap_or_default();
        for Edit { before, after, .. } in edits.into_iter().chain(staged) {
            texts.extend([before, after].into_iter().flatten().map(|v| v.text));
        }
    }
    let mut batch = Batch::default();
    let mut parts = BTreeSet::new();
    for text in trees.iter::<Vec<String>>(In::Texts) {
        let (id, of) = text?;
        match texts.contains(&*String::from_utf8_lossy(&id)) {
            true => parts.extend(of),
            false => batch.remove(In::Texts, &id),
        }
    }
    for id in trees.keys(In::Parts) {
        let id = id?;
        if !parts.contains(&*String::from_utf8_lossy(&id)) {
            batch.remove(In::Parts, &id);
        }
    }
    if batch.len() > 0 {
        trees.commit(&batch)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_text_and_a_change_touches_few() {
        let text: String = (0..20_000).map(|n| format!("  - rule number {n}\n")).collect();
        let before = split(&text);
        assert_eq!(before.concat(), text);
        assert!(before.len() > 100, "{}", before.len());
        let changed = text.replace("number 7777\n", "number x\n");
        let after = split(&changed);
        assert_eq!(after.concat(), changed);
        let old: BTreeSet<&str> = before.into_iter().collect();
        let new = after.iter().filter(|part| !old.contains(*part)).count();
        assert!((1..=3).contains(&new), "{new}");
    }

    #[test]
    fn long_lines_empty_texts_and_characters_of_many_bytes() {
        assert!(split("").is_empty());
        assert_eq!(split("\n\n").concat(), "\n\n");
        let long = "é".repeat(3 * LONGEST);
        let parts = split(&long);
        assert_eq!(parts.concat(), long);
        assert!(parts.iter().all(|p| p.len() <= LONGEST));
    }
}
