// SPDX-License-Identifier: GPL-3.0-only
//! Times of the week at which a rule holds.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// Minutes of a day.
const DAY: u16 = 24 * 60;
/// Seconds of a day.
const DAY_SECONDS: i64 = 86_400;
/// No place on earth is further from UTC, in minutes.
const MAX_ZONE: i16 = 14 * 60;

/// Hours on some days of the week, at a fixed distance from UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Window {
    /// The days on which it opens.
    #[serde(skip_serializing_if = "Days::is_all")]
    pub days: Days,
    /// From when to when.
    #[serde(skip_serializing_if = "Hours::is_all")]
    pub hours: Hours,
    /// What the two are told in.
    #[serde(skip_serializing_if = "Zone::is_utc")]
    pub zone: Zone,
}

/// Days of the week, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Days(u8);

/// A part of a day that may go on into the next: it has its beginning, and not its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hours {
    /// Minute of the day, below 1440.
    from: u16,
    /// Minute of the day, 1 to 1440; at most `from` where it is of the next day.
    to: u16,
}

/// A distance from UTC, of at most 14 hours. It does not change in summer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Zone {
    minutes: i16,
}

/// Why a text says no days, hours or zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// Not a day, nor two.
    #[error("`{0}` is not a day; write mon, tue, wed, thu, fri, sat, sun, or a range such as mon-fri")]
    Day(String),
    /// Not two times.
    #[error("`{0}` is not a part of a day; write it as 08:00-18:00, or 22:00-06:00 over midnight")]
    Hours(String),
    /// It ends when it begins.
    #[error("`{0}` is no time at all; write 00:00-24:00, or nothing, for the whole day")]
    Empty(String),
    /// Not a distance from UTC.
    #[error("`{0}` is not a zone; write utc, or its distance from UTC such as +02:00")]
    Zone(String),
}

impl Window {
    /// Whether it is open at this time, in seconds since 1970 in UTC.
    pub fn is_open(&self, time: i64) -> bool {
        let local = time.saturating_add(i64::from(self.zone.minutes) * 60);
        let day = local.div_euclid(DAY_SECONDS);
        let minute = local.rem_euclid(DAY_SECONDS) / 60;
        let (from, to) = (i64::from(self.hours.from), i64::from(self.hours.to));
        let opens = |day| self.days.has(weekday(day));
        if from < to {
            opens(day) && from <= minute && minute < to
        } else {
            (opens(day) && from <= minute) || (opens(day - 1) && minute < to)
        }
    }

    /// When it next opens or shuts, after this time; `None` where it always or never does.
    pub fn next_change(&self, time: i64) -> Option<i64> {
        let zone = i64::from(self.zone.minutes) * 60;
        let today = time.saturating_add(zone).div_euclid(DAY_SECONDS);
        let minutes = [self.hours.from, self.hours.to % DAY];
        // Within a week and a day each has come once.
        (0..=8)
            .flat_map(|ahead| minutes.map(|minute| (today + ahead, i64::from(minute))))
            .map(|(day, minute)| day.saturating_mul(DAY_SECONDS) + minute * 60 - zone)
            .filter(|edge| *edge > time && self.is_open(*edge) != self.is_open(*edge - 1))
            .min()
    }
}

/// 0 is Monday. The first day of 1970 was a Thursday.
fn weekday(day: i64) -> u8 {
    // Of seven, so it fits.
    (day + 3).rem_euclid(7) as u8
}

impl Days {
    /// The whole week.
    pub const ALL: Days = Days(0x7f);
    const NAMES: [&'static str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

    fn has(self, day: u8) -> bool {
        self.0 >> day & 1 == 1
    }

    fn is_all(&self) -> bool {
        *self == Days::ALL
    }

    /// All of either.
    pub(crate) fn and(self, other: Days) -> Days {
        Days(self.0 | other.0)
    }

    fn names(self) -> impl Iterator<Item = &'static str> {
        (0..)
            .zip(Days::NAMES)
            .filter_map(move |(i, name)| self.has(i).then_some(name))
    }
}

impl FromStr for Days {
    type Err = WindowError;

    /// A day, or two with a dash between them; `sat-mon` goes over the end of the week.
    fn from_str(text: &str) -> Result<Self, WindowError> {
        let number = |name: &str| (0..7u8).zip(Days::NAMES).find(|(_, n)| *n == name);
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (Some((first, _)), Some((last, _))) = (number(first), number(last)) else {
            return Err(WindowError::Day(text.to_owned()));
        };
        let count = (last + 7 - first) % 7;
        Ok(Days((0..=count).fold(0, |days, i| days | 1 << ((first + i) % 7))))
    }
}

impl Serialize for Days {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

impl Hours {
    /// The whole day.
    pub const ALL: Hours = Hours { from: 0, to: DAY };

    fn is_all(&self) -> bool {
        *self == Hours::ALL
    }
}

impl FromStr for Hours {
    type Err = WindowError;

    fn from_str(text: &str) -> Result<Self, WindowError> {
        let wrong = || WindowError::Hours(text.to_owned());
        let (from, to) = text.split_once('-').ok_or_else(wrong)?;
        let (from, to) = (minute(from).ok_or_else(wrong)?, minute(to).ok_or_else(wrong)?);
        if from == DAY {
            return Err(wrong());
        }
        if from == to {
            return Err(WindowError::Empty(text.to_owned()));
        }
        Ok(Hours {
            from,
            to: if to == 0 { DAY } else { to },
        })
    }
}

/// `HH:MM`, up to 24:00.
fn minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let two = |text: &str| {
        let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u16>().ok()).flatten()
    };
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= DAY).then_some(minute)
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.from, self.to);
        write!(
            f,
            "{:02}:{:02}-{:02}:{:02}",
            from / 60,
            from % 60,
            to / 60,
            to % 60
        )
    }
}

impl Serialize for Hours {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Zone {
    fn is_utc(&self) -> bool {
        self.minutes == 0
    }
}

impl FromStr for Zone {
    type Err = WindowError;

    fn from_str(text: &str) -> Result<Self, WindowError> {
        if matches!(text, "utc" | "UTC" | "Z") {
            return Ok(Zone::default());
        }
        let (sign, rest) = match (text.strip_prefix('+'), text.strip_prefix('-')) {
            (Some(rest), _) => (1, rest),
            (None, Some(rest)) => (-1, rest),
            (None, None) => return Err(WindowError::Zone(text.to_owned())),
        };
        let minutes = minute(rest).and_then(|minutes| i16::try_from(minutes).ok());
        match minutes.filter(|minutes| *minutes <= MAX_ZONE) {
            Some(minutes) => Ok(Zone {
                minutes: sign * minutes,
            }),
            None => Err(WindowError::Zone(text.to_owned())),
        }
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, minutes) = (if self.minutes < 0 { '-' } else { '+' }, self.minutes.abs());
        match minutes {
            0 => f.write_str("utc"),
            minutes => write!(f, "{sign}{:02}:{:02}", minutes / 60, minutes % 60),
        }
    }
}

impl Serialize for Zone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// As a person would say it: `mon tue 08:00-18:00 +02:00`.
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.days.is_all() {
            for name in self.days.names() {
                write!(f, "{name} ")?;
            }
        }
        write!(f, "{} {}", self.hours, self.zone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(days: &str, hours: &str, zone: &str) -> Window {
        Window {
            days: days.parse().unwrap(),
            hours: hours.parse().unwrap(),
            zone: zone.parse().unwrap(),
        }
    }

    /// 2024-01-01, a Monday, in UTC.
    const MONDAY: i64 = 1_704_067_200;
    const HOUR: i64 = 3600;

    #[test]
    fn it_has_its_beginning_and_not_its_end() {
        let office = window("mon-fri", "08:00-18:00", "utc");
        assert!(!office.is_open(MONDAY + 8 * HOUR - 1));
        assert!(office.is_open(MONDAY + 8 * HOUR));
        assert!(office.is_open(MONDAY + 18 * HOUR - 1));
        assert!(!office.is_open(MONDAY + 18 * HOUR));
        assert!(office.is_open(MONDAY + 4 * 24 * HOUR + 9 * HOUR));
        assert!(!office.is_open(MONDAY + 5 * 24 * HOUR + 9 * HOUR));
        let east = window("mon", "08:00-18:00", "+02:00");
        assert!(east.is_open(MONDAY + 6 * HOUR) && !east.is_open(MONDAY + 16 * HOUR));
    }

    #[test]
    fn what_goes_over_midnight_is_of_the_day_it_began() {
        let night = window("fri", "22:00-06:00", "utc");
        let friday = MONDAY + 4 * 24 * HOUR;
        assert!(!night.is_open(friday + HOUR));
        assert!(night.is_open(friday + 23 * HOUR));
        assert!(night.is_open(friday + 29 * HOUR));
        assert!(!night.is_open(friday + 30 * HOUR));
    }

    #[test]
    fn changes_are_those_that_a_walk_by_minutes_finds() {
        let windows = [
            window("mon-fri", "08:00-18:00", "utc"),
            window("sat-mon", "22:00-06:00", "-03:30"),
            window("wed", "00:00-24:00", "+14:00"),
            window("mon-sun", "23:59-00:00", "utc"),
            window("sun", "12:00-11:59", "+05:45"),
        ];
        for window in windows {
            let mut at = MONDAY + 17;
            for _ in 0..20 {
                let next = window.next_change(at).unwrap();
                let first = (at / 60 + 1..).map(|m| m * 60);
                let walked = first
                    .take(9 * 1440)
                    .find(|t| window.is_open(*t) != window.is_open(*t - 60));
                assert_eq!(Some(next), walked, "{window} after {at}");
                at = next;
            }
        }
        assert_eq!(window("mon-sun", "00:00-24:00", "utc").next_change(MONDAY), None);
    }

    #[test]
    fn texts_round_trip_and_wrong_ones_are_told() {
        for text in ["08:00-18:00", "22:00-06:00", "00:00-24:00", "23:00-24:00"] {
            assert_eq!(text.parse::<Hours>().unwrap().to_string(), text);
        }
        for text in ["utc", "+02:00", "-09:30", "+14:00"] {
            assert_eq!(text.parse::<Zone>().unwrap().to_string(), text);
        }
        for text in [
            "8-18",
            "08:00",
            "08:60-09:00",
            "24:01-02:00",
            "24:00-02:00",
            "8:00-9:00",
            "a-b",
        ] {
            assert!(
                matches!(text.parse::<Hours>(), Err(WindowError::Hours(_))),
                "{text}"
            );
        }
        assert!(matches!(
            "08:00-08:00".parse::<Hours>(),
            Err(WindowError::Empty(_))
        ));
        for text in ["cest", "+15:00", "02:00", "+2"] {
            assert!(text.parse::<Zone>().is_err(), "{text}");
        }
        let days = |text: &str| text.parse::<Days>().unwrap().names().collect::<Vec<_>>();
        assert_eq!(days("sat-mon"), ["mon", "sat", "sun"]);
        assert_eq!(days("tue"), ["tue"]);
        assert!("monday".parse::<Days>().is_err());
    }
}
