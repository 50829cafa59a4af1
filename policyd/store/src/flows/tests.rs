// SPDX-License-Identifier: GPL-3.0-only
//! The history as its writer and readers use it, on real files.

use std::fs;

use policyd_api::{FlowEnd, Verdict};

use super::plan::{DAY, HOUR};
use super::*;

const START: u64 = 20_000 * DAY;

fn config() -> FlowConfig {
    FlowConfig {
        reserve: 0,
        ..FlowConfig::default()
    }
}

fn name(client: &str, port: u16) -> Arc<FlowName> {
    let end = |domain: &str| FlowEnd {
        domain: Some(domain.into()),
        ..FlowEnd::default()
    };
    Arc::new(FlowName {
        from: end(client),
        to: end("db1"),
        protocol: "tcp".into(),
        port: Some(port),
        verdict: Verdict::Allow,
        rule: "shop/reads".into(),
        by_policy: true,
    })
}

fn count(flows: u64, at: u64) -> FlowTotals {
    FlowTotals {
        flows,
        bytes_out: flows * 100,
        first: at,
        last: at,
        ..FlowTotals::default()
    }
}

/// Counts `flows` in the minute of `at`, and lets that minute be over.
fn put(store: &FlowStore, name: &Arc<FlowName>, flows: u64, at: u64) {
    store.add(name, count(flows, at));
    store.write(at + MINUTE, false).expect("writes");
}

fn sum(store: &FlowStore, since: u64, until: u64) -> u64 {
    let past = store.past(since, until, |_| true).expect("reads");
    past.flows.iter().map(|(_, totals)| totals.flows).sum()
}

#[test]
fn what_was_counted_is_there_at_once_and_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("flows");
    let store = FlowStore::open(&path, config()).expect("opens");
    let (web, cron) = (name("web1", 80), name("cron", 80));
    store.add(&web, count(3, START));
    store.add(&web, count(4, START + 5));
    store.add(&cron, count(1, START + 7));
    assert_eq!(sum(&store, START, START + 60), 8, "the minute that is counted");
    store.write(START + 59, false).expect("nothing to write yet");
    store.write(START + 60, false).expect("writes");
    store.add(&web, count(1, START + 61));
    store.write(START + 62, true).expect("writes what there is");
    // Of one minute in two parts.
    store.add(&web, count(1, START + 63));
    store.write(START + 63, true).expect("writes what there is");
    drop(store);
    let store = FlowStore::open(&path, config()).expect("opens again");
    let past = store
        .past(START, START + 120, |name| {
            name.from.domain.as_deref() == Some("web1")
        })
        .expect("reads");
    let [(found, totals)] = past.flows.as_slice() else {
        panic!("{past:?}");
    };
    assert_eq!((&**found, totals.flows, totals.bytes_out), (&*web, 9, 900));
    assert_eq!((totals.first, totals.last), (START, START + 63));
    assert_eq!(sum(&store, START, START + 60), 8);
    assert_eq!(store.names().len(), 2);
}

#[test]
fn hours_and_days_hold_the_sum_of_their_minutes_and_minutes_go() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = FlowStore::open(&dir.path().join("flows"), config()).expect("opens");
    let web = name("web1", 80);
    let end = START + 20 * DAY + 90 * MINUTE;
    let times: Vec<u64> = (0..)
        .map(|n| START + n * 7 * MINUTE + n % 60)
        .take_while(|t| *t < end)
        .collect();
    for (n, at) in (1..).zip(&times) {
        put(&store, &web, n, *at);
    }
    let really = |since: u64, until: u64| -> u64 {
        let counted = (1..).zip(&times).filter(|(_, at)| (since..until).contains(*at));
        counted.map(|(n, _)| n).sum()
    };
    // All times in the grain that is kept of them.
    for (since, until) in [
        (START, START + 20 * DAY),
        (START, end),
        (START + 3 * DAY, START + 9 * DAY),
        (START + 10 * DAY + 5 * HOUR, end),
        (end - DAY + HOUR, end - 7 * MINUTE),
        (end - 2 * HOUR, end),
    ] {
        let (since, until) = (since - since % MINUTE, until - until % MINUTE);
        assert_eq!(sum(&store, since, until), really(since, until), "{since} {until}");
    }
    // A minute of which only the hour is known.
    let at = START + 10 * DAY + 90 * MINUTE;
    let past = store.past(at, at + MINUTE, |_| true).expect("reads");
    assert_eq!(
        (past.since, past.until),
        (START + 10 * DAY + HOUR, START + 10 * DAY + 2 * HOUR)
    );
    assert_eq!(past.flows[0].1.flows, really(past.since, past.until));
    // One of which only the day is.
    let past = store.past(START + 100, START + 200, |_| true).expect("reads");
    assert_eq!((past.since, past.until), (START, START + DAY));
    let disk = store.0.disk.read().expect("whole");
    let minutes = disk
        .range(key(Grain::Minute, 0)..key(Grain::Hour, 0))
        .expect("reads");
    assert!(minutes.count() < 300, "minutes are kept for a day");
}

#[test]
fn long_without_a_daemon_costs_nothing_and_loses_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = FlowStore::open(&dir.path().join("flows"), config()).expect("opens");
    let web = name("web1", 80);
    put(&store, &web, 1, START + HOUR);
    put(&store, &web, 2, START + 300 * DAY + HOUR);
    put(&store, &web, 4, START + 300 * DAY + 3 * HOUR);
    let began = std::time::Instant::now();
    put(&store, &web, 8, START + 302 * DAY);
    assert!(began.elapsed().as_secs() < 5);
    assert_eq!(sum(&store, START, START + 303 * DAY), 15);
    assert_eq!(sum(&store, START + 300 * DAY, START + 301 * DAY), 6);
    // A clock that was set back: counted where there is still room for it.
    put(&store, &web, 16, START + 300 * DAY);
    assert_eq!(sum(&store, START, START + 303 * DAY), 31);
}

#[test]
fn what_is_too_old_goes_and_so_does_its_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let store =
        FlowStore::open(&dir.path().join("flows"), FlowConfig { days: 3, ..config() }).expect("opens");
    put(&store, &name("gone", 1), 5, START);
    for hour in 1..24 * 8 {
        put(&store, &name("web1", 80), 1, START + hour * HOUR);
    }
    assert!(sum(&store, 0, START + 8 * DAY) <= 24 * 5);
    assert_eq!(store.names(), [name("web1", 80)]);
}

#[test]
fn the_files_stay_within_their_bound() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("flows");
    let limit = 16 << 20;
    let store = FlowStore::open(
        &path,
        FlowConfig {
            bytes: limit,
            ..config()
        },
    )
    .expect("opens");
    let names: Vec<_> = (0..6000).map(|n| name(&format!("web{n}"), 80)).collect();
    let mut largest = 0;
    for minute in 0..130u64 {
        let at = START + minute * MINUTE;
        for (n, name) in (0..).zip(&names) {
            // Numbers as they are under load, none like the other.
            let load = |by: u64| (minute * 6000 + n).wrapping_mul(by) % 1_000_000;
            let totals = FlowTotals {
                packets_out: load(7919),
                packets_in: load(104_729),
                bytes_in: load(1_299_709) << 10,
                ..count(load(31) % 1000 + 1, at)
            };
            store.add(name, totals);
        }
        store.write(at + MINUTE, false).expect("writes");
        let on_disk: u64 = fs::read_dir(dir.path())
            .expect("reads")
            .flat_map(|e| fs::read_dir(e.expect("reads").path()).expect("reads"))
            .map(|e| e.expect("reads").metadata().map_or(0, |m| m.len()))
            .sum();
        largest = largest.max(on_disk);
    }
    assert!(largest <= limit, "{largest}");
    let end = START + 130 * MINUTE;
    let last = store.past(end - HOUR, end, |_| true).expect("reads");
    assert_eq!(last.flows.len(), 6000);
    assert!(store.status().bytes > 0 && store.status().problem.is_none());
    drop(store);
    let store = FlowStore::open(
        &path,
        FlowConfig {
            bytes: limit,
            ..config()
        },
    )
    .expect("opens again");
    assert_eq!(
        store.past(end - HOUR, end, |_| true).expect("reads").flows.len(),
        6000
    );
}

#[test]
fn on_a_full_disk_minutes_are_lost_and_counted_and_nothing_else_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("flows");
    let store = FlowStore::open(
        &path,
        FlowConfig {
            reserve: u64::MAX,
            ..config()
        },
    )
    .expect("opens");
    store.add(&name("web1", 80), count(3, START));
    let error = store.write(START + 60, false).expect_err("no room");
    assert!(matches!(error, FlowsError::Full { .. }), "{error}");
    let status = store.status();
    assert_eq!((status.unwritten, status.problem), (1, Some(error.to_string())));
    assert!(store.put_note("x", &1).is_err());
    assert!(store.put_records("x", [(1, Some(1))]).is_err());
    assert_eq!(sum(&store, START, START + 60), 0);
}

#[test]
fn a_name_whose_minute_was_not_written_is_written_with_the_next() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("flows");
    let store = FlowStore::open(&path, config()).expect("opens");
    store.add(&name("web1", 80), count(3, START));
    {
        let mut open = lock(&store.0.open);
        let unsaved = open.names.take_unsaved();
        assert_eq!(unsaved.len(), 1);
        open.names.put_back(unsaved);
    }
    store.write(START + 60, false).expect("writes");
    drop(store);
    let store = FlowStore::open(&path, config()).expect("opens again");
    assert_eq!(sum(&store, START, START + 60), 3);
}

#[test]
fn a_damaged_history_is_set_aside_and_begins_anew() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("flows");
    for _ in 0..2 {
        put(
            &FlowStore::open(&path, config()).expect("opens"),
            &name("web1", 80),
            1,
            START,
        );
        fs::write(path.join("conf"), "no configuration of sled's").expect("writes");
        let store = FlowStore::open(&path, config()).expect("opens all the same");
        assert_eq!(sum(&store, START, START + 60), 0);
        assert!(dir.path().join("flows.damaged").exists());
    }
}

#[test]
fn a_compaction_that_was_cut_short_loses_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("flows");
    put(
        &FlowStore::open(&path, config()).expect("opens"),
        &name("web1", 80),
        1,
        START,
    );
    // While it was copied.
    fs::create_dir(dir.path().join("flows.new")).expect("makes");
    assert_eq!(
        sum(
            &FlowStore::open(&path, config()).expect("opens"),
            START,
            START + 60
        ),
        1
    );
    assert!(!dir.path().join("flows.new").exists());
    // Between the renames.
    fs::rename(&path, dir.path().join("flows.old")).expect("renames");
    fs::create_dir(dir.path().join("flows.new")).expect("makes");
    assert_eq!(
        sum(
            &FlowStore::open(&path, config()).expect("opens"),
            START,
            START + 60
        ),
        1
    );
    // Before the old one went.
    fs::create_dir(dir.path().join("flows.old")).expect("makes");
    assert_eq!(
        sum(
            &FlowStore::open(&path, config()).expect("opens"),
            START,
            START + 60
        ),
        1
    );
    assert!(!dir.path().join("flows.old").exists());
}

#[test]
fn notes_outlive_the_process() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("flows");
    let store = FlowStore::open(&path, config()).expect("opens");
    assert_eq!(store.note::<u32>("a"), None);
    store.put_note("a", &7u32).expect("writes");
    drop(store);
    assert_eq!(
        FlowStore::open(&path, config()).expect("opens").note::<u32>("a"),
        Some(7)
    );
}

#[test]
fn records_outlive_the_process_and_damaged_ones_are_told_of() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("flows");
    let store = FlowStore::open(&path, config()).expect("opens");
    assert_eq!(store.records::<u32>("a").expect("reads"), Records::default());
    let changes = [(1, Some(10u32)), (2, Some(20)), (1 << 40, Some(30))];
    store.put_records("a", changes).expect("writes");
    // Of another kind whose name begins alike.
    store.put_records("ab", [(3, Some("x"))]).expect("writes");
    store
        .put_records("a", [(1, None), (2, Some(21))])
        .expect("writes");
    {
        let disk = store.0.disk.read().expect("whole");
        let mut batch = sled::Batch::default();
        batch.insert(b"r-a\0\0\0\0\0\0\0\0\x07".to_vec(), b"{\"half".to_vec());
        disk.write(batch).expect("writes");
    }
    drop(store);
    let store = FlowStore::open(&path, config()).expect("opens");
    // What makes room for minutes lets them be.
    store.0.disk.write().expect("whole").compact().expect("compacts");
    let records = store.records::<u32>("a").expect("reads");
    assert_eq!(records.whole, [(2, 21), (1 << 40, 30)]);
    assert_eq!(records.damaged, [7]);
    store.put_records::<u32>("a", [(7, None)]).expect("writes");
    assert!(store.records::<u32>("a").expect("reads").damaged.is_empty());
}

#[test]
fn times_are_told_apart_as_finely_as_they_are_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = FlowStore::open(&dir.path().join("flows"), config()).expect("opens");
    let (web, cron) = (name("web1", 80), name("cron", 80));
    // Over three days, one flow in each quarter of an hour.
    let times: Vec<u64> = (0..3 * 96).map(|n| START + n * 15 * MINUTE).collect();
    for at in &times {
        store.add(&cron, count(1, *at));
        put(&store, &web, 1, *at);
    }
    // Before and after half past one of each day; of a bucket that has both it is neither.
    let edge = |at: u64| at - at % DAY + HOUR + 30 * MINUTE;
    let class = |from: u64, to: u64| match (from < edge(from), to <= edge(from)) {
        (true, true) => ("before", true),
        (true, false) => ("both", false),
        (false, _) => ("after", to - 1 - from < DAY),
    };
    let end = START + 3 * DAY;
    let parts = store.past_apart(START, end, |_| true, class).expect("reads");
    let of = |part: &str| -> u64 {
        let found = parts.iter().find(|(name, _)| *name == part);
        found.map_or(0, |(_, past)| {
            past.flows.iter().map(|(_, totals)| totals.flows).sum()
        })
    };
    assert!(
        parts
            .iter()
            .all(|(_, past)| (past.since, past.until) == (START, end))
    );
    // Two days are kept by the hour; of those the hour with the edge is not told apart.
    assert_eq!(
        (of("before"), of("both"), of("after")),
        (2 * (4 + 4 + 6), 2 * 8, 2 * (3 * 96 - 6 - 8 - 8))
    );
    assert_eq!(of("before") + of("both") + of("after"), 2 * times.len() as u64);
    let one = store.past(START, end, |_| true).expect("reads");
    assert_eq!(
        one.flows.iter().map(|(_, totals)| totals.flows).sum::<u64>(),
        2 * times.len() as u64
    );
    let none = store
        .past_apart(START - DAY, START - HOUR, |_| true, class)
        .expect("reads");
    assert_eq!(none.len(), 1);
}

#[test]
fn names_of_an_earlier_version_are_read_and_lack_what_it_did_not_keep() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("flows");
    let store = FlowStore::open(&path, config()).expect("opens");
    put(&store, &name("web1", 80), 1, START);
    let text = r#"{"from":{"domain":"web1","uuid":"0f3a1c52-77aa-4b1e-9d10-ffee00112233","address":"10.0.0.11","uid":33,
        "exe":"/usr/bin/curl","args":["curl"]},"to":{"address":"192.0.2.7"},"protocol":"tcp","port":443,"verdict":"allow",
        "rule":"no rule","by_policy":true}"#;
    let mut batch = sled::Batch::default();
    let mut key = vec![NAME];
    key.extend(7u32.to_be_bytes());
    batch.insert(key, text.as_bytes());
    store.0.disk.read().expect("whole").write(batch).expect("writes");
    drop(store);
    let store = FlowStore::open(&path, config()).expect("opens again");
    let names = store.names();
    let old = names.iter().find(|name| name.port == Some(443)).expect("is read");
    assert_eq!(
        (old.from.uid, &old.from.user, &old.from.parents),
        (Some(33), &None, &None)
    );
    assert_eq!((old.from.given, old.to.given), (None, None));
    // A new one of the same flow is another name: it has more.
    let mut more = (**old).clone();
    more.from.given = Some(true);
    put(&store, &Arc::new(more), 1, START + MINUTE);
    assert_eq!(store.names().len(), 3);
}

/// Its first hour has minutes from its middle on, and all of them.
#[test]
fn the_hour_that_a_history_began_in_is_told_apart_by_the_minute() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = FlowStore::open(&dir.path().join("flows"), config()).expect("opens");
    let web = name("web1", 80);
    put(&store, &web, 4, START + 48 * 60);
    put(&store, &web, 3, START + HOUR + 3 * 60);
    // Until 10 minutes before the hour is over, after that, and of a bucket that has both neither.
    let class = |from: u64, to: u64| match (from < START + 50 * 60, to <= START + 50 * 60) {
        (true, true) => ("before", true),
        (true, false) => ("both", false),
        (false, _) => ("after", true),
    };
    let parts = store
        .past_apart(START, START + 2 * HOUR, |_| true, class)
        .expect("reads");
    let told: Vec<(&str, u64)> = parts
        .iter()
        .map(|(part, past)| (*part, past.flows.iter().map(|(_, totals)| totals.flows).sum()))
        .collect();
    assert_eq!(told, [("after", 3), ("before", 4)]);
}
