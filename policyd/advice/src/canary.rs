// SPDX-License-Identifier: GPL-3.0-only
//! Whether the new version behind a route (the *canary*) fares as well as the other (the *baseline*), and what weights follow.
//!
//! # Tests
//!
//! | signal | what is compared | test |
//! |---|---|---|
//! | failures | TCP connections that did not come about, of those allowed | Fisher's exact test, two-sided |
//! | set-up, first byte | the times themselves, by histograms | Mann-Whitney's U test, two-sided, normal approximation with corrections for ties and continuity |
//!
//! All are at the level α (0.01 unless told) by Holm's method over the signals that can be tested: the chance that a canary which is as good
//! as its baseline is called worse in a look is at most α, however many signals there are. Who looks often looks with a smaller α.
//!
//! A difference is called *worse* or *better* if its test rejects, and if it is worth talking of: the rates, or the medians, are at least a
//! tenth apart (with many connections everything differs significantly). *Worse* needs ten connections of the canary; *same* and *better*,
//! which let more flows go to it, need [`Rules::least`] of each version: silence is no good sign.
//!
//! # Weights
//!
//! [`next`]: worse in one signal means back to weight 0. Too little data for one of those that the baseline has means wait. Else the canary
//! gets the next share of 1, 5, 10, 25, 50 and 100 %.

mod plan;
pub mod statistics;

use policyd_api::{Histogram, PairSignals, Signals};
use serde::Serialize;

pub use plan::{Move, NoWeights, STEPS, Weights, next, share_of, versions, weights};
use statistics::{fisher, holm, mann_whitney};

/// Connections of the canary without which nothing is called worse.
const LEAST_WORSE: u64 = 10;
/// How far apart rates or medians are that are worth talking of.
const APART: f64 = 0.1;

/// How to judge.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// The chance of calling a canary worse that is not: over 0, under 1.
    pub alpha: f64,
    /// Connections, or times, that each version must have for it to be called the same or better.
    pub least: u64,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            alpha: 0.01,
            least: 100,
        }
    }
}

/// What is seen of one version.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fares {
    /// TCP connections that were allowed.
    pub connections: u64,
    /// Of them, that did not come about.
    pub failed: u64,
    /// From SYN to SYN-ACK, µs.
    pub setup_us: Histogram,
    /// From the client's first data to the server's, µs.
    pub first_byte_us: Histogram,
}

impl Fares {
    /// Adds up what all clients saw of a version of a route. Signals that do not name their route are taken by `ports`, those on which
    /// the route's backends serve.
    pub fn of(signals: &Signals, route: &str, version: &str, ports: &[u16]) -> Fares {
        let is = |pair: &&PairSignals| {
            pair.version.as_deref() == Some(version)
                && match &pair.route {
                    Some(named) => named == route,
                    None => pair.port.is_some_and(|port| ports.contains(&port)),
                }
        };
        let mut fares = Fares::default();
        for pair in signals.pairs.iter().filter(is) {
            let counts = &pair.window.counts;
            // What policy denies says nothing of the server.
            let allowed = counts.connections.saturating_sub(counts.denied);
            fares.connections = fares.connections.saturating_add(allowed);
            fares.failed = fares.failed.saturating_add(counts.failed.min(allowed));
            if let Some(times) = &pair.times {
                fares.setup_us.add(&times.setup_us);
                fares.first_byte_us.add(&times.first_byte_us);
            }
        }
        fares
    }
}

/// What is said of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The canary is better.
    Better,
    /// No difference is shown, or none worth talking of.
    Same,
    /// The canary is worse.
    Worse,
    /// There is not enough to say.
    #[serde(rename = "too little data")]
    TooLittle,
}

impl Verdict {
    /// The words used in tables and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Better => "better",
            Verdict::Same => "same",
            Verdict::Worse => "worse",
            Verdict::TooLittle => "too little data",
        }
    }
}

/// One signal of both versions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judged {
    /// `failures`, `setup` or `first-byte`.
    pub signal: &'static str,
    /// The test.
    pub test: &'static str,
    /// Of the baseline: the part of connections that failed, 0 to 1, or the median in µs.
    pub baseline: f64,
    /// Of the canary.
    pub canary: f64,
    /// Connections or times of the baseline.
    pub baseline_count: u64,
    /// Of the canary.
    pub canary_count: u64,
    /// How likely a difference as large as this is where there is none; none where there is nothing to compare.
    pub p: Option<f64>,
    /// What p had to stay below for a difference to be shown.
    pub threshold: f64,
    /// What follows.
    pub verdict: Verdict,
}

/// Compares two versions, signal by signal. A signal that the baseline has nothing of (times of a UDP route) is not there.
pub fn judge(baseline: &Fares, canary: &Fares, rules: &Rules) -> Vec<Judged> {
    let rate = |fares: &Fares| match fares.connections {
        0 => 0.0,
        n => fares.failed as f64 / n as f64,
    };
    let mut judged = vec![Judged {
        signal: "failures",
        test: "Fisher's exact test",
        baseline: rate(baseline),
        canary: rate(canary),
        baseline_count: baseline.connections,
        canary_count: canary.connections,
        p: fisher(
            [baseline.failed, baseline.connections - baseline.failed],
            [canary.failed, canary.connections - canary.failed],
        ),
        threshold: rules.alpha,
        verdict: Verdict::TooLittle,
    }];
    let times = [
        ("setup", &baseline.setup_us, &canary.setup_us),
        ("first-byte", &baseline.first_byte_us, &canary.first_byte_us),
    ];
    for (signal, baseline, canary) in times.into_iter().filter(|(_, baseline, _)| baseline.count() > 0) {
        judged.push(Judged {
            signal,
            test: "Mann-Whitney U test",
            baseline: baseline.quantile(0.5),
            canary: canary.quantile(0.5),
            baseline_count: baseline.count(),
            canary_count: canary.count(),
            p: mann_whitney(&baseline.buckets, &canary.buckets),
            threshold: rules.alpha,
            verdict: Verdict::TooLittle,
        });
    }
    let tests: Vec<f64> = judged.iter().filter_map(|j| j.p).collect();
    let thresholds = holm(&tests, rules.alpha);
    let mut thresholds = thresholds.into_iter();
    for one in &mut judged {
        if one.p.is_some() {
            one.threshold = thresholds.next().unwrap_or(0.0);
        }
        one.verdict = one.says(rules);
    }
    judged
}

impl Judged {
    fn says(&self, rules: &Rules) -> Verdict {
        let shown = self.p.is_some_and(|p| p < self.threshold);
        let (low, high) = (self.baseline.min(self.canary), self.baseline.max(self.canary));
        // Of nothing to something is far apart, too.
        let apart = high > 0.0 && high >= low * (1.0 + APART);
        let enough = self.baseline_count.min(self.canary_count) >= rules.least;
        match shown && apart {
            true if self.canary > self.baseline && self.canary_count >= LEAST_WORSE => Verdict::Worse,
            true if self.canary < self.baseline && enough => Verdict::Better,
            _ if enough => Verdict::Same,
            _ => Verdict::TooLittle,
        }
    }
}

/// What all signals together say: worse if one does, else too little data if one has.
pub fn overall(judged: &[Judged]) -> Verdict {
    let says = |verdict| judged.iter().any(|one| one.verdict == verdict);
    match () {
        () if says(Verdict::Worse) => Verdict::Worse,
        () if says(Verdict::TooLittle) || judged.is_empty() => Verdict::TooLittle,
        () if says(Verdict::Better) => Verdict::Better,
        () => Verdict::Same,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policyd_api::{Times, Totals, Window};

    /// So many connections, of which so many failed, and each other took so many µs, times 1 to 3.
    fn fares(connections: u64, failed: u64, us: f64) -> Fares {
        let mut fares = Fares {
            connections,
            failed,
            ..Fares::default()
        };
        for n in 0..connections - failed {
            fares.setup_us.record(us * (1.0 + (n % 97) as f64 / 48.0));
            fares
                .first_byte_us
                .record(us * 10.0 * (1.0 + (n % 89) as f64 / 44.0));
        }
        fares
    }

    fn verdicts(baseline: &Fares, canary: &Fares) -> Vec<Verdict> {
        let judged = judge(baseline, canary, &Rules::default());
        judged.into_iter().map(|one| one.verdict).collect()
    }

    use Verdict::{Better, Same, TooLittle, Worse};

    #[test]
    fn what_is_alike_is_the_same() {
        assert_eq!(
            verdicts(&fares(2000, 20, 500.0), &fares(200, 2, 500.0)),
            [Same; 3]
        );
        // Slower by a twentieth: shown by so many, and not worth talking of.
        let slightly = judge(
            &fares(50_000, 0, 500.0),
            &fares(50_000, 0, 525.0),
            &Rules::default(),
        );
        assert!(slightly[1].p < Some(1e-6), "{slightly:?}");
        assert_eq!(slightly[1].verdict, Same);
    }

    #[test]
    fn what_fails_or_is_slower_is_worse() {
        let baseline = fares(2000, 2, 500.0);
        assert_eq!(verdicts(&baseline, &fares(200, 10, 500.0)), [Worse, Same, Same]);
        assert_eq!(verdicts(&baseline, &fares(200, 0, 700.0)), [Same, Worse, Worse]);
        // A dozen that all fail say enough; three do not.
        assert_eq!(verdicts(&baseline, &fares(12, 12, 1.0))[0], Worse);
        assert_eq!(verdicts(&baseline, &fares(3, 3, 1.0))[0], TooLittle);
    }

    #[test]
    fn what_is_better_is_said_with_enough_data_only() {
        let baseline = fares(2000, 100, 500.0);
        assert_eq!(verdicts(&baseline, &fares(1000, 1, 300.0)), [Better; 3]);
        assert_eq!(verdicts(&baseline, &fares(50, 0, 300.0)), [TooLittle; 3]);
        assert_eq!(verdicts(&Fares::default(), &Fares::default()), [TooLittle]);
    }

    #[test]
    fn all_together_the_worst_counts() {
        let judged = |canary: &Fares| overall(&judge(&fares(2000, 20, 500.0), canary, &Rules::default()));
        assert_eq!(judged(&fares(200, 2, 500.0)), Same);
        assert_eq!(judged(&fares(200, 2, 300.0)), Better);
        assert_eq!(judged(&fares(200, 60, 300.0)), Worse);
        assert_eq!(judged(&fares(20, 0, 500.0)), TooLittle);
        // The baseline has times, the canary none yet.
        let untimed = Fares {
            connections: 2000,
            failed: 20,
            ..Fares::default()
        };
        assert_eq!(judged(&untimed), TooLittle);
    }

    #[test]
    fn a_versions_signals_are_those_of_all_who_went_to_it() {
        let pair = |version: &str, route: Option<&str>, port: u16, denied: u64| {
            let mut times = Times::default();
            times.setup_us.record(100.0);
            PairSignals {
                version: Some(version.into()),
                route: route.map(str::to_owned),
                port: Some(port),
                window: Window {
                    counts: Totals {
                        connections: 10,
                        denied,
                        failed: 1,
                        ..Totals::default()
                    },
                    ..Window::default()
                },
                times: Some(times),
                ..PairSignals::default()
            }
        };
        let signals = Signals {
            pairs: vec![
                pair("v2", Some("shop/pages"), 80, 0),
                pair("v2", None, 80, 4),
                pair("v2", None, 81, 0),
                pair("v2", Some("shop/other"), 80, 0),
                pair("v1", Some("shop/pages"), 80, 0),
            ],
            ..Signals::default()
        };
        let fares = Fares::of(&signals, "shop/pages", "v2", &[80]);
        assert_eq!(
            (fares.connections, fares.failed, fares.setup_us.count()),
            (16, 2, 2)
        );
    }

    /// A fair coin is rarely called unfair: how often a canary that is as its baseline is called worse.
    #[test]
    fn false_alarms_are_as_rare_as_told() {
        let mut state = 7u64;
        let mut random = move || {
            // Knuth's linear congruential generator; its upper bits are good enough for this.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / f64::from(1u32 << 31)
        };
        let rules = Rules {
            alpha: 0.05,
            least: 100,
        };
        let mut alarms = 0;
        const LOOKS: u32 = 1000;
        for _ in 0..LOOKS {
            let mut draw = |n: u64| {
                let mut fares = Fares {
                    connections: n,
                    ..Fares::default()
                };
                for _ in 0..n {
                    match random() < 0.05 {
                        true => fares.failed += 1,
                        // Times with a long tail.
                        false => {
                            fares.setup_us.record(200.0 / (1.01 - random()));
                            fares.first_byte_us.record(900.0 * (0.5 + random()));
                        }
                    }
                }
                fares
            };
            let (baseline, canary) = (draw(400), draw(120));
            alarms += u32::from(overall(&judge(&baseline, &canary, &rules)) == Worse);
        }
        // Half of α are alarms in the other direction; three deviations are 2 %.
        assert!(alarms < LOOKS * 45 / 1000, "{alarms} of {LOOKS}");
    }
}
