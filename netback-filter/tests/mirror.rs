// SPDX-License-Identifier: GPL-3.0-only
//! Copies of a share of flows: whole flows, exactly the share's, and the flows are none the worse.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::io::{Read, Write};
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use netback_filter::{
    Action, Datapath, Direction, FlowKey, Mark, Mirror, MirrorStats, Protocol, Rule, ScopeConfig, Share,
    Verdict, VifConfig,
};
use support::frame::{CTAG, TCP, UDP, from_guest, from_peer, has_port, l4, l4_checksum, tagged};
use support::site::{self, SITES, to_service};
use support::wire::{Ends, Wire};
use support::*;

const PORT: u16 = 80;
/// The guest that gets copies, and its vif.
const WATCHER: u32 = 9;
const WATCHER_VIF: &str = "vif3.0";
const WATCHER_MAC: [u8; 6] = [0x00, 0x16, 0x3e, 0, 0, 3];

/// A third guest, which no bridge leads to: what it gets are copies.
fn watcher(world: &World, datapath: &mut Datapath) -> Wire {
    let ns = world.add("watcher");
    let mac = text(WATCHER_MAC);
    world.ip(
        "dom0",
        &format!("link add {WATCHER_VIF} type veth peer name eth0 address {mac} netns {ns}"),
    );
    // Nor has dom0 to it.
    world.ip("dom0", &format!("link set {WATCHER_VIF} addrgenmode none up"));
    // It has nothing to say.
    world.exec("watcher", "sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
    world.ip("watcher", "link set eth0 promisc on up");
    // All that is not a copy is denied to it.
    datapath.set_scope(WATCHER, no_adoption()).unwrap();
    let config = VifConfig {
        scope: WATCHER,
        mac: Some(WATCHER_MAC),
    };
    datapath.attach(WATCHER_VIF, config).unwrap();
    Wire::open(world, "watcher")
}

fn mirror(scope: u32, hundredths: u16) -> Mark {
    Mark {
        mirror: Mirror::new(scope, Share::new(hundredths).unwrap()),
        ..Mark::NONE
    }
}

fn allowed(mark: Mark) -> Vec<Rule> {
    [Protocol::TCP, Protocol::UDP]
        .map(|protocol| Rule {
            mark,
            ..rule(1, Direction::FromGuest, protocol, Some(PORT), Action::Allow)
        })
        .to_vec()
}

fn udp(source: IpAddr, dest: IpAddr, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    frame::ip(
        source,
        dest,
        UDP,
        (0, 0),
        &frame::udp(source, dest, ports, payload),
    )
}

fn copies(datapath: &Datapath) -> MirrorStats {
    let all = datapath.mirrored().unwrap();
    all.into_iter()
        .find(|stats| stats.scope == WATCHER)
        .expect("its vif is there")
}

/// What came within a moment of this port.
fn seen(wire: &Wire, port: u16) -> Vec<Vec<u8>> {
    let mut frames = wire.frames_until(Duration::from_millis(200), |_| false);
    frames.retain(|f| has_port(f, port));
    frames
}

/// `flow_hash` of bpf/mirror.h.
fn hash(local: IpAddr, remote: IpAddr, ports: (u16, u16), proto: u8) -> u32 {
    let mix = |hash: u32, word: u32| {
        let mut hash = (hash ^ word).wrapping_mul(0x85eb_ca6b);
        hash ^= hash >> 13;
        hash = hash.wrapping_mul(0xc2b2_ae35);
        hash ^ hash >> 16
    };
    let words = |address: IpAddr| {
        let octets = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let word = |at: usize| u32::from_ne_bytes(octets[at..at + 4].try_into().unwrap());
        [word(0), word(4), word(8), word(12)]
    };
    let mut sum = 0;
    for (a, b) in words(local).into_iter().zip(words(remote)) {
        sum = mix(mix(sum, a), b);
    }
    sum = mix(sum, u32::from(ports.0.to_be()) << 16 | u32::from(ports.1.to_be()));
    mix(sum, proto.into())
}

#[test]
fn a_share_of_the_flows_is_copied_whole() {
    const FLOWS: u16 = 1000;
    const SHARE: u16 = 500;
    World::run(|world| {
        let mut datapath = world.attach(no_adoption(), allowed(mirror(WATCHER, SHARE)));
        let watcher = watcher(world, &mut datapath);
        let ends = Ends::open(world);
        let mut chosen = Vec::new();
        let mut frames = Vec::new();
        for number in 0..FLOWS {
            let (guest, peer) = FAMILIES[usize::from(number % 2)];
            let port = 10_000 + number;
            let place = u64::from(hash(guest, peer, (port, PORT), UDP)) * 10_000;
            if place >> 32 < u64::from(SHARE) {
                chosen.push(port);
            }
            for payload in [b"out 1", b"out 2"] {
                ends.guest
                    .send(&from_guest(guest, &udp(guest, peer, (port, PORT), payload)));
            }
            ends.peer
                .send(&from_peer(guest, &udp(peer, guest, (PORT, port), b"back1")));
            if number % 50 == 49 {
                frames.extend(watcher.frames_until(Duration::from_millis(20), |_| false));
            }
        }
        frames.extend(watcher.frames_until(Duration::from_millis(200), |_| false));
        // Neighbours of its vif have their say.
        frames.retain(|f| l4(f).is_some_and(|(proto, _)| proto == UDP));
        // 5 % of 1,000 is 50; a fair hash is within four times the deviation of seven.
        assert!((22..=78).contains(&chosen.len()), "{} flows", chosen.len());
        let mut of_flows = std::collections::BTreeMap::<u16, Vec<&[u8]>>::new();
        for frame in &frames {
            let (_, l4) = l4(frame).expect("only these were kept");
            let ports = (
                u16::from_be_bytes([l4[0], l4[1]]),
                u16::from_be_bytes([l4[2], l4[3]]),
            );
            let port = ports.0.max(ports.1);
            of_flows.entry(port).or_default().push(&l4[8..13]);
        }
        let ports: Vec<u16> = of_flows.keys().copied().collect();
        assert_eq!(ports, chosen, "these flows and no others");
        for (port, payloads) in of_flows {
            assert_eq!(payloads, [b"out 1", b"out 2", b"back1"], "port {port}");
        }
        let stats = copies(&datapath);
        let bytes: usize = frames.iter().map(Vec::len).sum();
        assert_eq!(
            (stats.packets, stats.bytes),
            (3 * chosen.len() as u64, bytes as u64)
        );
        let counted = counters(&datapath, Direction::FromGuest);
        // The guest's stack also asks for its neighbours.
        assert!(
            counted.passed >= 2 * u64::from(FLOWS) && counted.denied == 0,
            "{counted:?}"
        );
        // A copy is no packet of the guest that gets it.
        let all = datapath.stats().unwrap();
        let at_watcher = all.iter().filter(|stats| stats.scope == WATCHER);
        assert!(at_watcher.into_iter().all(|stats| stats.counters.passed == 0));
    });
}

#[test]
fn original_and_copy_are_the_same_and_add_up() {
    World::run(|world| {
        let mut datapath = world.attach(no_adoption(), allowed(mirror(WATCHER, 10_000)));
        let watcher = watcher(world, &mut datapath);
        let ends = Ends::open(world);
        for (guest, peer) in FAMILIES {
            for proto in [TCP, UDP] {
                let packet = |from, to, ports, flags| match proto {
                    TCP => frame::tcp_packet(from, to, ports, flags),
                    _ => udp(from, to, ports, b"payload"),
                };
                let nobody = [0x00, 0x16, 0x3e, 0, 0, 8];
                let out = packet(guest, peer, (5000, PORT), frame::SYN);
                let out = frame::ethernet(GUEST_MAC, nobody, frame::ethertype_of(guest), &out);
                let back = packet(peer, guest, (PORT, 5000), frame::SYN | frame::ACK);
                let back = from_peer(guest, &back);
                assert!(ends.leaves(&out) && ends.arrives(&back), "{guest} {proto}");
                // The guest's own stack may say something to that.
                assert_eq!(seen(&watcher, 5000)[..2], [out, back], "{guest} {proto}");
                // In a VLAN it is another flow, and its copies bear the tag.
                let tagged = tagged(
                    &from_guest(guest, &udp(guest, peer, (5001, PORT), b"tagged")),
                    CTAG,
                    5,
                );
                assert!(ends.leaves(&tagged));
                assert!(watcher.sees(Duration::from_millis(300), |f| f == tagged));
            }
        }
    });
}

/// 1 MB each way, by a stack that leaves segmentation and sums to the device.
#[test]
fn large_segments_come_whole_and_the_connection_is_none_the_worse() {
    const BYTES: usize = 1_000_000;
    World::run(|world| {
        let mut datapath = world.attach(no_adoption(), allowed(mirror(WATCHER, 10_000)));
        let watcher = watcher(world, &mut datapath);
        for (_, peer) in FAMILIES {
            let pattern: Vec<u8> = (0..BYTES).map(|i| (i % 251) as u8).collect();
            let listener = world.listen("peer", peer, PORT);
            let sent = pattern.clone();
            let server = thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut got = vec![0; BYTES];
                stream.read_exact(&mut got).unwrap();
                stream.write_all(&sent).unwrap();
                got
            });
            let mut client = world.connect("guest", (peer, PORT).into()).unwrap();
            let frames = thread::scope(|scope| {
                let reader = scope.spawn(|| {
                    let mut frames = Vec::new();
                    loop {
                        let more = watcher.frames_until(Duration::from_millis(700), |_| false);
                        if more.is_empty() {
                            return frames;
                        }
                        frames.extend(more);
                    }
                });
                client.write_all(&pattern).unwrap();
                let mut got = vec![0; BYTES];
                client.read_exact(&mut got).unwrap();
                assert!(
                    got == pattern && server.join().unwrap() == pattern,
                    "what arrives is what was sent"
                );
                reader.join().unwrap()
            });
            assert!(frames.iter().any(|f| f.len() > 10_000), "large ones among them");
            // By port and sequence number: each byte of both directions is there.
            for from_server in [false, true] {
                let mut bytes = std::collections::BTreeMap::new();
                let mut first = None;
                for frame in &frames {
                    let Some((TCP, l4)) = l4(frame) else { continue };
                    if (u16::from_be_bytes([l4[0], l4[1]]) == PORT) != from_server {
                        continue;
                    }
                    let seq = u32::from_be_bytes(l4[4..8].try_into().unwrap());
                    let payload = &l4[usize::from(l4[12] >> 4) * 4..];
                    if l4[13] & frame::SYN != 0 {
                        first = Some(seq.wrapping_add(1));
                    } else if !payload.is_empty() {
                        let at = seq.wrapping_sub(first.expect("a SYN came first")) as usize;
                        bytes.insert(at, payload);
                    }
                }
                let mut end = 0;
                for (at, payload) in bytes {
                    assert!(at <= end, "bytes {end} to {at} are missing");
                    assert_eq!(payload, &pattern[at..at + payload.len()]);
                    end = end.max(at + payload.len());
                }
                assert_eq!(end, BYTES, "from server: {from_server}");
            }
        }
    });
}

#[test]
fn a_verdict_of_userspace_bears_copies() {
    World::run(|world| {
        let mut datapath = world.attach(no_adoption(), vec![]);
        let watcher = watcher(world, &mut datapath);
        let ends = Ends::open(world);
        let writer = datapath.flow_writer();
        let copied = |mark| Verdict {
            mark,
            ..verdict(Action::Allow, 3)
        };
        let key = FlowKey {
            protocol: Protocol::UDP,
            ..tcp_key((GUEST4, 5000).into(), (PEER4, 99).into())
        };
        let frame = from_guest(GUEST4, &udp(GUEST4, PEER4, (5000, 99), b"payload"));
        writer.set(&key, copied(mirror(WATCHER, 10_000))).unwrap();
        assert!(ends.leaves(&frame));
        assert_eq!(seen(&watcher, 5000), std::slice::from_ref(&frame));
        let record = datapath.flows(None).next().unwrap().unwrap();
        assert_eq!(record.verdict.mark, mirror(WATCHER, 10_000));
        writer.revise(&key, copied(Mark::NONE)).unwrap();
        assert!(ends.leaves(&frame));
        assert!(seen(&watcher, 5000).is_empty());
    });
}

#[test]
fn later_fragments_are_copied_with_the_first() {
    World::run(|world| {
        let mut datapath = world.attach(no_adoption(), allowed(mirror(WATCHER, 10_000)));
        let watcher = watcher(world, &mut datapath);
        let ends = Ends::open(world);
        let mut first = frame::ip(
            GUEST4,
            PEER4,
            UDP,
            (7, 0x2000),
            &frame::udp(GUEST4, PEER4, (5000, PORT), b"payload."),
        );
        first[24] = 1; // its length is that of the whole datagram
        let later = frame::ip(GUEST4, PEER4, UDP, (7, 2), b"the later fragment");
        for packet in [first, later] {
            let frame = from_guest(GUEST4, &packet);
            assert!(ends.leaves(&frame));
            assert!(watcher.sees(Duration::from_millis(300), |f| f == frame));
        }
    });
}

/// Of a redirected flow, copies bear the names that its guest knows, either way.
#[test]
fn a_redirected_flow_is_copied_as_its_guest_has_it() {
    World::run(|world| {
        let mut datapath = site::open_with(world, no_adoption(), allowed(mirror(WATCHER, 10_000)), &[1]);
        let watcher = watcher(world, &mut datapath);
        let ends = Ends::open(world);
        for (guest, _, vip) in SITES {
            let backend = site::end(&site::backend(vip, 1));
            let out = to_service(guest, &udp(guest, vip, (5000, PORT), b"out"));
            let back = udp(backend.ip(), guest, (backend.port(), 5000), b"back");
            ends.guest.send(&out);
            assert!(
                ends.peer
                    .sees(Duration::from_millis(300), |f| has_port(f, backend.port()))
            );
            ends.peer.send(&from_peer(guest, &back));
            let named = from_peer(guest, &udp(vip, guest, (PORT, 5000), b"back"));
            assert_eq!(seen(&watcher, 5000), [out, named], "{guest}");
        }
    });
}

/// The flow does not notice who gets copies: nobody, itself, or one that is gone.
#[test]
fn no_flow_depends_on_who_gets_copies() {
    World::run(|world| {
        let mut datapath = world.attach(no_adoption(), allowed(mirror(WATCHER, 10_000)));
        let ends = Ends::open(world);
        let passes = |port| {
            let (out, back) = (
                from_guest(GUEST4, &udp(GUEST4, PEER4, (port, PORT), b"payload")),
                from_peer(GUEST4, &udp(PEER4, GUEST4, (PORT, port), b"payload")),
            );
            assert!(ends.leaves(&out) && ends.arrives(&back), "{port}");
        };
        passes(5000);
        let watcher = watcher(world, &mut datapath);
        passes(5000);
        assert_eq!(copies(&datapath).packets, 2);
        drop(watcher);
        // Before anybody learns that it is gone, and after.
        world.ip("dom0", &format!("link del {WATCHER_VIF}"));
        passes(5000);
        passes(5001);
        assert_eq!(copies(&datapath).packets, 2);
        datapath.prune().unwrap();
        assert!(
            datapath
                .mirrored()
                .unwrap()
                .iter()
                .all(|stats| stats.scope != WATCHER)
        );
        passes(5000);
        passes(5002);
        // To itself.
        let rules = allowed(mirror(SCOPE, 10_000));
        datapath
            .publish(&netback_filter::RuleSet { peers: vec![], rules }, 2)
            .unwrap();
        passes(5003);
        assert_eq!(datapath.mirrored().unwrap()[0].packets, 0);
        // What only monitors alters nothing, and sends nothing.
        let config = ScopeConfig {
            monitor_only: true,
            ..no_adoption()
        };
        datapath.set_scope(SCOPE, config).unwrap();
        passes(5004);
    });
}

/// What is denied is not copied, and a copy is not copied again: who gets copies may be mirrored itself.
#[test]
fn copies_are_of_what_passes_and_go_no_further() {
    World::run(|world| {
        let other = Rule {
            scope: WATCHER,
            mark: mirror(SCOPE, 10_000),
            ..rule(2, Direction::ToGuest, Protocol::UDP, None, Action::Allow)
        };
        let mut rules = allowed(mirror(WATCHER, 10_000));
        rules.push(other);
        let mut datapath = world.attach(no_adoption(), rules);
        let watcher = watcher(world, &mut datapath);
        let ends = Ends::open(world);
        assert!(!ends.leaves(&from_guest(
            GUEST4,
            &udp(GUEST4, PEER4, (5000, PORT + 1), b"payload")
        )));
        assert!(seen(&watcher, 5000).is_empty());
        let frame = from_guest(GUEST4, &udp(GUEST4, PEER4, (5001, PORT), b"payload"));
        assert!(ends.leaves(&frame));
        assert_eq!(seen(&watcher, 5001), [frame]);
        assert!(seen(&ends.guest, 5001).is_empty());
        // The original takes no mark along that would open another's vif to it.
        datapath.set_scope(8, no_adoption()).unwrap();
        let config = VifConfig {
            scope: 8,
            mac: Some(PEER_MAC),
        };
        datapath.attach("vif2.0", config).unwrap();
        let frame = from_guest(GUEST4, &udp(GUEST4, PEER4, (5003, PORT), b"payload"));
        assert!(!ends.leaves(&frame));
        assert_eq!(seen(&watcher, 5003), [frame]);
        // Without the mark the same frame is one for another.
        let stray = frame::ethernet(
            PEER_MAC,
            PEER_MAC,
            0x0800,
            &udp(GUEST4, PEER4, (5002, PORT), b"payload"),
        );
        let refused = Wire::open_on(world, "dom0", WATCHER_VIF).try_send(&stray);
        assert_eq!(refused.map_err(|e| e.raw_os_error()), Err(Some(libc::ENOBUFS)));
        assert!(seen(&watcher, 5002).is_empty());
    });
}

#[test]
fn sums_of_what_a_stack_sends_are_right_after_a_copy() {
    World::run(|world| {
        let mut datapath = world.attach(no_adoption(), allowed(mirror(WATCHER, 10_000)));
        let watcher = watcher(world, &mut datapath);
        // The device computes nothing, so that all is on the wire.
        world.exec("guest", "ethtool -K eth0 tx off");
        let (guest, peer) = FAMILIES[0];
        let server = world.udp("peer", peer, PORT);
        let client = world.udp("guest", guest, 5000);
        client.send_to(b"payload", (peer, PORT)).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(server.recv_from(&mut buffer).unwrap().0, 7);
        let frames = seen(&watcher, 5000);
        assert_eq!(frames.len(), 1);
        assert_eq!(l4_checksum(guest, peer, UDP, l4(&frames[0]).unwrap().1), 0);
    });
}
