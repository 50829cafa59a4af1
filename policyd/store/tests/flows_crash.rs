// SPDX-License-Identifier: GPL-3.0-only
//! A process that writes the history of flows is killed at random moments, in the middle of adding up and compacting, too: each minute
//! that was written is there once, and the one under way is there as a whole or not at all.
//!
//! `XMESH_CRASHES=500 cargo test --release -p policyd-store --test flows_crash` kills that often.
#![allow(clippy::expect_used, reason = "a failed expect is a failed test")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use policyd_api::{FlowEnd, FlowName, FlowTotals, Verdict};
use policyd_store::{FlowConfig, FlowStore};

const CHILD: &str = "XMESH_FLOWS_CRASH_CHILD";
const MINUTE: u64 = 60;
const START: u64 = 20_000 * 24 * 3600;
/// Names beside the one that is looked at; so many that files grow, and are compacted every few dozen minutes.
const BALLAST: u64 = 2500;

fn open(path: &Path) -> FlowStore {
    let config = FlowConfig {
        bytes: 32 << 20,
        reserve: 0,
        ..FlowConfig::default()
    };
    FlowStore::open(path, config).expect("opens")
}

fn name(client: &str) -> Arc<FlowName> {
    Arc::new(FlowName {
        from: FlowEnd {
            domain: Some(client.into()),
            ..FlowEnd::default()
        },
        to: FlowEnd::default(),
        protocol: "tcp".into(),
        port: Some(80),
        verdict: Verdict::Allow,
        rule: "no rule".into(),
        by_policy: true,
    })
}

/// Minutes that are there, by what was counted in them: minute n has n flows.
fn minutes(store: &FlowStore) -> Option<u64> {
    let past = store
        .past(START, START + (1 << 20) * MINUTE, |name| {
            name.from.domain.as_deref() == Some("counted")
        })
        .expect("reads");
    let sum: u64 = past.flows.iter().map(|(_, totals)| totals.flows).sum();
    let n = (sum * 2).isqrt();
    (n * (n + 1) / 2 == sum).then_some(n)
}

/// Not a test by itself: the process that is killed.
#[test]
fn child() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let store = open(Path::new(&path));
    let names: Vec<_> = (0..BALLAST).map(|n| name(&format!("ballast{n}"))).collect();
    let counted = name("counted");
    let mut out = std::io::stdout().lock();
    for minute in minutes(&store).expect("whole") + 1.. {
        let at = START + minute * MINUTE;
        let totals = |n: u64| FlowTotals {
            flows: n,
            bytes_in: n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20,
            bytes_out: n.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 20,
            first: at,
            last: at,
            ..FlowTotals::default()
        };
        store.add(&counted, totals(minute));
        for (n, name) in (minute..).zip(&names) {
            store.add(name, totals(n));
        }
        store.write(at + MINUTE, false).expect("writes");
        writeln!(out, "written {minute}")
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
    let dir = match Path::new("/dev/shm").is_dir() {
        true => tempfile::tempdir_in("/dev/shm"),
        false => tempfile::tempdir(),
    };
    let dir = dir.expect("a directory");
    let path = dir.path().join("flows");
    let mut seed = u64::from(std::process::id()) << 20 | 1;
    println!("seed {seed}");
    let mut last = 0;
    for _ in 0..rounds.unwrap_or(12u32) {
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
        std::thread::sleep(Duration::from_millis(seed % 3000));
        child.kill().expect("is killed");
        let told = BufReader::new(child.stdout.take().expect("a pipe"));
        let written = told
            .lines()
            .map_while(Result::ok)
            .filter_map(|line| line.strip_prefix("written ")?.parse().ok())
            .last()
            .unwrap_or(last);
        child.wait().expect("ends");
        let there = minutes(&open(&path)).expect("each minute once, whole");
        assert!(
            (written..=written + 1).contains(&there),
            "{written} minutes were written, {there} are there"
        );
        assert!(
            !dir.path().join("flows.damaged").exists(),
            "it was taken for damaged"
        );
        last = there;
    }
    println!("{last} minutes");
}
