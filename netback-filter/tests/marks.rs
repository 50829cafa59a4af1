// SPDX-License-Identifier: GPL-3.0-only
//! DSCP as it arrives at the far end, and the class that a packet tells.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::io::{Read, Write};
use std::net::IpAddr;
use std::time::Duration;

use netback_filter::{
    Action, Class, Direction, Dscp, FlowKey, Mark, PeerMatch, Priority, Protocol, Rate, Rule, ScopeConfig,
    ShapeClass, Shaping, Verdict,
};
use support::frame::{ACK, SYN, TCP, UDP, checksum, has_port, ip, l4, l4_checksum, tcp, udp};
use support::wire::{Ends, Wire};
use support::*;

const PORT: u16 = 5001;
const EF: u8 = 46;
const ECT: u8 = 2;

fn mark(class: Option<Class>) -> Mark {
    Mark {
        class,
        dscp: Dscp::new(EF),
        mirror: None,
    }
}

fn marked(proto: Protocol, mark: Mark) -> [Rule; 2] {
    Direction::BOTH.map(|direction| Rule {
        id: 1,
        scope: SCOPE,
        direction,
        peer: PeerMatch::Any,
        protocol: Some(proto),
        port: Some(PORT),
        action: Action::Allow,
        mark,
    })
}

fn traffic_class(frame: &[u8]) -> u8 {
    match frame[12..14] {
        [0x08, 0x00] => frame[15],
        _ => (frame[14] << 4) | (frame[15] >> 4),
    }
}

/// Sets the traffic class of a packet, and IPv4's sum.
fn with_traffic_class(mut packet: Vec<u8>, class: u8) -> Vec<u8> {
    if packet[0] >> 4 == 4 {
        packet[1] = class;
        packet[10..12].copy_from_slice(&[0, 0]);
        let sum = checksum(&[&packet[..20]]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        packet[0] = 0x60 | (class >> 4);
        // With a flow label, which is to stay.
        packet[1] = (class << 4) | 0x0a;
    }
    packet
}

/// The frame of the flow with this payload: a stack that is not asked answers, too.
fn arrives(wire: &Wire, payload: &[u8]) -> Vec<u8> {
    let is_it = |f: &[u8]| has_port(f, PORT) && f.ends_with(payload);
    wire.frames_until(Duration::from_secs(1), is_it)
        .pop()
        .filter(|f| is_it(f))
        .unwrap_or_else(|| panic!("{payload:?} does not arrive"))
}

#[test]
fn dscp_is_written_both_ways_and_nothing_else() {
    World::run(|world| {
        let ends = Ends::open(world);
        let rules = [Protocol::TCP, Protocol::UDP].map(|proto| marked(proto, mark(None)));
        let _datapath = world.attach(ScopeConfig::open(), rules.concat());
        for (guest, peer) in FAMILIES {
            for proto in [TCP, UDP] {
                for before in [0, ECT, 0x28 | ECT, EF << 2, 0xff] {
                    let what = format!("{guest} protocol {proto} traffic class {before:#x}");
                    let packet = |from: IpAddr, to: IpAddr, ports, flags| {
                        let segment = match proto {
                            TCP => tcp(from, to, ports, flags, b"data"),
                            _ => udp(from, to, ports, b"data"),
                        };
                        with_traffic_class(ip(from, to, proto, (7, 0), &segment), before)
                    };
                    let port = 4000 + u16::from(before);
                    let out = packet(guest, peer, (port, PORT), SYN);
                    // What each sent itself is seen there, too.
                    ends.peer.frames_until(Duration::ZERO, |_| false);
                    ends.guest.send(&frame::from_guest(guest, &out));
                    let back = packet(peer, guest, (PORT, port), SYN | ACK);
                    let at_peer = arrives(&ends.peer, b"data");
                    ends.guest.frames_until(Duration::ZERO, |_| false);
                    ends.peer.send(&frame::from_peer(guest, &back));
                    let at_guest = arrives(&ends.guest, b"data");
                    for (sent, frame) in [(out, at_peer), (back, at_guest)] {
                        let got = &frame[14..];
                        assert_eq!(traffic_class(&frame), (EF << 2) | (before & 3), "{what}");
                        assert_eq!(got, with_traffic_class(sent, (EF << 2) | (before & 3)), "{what}");
                    }
                }
            }
        }
    });
}

#[test]
fn large_segments_are_marked_and_received() {
    World::run(|world| {
        let _datapath = world.attach(ScopeConfig::open(), marked(Protocol::TCP, mark(None)).to_vec());
        for (_, peer) in FAMILIES {
            let listener = world.listen("peer", peer, PORT);
            let wires = Ends::open(world);
            let mut client = world.connect("guest", (peer, PORT).into()).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            let writer = std::thread::spawn(move || client.write_all(&[1; 400_000]).map(|()| client));
            let mut all = vec![0; 400_000];
            server.read_exact(&mut all).unwrap();
            writer.join().unwrap().unwrap();
            let seen = |wire: &Wire| wire.frames_until(Duration::from_millis(200), |_| false);
            let (at_peer, at_guest) = (seen(&wires.peer), seen(&wires.guest));
            let data = at_peer.iter().filter(|f| has_port(f, PORT) && f.len() > 3000);
            assert!(data.clone().count() > 3, "with segmentation offload");
            for frame in data {
                assert_eq!(traffic_class(frame) >> 2, EF);
                if frame[12..14] == [0x08, 0x00] {
                    assert_eq!(checksum(&[&frame[14..34]]), 0);
                }
            }
            // What the guest receives of its flow is marked as well.
            assert!(
                at_guest
                    .iter()
                    .filter(|f| l4(f).is_some_and(|(_, l4)| l4[..2] == PORT.to_be_bytes()))
                    .all(|f| traffic_class(f) >> 2 == EF)
            );
        }
    });
}

#[test]
fn later_fragments_are_marked_like_the_first() {
    World::run(|world| {
        let ends = Ends::open(world);
        let bulk = Class::new(5, Priority::Bulk).unwrap();
        let mut datapath = world.attach(
            ScopeConfig::open(),
            marked(Protocol::UDP, mark(Some(bulk))).to_vec(),
        );
        shape(&mut datapath, bulk);
        let segment = udp(GUEST4, PEER4, (4000, PORT), &[1; 64]);
        let fragments = [(0x2000, &segment[..24]), (0x0003, &segment[24..])];
        for (offset, part) in fragments {
            ends.guest.send(&frame::from_guest(
                GUEST4,
                &ip(GUEST4, PEER4, UDP, (99, offset), part),
            ));
        }
        let frames = ends.peer.frames_until(Duration::from_millis(500), |_| false);
        let ours: Vec<_> = frames
            .iter()
            .filter(|f| f.get(18..20) == Some(&[0, 99]))
            .collect();
        assert_eq!(ours.len(), 2);
        for frame in ours {
            assert_eq!(traffic_class(frame) >> 2, EF);
            assert_eq!(checksum(&[&frame[14..34]]), 0);
        }
        assert_eq!(packets(&datapath, Direction::FromGuest, bulk), 2);
    });
}

fn shape(datapath: &mut netback_filter::Datapath, class: Class) {
    let shaping = Shaping {
        to_guest: Rate::from_bits(100_000_000),
        from_guest: Rate::from_bits(100_000_000),
        classes: vec![ShapeClass {
            class,
            guarantee: None,
            ceiling: None,
        }],
    };
    datapath.shape(VIF, &shaping).unwrap();
}

fn packets(datapath: &netback_filter::Datapath, direction: Direction, class: Class) -> u64 {
    let stats = datapath.class_stats(VIF).unwrap();
    let of = stats
        .iter()
        .find(|s| s.direction == direction && s.class == Some(class));
    of.unwrap().packets
}

#[test]
fn a_verdict_tells_the_class_and_can_be_revised() {
    World::run(|world| {
        let ends = Ends::open(world);
        let mut datapath = world.attach(ScopeConfig::open(), vec![]);
        let class = Class::new(9, Priority::Interactive).unwrap();
        shape(&mut datapath, class);
        let key = FlowKey {
            scope: SCOPE,
            protocol: Protocol::UDP,
            local: (GUEST4, 4000).into(),
            remote: (PEER4, PORT).into(),
            vlan: netback_filter::Vlan::NONE,
        };
        let verdict = |mark| Verdict {
            mark,
            ..verdict(Action::Allow, 3)
        };
        let exchange = || {
            let out = ip(
                GUEST4,
                PEER4,
                UDP,
                (1, 0),
                &udp(GUEST4, PEER4, (4000, PORT), b"question"),
            );
            let back = ip(
                PEER4,
                GUEST4,
                UDP,
                (1, 0),
                &udp(PEER4, GUEST4, (PORT, 4000), b"answer"),
            );
            // What it sent itself before.
            ends.guest.frames_until(Duration::ZERO, |_| false);
            ends.peer.frames_until(Duration::ZERO, |_| false);
            ends.guest.send(&frame::from_guest(GUEST4, &out));
            let at_peer = arrives(&ends.peer, b"question");
            ends.peer.send(&frame::from_peer(GUEST4, &back));
            let at_guest = arrives(&ends.guest, b"answer");
            [at_peer, at_guest].map(|frame| traffic_class(&frame) >> 2)
        };
        let in_class = |datapath: &_| Direction::BOTH.map(|direction| packets(datapath, direction, class));
        let writer = datapath.flow_writer();
        writer.set(&key, verdict(mark(Some(class)))).unwrap();
        assert_eq!(exchange(), [EF, EF]);
        assert_eq!(in_class(&datapath), [1, 1]);
        let record = datapath.flows(Some(SCOPE)).next().unwrap().unwrap();
        assert_eq!(record.verdict.mark, mark(Some(class)));

        writer.revise(&key, verdict(Mark::NONE)).unwrap();
        assert_eq!(exchange(), [0, 0]);
        assert_eq!(in_class(&datapath), [1, 1]);
        writer.remove(&key).unwrap();
        writer.settle(&key, verdict(mark(Some(class)))).unwrap();
        assert_eq!(exchange(), [EF, EF]);
        assert_eq!(in_class(&datapath), [2, 2]);

        // Of a class that the vif has not: it goes with what is in none.
        let other = Class::new(10, Priority::Bulk).unwrap();
        writer.set(&key, verdict(mark(Some(other)))).unwrap();
        let before = packets(&datapath, Direction::ToGuest, Class::DEFAULT);
        assert_eq!(exchange(), [EF, EF]);
        assert!(packets(&datapath, Direction::ToGuest, Class::DEFAULT) > before);
    });
}

#[test]
fn a_scope_that_only_monitors_is_not_marked() {
    World::run(|world| {
        let ends = Ends::open(world);
        let scope = ScopeConfig {
            monitor_only: true,
            ..ScopeConfig::open()
        };
        let _datapath = world.attach(scope, marked(Protocol::UDP, mark(None)).to_vec());
        let packet = ip(
            GUEST4,
            PEER4,
            UDP,
            (1, 0),
            &udp(GUEST4, PEER4, (4000, PORT), b"a"),
        );
        ends.guest.send(&frame::from_guest(GUEST4, &packet));
        assert_eq!(traffic_class(&arrives(&ends.peer, b"a")), 0);
    });
}

#[test]
fn sums_are_right_where_the_stack_computes_them() {
    World::run(|world| {
        let ends = Ends::open(world);
        let _datapath = world.attach(ScopeConfig::open(), marked(Protocol::UDP, mark(None)).to_vec());
        for (guest, peer) in FAMILIES {
            let packet = ip(guest, peer, UDP, (1, 0), &udp(guest, peer, (4000, PORT), b"abc"));
            ends.guest.send(&frame::from_guest(guest, &packet));
            let frame = arrives(&ends.peer, b"abc");
            let (proto, segment) = l4(&frame).unwrap();
            assert_eq!(l4_checksum(guest, peer, proto, segment), 0);
            // And a stack takes it.
            let server = world.udp("peer", peer, PORT);
            let client = world.udp("guest", guest, 0);
            client.send_to(b"x", (peer, PORT)).unwrap();
            let mut byte = [0; 8];
            assert_eq!(server.recv(&mut byte).unwrap(), 1);
        }
    });
}
