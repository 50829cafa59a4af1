// SPDX-License-Identifier: GPL-3.0-only
//! Golden signals of the flows that the recorder counts: who their ends are, and what each look at a flow tells that is new.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use netback_filter::{Direction, FlowKey, FlowRecord};
use policyd_analytics::signals::{Bucket, Ledger, MINUTES, Pair, Sample, SinceBegin};
use policyd_api::{self as api, FlowEnd, FlowName, Peer, PeerKind, Totals, Verdict};
use policyd_store::{FlowStore, Records};
use serde::{Deserialize, Serialize};

use crate::daemon::{Daemon, DaemonError};
use crate::events::now_ns;
use crate::past;
use crate::present;
use crate::registry::lock;
use crate::rollout::Refused;
use crate::world::World;

/// How often it is looked what classes carry: a minute of looks is kept.
const LOOK_AT_CLASSES: Duration = Duration::from_secs(10);

/// Of what kind the records of minutes are.
const KIND: &str = "signals";
/// A minute may take one part in so many of the room that the history has: an hour of them is a small part of it.
const SHARE: u64 = 1024;

/// A minute as it is on the disk, under its number modulo [`MINUTES`]: each takes the place of the one an hour before.
#[derive(Serialize, Deserialize)]
struct Kept {
    minute: u64,
    pairs: Vec<(Pair, Bucket)>,
}

/// The signals of all pairs. The recorder alone tells; anybody reads.
#[derive(Default)]
pub struct Signals {
    ledger: Mutex<Ledger>,
    /// The last minute that was kept, or could not be; 0: none yet.
    kept: AtomicU64,
    /// What was refused, by domains.
    pub refused: Arc<Refused>,
}

impl Signals {
    /// What an earlier daemon kept of the hour before `now`, seconds since 1970.
    pub fn load(store: Option<&FlowStore>, now: u64) -> Signals {
        let signals = Signals::default();
        let Some(store) = store else { return signals };
        let Records { mut whole, damaged } = store.records::<Kept>(KIND).unwrap_or_else(|why| {
            log::warn!("signals of the last hour cannot be read: {why}");
            Records::default()
        });
        if !damaged.is_empty() {
            log::warn!("{} minutes of signals are damaged, and left out", damaged.len());
        }
        let now = now / 60;
        // A clock that went back: what is ahead of it would take in all that comes.
        whole.retain(|(_, kept)| kept.minute <= now && kept.minute + MINUTES > now);
        whole.sort_by_key(|(_, kept)| kept.minute);
        let mut ledger = lock(&signals.ledger);
        for (_, kept) in whole {
            ledger.resume(kept.minute, kept.pairs);
        }
        drop(ledger);
        signals
    }

    /// Keeps the minute that is over at `now`, seconds since 1970, if it was not kept yet; or `all`: the one under way, too. What cannot
    /// be written is lost.
    pub fn save(&self, store: &FlowStore, now: u64, all: bool) {
        let now = now / 60;
        let over = now.saturating_sub(1);
        let due = self.kept.swap(over, Ordering::Relaxed) != over;
        if !(due || all) {
            return;
        }
        let most = usize::try_from(store.status().limit / SHARE).unwrap_or(usize::MAX);
        let minutes = [due.then_some(over), all.then_some(now)];
        let records: Vec<(u64, Option<Kept>)> = minutes
            .into_iter()
            .flatten()
            .filter_map(|minute| Some((minute % MINUTES, Some(self.keep(minute, most)?))))
            .collect();
        if records.is_empty() {
            return;
        }
        if let Err(why) = store.put_records(KIND, records) {
            log::debug!("a minute of signals is not kept: {why}");
        }
    }

    /// Of a minute so many pairs, the busiest, as bytes allow.
    fn keep(&self, minute: u64, most: usize) -> Option<Kept> {
        let ledger = lock(&self.ledger);
        let mut left = most;
        let pairs: Vec<(Pair, Bucket)> = ledger
            .minute(minute)
            .into_iter()
            .take_while(|pair| {
                let bytes = serde_json::to_vec(pair).map_or(usize::MAX, |bytes| bytes.len());
                let fits = bytes <= left;
                left = left.saturating_sub(bytes);
                fits
            })
            .map(|(pair, bucket)| (pair.clone(), bucket.clone()))
            .collect();
        (!pairs.is_empty()).then_some(Kept { minute, pairs })
    }

    /// `GET /v1/signals`.
    pub fn report(&self, query: &api::SignalsQuery) -> api::Signals {
        lock(&self.ledger).report(query, now_ns() / 1_000_000_000)
    }

    /// What was counted and measured of each pair since the daemon began.
    pub fn since_begin(&self, mut each: impl FnMut(SinceBegin<'_>)) {
        lock(&self.ledger).since_begin().for_each(&mut each);
    }

    /// A flow that is seen for the first time. `new`: it was opened just now, and is a connection more. `generation`: of the policy in
    /// force.
    pub fn begin(&self, name: &FlowName, pair: Pair, at: u64, new: bool, generation: u64) -> Told {
        if new {
            // By the time of now: `at` may be before the change to that policy.
            self.refused.count(name, now_ns() / 1_000_000_000, generation);
        }
        let mut ledger = lock(&self.ledger);
        let pair = ledger.enter(pair, at);
        let counts = Totals {
            connections: new.into(),
            denied: (new && name.verdict == Verdict::Deny).into(),
            ..Totals::default()
        };
        let sample = Sample {
            counts,
            ..Sample::default()
        };
        ledger.add(&pair, at, &sample);
        Told {
            pair,
            timed: !new,
            answered: !new,
            ..Told::default()
        }
    }

    /// It is known better who its ends are.
    pub fn rename(&self, told: &mut Told, pair: Pair, at: u64) {
        told.pair = lock(&self.ledger).enter(pair, at);
    }

    /// A look at a flow. `packets` and `bytes`: how many more there are, from who opened it and back.
    pub fn look(&self, told: &mut Told, at: u64, record: &FlowRecord, packets: [u64; 2], bytes: [u64; 2]) {
        let sample = told.news(record, packets, bytes);
        lock(&self.ledger).add(&told.pair, at, &sample);
    }

    /// A flow ended, or is not there any more. `allowed`: policy let it pass.
    pub fn end(&self, told: &Told, at: u64, allowed: bool) {
        if told.is_tcp && allowed && !told.established {
            let counts = Totals {
                failed: 1,
                ..Totals::default()
            };
            let sample = Sample {
                counts,
                ..Sample::default()
            };
            lock(&self.ledger).add(&told.pair, at, &sample);
        }
    }

    /// These flows are open.
    pub fn open<'a>(&self, flows: impl Iterator<Item = &'a Told>) {
        lock(&self.ledger).open(flows.map(|told| &told.pair));
    }
}

impl Daemon {
    /// `GET /v1/signals`.
    pub fn signals(&self, query: &api::SignalsQuery) -> Result<api::Signals, DaemonError> {
        match query.window {
            Some(seconds) if !(60..=3600).contains(&seconds) => Err(DaemonError::Invalid(format!(
                "a window is 60 to 3600 seconds, not {seconds}: what is older is in the history of flows"
            ))),
            _ => {
                let mut signals = self.signals.report(query);
                let is = |name: &Option<String>, peer: &api::Peer| {
                    name.as_ref().is_none_or(|name| *name == peer.name)
                };
                let full = lock(&self.saturation).findings();
                let full = full
                    .into_iter()
                    .filter(|f| is(&query.from, &f.from) && is(&query.to, &f.to));
                signals.findings.extend(full);
                Ok(signals)
            }
        }
    }

    /// Looks at what classes carry until `stop`.
    pub(crate) fn watch_classes(&self, stop: &AtomicBool) {
        let began = Instant::now();
        let mut due = began;
        while !stop.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(200));
            if Instant::now() < due {
                continue;
            }
            due = Instant::now() + LOOK_AT_CLASSES;
            // What cannot be read is an error of `xmesh qos`.
            if let Ok(qos) = self.qos(None) {
                lock(&self.saturation).look(
                    u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
                    &qos,
                );
            }
        }
    }
}

/// What was told of a flow.
#[derive(Default)]
pub struct Told {
    pair: Arc<Pair>,
    /// Its handshake.
    timed: bool,
    /// Its first answer.
    answered: bool,
    established: bool,
    is_tcp: bool,
    retransmissions: [u32; 2],
    zero_windows: [u32; 2],
}

impl Told {
    /// What a record tells that was not told. Its flow is seen from who opened it: that is whom index 0 is of.
    fn news(&mut self, record: &FlowRecord, packets: [u64; 2], bytes: [u64; 2]) -> Sample {
        self.is_tcp = record.key.protocol == netback_filter::Protocol::TCP;
        self.established |= record.established;
        let opener = match record.verdict.origin {
            Direction::FromGuest => 0,
            Direction::ToGuest => 1,
        };
        let from_opener = |[from, to]: [u32; 2]| if opener == 0 { [from, to] } else { [to, from] };
        let more = |now: [u32; 2], before: &mut [u32; 2]| {
            // A record that begins again counts from nothing.
            let grew = [0, 1].map(|i| now[i].checked_sub(before[i]).unwrap_or(now[i]));
            *before = now;
            grew.map(u64::from)
        };
        let retransmissions = more(from_opener(record.retransmissions), &mut self.retransmissions);
        let zero_windows = more(from_opener(record.zero_windows), &mut self.zero_windows);
        let micros = |time: Option<Duration>| time.map(|t| t.as_micros() as u64);
        let once = |time, done: &mut bool| {
            let first = micros(time).filter(|_| !*done);
            *done |= first.is_some();
            first
        };
        let moved = packets != [0; 2];
        let rtt = |of: usize| micros(record.rtt[of]).filter(|_| moved);
        Sample {
            counts: Totals {
                packets_out: packets[0],
                packets_in: packets[1],
                bytes_out: bytes[0],
                bytes_in: bytes[1],
                retransmissions_out: retransmissions[0],
                retransmissions_in: retransmissions[1],
                zero_windows_out: zero_windows[0],
                zero_windows_in: zero_windows[1],
                ..Totals::default()
            },
            setup_us: once(record.setup, &mut self.timed),
            first_byte_us: once(record.first_byte, &mut self.answered),
            server_rtt_us: rtt(opener),
            client_rtt_us: rtt(1 - opener),
        }
    }
}

/// What flows of this name are added up by. `key`: of such a flow, as the guest sees it that opened it.
pub fn pair(world: &World, name: &FlowName, key: &FlowKey, backend: Option<SocketAddr>) -> Pair {
    let served = past::with_services(world, name);
    let routed = present::routed(world, key, backend, false);
    // Which version it was means something only with its route.
    let (route, version) = match routed {
        Some(routed) if routed.version.is_some() => (routed.route, routed.version),
        _ => (None, None),
    };
    Pair {
        from: peer(&served.from),
        to: peer(&served.to),
        route,
        version,
        protocol: served.protocol,
        port: served.port,
    }
}

/// Of several services the first by name.
fn peer(end: &FlowEnd) -> Peer {
    let (name, kind) = match (end.services.iter().min(), &end.domain) {
        (Some(service), _) => (service.as_str(), PeerKind::Service),
        (None, Some(domain)) => (domain.as_str(), PeerKind::Domain),
        (None, None) => ("world", PeerKind::World),
    };
    Peer {
        name: name.to_owned(),
        kind,
    }
}

#[cfg(test)]
mod tests {
    use policyd_store::FlowConfig;

    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn store(dir: &std::path::Path, bytes: u64) -> FlowStore {
        let config = FlowConfig {
            bytes,
            reserve: 0,
            ..FlowConfig::default()
        };
        FlowStore::open(&dir.join("flows"), config).expect("opens")
    }

    fn connects(signals: &Signals, from: &str, at: u64, times: u64) {
        let peer = |name: &str| Peer {
            name: name.into(),
            kind: PeerKind::Domain,
        };
        let pair = Pair {
            from: peer(from),
            to: peer("db1"),
            protocol: "tcp".into(),
            ..Pair::default()
        };
        let counts = Totals {
            connections: times,
            ..Totals::default()
        };
        let sample = Sample {
            counts,
            setup_us: Some(100 * times),
            ..Sample::default()
        };
        let mut ledger = lock(&signals.ledger);
        let pair = ledger.enter(pair, at);
        ledger.add(&pair, at, &sample);
    }

    fn connections(signals: &Signals, now: u64) -> u64 {
        let query = api::SignalsQuery {
            window: Some(3600),
            ..api::SignalsQuery::default()
        };
        let report = lock(&signals.ledger).report(&query, now);
        report
            .pairs
            .iter()
            .map(|pair| pair.window.counts.connections)
            .sum()
    }

    #[test]
    fn the_hour_before_a_restart_is_there_after_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = store(dir.path(), 16 << 20);
        let signals = Signals::load(Some(&store), NOW);
        for minute in 0..100 {
            let now = NOW + 60 * minute;
            connects(&signals, "web1", now, 1);
            signals.save(&store, now, false);
        }
        let now = NOW + 60 * 99;
        assert_eq!(connections(&signals, now), 60);
        // After a crash the minute under way is missing.
        assert_eq!(connections(&Signals::load(Some(&store), now), now), 59);
        signals.save(&store, now, true);
        let next = Signals::load(Some(&store), now);
        assert_eq!(connections(&next, now), 60);
        // It goes on in the minute in which the other ended.
        connects(&next, "web1", now + 1, 1);
        assert_eq!(connections(&next, now), 61);
        next.save(&store, now + 2, true);
        assert_eq!(connections(&Signals::load(Some(&store), now), now), 61);
        assert_eq!(store.records::<Kept>(KIND).expect("reads").whole.len(), 60);
        // An hour later nothing of it counts, nor where the clock went back.
        for other in [now + 2 * 3600, now - 2 * 3600] {
            assert_eq!(connections(&Signals::load(Some(&store), other), other), 0);
        }
    }

    #[test]
    fn a_minute_takes_little_room_and_the_busiest_pairs_have_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = store(dir.path(), 16 << 20);
        let signals = Signals::default();
        for n in 0..1000 {
            connects(&signals, &format!("web{n}"), NOW, 1 + n);
        }
        signals.save(&store, NOW, true);
        let records = store.records::<Kept>(KIND).expect("reads").whole;
        assert_eq!(records.len(), 1);
        let kept = &records[0].1;
        let bytes = serde_json::to_vec(kept).expect("writes").len();
        assert!((8 << 10..20 << 10).contains(&bytes), "{bytes}");
        assert_eq!(kept.pairs[0].0.from.name, "web999");
    }
}
