// SPDX-License-Identifier: GPL-3.0-only
//! IP protocols and ports.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An IP protocol, by its IANA number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Protocol(pub u8);

/// The names people use, with the IANA numbers.
const NAMES: [(&str, Protocol); 5] = [
    ("tcp", Protocol::TCP),
    ("udp", Protocol::UDP),
    ("icmp", Protocol::ICMP),
    ("icmpv6", Protocol::ICMPV6),
    ("sctp", Protocol::SCTP),
];

/// Why a text is not a protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a protocol; write tcp, udp, icmp, icmpv6, sctp or a number from 0 to 255")]
pub struct ProtocolError(pub String);

impl Protocol {
    /// ICMP for IPv4.
    pub const ICMP: Protocol = Protocol(1);
    /// TCP.
    pub const TCP: Protocol = Protocol(6);
    /// UDP.
    pub const UDP: Protocol = Protocol(17);
    /// ICMP for IPv6.
    pub const ICMPV6: Protocol = Protocol(58);
    /// SCTP.
    pub const SCTP: Protocol = Protocol(132);

    /// Whether packets of the protocol carry ports this crate can compare.
    pub fn has_ports(self) -> bool {
        matches!(self, Protocol::TCP | Protocol::UDP | Protocol::SCTP)
    }

    /// The names that [`FromStr`] takes.
    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(name, _)| *name)
    }
}

impl FromStr for Protocol {
    type Err = ProtocolError;

    fn from_str(text: &str) -> Result<Self, ProtocolError> {
        NAMES
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, protocol)| *protocol)
            .or_else(|| text.parse().ok().map(Protocol))
            .ok_or_else(|| ProtocolError(text.to_owned()))
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, protocol)| protocol == self) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// An inclusive range of numbers: of ports or of user ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Range<T> {
    first: T,
    last: T,
}

/// A range of TCP, UDP or SCTP ports, 1 to 65535.
pub type PortRange = Range<u16>;

/// A range of user ids.
pub type UidRange = Range<u32>;

impl<T: Copy + Ord> Range<T> {
    /// The range, or `None` when it ends before it begins.
    pub fn new(first: T, last: T) -> Option<Self> {
        (first <= last).then_some(Range { first, last })
    }

    /// The range of one number.
    pub fn one(number: T) -> Self {
        Range {
            first: number,
            last: number,
        }
    }

    /// The first number of the range.
    pub fn first(&self) -> T {
        self.first
    }

    /// The last number of the range.
    pub fn last(&self) -> T {
        self.last
    }

    /// Whether the number lies in the range.
    pub fn contains(&self, number: T) -> bool {
        self.first <= number && number <= self.last
    }
}

impl<T: fmt::Display + PartialEq> fmt::Display for Range<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            self.first.fmt(f)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl<T: Serialize + fmt::Display + PartialEq> Serialize for Range<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.first == self.last {
            self.first.serialize(serializer)
        } else {
            serializer.collect_str(self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_by_name_and_number() {
        assert_eq!("tcp".parse(), Ok(Protocol::TCP));
        assert_eq!("47".parse(), Ok(Protocol(47)));
        assert_eq!(Protocol(47).to_string(), "47");
        assert_eq!(Protocol::UDP.to_string(), "udp");
        assert!("TCP".parse::<Protocol>().is_err());
        assert!("256".parse::<Protocol>().is_err());
    }

    #[test]
    fn ranges_include_both_ends() {
        let range = Range::new(8000u16, 8010).unwrap();
        assert!(range.contains(8000) && range.contains(8010));
        assert!(!range.contains(7999) && !range.contains(8011));
        assert_eq!(Range::new(2u16, 1), None);
        assert_eq!(range.to_string(), "8000-8010");
        assert_eq!(Range::one(22u16).to_string(), "22");
    }
}
