// SPDX-License-Identifier: GPL-3.0-only
//! Times and durations.

const DAY: u64 = 86_400;

/// A point in time, given in nanoseconds since 1970, as `2026-11-24T07:39:00.123Z` (RFC 3339, UTC).
pub fn timestamp(ns: u64) -> String {
    let seconds = ns / 1_000_000_000;
    let (year, month, day) = date(seconds / DAY);
    let of_day = seconds % DAY;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
        ns / 1_000_000 % 1000
    )
}

/// The civil date of a number of days after 1970-01-01, in the Gregorian calendar.
///
/// Counted in years that begin in March, so that the leap day is the last of its year, and in eras of 400
/// years, after which the calendar repeats.
fn date(days: u64) -> (u64, u64, u64) {
    /// Days from 0000-03-01 to 1970-01-01.
    const BEFORE_1970: u64 = 719_468;
    const ERA: u64 = 146_097;
    let days = days + BEFORE_1970;
    let (era, of_era) = (days / ERA, days % ERA);
    // Leap days so far are taken out, so that every year has 365.
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / (ERA - 1)) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    // Five months from March on have 153 days.
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

/// A duration in seconds, in its two largest units, as `3d04h` or `12m07s`.
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..DAY => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / DAY, seconds / 3600 % 24),
    }
}

/// A number of bytes with a binary prefix, as `1.5K`; at most five characters.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["K", "M", "G", "T", "P", "E"];
    if count < 1024 {
        return count.to_string();
    }
    let mut value = count as f64;
    let mut unit = "";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if value < 9.95 {
        format!("{value:.1}{unit}")
    } else {
        format!("{value:.0}{unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(timestamp(951_782_399_999_000_000), "2000-02-28T23:59:59.999Z");
        assert_eq!(timestamp(951_782_400_000_000_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(timestamp(1_078_012_800_000_000_000), "2004-02-29T00:00:00.000Z");
        assert_eq!(timestamp(1_798_675_200_123_456_789), "2026-12-31T00:00:00.123Z");
        assert_eq!(timestamp(4_107_542_400_000_000_000), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut before = date(0);
        for day in 1..200_000 {
            let now = date(day);
            let (year, month, last) = before;
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 => 28 + u64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            let expected = match (last == length, month == 12) {
                (false, _) => (year, month, last + 1),
                (true, false) => (year, month + 1, 1),
                (true, true) => (year + 1, 1, 1),
            };
            assert_eq!(now, expected);
            before = now;
        }
    }

    #[test]
    fn durations_and_bytes() {
        assert_eq!(duration(59), "59s");
        assert_eq!(duration(727), "12m07s");
        assert_eq!(duration(3 * DAY + 4 * 3600), "3d04h");
        assert_eq!(bytes(1023), "1023");
        assert_eq!(bytes(1536), "1.5K");
        assert_eq!(bytes(20 << 20), "20M");
        assert_eq!(bytes(u64::MAX), "16E");
    }
}
