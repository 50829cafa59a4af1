// SPDX-License-Identifier: GPL-3.0-only
//! How the kernel spreads sockets over its tables. Pure.
//!
//! The functions are the kernel's (include/linux/jhash.h, which is Bob Jenkins'
//! lookup3; net/ipv4/inet_hashtables.c, net/ipv6/inet6_hashtables.c,
//! include/net/ip.h and ipv6.h, include/linux/udp.h). They change between
//! versions, so none is believed before sockets that lie in a table have proved
//! it ([`lookup`](super::lookup)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const JHASH_INITVAL: u32 = 0xdead_beef;

/// Both ends of a connection, and what the namespace mixes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ends {
    /// `hash_mix` of the network namespace.
    pub mix: u32,
    /// Local address and port; v4-mapped counts as IPv4.
    pub local: (IpAddr, u16),
    /// The peer's.
    pub remote: (IpAddr, u16),
}

/// How the local port takes part in the hash of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PortRule {
    /// Hashed with everything else: to 6.14.
    Hashed,
    /// Added at last, so that ports next to each other have buckets next to
    /// each other: from 6.15 on.
    Added,
}

/// How the peer's IPv6 address takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AddressRule {
    /// Its first two words count as one: to 6.4, and not in later releases of
    /// older series either, since it invites collisions (CVE-2023-1206).
    Folded,
    /// All of it.
    Whole,
}

/// How IPv4 connections are hashed, with the secret that the kernel made at
/// random when it first needed one (`inet_ehash_secret`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule4 {
    pub port: PortRule,
    pub secret: u32,
}

/// How IPv6 connections are hashed, with the secrets for the connection
/// (`inet6_ehash_secret`) and for the peer's address (`ipv6_hash_secret`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule6 {
    pub port: PortRule,
    pub address: AddressRule,
    pub secret: u32,
    pub address_secret: u32,
}

impl Rule4 {
    /// `skc_hash` of a connection, whose low bits number its bucket. None for
    /// IPv6.
    pub fn hash(&self, ends: &Ends) -> Option<u32> {
        let (IpAddr::V4(local), IpAddr::V4(remote)) = (ends.local.0, ends.remote.0) else {
            return None;
        };
        let (ports, added) = self.port.ports(ends);
        let seed = self.secret.wrapping_add(ends.mix);
        Some(jhash_3words(word(local), word(remote), ports, seed).wrapping_add(added))
    }
}

impl Rule6 {
    /// As [`Rule4::hash`]; None for IPv4.
    pub fn hash(&self, ends: &Ends) -> Option<u32> {
        let (IpAddr::V6(local), IpAddr::V6(remote)) = (ends.local.0, ends.remote.0) else {
            return None;
        };
        let (ports, added) = self.port.ports(ends);
        let seed = self.secret.wrapping_add(ends.mix);
        let remote = match (self.address, words(remote)) {
            (AddressRule::Folded, [a, b, c, d]) => jhash_3words(a ^ b, c, d, self.address_secret),
            (AddressRule::Whole, words) => jhash_4words(words, self.address_secret),
        };
        Some(jhash_3words(words(local)[3], remote, ports, seed).wrapping_add(added))
    }
}

impl PortRule {
    /// Both ports as they are hashed, and what is added to the hash.
    fn ports(self, ends: &Ends) -> (u32, u32) {
        let local = u32::from(ends.local.1);
        // The kernel hashes the peer's port as it came off the wire.
        let remote = u32::from(ends.remote.1.to_be());
        match self {
            Self::Hashed => (local << 16 | remote, 0),
            Self::Added => (remote, local),
        }
    }
}

/// Number of a listener's bucket in `lhash2`, before the table's mask.
pub(super) fn listener(mix: u32, address: IpAddr, port: u16) -> u32 {
    let hash = match address {
        // The unspecified address of either family hashes alike.
        IpAddr::V4(address) => jhash_1word(word(address), mix),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => jhash_1word(0, mix),
        IpAddr::V6(address) => jhash_4words(words(address), mix),
    };
    hash ^ u32::from(port)
}

/// Number of a UDP socket's bucket, before the table's mask.
pub(super) fn udp_port(mix: u32, port: u16) -> u32 {
    u32::from(port).wrapping_add(mix)
}

/// An address as the CPU reads it from a packet.
fn word(address: Ipv4Addr) -> u32 {
    u32::from_le_bytes(address.octets())
}

fn words(address: Ipv6Addr) -> [u32; 4] {
    let octets = address.octets();
    [0, 4, 8, 12].map(|at| u32::from_le_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]))
}

fn seed(seed: u32, words: u32) -> u32 {
    JHASH_INITVAL.wrapping_add(words << 2).wrapping_add(seed)
}

fn jhash_3words(a: u32, b: u32, c: u32, initial: u32) -> u32 {
    let seed = seed(initial, 3);
    finish([a.wrapping_add(seed), b.wrapping_add(seed), c.wrapping_add(seed)])
}

fn jhash_1word(a: u32, initial: u32) -> u32 {
    let seed = seed(initial, 1);
    finish([a.wrapping_add(seed), seed, seed])
}

fn jhash_4words(words: [u32; 4], initial: u32) -> u32 {
    let seed = seed(initial, 4);
    let mut state = [
        words[0].wrapping_add(seed),
        words[1].wrapping_add(seed),
        words[2].wrapping_add(seed),
    ];
    mix(&mut state);
    state[0] = state[0].wrapping_add(words[3]);
    finish(state)
}

fn mix(state: &mut [u32; 3]) {
    let [mut a, mut b, mut c] = *state;
    for (x, y, z) in [(4, 6, 8), (16, 19, 4)] {
        a = a.wrapping_sub(c) ^ c.rotate_left(x);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(y);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(z);
        b = b.wrapping_add(a);
    }
    *state = [a, b, c];
}

fn finish([mut a, mut b, mut c]: [u32; 3]) -> u32 {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(mix: u32, local: &str, remote: &str) -> Ends {
        let part = |text: &str| {
            let address: std::net::SocketAddr = text.parse().unwrap();
            (address.ip(), address.port())
        };
        Ends {
            mix,
            local: part(local),
            remote: part(remote),
        }
    }

    /// Values that a 6.1 kernel had, secrets and all.
    #[test]
    fn connections_of_a_real_kernel() {
        let mix = 0x54f8_6156;
        let rule = Rule4 {
            port: PortRule::Hashed,
            secret: 0xb709_d82e,
        };
        for (local, remote, hash) in [
            ("127.0.0.1:7001", "127.0.0.1:50200", 0x629a_3f8e),
            ("10.9.0.1:7040", "10.9.0.200:4444", 0xd188_865f),
        ] {
            assert_eq!(rule.hash(&ends(mix, local, remote)), Some(hash), "{local}");
        }
        let rule = Rule6 {
            port: PortRule::Hashed,
            address: AddressRule::Whole,
            secret: 0xd1c4_29e1,
            address_secret: 0xb123_1dcd,
        };
        for (local, remote, hash) in [
            ("[::1]:7010", "[::1]:53830", 0x77ed_e407),
            ("[::1]:41200", "[::1]:7003", 0x9c4e_17cc),
        ] {
            assert_eq!(rule.hash(&ends(mix, local, remote)), Some(hash), "{local}");
        }
    }

    #[test]
    fn an_added_port_moves_to_the_next_bucket() {
        let rule = Rule4 {
            port: PortRule::Added,
            secret: 1,
        };
        let hash = |local: &str| rule.hash(&ends(5, local, "10.0.0.2:5000")).unwrap();
        assert_eq!(hash("10.0.0.1:81"), hash("10.0.0.1:80") + 1);
        assert_eq!(rule.hash(&ends(5, "10.0.0.1:80", "[fd00::2]:5000")), None);
    }

    #[test]
    fn the_unspecified_address_of_either_family_is_one() {
        let any4 = listener(7, Ipv4Addr::UNSPECIFIED.into(), 80);
        assert_eq!(any4, listener(7, Ipv6Addr::UNSPECIFIED.into(), 80));
        assert_ne!(any4, listener(8, Ipv4Addr::UNSPECIFIED.into(), 80));
        assert_eq!(any4 ^ 80, listener(7, Ipv4Addr::UNSPECIFIED.into(), 0));
        assert_eq!(udp_port(u32::MAX, 54), 53);
    }
}
