// SPDX-License-Identifier: GPL-3.0-only
//! A disk that fills up: changes are refused, nothing is lost, and with room there are changes again. As root, which a
//! mount wants.
#![allow(clippy::expect_used, reason = "a failed expect is a failed test")]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use policyd_api::chain::Outcome;
use policyd_store::{Config, Store, StoreError};

/// A small tmpfs of this test's own.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new(size: &str) -> Disk {
        let dir = tempfile::tempdir().expect("a directory");
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"])
            .arg(dir.path())
            .status()
            .expect("mount runs");
        assert!(done.success(), "this test mounts a tmpfs: run it as root");
        Disk(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes until nothing more fits, but for `but` bytes.
    fn fill(&self, but: u64) -> PathBuf {
        let path = self.path("filler");
        let mut file = File::options()
            .append(true)
            .create(true)
            .open(&path)
            .expect("a file");
        while file.write_all(&[0; 4096]).is_ok() {}
        let length = file.metadata().expect("length").len();
        file.set_len(length.saturating_sub(but)).expect("shrinks");
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn open(path: &Path, config: &Config) -> Store {
    Store::open(path, config.clone()).expect("opens")
}

#[test]
fn a_change_is_refused_before_the_disk_is_full() {
    let disk = Disk::new("32m");
    let path = disk.path("store");
    let store = open(&path, &common::config());
    for generation in 1..=20 {
        store.commit(&common::change(generation)).expect("stores");
        store.export_beside();
    }
    let filler = disk.fill(2 << 20);
    let error = store.commit(&common::change(21)).expect_err("too little room");
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    assert!(
        error.to_string().contains("nothing was changed: make room"),
        "{error}"
    );
    assert!(
        store
            .status()
            .problems
            .iter()
            .any(|p| p.contains("bytes are free"))
    );
    assert_eq!(common::check(&store), 20);
    // Not a byte is left: what is refused waits for the audit log.
    disk.fill(0);
    store.refused(common::refusal("no room"));
    assert!(
        store
            .status()
            .problems
            .iter()
            .any(|p| p.starts_with("1 refused attempt"))
    );
    fs::remove_file(filler).expect("makes room");
    store.commit(&common::change(21)).expect("stores again");
    assert_eq!(common::check(&store), 21);
    let (entries, _) = store.audit(u64::MAX, 2).expect("reads");
    assert!(matches!(&entries[1].attempt.outcome, Outcome::Refused { why } if why == "no room"));
    assert!(
        store.status().problems.is_empty(),
        "{:?}",
        store.status().problems
    );
}

/// Where somebody takes the last room between the look at it and the write.
#[test]
fn a_change_that_did_not_fit_is_taken_back() {
    let disk = Disk::new("20m");
    let path = disk.path("store");
    let config = Config {
        reserve: 0,
        ballast: 2 << 20,
        ..common::config()
    };
    let store = open(&path, &config);
    let mut generation = 0;
    let mut failures = 0;
    for round in 0..6 {
        let filler = disk.fill(round * 30_000);
        // Sled has room in its own file first.
        for _ in 0..4000 {
            match store.commit(&common::change(generation + 1)) {
                Ok(_) => generation += 1,
                Err(e) => {
                    failures += 1;
                    match &e {
                        // Nothing was changed, as it says.
                        StoreError::Sled(_) => assert_eq!(common::check(&store), generation, "{e}"),
                        // It could not even be opened; told as it is.
                        StoreError::Unsettled(_) => assert!(e.to_string().contains("taken back"), "{e}"),
                        e => panic!("{e}"),
                    }
                    break;
                }
            }
        }
        // A daemon that starts while the disk is full, every other time.
        fs::remove_file(&filler).expect("makes room");
        assert_eq!(common::check(&store), generation, "round {round}");
    }
    assert!(failures >= 3, "the disk was never full: {failures}");
    store
        .commit(&common::change(generation + 1))
        .expect("stores with room");
    drop(store);
    assert_eq!(common::check(&open(&path, &config)), generation + 1);
}

#[test]
fn a_store_on_a_full_disk_opens_by_its_ballast() {
    let disk = Disk::new("32m");
    let path = disk.path("store");
    let config = common::config();
    let store = open(&path, &config);
    for generation in 1..=20 {
        store.commit(&common::change(generation)).expect("stores");
    }
    drop(store);
    let filler = disk.fill(0);
    let store = open(&path, &config);
    assert_eq!(common::check(&store), 20);
    assert!(store.commit(&common::change(21)).is_err());
    drop(store);
    fs::remove_file(filler).expect("makes room");
    let store = open(&path, &config);
    assert!(
        disk.path("store.ballast").exists(),
        "the ballast was not taken again"
    );
    store.commit(&common::change(21)).expect("stores");
    assert_eq!(common::check(&store), 21);
}
