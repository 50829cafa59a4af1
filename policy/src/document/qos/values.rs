// SPDX-License-Identifier: GPL-3.0-only
//! Rates as tc(8) writes them, and DSCP by name (RFC 2474, 2597, 3246, 5865, 8622).

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::document::values::shorten;

/// A rate in bits per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(u64);

/// Decimal, as tc(8) has them.
const UNITS: [(&str, u64); 4] = [
    ("gbit", 1_000_000_000),
    ("mbit", 1_000_000),
    ("kbit", 1_000),
    ("bit", 1),
];

impl Rate {
    /// The least: 8 kbit/s.
    pub const MIN: Rate = Rate(8_000);
    /// The most: 100 Gbit/s.
    pub const MAX: Rate = Rate(100_000_000_000);

    /// Bits per second.
    pub fn bits(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, size) in UNITS {
            if self.0.is_multiple_of(size) {
                return write!(f, "{}{unit}", self.0 / size);
            }
        }
        Ok(())
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Rate {
    type Err = String;

    /// The text of an error is `what; remedy`.
    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.trim().to_ascii_lowercase();
        let unit = UNITS
            .iter()
            .find_map(|(unit, size)| Some((lower.strip_suffix(unit)?, *size)));
        let bits = unit.and_then(|(number, size)| decimal(number.trim_end(), size));
        let Some(bits) = bits else {
            return Err(format!(
                "`{}` is not a rate; write a number and bit, kbit, mbit or gbit (bits per second), such as 10mbit",
                shorten(text)
            ));
        };
        if !(Rate::MIN.0..=Rate::MAX.0).contains(&bits) {
            return Err(format!(
                "{} is out of range for a rate; use {} to {}",
                shorten(text),
                Rate::MIN,
                Rate::MAX
            ));
        }
        Ok(Rate(bits))
    }
}

/// A number with at most nine decimals, times `size`; of what is smaller than a bit nothing is left.
fn decimal(text: &str, size: u64) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |t: &str| !t.is_empty() && t.len() <= 12 && t.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 9 {
        return None;
    }
    let scale = 10_u64.pow(part.len() as u32);
    let part: u128 = part.parse().ok()?;
    let whole: u128 = whole.parse().ok()?;
    let bits = whole * u128::from(size) + part * u128::from(size) / u128::from(scale);
    u64::try_from(bits).ok()
}

/// A differentiated services code point, 0 to 63.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dscp(u8);

const NAMES: [(&str, u8); 24] = [
    ("cs0", 0),
    ("le", 1),
    ("cs1", 8),
    ("af11", 10),
    ("af12", 12),
    ("af13", 14),
    ("cs2", 16),
    ("af21", 18),
    ("af22", 20),
    ("af23", 22),
    ("cs3", 24),
    ("af31", 26),
    ("af32", 28),
    ("af33", 30),
    ("cs4", 32),
    ("af41", 34),
    ("af42", 36),
    ("af43", 38),
    ("cs5", 40),
    ("va", 44),
    ("ef", 46),
    ("cs6", 48),
    ("cs7", 56),
    ("be", 0),
];

impl Dscp {
    /// 0 to 63.
    pub fn value(self) -> u8 {
        self.0
    }

    /// The words that name one.
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(name, _)| *name)
    }

    /// `None` from 64 on.
    pub(super) fn new(value: i128) -> Option<Self> {
        u8::try_from(value).ok().filter(|v| *v < 64).map(Dscp)
    }

    pub(super) fn named(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        NAMES
            .iter()
            .find(|(name, _)| *name == lower)
            .map(|(_, value)| Dscp(*value))
    }
}

impl fmt::Display for Dscp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, value)| *value == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for Dscp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match NAMES.iter().find(|(_, value)| *value == self.0) {
            Some((name, _)) => serializer.serialize_str(name),
            None => serializer.serialize_u8(self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_they_are_written() {
        for (text, bits) in [
            ("8kbit", 8_000),
            ("1.5mbit", 1_500_000),
            ("10Mbit", 10_000_000),
            ("2 gbit", 2_000_000_000),
            ("12345bit", 12_345),
            ("100gbit", 100_000_000_000),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!(rate.bits(), bits, "{text}");
            assert_eq!(rate.to_string().parse::<Rate>().unwrap(), rate);
        }
        for bad in [
            "",
            "mbit",
            "10",
            "10mb",
            "10mbps",
            "-1mbit",
            "1e3mbit",
            "1..5mbit",
            "1.mbit",
            ".5mbit",
            "7kbit",
            "101gbit",
            "99999999999999999999gbit",
            "0.0000000001gbit",
        ] {
            let error = bad.parse::<Rate>().unwrap_err();
            assert!(error.contains("; "), "{bad}: {error}");
        }
    }

    #[test]
    fn code_points_have_names() {
        for value in 0..64 {
            let dscp = Dscp::new(value).unwrap();
            let text = dscp.to_string();
            assert_eq!(
                Dscp::named(&text).or_else(|| Dscp::new(text.parse().ok()?)),
                Some(dscp)
            );
        }
        assert_eq!(Dscp::named("EF").map(Dscp::value), Some(46));
        assert_eq!(Dscp::new(64), None);
    }
}
