// SPDX-License-Identifier: GPL-3.0-only
//! Golden signals: what flows tell of how services fare with one another, by pair and by minute.
//!
//! Pure: who reads the datapath tells what a flow has more than at the last look, and when. What is kept is bounded: an hour of
//! minutes for each pair, and so many pairs; who finds no room is counted with all others that found none.

mod bottleneck;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use policyd_api::{PairSignals, Peer, PeerKind, Signals, SignalsQuery, Times, Totals, Window};
use serde::{Deserialize, Serialize};

use crate::sketch::Sketch;
use crate::spread::Spread;

/// Pairs that are told apart. With sketches each takes some kilobytes for a minute in which it is busy.
const PAIRS: usize = 2048;
/// Minutes that are kept.
pub const MINUTES: u64 = 60;
const MINUTE: u64 = 60;

/// What flows have in common that are added up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pair {
    /// Who opens them.
    pub from: Peer,
    /// Who they go to.
    pub to: Peer,
    /// The route that has the version, as `SET/ROUTE`.
    pub route: Option<String>,
    /// The version of a route.
    pub version: Option<String>,
    /// `tcp`, `udp`, ….
    pub protocol: String,
    /// Port of the server; none of protocols without ports.
    pub port: Option<u16>,
}

/// What a look at a flow told that was not known before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// Counts, as far as they grew.
    pub counts: Totals,
    /// µs from SYN to SYN-ACK.
    pub setup_us: Option<u64>,
    /// µs until the server's first data.
    pub first_byte_us: Option<u64>,
    /// µs from the client's data to the server's ACK.
    pub server_rtt_us: Option<u64>,
    /// µs from the server's data to the client's ACK.
    pub client_rtt_us: Option<u64>,
}

/// What was counted and measured of a pair in one minute.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    counts: Totals,
    setup: Sketch,
    server_rtt: Sketch,
    client_rtt: Sketch,
    first_byte: Sketch,
}

impl Bucket {
    fn take(&mut self, sample: &Sample) {
        self.counts.add(&sample.counts);
        for (sketch, value) in [
            (&mut self.setup, sample.setup_us),
            (&mut self.server_rtt, sample.server_rtt_us),
            (&mut self.client_rtt, sample.client_rtt_us),
            (&mut self.first_byte, sample.first_byte_us),
        ] {
            if let Some(value) = value {
                sketch.add(value);
            }
        }
    }

    fn merge(&mut self, other: &Bucket) {
        self.counts.add(&other.counts);
        self.setup.merge(&other.setup);
        self.server_rtt.merge(&other.server_rtt);
        self.client_rtt.merge(&other.client_rtt);
        self.first_byte.merge(&other.first_byte);
    }

    fn times(&self) -> Times {
        Times {
            setup_us: self.setup.histogram().clone(),
            first_byte_us: self.first_byte.histogram().clone(),
        }
    }

    fn window(&self) -> Window {
        Window {
            counts: self.counts,
            setup_us: self.setup.quantiles(),
            server_rtt_us: self.server_rtt.quantiles(),
            client_rtt_us: self.client_rtt.quantiles(),
            first_byte_us: self.first_byte.quantiles(),
        }
    }
}

#[derive(Default)]
struct Kept {
    open: u64,
    total: Totals,
    setup: Spread,
    server_rtt: Spread,
    first_byte: Spread,
    /// By minute since 1970, the oldest first; minutes without anything are left out.
    minutes: VecDeque<(u64, Bucket)>,
}

impl Kept {
    /// All of `from..to`, in minutes since 1970.
    fn within(&self, from: u64, to: u64) -> Bucket {
        let mut all = Bucket::default();
        let wanted = self.minutes.iter().filter(|(m, _)| (from..to).contains(m));
        wanted.for_each(|(_, bucket)| all.merge(bucket));
        all
    }
}

/// What was counted and measured of one pair since the beginning.
pub struct SinceBegin<'a> {
    /// Which.
    pub pair: &'a Pair,
    /// Flows that are open.
    pub open: u64,
    /// Counts.
    pub total: &'a Totals,
    /// From SYN to SYN-ACK.
    pub setup: &'a Spread,
    /// From the client's data to the server's ACK.
    pub server_rtt: &'a Spread,
    /// Until the server's first data.
    pub first_byte: &'a Spread,
}

/// The signals of all pairs.
#[derive(Default)]
pub struct Ledger {
    pairs: HashMap<Arc<Pair>, Kept>,
    folded: u64,
}

impl Ledger {
    /// The name under which flows of a pair are counted from now on: its own, if there is room.
    pub fn enter(&mut self, pair: Pair, at: u64) -> Arc<Pair> {
        if let Some((known, _)) = self.pairs.get_key_value(&pair) {
            return Arc::clone(known);
        }
        if self.pairs.len() >= PAIRS {
            self.forget(at);
        }
        let pair = match self.pairs.len() < PAIRS {
            true => pair,
            false => {
                self.folded += 1;
                Pair::others(pair.protocol)
            }
        };
        if let Some((known, _)) = self.pairs.get_key_value(&pair) {
            return Arc::clone(known);
        }
        let pair = Arc::new(pair);
        self.pairs.insert(Arc::clone(&pair), Kept::default());
        pair
    }

    /// Pairs that were quiet for as long as minutes are kept make room.
    fn forget(&mut self, at: u64) {
        let quiet = (at / MINUTE).saturating_sub(MINUTES);
        self.pairs
            .retain(|_, kept| kept.open > 0 || kept.minutes.back().is_some_and(|(m, _)| *m > quiet));
    }

    /// Takes in what a look at one of its flows told. `at`: seconds since 1970; a clock that goes back adds to the last minute.
    pub fn add(&mut self, pair: &Arc<Pair>, at: u64, sample: &Sample) {
        if *sample == Sample::default() {
            return;
        }
        let kept = self.pairs.entry(Arc::clone(pair)).or_default();
        kept.total.add(&sample.counts);
        for (spread, value) in [
            (&mut kept.setup, sample.setup_us),
            (&mut kept.server_rtt, sample.server_rtt_us),
            (&mut kept.first_byte, sample.first_byte_us),
        ] {
            if let Some(value) = value {
                spread.add(value);
            }
        }
        let minute = (at / MINUTE).max(kept.minutes.back().map_or(0, |(m, _)| *m));
        if kept.minutes.back().is_none_or(|(m, _)| *m != minute) {
            kept.minutes.push_back((minute, Bucket::default()));
        }
        if let Some((_, bucket)) = kept.minutes.back_mut() {
            bucket.take(sample);
        }
        while kept.minutes.front().is_some_and(|(m, _)| *m + MINUTES <= minute) {
            kept.minutes.pop_front();
        }
    }

    /// What a minute (since 1970) has of each pair, the busiest first: for who keeps it.
    pub fn minute(&self, minute: u64) -> Vec<(&Pair, &Bucket)> {
        let mut all: Vec<(&Pair, &Bucket)> = self
            .pairs
            .iter()
            .filter_map(|(pair, kept)| {
                let (_, bucket) = kept.minutes.iter().rev().find(|(m, _)| *m == minute)?;
                Some((&**pair, bucket))
            })
            .collect();
        all.sort_by(|(a, x), (b, y)| {
            let busy = |bucket: &Bucket| (bucket.counts.connections, bucket.counts.packets_out);
            busy(y).cmp(&busy(x)).then_with(|| a.cmp(b))
        });
        all
    }

    /// Takes in what was kept of a minute, from the oldest on, before anything else is. What was counted since the beginning is not
    /// more by that.
    pub fn resume(&mut self, minute: u64, kept: impl IntoIterator<Item = (Pair, Bucket)>) {
        for (pair, bucket) in kept {
            let pair = self.enter(pair, minute.saturating_mul(MINUTE));
            let minutes = &mut self.pairs.entry(pair).or_default().minutes;
            match minutes.back_mut() {
                Some((last, there)) if *last == minute => there.merge(&bucket),
                Some((last, _)) if *last > minute => {}
                _ => minutes.push_back((minute, bucket)),
            }
        }
    }

    /// Which flows are open now, by the pair of each.
    pub fn open<'a>(&mut self, flows: impl Iterator<Item = &'a Arc<Pair>>) {
        self.pairs.values_mut().for_each(|kept| kept.open = 0);
        for pair in flows {
            if let Some(kept) = self.pairs.get_mut(pair) {
                kept.open += 1;
            }
        }
    }

    /// What was counted and measured since the beginning, by pair.
    pub fn since_begin(&self) -> impl Iterator<Item = SinceBegin<'_>> {
        self.pairs.iter().map(|(pair, kept)| SinceBegin {
            pair,
            open: kept.open,
            total: &kept.total,
            setup: &kept.setup,
            server_rtt: &kept.server_rtt,
            first_byte: &kept.first_byte,
        })
    }

    /// What is asked for. `now`: seconds since 1970. The window is 60 to 3600 seconds, by whole minutes.
    pub fn report(&self, query: &SignalsQuery, now: u64) -> Signals {
        let minutes = query.window.unwrap_or(300).div_ceil(MINUTE).clamp(1, MINUTES);
        let end = now / MINUTE + 1;
        let since = end.saturating_sub(minutes);
        let is = |name: &Option<String>, peer: &Peer| name.as_ref().is_none_or(|name| *name == peer.name);
        let asked = |from: &Peer, to: &Peer| is(&query.from, from) && is(&query.to, to);
        let mut pairs: Vec<(Arc<Pair>, PairSignals, Bucket)> = self
            .pairs
            .iter()
            .map(|(pair, kept)| {
                let within = kept.within(since, end);
                let signals = PairSignals {
                    from: pair.from.clone(),
                    to: pair.to.clone(),
                    route: pair.route.clone(),
                    times: pair.version.is_some().then(|| within.times()),
                    version: pair.version.clone(),
                    protocol: pair.protocol.clone(),
                    port: pair.port,
                    open: kept.open,
                    total: kept.total,
                    window: within.window(),
                };
                let before = kept.within(end.saturating_sub(MINUTES), since);
                (Arc::clone(pair), signals, before)
            })
            .collect();
        pairs.sort_by(|(a, x, _), (b, y, _)| {
            let busy = |s: &PairSignals| (s.window.counts.connections, s.total.connections);
            busy(y).cmp(&busy(x)).then_with(|| a.cmp(b))
        });
        let compared: Vec<bottleneck::Compared> = pairs
            .iter()
            .map(|(_, signals, before)| bottleneck::Compared {
                now: signals,
                before: before.window(),
            })
            .collect();
        // What makes one slow may show by another that is not asked for.
        let mut findings = bottleneck::find(&compared);
        findings.retain(|finding| asked(&finding.from, &finding.to));
        pairs.retain(|(_, signals, _)| asked(&signals.from, &signals.to));
        Signals {
            since: since * MINUTE,
            until: now,
            pairs: pairs.into_iter().map(|(_, signals, _)| signals).collect(),
            findings,
            folded: self.folded,
        }
    }
}

impl Pair {
    fn others(protocol: String) -> Pair {
        let others = Peer {
            name: "(others)".into(),
            kind: PeerKind::Others,
        };
        Pair {
            from: others.clone(),
            to: others,
            route: None,
            version: None,
            protocol,
            port: None,
        }
    }
}

#[cfg(test)]
mod tests;
