// SPDX-License-Identifier: GPL-3.0-only
//! How many requests one caller may make: a bucket of tokens for each. Pure: what time it is, is told.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::peer::Peer;

/// Callers that are remembered. A full bucket need not be.
const MAX_CALLERS: usize = 4096;

/// Whom a bucket is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Caller {
    /// A user of dom0.
    User(u32),
    /// Who has a certificate with these names.
    Certificate(Vec<String>),
    /// All whom the kernel did not name.
    Unknown,
}

impl From<&Peer> for Caller {
    fn from(peer: &Peer) -> Caller {
        match peer {
            Peer::Local { uid, .. } => Caller::User(*uid),
            Peer::Certificate { names } => Caller::Certificate(names.clone()),
            Peer::Unknown => Caller::Unknown,
        }
    }
}

/// The buckets.
#[derive(Debug)]
pub struct Limits {
    /// Requests a second.
    rate: f64,
    /// Requests that may come at once.
    burst: f64,
    buckets: HashMap<Caller, Bucket>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn at(self, now: Instant, rate: f64, burst: f64) -> f64 {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        (self.tokens + since * rate).min(burst)
    }
}

impl Limits {
    /// `rate`: requests a second, 0 for any number; twice as many may come at once.
    pub fn new(rate: u32) -> Limits {
        Limits {
            rate: f64::from(rate),
            burst: f64::from(rate) * 2.0,
            buckets: HashMap::new(),
        }
    }

    /// Takes a token of this caller's. Root has any number: what keeps dom0 going must never wait.
    ///
    /// # Errors
    /// How long it is until there is one.
    pub fn take(&mut self, caller: Caller, now: Instant) -> Result<(), Duration> {
        if self.rate == 0.0 || caller == Caller::User(0) {
            return Ok(());
        }
        let (rate, burst) = (self.rate, self.burst);
        if self.buckets.len() >= MAX_CALLERS && !self.buckets.contains_key(&caller) {
            self.buckets
                .retain(|_, bucket| bucket.at(now, rate, burst) < burst);
            if self.buckets.len() >= MAX_CALLERS {
                return Err(Duration::from_secs(1));
            }
        }
        let bucket = self.buckets.entry(caller).or_insert(Bucket {
            tokens: burst,
            at: now,
        });
        let tokens = bucket.at(now, rate, burst);
        *bucket = Bucket { tokens, at: now };
        if tokens < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - tokens) / rate));
        }
        bucket.tokens -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_the_rate_holds() {
        let start = Instant::now();
        let mut limits = Limits::new(10);
        let mut passed = 0;
        // A second of a hundred requests: the burst, and what comes back meanwhile.
        for n in 0..100 {
            passed += usize::from(
                limits
                    .take(Caller::User(7), start + Duration::from_millis(n * 10))
                    .is_ok(),
            );
        }
        assert_eq!(passed, 29);
        let wait = limits
            .take(Caller::User(7), start + Duration::from_millis(990))
            .expect_err("none is left");
        assert!(wait <= Duration::from_millis(100), "{wait:?}");
        assert_eq!(
            limits.take(Caller::User(7), start + Duration::from_millis(990) + wait),
            Ok(())
        );
        assert_eq!(
            limits.take(Caller::User(8), start + Duration::from_millis(990)),
            Ok(())
        );
    }

    #[test]
    fn root_and_a_rate_of_zero_know_no_limit() {
        let now = Instant::now();
        let mut limits = Limits::new(1);
        assert!((0..1000).all(|_| limits.take(Caller::User(0), now).is_ok()));
        let mut none = Limits::new(0);
        assert!((0..1000).all(|_| none.take(Caller::Unknown, now).is_ok()));
    }

    #[test]
    fn callers_that_are_many_take_no_more_room() {
        let now = Instant::now();
        let mut limits = Limits::new(100);
        for uid in 1..=MAX_CALLERS as u32 {
            limits.take(Caller::User(uid), now).expect("the first of each");
        }
        assert!(limits.take(Caller::User(70_000), now).is_err());
        let later = now + Duration::from_secs(1);
        limits
            .take(Caller::User(70_000), later)
            .expect("full buckets were forgotten");
        assert_eq!(limits.buckets.len(), 1);
    }
}
