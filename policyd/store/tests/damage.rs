// SPDX-License-Identifier: GPL-3.0-only
//! Stores that are not what was written: set aside, never deleted, and gone on from the last good export.
#![allow(clippy::expect_used, reason = "a failed expect is a failed test")]

mod common;

use std::fs;
use std::path::Path;

use policyd_api::Action;
use policyd_api::export::Export;
use policyd_store::{Change, Scope, Store, StoreError};

fn open(path: &Path) -> Store {
    Store::open(path, common::config()).expect("opens")
}

fn filled(path: &Path, generations: u64) -> Store {
    let store = open(path);
    for generation in 1..=generations {
        store.commit(&common::change(generation)).expect("stores");
        store.export_beside();
    }
    store
}

fn import(store: &Store, generation: u64, export: &Export) {
    let edits = export.sets.iter().map(|(name, set)| {
        let text = export.text(&set.version.text).expect("is there");
        (name.clone(), Some((set.version.file.clone(), text)))
    });
    let change = Change {
        action: Action::Import,
        to: Some(export.generation),
        edits: edits.collect(),
        ..common::change(generation)
    };
    store.commit(&change).expect("imports");
}

/// Opens sled's files by themselves.
fn sled(path: &Path) -> sled::Db {
    sled::Config::new()
        .path(path)
        .mode(sled::Mode::LowSpace)
        .open()
        .expect("opens")
}

fn assert_recovered(path: &Path, generation: u64) -> Store {
    let store = open(path);
    let recovery = store.recovery().expect("reads").expect("the damage was noticed");
    assert!(recovery.aside.is_dir(), "{recovery}");
    assert_eq!(recovery.generation, generation, "{recovery}");
    let text = recovery.to_string();
    let export = recovery.export.expect("an export");
    assert!(
        text.contains(&format!("`xmesh policy-import {}`", export.display())),
        "{text}"
    );
    assert_eq!(store.status().problems, [text]);
    // The sets in force are those of the export.
    let (at, sets) = store.sets().expect("reads");
    let sets: Vec<(String, String)> = sets.into_iter().map(|(n, s)| (n, s.text)).collect();
    assert_eq!(
        (at, sets),
        (generation, common::model(generation).into_iter().collect())
    );
    // And stay so when it is opened again.
    drop(store);
    let store = open(path);
    assert!(store.recovery().expect("reads").is_some());
    let export = Export::from_bytes(&fs::read(export).expect("reads")).expect("whole");
    import(&store, generation + 1, &export);
    assert_eq!(store.recovery().expect("reads"), None);
    assert_eq!(store.generation().expect("reads"), generation + 1);
    let chain = store.chain().expect("reads");
    chain.verify().expect("the audit log goes on");
    assert!(
        chain.has(&export.audit.head.hash),
        "it does not go on from the export"
    );
    store
}

#[test]
fn records_that_do_not_decode() {
    for (tree, key) in [
        ("sets", &b"s3"[..]),
        ("history", &5_u64.to_be_bytes()),
        ("meta", b"generation"),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("store");
        drop(filled(&path, 9));
        let db = sled(&path);
        let tree = db.open_tree(tree).expect("a tree");
        assert!(tree.insert(key, b"{\"text\":").expect("inserts").is_some());
        db.flush().expect("flushes");
        drop((tree, db));
        assert_recovered(&path, 9);
    }
}

#[test]
fn a_text_that_was_changed() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    drop(filled(&path, 9));
    let db = sled(&path);
    let parts = db.open_tree("parts").expect("a tree");
    for item in parts.iter() {
        let (key, value) = item.expect("reads");
        let text = String::from_utf8_lossy(&value).replace("line", "lime");
        parts.insert(key, text.as_bytes()).expect("inserts");
    }
    db.flush().expect("flushes");
    drop((parts, db));
    assert_recovered(&path, 9);
}

/// Whatever becomes of sled's files: every change is there, or the damage is noticed and the export is.
#[test]
fn files_with_bytes_that_were_changed_or_lost() {
    let dir = tempfile::tempdir().expect("a directory");
    let good = dir.path().join("good");
    drop(filled(&good, 9));
    let log = fs::read(good.join("db")).expect("reads");
    let used = log.iter().rposition(|b| *b != 0).expect("not empty");
    let mut noticed = 0;
    for n in 0..40 {
        let path = dir.path().join(format!("store-{n}"));
        fs::create_dir_all(path.join("blobs")).expect("a directory");
        for file in fs::read_dir(&good)
            .expect("lists")
            .flatten()
            .filter(|f| f.path().is_file())
        {
            fs::copy(file.path(), path.join(file.file_name())).expect("copies");
        }
        let exports = dir.path().join(format!("store-{n}.exports"));
        fs::create_dir(&exports).expect("a directory");
        for file in fs::read_dir(dir.path().join("good.exports"))
            .expect("lists")
            .flatten()
        {
            fs::copy(file.path(), exports.join(file.file_name())).expect("copies");
        }
        let at = used / 40 * n;
        let mut bad = log.clone();
        match n % 4 {
            0 => bad[at..at + 512].fill(0),
            1 => bad[at] ^= 0x40,
            2 => bad.truncate(at),
            _ => bad[at..at + 64].fill(0xff),
        }
        fs::write(path.join("db"), bad).expect("writes");
        let store = open(&path);
        if store.recovery().expect("reads").is_some() {
            noticed += 1;
        }
        let (generation, sets) = store.sets().expect("reads");
        assert_eq!(generation, 9, "damage {n} at {at}");
        let sets: Vec<(String, String)> = sets.into_iter().map(|(name, s)| (name, s.text)).collect();
        assert_eq!(
            sets,
            common::model(9).into_iter().collect::<Vec<_>>(),
            "damage {n} at {at}"
        );
    }
    assert!(noticed > 0, "no damage was one");
    println!("{noticed} of 40 damages made a difference");
}

#[test]
fn a_store_that_lost_its_last_changes() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    let store = filled(&path, 8);
    drop(store);
    let old = dir.path().join("old");
    assert!(
        std::process::Command::new("cp")
            .arg("-a")
            .arg(&path)
            .arg(&old)
            .status()
            .expect("runs")
            .success()
    );
    drop(filled_on(&path, 9..=10));
    fs::remove_dir_all(&path).expect("goes");
    fs::rename(&old, &path).expect("comes back");
    let store = assert_recovered(&path, 10);
    drop(store);
}

fn filled_on(path: &Path, generations: std::ops::RangeInclusive<u64>) -> Store {
    let store = open(path);
    for generation in generations {
        store.commit(&common::change(generation)).expect("stores");
        store.export_beside();
    }
    store
}

#[test]
fn a_damaged_export_is_passed_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    drop(filled(&path, 9));
    let newest = dir
        .path()
        .join("store.exports/generation-00000000000000000009.json");
    let mut bytes = fs::read(&newest).expect("is there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&newest, bytes).expect("writes");
    fs::write(path.join("db"), b"no log at all").expect("writes");
    assert_recovered(&path, 8);
}

#[test]
fn an_audit_log_that_was_cut_is_said() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    drop(filled(&path, 9));
    let db = sled(&path);
    db.open_tree("audit")
        .expect("a tree")
        .remove(9_u64.to_be_bytes())
        .expect("removes");
    db.flush().expect("flushes");
    drop(db);
    let store = open(&path);
    assert_eq!(store.recovery().expect("reads"), None);
    let problems = store.status().problems;
    assert!(
        problems[0].contains("broken at entry 8: the log ends there"),
        "{problems:?}"
    );
    drop(store);

    // With the head made to fit, the export still knows.
    let db = sled(&path);
    let eighth = db
        .open_tree("audit")
        .expect("a tree")
        .get(8_u64.to_be_bytes())
        .expect("reads")
        .expect("is there");
    let entry: policyd_api::chain::AuditEntry = serde_json::from_slice(&eighth).expect("decodes");
    let head = serde_json::to_vec(&entry.anchor()).expect("encodes");
    db.open_tree("meta")
        .expect("a tree")
        .insert(b"audit-head", head)
        .expect("inserts");
    db.flush().expect("flushes");
    drop(db);
    let problems = open(&path).status().problems;
    assert!(
        problems[0].contains("its end was cut off or replaced"),
        "{problems:?}"
    );
}

#[test]
fn a_second_opener_is_refused_and_nothing_set_aside() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    let _first = open(&path);
    let error = Store::open(&path, common::config())
        .err()
        .expect("locked")
        .to_string();
    assert!(error.contains("another policyd"), "{error}");
    assert_eq!(
        fs::read_dir(dir.path())
            .expect("lists")
            .flatten()
            .filter(|f| f.file_name().to_string_lossy().contains("damaged"))
            .count(),
        0
    );
}

#[test]
fn an_export_of_all_can_be_gone_back_with() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = filled(&dir.path().join("store"), 9);
    let all = store.export(Scope::All).expect("exports");
    let few = store.export(Scope::InForce).expect("exports");
    assert!(all.texts.len() > few.texts.len());
    assert_eq!(all.history.len(), 9);
    let file = all.to_bytes().expect("a file");
    assert_eq!(Export::from_bytes(&file).expect("whole"), all);
}

#[test]
fn a_generation_that_is_not_kept_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = filled(&dir.path().join("store"), 50);
    assert_eq!(common::check(&store), 50);
    let error = store.sets_at(3).expect_err("is not kept");
    assert!(
        matches!(
            error,
            StoreError::NoSuchGeneration {
                oldest: 10,
                newest: 50,
                ..
            }
        ),
        "{error}"
    );
    assert!(store.sets_at(51).is_err());
}

/// What a policyd without history has left.
fn old_store(path: &Path, records: &[(&str, &str)]) {
    let db = sled(path);
    let policies = db.open_tree("policies").expect("a tree");
    for (name, record) in records {
        policies.insert(name, *record).expect("inserts");
    }
    db.open_tree("meta")
        .expect("a tree")
        .insert(b"generation", &7_u64.to_be_bytes())
        .expect("inserts");
    db.flush().expect("flushes");
}

const OLD_A: &str = r#"{"text":"policy: a\n","file":"a.yaml","generation":3,"applied_ns":5,"by_uid":1000}"#;
const OLD_B: &str = r#"{"text":"policy: b\n","file":"b.yaml","generation":7,"applied_ns":9,"by_uid":0}"#;

#[test]
fn a_store_of_the_older_layout_is_taken_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    old_store(&path, &[("a", OLD_A), ("b", OLD_B)]);
    for _ in 0..2 {
        let store = open(&path);
        assert_eq!(store.recovery().expect("reads"), None);
        let (generation, sets) = store.sets().expect("reads");
        assert_eq!(generation, 7);
        let (name, a) = &sets[0];
        assert_eq!((name.as_str(), a.text.as_str()), ("a", "policy: a\n"));
        assert_eq!(
            (a.record.generation, a.record.applied_ns, a.record.by.uid),
            (3, 5, 1000)
        );
        assert_eq!(a.record.version.file, "a.yaml");
        assert_eq!(sets.len(), 2);
        let (history, _) = store.history(u64::MAX, 10, None).expect("reads");
        assert_eq!((history.len(), history[0].action), (1, Action::Migrate));
        store.chain().expect("reads").verify().expect("whole");
    }
}

#[test]
fn of_a_damaged_store_of_the_older_layout_the_good_sets_are_saved() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    old_store(&path, &[("a", OLD_A), ("b", "{\"text\":")]);
    let store = open(&path);
    let recovery = store.recovery().expect("reads").expect("noticed");
    assert!(recovery.why.contains("policies/b"), "{recovery}");
    assert!(
        recovery
            .export
            .expect("salvaged")
            .ends_with("store.exports/salvaged-00000000000000000007.json")
    );
    let (generation, sets) = store.sets().expect("reads");
    assert_eq!((generation, sets.len()), (7, 1));
    assert_eq!(sets[0].1.text, "policy: a\n");
}
