// SPDX-License-Identifier: GPL-3.0-only
//! Which side makes a pair slow: what the vif measured of the one side is held against the other, against the same service's
//! other versions, and against the same pair before. Each rule says what shows it.

use policyd_api::{Bottleneck, Culprit, PairSignals, Quantiles, Window};

/// Fewer values say nothing.
const FEWEST: u64 = 10;
/// A median that is so many times another is slower; what is less may be chance.
const SLOWER: f64 = 2.0;
/// What takes no longer than this is not slow, whatever it was before: µs.
const HARMLESS: f64 = 5_000.0;
/// The share of segments that came twice from which on the way is to blame.
const LOSSY: f64 = 0.01;
/// The share of connections that failed from which on the server is to blame.
const FAILING: f64 = 0.05;
/// The share of segments that said "no more" from which on who said so is to blame.
const FULL: f64 = 0.01;

/// A pair in the window, and what it was before.
pub struct Compared<'a> {
    pub now: &'a PairSignals,
    /// The rest of the hour.
    pub before: Window,
}

/// What makes pairs slow, the worst first.
pub fn find(pairs: &[Compared]) -> Vec<Bottleneck> {
    let mut found: Vec<Bottleneck> = pairs
        .iter()
        .flat_map(|pair| {
            let rules = [
                failing(pair.now),
                slow_server(pair, pairs),
                lossy(pair.now),
                slow_network(pair),
                full(pair.now),
            ];
            rules.into_iter().flatten()
        })
        .collect();
    found.sort_by(|a, b| b.factor.total_cmp(&a.factor));
    found
}

fn told(pair: &PairSignals, culprit: Culprit, factor: f64, evidence: String) -> Bottleneck {
    Bottleneck {
        from: pair.from.clone(),
        to: pair.to.clone(),
        version: pair.version.clone(),
        port: pair.port,
        culprit,
        evidence,
        factor: factor.max(1.0),
    }
}

/// Time as people read it, of microseconds.
fn time(us: f64) -> String {
    match us {
        us if us < 1_000.0 => format!("{us:.0} µs"),
        us if us < 10_000.0 => format!("{:.1} ms", us / 1_000.0),
        us if us < 1_000_000.0 => format!("{:.0} ms", us / 1_000.0),
        us => format!("{:.1} s", us / 1_000_000.0),
    }
}

/// Both have enough values, and the one's median is so many times the other's.
fn slower(is: &Quantiles, than: &Quantiles) -> Option<f64> {
    let enough = is.count >= FEWEST && than.count >= FEWEST;
    let factor = is.p50 / than.p50.max(1.0);
    (enough && is.p50 > HARMLESS && factor >= SLOWER).then_some(factor)
}

/// The server refuses connections that policy allows, or does not answer.
fn failing(pair: &PairSignals) -> Option<Bottleneck> {
    let counts = &pair.window.counts;
    let allowed = counts.connections.saturating_sub(counts.denied);
    let share = counts.failed as f64 / allowed.max(1) as f64;
    (counts.failed >= FEWEST / 2 && share >= FAILING).then(|| {
        let evidence = format!(
            "{} of {allowed} connections did not come about: the server refused them or did not answer",
            counts.failed
        );
        // Who has to try again takes at least so many times as long.
        told(pair, Culprit::Server, 1.0 / (1.0 - share).max(0.01), evidence)
    })
}

/// The time until the first byte is not that of the way, and it is longer than that of the service's other versions, or than
/// it was.
fn slow_server(pair: &Compared, all: &[Compared]) -> Option<Bottleneck> {
    let now = &pair.now.window;
    let way = now.server_rtt_us.p50.max(now.setup_us.p50);
    if now.first_byte_us.p50 < SLOWER * way {
        return None;
    }
    let is_other_version = |other: &&Compared| {
        // Each version may be a service of its own, on a port of its own: it is the route that makes them versions.
        pair.now.route.is_some() && other.now.route == pair.now.route && other.now.version != pair.now.version
    };
    let against_version = all
        .iter()
        .filter(is_other_version)
        .filter_map(|other| {
            Some((
                slower(&now.first_byte_us, &other.now.window.first_byte_us)?,
                other,
            ))
        })
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    let is = time(now.first_byte_us.p50);
    let way = time(way);
    if let Some((factor, other)) = against_version {
        let version = other.now.version.as_deref().unwrap_or("no version");
        let of_other = time(other.now.window.first_byte_us.p50);
        let evidence = format!(
            "the first byte takes {is} (median of {}), of {version} {of_other}; the way there and back is {way}",
            now.first_byte_us.count
        );
        return Some(told(pair.now, Culprit::Server, factor, evidence));
    }
    let factor = slower(&now.first_byte_us, &pair.before.first_byte_us)?;
    let evidence = format!(
        "the first byte takes {is} (median of {}), before it took {}; the way there and back is {way}",
        now.first_byte_us.count,
        time(pair.before.first_byte_us.p50)
    );
    Some(told(pair.now, Culprit::Server, factor, evidence))
}

/// Segments are lost on the way.
fn lossy(pair: &PairSignals) -> Option<Bottleneck> {
    let counts = &pair.window.counts;
    let twice = counts
        .retransmissions_out
        .saturating_add(counts.retransmissions_in);
    let packets = counts.packets_out.saturating_add(counts.packets_in);
    let share = twice as f64 / packets.max(1) as f64;
    (pair.protocol == "tcp" && twice >= FEWEST && share >= LOSSY).then(|| {
        let evidence = format!(
            "{twice} of {packets} segments came twice ({} from the client, {} from the server): the way loses them",
            counts.retransmissions_out, counts.retransmissions_in
        );
        // TCP's rate goes with the root of the loss (Mathis and others, 1997); against a loss that nobody minds.
        told(pair, Culprit::Network, (share / LOSSY).sqrt() + 1.0, evidence)
    })
}

/// What the server's kernel answers by itself takes longer than it did.
fn slow_network(pair: &Compared) -> Option<Bottleneck> {
    let (now, before) = (&pair.now.window, &pair.before);
    let factor = slower(&now.setup_us, &before.setup_us)?;
    let evidence = format!(
        "a handshake takes {} (median of {}), before it took {}: no program has a part in it",
        time(now.setup_us.p50),
        now.setup_us.count,
        time(before.setup_us.p50)
    );
    Some(told(pair.now, Culprit::Network, factor, evidence))
}

/// One end says that it takes no more data.
fn full(pair: &PairSignals) -> Option<Bottleneck> {
    let counts = &pair.window.counts;
    let sides = [
        (
            Culprit::Client,
            "client",
            counts.zero_windows_out,
            counts.packets_out,
        ),
        (
            Culprit::Server,
            "server",
            counts.zero_windows_in,
            counts.packets_in,
        ),
    ];
    let (culprit, side, shut, packets) = sides.into_iter().max_by_key(|(_, _, shut, _)| *shut)?;
    let share = shut as f64 / packets.max(1) as f64;
    (shut >= FEWEST && share >= FULL).then(|| {
        let evidence = format!(
            "{shut} of {packets} segments of the {side} say that it takes no more: its program does not read what it is sent"
        );
        told(pair, culprit, 1.0 + share, evidence)
    })
}
