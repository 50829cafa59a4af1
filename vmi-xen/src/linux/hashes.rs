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

/// Secrets that the kernel made at random when it first needed them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Secrets {
    /// `inet_ehash_secret`.
    pub ehash: u32,
    /// `inet6_ehash_secret`.
    pub ehash6: u32,
    /// `ipv6_hash_secret`, later `tcp_ipv6_hash_secret`.
    pub address6: u32,
}

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

/// Number of a connection's bucket, before the table's mask. None for ends of
/// different families.
pub(super) fn connection(rule: PortRule, secrets: &Secrets, ends: &Ends) -> Option<u32> {
    let local_port = u32::from(ends.local.1);
    // The kernel hashes the peer's port as it came off the wire.
    let remote_port = u32::from(ends.remote.1.to_be());
    let (hashed, added) = match rule {
        PortRule::Hashed => (local_port, 0),
        PortRule::Added => (0, local_port),
    };
    let ports = hashed << 16 | remote_port;
    let hash = match (ends.local.0, ends.remote.0) {
        (IpAddr::V4(local), IpAddr::V4(remote)) => {
            let seed = secrets.ehash.wrapping_add(ends.mix);
            jhash_3words(word(local), word(remote), ports, seed)
        }
        (IpAddr::V6(local), IpAddr::V6(remote)) => {
            let seed = secrets.ehash6.wrapping_add(ends.mix);
            let [a, b, c, d] = words(remote);
            let remote = jhash_3words(a ^ b, c, d, secrets.address6);
            jhash_3words(words(local)[3], remote, ports, seed)
        }
        _ => return None,
    };
    Some(hash.wrapping_add(added))
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
    [0, 4, 8, 12].map(|at| {
        u32::from_le_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
    })
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

    fn ends(local: &str, remote: &str) -> Ends {
        let part = |text: &str| {
            let address: std::net::SocketAddr = text.parse().unwrap();
            (address.ip(), address.port())
        };
        Ends {
            mix: 5,
            local: part(local),
            remote: part(remote),
        }
    }

    /// What each part is for; the values themselves are proved on dumps.
    #[test]
    fn every_part_counts_where_it_should() {
        let secrets = Secrets {
            ehash: 1,
            ehash6: 2,
            address6: 3,
        };
        let hash = |rule, local: &str, remote: &str| connection(rule, &secrets, &ends(local, remote)).unwrap();
        for (near, next, far) in [
            ("10.0.0.1:80", "10.0.0.1:81", "10.0.0.2:5000"),
            ("[fd00::1]:80", "[fd00::1]:81", "[fd00::2]:5000"),
        ] {
            let added = hash(PortRule::Added, near, far);
            assert_eq!(hash(PortRule::Added, next, far), added + 1);
            assert_ne!(hash(PortRule::Hashed, near, far), added);
            assert_ne!(hash(PortRule::Hashed, far, near), hash(PortRule::Hashed, near, far));
        }
        let mixed = ends("10.0.0.1:80", "[fd00::2]:5000");
        assert_eq!(connection(PortRule::Added, &secrets, &mixed), None);
        let any4 = listener(7, Ipv4Addr::UNSPECIFIED.into(), 80);
        assert_eq!(any4, listener(7, Ipv6Addr::UNSPECIFIED.into(), 80));
        assert_ne!(any4, listener(8, Ipv4Addr::UNSPECIFIED.into(), 80));
        assert_eq!(any4 ^ 80, listener(7, Ipv4Addr::UNSPECIFIED.into(), 0));
        assert_eq!(udp_port(u32::MAX, 54), 53);
    }
}
