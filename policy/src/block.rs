// SPDX-License-Identifier: GPL-3.0-only
//! Blocks of IP addresses (CIDR, RFC 4632 and RFC 4291).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A block of addresses: those that share the first `length` bits of `address`.
///
/// The bits past `length` are zero; a block of one address has the full length and prints without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Block {
    address: IpAddr,
    length: u8,
}

/// Why a text is not a block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The part before the slash is no IP address.
    #[error(
        "`{0}` is not an IP address; write an address such as 192.168.7.9 or a block such as 192.168.7.0/24"
    )]
    Address(String),
    /// The part after the slash is no length, or too long for the family.
    #[error("`{length}` is not a prefix length; write a number from 0 to {max}")]
    Length {
        /// What stood after the slash.
        length: String,
        /// The number of bits of the family: 32 or 128.
        max: u8,
    },
    /// Bits past the length are set: was one host meant, or its network?
    #[error(
        "`{text}` has bits set past its length; write {network} for the block or {host} for the one address"
    )]
    HostBits {
        /// The text as written.
        text: String,
        /// The block that holds the address.
        network: Block,
        /// The address alone.
        host: IpAddr,
    },
}

impl Block {
    /// The block of this length that holds the address; a length past the family's is taken as the whole address.
    pub fn new(address: IpAddr, length: u8) -> Block {
        let length = length.min(Block::full_length(address));
        Block {
            address: Block::masked(address, length),
            length,
        }
    }

    /// The last address of the block.
    pub fn last(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(a) => IpAddr::V4((a.to_bits() | !mask32(self.length)).into()),
            IpAddr::V6(a) => IpAddr::V6((a.to_bits() | !mask128(self.length)).into()),
        }
    }

    /// The first address of the block.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many leading bits are shared: 0 to 32 for IPv4, to 128 for IPv6.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether the address lies in the block. Families never mix: a caller who holds an IPv4-mapped
    /// IPv6 address makes it IPv4 first ([`IpAddr::to_canonical`]).
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(mine), IpAddr::V4(theirs)) => {
                (mine.to_bits() ^ theirs.to_bits()) & mask32(self.length) == 0
            }
            (IpAddr::V6(mine), IpAddr::V6(theirs)) => {
                (mine.to_bits() ^ theirs.to_bits()) & mask128(self.length) == 0
            }
            _ => false,
        }
    }

    fn full_length(address: IpAddr) -> u8 {
        if address.is_ipv4() { 32 } else { 128 }
    }

    fn masked(address: IpAddr, length: u8) -> IpAddr {
        match address {
            IpAddr::V4(a) => IpAddr::V4((a.to_bits() & mask32(length)).into()),
            IpAddr::V6(a) => IpAddr::V6((a.to_bits() & mask128(length)).into()),
        }
    }
}

fn mask32(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

fn mask128(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

impl FromStr for Block {
    type Err = BlockError;

    fn from_str(text: &str) -> Result<Self, BlockError> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address
            .parse()
            .map_err(|_| BlockError::Address(address.to_owned()))?;
        let max = Block::full_length(address);
        let length = match length {
            None => max,
            Some(text) => text
                .parse::<u8>()
                .ok()
                // `parse` takes a sign; a prefix length has none.
                .filter(|n| *n <= max && text.bytes().all(|b| b.is_ascii_digit()))
                .ok_or_else(|| BlockError::Length {
                    length: text.to_owned(),
                    max,
                })?,
        };
        let network = Block::masked(address, length);
        if network != address {
            return Err(BlockError::HostBits {
                text: text.to_owned(),
                network: Block {
                    address: network,
                    length,
                },
                host: address,
            });
        }
        // Flows are compared in canonical form, so a mapped block must be too or it would match nothing.
        match (address, length) {
            (IpAddr::V6(v6), 96..) if v6.to_ipv4_mapped().is_some() => Ok(Block {
                address: address.to_canonical(),
                length: length - 96,
            }),
            _ => Ok(Block { address, length }),
        }
    }
}

impl From<IpAddr> for Block {
    fn from(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Block {
            address,
            length: Block::full_length(address),
        }
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.length == Block::full_length(self.address) {
            self.address.fmt(f)
        } else {
            write!(f, "{}/{}", self.address, self.length)
        }
    }
}

impl Serialize for Block {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Block {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> Block {
        text.parse().unwrap()
    }

    #[test]
    fn contains_by_prefix() {
        assert!(block("192.168.7.0/24").contains("192.168.7.255".parse().unwrap()));
        assert!(!block("192.168.7.0/24").contains("192.168.8.0".parse().unwrap()));
        assert!(block("0.0.0.0/0").contains("203.0.113.9".parse().unwrap()));
        assert!(!block("0.0.0.0/0").contains("::1".parse().unwrap()));
        assert!(block("::/0").contains("2001:db8::1".parse().unwrap()));
        assert!(block("2001:db8::/33").contains("2001:db8:7fff::1".parse().unwrap()));
        assert!(!block("2001:db8::/33").contains("2001:db8:8000::1".parse().unwrap()));
        assert!(block("10.0.0.1").contains("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn mapped_blocks_are_kept_as_ipv4() {
        assert_eq!(block("::ffff:10.0.0.0/104"), block("10.0.0.0/8"));
        assert_eq!(block("::ffff:10.0.0.1"), block("10.0.0.1"));
    }

    #[test]
    fn prints_as_written() {
        for text in ["10.0.0.0/8", "10.0.0.1", "::/0", "2001:db8::1"] {
            assert_eq!(block(text).to_string(), text);
        }
    }

    #[test]
    fn errors_name_the_remedy() {
        let error = |text: &str| text.parse::<Block>().unwrap_err().to_string();
        assert!(error("192.168.7.9/24").contains("write 192.168.7.0/24 for the block or 192.168.7.9"));
        assert!(error("10.0.0.0/33").contains("from 0 to 32"));
        assert!(error("10.0.0.0/+8").contains("`+8` is not a prefix length"));
        assert!(error("10.0.0.0/").contains("`` is not a prefix length"));
        assert!(error("db1").contains("`db1` is not an IP address"));
    }
}
