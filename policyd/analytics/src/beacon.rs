// SPDX-License-Identifier: GPL-3.0-only
//! Connections at regular intervals.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use policyd_api::{Process, Threat};

use crate::catalog::threat;
use crate::{started, who};

/// Intervals that are looked at.
const INTERVALS: usize = 12;
/// The shortest that is one of a beacon, s: quicker ones are a program that asks again and again.
const SHORTEST: f64 = 5.0;
/// Standard deviation by mean that is regular. A beacon that jitters by 10 % each way has 0.06.
const REGULAR: f64 = 0.1;
/// When it is looked whether a UDP socket that was connected has sent: before the next interval, and while the datapath remembers the flow.
pub(crate) const PATIENCE_MS: u64 = 4000;
/// Pairs of program and destination that are told apart.
const PAIRS: usize = 4096;

#[derive(Default)]
pub(crate) struct Beacons {
    times: HashMap<(String, SocketAddr), VecDeque<u64>>,
}

impl Beacons {
    /// Whether the last one was a moment ago, so that one more is no sign of a beacon, whatever it is.
    pub(crate) fn is_quick(&self, exe: &str, to: SocketAddr, at_ns: u64) -> bool {
        let times = self.times.get(&(exe.to_owned(), to));
        let last = times.and_then(|times| times.back());
        last.is_some_and(|last| (at_ns.saturating_sub(*last) as f64) < SHORTEST * 1e9)
    }

    pub(crate) fn connects(
        &mut self,
        process: &Process,
        exe: &str,
        to: SocketAddr,
        at_ns: u64,
    ) -> Option<(Threat, String)> {
        let key = (exe.to_owned(), to);
        if self.times.len() >= PAIRS && !self.times.contains_key(&key) {
            // Those that were not met for longest: they are the least regular.
            let oldest = self
                .times
                .iter()
                .min_by_key(|(_, times)| times.back().copied())
                .map(|(key, _)| key.clone())?;
            self.times.remove(&oldest);
        }
        let times = self.times.entry(key).or_default();
        times.push_back(at_ns);
        if times.len() <= INTERVALS {
            return None;
        }
        let intervals: Vec<f64> = times
            .iter()
            .zip(times.iter().skip(1))
            .map(|(a, b)| b.saturating_sub(*a) as f64 / 1e9)
            .collect();
        times.pop_front();
        let count = intervals.len() as f64;
        let mean = intervals.iter().sum::<f64>() / count;
        let variance = intervals.iter().map(|i| (i - mean).powi(2)).sum::<f64>() / count;
        if mean < SHORTEST || variance.sqrt() / mean > REGULAR {
            return None;
        }
        let evidence = vec![
            format!(
                "{INTERVALS} intervals of {mean:.1} s on average, standard deviation {:.2} s",
                variance.sqrt()
            ),
            started(process),
        ];
        let title = format!("{} connects to {to} every {mean:.0} s", who(process));
        Some((
            threat("beacon", title, evidence, Some(process)),
            format!("{exe} {to}"),
        ))
    }
}
