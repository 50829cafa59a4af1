// SPDX-License-Identifier: GPL-3.0-only
//! A process that keeps records beside the history is killed at random moments: what it was told to be written is there, and of
//! one write all of it or nothing.
//!
//! `XMESH_CRASHES=500 cargo test --release -p policyd-store --test records_crash` kills that often.
#![allow(clippy::expect_used, reason = "a failed expect is a failed test")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use policyd_store::{FlowConfig, FlowStore};

const CHILD: &str = "XMESH_RECORDS_CRASH_CHILD";
/// Records that a write changes together.
const TOGETHER: u64 = 7;
/// Records that are kept: those that are older go in the same write.
const KEPT: u64 = 50;

fn open(path: &Path) -> FlowStore {
    let config = FlowConfig {
        bytes: 16 << 20,
        reserve: 0,
        ..FlowConfig::default()
    };
    FlowStore::open(path, config).expect("opens")
}

/// How many writes are there: each whole, none too many and none missing.
fn writes(store: &FlowStore) -> u64 {
    let records = store.records::<(u64, String)>("test").expect("reads");
    assert!(records.damaged.is_empty(), "{:?}", records.damaged);
    let numbers: Vec<u64> = records.whole.iter().map(|(number, _)| *number).collect();
    let end = numbers.last().map_or(0, |last| last + 1);
    assert_eq!(end % TOGETHER, 0, "a write is there in part: {numbers:?}");
    let expected: Vec<u64> = (end.saturating_sub(KEPT)..end).collect();
    assert_eq!(numbers, expected);
    for (number, (of, text)) in &records.whole {
        assert_eq!((number, text.len()), (of, 300 + (*number as usize * 37) % 900));
    }
    end / TOGETHER
}

/// Not a test by itself: the process that is killed.
#[test]
fn child() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let store = open(Path::new(&path));
    let mut out = std::io::stdout().lock();
    for write in writes(&store).. {
        let new = write * TOGETHER..(write + 1) * TOGETHER;
        let old = new.start.saturating_sub(KEPT)..new.end.saturating_sub(KEPT);
        let record = |n: u64| (n, Some((n, "x".repeat(300 + (n as usize * 37) % 900))));
        let changes = new.map(record).chain(old.map(|n| (n, None)));
        store.put_records("test", changes).expect("writes");
        writeln!(out, "written {}", write + 1)
            .and_then(|()| out.flush())
            .expect("the parent reads");
    }
}

#[test]
fn what_was_written_survives_a_kill() {
    if std::env::var(CHILD).is_ok() {
        return;
    }
    let rounds = std::env::var("XMESH_CRASHES").ok().and_then(|n| n.parse().ok());
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("flows");
    let mut seed = u64::from(std::process::id()) << 20 | 1;
    println!("seed {seed}");
    let (mut last, mut ahead) = (0, 0);
    for _ in 0..rounds.unwrap_or(25u32) {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        std::thread::sleep(Duration::from_millis(seed % 400));
        child.kill().expect("is killed");
        let told = BufReader::new(child.stdout.take().expect("a pipe"));
        let written = told
            .lines()
            .map_while(Result::ok)
            .filter_map(|line| line.strip_prefix("written ")?.parse().ok())
            .last()
            .unwrap_or(last);
        child.wait().expect("ends");
        let there = writes(&open(&path));
        // The kill may come between the disk and the pipe.
        assert!(
            (written..=written + 1).contains(&there),
            "{written} were written, {there} are there"
        );
        assert!(
            !dir.path().join("flows.damaged").exists(),
            "it was taken for damaged"
        );
        ahead += there - written;
        last = there;
    }
    println!("{last} writes, {ahead} of them not acknowledged");
    assert!(last > 5, "hardly anything was written: {last}");
}
