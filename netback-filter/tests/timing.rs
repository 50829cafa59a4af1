// SPDX-License-Identifier: GPL-3.0-only
//! What a flow's record says of TCP: how long its handshake and its round trips took, what came twice, who took no more.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use netback_filter::{Datapath, FlowRecord, ScopeConfig};
use support::frame::{self, ACK, FIN, SYN, TCP, ip, tcp};
use support::wire::Ends;
use support::*;

const GUEST_PORT: u16 = 5000;
const PEER_PORT: u16 = 80;
/// Sequence numbers: they wrap soon.
const GUEST_ISN: u32 = 0xffff_ff00;
const PEER_ISN: u32 = 0xffff_fff0;
const WINDOW: u16 = 1000;

struct Segment {
    guest: bool,
    flags: u8,
    seq: u32,
    ack: u32,
    window: u16,
    payload: usize,
}

fn frame(segment: &Segment, guest: IpAddr, peer: IpAddr) -> Vec<u8> {
    let (source, dest, ports) = match segment.guest {
        true => (guest, peer, (GUEST_PORT, PEER_PORT)),
        false => (peer, guest, (PEER_PORT, GUEST_PORT)),
    };
    let mut bytes = tcp(source, dest, ports, segment.flags, &vec![7; segment.payload]);
    bytes[4..8].copy_from_slice(&segment.seq.to_be_bytes());
    bytes[8..12].copy_from_slice(&segment.ack.to_be_bytes());
    bytes[14..16].copy_from_slice(&segment.window.to_be_bytes());
    let packet = ip(source, dest, TCP, (0, 0), &bytes);
    match segment.guest {
        true => frame::from_guest(source, &packet),
        false => frame::from_peer(source, &packet),
    }
}

fn record(datapath: &Datapath, guest: IpAddr) -> FlowRecord {
    let mut flows = datapath.flows(None).map(Result::unwrap);
    flows
        .find(|flow| flow.key.local == (guest, GUEST_PORT).into())
        .unwrap()
}

fn pass(ends: &Ends, segment: &Segment, guest: IpAddr, peer: IpAddr) {
    let frame = frame(segment, guest, peer);
    assert!(match segment.guest {
        true => ends.leaves(&frame),
        false => ends.arrives(&frame),
    });
}

/// Sequence numbers are counted from the first.
fn from_guest(flags: u8, seq: u32, ack: u32, payload: usize) -> Segment {
    Segment {
        guest: true,
        flags,
        seq: GUEST_ISN.wrapping_add(seq),
        ack: PEER_ISN.wrapping_add(ack),
        window: WINDOW,
        payload,
    }
}

fn from_peer(flags: u8, seq: u32, ack: u32, payload: usize) -> Segment {
    Segment {
        guest: false,
        flags,
        seq: PEER_ISN.wrapping_add(seq),
        ack: GUEST_ISN.wrapping_add(ack),
        window: WINDOW,
        payload,
    }
}

/// Whether what was measured is the time that passed between two moments, each known to within a span.
fn assert_took(measured: Option<Duration>, least: Duration, most: Duration) {
    let measured = measured.expect("a time");
    assert!(
        measured >= least && measured <= most,
        "{least:?} <= {measured:?} <= {most:?}"
    );
}

#[test]
fn handshake_round_trips_and_repetitions_are_measured() {
    World::run(|world| {
        let datapath = world.attach(ScopeConfig::open(), vec![]);
        let ends = Ends::open(world);
        for (guest, peer) in FAMILIES {
            let pass = |segment: Segment| pass(&ends, &segment, guest, peer);
            pass(from_guest(SYN, 0, 0, 0));
            assert_eq!(record(&datapath, guest).setup, None);
            // The first is lost; what is measured begins with the second.
            thread::sleep(Duration::from_millis(60));
            let begun = Instant::now();
            pass(from_guest(SYN, 0, 0, 0));
            thread::sleep(Duration::from_millis(20));
            pass(from_peer(SYN | ACK, 0, 1, 0));
            let flow = record(&datapath, guest);
            assert_took(flow.setup, Duration::from_millis(20), begun.elapsed());
            assert_eq!(flow.retransmissions, [1, 0]);
            assert_eq!(flow.rtt, [None, None]);

            // Data in two pieces: the first is timed, its ACK covers both.
            let begun = Instant::now();
            pass(from_guest(ACK, 1, 1, 200));
            thread::sleep(Duration::from_millis(30));
            pass(from_guest(ACK, 201, 1, 100));
            pass(from_peer(ACK, 1, 301, 0));
            let first = record(&datapath, guest).rtt[0];
            assert_took(first, Duration::from_millis(30), begun.elapsed());

            // What came twice is counted, and its ACK says nothing of time.
            pass(from_guest(ACK, 301, 1, 100));
            thread::sleep(Duration::from_millis(5));
            pass(from_guest(ACK, 301, 1, 100));
            pass(from_peer(ACK, 1, 401, 0));
            let flow = record(&datapath, guest);
            assert_eq!(flow.retransmissions, [2, 0]);
            assert_eq!(flow.rtt, [first, None]);

            // The other way round, and a receiver that is full.
            let begun = Instant::now();
            pass(from_peer(ACK, 1, 401, 500));
            thread::sleep(Duration::from_millis(10));
            pass(Segment {
                window: 0,
                ..from_guest(ACK, 401, 501, 0)
            });
            let flow = record(&datapath, guest);
            assert_took(flow.rtt[1], Duration::from_millis(10), begun.elapsed());
            assert_eq!(flow.zero_windows, [1, 0]);
        }
    });
}

#[test]
fn the_first_answer_is_measured() {
    World::run(|world| {
        let datapath = world.attach(ScopeConfig::open(), vec![]);
        let ends = Ends::open(world);
        for (guest, peer) in FAMILIES {
            let pass = |segment: Segment| pass(&ends, &segment, guest, peer);
            let first_byte = || record(&datapath, guest).first_byte;
            let end = |guest_seq, peer_seq| {
                pass(from_guest(FIN | ACK, guest_seq, peer_seq, 0));
                pass(from_peer(FIN | ACK, peer_seq, guest_seq + 1, 0));
            };
            pass(from_guest(SYN, 0, 0, 0));
            pass(from_peer(SYN | ACK, 0, 1, 0));
            thread::sleep(Duration::from_millis(40));
            // The guest asks in two segments; what counts is the first, and only the first answer.
            let asked = Instant::now();
            pass(from_guest(ACK, 1, 1, 200));
            pass(from_guest(ACK, 201, 1, 100));
            pass(from_peer(ACK, 1, 301, 0));
            assert_eq!(first_byte(), None, "an ACK is no answer");
            thread::sleep(Duration::from_millis(20));
            pass(from_peer(ACK, 1, 301, 100));
            let took = first_byte();
            assert_took(took, Duration::from_millis(20), asked.elapsed());
            assert!(
                took < Some(Duration::from_millis(40)),
                "{took:?}: not from the SYN"
            );
            thread::sleep(Duration::from_millis(5));
            pass(from_guest(ACK, 301, 101, 100));
            pass(from_peer(ACK, 101, 401, 100));
            assert_eq!(first_byte(), took);
            end(401, 201);

            // The peer speaks first.
            let begun = Instant::now();
            pass(from_guest(SYN, 1000, 0, 0));
            pass(from_peer(SYN | ACK, 1000, 1001, 0));
            assert_eq!(first_byte(), None, "of the connection before");
            thread::sleep(Duration::from_millis(20));
            pass(from_peer(ACK, 1001, 1001, 10));
            let took = first_byte();
            assert_took(took, Duration::from_millis(20), begun.elapsed());
            pass(from_guest(ACK, 1001, 1011, 10));
            pass(from_peer(ACK, 1011, 1011, 10));
            assert_eq!(first_byte(), took);
        }
    });
}
