// SPDX-License-Identifier: GPL-3.0-only
//! How values are distributed, in little room: a histogram whose quantiles are within 1 % (as DDSketch has it: Masson, Rim, Lee, "DDSketch:
//! a fast and fully-mergeable quantile sketch with relative-error guarantees", VLDB 2019), and beside it what is exact.

use policyd_api::{Histogram, Quantiles};
use serde::{Deserialize, Serialize};

/// Counts of values. Sketches can be added up.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sketch {
    counts: Histogram,
    sum: f64,
    max: f64,
}

impl Sketch {
    /// Takes a value in; what is below 1 counts as 1.
    pub fn add(&mut self, value: u64) {
        let value = value.max(1) as f64;
        self.counts.record(value);
        self.sum += value;
        self.max = self.max.max(value);
    }

    /// Takes in all that another has.
    pub fn merge(&mut self, other: &Sketch) {
        self.counts.add(&other.counts);
        self.sum += other.sum;
        self.max = self.max.max(other.max);
    }

    /// All of it, for who adds up sketches of several pairs.
    pub fn histogram(&self) -> &Histogram {
        &self.counts
    }

    /// As the API tells it.
    pub fn quantiles(&self) -> Quantiles {
        let count = self.counts.count();
        let at = |share| self.counts.quantile(share).min(self.max);
        Quantiles {
            count,
            mean: self.sum / count.max(1) as f64,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: self.max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_to_the_whole() {
        let values: Vec<u64> = (0..1000).map(|n| n * n).collect();
        let (mut whole, mut parts) = (Sketch::default(), Sketch::default());
        for chunk in values.chunks(77) {
            let mut part = Sketch::default();
            for value in chunk {
                whole.add(*value);
                part.add(*value);
            }
            parts.merge(&part);
        }
        assert_eq!(whole, parts);
        let told = whole.quantiles();
        assert_eq!((told.count, told.max), (1000, 998_001.0));
        // 0 counts as 1.
        assert_eq!(told.mean, 332_833.501);
        assert!((told.p50 / 249_001.0 - 1.0).abs() < 0.0101, "{told:?}");
    }

    #[test]
    fn nothing_is_nothing_and_one_value_is_all_of_them() {
        assert_eq!(Sketch::default().quantiles(), Quantiles::default());
        let mut sketch = Sketch::default();
        sketch.add(1234);
        let told = sketch.quantiles();
        assert_eq!((told.count, told.mean, told.max), (1, 1234.0, 1234.0));
        for value in [told.p50, told.p90, told.p99] {
            assert!((value - 1234.0).abs() <= 12.4 && value <= 1234.0, "{told:?}");
        }
    }
}
