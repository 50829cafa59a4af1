// SPDX-License-Identifier: GPL-3.0-only
//! How what is denied is answered, and what must never be.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use netback_filter::{Action, Datapath, Direction, Events, Prohibited, Protocol, Refuse, ScopeConfig};
use support::frame::{ACK, RST, SYN, TCP, tcp_packet as tcp};
use support::wire::{Ends, Wire};
use support::*;

#[test]
fn a_refusal_is_a_segment_that_checks() {
    World::run(|world| {
        let _datapath = world.attach(ScopeConfig::closed(), vec![]);
        let ends = Ends::open(world);
        for (guest, peer) in FAMILIES {
            ends.guest
                .send(&frame::from_guest(guest, &tcp(guest, peer, (5000, 80), SYN)));
            let is_reset = |f: &[u8]| frame::l4(f).is_some_and(|(p, l4)| p == TCP && l4[13] & RST != 0);
            let frames = ends.guest.frames_until(Duration::from_secs(1), is_reset);
            let reset = frames.iter().find(|f| is_reset(f)).expect("a RST");
            assert_eq!(
                reset[..14],
                frame::ethernet(PEER_MAC, GUEST_MAC, frame::ethertype_of(guest), b"")
            );
            let (_, l4) = frame::l4(reset).unwrap();
            assert_eq!(l4.len(), 20);
            assert_eq!(l4[..4], [0, 80, 0x13, 0x88]);
            // SYN and 7 bytes of payload are acknowledged.
            assert_eq!(l4[4..14], [0, 0, 0, 0, 1, 0, 0, 8, 5 << 4, RST | ACK]);
            assert_eq!(frame::l4_checksum(peer, guest, TCP, l4), 0, "TCP checksum");
            if guest.is_ipv4() {
                assert_eq!(frame::checksum(&[&reset[14..34]]), 0, "IP checksum");
            }
            // A RST is never answered, nor is a frame to all.
            ends.guest
                .send(&frame::from_guest(guest, &tcp(guest, peer, (5000, 80), RST)));
            let syn = tcp(guest, peer, (5002, 80), SYN);
            ends.guest.send(&frame::ethernet(
                GUEST_MAC,
                [0xff; 6],
                frame::ethertype_of(guest),
                &syn,
            ));
            assert!(
                !ends
                    .guest
                    .sees(Duration::from_millis(100), |f| is_reset(f) && f[..6] == GUEST_MAC)
            );
        }
    });
}

#[test]
fn a_refusal_leaves_the_checksum_to_the_device_where_the_segment_did() {
    World::run(|world| {
        let _datapath = world.attach(ScopeConfig::closed(), vec![]);
        let wire = Wire::open(world, "guest");
        for (guest, peer) in FAMILIES {
            world.connect("guest", (peer, 80).into()).unwrap_err();
            let is_reset = |f: &[u8]| frame::l4(f).is_some_and(|(p, l4)| p == TCP && l4[13] & RST != 0);
            let frames = wire.frames_until(Duration::from_secs(1), is_reset);
            let (_, l4) = frame::l4(frames.iter().find(|f| is_reset(f)).expect("a RST")).unwrap();
            let sum = frame::pseudo_sum(peer, guest, TCP, l4.len() as u32);
            assert_eq!(l4[16..18], sum.to_be_bytes(), "{guest}");
        }
    });
}

#[test]
fn frames_for_others_that_the_bridge_floods_are_kept_away() {
    const OTHER_MAC: [u8; 6] = [0x00, 0x16, 0x3e, 0, 0, 9];
    World::run(|world| {
        let rules = vec![rule(
            1,
            Direction::ToGuest,
            Protocol::TCP,
            Some(80),
            Action::Allow,
        )];
        let closed = ScopeConfig {
            default_to_guest: RESET,
            ..no_adoption()
        };
        let mut datapath = world.attach(closed, rules);
        let ends = Ends::open(world);
        let other = "10.77.0.9".parse().unwrap();
        let to = |mac, port| frame::ethernet(PEER_MAC, mac, 0x0800, &tcp(PEER4, other, (5000, port), SYN));
        assert!(ends.arrives(&to(GUEST_MAC, 80)));
        assert!(!ends.arrives(&to(OTHER_MAC, 80)));
        ends.peer.send(&to(OTHER_MAC, 81));
        let is_reset = |f: &[u8]| frame::has_port(f, 5000) && f[..6] == PEER_MAC;
        assert!(
            !ends.peer.sees(Duration::from_millis(100), is_reset),
            "another's connection is cut"
        );
        ends.peer.send(&to(GUEST_MAC, 81));
        assert!(ends.peer.sees(Duration::from_secs(1), is_reset));
        assert_eq!(counters(&datapath, Direction::ToGuest).foreign, 2);
        assert_eq!(datapath.flows(None).count(), 1);
        datapath.set_scope(SCOPE, ScopeConfig::open()).unwrap();
        assert!(ends.arrives(&to(OTHER_MAC, 81)));
        // Without the guest's address nothing is known to be foreign, and nothing is answered.
        datapath.set_scope(SCOPE, closed).unwrap();
        datapath
            .attach(
                VIF,
                netback_filter::VifConfig {
                    scope: SCOPE,
                    mac: None,
                },
            )
            .unwrap();
        assert!(ends.arrives(&to(OTHER_MAC, 80)));
        ends.peer.send(&to(GUEST_MAC, 82));
        assert!(!ends.peer.sees(Duration::from_millis(100), is_reset));
    });
}

#[test]
fn a_datagram_that_is_refused_is_an_error_for_who_sent_it() {
    World::run(|world| {
        let mut datapath = world.attach(ScopeConfig::closed(), vec![]);
        let mut prohibited = Prohibited::open().unwrap();
        let mut events = datapath.events().unwrap();
        for (guest, peer) in FAMILIES {
            let socket = world.udp("guest", guest, 0);
            socket.connect((peer, 53)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            socket.send(b"?").unwrap();
            let vifs = datapath.attached().unwrap();
            let event = std::iter::repeat_with(|| {
                std::thread::sleep(Duration::from_millis(1));
                events.next()
            });
            let event = event.take(1000).flatten().next().expect("a report");
            assert!(prohibited.answer(&event, &vifs).unwrap());
            let error = socket.recv(&mut [0; 9]).expect_err("nothing came");
            assert_eq!(error.raw_os_error(), support::prohibited(guest), "{error}");
        }
        // A scope that drops in silence stays silent.
        let silent = ScopeConfig {
            default_from_guest: DROP,
            ..ScopeConfig::closed()
        };
        datapath.set_scope(SCOPE, silent).unwrap();
        let socket = world.udp("guest", GUEST4, 0);
        socket.connect((PEER4, 54)).unwrap();
        socket.send(b"?").unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let vifs = datapath.attached().unwrap();
        let told: Vec<_> = events.by_ref().collect();
        assert_eq!(told.len(), 1);
        assert!(!prohibited.answer(&told[0], &vifs).unwrap());
    });
}

/// Answers refusals until `stop`, as a daemon does.
fn answering<T>(datapath: &Datapath, events: &mut Events, during: impl FnOnce() -> T + Send) -> T
where
    T: Send,
{
    let vifs = datapath.attached().unwrap();
    let mut prohibited = Prohibited::open().unwrap();
    let stop = Stop::default();
    std::thread::scope(|scope| {
        let work = scope.spawn(|| {
            let _guard = stop.on_drop();
            during()
        });
        while !stop.is_set() {
            for event in events.by_ref() {
                prohibited.answer(&event, &vifs).unwrap();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        work.join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[test]
fn a_connect_that_is_prohibited_fails_as_one_that_icmp_forbids() {
    const PROHIBIT: Action = Action::Deny(Refuse::Prohibited);
    World::run(|world| {
        let scope = ScopeConfig {
            default_from_guest: PROHIBIT,
            default_to_guest: PROHIBIT,
            ..no_adoption()
        };
        let datapath = world.attach(scope, vec![allow_tcp(1, 80)]);
        let mut events = datapath.events().unwrap();
        for (guest, peer) in FAMILIES {
            // The guest's own, and one from outside.
            for (from, to) in [("guest", (peer, 81)), ("peer", (guest, 81))] {
                let begun = Instant::now();
                let error = answering(&datapath, &mut events, || {
                    world.connect(from, to.into()).unwrap_err()
                });
                assert_eq!(error.raw_os_error(), prohibited(guest), "{from}: {error}");
                assert!(
                    begun.elapsed() < Duration::from_millis(900),
                    "{from}: not by the first SYN"
                );
            }
            // A datagram from outside, too.
            let socket = world.udp("peer", peer, 0);
            socket.connect((guest, 53)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let error = answering(&datapath, &mut events, || {
                socket.send(b"?").unwrap();
                socket.recv(&mut [0; 9]).unwrap_err()
            });
            assert_eq!(error.raw_os_error(), prohibited(guest), "{error}");
        }
        assert_eq!(counters(&datapath, Direction::FromGuest).resets, 0);
        assert_eq!(counters(&datapath, Direction::ToGuest).resets, 0);
    });
}

/// An ICMP error would not end it.
#[test]
fn a_connection_under_way_is_reset_where_another_would_be_prohibited() {
    World::run(|world| {
        let datapath = world.attach(no_adoption(), vec![allow_tcp(1, 80)]);
        for (guest, peer) in FAMILIES {
            let listener = world.listen("peer", peer, 80);
            let mut client = world.connect("guest", (peer, 80).into()).unwrap();
            let (mut server, from) = listener.accept().unwrap();
            let key = tcp_key((guest, from.port()).into(), (peer, 80).into());
            let denied = verdict(Action::Deny(Refuse::Prohibited), 2);
            datapath.flow_writer().revise(&key, denied).unwrap();
            std::io::Write::write_all(&mut client, b"?").unwrap();
            for stream in [&mut client, &mut server] {
                stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
                let error = std::io::Read::read(stream, &mut [0; 9]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{guest}");
            }
        }
    });
}
