// SPDX-License-Identifier: GPL-3.0-only
//! How much of dom0's time reading one guest may take.

use std::time::{Duration, Instant};

/// The time over which a guest's share is averaged: a burst may use all of it at once.
const WINDOW: Duration = Duration::from_secs(5);

/// Time that reading a guest may still take: it grows by the guest's share of the time that passes.
pub struct Allowance {
    /// Seconds; below zero after a lookup that took longer than was left.
    left: f64,
    at: Instant,
}

impl Allowance {
    /// All that may be saved up. `share`: of one CPU.
    pub fn full(share: f64) -> Allowance {
        Allowance {
            left: most(share),
            at: Instant::now(),
        }
    }

    fn grow(&mut self, share: f64) {
        let now = Instant::now();
        let grown = self.left + now.duration_since(self.at).as_secs_f64() * share;
        self.left = grown.min(most(share));
        self.at = now;
    }

    /// Whether any is left.
    pub fn has_some(&mut self, share: f64) -> bool {
        self.grow(share);
        self.left > 0.0
    }

    /// Whether all of it is there.
    pub fn is_full(&mut self, share: f64) -> bool {
        self.grow(share);
        self.left >= most(share)
    }

    /// Takes some of it; it may become less than nothing.
    pub fn spend(&mut self, took: Duration) {
        self.left -= took.as_secs_f64();
    }
}

fn most(share: f64) -> f64 {
    WINDOW.as_secs_f64() * share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_used_its_share_waits_for_more() {
        let mut allowance = Allowance::full(0.01);
        assert!(allowance.has_some(0.01));
        // The window's 50 ms, and 10 s more than that.
        allowance.spend(Duration::from_millis(10_050));
        assert!(!allowance.has_some(0.01) && !allowance.is_full(0.01));
        allowance.at -= Duration::from_secs(999);
        assert!(!allowance.has_some(0.01));
        allowance.at -= Duration::from_secs(2);
        assert!(allowance.has_some(0.01) && !allowance.is_full(0.01));
        allowance.at -= Duration::from_secs(100);
        assert!(allowance.is_full(0.01));
        assert!(allowance.left <= most(0.01), "it does not save up");
    }
}
