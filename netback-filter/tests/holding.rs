// SPDX-License-Identifier: GPL-3.0-only
//! Packets that are held until it is known whose they are: what comes back is judged like any other, once; and there are bounds.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use netback_filter::{
    Action, Attach, Config, Datapath, DecidedBy, Direction, Event, EventChannel, EventKind, Events, FlowKey,
    HeldFrame, Lock, Prohibited, Protocol, Refuse, Release, Report, RuleSet, ScopeConfig, Target, Verdict,
    VifConfig,
};
use support::capture::Capture;
use support::frame::{ACK, SYN, tcp_packet};
use support::wire::{Ends, Wire};
use support::*;

const HOLD: Action = Action::Deny(Refuse::Hold);
const PROHIBIT: Action = Action::Deny(Refuse::Prohibited);
const PORT: u16 = 7000;
const SECOND: Duration = Duration::from_secs(1);
/// What bpf/hold.h gives away of one guest in 100 ms.
const MOST: u64 = 64;

/// Everything is held: both ways, TCP and UDP.
fn rules() -> Vec<netback_filter::Rule> {
    let mut rules = Vec::new();
    for direction in Direction::BOTH {
        for protocol in [Protocol::TCP, Protocol::UDP] {
            rules.push(rule(rules.len() as u32 + 1, direction, protocol, None, HOLD));
        }
    }
    rules
}

fn open(world: &World, config: Config) -> Datapath {
    let mut datapath = Datapath::open(config).unwrap();
    datapath.set_scope(SCOPE, no_adoption()).unwrap();
    let set = RuleSet {
        peers: vec![],
        rules: rules(),
    };
    datapath.publish(&set, 1).unwrap();
    datapath.attach(VIF, VIF_CONFIG).unwrap();
    assert!(world.pin_dir().exists());
    datapath
}

const VIF_CONFIG: VifConfig = VifConfig {
    scope: SCOPE,
    mac: Some(GUEST_MAC),
};

fn next(events: &mut Events) -> Report {
    let end = Instant::now() + 5 * SECOND;
    loop {
        if let Some(report) = events.report() {
            return report;
        }
        assert!(Instant::now() < end, "no report");
        thread::sleep(Duration::from_millis(1));
    }
}

fn next_held(events: &mut Events) -> HeldFrame {
    match next(events) {
        Report::Held(frame) => frame,
        Report::Event(event) => panic!("{event:?} in place of a frame"),
    }
}

fn next_event(events: &mut Events) -> Event {
    match next(events) {
        Report::Event(event) => event,
        Report::Held(frame) => panic!("{:?} in place of an event", frame.key),
    }
}

/// A frame that is the first of its flow, and its report.
fn first_held(events: &mut Events) -> HeldFrame {
    let frame = next_held(events);
    let event = next_event(events);
    assert_eq!((event.kind, event.flow.key), (EventKind::Refused, frame.key));
    assert_eq!(event.flow.verdict.action, HOLD);
    frame
}

fn verdict_from(origin: Direction, action: Action) -> Verdict {
    Verdict {
        origin,
        ..verdict(action, 9)
    }
}

/// A datagram without a flow: its socket is not connected.
fn send(from: &UdpSocket, to: IpAddr, what: &[u8]) {
    from.send_to(what, (to, PORT)).unwrap();
}

fn received(socket: &UdpSocket) -> Option<Vec<u8>> {
    let mut buffer = [0; 2000];
    let length = socket.recv(&mut buffer).ok()?;
    Some(buffer[..length].to_vec())
}

#[test]
fn the_first_datagram_of_an_unknown_flow_arrives_with_a_sum_that_is_right() {
    for channel in [EventChannel::Ring, EventChannel::PerfArray] {
        World::run(|world| {
            let config = Config {
                events: channel,
                ..world.config()
            };
            let datapath = open(world, config);
            let (mut events, release) = (datapath.events().unwrap(), Release::open().unwrap());
            for (round, (guest, peer)) in FAMILIES.into_iter().enumerate() {
                let (from, to) = (world.udp("guest", guest, 0), world.udp("peer", peer, PORT));
                let capture = Capture::open(world, "peer");
                // Of odd length: the last byte is summed like two.
                send(&from, peer, b"first");
                let frame = first_held(&mut events);
                assert_eq!(frame.direction, Direction::FromGuest);
                assert_eq!(frame.key.local, from.local_addr().unwrap());
                assert_eq!(frame.key.remote, SocketAddr::new(peer, PORT));
                assert_eq!(received(&to), None, "it is held");
                datapath
                    .flow_writer()
                    .settle(&frame.key, verdict(Action::Allow, 9))
                    .unwrap();
                release.send(&frame).unwrap();
                assert_eq!(
                    received(&to).as_deref(),
                    Some(&b"first"[..]),
                    "{channel:?} {guest}"
                );
                send(&from, peer, b"second");
                assert_eq!(received(&to).as_deref(), Some(&b"second"[..]));
                let packets = capture.packets();
                let first = packets.iter().find(|p| p.payload == 5).expect("the datagram");
                assert!(
                    !first.partial && first.wrong_sum().is_none(),
                    "{:?}",
                    first.wrong_sum()
                );

                let stats = counters(&datapath, Direction::FromGuest);
                let rounds = round as u64 + 1;
                assert_eq!((stats.held, stats.released, stats.unheld), (rounds, rounds, 0));
                assert_eq!(stats.denied, 0);
                let flow = datapath.flows(None).map(Result::unwrap);
                let flow = flow.into_iter().find(|f| f.key == frame.key).unwrap();
                assert_eq!(
                    (flow.packets, flow.decided_by),
                    ([2, 0], DecidedBy::Lookup),
                    "counted once each"
                );
                assert_eq!(events.report(), None, "nothing was refused");
            }
        });
    }
}

/// Holds what comes and gives each flow `action`, as a lookup would.
fn decide_each(datapath: &Datapath, action: Action, stop: &Stop) {
    let (mut events, release) = (datapath.events().unwrap(), Release::open().unwrap());
    let (writer, mut prohibited) = (datapath.flow_writer(), Prohibited::open().unwrap());
    let vifs = datapath.attached().unwrap();
    let mut frames = Vec::new();
    while !stop.is_set() {
        match events.report() {
            Some(Report::Held(frame)) => frames.push(frame),
            Some(Report::Event(event)) if event.flow.verdict.action == HOLD => {
                let origin = event.flow.verdict.origin;
                writer
                    .settle(&event.flow.key, verdict_from(origin, action))
                    .unwrap();
                for frame in frames.drain(..) {
                    release.send(&frame).unwrap();
                }
            }
            Some(Report::Event(event)) => {
                prohibited.answer(&event, &vifs).unwrap();
            }
            None => thread::sleep(Duration::from_millis(1)),
        }
    }
}

#[test]
fn a_connection_comes_about_before_its_syn_is_sent_again() {
    for attach in [Attach::Clsact, Attach::Tcx] {
        if attach == Attach::Tcx && !has_tcx() {
            continue;
        }
        World::run(|world| {
            let config = Config {
                attach,
                ..world.config()
            };
            let datapath = open(world, config);
            let stop = Stop::default();
            thread::scope(|scope| {
                scope.spawn(|| world.inside("dom0", || decide_each(&datapath, Action::Allow, &stop)));
                let _running = stop.on_drop();
                for (guest, peer) in FAMILIES {
                    let _listener = world.listen("peer", peer, PORT);
                    let began = Instant::now();
                    let stream = world.connect("guest", (peer, PORT).into()).unwrap();
                    let took = began.elapsed();
                    assert!(took < SECOND * 3 / 4, "{attach:?}: {took:?}");
                    let key = tcp_key(stream.local_addr().unwrap(), stream.peer_addr().unwrap());
                    let mut flows = datapath.flows(None).map(Result::unwrap);
                    let flow = flows.find(|f| f.key == key).unwrap();
                    assert_eq!(flow.retransmissions, [0, 0], "{guest}");
                    // Towards the guest likewise.
                    let _listener = world.listen("guest", guest, PORT);
                    let began = Instant::now();
                    world.connect("peer", (guest, PORT).into()).unwrap();
                    let took = began.elapsed();
                    assert!(took < SECOND * 3 / 4, "{attach:?}: {took:?}");
                }
                let stats = counters(&datapath, Direction::ToGuest);
                assert_eq!((stats.held, stats.released, stats.denied), (2, 2, 0));
            });
        });
    }
}

#[test]
fn what_is_denied_after_all_is_an_error_at_once() {
    World::run(|world| {
        let datapath = open(world, world.config());
        let stop = Stop::default();
        thread::scope(|scope| {
            scope.spawn(|| world.inside("dom0", || decide_each(&datapath, RESET, &stop)));
            let _running = stop.on_drop();
            for (guest, peer) in FAMILIES {
                let began = Instant::now();
                let error = world.connect("guest", (peer, PORT).into()).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{guest}");
                assert!(began.elapsed() < SECOND * 3 / 4, "{:?}", began.elapsed());
                let socket = world.udp("guest", guest, 0);
                socket.connect((peer, PORT)).unwrap();
                socket.set_read_timeout(Some(5 * SECOND)).unwrap();
                socket.send(b"?").unwrap();
                let error = socket.recv(&mut [0; 9]).expect_err("nothing came");
                assert_eq!(error.raw_os_error(), prohibited(guest), "{error}");
            }
        });
        let stats = counters(&datapath, Direction::FromGuest);
        assert_eq!((stats.held, stats.released), (4, 4));
        assert_eq!((stats.denied, stats.resets, stats.passed), (4, 2, 0));
    });
}

/// By ICMP, TCP too, and whichever end asks.
#[test]
fn what_is_prohibited_after_all_is_told_at_once() {
    World::run(|world| {
        let datapath = open(world, world.config());
        let stop = Stop::default();
        thread::scope(|scope| {
            scope.spawn(|| world.inside("dom0", || decide_each(&datapath, PROHIBIT, &stop)));
            let _running = stop.on_drop();
            for (guest, peer) in FAMILIES {
                for (from, own, to) in [("guest", guest, peer), ("peer", peer, guest)] {
                    let began = Instant::now();
                    let error = world.connect(from, (to, PORT).into()).unwrap_err();
                    assert_eq!(error.raw_os_error(), prohibited(guest), "{from}: {error}");
                    assert!(began.elapsed() < SECOND * 3 / 4, "{:?}", began.elapsed());
                    let socket = world.udp(from, own, 0);
                    socket.connect((to, PORT)).unwrap();
                    socket.set_read_timeout(Some(5 * SECOND)).unwrap();
                    socket.send(b"?").unwrap();
                    let error = socket.recv(&mut [0; 9]).expect_err("nothing came");
                    assert_eq!(error.raw_os_error(), prohibited(guest), "{from}: {error}");
                }
            }
        });
        for direction in Direction::BOTH {
            let stats = counters(&datapath, direction);
            assert_eq!((stats.held, stats.released), (4, 4));
            assert_eq!((stats.denied, stats.resets), (4, 0));
        }
    });
}

#[test]
fn frames_of_one_flow_keep_their_order() {
    World::run(|world| {
        let datapath = open(world, world.config());
        let (mut events, release) = (datapath.events().unwrap(), Release::open().unwrap());
        let (from, to) = (world.udp("guest", GUEST4, 0), world.udp("peer", PEER4, PORT));
        for number in 0..20 {
            send(&from, PEER4, &[number]);
        }
        if counters(&datapath, Direction::FromGuest).unheld > 0 {
            println!("not tried: this machine took longer to send them than a flow's frames are held");
            return;
        }
        let mut frames = vec![first_held(&mut events)];
        frames.extend((1..20).map(|_| next_held(&mut events)));
        let key = frames[0].key;
        datapath
            .flow_writer()
            .settle(&key, verdict(Action::Allow, 9))
            .unwrap();
        for frame in &frames {
            release.send(frame).unwrap();
        }
        let got: Vec<_> = (0..20).map(|_| received(&to).expect("all of them")[0]).collect();
        assert!(got.is_sorted(), "{got:?}");
    });
}

#[test]
fn what_is_beyond_the_bounds_is_dropped_and_counted() {
    World::run(|world| {
        let mut datapath = open(world, world.config());
        let mut events = datapath.events().unwrap();
        let wire = Wire::open(world, "guest");
        let syn = |port, payload: &[u8]| {
            let segment = frame::tcp(GUEST4, PEER4, (port, PORT), SYN, payload);
            frame::from_guest(GUEST4, &frame::ip(GUEST4, PEER4, frame::TCP, (0, 0), &segment))
        };
        let came = |frames: u64, datapath: &Datapath| {
            let end = Instant::now() + 5 * SECOND;
            loop {
                let stats = counters(datapath, Direction::FromGuest);
                if stats.held + stats.denied >= frames {
                    return stats;
                }
                assert!(Instant::now() < end, "{stats:?}");
                thread::sleep(Duration::from_millis(1));
            }
        };
        // Many flows at once: of a guest that scans, so many are held in a tenth of a second.
        let (began, flows) = (Instant::now(), 10 * MOST);
        for port in 0..flows as u16 {
            wire.send(&syn(10_000 + port, b""));
        }
        let stats = came(flows, &datapath);
        let windows = began.elapsed().as_millis() as u64 / 100 + 2;
        assert!(
            stats.held >= MOST && stats.held <= MOST * windows,
            "{stats:?}, {windows}"
        );
        assert!(windows >= 10 || stats.unheld > 0);
        assert_eq!((stats.held + stats.unheld, stats.denied), (flows, stats.unheld));
        let told: Vec<_> = std::iter::from_fn(|| events.report()).collect();
        let held = told.iter().filter(|r| matches!(r, Report::Held(_))).count() as u64;
        assert_eq!(held, stats.held);
        assert_eq!(told.len() as u64 - held, flows, "each is reported all the same");

        thread::sleep(Duration::from_millis(150));
        // One more of a flow that was reported some time ago: nobody waits for it.
        wire.send(&syn(10_000, b""));
        let stats = came(flows + 1, &datapath);
        assert_eq!((stats.held, stats.unheld), (held, flows + 1 - held));
        assert_eq!(events.report(), None);
        // Each is larger than what is held, or a part of what is.
        let whole = datapath.attached().unwrap().len();
        assert_eq!(whole, 1);
        world.ip("dom0", &format!("link set {VIF} mtu 4000"));
        world.ip("guest", "link set eth0 mtu 4000");
        wire.send(&syn(20_000, &[7; 1514 - 54 + 1]));
        let datagram = frame::udp(GUEST4, PEER4, (5000, PORT), &[7; 64]);
        let part = frame::ip(GUEST4, PEER4, frame::UDP, (77, 0x2000), &datagram[..48]);
        wire.send(&frame::from_guest(GUEST4, &part));
        let after = came(flows + 3, &datapath);
        assert_eq!((after.held, after.unheld), (held, stats.unheld + 2));
        // The largest that there is.
        wire.send(&syn(20_001, &[7; 1514 - 54]));
        assert_eq!(came(flows + 4, &datapath).held, held + 1);
        let frame = std::iter::from_fn(|| events.report()).find_map(|report| match report {
            Report::Held(frame) => Some(frame),
            Report::Event(_) => None,
        });
        assert_eq!(frame.unwrap().bytes, syn(20_001, &[7; 1514 - 54]));
        // What a scope only watches is not held.
        let watched = ScopeConfig {
            monitor_only: true,
            ..no_adoption()
        };
        datapath.set_scope(SCOPE, watched).unwrap();
        let peer = Wire::open(world, "peer");
        wire.send(&syn(20_002, b"watched"));
        assert!(peer.sees(SECOND, |f| f.ends_with(b"watched")));
    });
}

#[test]
fn a_full_channel_keeps_room_for_reports() {
    for channel in [EventChannel::Ring, EventChannel::PerfArray] {
        World::run(|world| {
            let config = Config {
                events: channel,
                event_bytes: 16 << 10,
                ..world.config()
            };
            let datapath = open(world, config);
            let mut events = datapath.events().unwrap();
            let from = world.udp("guest", GUEST4, 0);
            for _ in 0..30 {
                send(&from, PEER4, &[7; 1400]);
            }
            let stats = counters(&datapath, Direction::FromGuest);
            assert_eq!(stats.held + stats.unheld, 30);
            assert!(stats.held > 0 && stats.unheld > 0, "{channel:?}: {stats:?}");
            if channel == EventChannel::Ring {
                assert!(stats.held * 1464 < 10 << 10, "{stats:?}");
                assert_eq!(stats.events_lost, 0);
            }
            let held = std::iter::from_fn(|| events.report()).filter(|r| matches!(r, Report::Held(_)));
            assert_eq!(held.count() as u64, stats.held);
        });
    }
}

#[test]
fn what_comes_back_is_judged_from_the_first_step_on_and_never_held_twice() {
    World::run(|world| {
        let mut datapath = open(world, world.config());
        let (mut events, release) = (datapath.events().unwrap(), Release::open().unwrap());
        let locked = ScopeConfig {
            lock: Lock::Address,
            ..no_adoption()
        };
        datapath.set_addresses(SCOPE, &[GUEST4]).unwrap();
        datapath.set_scope(SCOPE, locked).unwrap();
        let (from, to) = (world.udp("guest", GUEST4, 0), world.udp("peer", PEER4, PORT));
        send(&from, PEER4, b"one");
        let mut frame = first_held(&mut events);
        // Nobody decided meanwhile.
        release.send(&frame).unwrap();
        assert_eq!(received(&to), None);
        let stats = counters(&datapath, Direction::FromGuest);
        assert_eq!((stats.held, stats.released, stats.denied), (1, 1, 1));
        let event = next_event(&mut events);
        let refused = (EventKind::Refused, frame.key, DROP);
        assert_eq!((event.kind, event.flow.key, event.flow.verdict.action), refused);
        assert_eq!(events.report(), None, "it is not held again");
        // It bears another's address by now.
        let writer = datapath.flow_writer();
        writer.settle(&frame.key, verdict(Action::Allow, 9)).unwrap();
        let own = frame.bytes.clone();
        frame.bytes[29] = 9;
        release.send(&frame).unwrap();
        assert_eq!(received(&to), None);
        assert_eq!(counters(&datapath, Direction::FromGuest).forged, 1);
        frame.bytes = own;
        release.send(&frame).unwrap();
        assert_eq!(received(&to).as_deref(), Some(&b"one"[..]));
        frame.ifindex = u32::MAX >> 1;
        assert!(release.send(&frame).is_err(), "the vif is gone");
    });
}

#[test]
fn what_comes_back_goes_to_the_backend_that_was_chosen_meanwhile() {
    World::run(|world| {
        let datapath = open(world, world.config());
        let (mut events, release) = (datapath.events().unwrap(), Release::open().unwrap());
        let writer = datapath.flow_writer();
        for (guest, peer) in FAMILIES {
            let (from, to) = (world.udp("guest", guest, 0), world.udp("peer", peer, PORT + 1));
            let capture = Capture::open(world, "peer");
            send(&from, peer, b"one");
            let frame = first_held(&mut events);
            let target = Target {
                end: (peer, PORT + 1).into(),
                mac: None,
            };
            writer.redirect(&frame.key, &target).unwrap();
            writer.settle(&frame.key, verdict(Action::Allow, 9)).unwrap();
            release.send(&frame).unwrap();
            assert_eq!(received(&to).as_deref(), Some(&b"one"[..]));
            let packets = capture.packets();
            let packet = packets.iter().find(|p| p.payload == 3).expect("the datagram");
            assert_eq!(packet.wrong_sum(), None);
        }
    });
}

#[test]
fn a_frame_that_comes_back_is_of_one_vif_alone() {
    const OTHER: u32 = SCOPE + 1;
    World::run(|world| {
        let mut datapath = open(world, world.config());
        datapath.set_scope(OTHER, ScopeConfig::open()).unwrap();
        let config = VifConfig {
            scope: OTHER,
            mac: Some(PEER_MAC),
        };
        datapath.attach("vif2.0", config).unwrap();
        let (mut events, release) = (datapath.events().unwrap(), Release::open().unwrap());
        let (from, to) = (world.udp("guest", GUEST4, 0), world.udp("peer", PEER4, PORT));
        send(&from, PEER4, b"one");
        let frame = first_held(&mut events);
        let writer = datapath.flow_writer();
        writer.settle(&frame.key, verdict(Action::Allow, 9)).unwrap();
        release.send(&frame).unwrap();
        assert_eq!(received(&to).as_deref(), Some(&b"one"[..]));
        let of = |scope, direction| {
            let stats = datapath.stats().unwrap();
            let found = stats
                .iter()
                .find(|s| s.scope == scope && s.direction == direction);
            found.unwrap().counters
        };
        assert_eq!(of(OTHER, Direction::ToGuest).passed, 1);
        assert_eq!(of(OTHER, Direction::FromGuest).released, 0);
        assert_eq!(of(SCOPE, Direction::FromGuest).released, 1);
        // And so from one guest to the next, where its own vif holds it again.
        let key = FlowKey {
            scope: OTHER,
            local: frame.key.remote,
            remote: frame.key.local,
            ..frame.key
        };
        writer
            .settle(&key, verdict_from(Direction::ToGuest, HOLD))
            .unwrap();
        assert_eq!(
            next_event(&mut events).kind,
            EventKind::Start,
            "of the other scope"
        );
        send(&from, PEER4, b"two");
        let second = first_held(&mut events);
        assert_eq!((second.key, second.direction), (key, Direction::ToGuest));
        writer
            .settle(&key, verdict_from(Direction::ToGuest, Action::Allow))
            .unwrap();
        release.send(&second).unwrap();
        assert_eq!(received(&to).as_deref(), Some(&b"two"[..]));
        assert_eq!(of(OTHER, Direction::ToGuest).released, 1);
    });
}

#[test]
fn nothing_of_it_is_left_when_the_datapath_is_gone() {
    World::run(|world| {
        let links = world.ip("dom0", "-o link show");
        let mut datapath = open(world, world.config());
        let (mut events, release) = (datapath.events().unwrap(), Release::open().unwrap());
        let (from, to) = (world.udp("guest", GUEST4, 0), world.udp("peer", PEER4, PORT));
        send(&from, PEER4, b"one");
        let frame = first_held(&mut events);
        assert_eq!(
            count(&world.ip("dom0", "-o link show")),
            count(&links),
            "no device"
        );
        datapath.detach(VIF).unwrap();
        datapath.remove_scope(SCOPE).unwrap();
        datapath.detach_all().unwrap();
        let left =
            ["ingress", "egress"].map(|hook| world.exec("dom0", &format!("tc filter show dev {VIF} {hook}")));
        assert_eq!(left, ["", ""]);
        assert!(!world.pin_dir().exists());
        assert_eq!(count(&world.ip("dom0", "-o link show")), count(&links));
        // Too late: without the program it goes to the guest, which sent it.
        let _ = release.send(&frame);
        assert_eq!(received(&to), None);
        send(&from, PEER4, b"two");
        assert_eq!(received(&to).as_deref(), Some(&b"two"[..]));
    });
}

fn count(links: &str) -> usize {
    links.lines().count()
}

#[test]
fn a_segment_that_no_one_opened_is_held_no_more_than_others() {
    World::run(|world| {
        let datapath = open(world, world.config());
        let mut events = datapath.events().unwrap();
        let ends = Ends::open(world);
        let packet = tcp_packet(GUEST4, PEER4, (5000, PORT), ACK);
        assert!(!ends.leaves(&frame::from_guest(GUEST4, &packet)));
        let stats = counters(&datapath, Direction::FromGuest);
        assert_eq!((stats.stray, stats.held), (1, 0));
        assert_eq!(next_event(&mut events).flow.decided_by, DecidedBy::State);
    });
}
