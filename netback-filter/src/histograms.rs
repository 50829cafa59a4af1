// SPDX-License-Identifier: GPL-3.0-only
//! Distributions of what was measured of TCP connections, as the programs keep them.

use std::collections::BTreeSet;

use aya::maps::{MapData, PerCpuHashMap};

use crate::error::Error;
use crate::layout::{INTERVALS, RawHistogram, RawHistogramKey, RawHistograms};
use crate::pins::Pins;
use crate::publish::{failed, removed};
use crate::types::Direction;

const MAP: &str = "histograms";

/// How often values of each size came. Interval 0 is of zeros, interval N of values from 2^(N-1) up to but without 2^N, and
/// the last one of all above as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// Values in each interval.
    pub counts: Vec<u64>,
    /// Of all values.
    pub sum: u64,
}

impl Histogram {
    fn new() -> Self {
        Self {
            counts: vec![0; INTERVALS],
            sum: 0,
        }
    }

    fn add(&mut self, cpu: &RawHistogram) {
        self.sum += cpu.sum;
        for (count, cpu) in self.counts.iter_mut().zip(cpu.count) {
            *count += u64::from(cpu);
        }
    }

    fn merge(&mut self, other: &Self) {
        self.sum += other.sum;
        for (count, other) in self.counts.iter_mut().zip(&other.counts) {
            *count += other;
        }
    }

    /// How many values there are.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The arithmetic mean; `None` without values.
    pub fn mean(&self) -> Option<f64> {
        let total = self.total();
        (total > 0).then(|| self.sum as f64 / total as f64)
    }

    /// Below which value a share of the values lies (0.5: the median), as the end of that interval; `None` without values.
    /// At most twice the true one, but for the last interval, which has no end.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let total = self.total();
        if total == 0 {
            return None;
        }
        let wanted = (share.clamp(0.0, 1.0) * total as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let interval = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some((1_u64 << interval) - 1)
    }
}

/// What was measured of the connections of one guest that one rule decided, to or from one class of peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionHistograms {
    /// The guest (its domid).
    pub scope: u32,
    /// The class of the other end ([`crate::Peer`]) when the connection was first measured; 0: of none.
    pub peer_class: u32,
    /// The rule that decided them; 0: none, the scope's default.
    pub rule: u32,
    /// The generation that rule and class are of.
    pub generation: u32,
    /// Which end opened them.
    pub origin: Direction,
    /// Microseconds from SYN to SYN-ACK, both as they passed the vif; one value a connection.
    pub setup_us: Histogram,
    /// Microseconds from data from and to the guest to its ACK, as they passed the vif; of each connection at most about one
    /// value a tick of the kernel, of 1 to 10 ms.
    pub rtt_us: [Histogram; 2],
    /// Segments from and to the guest that had passed before; one value a connection that ended.
    pub retransmissions: [Histogram; 2],
    /// Segments from and to the guest whose sender took no more; one value a connection that ended.
    pub zero_windows: [Histogram; 2],
}

impl ConnectionHistograms {
    /// Takes in what was measured of others.
    pub fn merge(&mut self, other: &Self) {
        self.setup_us.merge(&other.setup_us);
        for side in 0..2 {
            self.rtt_us[side].merge(&other.rtt_us[side]);
            self.retransmissions[side].merge(&other.retransmissions[side]);
            self.zero_windows[side].merge(&other.zero_windows[side]);
        }
    }

    fn new(key: &RawHistogramKey, cpus: &[RawHistograms]) -> Self {
        let pair = || [Histogram::new(), Histogram::new()];
        let mut all = Self {
            scope: key.scope,
            peer_class: key.peer_class,
            rule: key.rule,
            generation: key.generation,
            origin: Direction::from_raw(key.origin as u8),
            setup_us: Histogram::new(),
            rtt_us: pair(),
            retransmissions: pair(),
            zero_windows: pair(),
        };
        for cpu in cpus {
            all.setup_us.add(&cpu.setup);
            for side in 0..2 {
                all.rtt_us[side].add(&cpu.rtt[side]);
                all.retransmissions[side].add(&cpu.retransmissions[side]);
                all.zero_windows[side].add(&cpu.zero_windows[side]);
            }
        }
        all
    }
}

/// The map of them.
pub(crate) struct HistogramMap {
    map: PerCpuHashMap<MapData, RawHistogramKey, RawHistograms>,
    capacity: u32,
}

impl HistogramMap {
    pub(crate) fn open(pins: &Pins) -> Result<Self, Error> {
        Ok(Self {
            map: pins.map(MAP)?,
            capacity: pins.capacity(MAP).unwrap_or(0),
        })
    }

    pub(crate) fn read(&self) -> Result<Vec<ConnectionHistograms>, Error> {
        let found = self.keys()?.into_iter().filter_map(|key| {
            // One that was pushed out meanwhile is no error.
            let cpus = self.map.get(&key, 0).ok()?;
            Some(ConnectionHistograms::new(&key, &cpus))
        });
        Ok(found.collect())
    }

    /// Forgets those of a scope.
    pub(crate) fn forget(&mut self, scope: u32) -> Result<(), Error> {
        for key in self.keys()?.iter().filter(|key| key.scope == scope) {
            removed(MAP, self.map.remove(key))?;
        }
        Ok(())
    }

    /// Under an entry that is pushed out, the kernel begins its iteration anew: so a set, and an end.
    fn keys(&self) -> Result<BTreeSet<RawHistogramKey>, Error> {
        let most = 4 * self.capacity as usize;
        let keys = self.map.keys().take(most).collect::<Result<_, _>>();
        keys.map_err(|e| failed(MAP, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(counts: &[u64], sum: u64) -> Histogram {
        Histogram {
            counts: counts.to_vec(),
            sum,
        }
    }

    #[test]
    fn a_quantile_is_the_end_of_its_interval() {
        let some = histogram(&[1, 0, 0, 8, 1], 60);
        assert_eq!(some.total(), 10);
        assert_eq!(some.mean(), Some(6.0));
        assert_eq!(some.quantile(0.0), Some(0));
        assert_eq!(some.quantile(0.1), Some(0));
        assert_eq!(some.quantile(0.5), Some(7));
        assert_eq!(some.quantile(0.9), Some(7));
        assert_eq!(some.quantile(0.99), Some(15));
        assert_eq!(some.quantile(7.0), Some(15));
    }

    #[test]
    fn nothing_has_no_quantile() {
        assert_eq!(histogram(&[0, 0], 0).quantile(0.5), None);
        assert_eq!(histogram(&[], 0).mean(), None);
    }
}
