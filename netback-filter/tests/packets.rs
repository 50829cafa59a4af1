// SPDX-License-Identifier: GPL-3.0-only
//! Frames that no socket would send: each is put on the wire, and the far end is asked whether it came through.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::net::IpAddr;
use std::time::Duration;

use netback_filter::{Action, AdoptEstablished, Direction, Protocol, RuleSet, ScopeConfig};
use support::frame::{ACK, RST, SYN, TCP, UDP, tcp_packet as tcp};
use support::wire::Ends;
use support::*;

fn udp(source: IpAddr, dest: IpAddr, ports: (u16, u16), fragment: (u16, u16)) -> Vec<u8> {
    frame::ip(
        source,
        dest,
        UDP,
        fragment,
        &frame::udp(source, dest, ports, b"payload"),
    )
}

fn allow_udp(port: u16) -> netback_filter::Rule {
    rule(2, Direction::FromGuest, Protocol::UDP, Some(port), Action::Allow)
}

#[test]
fn a_segment_of_no_connection_is_dropped_unless_it_may_be_adopted() {
    World::run(|world| {
        let mut datapath = world.attach(no_adoption(), vec![allow_tcp(1, 80)]);
        let ends = Ends::open(world);
        for (guest, peer) in FAMILIES {
            assert!(!ends.leaves(&frame::from_guest(guest, &tcp(guest, peer, (5000, 80), ACK))));
            assert!(!ends.arrives(&frame::from_peer(guest, &tcp(peer, guest, (80, 5000), ACK))));
        }
        assert_eq!(counters(&datapath, Direction::FromGuest).stray, 2);
        assert_eq!(counters(&datapath, Direction::ToGuest).stray, 2);

        let adopting = ScopeConfig {
            adopt_established: AdoptEstablished::Always,
            ..no_adoption()
        };
        datapath.set_scope(SCOPE, adopting).unwrap();
        for (guest, peer) in FAMILIES {
            // The answer comes first: the rule holds for the way the connection was opened.
            assert!(ends.arrives(&frame::from_peer(guest, &tcp(peer, guest, (80, 5000), ACK))));
            assert!(ends.leaves(&frame::from_guest(guest, &tcp(guest, peer, (5000, 80), ACK))));
            assert!(!ends.leaves(&frame::from_guest(guest, &tcp(guest, peer, (5000, 81), ACK))));
        }
        let flow = datapath.flows(None).next().unwrap().unwrap();
        assert_eq!(
            (flow.verdict.origin, flow.verdict.rule),
            (Direction::FromGuest, 1)
        );

        let brief = AdoptEstablished::For(Duration::from_millis(50));
        datapath
            .set_scope(
                SCOPE,
                ScopeConfig {
                    adopt_established: brief,
                    ..no_adoption()
                },
            )
            .unwrap();
        std::thread::sleep(Duration::from_millis(80));
        assert!(!ends.leaves(&frame::from_guest(GUEST4, &tcp(GUEST4, PEER4, (5001, 80), ACK))));
    });
}

const GRE: u8 = 47;
const TESTING: u8 = 253;

/// A frame of a protocol without ports: a GRE header that says that nothing follows.
fn portless(source: IpAddr, dest: IpAddr, protocol: u8) -> Vec<u8> {
    frame::ip(source, dest, protocol, (0, 0), &[0, 0, 0x86, 0xdd])
}

#[test]
fn a_protocol_without_ports_is_judged_by_its_number() {
    World::run(|world| {
        let of = |id, direction, protocol: Option<u8>, action| netback_filter::Rule {
            protocol: protocol.map(Protocol),
            ..rule(id, direction, Protocol::TCP, None, action)
        };
        let mut datapath = world.attach(no_adoption(), vec![]);
        let ends = Ends::open(world);
        // Hop-by-hop options are no protocol of IPv6 packets.
        let named: [(u8, &[(IpAddr, IpAddr)]); 3] =
            [(GRE, &FAMILIES), (TESTING, &FAMILIES), (0, &[(GUEST4, PEER4)])];
        let cases = named
            .iter()
            .flat_map(|of| [(of, DROP, Action::Allow), (of, Action::Allow, DROP)]);
        for (((named, families), action, others), generation) in cases.zip(2..) {
            let rules = Direction::BOTH
                .into_iter()
                .flat_map(|d| [of(1, d, Some(*named), action), of(2, d, None, others)])
                .collect();
            datapath
                .publish(&RuleSet { peers: vec![], rules }, generation)
                .unwrap();
            for (guest, peer) in *families {
                let leaves =
                    |number| ends.leaves(&frame::from_guest(*guest, &portless(*guest, *peer, number)));
                let arrives =
                    |number| ends.arrives(&frame::from_peer(*guest, &portless(*peer, *guest, number)));
                let case = format!("{named} {action:?} {guest}");
                assert_eq!(leaves(*named), action == Action::Allow, "{case}");
                assert_eq!(arrives(*named), action == Action::Allow, "{case}");
                // Of an allowed flow the answers pass, too: so another number for each direction.
                assert_eq!(leaves(99), others == Action::Allow, "{case}");
                assert_eq!(arrives(114), others == Action::Allow, "{case}");
            }
        }
    });
}

#[test]
fn a_known_flow_does_not_open_its_tuple_to_the_other_end() {
    World::run(|world| {
        let _datapath = world.attach(no_adoption(), vec![allow_tcp(1, 80)]);
        let ends = Ends::open(world);
        for (guest, peer) in FAMILIES {
            // To a station that is not there: the peer's own stack would answer with a RST and end the flow.
            let syn = tcp(guest, peer, (5000, 80), SYN);
            let nobody = [0x00, 0x16, 0x3e, 0, 0, 9];
            let ethertype = frame::ethertype_of(guest);
            assert!(ends.leaves(&frame::ethernet(GUEST_MAC, nobody, ethertype, &syn)));
            assert!(!ends.arrives(&frame::from_peer(guest, &tcp(peer, guest, (80, 5000), SYN))));
            assert!(ends.arrives(&frame::from_peer(guest, &tcp(peer, guest, (80, 5000), SYN | ACK))));
            assert!(ends.arrives(&frame::from_peer(guest, &tcp(peer, guest, (80, 5000), RST | ACK))));
        }
    });
}

#[test]
fn malformed_headers_are_dropped_and_counted() {
    World::run(|world| {
        let datapath = world.attach(no_adoption(), vec![allow_tcp(1, 80), allow_udp(80)]);
        let ends = Ends::open(world);
        let good4 = tcp(GUEST4, PEER4, (5000, 80), SYN);
        let good6 = tcp(GUEST6, PEER6, (5000, 80), SYN);
        assert!(
            ends.leaves(&frame::from_guest(GUEST4, &good4)),
            "the good one passes"
        );
        assert!(
            ends.leaves(&frame::from_guest(GUEST6, &good6)),
            "the good one passes"
        );
        let change = |packet: &[u8], at: usize, byte: u8| {
            let mut packet = packet.to_vec();
            packet[at] = byte;
            packet
        };
        let good_udp = udp(GUEST4, PEER4, (5000, 80), (0, 0));
        let v4 = [
            ("version 5", change(&good4, 0, 0x55)),
            ("header of 16 bytes", change(&good4, 0, 0x44)),
            ("total length beyond the frame", change(&good4, 2, 0xff)),
            ("total length below the header", change(&good4, 3, 19)),
            ("cut in the IP header", good4[..19].to_vec()),
            ("cut in the TCP header", change(&good4[..39], 3, 39)),
            ("TCP header of 16 bytes", change(&good4, 32, 4 << 4)),
            ("TCP header beyond the packet", change(&good4, 32, 15 << 4)),
            ("no TCP flags", change(&good4, 33, 0)),
            ("SYN and FIN", change(&good4, 33, 3)),
            ("SYN and RST", change(&good4, 33, 6)),
            ("UDP length of 7", change(&good_udp, 25, 7)),
            ("UDP length beyond the packet", change(&good_udp, 24, 1)),
            ("ICMPv6 over IPv4", change(&good4, 9, 58)),
            ("ICMP cut short", change(&change(&good4[..26], 3, 26), 9, 1)),
        ];
        let extension = |count: usize, last: u8| {
            let mut chain: Vec<u8> = (0..count)
                .flat_map(|i| [if i + 1 == count { last } else { 60 }, 0, 1, 4, 0, 0, 0, 0])
                .collect();
            chain.extend(frame::tcp(GUEST6, PEER6, (5001, 80), SYN, b"payload"));
            frame::ip(GUEST6, PEER6, 60, (0, 0), &chain)
        };
        assert!(
            ends.leaves(&frame::from_guest(GUEST6, &extension(6, TCP))),
            "6 extensions pass"
        );
        let v6 = [
            ("version 4", change(&good6, 0, 0x40)),
            ("payload length beyond the frame", change(&good6, 4, 0xff)),
            ("cut in the IP header", good6[..39].to_vec()),
            ("7 extensions", extension(7, TCP)),
            ("extension beyond the packet", change(&extension(1, TCP), 41, 200)),
            ("ICMP over IPv6", change(&good6, 6, 1)),
        ];
        let before = counters(&datapath, Direction::FromGuest);
        for (what, packet) in &v4 {
            assert!(!ends.leaves(&frame::from_guest(GUEST4, packet)), "IPv4, {what}");
        }
        for (what, packet) in &v6 {
            assert!(!ends.leaves(&frame::from_guest(GUEST6, packet)), "IPv6, {what}");
        }
        let after = counters(&datapath, Direction::FromGuest);
        assert_eq!(after.malformed - before.malformed, (v4.len() + v6.len()) as u64);
    });
}

#[test]
fn sctp_is_decided_by_port() {
    const SCTP: u8 = 132;
    let init = |source, dest, ports: (u16, u16), length: usize| {
        let mut header = Vec::new();
        header.extend(ports.0.to_be_bytes());
        header.extend(ports.1.to_be_bytes());
        header.extend([0; 8]);
        header.extend(b"chunks");
        frame::ip(source, dest, SCTP, (0, 0), &header[..length])
    };
    World::run(|world| {
        let allow = rule(3, Direction::FromGuest, Protocol::SCTP, Some(80), Action::Allow);
        let datapath = world.attach(no_adoption(), vec![allow]);
        let ends = Ends::open(world);
        for (guest, peer) in FAMILIES {
            assert!(!ends.leaves(&frame::from_guest(guest, &init(guest, peer, (5000, 81), 18))));
            assert!(!ends.arrives(&frame::from_peer(guest, &init(peer, guest, (80, 5000), 18))));
            assert!(ends.leaves(&frame::from_guest(guest, &init(guest, peer, (5000, 80), 18))));
            // The answer of what was let out.
            assert!(ends.arrives(&frame::from_peer(guest, &init(peer, guest, (80, 5000), 18))));
            assert!(!ends.leaves(&frame::from_guest(guest, &init(guest, peer, (5000, 80), 11))));
        }
        assert_eq!(counters(&datapath, Direction::FromGuest).malformed, 2);
        let flow = datapath.flows(None).next().unwrap().unwrap();
        assert_eq!((flow.key.protocol, flow.key.remote.port()), (Protocol::SCTP, 80));
    });
}

#[test]
fn later_fragments_follow_the_first() {
    const MORE: u16 = 0x2000;
    World::run(|world| {
        let datapath = world.attach(no_adoption(), vec![allow_udp(53), allow_tcp(1, 80)]);
        let ends = Ends::open(world);
        let later = |proto, id, offset| frame::ip(GUEST4, PEER4, proto, (id, offset), b"the later fragment");
        let first = |port, id| {
            let mut datagram = udp(GUEST4, PEER4, (5000, port), (id, MORE));
            datagram[24] = 1; // its length is that of the whole datagram
            datagram
        };
        assert!(
            !ends.leaves(&frame::from_guest(GUEST4, &later(UDP, 1, 2))),
            "nothing came first"
        );
        assert!(ends.leaves(&frame::from_guest(GUEST4, &first(53, 1))));
        assert!(ends.leaves(&frame::from_guest(GUEST4, &later(UDP, 1, MORE | 2))));
        assert!(
            !ends.leaves(&frame::from_guest(GUEST4, &later(UDP, 2, 2))),
            "another datagram"
        );
        assert!(
            !ends.leaves(&frame::from_guest(GUEST4, &later(17 + 1, 1, 2))),
            "another protocol"
        );
        assert!(
            !ends.leaves(&frame::from_guest(GUEST4, &first(54, 3))),
            "a denied port"
        );
        assert!(
            !ends.leaves(&frame::from_guest(GUEST4, &later(UDP, 3, 2))),
            "the first was denied"
        );
        assert_eq!(counters(&datapath, Direction::FromGuest).fragments, 4);

        let syn = frame::ip(
            GUEST4,
            PEER4,
            TCP,
            (4, MORE),
            &frame::tcp(GUEST4, PEER4, (5, 80), SYN, b""),
        );
        assert!(ends.leaves(&frame::from_guest(GUEST4, &syn)));
        assert!(
            !ends.leaves(&frame::from_guest(GUEST4, &later(TCP, 4, 1))),
            "would overwrite the header"
        );

        let fragment6 = |id: u8, offset: u16, payload: &[u8]| {
            let mut body = vec![UDP, 0];
            body.extend(offset.to_be_bytes());
            body.extend([0, 0, 0, id]);
            body.extend(payload);
            frame::from_guest(GUEST6, &frame::ip(GUEST6, PEER6, 44, (0, 0), &body))
        };
        let datagram = frame::udp(GUEST6, PEER6, (5000, 53), b"payload.");
        assert!(!ends.leaves(&fragment6(1, 16, b"the later fragment")));
        assert!(ends.leaves(&fragment6(1, 1, &datagram)));
        assert!(ends.leaves(&fragment6(1, 16, b"the later fragment")));
    });
}

#[test]
fn frames_of_unknown_protocols_go_by_the_setting() {
    World::run(|world| {
        let mut datapath = world.attach(ScopeConfig::closed(), vec![allow_udp(53)]);
        let ends = Ends::open(world);
        let unknown = frame::ethernet(GUEST_MAC, PEER_MAC, 0x88b5, b"local experiment");
        assert!(!ends.leaves(&unknown));
        assert!(!ends.leaves(&frame::tagged(&unknown, frame::CTAG, 5)));
        assert_eq!(counters(&datapath, Direction::FromGuest).unknown_l3, 2);
        let config = ScopeConfig {
            other: true,
            ..ScopeConfig::closed()
        };
        datapath.set_scope(SCOPE, config).unwrap();
        assert!(ends.leaves(&unknown));
        assert!(ends.leaves(&frame::tagged(&unknown, frame::CTAG, 5)));
    });
}

fn icmp(source: IpAddr, dest: IpAddr, kind: u8, id: u16, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend(id.to_be_bytes());
    message.extend([0, 1]);
    message.extend(body);
    let proto = if source.is_ipv4() { 1 } else { 58 };
    let sum = if source.is_ipv4() {
        frame::checksum(&[&message])
    } else {
        frame::l4_checksum(source, dest, proto, &message)
    };
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    frame::ip(source, dest, proto, (0, 0), &message)
}

#[test]
fn an_echo_passes_one_way_round_and_errors_follow_their_flow() {
    World::run(|world| {
        let echo = |id, protocol| rule(id, Direction::FromGuest, protocol, None, Action::Allow);
        let rules = vec![echo(1, Protocol::ICMP), echo(2, Protocol::ICMPV6), allow_udp(53)];
        let datapath = world.attach(no_adoption(), rules);
        let ends = Ends::open(world);
        for (guest, peer) in FAMILIES {
            let (ask, answer, unreachable) = if guest.is_ipv4() { (8, 0, 3) } else { (128, 129, 1) };
            let out = |packet: &[u8]| ends.leaves(&frame::from_guest(guest, packet));
            let back = |packet: &[u8]| ends.arrives(&frame::from_peer(guest, packet));
            assert!(
                !back(&icmp(peer, guest, answer, 77, b"before")),
                "an answer to nothing"
            );
            assert!(out(&icmp(guest, peer, ask, 77, b"question")));
            assert!(back(&icmp(peer, guest, answer, 77, b"answer")));
            assert!(
                !back(&icmp(peer, guest, ask, 77, b"reverse")),
                "a question the other way"
            );

            let datagram = udp(guest, peer, (5000, 53), (0, 0));
            assert!(
                !back(&icmp(peer, guest, unreachable, 0, &datagram)),
                "{guest}: about nothing"
            );
            assert!(out(&datagram));
            assert!(
                back(&icmp(peer, guest, unreachable, 0, &datagram)),
                "{guest}: about a flow"
            );
            let swapped = udp(peer, guest, (53, 5000), (0, 0));
            assert!(
                !back(&icmp(peer, guest, unreachable, 0, &swapped)),
                "{guest}: of the wrong way"
            );
        }
        assert!(counters(&datapath, Direction::ToGuest).denied >= 8);
    });
}

#[test]
fn dhcp_passes_before_the_rules_where_so_set() {
    World::run(|world| {
        let mut datapath = world.attach(ScopeConfig::closed(), vec![]);
        let ends = Ends::open(world);
        let ports = |v4| if v4 { (68, 67) } else { (546, 547) };
        let request =
            |guest: IpAddr, peer| frame::from_guest(guest, &udp(guest, peer, ports(guest.is_ipv4()), (0, 0)));
        let offer = |guest: IpAddr, peer| {
            let (client, server) = ports(guest.is_ipv4());
            frame::from_peer(guest, &udp(peer, guest, (server, client), (0, 0)))
        };
        for (guest, peer) in FAMILIES {
            assert!(ends.leaves(&request(guest, peer)));
            assert!(ends.arrives(&offer(guest, peer)));
            // The guest must not serve addresses under this cover.
            let (client, server) = ports(guest.is_ipv4());
            let serving = udp(guest, peer, (server, client), (0, 0));
            assert!(!ends.leaves(&frame::from_guest(guest, &serving)));
        }
        datapath
            .set_scope(
                SCOPE,
                ScopeConfig {
                    pass_dhcp: false,
                    ..ScopeConfig::closed()
                },
            )
            .unwrap();
        for (guest, peer) in FAMILIES {
            assert!(!ends.leaves(&request(guest, peer)));
            assert!(!ends.arrives(&offer(guest, peer)));
        }
    });
}

#[test]
fn a_scope_that_only_monitors_lets_everything_pass_unaltered() {
    World::run(|world| {
        let config = ScopeConfig {
            monitor_only: true,
            ..no_adoption()
        };
        let datapath = world.attach(config, vec![]);
        let ends = Ends::open(world);
        let stray = frame::from_guest(GUEST4, &tcp(GUEST4, PEER4, (5000, 80), ACK));
        let syn = frame::from_guest(GUEST4, &tcp(GUEST4, PEER4, (5000, 80), SYN));
        let malformed = frame::from_guest(GUEST4, &tcp(GUEST4, PEER4, (5000, 80), SYN | RST));
        for frame in [&stray, &syn, &malformed] {
            assert!(ends.leaves(frame));
        }
        let counted = counters(&datapath, Direction::FromGuest);
        assert_eq!(
            (counted.denied, counted.resets, counted.malformed, counted.stray),
            (3, 0, 1, 1)
        );
        let event = datapath.events().unwrap().next().unwrap();
        assert!(!event.enforced);
    });
}
