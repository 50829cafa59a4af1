// SPDX-License-Identifier: GPL-3.0-only
//! A locked guest speaks for nobody else. Each frame is put on the wire, and the far end is asked whether it came through.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::net::{IpAddr, Ipv6Addr};

use netback_filter::{DecidedBy, Direction, EventKind, Lock, ScopeConfig};
use support::frame::{SYN, UDP, ethernet, ethertype_of, from_guest, ip, tcp_packet};
use support::wire::Ends;
use support::*;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const OTHER_MAC: [u8; 6] = [0x00, 0x16, 0x3e, 0, 0, 9];

fn locked(lock: Lock) -> ScopeConfig {
    ScopeConfig {
        lock,
        ..ScopeConfig::open()
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The address that follows from [`GUEST_MAC`].
fn link_local() -> IpAddr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0x0216, 0x3eff, 0xfe00, 1).into()
}

fn syn(source: IpAddr) -> Vec<u8> {
    let dest = if source.is_ipv4() { PEER4 } else { PEER6 };
    from_guest(source, &tcp_packet(source, dest, (5000, 80), SYN))
}

fn arp(sender_mac: [u8; 6], sender: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1];
    packet.extend(sender_mac);
    packet.extend(sender);
    packet.extend([0; 6]);
    packet.extend([10, 77, 0, 2]);
    ethernet(GUEST_MAC, PEER_MAC, 0x0806, &packet)
}

/// An ICMPv6 message with four bytes of body before `rest`.
fn icmp6(source: IpAddr, kind: u8, rest: IpAddr) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    if let IpAddr::V6(rest) = rest {
        message.extend(rest.octets());
    }
    let sum = frame::l4_checksum(source, PEER6, ICMPV6, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    from_guest(source, &ip(source, PEER6, ICMPV6, (0, 0), &message))
}

fn udp(source: IpAddr, ports: (u16, u16)) -> Vec<u8> {
    let dest = if source.is_ipv4() { PEER4 } else { PEER6 };
    from_guest(
        source,
        &ip(
            source,
            dest,
            UDP,
            (0, 0),
            &frame::udp(source, dest, ports, b"payload"),
        ),
    )
}

fn mac_forged() -> Vec<(&'static str, Vec<u8>)> {
    let packet = tcp_packet(GUEST4, PEER4, (5000, 80), SYN);
    vec![
        (
            "another's MAC",
            ethernet(OTHER_MAC, PEER_MAC, ethertype_of(GUEST4), &packet),
        ),
        ("another's MAC in ARP", arp(OTHER_MAC, [10, 77, 0, 1])),
        (
            "ARP of another kind",
            ethernet(GUEST_MAC, PEER_MAC, 0x0806, &[0, 6, 8, 0, 8, 4, 0, 1, 0, 0]),
        ),
        (
            "ARP cut short",
            ethernet(GUEST_MAC, PEER_MAC, 0x0806, &[0, 1, 8, 0, 6, 4]),
        ),
    ]
}

fn address_forged() -> Vec<(&'static str, Vec<u8>)> {
    let foreign = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 9).into();
    vec![
        ("another's address", syn(address("10.77.0.9"))),
        ("another's address, v6", syn(foreign)),
        ("no address", syn(address("0.0.0.0"))),
        ("no address, v6", syn(address("::"))),
        ("another's link-local address", syn(address("fe80::1"))),
        ("another's address in ARP", arp(GUEST_MAC, [10, 77, 0, 9])),
        ("DHCP offered", udp(GUEST4, (67, 68))),
        ("DHCPv6 offered", udp(GUEST6, (547, 546))),
        ("router advertisement", icmp6(link_local(), 134, GUEST6)),
        ("redirect, v6", icmp6(link_local(), 137, GUEST6)),
        ("advertisement for another", icmp6(GUEST6, 136, foreign)),
        ("advertisement cut short", icmp6(GUEST6, 136, GUEST4)),
        (
            "redirect",
            from_guest(
                GUEST4,
                &ip(GUEST4, PEER4, ICMP, (0, 0), &[5, 1, 0xfa, 0xfe, 0, 0, 0, 0]),
            ),
        ),
        (
            "a later fragment from another's address",
            from_guest(GUEST4, &ip(address("10.77.0.9"), PEER4, UDP, (7, 100), &[0; 32])),
        ),
        ("tagged", {
            let mut inner = vec![0, 5, 8, 0];
            inner.extend(tcp_packet(address("10.77.0.9"), PEER4, (5000, 80), SYN));
            ethernet(GUEST_MAC, PEER_MAC, 0x8100, &inner)
        }),
        (
            "neither IP nor ARP",
            ethernet(GUEST_MAC, PEER_MAC, 0x88cc, &[0; 40]),
        ),
    ]
}

fn honest() -> Vec<(&'static str, Vec<u8>)> {
    let none4 = address("0.0.0.0");
    let none6 = address("::");
    vec![
        ("own address", syn(GUEST4)),
        ("own address, v6", syn(GUEST6)),
        ("own link-local address", syn(link_local())),
        ("ARP", arp(GUEST_MAC, [10, 77, 0, 1])),
        ("ARP probe", arp(GUEST_MAC, [0; 4])),
        ("DHCP asked", udp(none4, (68, 67))),
        ("DHCPv6 asked", udp(link_local(), (546, 547))),
        ("is this address free?", icmp6(none6, 135, GUEST6)),
        ("who has the peer's?", icmp6(GUEST6, 135, PEER6)),
        ("advertisement", icmp6(GUEST6, 136, GUEST6)),
        (
            "advertisement, link-local",
            icmp6(link_local(), 136, link_local()),
        ),
        ("listeners", icmp6(none6, 143, GUEST4)),
    ]
}

#[test]
fn a_guest_with_a_locked_address_speaks_for_itself_alone() {
    World::run(|world| {
        let mut datapath = world.attach(locked(Lock::Address), vec![]);
        datapath.set_addresses(SCOPE, &[GUEST4, GUEST6]).unwrap();
        let ends = Ends::open(world);
        for (what, frame) in honest() {
            assert!(ends.leaves(&frame), "{what} passes");
        }
        assert_eq!(counters(&datapath, Direction::FromGuest).forged, 0);
        let mut forged = mac_forged();
        forged.extend(address_forged());
        for (what, frame) in &forged {
            assert!(!ends.leaves(frame), "{what} is dropped");
        }
        assert_eq!(
            counters(&datapath, Direction::FromGuest).forged,
            forged.len() as u64
        );
        // What others send to it is no business of its lock.
        let packet = tcp_packet(PEER4, GUEST4, (5000, 22), SYN);
        assert!(ends.arrives(&frame::from_peer(PEER4, &packet)));

        // One report stands for all.
        let events: Vec<_> = datapath.events().unwrap().collect();
        let told: Vec<_> = events
            .iter()
            .filter(|event| event.kind == EventKind::Refused)
            .collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].flow.decided_by, DecidedBy::Lock);

        // An address that is taken away is no longer its own.
        datapath.set_addresses(SCOPE, &[GUEST4]).unwrap();
        assert!(ends.leaves(&syn(GUEST4)));
        assert!(!ends.leaves(&syn(GUEST6)));
    });
}

#[test]
fn a_guest_with_a_locked_mac_may_have_any_address() {
    World::run(|world| {
        let datapath = world.attach(locked(Lock::Mac), vec![]);
        let ends = Ends::open(world);
        for (what, frame) in mac_forged() {
            assert!(!ends.leaves(&frame), "{what} is dropped");
        }
        for (what, frame) in [
            ("another's address", syn(address("10.77.0.9"))),
            ("another's address in ARP", arp(GUEST_MAC, [10, 77, 0, 9])),
            ("router advertisement", icmp6(link_local(), 134, GUEST6)),
        ] {
            assert!(ends.leaves(&frame), "{what} passes");
        }
        assert_eq!(counters(&datapath, Direction::FromGuest).forged, 4);
    });
}

#[test]
fn a_guest_that_is_only_monitored_loses_nothing() {
    World::run(|world| {
        let config = ScopeConfig {
            monitor_only: true,
            ..locked(Lock::Address)
        };
        let datapath = world.attach(config, vec![]);
        let ends = Ends::open(world);
        assert!(ends.leaves(&syn(address("10.77.0.9"))));
        assert_eq!(counters(&datapath, Direction::FromGuest).forged, 1);
    });
}
