// SPDX-License-Identifier: GPL-3.0-only
//! Counts of values by size, which can be added up: of pairs, of backends, of times.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How far the value that stands for a bucket is from those in it, at most.
const ERROR: f64 = 0.01;
/// The ratio of a bucket's ends.
const GROWTH: f64 = (1.0 + ERROR) / (1.0 - ERROR);
/// The highest bucket: that of the largest whole number of 64 bits, and all beyond.
const LAST: u16 = 2219;

/// How values are distributed. Two histograms of disjoint values are one of all when they are [added](Histogram::add).
///
/// With γ = 1.01/0.99 bucket 0 has values up to 1, bucket `n` those over `γ^(n-1)` and up to `γ^n`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Histogram {
    /// How many values each bucket has, by its number; none is empty.
    pub buckets: BTreeMap<u16, u64>,
}

impl Histogram {
    /// Counts a value; what is negative or no number counts as 0.
    pub fn record(&mut self, value: f64) {
        self.record_many(value, 1);
    }

    /// Counts a value so many times.
    pub fn record_many(&mut self, value: f64, times: u64) {
        if times > 0 {
            let count = self.buckets.entry(bucket(value)).or_default();
            *count = count.saturating_add(times);
        }
    }

    /// Adds what another has counted.
    pub fn add(&mut self, other: &Histogram) {
        for (number, count) in &other.buckets {
            let sum = self.buckets.entry(*number).or_default();
            *sum = sum.saturating_add(*count);
        }
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.buckets
            .values()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The value that a part `q` of all (0 to 1) does not exceed, within 1 %; 0 where there are none.
    pub fn quantile(&self, q: f64) -> f64 {
        // Counts beyond 2^53 would be rounded, and nobody would notice.
        let wanted = (self.count() as f64 * q.clamp(0.0, 1.0)).ceil().max(1.0);
        let mut sum = 0.0;
        for (number, count) in &self.buckets {
            sum += *count as f64;
            if sum >= wanted {
                return middle(*number);
            }
        }
        0.0
    }
}

fn bucket(value: f64) -> u16 {
    if value.is_nan() || value <= 1.0 {
        return 0;
    }
    // Within the bounds of the type after `min`; the sign is that of a value over 1.
    (value.ln() / GROWTH.ln()).ceil().min(f64::from(LAST)) as u16
}

fn middle(number: u16) -> f64 {
    match number {
        0 => 1.0,
        n => GROWTH.powi(i32::from(n)) * 2.0 / (1.0 + GROWTH),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_one_in_a_hundred() {
        let mut all = Histogram::default();
        for value in 1..=100_000 {
            all.record(f64::from(value));
        }
        assert_eq!(all.count(), 100_000);
        for q in [0.01, 0.5, 0.9, 0.99, 1.0] {
            let (is, should) = (all.quantile(q), 100_000.0 * q);
            assert!((is / should - 1.0).abs() < 0.0101, "{q}: {is}, not {should}");
        }
        assert_eq!(Histogram::default().quantile(0.5), 0.0);
    }

    #[test]
    fn adding_up_is_counting_all() {
        let (mut even, mut odd, mut all) = (Histogram::default(), Histogram::default(), Histogram::default());
        for value in 0..1000 {
            all.record(f64::from(value));
            [&mut even, &mut odd][value as usize % 2].record(f64::from(value));
        }
        even.add(&odd);
        assert_eq!(even, all);
    }

    #[test]
    fn any_value_has_its_bucket() {
        let mut all = Histogram::default();
        for value in [f64::NAN, -1.0, 0.0, 1.0, f64::INFINITY, f64::MAX] {
            all.record(value);
        }
        assert_eq!(all.buckets, BTreeMap::from([(0, 4), (LAST, 2)]));
        let text = serde_json::to_string(&all).expect("is written");
        assert_eq!(text, "{\"0\":4,\"2219\":2}");
        assert_eq!(serde_json::from_str::<Histogram>(&text).expect("is read"), all);
    }
}
