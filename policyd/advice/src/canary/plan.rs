// SPDX-License-Identifier: GPL-3.0-only
//! From a verdict to weights.

use std::collections::BTreeSet;

use policy::document::{Backend, Route};

use super::Verdict;

/// Shares that a canary gets one after another, in percent.
pub const STEPS: [u16; 6] = [1, 5, 10, 25, 50, 100];

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// The canary gets this share, in percent.
    To(u16),
    /// The canary gets no flows any more.
    Back,
    /// Nothing, until there is more to judge by.
    Wait,
    /// Nothing: the canary has all.
    Done,
}

/// What a verdict comes to. `share`: what the canary has now, in percent.
pub fn next(verdict: Verdict, share: f64) -> Move {
    match verdict {
        Verdict::Worse => Move::Back,
        Verdict::TooLittle => Move::Wait,
        Verdict::Same | Verdict::Better => {
            match STEPS.into_iter().find(|step| f64::from(*step) > share + 0.5) {
                Some(step) => Move::To(step),
                None => Move::Done,
            }
        }
    }
}

/// Why weights of a route cannot be worked out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoWeights {
    /// No two versions share its flows.
    #[error(
        "no two versions share the flows of this route; it has {0}, and needs another beside it (`failover` and `denied` do not count)"
    )]
    OneVersion(String),
    /// There are more than two, or none is the lesser.
    #[error("which version is the canary is not plain: it has {0}; say so with --canary")]
    Which(String),
    /// A version that is none of its.
    #[error("no version that shares the flows of this route is `{asked}`; it has {has}")]
    NoVersion {
        /// What was asked for.
        asked: String,
        /// What there is.
        has: String,
    },
    /// More backends than weights can tell apart.
    #[error("its backends are too many for a share of {0} %; write the weights by hand")]
    TooMany(u16),
}

/// Baseline and canary of a route. Unless told, the canary is the version that has less weight; of more than two both
/// must be named.
///
/// # Errors
/// Where that is not plain.
pub fn versions(
    route: &Route,
    canary: Option<&str>,
    baseline: Option<&str>,
) -> Result<(String, String), NoWeights> {
    let all: BTreeSet<&str> = sharing(route).filter_map(|(_, b)| b.version.as_deref()).collect();
    let has = || match all.is_empty() {
        true => "none".to_owned(),
        false => all.iter().copied().collect::<Vec<_>>().join(", "),
    };
    for asked in [canary, baseline].into_iter().flatten() {
        if !all.contains(asked) {
            return Err(NoWeights::NoVersion {
                asked: asked.to_owned(),
                has: has(),
            });
        }
    }
    if all.len() < 2 {
        return Err(NoWeights::OneVersion(has()));
    }
    let weight = |version: &str| -> u32 {
        let of = sharing(route).filter(|(_, b)| b.version.as_deref() == Some(version));
        of.map(|(_, b)| u32::from(b.weight)).sum()
    };
    let other = |not: &str| {
        let mut others = all.iter().copied().filter(|version| *version != not);
        others.next().filter(|_| all.len() == 2)
    };
    let (baseline, canary) = match (baseline, canary) {
        (Some(baseline), Some(canary)) => (Some(baseline), Some(canary)),
        (None, Some(canary)) => (other(canary), Some(canary)),
        (Some(baseline), None) => (Some(baseline), other(baseline)),
        (None, None) => {
            let least = all.iter().copied().min_by_key(|version| weight(version));
            let rival = least.and_then(other);
            let plain = least.zip(rival).filter(|(a, b)| weight(a) != weight(b));
            (plain.map(|(_, rival)| rival), plain.map(|(least, _)| least))
        }
    };
    match (baseline, canary) {
        (Some(baseline), Some(canary)) if baseline != canary => Ok((baseline.to_owned(), canary.to_owned())),
        _ => Err(NoWeights::Which(has())),
    }
}

/// Entries that share the route's flows, by their place in the list.
fn sharing(route: &Route) -> impl Iterator<Item = (usize, &Backend)> {
    let apart = |b: &Backend| {
        let version = b.version.as_ref();
        b.drain || version.is_some_and(|v| route.failover.contains(v) || route.denied.as_ref() == Some(v))
    };
    route.backends.iter().enumerate().filter(move |(_, b)| !apart(b))
}

/// What share of the route's flows a version has by its weights, in percent.
pub fn share_of(route: &Route, version: &str) -> f64 {
    let (mut all, mut mine) = (0.0, 0.0);
    for (_, backend) in sharing(route) {
        all += f64::from(backend.weight);
        if backend.version.as_deref() == Some(version) {
            mine += f64::from(backend.weight);
        }
    }
    if all == 0.0 { 0.0 } else { mine * 100.0 / all }
}

/// Weights by the place of the entry in the route's list.
pub type Weights = Vec<(usize, u16)>;

/// Weights by which a version has this share, in percent. The entries of the version, and all others, keep their proportions to one another; where
/// all of one side have no weight, they get equal ones.
///
/// # Errors
/// Where there are too many entries for whole numbers.
pub fn weights(route: &Route, version: &str, percent: u16) -> Result<Weights, NoWeights> {
    let percent = percent.min(100);
    let (mine, others): (Vec<_>, Vec<_>) =
        sharing(route).partition(|(_, b)| b.version.as_deref() == Some(version));
    // Whole numbers that are fine enough for each to have a part of its side.
    for all in [100u32, 1000, 10_000, 60_000] {
        let part = u32::from(percent) * all / 100;
        let (Some(mine), Some(others)) = (parts(&mine, part), parts(&others, all - part)) else {
            continue;
        };
        let mut weights: Weights = mine.into_iter().chain(others).collect();
        weights.sort_unstable();
        return Ok(weights);
    }
    Err(NoWeights::TooMany(percent))
}

/// `sum` in the proportions that the entries have, by the largest remainders. None where one that has a weight would lose it.
fn parts(entries: &[(usize, &Backend)], sum: u32) -> Option<Weights> {
    let before: u32 = entries.iter().map(|(_, b)| u32::from(b.weight)).sum();
    let weight = |b: &Backend| match before {
        0 => 1u64,
        _ => u64::from(b.weight),
    };
    let all: u64 = entries.iter().map(|(_, b)| weight(b)).sum::<u64>().max(1);
    let mut left = u64::from(sum);
    let mut shares: Vec<(usize, u64, u64)> = Vec::with_capacity(entries.len());
    for (at, backend) in entries {
        let exact = weight(backend) * u64::from(sum);
        left -= exact / all;
        shares.push((*at, exact / all, exact % all));
    }
    shares.sort_by_key(|(at, _, rest)| (std::cmp::Reverse(*rest), *at));
    for (_, share, _) in shares.iter_mut().take(usize::try_from(left).ok()?) {
        *share += 1;
    }
    let lost = |(at, share, _): &(usize, u64, u64)| {
        let had = entries.iter().any(|(i, b)| i == at && weight(b) > 0);
        sum > 0 && had && *share == 0
    };
    if shares.iter().any(lost) {
        return None;
    }
    shares
        .into_iter()
        .map(|(at, share, _)| Some((at, u16::try_from(share).ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::Document;

    fn route(backends: &str) -> Route {
        let text =
            format!("policy: a\nroutes:\n  r: {{ address: 10.0.0.100, port: 80, backends: [{backends}] }}\n");
        let document = Document::parse("a.yaml", &text).unwrap_or_else(|e| panic!("{e}"));
        document.routes()["r"].clone()
    }

    const TWO: &str = "{ to: 10.0.0.1, version: v1, weight: 90 }, { to: 10.0.0.2, version: v2, weight: 10 }";

    #[test]
    fn shares_go_up_step_by_step_and_back_at_once() {
        let mut share = 0.0;
        let mut seen = Vec::new();
        while let Move::To(step) = next(Verdict::Same, share) {
            seen.push(step);
            share = f64::from(step);
        }
        assert_eq!(seen, STEPS);
        assert_eq!(next(Verdict::Better, 100.0), Move::Done);
        assert_eq!(next(Verdict::Same, 7.0), Move::To(10));
        assert_eq!(next(Verdict::Worse, 50.0), Move::Back);
        assert_eq!(next(Verdict::TooLittle, 50.0), Move::Wait);
    }

    #[test]
    fn the_canary_is_the_lesser_version_or_the_one_that_is_named() {
        let two = route(TWO);
        let of = |route: &Route, canary, baseline| {
            versions(route, canary, baseline).map(|(b, c)| format!("{b} {c}"))
        };
        assert_eq!(of(&two, None, None), Ok("v1 v2".into()));
        assert_eq!(of(&two, Some("v1"), None), Ok("v2 v1".into()));
        assert_eq!(of(&two, None, Some("v2")), Ok("v2 v1".into()));
        let no = of(&two, Some("v3"), None).unwrap_err().to_string();
        assert!(no.contains("`v3`; it has v1, v2"), "{no}");
        let even = route(&TWO.replace("90", "10"));
        assert!(matches!(of(&even, None, None), Err(NoWeights::Which(_))));
        assert_eq!(of(&even, Some("v2"), None), Ok("v1 v2".into()));
        let three = route(&format!("{TWO}, {{ to: 10.0.0.3, version: v3, weight: 5 }}"));
        assert!(matches!(of(&three, Some("v3"), None), Err(NoWeights::Which(_))));
        assert_eq!(of(&three, Some("v3"), Some("v1")), Ok("v1 v3".into()));
        assert!(matches!(
            of(&route("{ to: 10.0.0.1, version: v1 }"), None, None),
            Err(NoWeights::OneVersion(_))
        ));
        assert_eq!(share_of(&two, "v2"), 10.0);
    }

    #[test]
    fn weights_come_to_the_share_and_keep_proportions() {
        let two = route(TWO);
        assert_eq!(weights(&two, "v2", 25), Ok(vec![(0, 75), (1, 25)]));
        assert_eq!(weights(&two, "v2", 0), Ok(vec![(0, 100), (1, 0)]));
        assert_eq!(weights(&two, "v2", 100), Ok(vec![(0, 0), (1, 100)]));
        // From nothing: alike.
        let none = route(
            "{ to: 10.0.0.1, version: v1, weight: 0 }, { to: 10.0.0.3, version: v1, weight: 0 }, { to: 10.0.0.2, version: v2 }",
        );
        assert_eq!(weights(&none, "v2", 0), Ok(vec![(0, 50), (1, 50), (2, 0)]));
        let many = route(
            "{ to: 10.0.0.1, version: v1, weight: 30 }, { to: 10.0.0.2, version: v2, weight: 1 }, { to: 10.0.0.3, version: v1, weight: 10 }, \
             { to: 10.0.0.4, version: v2, weight: 2 }, { to: 10.0.0.5, version: v1, drain: true, weight: 7 }",
        );
        // One in a hundred is too little for two.
        assert_eq!(
            weights(&many, "v2", 1),
            Ok(vec![(0, 743), (1, 3), (2, 247), (3, 7)])
        );
        assert_eq!(
            weights(&many, "v2", 25),
            Ok(vec![(0, 56), (1, 8), (2, 19), (3, 17)])
        );
    }
}
