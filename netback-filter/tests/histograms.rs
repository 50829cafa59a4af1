// SPDX-License-Identifier: GPL-3.0-only
//! Distributions over connections: by guest, class of peers and rule; bounded; and read while packets pass.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use netback_filter::{
    Action, Config, ConnectionHistograms, Datapath, Direction, Peer, PeerMatch, Protocol, Rule, RuleSet,
    VifConfig,
};
use support::frame::{ACK, RST, SYN, TCP, from_guest, from_peer, ip, tcp};
use support::wire::Ends;
use support::*;

const CLASS: u32 = 9;
const PORT: u16 = 7000;

fn rules(id: u32) -> RuleSet {
    RuleSet {
        peers: vec![Peer {
            address: PEER4,
            prefix_bits: 32,
            class: CLASS,
        }],
        rules: vec![
            Rule {
                peer: PeerMatch::Class(CLASS),
                ..allow_tcp(id, PORT)
            },
            allow_tcp(id + 1, PORT),
            rule(
                id + 2,
                Direction::ToGuest,
                Protocol::TCP,
                Some(PORT),
                Action::Allow,
            ),
        ],
    }
}

/// Of one class and rule.
fn of(datapath: &Datapath, class: u32, rule: u32) -> ConnectionHistograms {
    let all = datapath.histograms().unwrap();
    let found: Vec<_> = all
        .iter()
        .filter(|h| (h.peer_class, h.rule) == (class, rule))
        .collect();
    assert_eq!(found.len(), 1, "{all:?}");
    found[0].clone()
}

/// Connects, sends a question and waits for its answer, so many times; then closes.
fn talk(world: &World, from: &str, to: IpAddr, turns: usize) {
    let mut stream = world.connect(from, (to, PORT).into()).unwrap();
    for _ in 0..turns {
        stream.write_all(b"?").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        // Two of one tick count once; the longest is 10 ms.
        thread::sleep(Duration::from_millis(12));
    }
}

fn answer(world: &World, part: &str, address: IpAddr) {
    let listener = world.listen(part, address, PORT);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                let mut byte = [0];
                while let Ok(1) = stream.read(&mut byte) {
                    let _ = stream.write_all(&byte);
                }
            });
        }
    });
}

#[test]
fn connections_are_counted_by_class_and_rule() {
    World::run(|world| {
        let mut datapath = world.attach(no_adoption(), vec![]);
        datapath.publish(&rules(1), 2).unwrap();
        answer(world, "peer", PEER4);
        answer(world, "peer", PEER6);
        answer(world, "guest", GUEST4);
        for _ in 0..3 {
            talk(world, "guest", PEER4, 10);
        }
        talk(world, "guest", PEER6, 1);
        talk(world, "peer", GUEST4, 1);

        let known = of(&datapath, CLASS, 1);
        assert_eq!(
            (known.scope, known.generation, known.origin),
            (SCOPE, 2, Direction::FromGuest)
        );
        assert_eq!(known.setup_us.total(), 3);
        for rtt in &known.rtt_us {
            assert!((15..=30).contains(&rtt.total()), "{known:?}");
        }
        let median = known.rtt_us[0].quantile(0.5).unwrap();
        assert!(median < 100_000, "{median} µs over two veth pairs");
        assert!(known.rtt_us[0].mean().unwrap() < 100_000.0);
        // IPv6 has no class: the second rule.
        assert_eq!(of(&datapath, 0, 2).setup_us.total(), 1);
        // Towards the guest, with the class of who opened it.
        let inward = of(&datapath, CLASS, 3);
        assert_eq!((inward.setup_us.total(), inward.origin), (1, Direction::ToGuest));

        // A new generation has its own.
        datapath.publish(&rules(11), 3).unwrap();
        talk(world, "guest", PEER4, 1);
        assert_eq!(of(&datapath, CLASS, 11).setup_us.total(), 1);
        assert_eq!(of(&datapath, CLASS, 1).setup_us.total(), 3);
        datapath.detach(VIF).unwrap();
        datapath.remove_scope(SCOPE).unwrap();
        assert!(datapath.histograms().unwrap().is_empty());
    });
}

/// A frame of a connection from `port` with chosen numbers.
fn segment(guest: bool, port: u16, flags: u8, numbers: (u32, u32), window: u16, payload: &[u8]) -> Vec<u8> {
    let (source, dest, ports) = match guest {
        true => (GUEST4, PEER4, (port, PORT)),
        false => (PEER4, GUEST4, (PORT, port)),
    };
    let mut bytes = tcp(source, dest, ports, flags, payload);
    bytes[4..8].copy_from_slice(&numbers.0.to_be_bytes());
    bytes[8..12].copy_from_slice(&numbers.1.to_be_bytes());
    bytes[14..16].copy_from_slice(&window.to_be_bytes());
    let packet = ip(source, dest, TCP, (0, 0), &bytes);
    match guest {
        true => from_guest(source, &packet),
        false => from_peer(source, &packet),
    }
}

#[test]
fn times_and_repetitions_fall_into_their_intervals() {
    World::run(|world| {
        let mut datapath = world.attach(no_adoption(), vec![]);
        datapath.publish(&rules(1), 2).unwrap();
        let ends = Ends::open(world);
        assert!(ends.leaves(&segment(true, 5000, SYN, (0, 0), 1000, b"")));
        thread::sleep(Duration::from_millis(40));
        assert!(ends.arrives(&segment(false, 5000, SYN | ACK, (0, 1), 1000, b"")));
        assert!(ends.leaves(&segment(true, 5000, ACK, (1, 1), 1000, b"data")));
        thread::sleep(Duration::from_millis(40));
        assert!(ends.arrives(&segment(false, 5000, ACK, (1, 5), 1000, b"")));
        // The same again, five times; and twice a window that is shut.
        for _ in 0..5 {
            assert!(ends.leaves(&segment(true, 5000, ACK, (1, 1), 1000, b"data")));
        }
        for _ in 0..2 {
            assert!(ends.arrives(&segment(false, 5000, ACK, (1, 5), 0, b"")));
        }
        let open = of(&datapath, CLASS, 1);
        assert_eq!(open.retransmissions[0].total(), 0, "it has not ended");
        assert!(ends.leaves(&segment(true, 5000, RST, (5, 1), 1000, b"")));

        let all = of(&datapath, CLASS, 1);
        // 32,768 to 65,535 µs have 16 bits; a busy machine may make more of it, never less.
        let least = |counts: &[u64]| counts.iter().position(|count| *count > 0).unwrap();
        assert!(
            least(&all.setup_us.counts) >= 16 && all.setup_us.total() == 1,
            "{all:?}"
        );
        assert!(all.setup_us.sum >= 40_000 && all.setup_us.quantile(0.5).unwrap() >= 40_000);
        assert!(least(&all.rtt_us[0].counts) >= 16, "{all:?}");
        assert_eq!(all.rtt_us[1].total(), 0, "the guest was asked nothing");
        assert_eq!(all.retransmissions[0].counts[3], 1, "5 have 3 bits: {all:?}");
        assert_eq!(
            (all.retransmissions[0].sum, all.retransmissions[0].total()),
            (5, 1)
        );
        assert_eq!(all.retransmissions[1].counts[0], 1);
        assert_eq!((all.zero_windows[1].counts[2], all.zero_windows[1].sum), (1, 2));
        assert_eq!(all.zero_windows[0].counts[0], 1);
    });
}

#[test]
fn more_than_there_is_room_for_costs_history_and_no_packets() {
    World::run(|world| {
        let config = Config {
            histogram_capacity: 16,
            peer_capacity: 1024,
            ..world.config()
        };
        let mut datapath = Datapath::open(config).unwrap();
        datapath.set_scope(SCOPE, no_adoption()).unwrap();
        let vif = VifConfig {
            scope: SCOPE,
            mac: Some(GUEST_MAC),
        };
        datapath.attach(VIF, vif).unwrap();
        answer(world, "peer", PEER4);
        for generation in 1..80 {
            datapath.publish(&rules(generation * 10), generation).unwrap();
            talk(world, "guest", PEER4, 1);
        }
        let all = datapath.histograms().unwrap();
        assert!(!all.is_empty() && all.len() < 79, "{}", all.len());
        let newest = all.iter().find(|h| h.generation == 79).expect("the newest");
        assert_eq!(newest.setup_us.total(), 1);
        let to: SocketAddr = (PEER4, PORT).into();
        assert!(world.connect("guest", to).is_ok());
    });
}
