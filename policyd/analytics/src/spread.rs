// SPDX-License-Identifier: GPL-3.0-only
//! Counts of times by fixed bounds, that only grow: what a monitoring system wants, which takes the difference of two looks.

/// Upper bounds, µs. What is above the last is in none.
pub const BOUNDS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// How many times lay where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spread {
    /// Of each bound, values up to it that are above the one before.
    within: [u64; BOUNDS_US.len()],
    above: u64,
    /// Of all values, µs.
    pub sum_us: u64,
}

impl Spread {
    /// Takes a time in, µs.
    pub fn add(&mut self, us: u64) {
        match BOUNDS_US.iter().position(|bound| us <= *bound) {
            Some(at) => self.within[at] += 1,
            None => self.above += 1,
        }
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.within.iter().sum::<u64>() + self.above
    }

    /// Of each bound, in µs, how many values are up to it.
    pub fn up_to(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut below = 0;
        BOUNDS_US.iter().zip(&self.within).map(move |(bound, count)| {
            below += count;
            (*bound, below)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_in_its_own_interval() {
        let mut spread = Spread::default();
        for us in [0, 100, 101, 10_000_000, 10_000_001] {
            spread.add(us);
        }
        let counts: Vec<u64> = spread.up_to().map(|(_, count)| count).collect();
        assert_eq!((counts[0], counts[1], counts[14], counts[15]), (2, 3, 3, 4));
        assert_eq!((spread.count(), spread.sum_us), (5, 20_000_202));
    }
}
