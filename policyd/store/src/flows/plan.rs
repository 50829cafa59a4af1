// SPDX-License-Identifier: GPL-3.0-only
//! Which buckets answer for a time: the largest that are wholly in it, so that a week is as quickly read as an hour.

/// Seconds of a minute.
pub const MINUTE: u64 = 60;
/// Seconds of an hour.
pub const HOUR: u64 = 60 * MINUTE;
/// Seconds of a day.
pub const DAY: u64 = 24 * HOUR;

/// How long a bucket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grain {
    /// One minute.
    Minute,
    /// One hour.
    Hour,
    /// One day.
    Day,
}

impl Grain {
    /// From the largest on.
    pub const ALL: [Grain; 3] = [Grain::Day, Grain::Hour, Grain::Minute];

    /// Seconds.
    pub fn seconds(self) -> u64 {
        match self {
            Grain::Minute => MINUTE,
            Grain::Hour => HOUR,
            Grain::Day => DAY,
        }
    }

    /// Seconds of the grain that it is added up to. What goes, goes in such pieces: an hour's minutes are all there or none.
    pub fn larger(self) -> u64 {
        match self {
            Grain::Minute => HOUR,
            Grain::Hour | Grain::Day => DAY,
        }
    }

    /// The first byte of its records' keys.
    pub fn byte(self) -> u8 {
        match self {
            Grain::Minute => b'm',
            Grain::Hour => b'h',
            Grain::Day => b'd',
        }
    }
}

/// What is kept in which grain, in seconds since 1970: from where on, and up to where it was added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Minutes: from where on. Up to now.
    pub minutes: u64,
    /// Hours: from and up to where.
    pub hours: (u64, u64),
    /// Days: from and up to where.
    pub days: (u64, u64),
    /// After this there is nothing.
    pub end: u64,
}

impl Kept {
    fn has(&self, grain: Grain, start: u64) -> bool {
        let end = start.saturating_add(grain.seconds());
        match grain {
            Grain::Minute => start >= self.minutes,
            Grain::Hour => start >= self.hours.0 && end <= self.hours.1,
            Grain::Day => start >= self.days.0 && end <= self.days.1,
        }
    }
}

/// A run of buckets: their grain, and from when until when.
pub type Run = (Grain, u64, u64);

/// The runs that answer for a time. Where what was kept in detail is gone, its ends are those of the larger bucket. `fits`: a larger bucket,
/// by when it begins and ends, may stand for the smaller ones in it that are kept.
pub fn runs(kept: &Kept, since: u64, until: u64, fits: impl Fn(u64, u64) -> bool) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let until = until.min(kept.end);
    let mut at = since - since % MINUTE;
    let mut add = |grain: Grain, from: u64, to: u64| match runs.last_mut() {
        Some((last, _, end)) if *last == grain && *end == from => *end = to,
        _ => runs.push((grain, from, to)),
    };
    // Before all that is kept there is nothing to read.
    at = at.max(kept.days.0.min(kept.hours.0).min(kept.minutes));
    while at < until {
        let whole = |grain: &&Grain| {
            let long = grain.seconds();
            at.is_multiple_of(long)
                && at.saturating_add(long) <= until
                && kept.has(**grain, at)
                && fits(at, at.saturating_add(long))
        };
        let around = |grain: &&Grain| kept.has(**grain, at - at % grain.seconds());
        let grain = Grain::ALL
            .iter()
            .find(whole)
            .or_else(|| Grain::ALL.iter().rev().find(around));
        let Some(grain) = grain else {
            at = at.saturating_add(MINUTE);
            continue;
        };
        let start = at - at % grain.seconds();
        let end = start.saturating_add(grain.seconds());
        add(*grain, start, end);
        at = end;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(kept: &Kept, since: u64, until: u64) -> Vec<Run> {
        super::runs(kept, since, until, |_, _| true)
    }

    const NOW: u64 = 1000 * DAY + 3 * HOUR + 20 * MINUTE;

    fn kept() -> Kept {
        Kept {
            minutes: NOW - DAY,
            hours: (990 * DAY, 1000 * DAY + 3 * HOUR),
            days: (600 * DAY, 1000 * DAY),
            end: NOW,
        }
    }

    #[test]
    fn the_last_minutes_are_read_by_the_minute_and_whole_hours_by_the_hour() {
        let runs = runs(&kept(), NOW - 2 * HOUR, NOW);
        assert_eq!(
            runs,
            [
                (Grain::Minute, NOW - 2 * HOUR, 1000 * DAY + 2 * HOUR),
                (Grain::Hour, 1000 * DAY + 2 * HOUR, 1000 * DAY + 3 * HOUR),
                (Grain::Minute, 1000 * DAY + 3 * HOUR, NOW),
            ]
        );
    }

    #[test]
    fn a_week_is_days_with_hours_and_minutes_at_its_ends() {
        let runs = runs(&kept(), NOW - 7 * DAY, NOW);
        assert_eq!(
            runs,
            [
                // Its minutes are gone: the hour around it is told whole.
                (Grain::Hour, 993 * DAY + 3 * HOUR, 994 * DAY),
                (Grain::Day, 994 * DAY, 1000 * DAY),
                (Grain::Hour, 1000 * DAY, 1000 * DAY + 3 * HOUR),
                (Grain::Minute, 1000 * DAY + 3 * HOUR, NOW),
            ]
        );
    }

    #[test]
    fn what_must_be_told_apart_is_read_in_smaller_buckets_as_long_as_they_are_kept() {
        // It changes at half past one each day.
        let edge = |day: u64| day * DAY + HOUR + HOUR / 2;
        let fits =
            |from: u64, to: u64| !(from / DAY..=to / DAY).any(|day| from < edge(day) && edge(day) < to);
        let runs = super::runs(&kept(), NOW - 3 * DAY, NOW, fits);
        assert_eq!(
            runs,
            [
                // That is in hours that have no minutes any more.
                (Grain::Hour, 997 * DAY + 3 * HOUR, 1000 * DAY + HOUR),
                (Grain::Minute, 1000 * DAY + HOUR, 1000 * DAY + 2 * HOUR),
                (Grain::Hour, 1000 * DAY + 2 * HOUR, 1000 * DAY + 3 * HOUR),
                (Grain::Minute, 1000 * DAY + 3 * HOUR, NOW),
            ]
        );
    }

    #[test]
    fn nothing_is_read_twice_and_nothing_left_out() {
        let kept = kept();
        for since in (0..400).map(|n| NOW - n * 977 * MINUTE) {
            for long in [1, 59, 3601, 90_000, 40 * DAY] {
                let runs = runs(&kept, since, (since + long).min(NOW));
                for pair in runs.windows(2) {
                    assert_eq!(pair[0].2, pair[1].1, "{runs:?}");
                }
                if let (Some(first), Some(last)) = (runs.first(), runs.last())
                    && since >= kept.days.0
                {
                    assert!(first.1 <= since && last.2 >= (since + long).min(NOW), "{runs:?}");
                }
            }
        }
        assert_eq!(runs(&kept, 0, 500 * DAY), []);
        assert_eq!(runs(&kept, 0, u64::MAX).last().map(|run| run.2), Some(NOW));
    }
}
