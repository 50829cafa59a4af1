// SPDX-License-Identifier: GPL-3.0-only
//! Tests of whether two samples are of one kind.

use std::collections::BTreeMap;

/// Fisher's exact test: how likely counts as uneven as these, or more, are where both samples have the same rate. `a`, `b`: of each sample
/// how many did and how many did not. Two-sided: all outcomes count that are no more likely than this one. None where
/// a sample is empty.
pub fn fisher(a: [u64; 2], b: [u64; 2]) -> Option<f64> {
    let (of_a, of_b) = (a[0].checked_add(a[1])?, b[0].checked_add(b[1])?);
    if of_a == 0 || of_b == 0 {
        return None;
    }
    // Both did and did not are alike; the rarer has fewer outcomes.
    let (did_a, did) = match a[0] + b[0] <= a[1] + b[1] {
        true => (a[0], a[0] + b[0]),
        false => (a[1], a[1] + b[1]),
    };
    let all = of_a + of_b;
    // Of how many that did, x are of a: from the fewest to the most that can be.
    let (least, most) = (did.saturating_sub(of_b), did.min(of_a));
    let choose = |n: u64, k: u64| ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k);
    let ln_p = |x: u64| choose(of_a, x) + choose(of_b, did - x) - choose(all, did);
    let observed = ln_p(did_a);
    // One outcome from the one before: no factorials of large numbers are subtracted again and again.
    let mut sum = 0.0;
    let mut ln_one = ln_p(least);
    for x in least..=most {
        // Ties are what rounding makes of equal probabilities.
        if ln_one <= observed + 1e-7 {
            sum += ln_one.exp();
        }
        if x < most {
            let up = ((of_a - x) as f64).ln() + ((did - x) as f64).ln();
            // of_b - did + x + 1, without going below 0 on the way.
            let down = ((x + 1) as f64).ln() + ((of_b + x + 1 - did) as f64).ln();
            ln_one += up - down;
        }
    }
    Some(sum.min(1.0))
}

/// The natural logarithm of n!, by Stirling's series where n is large: exact to 1e-10.
fn ln_factorial(n: u64) -> f64 {
    if n < 32 {
        return (2..=n).map(|k| (k as f64).ln()).sum();
    }
    let x = n as f64 + 1.0;
    let tail = 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3)) + 1.0 / (1260.0 * x.powi(5));
    (x - 0.5) * x.ln() - x + 0.5 * std::f64::consts::TAU.ln() + tail
}

/// Mann-Whitney's U test of two samples by counts of their values: how likely it is that values of one are so often larger than those of the other
/// where both are of one distribution. Two-sided, by the normal approximation with corrections for ties and continuity, which
/// is good from about 20 values of each on. None where a sample is empty.
pub fn mann_whitney(a: &BTreeMap<u16, u64>, b: &BTreeMap<u16, u64>) -> Option<f64> {
    let sum = |of: &BTreeMap<u16, u64>| of.values().map(|n| *n as f64).sum::<f64>();
    let (of_a, of_b) = (sum(a), sum(b));
    if of_a == 0.0 || of_b == 0.0 {
        return None;
    }
    let all = of_a + of_b;
    let (mut below_b, mut u, mut ties) = (0.0, 0.0, 0.0);
    let values: std::collections::BTreeSet<u16> = a.keys().chain(b.keys()).copied().collect();
    for value in values {
        let count = |of: &BTreeMap<u16, u64>| of.get(&value).copied().unwrap_or(0) as f64;
        let (here_a, here_b) = (count(a), count(b));
        // Pairs in which a is the larger, and half of those that are equal.
        u += here_a * (below_b + here_b / 2.0);
        below_b += here_b;
        let equal = here_a + here_b;
        ties += equal * (equal * equal - 1.0);
    }
    let variance = of_a * of_b / 12.0 * ((all + 1.0) - ties / (all * (all - 1.0)));
    if variance <= 0.0 {
        // All values are one.
        return Some(1.0);
    }
    let distance = ((u - of_a * of_b / 2.0).abs() - 0.5).max(0.0);
    Some(erfc(distance / variance.sqrt() / std::f64::consts::SQRT_2).min(1.0))
}

/// What is left of the normal distribution beyond ±x√2. By the continued fraction where x is large, else by the series of erf; within 1e-12.
fn erfc(x: f64) -> f64 {
    let two_by_root_pi = std::f64::consts::FRAC_2_SQRT_PI;
    if x < 2.0 {
        // erf(x) = 2/√π · e^(-x²) · Σ 2ⁿ x^(2n+1) / (1·3·…·(2n+1))
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while term > sum * 1e-17 {
            n += 1.0;
            term *= 2.0 * x * x / (2.0 * n + 1.0);
            sum += term;
        }
        return 1.0 - two_by_root_pi * (-x * x).exp() * sum;
    }
    // erfc(x) = e^(-x²)/√π · 1/(x + ½/(x + 1/(x + 3/2/(x + …)))), from within.
    let fraction = (1..=120)
        .rev()
        .fold(0.0, |rest, n| f64::from(n) / 2.0 / (x + rest));
    (-x * x).exp() * two_by_root_pi / 2.0 / (x + fraction)
}

/// Holm's method: below what each p-value must be so that the chance to reject any hypothesis that holds is at most `alpha`. In the order of
/// `ps`. Once one is not rejected, none with a larger p is: those get a threshold of 0.
pub fn holm(ps: &[f64], alpha: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..ps.len()).collect();
    order.sort_by(|a, b| ps[*a].total_cmp(&ps[*b]));
    let mut thresholds = vec![0.0; ps.len()];
    for (rank, at) in order.into_iter().enumerate() {
        thresholds[at] = alpha / (ps.len() - rank) as f64;
        if ps[at] >= thresholds[at] {
            break;
        }
    }
    thresholds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(is: f64, should: f64) {
        assert!((is / should - 1.0).abs() < 1e-6, "{is}, not {should}");
    }

    /// Fisher's lady who tastes tea, and others by adding up fractions of whole numbers.
    #[test]
    fn fishers_test_is_exact() {
        near(fisher([3, 1], [1, 3]).unwrap(), 34.0 / 70.0);
        near(fisher([4, 0], [0, 4]).unwrap(), 2.0 / 70.0);
        near(fisher([0, 4], [4, 0]).unwrap(), 2.0 / 70.0);
        // 1·C(12,9)… of C(24,12): a text-book's table of dieters.
        near(fisher([1, 11], [9, 3]).unwrap(), 0.002_759_456);
        near(fisher([0, 10], [0, 10]).unwrap(), 1.0);
        assert_eq!(fisher([0, 0], [1, 2]), None);
        assert_eq!(fisher([1, 2], [0, 0]), None);
    }

    /// Against every outcome, by factorials.
    #[test]
    fn fishers_test_is_the_sum_over_all_outcomes() {
        let choose = |n: u64, k: u64| (1..=k).fold(1.0, |c, i| c * (n - k + i) as f64 / i as f64);
        for (a, b) in [
            ([2u64, 30], [7u64, 25]),
            ([40, 3], [38, 9]),
            ([5, 0], [20, 10]),
            ([17, 60], [3, 50]),
        ] {
            let (of_a, of_b, did) = (a[0] + a[1], b[0] + b[1], a[0] + b[0]);
            let p = |x: u64| choose(of_a, x) * choose(of_b, did - x) / choose(of_a + of_b, did);
            let all = did.saturating_sub(of_b)..=did.min(of_a);
            let sum: f64 = all.map(p).filter(|one| *one <= p(a[0]) * (1.0 + 1e-7)).sum();
            near(fisher(a, b).unwrap(), sum);
        }
    }

    #[test]
    fn many_connections_are_no_trouble() {
        let p = fisher([1_000_000, 9_000_000], [1_001_000, 8_999_000]).unwrap();
        // The normal approximation: (1001000 - 1000000 - 1) / sqrt(2e7 * r * (1-r) / 2), r = 0.10005: z ≈ 0.7446 (pooled).
        assert!((p - 0.4565).abs() < 0.01, "{p}");
    }

    #[test]
    fn the_normal_tail_is_that_of_tables() {
        for (z, p) in [
            (0.0, 1.0),
            (1.0, 0.317_310_507_86),
            (1.959_963_984_54, 0.05),
            (2.575_829_303_55, 0.01),
            (3.290_526_731_49, 0.001),
            (6.0, 1.973_175_29e-9),
        ] {
            near(erfc(z / std::f64::consts::SQRT_2), p);
        }
    }

    fn counts(values: &[u16]) -> BTreeMap<u16, u64> {
        let mut counts = BTreeMap::new();
        for value in values {
            *counts.entry(*value).or_default() += 1;
        }
        counts
    }

    /// Against the definition: each value of one with each of the other.
    #[test]
    fn mann_whitney_counts_pairs() {
        let a: Vec<u16> = (0..40).map(|n| 10 + n * 7 % 23).collect();
        let b: Vec<u16> = (0..30).map(|n| 13 + n * 5 % 29).collect();
        let half = |x: &u16, y: &u16| match x.cmp(y) {
            std::cmp::Ordering::Greater => 1.0,
            std::cmp::Ordering::Equal => 0.5,
            std::cmp::Ordering::Less => 0.0,
        };
        let u: f64 = a.iter().flat_map(|x| b.iter().map(move |y| half(x, y))).sum();
        let all: Vec<u16> = a.iter().chain(&b).copied().collect();
        let ties: f64 = counts(&all).values().map(|t| (t * t * t - t) as f64).sum();
        let variance = 40.0 * 30.0 / 12.0 * (71.0 - ties / (70.0 * 69.0));
        let z: f64 = ((u - 600.0).abs() - 0.5) / variance.sqrt();
        near(
            mann_whitney(&counts(&a), &counts(&b)).unwrap(),
            erfc(z / std::f64::consts::SQRT_2),
        );
        near(
            mann_whitney(&counts(&b), &counts(&a)).unwrap(),
            mann_whitney(&counts(&a), &counts(&b)).unwrap(),
        );
    }

    #[test]
    fn nothing_to_compare_shows_nothing() {
        assert_eq!(mann_whitney(&counts(&[1]), &BTreeMap::new()), None);
        assert_eq!(mann_whitney(&counts(&[5; 30]), &counts(&[5; 30])), Some(1.0));
    }

    #[test]
    fn holm_steps_down() {
        assert_eq!(holm(&[0.03, 0.001, 0.02], 0.05), [0.05, 0.05 / 3.0, 0.05 / 2.0]);
        assert_eq!(holm(&[0.04, 0.04, 0.9], 0.05), [0.05 / 3.0, 0.0, 0.0]);
        assert_eq!(holm(&[], 0.05), [] as [f64; 0]);
    }
}
