// SPDX-License-Identifier: GPL-3.0-only
//! A week of a busy host in the history of flows: it fits its bound, and is read in less than a second.
//!
//! `cargo xtask bench history` runs the week, optimised; without that it is an hour, so that the test stays true.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use policyd_api::{FlowEnd, FlowName, FlowTotals, FlowUser, Verdict};
use policyd_store::{FlowConfig, FlowStore};

/// Guests of the host, programs in each, and whom each program talks to: 3,200 kinds of flow.
const GUESTS: usize = 40;
const PROGRAMS: usize = 8;
const PEERS: usize = 10;
/// Flows a second.
const RATE: u64 = 10_000;
const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const START: u64 = 20_000 * DAY;

fn names() -> Vec<Arc<FlowName>> {
    let guest = |n: usize, exe: Option<String>| FlowEnd {
        domain: Some(format!("guest{n}")),
        uuid: Some(format!("0f3a1c52-77aa-4b1e-9d10-{n:012}")),
        address: Some([10, 0, (n / 250) as u8, (n % 250) as u8].into()),
        uid: exe.as_ref().map(|_| 1000),
        args: exe
            .as_ref()
            .map(|exe| vec![exe.clone(), "--config=/etc/service.conf".into()]),
        user: exe.as_ref().map(|_| FlowUser {
            gid: 1000,
            groups: vec![4, 24, 27, 1000, 1100 + n as u32],
            loginuid: None,
        }),
        parents: exe.as_ref().map(|_| {
            vec![
                "/usr/bin/service-manager".into(),
                "/usr/lib/systemd/systemd".into(),
            ]
        }),
        given: Some(true),
        exe,
        ..FlowEnd::default()
    };
    let mut names = Vec::new();
    for from in 0..GUESTS {
        for program in 0..PROGRAMS {
            for peer in 0..PEERS {
                let to = match peer < PEERS / 2 {
                    true => guest((from + peer + 1) % GUESTS, Some("/usr/sbin/service".into())),
                    false => FlowEnd {
                        address: Some([192, 0, 2, (from * PEERS + peer) as u8].into()),
                        ..FlowEnd::default()
                    },
                };
                names.push(Arc::new(FlowName {
                    from: guest(from, Some(format!("/usr/bin/program{program}"))),
                    to,
                    protocol: "tcp".into(),
                    port: Some(8000 + program as u16 * 10 + peer as u16),
                    verdict: if peer == 0 { Verdict::Deny } else { Verdict::Allow },
                    rule: format!("set{program}/rule{peer}"),
                    by_policy: true,
                }));
            }
        }
    }
    names
}

/// Numbers as they are under load: none like the other, some kinds of flow a hundred times as frequent as others.
struct Load(u64);

impl Load {
    fn next(&mut self) -> u64 {
        // Marsaglia's xorshift.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn totals(&mut self, kind: usize, kinds: usize, at: u64) -> FlowTotals {
        // So that all kinds together come to the rate: most are rarer than the mean.
        let mean = RATE * MINUTE * 27 / 10 / kinds as u64;
        let flows = mean * 5 / (1 + (kind % 100) as u64) / 2 + self.next() % (mean / 2);
        let packets = flows * (5 + self.next() % 20);
        FlowTotals {
            flows,
            refused: flows / 50,
            packets_out: packets,
            packets_in: packets + self.next() % 1000,
            bytes_out: packets * (100 + self.next() % 400),
            bytes_in: packets * (200 + self.next() % 1200),
            first: at + self.next() % 5,
            last: at + 55 + self.next() % 5,
        }
    }
}

#[test]
fn a_week_of_a_busy_host_fits_and_is_read_at_once() {
    let optimised = !cfg!(debug_assertions);
    let minutes = if optimised { 7 * DAY / MINUTE } else { 60 };
    // In memory: what is asked is how much it is, and what it costs a processor.
    let memory = Path::new("/dev/shm");
    let dir = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    let dir = dir.expect("a directory");
    let config = FlowConfig::default();
    let store = FlowStore::open(&dir.path().join("flows"), config).expect("opens");
    let (names, mut load) = (names(), Load(0x9e37_79b9_7f4a_7c15));
    let (mut flows, mut counting, mut writing, mut slowest, mut largest) =
        (0, Duration::ZERO, Duration::ZERO, Duration::ZERO, 0);
    for minute in 0..minutes {
        let at = START + minute * MINUTE;
        let began = Instant::now();
        for (kind, name) in names.iter().enumerate() {
            let totals = load.totals(kind, names.len(), at);
            flows += totals.flows;
            store.add(name, totals);
        }
        counting += began.elapsed();
        let began = Instant::now();
        store.write(at + MINUTE, false).expect("writes");
        let took = began.elapsed();
        writing += took;
        slowest = slowest.max(took);
        largest = largest.max(store.status().bytes);
    }
    let end = START + minutes * MINUTE;
    let asked = |back: u64, wanted: &dyn Fn(&FlowName) -> bool| {
        let began = Instant::now();
        let past = store
            .past(end - back.min(minutes * MINUTE), end, wanted)
            .expect("reads");
        (began.elapsed(), past)
    };
    let (all, week) = asked(7 * DAY, &|_| true);
    assert_eq!(week.flows.len(), names.len());
    let counted: u64 = week.flows.iter().map(|(_, totals)| totals.flows).sum();
    assert_eq!(counted, flows, "nothing is lost, nothing counted twice");
    let (hours, few) = asked(2 * HOUR, &|name| {
        name.from.domain.as_deref() == Some("guest7") && name.port == Some(8010)
    });
    assert_eq!(few.flows.len(), 1);
    // The first day in part: by the hour.
    let (odd, _) = asked(7 * DAY - 5 * HOUR, &|_| true);
    // The longest that is read by the minute.
    let (day, _) = asked(DAY - HOUR, &|name| name.verdict == Verdict::Deny);
    let bytes = store.status().bytes;
    assert!(largest <= config.bytes, "{largest}");
    // Read by `cargo xtask bench history`.
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let kinds = names.len();
    println!("bench: {kinds} kinds of flow that are told apart");
    println!(
        "bench: {:.0} flows/s replayed on average",
        flows as f64 / (minutes * MINUTE) as f64
    );
    println!(
        "bench: {:.1} MiB on the disk after a week",
        bytes as f64 / f64::from(1 << 20)
    );
    println!(
        "bench: {:.1} MiB on the disk at most",
        largest as f64 / f64::from(1 << 20)
    );
    println!(
        "bench: {:.1} ms to read two hours of one guest and port",
        ms(hours)
    );
    println!("bench: {:.1} ms to read what was denied in 23 hours", ms(day));
    println!("bench: {:.1} ms to read all of a week", ms(all));
    println!("bench: {:.1} ms to read all of a week less five hours", ms(odd));
    println!(
        "bench: {:.1} ms to write a minute on average",
        ms(writing) / minutes as f64
    );
    println!(
        "bench: {:.1} ms to write a minute at worst, with what is added up then",
        ms(slowest)
    );
    println!(
        "bench: {:.2} µs to count one kind of flow in a minute",
        counting.as_secs_f64() * 1e6 / (minutes as f64 * kinds as f64)
    );
    if optimised {
        for time in [hours, day, odd, all] {
            assert!(time < Duration::from_secs(1), "{time:?}");
        }
    }
}
