// SPDX-License-Identifier: GPL-3.0-only
//! How many calls a second a trace may see.

/// Counts calls from tick to tick, that is about a second.
///
/// Calls up to the limit are told. As many again are let pass unread: each costs
/// the guest an exit, and the number tells how busy it is. Past that the probes
/// should go until the next tick.
#[derive(Debug, Clone)]
pub struct Limit {
    calls: u64,
    used: u64,
}

/// What is to become of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Tell it.
    Tell,
    /// Let it pass.
    Pass,
    /// Let it pass, and let no more come until the next tick.
    Stop,
}

/// What a trace has not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftOut {
    /// Calls that were seen, but not read.
    pub count: u64,
    /// For the rest of the second nothing was seen, so that there may be more.
    pub at_least: bool,
}

impl Limit {
    /// A limit of so many calls a tick; at least one.
    pub fn new(calls: u32) -> Self {
        Self {
            calls: u64::from(calls.max(1)),
            used: 0,
        }
    }

    /// A call has come.
    pub fn call(&mut self) -> Verdict {
        self.used += 1;
        if self.used <= self.calls {
            Verdict::Tell
        } else if self.used < self.calls * 2 {
            Verdict::Pass
        } else {
            Verdict::Stop
        }
    }

    /// Another second begins. Returns what was left out in the last one.
    pub fn tick(&mut self) -> Option<LeftOut> {
        let used = std::mem::take(&mut self.used);
        (used > self.calls).then(|| LeftOut {
            count: used - self.calls,
            at_least: used >= self.calls * 2,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn past_the_limit_calls_pass_and_then_stop_until_the_next_tick() {
        use Verdict::*;
        let mut limit = Limit::new(3);
        let verdicts: Vec<Verdict> = (0..6).map(|_| limit.call()).collect();
        assert_eq!(verdicts, [Tell, Tell, Tell, Pass, Pass, Stop]);
        let left_out = LeftOut {
            count: 3,
            at_least: true,
        };
        assert_eq!(limit.tick(), Some(left_out));
        assert_eq!(limit.call(), Tell);
        assert_eq!(limit.tick(), None);
        let verdicts: Vec<Verdict> = (0..4).map(|_| limit.call()).collect();
        assert_eq!(verdicts, [Tell, Tell, Tell, Pass]);
        let left_out = LeftOut {
            count: 1,
            at_least: false,
        };
        assert_eq!(limit.tick(), Some(left_out));
    }

    #[test]
    fn a_quiet_guest_is_never_limited() {
        let mut limit = Limit::new(10);
        for _ in 0..5 {
            assert!((0..10).all(|_| limit.call() == Verdict::Tell));
            assert_eq!(limit.tick(), None);
        }
    }
}
