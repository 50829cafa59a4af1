// SPDX-License-Identifier: GPL-3.0-only
//! Rates: the difference of a counter between two looks, divided by the time between them.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

/// How far back a history goes.
pub const SPAN: Duration = Duration::from_secs(180);
/// Looks that a history keeps at most: as many as there are in [`SPAN`] at the shortest delay.
const MOST: usize = 360;

/// What something counts, at one look.
#[derive(Debug, Clone, Copy)]
pub struct Counted<const N: usize> {
    /// Its counters.
    pub counters: [u64; N],
    /// How long it has been there, if that is known: what came after the last look began at nothing.
    pub age: Option<Duration>,
}

/// What a history keeps of the rates of one look.
pub type Chart<const N: usize> = fn(&[f64; N]) -> f64;

/// Rates of many things that count, each with `N` counters.
#[derive(Debug)]
pub struct Rates<K, const N: usize> {
    at: Option<Duration>,
    known: HashMap<K, Known<N>>,
    chart: Option<Chart<N>>,
    over: Duration,
}

#[derive(Debug)]
struct Known<const N: usize> {
    /// The looks that differences are taken to: the last, and those before it as far as they are needed.
    looks: VecDeque<(Duration, [u64; N])>,
    rates: Option<[f64; N]>,
    history: History,
}

impl<K: Eq + Hash, const N: usize> Rates<K, N> {
    /// Without `chart` there is no history.
    pub fn new(chart: Option<Chart<N>>) -> Self {
        Rates {
            at: None,
            known: HashMap::new(),
            chart,
            over: Duration::ZERO,
        }
    }

    /// Rates are of so much time at least, once there was so much: for counters that do not go on at every look.
    pub fn over(self, over: Duration) -> Self {
        Rates { over, ..self }
    }

    /// Takes a look. `at` is when, on a clock that only goes forward. What is not in it is forgotten.
    pub fn look(&mut self, at: Duration, all: impl IntoIterator<Item = (K, Counted<N>)>) {
        let before = self.at;
        let elapsed = before.map(|before| at.saturating_sub(before));
        if elapsed.is_some_and(|elapsed| elapsed.is_zero()) {
            // Nothing can be divided by that.
            return;
        }
        self.at = Some(at);
        let mut known = HashMap::new();
        for (key, now) in all {
            let (mut looks, mut history) = match self.known.remove(&key) {
                Some(old) => (old.looks, old.history),
                None => Default::default(),
            };
            // Who counts has begun anew, or this has the name of another that is gone.
            if looks.back().is_some_and(|(_, last)| fell(last, &now.counters)) {
                looks.clear();
            }
            let young = matches!((now.age, elapsed), (Some(age), Some(elapsed)) if age <= elapsed);
            if let (true, Some(before)) = (looks.is_empty() && young, before) {
                looks.push_back((before, [0; N]));
            }
            // The first one is as old as it has to be, and not older.
            while looks
                .get(1)
                .is_some_and(|(then, _)| at.saturating_sub(*then) >= self.over)
            {
                looks.pop_front();
            }
            let rates = looks
                .front()
                .map(|(then, base)| difference(base, &now.counters, at.saturating_sub(*then)));
            looks.push_back((at, now.counters));
            if let (Some(chart), Some(rates), Some(before)) = (self.chart, &rates, before) {
                history.add(Point {
                    from: before,
                    to: at,
                    value: chart(rates),
                });
            }
            known.insert(
                key,
                Known {
                    looks,
                    rates,
                    history,
                },
            );
        }
        self.known = known;
    }

    /// The rates of one, a second; none until there were two looks at it, and where a counter fell.
    pub fn of(&self, key: &K) -> Option<&[f64; N]> {
        self.known.get(key)?.rates.as_ref()
    }

    /// The history of one.
    pub fn history(&self, key: &K) -> Option<&History> {
        self.known.get(key).map(|known| &known.history)
    }

    /// The sums of all rates that are known; none if none is.
    pub fn sum(&self) -> Option<[f64; N]> {
        let rates = self.known.values().filter_map(|known| known.rates);
        rates.reduce(|mut sum, rates| {
            for (sum, rate) in sum.iter_mut().zip(rates) {
                *sum += rate;
            }
            sum
        })
    }
}

fn fell<const N: usize>(before: &[u64; N], now: &[u64; N]) -> bool {
    before.iter().zip(now).any(|(before, now)| now < before)
}

fn difference<const N: usize>(before: &[u64; N], now: &[u64; N], elapsed: Duration) -> [f64; N] {
    std::array::from_fn(|i| now[i].saturating_sub(before[i]) as f64 / elapsed.as_secs_f64())
}

/// A rate, and the time that it is of.
#[derive(Debug, Clone, Copy)]
struct Point {
    from: Duration,
    to: Duration,
    value: f64,
}

/// The rates of the last minutes.
#[derive(Debug, Default)]
pub struct History(VecDeque<Point>);

impl History {
    fn add(&mut self, point: Point) {
        let old = |first: &Point| point.to.saturating_sub(first.to) > SPAN;
        while self.0.len() >= MOST || self.0.front().is_some_and(old) {
            self.0.pop_front();
        }
        self.0.push_back(point);
    }

    /// The time up to `now` in so many equal parts, the oldest first: the mean rate of each, none where nobody looked.
    pub fn parts(&self, now: Duration, count: usize) -> Vec<Option<f64>> {
        let part = SPAN.as_secs_f64() / count.max(1) as f64;
        let ago = |then: Duration| now.as_secs_f64() - then.as_secs_f64();
        let mut sums = vec![(0.0, 0.0); count];
        for point in &self.0 {
            for (i, (sum, time)) in sums.iter_mut().enumerate() {
                // Of this part: from so many seconds ago until so many.
                let (begin, end) = ((count - i) as f64 * part, (count - i - 1) as f64 * part);
                let common = begin.min(ago(point.from)) - end.max(ago(point.to));
                if common > 0.0 {
                    *sum += point.value * common;
                    *time += common;
                }
            }
        }
        let mean = |(sum, time): (f64, f64)| (time > 0.0).then(|| sum / time);
        sums.into_iter().map(mean).collect()
    }
}

/// A line of so many characters, the highest of it at full height. Where nobody looked there is a space.
pub fn sparkline(parts: &[Option<f64>]) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let highest = parts.iter().flatten().copied().fold(0.0, f64::max);
    let level = |value: &Option<f64>| match value {
        None => ' ',
        Some(value) if *value <= 0.0 || highest <= 0.0 => LEVELS[0],
        // Anything at all is above nothing.
        Some(value) => LEVELS[((value / highest * 7.0).ceil() as usize).clamp(1, 7)],
    };
    parts.iter().map(level).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn counted(counters: [u64; 2]) -> Counted<2> {
        Counted { counters, age: None }
    }

    fn rates() -> Rates<&'static str, 2> {
        Rates::new(Some(|rates| rates[0]))
    }

    #[test]
    fn a_rate_is_a_difference_by_the_time_that_was_measured() {
        let mut rates = rates();
        rates.look(at(10), [("web1", counted([100, 7]))]);
        assert_eq!(rates.of(&"web1"), None, "one look is no rate");
        rates.look(at(14), [("web1", counted([120, 7]))]);
        assert_eq!(rates.of(&"web1"), Some(&[5.0, 0.0]));
        rates.look(Duration::from_millis(14_500), [("web1", counted([121, 8]))]);
        assert_eq!(rates.of(&"web1"), Some(&[2.0, 2.0]));
        // Two answers of one moment say nothing new.
        rates.look(Duration::from_millis(14_500), [("web1", counted([999, 8]))]);
        assert_eq!(rates.of(&"web1"), Some(&[2.0, 2.0]));
    }

    #[test]
    fn a_counter_that_falls_begins_anew_and_is_never_negative() {
        let mut rates = rates();
        rates.look(at(0), [("web1", counted([1000, 50]))]);
        rates.look(at(1), [("web1", counted([1010, 50]))]);
        rates.look(at(2), [("web1", counted([3, 60]))]);
        assert_eq!(rates.of(&"web1"), None);
        rates.look(at(3), [("web1", counted([8, 60]))]);
        assert_eq!(rates.of(&"web1"), Some(&[5.0, 0.0]));
        // The history has a gap, not a value below zero.
        let history = rates.history(&"web1").unwrap().parts(at(3), 180);
        assert_eq!(history[177..], [Some(10.0), None, Some(5.0)]);
    }

    #[test]
    fn what_is_younger_than_the_last_look_began_at_nothing() {
        let mut rates = rates();
        let aged = |counters, seconds| Counted {
            counters,
            age: Some(at(seconds)),
        };
        rates.look(at(0), [("old", aged([500, 0], 60))]);
        rates.look(at(2), [("old", aged([500, 0], 62)), ("new", aged([30, 0], 1))]);
        assert_eq!(rates.of(&"new"), Some(&[15.0, 0.0]));
        // The same name, another flow.
        rates.look(at(4), [("old", aged([40, 0], 1)), ("late", aged([900, 0], 300))]);
        assert_eq!(rates.of(&"old"), Some(&[20.0, 0.0]));
        assert_eq!(rates.of(&"late"), None, "it was there before anybody looked");
        assert_eq!(rates.of(&"new"), None, "what is gone is forgotten");
    }

    #[test]
    fn a_counter_that_goes_on_seldom_has_a_rate_of_a_longer_time() {
        let mut rates = rates().over(at(10));
        let mut seen = Vec::new();
        // It goes on by 100 every ten seconds, and is looked at every four.
        for i in 0..12 {
            let now = at(i * 4);
            rates.look(now, [("a", counted([i * 4 / 10 * 100, 0]))]);
            seen.extend(rates.of(&"a").map(|rates| rates[0]));
        }
        // Once there were ten seconds it is 8.3 or 16.7, never 0 or 25.
        assert!(
            seen[3..].iter().all(|rate| (8.0..17.0).contains(rate)),
            "{seen:?}"
        );
        rates.look(at(48), [("a", counted([0, 0]))]);
        assert_eq!(rates.of(&"a"), None, "nothing of before it fell is left");
        rates.look(at(52), [("a", counted([8, 0]))]);
        assert_eq!(rates.of(&"a"), Some(&[2.0, 0.0]));
    }

    #[test]
    fn sums_are_of_what_is_known() {
        let mut rates = rates();
        assert_eq!(rates.sum(), None);
        rates.look(at(0), [("a", counted([0, 0])), ("b", counted([0, 0]))]);
        rates.look(
            at(1),
            [
                ("a", counted([1, 2])),
                ("b", counted([10, 20])),
                ("c", counted([99, 99])),
            ],
        );
        assert_eq!(rates.sum(), Some([11.0, 22.0]));
    }

    #[test]
    fn a_history_is_of_time_not_of_looks() {
        let mut rates = rates();
        rates.look(at(0), [("a", counted([0, 0]))]);
        // One long look, then short ones.
        rates.look(at(90), [("a", counted([900, 0]))]);
        for i in 1..=90 {
            rates.look(at(90 + i), [("a", counted([900 + i * 20, 0]))]);
        }
        let parts = rates.history(&"a").unwrap().parts(at(180), 4);
        assert_eq!(parts, [Some(10.0), Some(10.0), Some(20.0), Some(20.0)]);
        // Later the oldest is gone, and of the latest nobody knows.
        let parts = rates.history(&"a").unwrap().parts(at(270), 4);
        assert_eq!(parts, [Some(20.0), Some(20.0), None, None]);
    }

    #[test]
    fn a_history_is_bounded() {
        let mut rates = rates();
        for i in 0..2000 {
            rates.look(Duration::from_millis(i * 100), [("a", counted([i, 0]))]);
        }
        assert_eq!(rates.history(&"a").unwrap().0.len(), MOST);
        rates.look(at(3000), [("a", counted([5000, 0]))]);
        assert_eq!(rates.history(&"a").unwrap().0.len(), 1);
    }

    #[test]
    fn a_sparkline_shows_nothing_as_less_than_little() {
        assert_eq!(
            sparkline(&[None, Some(0.0), Some(0.1), Some(50.0), Some(100.0)]),
            " ▁▂▅█"
        );
        assert_eq!(sparkline(&[Some(0.0), Some(0.0)]), "▁▁");
        assert_eq!(sparkline(&[]), "");
    }
}
