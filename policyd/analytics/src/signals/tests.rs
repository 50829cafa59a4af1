// SPDX-License-Identifier: GPL-3.0-only
//! Signals of flows that never were.

use policyd_api::{Bottleneck, Culprit};

use super::*;

const NOW: u64 = 1_000_000_000;

fn peer(name: &str) -> Peer {
    Peer {
        name: name.into(),
        kind: PeerKind::Service,
    }
}

fn pair(from: &str, to: &str, version: Option<&str>) -> Pair {
    Pair {
        from: peer(from),
        to: peer(to),
        // Services of one route are called alike up to a dash.
        route: version.map(|_| to.split('-').take(1).collect()),
        version: version.map(str::to_owned),
        protocol: "tcp".into(),
        port: Some(80),
    }
}

/// A connection that took so long.
fn answered(setup: u64, first_byte: u64) -> Sample {
    Sample {
        counts: Totals {
            connections: 1,
            packets_out: 5,
            packets_in: 5,
            ..Totals::default()
        },
        setup_us: Some(setup),
        first_byte_us: Some(first_byte),
        server_rtt_us: Some(setup),
        client_rtt_us: None,
    }
}

fn tell(ledger: &mut Ledger, pair: &Pair, at: u64, times: usize, sample: Sample) {
    let pair = ledger.enter(pair.clone(), at);
    (0..times).for_each(|_| ledger.add(&pair, at, &sample));
}

fn findings(ledger: &Ledger) -> Vec<Bottleneck> {
    ledger.report(&SignalsQuery::default(), NOW).findings
}

#[test]
fn a_window_has_its_minutes_and_totals_have_all() {
    let mut ledger = Ledger::default();
    let shop = pair("shop/web", "shop/db", None);
    tell(&mut ledger, &shop, NOW - 3000, 3, answered(100, 1000));
    tell(&mut ledger, &shop, NOW - 200, 2, answered(300, 3000));
    tell(&mut ledger, &shop, NOW, 1, answered(300, 3000));
    let ask = |window| {
        let query = SignalsQuery {
            window: Some(window),
            ..SignalsQuery::default()
        };
        let signals = ledger.report(&query, NOW);
        let pair = &signals.pairs[0];
        (
            signals.since,
            pair.window.counts.connections,
            pair.window.setup_us.count,
            pair.total.connections,
        )
    };
    // The minute under way began 40 seconds ago.
    assert_eq!(NOW % 60, 40);
    assert_eq!(ask(60), (NOW - 40, 1, 1, 6));
    assert_eq!(ask(300), (NOW - 280, 3, 3, 6));
    assert_eq!(ask(3600), (NOW - 3580, 6, 6, 6));
}

#[test]
fn who_is_asked_for_is_told() {
    let mut ledger = Ledger::default();
    for (from, to, times) in [("a", "b", 1), ("a", "c", 3), ("d", "b", 2)] {
        tell(&mut ledger, &pair(from, to, None), NOW, times, answered(1, 1));
    }
    let names = |from: Option<&str>, to: Option<&str>| {
        let query = SignalsQuery {
            from: from.map(str::to_owned),
            to: to.map(str::to_owned),
            ..SignalsQuery::default()
        };
        let pairs = ledger.report(&query, NOW).pairs;
        let names = pairs.iter().map(|p| format!("{}-{}", p.from.name, p.to.name));
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(None, None), ["a-c", "d-b", "a-b"]);
    assert_eq!(names(Some("a"), None), ["a-c", "a-b"]);
    assert_eq!(names(Some("a"), Some("b")), ["a-b"]);
}

#[test]
fn what_is_kept_is_bounded() {
    let mut ledger = Ledger::default();
    for n in 0..PAIRS + 10 {
        tell(
            &mut ledger,
            &pair("a", &n.to_string(), None),
            NOW,
            1,
            answered(1, 1),
        );
    }
    let signals = ledger.report(&SignalsQuery::default(), NOW);
    // One more: that of those that found no room.
    assert_eq!((signals.pairs.len(), signals.folded), (PAIRS + 1, 10));
    assert_eq!(signals.pairs[0].from.name, "(others)");
    assert_eq!(signals.pairs[0].total.connections, 10);

    // After an hour of quiet there is room, but for who has flows that are open.
    let stays = ledger.enter(pair("a", "0", None), NOW);
    ledger.open([&stays].into_iter());
    tell(
        &mut ledger,
        &pair("new", "new", None),
        NOW + 3600,
        1,
        answered(1, 1),
    );
    let pairs = ledger.report(&SignalsQuery::default(), NOW + 3600).pairs;
    let names: Vec<_> = pairs.iter().map(|p| (&*p.from.name, p.open)).collect();
    assert_eq!(names, [("new", 0), ("a", 1)]);

    for minute in 0..200 {
        tell(
            &mut ledger,
            &pair("new", "new", None),
            NOW + 60 * minute,
            1,
            answered(1, 1),
        );
    }
    assert!(ledger.pairs.values().all(|kept| kept.minutes.len() <= 60));
}

#[test]
fn a_slow_version_is_named() {
    let mut ledger = Ledger::default();
    tell(
        &mut ledger,
        &pair("web", "db-1", Some("v1")),
        NOW,
        50,
        answered(300, 2_000),
    );
    tell(
        &mut ledger,
        &pair("web", "db-2", Some("v2")),
        NOW,
        50,
        answered(300, 80_000),
    );
    let found = findings(&ledger);
    assert_eq!(found.len(), 1, "{found:?}");
    let found = &found[0];
    assert_eq!(
        (found.culprit, found.version.as_deref()),
        (Culprit::Server, Some("v2"))
    );
    assert!((38.0..42.0).contains(&found.factor), "{found:?}");
    assert!(
        found
            .evidence
            .contains("takes 80 ms (median of 50), of v1 2.0 ms; the way there and back is 30"),
        "{found:?}"
    );
}

#[test]
fn what_has_a_version_tells_its_route_and_how_its_times_are_distributed() {
    let mut ledger = Ledger::default();
    let (versioned, plain) = (pair("web", "db", Some("v1")), pair("web", "db", None));
    tell(&mut ledger, &versioned, NOW, 50, answered(300, 2_000));
    tell(&mut ledger, &plain, NOW, 40, answered(300, 2_000));
    let pairs = ledger.report(&SignalsQuery::default(), NOW).pairs;
    assert_eq!(pairs[0].route.as_deref(), Some("db"));
    let times = pairs[0].times.as_ref().expect("times");
    assert_eq!((times.setup_us.count(), times.first_byte_us.count()), (50, 50));
    assert!((times.first_byte_us.quantile(0.5) / 2_000.0 - 1.0).abs() < 0.011);
    assert_eq!((&pairs[1].route, &pairs[1].times), (&None, &None));
}

#[test]
fn a_server_that_became_slow_is_told_from_a_way_that_did() {
    let mut ledger = Ledger::default();
    let (server, way) = (pair("web", "server", None), pair("web", "way", None));
    tell(&mut ledger, &server, NOW - 1800, 20, answered(300, 2_000));
    tell(&mut ledger, &server, NOW, 20, answered(300, 40_000));
    tell(&mut ledger, &way, NOW - 1800, 20, answered(300, 2_000));
    tell(&mut ledger, &way, NOW, 20, answered(60_000, 62_000));
    let found = findings(&ledger);
    let culprits: Vec<_> = found.iter().map(|f| (&*f.to.name, f.culprit)).collect();
    assert_eq!(culprits, [("way", Culprit::Network), ("server", Culprit::Server)]);
}

#[test]
fn loss_failures_and_full_ends_are_named() {
    let counts = |sample: &mut dyn FnMut(&mut Totals)| {
        let mut totals = Totals {
            connections: 100,
            packets_out: 1000,
            packets_in: 1000,
            ..Totals::default()
        };
        sample(&mut totals);
        let mut ledger = Ledger::default();
        let sample = Sample {
            counts: totals,
            ..Sample::default()
        };
        tell(&mut ledger, &pair("web", "db", None), NOW, 1, sample);
        findings(&ledger).iter().map(|f| f.culprit).collect::<Vec<_>>()
    };
    assert_eq!(counts(&mut |_| ()), []);
    assert_eq!(counts(&mut |t| t.failed = 5), [Culprit::Server]);
    assert_eq!(counts(&mut |t| t.failed = 4), []);
    // What policy denies is no failure, and not among what could fail.
    assert_eq!(counts(&mut |t| (t.failed, t.denied) = (5, 90)), [Culprit::Server]);
    assert_eq!(counts(&mut |t| t.retransmissions_in = 20), [Culprit::Network]);
    assert_eq!(counts(&mut |t| t.retransmissions_in = 19), []);
    assert_eq!(counts(&mut |t| t.zero_windows_out = 10), [Culprit::Client]);
    assert_eq!(counts(&mut |t| t.zero_windows_in = 10), [Culprit::Server]);
    assert_eq!(counts(&mut |t| t.zero_windows_in = 9), []);
}

#[test]
fn ordinary_differences_are_not_told() {
    let mut ledger = Ledger::default();
    // Twice as slow, but fast; slow, but not twice; few values.
    tell(
        &mut ledger,
        &pair("web", "fast", Some("v1")),
        NOW,
        50,
        answered(100, 1_000),
    );
    tell(
        &mut ledger,
        &pair("web", "fast", Some("v2")),
        NOW,
        50,
        answered(100, 4_000),
    );
    tell(
        &mut ledger,
        &pair("web", "same", Some("v1")),
        NOW,
        50,
        answered(300, 50_000),
    );
    tell(
        &mut ledger,
        &pair("web", "same", Some("v2")),
        NOW,
        50,
        answered(300, 90_000),
    );
    tell(
        &mut ledger,
        &pair("web", "rare", Some("v1")),
        NOW,
        50,
        answered(300, 1_000),
    );
    tell(
        &mut ledger,
        &pair("web", "rare", Some("v2")),
        NOW,
        9,
        answered(300, 90_000),
    );
    // Far away: the first byte takes as long as the way.
    tell(
        &mut ledger,
        &pair("web", "far", Some("v1")),
        NOW,
        50,
        answered(300, 2_000),
    );
    tell(
        &mut ledger,
        &pair("web", "far", Some("v2")),
        NOW,
        50,
        answered(80_000, 82_000),
    );
    assert_eq!(findings(&ledger), []);
}

#[test]
fn minutes_that_were_kept_are_those_of_the_next_ledger() {
    let web = pair("web", "db", Some("v2"));
    let mut ledger = Ledger::default();
    let entered = ledger.enter(web.clone(), NOW);
    let quiet = ledger.enter(pair("cron", "db", None), NOW);
    for minute in 0..5 {
        for n in 1..=20 {
            ledger.add(&entered, NOW + minute * MINUTE, &answered(100 * n, 1000 * n));
        }
    }
    ledger.add(&quiet, NOW, &answered(5, 5));
    let mut next = Ledger::default();
    for minute in NOW / MINUTE..NOW / MINUTE + 5 {
        let kept = serde_json::to_vec(&ledger.minute(minute)).expect("writes");
        let kept: Vec<(Pair, Bucket)> = serde_json::from_slice(&kept).expect("reads");
        assert_eq!(kept[0].0, web, "the busiest is the first");
        next.resume(minute, kept);
    }
    let now = NOW + 5 * MINUTE;
    let query = SignalsQuery {
        window: Some(600),
        ..SignalsQuery::default()
    };
    let (mut before, after) = (ledger.report(&query, now), next.report(&query, now));
    // Counts since the beginning are those of a daemon.
    for pair in &mut before.pairs {
        pair.total = Totals::default();
    }
    assert_eq!(after.pairs.len(), 2);
    assert_eq!(after, before);
    // What comes then is added.
    let entered = next.enter(web, now);
    next.add(&entered, now, &answered(100, 1000));
    assert_eq!(next.report(&query, now).pairs[0].window.counts.connections, 101);
}
