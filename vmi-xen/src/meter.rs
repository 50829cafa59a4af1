// SPDX-License-Identifier: GPL-3.0-only
//! What traps cost a guest, and the budget for it. Pure: times come in, decisions come out.
//!
//! What is counted is the time that vCPUs are held for a probe, as far as the daemon can see it: from taking the event off the
//! ring to its answer. What the exit itself costs (a few µs a trap on hardware) is added as a fixed amount.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

/// Time that an exit, its event and the resumption cost beyond the handler: measured on hardware as 10 to 15 µs a trap from
/// breakpoint to resumption, of which the handler's part is counted apart.
const EXIT: Duration = Duration::from_micros(10);

/// Upper bounds of the histogram's classes, µs; the last class has none.
const BOUNDS: [u64; 7] = [5, 10, 20, 50, 100, 500, 2000];

/// How long a probe's traps took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Meter {
    /// Traps.
    pub hits: u64,
    /// Time spent on them in all.
    pub total: Duration,
    /// The longest.
    pub max: Duration,
    /// Accesses of the guest to the probe's page that trapped too.
    pub accesses: u64,
    classes: [u64; BOUNDS.len() + 1],
}

impl Meter {
    /// Counts a trap.
    pub fn add(&mut self, took: Duration) {
        self.hits += 1;
        self.total = self.total.saturating_add(took);
        self.max = self.max.max(took);
        let micros = took.as_micros();
        let class = BOUNDS
            .iter()
            .position(|bound| micros <= u128::from(*bound))
            .unwrap_or(BOUNDS.len());
        self.classes[class] += 1;
    }

    /// The mean, zero before the first trap.
    pub fn mean(&self) -> Duration {
        let hits = u32::try_from(self.hits).unwrap_or(u32::MAX);
        self.total.checked_div(hits).unwrap_or_default()
    }

    /// An upper bound of what 99 of 100 traps took: the bound of the class that the 99th percentile is in, or the longest.
    pub fn p99(&self) -> Duration {
        let wanted = self.hits - self.hits / 100;
        let mut seen = 0;
        for (class, count) in self.classes.iter().enumerate() {
            seen += count;
            if seen >= wanted && *count > 0 {
                let bound = BOUNDS.get(class).map(|micros| Duration::from_micros(*micros));
                return bound.map_or(self.max, |bound| bound.min(self.max));
            }
        }
        Duration::ZERO
    }

    /// What the guest paid: the handler's time, an exit for each trap, and two for each access to the page.
    pub fn cost(&self) -> Duration {
        let hits = u32::try_from(self.hits).unwrap_or(u32::MAX);
        let own = self.total.saturating_add(EXIT.saturating_mul(hits));
        own.saturating_add(self.side_cost())
    }

    /// The part of it that the page's other uses paid: each access to it traps twice.
    pub fn side_cost(&self) -> Duration {
        let exits = u32::try_from(self.accesses.saturating_mul(2)).unwrap_or(u32::MAX);
        EXIT.saturating_mul(exits)
    }
}

/// How much a guest may be slowed down.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrapBudget {
    /// Share of one vCPU's time, 0 to 1, that traps may take over a [`TrapBudget::window`].
    pub share: f64,
    /// The time that is averaged over.
    pub window: Duration,
    /// How long a probe that was too costly stays away, the first time; each time twice as long.
    pub first_rest: Duration,
    /// The longest it stays away.
    pub longest_rest: Duration,
}

impl Default for TrapBudget {
    /// 5 % of one vCPU over 5 s; rests of 10 s to 10 min.
    fn default() -> Self {
        TrapBudget {
            share: 0.05,
            window: Duration::from_secs(5),
            first_rest: Duration::from_secs(10),
            longest_rest: Duration::from_secs(600),
        }
    }
}

/// What to do about the budget.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    /// Nothing.
    Keep,
    /// Take this probe away; all of them took this share of a vCPU, this one that much.
    Rest {
        /// Index of the probe.
        probe: usize,
        /// Share that all took.
        all: f64,
        /// Share that it took.
        own: f64,
        /// The part of `own` that was for accesses of the guest to the probe's page.
        side: f64,
        /// How long it is to stay away.
        rest: Duration,
    },
    /// Put this probe back: its rest is over.
    Return {
        /// Index of the probe.
        probe: usize,
    },
}

impl Verdict {
    /// Of one that takes a probe away, why: "rests for 10 s: …". None of others.
    pub fn why(&self, budget: TrapBudget) -> Option<String> {
        let Verdict::Rest {
            all, own, side, rest, ..
        } = self
        else {
            return None;
        };
        let for_page = match side / own {
            most if most > 0.5 => ", most of it for accesses of the guest to its page",
            _ => "",
        };
        Some(format!(
            "rests for {} s: traps took {:.1} % of a vCPU, {:.1} % of them its own{for_page}; the budget is {:.1} %",
            rest.as_secs(),
            all * 100.0,
            own / all * 100.0,
            budget.share * 100.0
        ))
    }
}

/// What a probe is needed for. Ordered: what is needed least comes first, and rests first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Somebody looks at what it shows, for as long as that is: a trace.
    Shown,
    /// What it tells goes on record.
    Recorded,
    /// Verdicts are made of what it tells.
    Decided,
}

/// Keeps probes within a budget. The caller says which are armed and what they cost; the cheapest to do without go first.
#[derive(Debug)]
pub struct Governor {
    budget: TrapBudget,
    since: Instant,
    probes: Vec<Governed>,
}

#[derive(Debug, Clone, Copy)]
struct Governed {
    /// Cost at the start of the window, and the side cost in it.
    before: (Duration, Duration),
    /// Away until then.
    away: Option<Instant>,
    rest: Duration,
    /// When it last returned.
    returned: Option<Instant>,
    need: Need,
}

impl Governor {
    /// For probes that are needed for this: those that are needed least go first, whatever the others cost.
    pub fn new(budget: TrapBudget, needs: &[Need], now: Instant) -> Governor {
        let probes = needs
            .iter()
            .map(|need| Governed {
                before: (Duration::ZERO, Duration::ZERO),
                away: None,
                rest: budget.first_rest,
                returned: None,
                need: *need,
            })
            .collect();
        Governor {
            budget,
            since: now,
            probes,
        }
    }

    /// The budget.
    pub fn budget(&self) -> TrapBudget {
        self.budget
    }

    /// Whether a probe is away for its cost.
    pub fn is_away(&self, probe: usize) -> bool {
        self.probes.get(probe).is_some_and(|p| p.away.is_some())
    }

    /// Judges, given what each probe has cost since the beginning. One step at a time: call it about once a second, and
    /// again until it says [`Verdict::Keep`].
    pub fn judge(&mut self, meters: &[Meter], now: Instant) -> Verdict {
        if let Some(probe) = self
            .probes
            .iter()
            .position(|p| p.away.is_some_and(|until| until <= now))
        {
            self.probes[probe].away = None;
            self.probes[probe].returned = Some(now);
            return Verdict::Return { probe };
        }
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed < self.budget.window {
            return Verdict::Keep;
        }
        let share = |cost: Duration| cost.as_secs_f64() / elapsed.as_secs_f64();
        let costs: Vec<f64> = meters
            .iter()
            .zip(&self.probes)
            .map(|(meter, probe)| share(meter.cost().saturating_sub(probe.before.0)))
            .collect();
        let sides: Vec<f64> = meters
            .iter()
            .zip(&self.probes)
            .map(|(meter, probe)| share(meter.side_cost().saturating_sub(probe.before.1)))
            .collect();
        let all: f64 = costs.iter().sum();
        self.since = now;
        for (probe, meter) in self.probes.iter_mut().zip(meters) {
            probe.before = (meter.cost(), meter.side_cost());
            // It has behaved for as long as it was away: the next time starts afresh.
            let behaved = probe.away.is_none()
                && probe
                    .returned
                    .is_some_and(|at| now.saturating_duration_since(at) > probe.rest);
            if behaved && all <= self.budget.share {
                probe.rest = self.budget.first_rest;
                probe.returned = None;
            }
        }
        if all <= self.budget.share {
            return Verdict::Keep;
        }
        let costliest = (0..self.probes.len().min(costs.len()))
            .filter(|index| self.probes[*index].away.is_none() && costs[*index] > 0.0)
            .max_by(|a, b| {
                let rank = |index: &usize| (Reverse(self.probes[*index].need), costs[*index]);
                rank(a).partial_cmp(&rank(b)).unwrap_or(std::cmp::Ordering::Equal)
            });
        let Some(probe) = costliest else {
            return Verdict::Keep;
        };
        let rest = self.probes[probe].rest;
        self.probes[probe].away = Some(now + rest);
        self.probes[probe].rest = (rest * 2).min(self.budget.longest_rest);
        Verdict::Rest {
            probe,
            all,
            own: costs[probe],
            side: sides[probe],
            rest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Need::*;
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn meter(hits: u64, each: Duration) -> Meter {
        let mut meter = Meter::default();
        for _ in 0..hits {
            meter.add(each);
        }
        meter
    }

    #[test]
    fn a_meter_tells_mean_longest_and_99_of_100() {
        let mut m = meter(990, Duration::from_micros(8));
        for _ in 0..10 {
            m.add(Duration::from_micros(700));
        }
        assert_eq!(m.hits, 1000);
        assert_eq!(m.max, Duration::from_micros(700));
        assert_eq!(m.p99(), Duration::from_micros(10));
        assert!(m.mean() > Duration::from_micros(14) && m.mean() < Duration::from_micros(16));
        m.add(Duration::from_secs(1));
        assert_eq!(m.p99(), Duration::from_micros(2000));
        assert_eq!(Meter::default().p99(), Duration::ZERO);
    }

    #[test]
    fn within_the_budget_nothing_happens() {
        let start = Instant::now();
        let mut governor = Governor::new(TrapBudget::default(), &[Decided, Recorded], start);
        // 5 s at 4 %: 200 ms.
        let meters = [meter(100, MS), meter(90, MS)];
        assert_eq!(
            governor.judge(&meters, start + Duration::from_secs(5)),
            Verdict::Keep
        );
    }

    #[test]
    fn of_the_least_needed_the_costliest_goes_first_and_comes_back() {
        let start = Instant::now();
        let mut governor = Governor::new(TrapBudget::default(), &[Decided, Recorded, Recorded], start);
        let meters = [meter(900, MS), meter(100, MS), meter(200, MS)];
        // Too early to judge.
        assert_eq!(
            governor.judge(&meters, start + Duration::from_secs(1)),
            Verdict::Keep
        );
        let now = start + Duration::from_secs(5);
        let Verdict::Rest {
            probe: 2,
            all,
            own,
            side: 0.0,
            rest,
        } = governor.judge(&meters, now)
        else {
            panic!("the third is the costliest that is needed less");
        };
        assert!(all > 0.2 && own > 0.04 && own < 0.05, "{all} {own}");
        assert_eq!(rest, Duration::from_secs(10));
        assert!(governor.is_away(2));
        // Still over in the next window: the next goes, and only then what is not optional.
        let later = now + Duration::from_secs(5);
        let more = [meter(1800, MS), meter(200, MS), meters[2]];
        assert!(matches!(
            governor.judge(&more, later),
            Verdict::Rest { probe: 1, .. }
        ));
        let last = later + Duration::from_secs(4);
        assert_eq!(governor.judge(&more, last), Verdict::Keep);
        let back = now + Duration::from_secs(10);
        assert_eq!(governor.judge(&more, back), Verdict::Return { probe: 2 });
    }

    #[test]
    fn what_is_only_shown_rests_before_all_else_and_the_reason_is_told() {
        let start = Instant::now();
        let budget = TrapBudget::default();
        let mut governor = Governor::new(budget, &[Decided, Recorded, Shown], start);
        // A trace of 6 %, beside probes that cost more.
        let meters = [meter(500, MS), meter(400, MS), meter(300, MS)];
        let now = start + budget.window;
        let verdict = governor.judge(&meters, now);
        assert!(matches!(verdict, Verdict::Rest { probe: 2, .. }), "{verdict:?}");
        let why = verdict.why(budget).expect("a reason");
        assert_eq!(
            why,
            "rests for 10 s: traps took 24.2 % of a vCPU, 25.0 % of them its own; the budget is 5.0 %"
        );
        // The others alone are over the budget too: then what goes on record, and last what decides.
        let more = [meter(1000, MS), meter(800, MS), meters[2]];
        let verdict = governor.judge(&more, now + budget.window);
        assert!(matches!(verdict, Verdict::Rest { probe: 1, .. }), "{verdict:?}");
        let back = governor.judge(&more, now + budget.first_rest);
        assert_eq!((back, back.why(budget)), (Verdict::Return { probe: 2 }, None));
    }

    #[test]
    fn a_trace_that_costs_nothing_is_left_alone() {
        let start = Instant::now();
        let mut governor = Governor::new(TrapBudget::default(), &[Recorded, Shown], start);
        let verdict = governor.judge(
            &[meter(900, MS), Meter::default()],
            start + Duration::from_secs(5),
        );
        assert!(matches!(verdict, Verdict::Rest { probe: 0, .. }), "{verdict:?}");
    }

    #[test]
    fn a_probe_rests_for_what_its_page_costs_too() {
        let start = Instant::now();
        let mut governor = Governor::new(TrapBudget::default(), &[Recorded, Recorded], start);
        let mut hot = meter(10, MS);
        // 2 exits of 10 µs each: 600 ms in 5 s.
        hot.accesses = 30_000;
        let verdict = governor.judge(&[meter(20, MS), hot], start + Duration::from_secs(5));
        let Verdict::Rest {
            probe: 1, own, side, ..
        } = verdict
        else {
            panic!("{verdict:?}");
        };
        assert!(own > 0.12 && (0.119..0.121).contains(&side), "{own} {side}");
    }

    #[test]
    fn who_misbehaves_again_stays_away_longer_and_who_behaves_is_forgiven() {
        let start = Instant::now();
        let budget = TrapBudget::default();
        let mut governor = Governor::new(budget, &[Recorded], start);
        let mut now = start;
        let mut m = Meter::default();
        let mut rests = Vec::new();
        for _ in 0..3 {
            (0..1000).for_each(|_| m.add(MS));
            now += budget.window;
            let Verdict::Rest { rest, .. } = governor.judge(&[m], now) else {
                panic!("over the budget");
            };
            rests.push(rest.as_secs());
            now += rest;
            assert_eq!(governor.judge(&[m], now), Verdict::Return { probe: 0 });
            // The window in which it was away.
            governor.judge(&[m], now);
        }
        assert_eq!(rests, [10, 20, 40]);
        // Quiet for longer than its last rest.
        for _ in 0..20 {
            now += budget.window;
            assert_eq!(governor.judge(&[m], now), Verdict::Keep);
        }
        (0..1000).for_each(|_| m.add(MS));
        now += budget.window;
        assert!(matches!(governor.judge(&[m], now), Verdict::Rest { rest, .. } if rest == budget.first_rest));
    }
}
