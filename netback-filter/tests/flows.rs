// SPDX-License-Identifier: GPL-3.0-only
//! Real sockets through the datapath: what passes, and how what does not is refused.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use netback_filter::{Action, DecidedBy, Direction, Protocol, RuleSet, ScopeConfig};
use support::frame::{ACK, RST, SYN, tcp_packet};
use support::wire::{Ends, Wire};
use support::*;

const SHORT: Duration = Duration::from_millis(200);

fn echo_through(world: &World, guest: std::net::IpAddr, peer: std::net::IpAddr, bytes: usize) {
    let listener = world.listen("peer", peer, 7000);
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&all).unwrap();
    });
    let mut client = world.connect("guest", (peer, 7000).into()).unwrap();
    let sent: Vec<u8> = (0..bytes).map(|i| (i * 7 + i / 251) as u8).collect();
    client.write_all(&sent).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut back = Vec::new();
    client.read_to_end(&mut back).unwrap();
    server.join().unwrap();
    assert!(
        back == sent,
        "{guest} {peer}: {} of {bytes} bytes came back unharmed",
        back.len()
    );
}

#[test]
fn what_a_rule_allows_passes_both_ways() {
    World::run(|world| {
        let udp = rule(2, Direction::FromGuest, Protocol::UDP, Some(7000), Action::Allow);
        let datapath = world.attach(ScopeConfig::closed(), vec![allow_tcp(1, 7000), udp]);
        for (guest, peer) in FAMILIES {
            echo_through(world, guest, peer, 8 << 20);
            let server = world.udp("peer", peer, 7000);
            let client = world.udp("guest", guest, 0);
            client.send_to(b"ping", (peer, 7000)).unwrap();
            let mut buffer = [0; 16];
            let (_, from) = server.recv_from(&mut buffer).unwrap();
            server.send_to(b"pong", from).unwrap();
            assert_eq!(client.recv(&mut buffer).unwrap(), 4);
        }
        let flows: Vec<_> = datapath.flows(Some(SCOPE)).map(Result::unwrap).collect();
        assert_eq!(flows.len(), 4, "{flows:?}");
        for flow in flows {
            assert_eq!(flow.decided_by, DecidedBy::Rule);
            assert_eq!(flow.verdict.generation, 1);
            let tcp = flow.key.protocol == Protocol::TCP;
            assert_eq!(flow.verdict.rule, if tcp { 1 } else { 2 });
            assert_eq!((flow.established, flow.ended), (tcp, tcp), "{flow:?}");
            if tcp {
                assert!(flow.bytes.iter().all(|b| *b > 8 << 20), "{flow:?}");
            }
            assert!(flow.first_ns > 0 && flow.last_ns > flow.first_ns);
        }
        assert_eq!(datapath.flows(Some(SCOPE + 1)).count(), 0);
    });
}

/// Connects to a port that is denied; the refusal must be immediate and nothing may reach the peer.
fn refused_at_once(world: &World, peer: std::net::IpAddr) {
    let listener = world.listen("peer", peer, 7001);
    let wire = Wire::open(world, "peer");
    let begin = Instant::now();
    let error = world.connect("guest", (peer, 7001).into()).unwrap_err();
    let took = begin.elapsed();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{peer}");
    assert!(took < Duration::from_millis(50), "{peer}: refused after {took:?}");
    assert!(
        !wire.sees(SHORT, |f| frame::has_port(f, 7001)),
        "{peer}: the peer saw it"
    );
    drop(listener);
}

#[test]
fn a_denied_connect_fails_at_once_and_the_peer_sees_nothing() {
    World::run(|world| {
        let datapath = world.attach(ScopeConfig::closed(), vec![allow_tcp(1, 7000)]);
        refused_at_once(world, PEER4);
        refused_at_once(world, PEER6);
        // With checksums that the guest computed itself.
        world.exec("guest", "ethtool -K eth0 tx off");
        refused_at_once(world, PEER4);
        refused_at_once(world, PEER6);
        let from = datapath.stats().unwrap()[0];
        assert_eq!(from.direction, Direction::FromGuest);
        assert_eq!((from.counters.denied, from.counters.resets), (4, 4), "{from:?}");
    });
}

#[test]
fn a_connect_towards_a_closed_guest_gets_no_answer_or_a_reset_as_told() {
    World::run(|world| {
        let mut datapath = world.attach(ScopeConfig::closed(), vec![]);
        let _listeners = [GUEST4, GUEST6].map(|address| world.listen("guest", address, 7002));
        let wire = Wire::open(world, "guest");
        let peer = |to| {
            world.inside("peer", || {
                TcpStream::connect_timeout(&SocketAddr::new(to, 7002), SHORT)
            })
        };
        for guest in [GUEST4, GUEST6] {
            assert_eq!(peer(guest).unwrap_err().kind(), ErrorKind::TimedOut);
        }
        datapath
            .set_scope(
                SCOPE,
                ScopeConfig {
                    default_to_guest: RESET,
                    ..ScopeConfig::closed()
                },
            )
            .unwrap();
        for guest in [GUEST4, GUEST6] {
            assert_eq!(peer(guest).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
        assert!(
            !wire.sees(SHORT, |f| frame::has_port(f, 7002)),
            "the guest saw it"
        );
        datapath
            .publish(
                &RuleSet {
                    peers: vec![],
                    rules: vec![to_guest(7002)],
                },
                2,
            )
            .unwrap();
        for guest in [GUEST4, GUEST6] {
            peer(guest).unwrap();
        }
    });
}

fn to_guest(port: u16) -> netback_filter::Rule {
    rule(9, Direction::ToGuest, Protocol::TCP, Some(port), Action::Allow)
}

#[test]
fn a_verdict_of_userspace_goes_before_the_rules() {
    World::run(|world| {
        let datapath = world.attach(ScopeConfig::closed(), vec![allow_tcp(1, 7004)]);
        let writer = datapath.flow_writer();
        for (guest, peer) in FAMILIES {
            let _closed = world.listen("peer", peer, 7003);
            let _open = world.listen("peer", peer, 7004);
            let from = SocketAddr::new(guest, 33000);
            let (closed, open) = (SocketAddr::new(peer, 7003), SocketAddr::new(peer, 7004));
            writer
                .set(&tcp_key(from, closed), verdict(Action::Allow, 41))
                .unwrap();
            writer.set(&tcp_key(from, open), verdict(RESET, 42)).unwrap();
            world.connect_from("guest", from, closed).unwrap();
            let refused = world.connect_from("guest", from, open).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
            let other = world
                .connect_from("guest", SocketAddr::new(guest, 33001), closed)
                .unwrap_err();
            assert_eq!(other.kind(), ErrorKind::ConnectionRefused);

            let flows = || datapath.flows(None).map(Result::unwrap);
            let allowed = flows().find(|f| f.key == tcp_key(from, closed)).unwrap();
            assert_eq!(
                (allowed.decided_by, allowed.verdict.rule),
                (DecidedBy::Userspace, 41)
            );
            assert!(
                allowed.established && allowed.packets[0] >= 2 && allowed.packets[1] >= 1,
                "{allowed:?}"
            );
            writer
                .set(&tcp_key(from, closed), verdict(Action::Allow, 43))
                .unwrap();
            let again = flows().find(|f| f.key == tcp_key(from, closed)).unwrap();
            assert_eq!(
                (again.packets, again.first_ns, again.established),
                ([0, 0], 0, false)
            );
            assert!(writer.remove(&tcp_key(from, closed)).unwrap());
            assert!(!writer.remove(&tcp_key(from, closed)).unwrap());
        }
    });
}

/// A connection through the datapath: the guest's end, the peer's end.
fn connected(world: &World, from: SocketAddr, to: SocketAddr) -> (TcpStream, TcpStream) {
    let listener = world.listen("peer", to.ip(), to.port());
    let client = world.connect_from("guest", from, to).unwrap();
    let (server, _) = listener.accept().unwrap();
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    }
    (client, server)
}

fn talks(from: &mut TcpStream, to: &mut TcpStream) -> std::io::Result<()> {
    from.write_all(b"hello")?;
    let mut buffer = [0; 5];
    to.read_exact(&mut buffer)
}

#[test]
fn a_verdict_that_turns_cuts_the_connection_at_both_ends() {
    World::run(|world| {
        let datapath = world.attach(ScopeConfig::closed(), vec![allow_tcp(1, 7005)]);
        for (guest, peer) in FAMILIES {
            let (from, to) = (SocketAddr::new(guest, 33005), SocketAddr::new(peer, 7005));
            let (mut client, mut server) = connected(world, from, to);
            talks(&mut client, &mut server).unwrap();
            talks(&mut server, &mut client).unwrap();
            let key = tcp_key(from, to);
            let before = datapath
                .flows(None)
                .map(Result::unwrap)
                .find(|f| f.key == key)
                .unwrap();
            datapath.flow_writer().revise(&key, verdict(RESET, 50)).unwrap();
            client.write_all(b"hello").unwrap();
            let mut buffer = [0; 5];
            assert_eq!(
                client.read(&mut buffer).unwrap_err().kind(),
                ErrorKind::ConnectionReset
            );
            let there = server.read(&mut buffer).unwrap_err().kind();
            assert_eq!(there, ErrorKind::ConnectionReset, "the peer is told, too");
            let after = datapath
                .flows(None)
                .map(Result::unwrap)
                .find(|f| f.key == key)
                .unwrap();
            assert_eq!((after.verdict.rule, after.first_ns), (50, before.first_ns));
            assert!(after.packets[0] > before.packets[0]);
        }
    });
}

#[test]
fn a_cut_connection_is_over_for_both_when_the_peer_speaks_first() {
    World::run(|world| {
        let datapath = world.attach(ScopeConfig::closed(), vec![allow_tcp(1, 7005)]);
        for (guest, peer) in FAMILIES {
            let (from, to) = (SocketAddr::new(guest, 33005), SocketAddr::new(peer, 7005));
            let (mut client, mut server) = connected(world, from, to);
            talks(&mut client, &mut server).unwrap();
            datapath
                .flow_writer()
                .revise(&tcp_key(from, to), verdict(RESET, 51))
                .unwrap();
            server.write_all(b"hello").unwrap();
            let mut buffer = [0; 5];
            for end in [&mut server, &mut client] {
                assert_eq!(
                    end.read(&mut buffer).unwrap_err().kind(),
                    ErrorKind::ConnectionReset
                );
            }
        }
    });
}

#[test]
fn a_new_rule_set_cuts_what_it_no_longer_allows_and_spares_the_rest() {
    World::run(|world| {
        let mut datapath = world.attach(
            ScopeConfig::closed(),
            vec![allow_tcp(1, 7006), allow_tcp(2, 7007)],
        );
        let ends = |port| (SocketAddr::new(GUEST4, 33006), SocketAddr::new(PEER4, port));
        let (mut cut, mut cut_peer) = connected(world, ends(7006).0, ends(7006).1);
        let (mut kept, mut kept_peer) = connected(world, ends(7007).0, ends(7007).1);
        talks(&mut cut, &mut cut_peer).unwrap();
        datapath
            .publish(
                &RuleSet {
                    peers: vec![],
                    rules: vec![allow_tcp(3, 7007)],
                },
                2,
            )
            .unwrap();
        talks(&mut kept, &mut kept_peer).unwrap();
        talks(&mut kept_peer, &mut kept).unwrap();
        cut.write_all(b"hello").unwrap();
        let mut buffer = [0; 5];
        assert_eq!(
            cut.read(&mut buffer).unwrap_err().kind(),
            ErrorKind::ConnectionReset
        );
        let flow = datapath
            .flows(None)
            .map(Result::unwrap)
            .find(|f| f.key.remote.port() == 7007)
            .unwrap();
        assert_eq!((flow.verdict.rule, flow.verdict.generation), (3, 2));
    });
}

/// What was decided by the process that owned a flow holds for no other that comes behind it.
#[test]
fn a_verdict_that_was_looked_up_ends_with_its_flow() {
    World::run(|world| {
        let datapath = world.attach(ScopeConfig::closed(), vec![]);
        let writer = datapath.flow_writer();
        let ends = Ends::open(world);
        // No stack answers for it.
        let nobody: std::net::IpAddr = "10.77.0.9".parse().unwrap();
        let key = tcp_key((GUEST4, 5000).into(), (nobody, 80).into());
        let out = |flags| frame::from_guest(GUEST4, &tcp_packet(GUEST4, nobody, (5000, 80), flags));
        let back = |flags| frame::from_peer(GUEST4, &tcp_packet(nobody, GUEST4, (80, 5000), flags));
        let decided = || datapath.flows(None).next().map(|flow| flow.unwrap().decided_by);

        assert!(!ends.leaves(&out(SYN)));
        writer.settle(&key, verdict(Action::Allow, 3)).unwrap();
        // The same SYN again is the same flow's.
        assert!(ends.leaves(&out(SYN)) && ends.leaves(&out(SYN)));
        assert_eq!(decided(), Some(DecidedBy::Lookup));
        assert!(ends.arrives(&back(SYN | ACK)));
        assert!(ends.leaves(&out(ACK)));
        // It was open; whoever opens it again is somebody else.
        assert!(!ends.leaves(&out(SYN)));

        // The same where it was closed, of a verdict that a trap wrote too.
        writer.remove(&key).unwrap();
        writer.set(&key, verdict(Action::Allow, 4)).unwrap();
        assert!(ends.leaves(&out(SYN)));
        assert!(ends.arrives(&back(RST | ACK)));
        assert!(!ends.leaves(&out(SYN)));
        assert!(decided().is_none(), "it is gone");

        // What is denied stays so while it is tried.
        writer.settle(&key, verdict(RESET, 5)).unwrap();
        assert!(!ends.leaves(&out(SYN)) && !ends.leaves(&out(SYN)));
        assert_eq!(decided(), Some(DecidedBy::Lookup));

        // And another rule set is asked anew.
        writer.settle(&key, verdict(Action::Allow, 6)).unwrap();
        assert!(ends.leaves(&out(SYN)));
        drop(datapath);
        let mut datapath = world.open();
        datapath
            .publish(
                &RuleSet {
                    peers: vec![],
                    rules: vec![],
                },
                2,
            )
            .unwrap();
        assert!(!ends.leaves(&out(SYN)));
    });
}
