// SPDX-License-Identifier: GPL-3.0-only
//! Rule sets: which rule decides, and their exchange under load.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use netback_filter::{
    Action, DecidedBy, Direction, Error, EventKind, Peer, PeerMatch, Protocol, Rule, RuleSet, ScopeConfig,
};
use support::frame::UDP;
use support::wire::Wire;
use support::*;

fn datagram(guest: IpAddr, peer: IpAddr, ports: (u16, u16)) -> Vec<u8> {
    let packet = frame::ip(
        guest,
        peer,
        UDP,
        (0, 0),
        &frame::udp(guest, peer, ports, b"payload"),
    );
    frame::from_guest(guest, &packet)
}

/// The most precise rule decides: proved by taking away, one after the other, the rule that decided.
#[test]
fn the_most_precise_rule_decides() {
    World::run(|world| {
        let mut datapath = world.attach(ScopeConfig::closed(), vec![]);
        let wire = Wire::open(world, "guest");
        let peers = vec![
            Peer {
                address: "10.0.0.0".parse().unwrap(),
                prefix_bits: 8,
                class: 4,
            },
            Peer {
                address: PEER4,
                prefix_bits: 32,
                class: 5,
            },
            Peer {
                address: "fd00::".parse().unwrap(),
                prefix_bits: 8,
                class: 5,
            },
        ];
        let at = |id, peer, protocol, port| Rule {
            id,
            scope: SCOPE,
            direction: Direction::FromGuest,
            peer,
            protocol,
            port,
            action: Action::Allow,
            mark: netback_filter::Mark::NONE,
        };
        let class = PeerMatch::Class(5);
        let mut rules = vec![
            at(1, class, Some(Protocol::UDP), Some(53)),
            at(2, class, Some(Protocol::UDP), None),
            at(3, class, None, None),
            at(4, PeerMatch::Any, Some(Protocol::UDP), Some(53)),
            at(5, PeerMatch::Any, Some(Protocol::UDP), None),
            at(6, PeerMatch::Any, None, None),
            // None of these is about the packets below.
            at(90, PeerMatch::Class(4), Some(Protocol::UDP), Some(53)),
            at(91, class, Some(Protocol::UDP), Some(54)),
            at(92, class, Some(Protocol::TCP), Some(53)),
            Rule {
                scope: SCOPE + 1,
                ..at(93, class, Some(Protocol::UDP), Some(53))
            },
            Rule {
                direction: Direction::ToGuest,
                ..at(94, class, Some(Protocol::UDP), Some(53))
            },
        ];
        let mut events = datapath.events().unwrap();
        let mut generation = 1;
        for expected in [1, 2, 3, 4, 5, 6, 0] {
            generation += 1;
            let set = RuleSet {
                peers: peers.clone(),
                rules: rules.clone(),
            };
            datapath.publish(&set, generation).unwrap();
            for (guest, peer) in FAMILIES {
                wire.send(&datagram(guest, peer, (5000 + generation as u16, 53)));
            }
            thread::sleep(Duration::from_millis(50));
            let told: Vec<_> = events
                .by_ref()
                .filter(|e| e.flow.key.protocol == Protocol::UDP)
                .collect();
            assert_eq!(told.len(), 2, "rule {expected}: {told:?}");
            for event in told {
                assert_eq!(
                    (event.flow.verdict.rule, event.flow.verdict.generation),
                    (expected, generation)
                );
                let denied = expected == 0;
                let decided_by = if denied {
                    DecidedBy::Default
                } else {
                    DecidedBy::Rule
                };
                assert_eq!(event.flow.decided_by, decided_by);
                assert_eq!(
                    event.kind,
                    if denied {
                        EventKind::Refused
                    } else {
                        EventKind::Start
                    }
                );
            }
            rules.retain(|r| r.id != expected);
        }
    });
}

#[test]
fn ipv4_does_not_fall_under_a_prefix_of_ipv6() {
    World::run(|world| {
        let mut datapath = world.attach(ScopeConfig::closed(), vec![]);
        let all6 = Peer {
            address: "::".parse().unwrap(),
            prefix_bits: 0,
            class: 3,
        };
        let rules = vec![Rule {
            peer: PeerMatch::Class(3),
            ..allow_tcp(1, 7000)
        }];
        datapath
            .publish(
                &RuleSet {
                    peers: vec![all6],
                    rules,
                },
                2,
            )
            .unwrap();
        let _listeners = [PEER4, PEER6].map(|peer| world.listen("peer", peer, 7000));
        world.connect("guest", (PEER6, 7000).into()).unwrap();
        world.connect("guest", (PEER4, 7000).into()).unwrap_err();
    });
}

#[test]
fn a_rule_set_that_fails_leaves_the_one_in_force() {
    World::run(|world| {
        let mut datapath = world.attach(ScopeConfig::closed(), vec![allow_tcp(1, 7000)]);
        let _listener = world.listen("peer", PEER4, 7000);
        let contradiction = RuleSet {
            peers: vec![],
            rules: vec![
                allow_tcp(1, 80),
                Rule {
                    action: DROP,
                    mark: netback_filter::Mark::NONE,
                    ..allow_tcp(2, 80)
                },
            ],
        };
        let error = datapath.publish(&contradiction, 2).unwrap_err();
        assert!(matches!(error, Error::Rules { generation: 2, .. }), "{error}");
        let room = world.config().rule_capacity as u16;
        let too_many = RuleSet {
            peers: vec![],
            rules: (1..=room + 1).map(|p| allow_tcp(1, p)).collect(),
        };
        let error = datapath.publish(&too_many, 2).unwrap_err();
        assert!(matches!(error, Error::Full { map: "rules", .. }), "{error}");
        assert_eq!(datapath.generation().unwrap(), 1);
        world.connect("guest", (PEER4, 7000).into()).unwrap();
        // What was written of it is gone: a full half still fits.
        let half = RuleSet {
            peers: vec![],
            rules: (1..=room / 2).map(|p| allow_tcp(1, p)).collect(),
        };
        for generation in 2..5 {
            datapath.publish(&half, generation).unwrap();
        }
    });
}

/// Two rule sets that both allow one port, each by another rule, are exchanged as fast as can be while new flows are
/// opened: every flow must be under a rule of the generation it names, and none may be denied between two.
#[test]
fn an_exchange_under_load_is_atomic() {
    World::run(|world| {
        let udp = |id| rule(id, Direction::FromGuest, Protocol::UDP, Some(53), Action::Allow);
        let filler = |id: u32| (1000..1200).map(move |port| allow_tcp(id, port));
        let set = |id| RuleSet {
            peers: vec![],
            rules: filler(id).chain([udp(id)]).collect(),
        };
        let mut datapath = world.attach(ScopeConfig::closed(), set(1).rules);
        let mut events = datapath.events().unwrap();
        let wire = Wire::open(world, "guest");
        let stop = Stop::default();
        let mut seen: HashMap<u32, u32> = HashMap::new();
        let mut generation = 1;
        // Who sends may not be given a processor for as long as some rule sets last.
        let patience = Instant::now() + Duration::from_secs(60);
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let mut sent = 0_u32;
                while !stop.is_set() {
                    // Each from a port of its own, and when those are used up to another address: each is decided anew.
                    let [third, fourth] = ((sent / 60_000) as u16).to_be_bytes();
                    let peer = IpAddr::from([10, 78, third, fourth]);
                    wire.send(&datagram(GUEST4, peer, (1024 + (sent % 60_000) as u16, 53)));
                    sent += 1;
                }
                sent
            });
            let running = stop.on_drop();
            while generation < 60 || (seen.len() <= 10 && Instant::now() < patience) {
                generation += 1;
                datapath
                    .publish(&set(1 + (generation - 1) % 2), generation)
                    .unwrap();
                for event in events.by_ref().filter(|e| e.flow.key.protocol == Protocol::UDP) {
                    let verdict = event.flow.verdict;
                    assert_eq!(event.kind, EventKind::Start, "{event:?}");
                    assert_eq!(verdict.rule, 1 + (verdict.generation - 1) % 2, "{event:?}");
                    *seen.entry(verdict.generation).or_default() += 1;
                }
            }
            drop(running);
            assert!(sender.join().unwrap() > 1000);
        });
        assert!(
            seen.len() > 10,
            "only {} of {generation} generations met a packet",
            seen.len()
        );
        let stats = datapath.stats().unwrap()[0].counters;
        assert_eq!((stats.malformed, stats.stray), (0, 0));
    });
}

/// A guest that has all the room there is loses flows of its own to new ones, and is not left without new ones.
#[test]
fn a_flow_begins_where_one_guest_has_all_the_room() {
    World::run(|world| {
        let allowed = rule(1, Direction::FromGuest, Protocol::UDP, Some(53), Action::Allow);
        let datapath = world.attach(ScopeConfig::closed(), vec![allowed]);
        let wire = Wire::open(world, "guest");
        // Of flows and verdicts together there is room for 8,192.
        let flows = 10_000_u16;
        for n in 0..flows {
            wire.send(&datagram(GUEST4, PEER4, (1024 + n, 53)));
        }
        let counters = || datapath.stats().unwrap()[0].counters;
        let begun = Instant::now();
        while counters().passed < u64::from(flows) && begun.elapsed() < Duration::from_secs(10) {
            thread::sleep(Duration::from_millis(10));
        }
        assert!(counters().passed >= u64::from(flows));
        assert_eq!(counters().flow_errors, 0);
    });
}

#[test]
fn a_flow_is_reported_when_it_starts_is_refused_and_ends() {
    World::run(|world| {
        let datapath = world.attach(ScopeConfig::closed(), vec![allow_tcp(1, 7000)]);
        let mut events = datapath.events().unwrap();
        let listener = world.listen("peer", PEER4, 7000);
        let (open, closed) = (SocketAddr::new(PEER4, 7000), SocketAddr::new(PEER4, 7001));
        let (from, denied) = (SocketAddr::new(GUEST4, 35000), SocketAddr::new(GUEST4, 35001));
        let client = world.connect_from("guest", from, open).unwrap();
        let (server, _) = listener.accept().unwrap();
        for _ in 0..3 {
            world.connect_from("guest", denied, closed).unwrap_err();
        }
        drop(client);
        drop(server);
        thread::sleep(Duration::from_millis(100));
        let told: Vec<_> = events
            .by_ref()
            .filter(|e| e.flow.key.protocol == Protocol::TCP)
            .collect();
        let kinds: Vec<_> = told.iter().map(|e| e.kind).collect();
        assert_eq!(
            kinds,
            [EventKind::Start, EventKind::Refused, EventKind::End],
            "{told:?}"
        );
        assert_eq!(told[0].flow.key, tcp_key(from, open));
        assert_eq!(told[1].flow.key, tcp_key(denied, closed));
        assert_eq!(
            (told[1].flow.verdict.action, told[1].flow.verdict.rule),
            (RESET, 0)
        );
        assert_eq!(told[2].flow.key, tcp_key(from, open));
        assert!(
            told[2].flow.ended && told[2].flow.packets.iter().all(|p| *p >= 2),
            "{:?}",
            told[2]
        );
        assert!(told[2].ns >= told[0].ns && told[2].enforced);

        // Verdicts of userspace are told of, too: once each.
        let writer = datapath.flow_writer();
        for rule in [60, 61] {
            writer
                .set(&tcp_key(denied, closed), verdict(RESET, rule))
                .unwrap();
            for _ in 0..2 {
                world.connect_from("guest", denied, closed).unwrap_err();
            }
        }
        let rules: Vec<_> = events.map(|e| (e.kind, e.flow.verdict.rule)).collect();
        assert_eq!(rules, [(EventKind::Refused, 60), (EventKind::Refused, 61)]);
    });
}

#[test]
fn a_full_ring_loses_events_and_no_packets() {
    World::run(|world| {
        let config = netback_filter::Config {
            event_bytes: 4096,
            ..world.config()
        };
        let mut datapath = netback_filter::Datapath::open(config).unwrap();
        datapath.set_scope(SCOPE, ScopeConfig::open()).unwrap();
        datapath
            .attach(
                VIF,
                netback_filter::VifConfig {
                    scope: SCOPE,
                    mac: None,
                },
            )
            .unwrap();
        let guest = Wire::open(world, "guest");
        let peer = Wire::open(world, "peer");
        for port in 0..100 {
            guest.send(&datagram(GUEST4, PEER4, (1024 + port, 53)));
        }
        let mut arrived = 0;
        peer.frames_until(Duration::from_secs(2), |f| {
            arrived += u32::from(frame::has_port(f, 53));
            arrived == 100
        });
        assert_eq!(arrived, 100);
        let lost = datapath.stats().unwrap()[0].counters.events_lost;
        let told = datapath
            .events()
            .unwrap()
            .filter(|e| e.flow.key.protocol == Protocol::UDP)
            .count();
        assert!(lost > 0 && told > 0);
        assert!(told as u64 + lost >= 100, "{told} told, {lost} lost");
    });
}
