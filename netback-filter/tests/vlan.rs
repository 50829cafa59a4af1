// SPDX-License-Identifier: GPL-3.0-only
//! Tagged frames: what is behind a tag is judged as if there were none, and flows of different VLANs are different flows.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::net::IpAddr;
use std::time::Duration;

use netback_filter::{
    Action, Datapath, Direction, FlowKey, Lock, Protocol, Refuse, ScopeConfig, Tagged, Vlan,
};
use support::frame::{
    ACK, CTAG, RST, STAG, SYN, TCP, UDP, ethernet, from_guest, from_peer, tagged, tcp_packet as tcp,
};
use support::site::{self, PORT, SITES, to_service};
use support::wire::Ends;
use support::*;

const MORE: u16 = 0x2000;

fn udp(source: IpAddr, dest: IpAddr, ports: (u16, u16), fragment: (u16, u16)) -> Vec<u8> {
    let datagram = frame::udp(source, dest, ports, b"payload.");
    frame::ip(source, dest, UDP, fragment, &datagram)
}

fn deny_tcp(port: u16) -> netback_filter::Rule {
    rule(9, Direction::FromGuest, Protocol::TCP, Some(port), RESET)
}

fn vlan(outer: u16, inner: u16) -> Vlan {
    Vlan { outer, inner }
}

/// A frame in every way in which it may be tagged.
fn in_vlans(frame: &[u8]) -> [(&'static str, Vec<u8>); 5] {
    [
        ("802.1Q", tagged(frame, CTAG, 5)),
        ("with a priority", tagged(frame, CTAG, 0x6005)),
        ("a priority alone", tagged(frame, CTAG, 0x6000)),
        ("802.1ad", tagged(frame, STAG, 5)),
        ("two tags", tagged(&tagged(frame, CTAG, 7), STAG, 5)),
    ]
}

#[test]
fn a_tag_takes_a_frame_past_no_rule() {
    World::run(|world| {
        let datapath = world.attach(ScopeConfig::open(), vec![deny_tcp(22)]);
        let ends = Ends::open(world);
        for (guest, peer) in FAMILIES {
            let frame = |port| from_guest(guest, &tcp(guest, peer, (5000, port), SYN));
            for (what, frame) in in_vlans(&frame(22)) {
                assert!(!ends.leaves(&frame), "{guest}: {what}: denied");
            }
            for (what, frame) in in_vlans(&frame(80)) {
                assert!(ends.leaves(&frame), "{guest}: {what}: allowed");
            }
            // Behind a third tag nobody looks.
            let deep = in_vlans(&frame(80))[4].1.clone();
            assert!(!ends.leaves(&tagged(&deep, STAG, 3)));
        }
        let counted = counters(&datapath, Direction::FromGuest);
        assert_eq!((counted.denied, counted.unknown_l3), (12, 2));
        // Both VIDs tell flows apart, priorities do not.
        let flows = datapath.flows(None).map(Result::unwrap);
        let mut vlans: Vec<String> = flows
            .filter(|flow| flow.key.local.ip() == GUEST4)
            .map(|flow| flow.key.vlan.to_string())
            .collect();
        vlans.sort();
        assert_eq!(vlans, ["0", "5", "5.7"]);
    });
}

#[test]
fn what_may_pass_by_default_does_not_where_all_is_denied() {
    World::run(|world| {
        let _datapath = world.attach(no_adoption(), vec![allow_tcp(1, 80)]);
        let ends = Ends::open(world);
        for (guest, peer) in FAMILIES {
            let out = |port, flags| from_guest(guest, &tcp(guest, peer, (5000, port), flags));
            let back = from_peer(guest, &tcp(peer, guest, (80, 5000), SYN | ACK));
            for (what, frame) in in_vlans(&out(81, SYN)) {
                assert!(!ends.leaves(&frame), "{guest}: {what}");
            }
            for (what, frame) in in_vlans(&back) {
                assert!(!ends.arrives(&frame), "{guest}: {what}: before");
            }
            // In VLAN 5.7 alone: the answer passes there alone.
            let in_5_7 = |frame: &[u8]| tagged(&tagged(frame, CTAG, 7), STAG, 5);
            assert!(ends.leaves(&in_5_7(&out(80, SYN))));
            assert!(ends.arrives(&in_5_7(&back)));
            for other in [
                back.clone(),
                tagged(&back, STAG, 5),
                tagged(&back, CTAG, 7),
                tagged(&tagged(&back, CTAG, 8), STAG, 5),
                tagged(&tagged(&back, CTAG, 5), STAG, 7),
                tagged(&tagged(&back, CTAG, 7), STAG, 0x105),
            ] {
                assert!(!ends.arrives(&other), "another VLAN is another flow");
            }
        }
    });
}

#[test]
fn the_setting_says_what_becomes_of_tagged_frames() {
    World::run(|world| {
        let mut datapath = world.attach(ScopeConfig::open(), vec![deny_tcp(22)]);
        let ends = Ends::open(world);
        let frame = |port| from_guest(GUEST4, &tcp(GUEST4, PEER4, (5000, port), SYN));
        for (setting, denied, allowed) in [
            (Tagged::Judge, false, true),
            (Tagged::Allow, true, true),
            (Tagged::Deny, false, false),
        ] {
            let config = ScopeConfig {
                tagged: setting,
                ..ScopeConfig::open()
            };
            datapath.set_scope(SCOPE, config).unwrap();
            for ((what, denied_one), (_, allowed_one)) in
                in_vlans(&frame(22)).into_iter().zip(in_vlans(&frame(80)))
            {
                assert_eq!(ends.leaves(&denied_one), denied, "{setting:?}: {what}");
                assert_eq!(ends.leaves(&allowed_one), allowed, "{setting:?}: {what}");
            }
            assert!(ends.leaves(&frame(80)), "what has no tag is not asked");
            let back = from_peer(GUEST4, &tcp(PEER4, GUEST4, (5001, 23), SYN));
            assert_eq!(ends.arrives(&tagged(&back, CTAG, 5)), allowed);
        }
    });
}

/// A socket does not tell its VLAN, so a verdict on its flow is found in any.
#[test]
fn a_verdict_holds_in_any_vlan() {
    World::run(|world| {
        let datapath = world.attach(no_adoption(), vec![]);
        let ends = Ends::open(world);
        let writer = datapath.flow_writer();
        for (guest, peer) in FAMILIES {
            let key = tcp_key((guest, 5000).into(), (peer, 80).into());
            let out = |flags| tagged(&from_guest(guest, &tcp(guest, peer, (5000, 80), flags)), CTAG, 5);
            let back = |flags| tagged(&from_peer(guest, &tcp(peer, guest, (80, 5000), flags)), CTAG, 5);
            assert!(!ends.leaves(&out(SYN)));
            writer.set(&key, verdict(Action::Allow, 3)).unwrap();
            assert!(ends.leaves(&out(SYN)));
            assert!(ends.arrives(&back(SYN | ACK)));
            let record = datapath
                .flows(None)
                .map(Result::unwrap)
                .find(|flow| flow.key == key);
            assert_eq!(record.expect("one record, without a VLAN").packets, [1, 1]);
            // Another verdict is in force at once, by whichever name it is written.
            let named = FlowKey {
                vlan: vlan(5, 0),
                ..key
            };
            writer.revise(&named, verdict(DROP, 4)).unwrap();
            assert!(!ends.leaves(&out(ACK)));
            writer.revise(&key, verdict(Action::Allow, 5)).unwrap();
            assert!(ends.leaves(&out(ACK)));
            assert!(writer.remove(&named).unwrap());
            assert!(!ends.leaves(&out(ACK)));
            // One on a flow that had begun is of that flow alone.
            writer.settle(&named, verdict(Action::Allow, 6)).unwrap();
            assert!(ends.leaves(&out(ACK)));
            assert!(!ends.leaves(&from_guest(guest, &tcp(guest, peer, (5000, 80), ACK))));
        }
    });
}

#[test]
fn a_refusal_bears_the_tags_of_what_it_answers() {
    World::run(|world| {
        let denied = |port, action| rule(1, Direction::FromGuest, Protocol::TCP, Some(port), action);
        let prohibit = Action::Deny(Refuse::Prohibited);
        let _datapath = world.attach(no_adoption(), vec![denied(80, RESET), denied(81, prohibit)]);
        let ends = Ends::open(world);
        for ((guest, peer), port) in FAMILIES.into_iter().flat_map(|ends| [(ends, 80), (ends, 81)]) {
            for (what, frame) in in_vlans(&from_guest(guest, &tcp(guest, peer, (5000, port), SYN))) {
                let at = frame.len() - tcp(guest, peer, (5000, port), SYN).len();
                ends.guest.send(&frame);
                let is_reset = |f: &[u8]| {
                    f.get(..12) == Some(&[GUEST_MAC, PEER_MAC].concat()[..])
                        && f.get(12..at) == Some(&frame[12..at])
                        && {
                            let l4 = at + if guest.is_ipv4() { 20 } else { 40 };
                            f.get(l4 + 13).is_some_and(|flags| flags & RST != 0)
                                && frame::l4_checksum(peer, guest, TCP, &f[l4..]) == 0
                        }
                };
                // ICMP is for userspace to send, where there is no VLAN.
                let is_answered = port == 80 || what != "a priority alone";
                assert_eq!(
                    ends.guest.sees(Duration::from_millis(300), is_reset),
                    is_answered,
                    "{guest}: {what}: {port}"
                );
            }
        }
    });
}

#[test]
fn later_fragments_follow_the_first_in_its_vlan() {
    World::run(|world| {
        let allow = rule(2, Direction::FromGuest, Protocol::UDP, Some(53), Action::Allow);
        let datapath = world.attach(no_adoption(), vec![allow]);
        let ends = Ends::open(world);
        let mut first = udp(GUEST4, PEER4, (5000, 53), (1, MORE));
        first[24] = 1; // its length is that of the whole datagram
        let first = from_guest(GUEST4, &first);
        let later = from_guest(
            GUEST4,
            &frame::ip(GUEST4, PEER4, UDP, (1, 2), b"the later fragment"),
        );
        assert!(ends.leaves(&tagged(&first, CTAG, 5)));
        assert!(!ends.leaves(&later));
        assert!(!ends.leaves(&tagged(&later, CTAG, 6)));
        assert!(!ends.leaves(&tagged(&tagged(&later, CTAG, 1), STAG, 5)));
        assert!(ends.leaves(&tagged(&later, CTAG, 5)));
        // Of a flow with a verdict likewise, whose key has no VLAN.
        let key = FlowKey {
            protocol: Protocol::UDP,
            ..tcp_key((GUEST4, 5000).into(), (PEER4, 54).into())
        };
        datapath
            .flow_writer()
            .set(&key, verdict(Action::Allow, 3))
            .unwrap();
        let mut first = udp(GUEST4, PEER4, (5000, 54), (9, MORE));
        first[24] = 1;
        let later = from_guest(
            GUEST4,
            &frame::ip(GUEST4, PEER4, UDP, (9, 2), b"the later fragment"),
        );
        assert!(ends.leaves(&tagged(&from_guest(GUEST4, &first), CTAG, 5)));
        assert!(ends.leaves(&tagged(&later, CTAG, 5)));
        assert!(!ends.leaves(&later));
    });
}

fn error_about(guest: IpAddr, peer: IpAddr, datagram: &[u8]) -> Vec<u8> {
    let (kind, proto) = if guest.is_ipv4() { (3, 1) } else { (1, 58) };
    let mut message = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], datagram].concat();
    let sum = match guest {
        IpAddr::V4(_) => frame::checksum(&[&message]),
        IpAddr::V6(_) => frame::l4_checksum(peer, guest, proto, &message),
    };
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    from_peer(guest, &frame::ip(peer, guest, proto, (0, 0), &message))
}

#[test]
fn errors_follow_their_flow_in_its_vlan() {
    World::run(|world| {
        let allow = rule(2, Direction::FromGuest, Protocol::UDP, Some(53), Action::Allow);
        let datapath = world.attach(no_adoption(), vec![allow]);
        let ends = Ends::open(world);
        for (guest, peer) in FAMILIES {
            let datagram = udp(guest, peer, (5000, 53), (0, 0));
            assert!(ends.leaves(&tagged(&from_guest(guest, &datagram), CTAG, 5)));
            let error = error_about(guest, peer, &datagram);
            assert!(!ends.arrives(&error), "{guest}");
            assert!(ends.arrives(&tagged(&error, CTAG, 5)), "{guest}");

            let by_verdict = FlowKey {
                protocol: Protocol::UDP,
                ..tcp_key((guest, 5000).into(), (peer, 54).into())
            };
            datapath
                .flow_writer()
                .set(&by_verdict, verdict(Action::Allow, 3))
                .unwrap();
            let error = error_about(guest, peer, &udp(guest, peer, (5000, 54), (0, 0)));
            assert!(ends.arrives(&tagged(&error, CTAG, 5)), "{guest}: by verdict");
        }
    });
}

fn arp(sender_mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1];
    packet.extend(sender_mac);
    packet.extend(sender);
    packet.extend([0; 6]);
    packet.extend(target);
    ethernet(GUEST_MAC, PEER_MAC, 0x0806, &packet)
}

/// Services are not for tagged frames: what is for them goes neither to a backend nor to an address that nobody has.
#[test]
fn a_tagged_flow_to_a_service_is_refused() {
    World::run(|world| {
        let datapath = site::open(world, &[0, 1]);
        let ends = Ends::open(world);
        let mut refused = 0;
        for (guest, _, vip) in SITES {
            // A flow that has a backend leaves no way for tagged ones of its name.
            assert!(!ends.leaves(&to_service(guest, &tcp(guest, vip, (5000, PORT), SYN))));
            for packet in [
                tcp(guest, vip, (5000, PORT), SYN),
                tcp(guest, vip, (5001, PORT), SYN),
                udp(guest, vip, (5000, PORT), (0, 0)),
            ] {
                // To any MAC address: also one that would carry it away.
                for frame in [to_service(guest, &packet), from_guest(guest, &packet)] {
                    for (what, frame) in in_vlans(&frame)
                        .into_iter()
                        .filter(|(what, _)| !what.contains("alone"))
                    {
                        ends.guest.send(&frame);
                        let l4 = &packet[if guest.is_ipv4() { 20 } else { 40 }..][..2];
                        let leaked = ends.peer.sees(Duration::from_millis(50), |f| {
                            f.windows(2).any(|bytes| bytes == l4) && f[6..12] == GUEST_MAC
                        });
                        assert!(!leaked, "{guest}: {what}");
                        refused += 1;
                    }
                }
            }
        }
        assert_eq!(counters(&datapath, Direction::FromGuest).unserved, refused);
        // Nor is asked after it answered.
        let question = arp(GUEST_MAC, [10, 77, 0, 1], [10, 77, 0, 100]);
        let is_reply = |f: &[u8]| f.windows(10).any(|w| w == [8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
        ends.guest.send(&question);
        assert!(ends.guest.sees(Duration::from_millis(300), is_reply));
        ends.guest.send(&tagged(&question, CTAG, 5));
        assert!(!ends.guest.sees(Duration::from_millis(100), is_reply));
    });
}

fn locked(world: &World, lock: Lock, tagged: Tagged) -> Datapath {
    let scope = ScopeConfig {
        lock,
        tagged,
        ..ScopeConfig::open()
    };
    let mut datapath = world.attach(scope, vec![]);
    datapath.set_addresses(SCOPE, &[GUEST4, GUEST6]).unwrap();
    datapath
}

#[test]
fn a_tag_opens_no_lock() {
    let other: IpAddr = "10.77.0.9".parse().unwrap();
    let other_mac = [0x00, 0x16, 0x3e, 0, 0, 9];
    let icmp6 = |kind: u8| {
        let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
        message.extend([0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
        let sum = frame::l4_checksum(GUEST6, PEER6, 58, &message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        from_guest(GUEST6, &frame::ip(GUEST6, PEER6, 58, (0, 0), &message))
    };
    let syn = |source| tcp(source, PEER4, (5000, 80), SYN);
    let honest = [
        ("own address", from_guest(GUEST4, &syn(GUEST4))),
        ("ARP", arp(GUEST_MAC, [10, 77, 0, 1], [10, 77, 0, 2])),
        ("who has", icmp6(135)),
        (
            "DHCP asked",
            from_guest(GUEST4, &udp(GUEST4, PEER4, (68, 67), (0, 0))),
        ),
    ];
    let forged_mac = [
        ("MAC", ethernet(other_mac, PEER_MAC, 0x0800, &syn(GUEST4))),
        ("MAC in ARP", arp(other_mac, [10, 77, 0, 1], [10, 77, 0, 2])),
    ];
    let forged_address = [
        ("address", from_guest(GUEST4, &syn(other))),
        ("ARP", arp(GUEST_MAC, [10, 77, 0, 9], [10, 77, 0, 2])),
        (
            "DHCP offered",
            from_guest(GUEST4, &udp(GUEST4, PEER4, (67, 68), (0, 0))),
        ),
        ("router advertisement", icmp6(134)),
        ("advertisement for another", icmp6(136)),
        (
            "neither IP nor ARP",
            ethernet(GUEST_MAC, PEER_MAC, 0x88cc, &[0; 40]),
        ),
        ("a third tag", tagged(&from_guest(GUEST4, &syn(GUEST4)), CTAG, 9)),
    ];
    for setting in [Tagged::Judge, Tagged::Allow] {
        World::run(|world| {
            let datapath = locked(world, Lock::Address, setting);
            let ends = Ends::open(world);
            // In two tags, so that a third is one too many.
            let vlans = |frame: &[u8]| tagged(&tagged(frame, CTAG, 7), STAG, 5);
            for (what, frame) in &honest {
                assert!(ends.leaves(&vlans(frame)), "{setting:?}: {what}");
                assert!(ends.leaves(&tagged(frame, CTAG, 5)), "{setting:?}: {what}");
            }
            assert_eq!(counters(&datapath, Direction::FromGuest).forged, 0);
            for (what, frame) in forged_mac.iter().chain(&forged_address) {
                assert!(!ends.leaves(&vlans(frame)), "{setting:?}: {what}");
            }
            assert_eq!(counters(&datapath, Direction::FromGuest).forged, 9);
        });
    }
    World::run(|world| {
        let _datapath = locked(world, Lock::Mac, Tagged::Judge);
        let ends = Ends::open(world);
        for (what, frame) in &forged_mac {
            assert!(!ends.leaves(&tagged(frame, CTAG, 5)), "{what}");
        }
        assert!(ends.leaves(&tagged(&forged_address[0].1, CTAG, 5)));
    });
}
