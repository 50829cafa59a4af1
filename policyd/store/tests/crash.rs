// SPDX-License-Identifier: GPL-3.0-only
//! A process that changes the store is killed at random moments: what it had acknowledged is there, and what it had not is there as
//! a whole or not at all.
//!
//! `XMESH_CRASHES=5000 cargo test --release -p policyd-store --test crash` kills that often.
#![allow(clippy::expect_used, reason = "a failed expect is a failed test")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use policyd_store::Store;

const CHILD: &str = "XMESH_CRASH_CHILD";
const ROUNDS: &str = "XMESH_CRASHES";

/// Not a test by itself: the process that is killed.
#[test]
fn child() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let store = Store::open(Path::new(&path), common::config()).expect("opens");
    let mut out = std::io::stdout().lock();
    let mut acknowledge = |line: String| {
        out.write_all(line.as_bytes())
            .and_then(|()| out.flush())
            .expect("the parent reads");
    };
    acknowledge("\nopen\n".into());
    for generation in store.generation().expect("reads") + 1.. {
        if generation % 7 == 3 {
            let undo = store.commit(&common::change(generation)).expect("stores");
            store.take_back(undo, "a test").expect("takes back");
        }
        if generation % 5 == 2 {
            store.refused(common::refusal("a test"));
            acknowledge(format!("refused {generation}\n"));
        }
        store.commit(&common::change(generation)).expect("stores");
        acknowledge(format!("stored {generation}\n"));
        store.export_beside();
        acknowledge(format!("exported {generation}\n"));
    }
}

fn start(store: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(CHILD, store)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts")
}

/// Numbers that look random, from one that is printed when the test fails.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

#[derive(Default)]
struct Acknowledged {
    stored: u64,
    exported: u64,
    refused: u64,
    lines: u64,
}

fn kill_once(path: &Path, random: &mut Random) -> Acknowledged {
    let mut child = start(path);
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut acknowledged = Acknowledged::default();
    // Opening is a moment to die at, too.
    let opened = random.below(8) != 0 && lines.by_ref().any(|l| l.is_ok_and(|l| l == "open"));
    let after = Duration::from_micros(random.below(if opened { 60_000 } else { 30_000 }));
    std::thread::sleep(after);
    child.kill().expect("is killed");
    child.wait().expect("ends");
    for line in lines.map_while(Result::ok) {
        let Some((what, number)) = line.split_once(' ') else {
            continue;
        };
        let Ok(number) = number.parse::<u64>() else {
            continue;
        };
        acknowledged.lines += 1;
        match what {
            "stored" => acknowledged.stored = number,
            "exported" => acknowledged.exported = number,
            "refused" => acknowledged.refused = number,
            _ => {}
        }
    }
    acknowledged
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    if std::env::var(CHILD).is_ok() {
        return;
    }
    let seed = u64::from(std::process::id()) << 20 | 1;
    println!("seed {seed}");
    let mut random = Random(seed);
    let asked: Option<u64> = std::env::var(ROUNDS).ok().and_then(|n| n.parse().ok());
    let (rounds, end) = match asked {
        Some(rounds) => (rounds, None),
        None => (40, Some(Instant::now() + Duration::from_secs(8))),
    };
    let mut dir = tempfile::tempdir().expect("a directory");
    let (mut last, mut changes, mut done, mut ahead) = (0, 0, 0, 0);
    for round in 0..rounds {
        if end.is_some_and(|end| Instant::now() > end) {
            break;
        }
        // A new store now and then: its beginning is where most is made.
        if round % 25 == 24 {
            (dir, last) = (tempfile::tempdir().expect("a directory"), 0);
        }
        let path = dir.path().join("store");
        let acknowledged = kill_once(&path, &mut random);
        let store = Store::open(&path, common::config()).expect("opens after a kill");
        assert_eq!(
            store.recovery().expect("reads"),
            None,
            "round {round}: taken for damaged"
        );
        let generation = common::check(&store);
        let stored = acknowledged.stored.max(last);
        // The kill may come between the disk and the pipe.
        assert!(
            generation == stored || generation == stored + 1,
            "round {round}: {stored} was acknowledged, {generation} is there"
        );
        ahead += generation - stored;
        if acknowledged.exported > 0 {
            let export = store.status().last_export.expect("an export");
            let number = export
                .rsplit_once('-')
                .and_then(|(_, n)| n.strip_suffix(".json")?.parse::<u64>().ok());
            assert!(number >= Some(acknowledged.exported), "round {round}: {export}");
        }
        if acknowledged.refused > 0 && acknowledged.refused + 60 > generation {
            let (entries, _) = store.audit(u64::MAX, 200).expect("reads");
            let refused = |e: &policyd_api::chain::AuditEntry| {
                matches!(e.attempt.outcome, policyd_api::chain::Outcome::Refused { .. })
            };
            assert!(
                entries.iter().any(refused),
                "round {round}: no refusal in the audit log"
            );
        }
        changes += generation - last;
        last = generation;
        done += 1;
    }
    println!("{done} kills, {changes} changes, {ahead} of them stored and not acknowledged");
    assert!(changes > done / 4, "hardly anything was changed: {changes}");
}
