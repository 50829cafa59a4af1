// SPDX-License-Identifier: GPL-3.0-only
//! What is on the wire when flows are redirected: each frame is read at the far end by another parser, its sums included.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use netback_filter::{Action, AdoptEstablished, Direction, Protocol, ScopeConfig, Target};
use support::frame::{ACK, RST, SYN, TCP, UDP, checksum, l4_checksum, tcp_packet};
use support::site::{
    PORT, SERVICE_MAC, SITES, VIP4, backend, end, open, open_with, serve, serve_datagrams, to_service,
    to_services, visit,
};
use support::wire::{Ends, Wire};
use support::*;

const WAIT: Duration = Duration::from_millis(300);

/// Ends and checked sums of an IP frame.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    macs: ([u8; 6], [u8; 6]),
    from: SocketAddr,
    to: SocketAddr,
}

/// Reads a frame; panics when a sum in it is wrong.
fn read(frame: &[u8]) -> Option<Seen> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (source, dest): (IpAddr, IpAddr) = match packet.net.as_ref()? {
        NetSlice::Ipv4(v4) => {
            let header = v4.header().to_header();
            assert_eq!(
                header.calc_header_checksum(),
                header.header_checksum,
                "IPv4 header"
            );
            (header.source.into(), header.destination.into())
        }
        NetSlice::Ipv6(v6) => (
            v6.header().source_addr().into(),
            v6.header().destination_addr().into(),
        ),
        NetSlice::Arp(_) => return None,
    };
    let (segment, proto, ports) = match packet.transport.as_ref()? {
        TransportSlice::Tcp(tcp) => (tcp.slice(), TCP, (tcp.source_port(), tcp.destination_port())),
        TransportSlice::Udp(udp) => (udp.slice(), UDP, (udp.source_port(), udp.destination_port())),
        _ => return None,
    };
    // A UDP sum of 0 is none.
    if proto == TCP || segment[6..8] != [0, 0] {
        assert_eq!(
            l4_checksum(source, dest, proto, segment),
            0,
            "sum of {frame:02x?}"
        );
    }
    Some(Seen {
        macs: (frame[6..12].try_into().unwrap(), frame[..6].try_into().unwrap()),
        from: SocketAddr::new(source, ports.0),
        to: SocketAddr::new(dest, ports.1),
    })
}

/// The frames with a port, as the wire's end gets them.
fn seen(wire: &Wire, port: u16) -> Vec<Seen> {
    let frames = wire.frames_until(WAIT, |f| frame::has_port(f, port));
    frames
        .iter()
        .filter(|f| frame::has_port(f, port))
        .filter_map(|f| read(f))
        .collect()
}

fn udp_packet(source: IpAddr, dest: IpAddr, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    frame::ip(
        source,
        dest,
        UDP,
        (0, 0),
        &frame::udp(source, dest, ports, payload),
    )
}

/// Lets the guest's flow to the service begin, by a datagram from this port.
fn begin(ends: &Ends, guest: IpAddr, vip: IpAddr, port: u16) -> Vec<Seen> {
    ends.guest.send(&to_service(
        guest,
        &udp_packet(guest, vip, (port, PORT), b"payload"),
    ));
    seen(&ends.peer, port)
}

#[test]
fn addresses_ports_and_sums_are_right_at_both_ends() {
    World::run(|world| {
        let _datapath = open(world, &[1]);
        let ends = Ends::open(world);
        for (guest, _, vip) in SITES {
            let served = end(&backend(vip, 1));
            let there = |port| Seen {
                macs: (GUEST_MAC, PEER_MAC),
                from: (guest, port).into(),
                to: served,
            };
            let here = |port| Seen {
                macs: (PEER_MAC, GUEST_MAC),
                from: (vip, PORT).into(),
                to: (guest, port).into(),
            };
            assert_eq!(begin(&ends, guest, vip, 5000), [there(5000)]);
            let answer = udp_packet(served.ip(), guest, (served.port(), 5000), b"answer");
            ends.guest.frames_until(WAIT, |_| false);
            ends.peer.send(&frame::from_peer(guest, &answer));
            assert_eq!(seen(&ends.guest, 5000).first(), Some(&here(5000)));

            ends.guest
                .send(&to_service(guest, &tcp_packet(guest, vip, (5001, PORT), SYN)));
            assert_eq!(seen(&ends.peer, 5001).first(), Some(&there(5001)));
        }
        // A datagram without a sum stays without.
        let mut bare = udp_packet(GUEST4, VIP4, (5000, PORT), b"payload");
        bare[26..28].copy_from_slice(&[0, 0]);
        ends.peer.frames_until(WAIT, |_| false);
        ends.guest.send(&to_service(GUEST4, &bare));
        let frames = ends.peer.frames_until(WAIT, |f| frame::has_port(f, 5000));
        let came = frames.iter().find(|f| frame::has_port(f, 5000)).expect("it came");
        assert_eq!(came[40..42], [0, 0]);
        assert_eq!(came[30..34], [10, 77, 0, 11]);
    });
}

/// Where sockets leave the sum to the device, its field holds that of the pseudo header, of the new addresses.
#[test]
fn sums_that_are_left_to_the_device_are_those_of_the_new_addresses() {
    World::run(|world| {
        let _datapath = open(world, &[1]);
        for (guest, _, vip) in SITES {
            let served = end(&backend(vip, 1));
            serve(world, vip);
            serve_datagrams(world, vip);
            let ends = Ends::open(world);
            let (_, _stream) = visit(world, (vip, PORT).into()).unwrap();
            let client = world.udp("guest", guest, 0);
            client.connect((vip, PORT)).unwrap();
            client.send(b"?").unwrap();
            client.recv(&mut [0; 9]).unwrap();
            for (proto, at) in [(TCP, 16), (UDP, 6)] {
                for (wire, port, source, dest) in [
                    (&ends.peer, served.port(), guest, served.ip()),
                    (&ends.guest, PORT, vip, guest),
                ] {
                    let of_it = |f: &[u8]| {
                        let outer = f[..12]
                            == [[PEER_MAC, GUEST_MAC].concat(), [GUEST_MAC, PEER_MAC].concat()]
                                [usize::from(source == vip)][..];
                        outer && frame::has_port(f, port) && frame::l4(f).is_some_and(|(p, _)| p == proto)
                    };
                    let frames = wire.frames_until(WAIT, of_it);
                    let frame = frames.iter().find(|f| of_it(f)).expect("a packet");
                    let (_, l4) = frame::l4(frame).unwrap();
                    let sum = frame::pseudo_sum(source, dest, proto, l4.len() as u32);
                    assert_eq!(l4[at..at + 2], sum.to_be_bytes(), "{source} to {dest}, {proto}");
                }
            }
        }
    });
}

#[test]
fn what_a_backend_sends_of_its_own_is_left_as_it_is() {
    World::run(|world| {
        let datapath = open_with(world, ScopeConfig::open(), vec![], &[1]);
        let ends = Ends::open(world);
        for (guest, _, vip) in SITES {
            let served = end(&backend(vip, 1));
            assert_eq!(begin(&ends, guest, vip, 5000).len(), 1);
            for (from, to) in [(served.port(), 5001), (served.port() + 1, 5000), (PORT, 5000)] {
                let datagram = udp_packet(served.ip(), guest, (from, to), b"payload");
                assert!(
                    ends.arrives(&frame::from_peer(guest, &datagram)),
                    "{from} to {to}"
                );
            }
            // Of another protocol, of another end, and a connection that the backend opens.
            let segment = tcp_packet(served.ip(), guest, (served.port(), 5000), ACK);
            assert!(ends.arrives(&frame::from_peer(guest, &segment)));
            let other = end(&backend(vip, 2)).ip();
            let datagram = udp_packet(other, guest, (served.port(), 5000), b"payload");
            assert!(ends.arrives(&frame::from_peer(guest, &datagram)));
            ends.guest
                .send(&to_service(guest, &tcp_packet(guest, vip, (5002, PORT), SYN)));
            let opened = tcp_packet(served.ip(), guest, (served.port(), 5002), SYN);
            assert!(ends.arrives(&frame::from_peer(guest, &opened)));
            // Of a flow that is over.
            let key = netback_filter::FlowKey {
                protocol: Protocol::UDP,
                ..tcp_key((guest, 5000).into(), (vip, PORT).into())
            };
            assert!(datapath.flow_writer().remove(&key).unwrap());
            let late = udp_packet(served.ip(), guest, (served.port(), 5000), b"late");
            assert!(ends.arrives(&frame::from_peer(guest, &late)));
        }
    });
}

/// Turned round, a RST bears what its receiver knows.
#[test]
fn a_segment_that_lost_its_backend_is_answered_and_goes_nowhere() {
    World::run(|world| {
        let adopting = ScopeConfig {
            adopt_established: AdoptEstablished::Always,
            ..no_adoption()
        };
        let datapath = open_with(world, adopting, to_services(), &[1]);
        let ends = Ends::open(world);
        for (guest, _, vip) in SITES {
            ends.guest
                .send(&to_service(guest, &tcp_packet(guest, vip, (5000, PORT), ACK)));
            let is_reset =
                |f: &[u8]| frame::has_port(f, 5000) && frame::l4(f).is_some_and(|(_, l4)| l4[13] & RST != 0);
            let frames = ends.guest.frames_until(WAIT, is_reset);
            let reset = frames.iter().find(|f| is_reset(f)).expect("a RST");
            let wanted = Seen {
                macs: (SERVICE_MAC, GUEST_MAC),
                from: (vip, PORT).into(),
                to: (guest, 5000).into(),
            };
            assert_eq!(read(reset), Some(wanted));
            assert!(!ends.peer.sees(WAIT, |f| frame::has_port(f, 5000)));
        }
        assert_eq!(counters(&datapath, Direction::FromGuest).unserved, 2);
    });
}

#[test]
fn the_mac_address_of_services_leads_nowhere_else() {
    World::run(|world| {
        let datapath = open_with(world, ScopeConfig::open(), vec![], &[1]);
        let ends = Ends::open(world);
        for (guest, peer, vip) in SITES {
            for packet in [
                udp_packet(guest, peer, (5000, PORT), b"payload"),
                udp_packet(guest, vip, (5000, PORT + 1), b"payload"),
                tcp_packet(guest, vip, (5000, PORT + 1), SYN),
            ] {
                assert!(!ends.leaves(&to_service(guest, &packet)));
            }
            // A backend whose MAC address is not known cannot be reached from here either.
            let key = netback_filter::FlowKey {
                protocol: Protocol::UDP,
                ..tcp_key((guest, 5001).into(), (vip, PORT).into())
            };
            let lost = Target {
                end: end(&backend(vip, 2)),
                mac: None,
            };
            datapath.flow_writer().redirect(&key, &lost).unwrap();
            assert_eq!(begin(&ends, guest, vip, 5001), []);
        }
        assert_eq!(counters(&datapath, Direction::FromGuest).unrouted, 8);
    });
}

/// Who asks for the service's MAC address is told one, and the neighbours' own are left to them.
#[test]
fn neighbours_that_are_services_are_answered_for() {
    World::run(|world| {
        let datapath = open(world, &[1]);
        for (guest, peer, vip) in SITES {
            serve(world, vip);
            assert_eq!(visit(world, (vip, PORT).into()).unwrap().0, 1);
            let neighbours = world.ip("guest", "neigh show dev eth0");
            let entry = neighbours
                .lines()
                .find(|line| line.starts_with(&format!("{vip} ")))
                .unwrap_or_default();
            assert!(entry.contains("02:78:6d:65:73:68"), "{neighbours}");
            // Nobody answers for an address of nobody, and the question for the peer's reaches the peer.
            world.ip("guest", &format!("neigh del {peer} dev eth0"));
            let listener = world.listen("peer", peer, PORT);
            world.connect("guest", (peer, PORT).into()).unwrap();
            drop(listener);
            let neighbours = world.ip("guest", &format!("neigh show {peer} dev eth0"));
            assert!(neighbours.contains("00:16:3e:00:00:02"), "{neighbours}");
            let nobody: IpAddr = if guest.is_ipv4() {
                "10.77.0.101"
            } else {
                "fd77::101"
            }
            .parse()
            .unwrap();
            assert_ne!(
                world.connect("guest", (nobody, PORT).into()).unwrap_err().kind(),
                ErrorKind::ConnectionRefused
            );
        }
        // A guest that would take the address is told that it is taken.
        world.ip("guest", "addr add fd77::100/64 dev eth0");
        std::thread::sleep(Duration::from_millis(2500));
        let addresses = world.ip("guest", "-6 addr show dev eth0");
        assert!(addresses.contains("dadfailed"), "{addresses}");
        drop(datapath);
    });
}

#[test]
fn an_echo_to_a_service_is_answered_where_the_rules_allow_it() {
    World::run(|world| {
        let echo = |id, protocol| rule(id, Direction::FromGuest, protocol, None, Action::Allow);
        let mut rules = to_services();
        let mut datapath = open_with(world, no_adoption(), rules.clone(), &[1]);
        let ends = Ends::open(world);
        let answered = |guest: IpAddr, to: IpAddr, payload: &[u8]| {
            let (ask, answer) = if guest.is_ipv4() { (8, 0) } else { (128, 129) };
            let question = error(guest, to, ask, 0, 0x0007_0001, payload);
            let wanted = error(to, guest, answer, 0, 0x0007_0001, payload);
            ends.guest.send(&to_service(guest, &question));
            ends.guest.sees(WAIT, |f| {
                f[..12] == [GUEST_MAC, SERVICE_MAC].concat() && f[14..] == wanted
            })
        };
        for (guest, _, vip) in SITES {
            assert!(!answered(guest, vip, b"payload"));
        }
        rules.extend([echo(8, Protocol::ICMP), echo(9, Protocol::ICMPV6)]);
        let set = netback_filter::RuleSet { peers: vec![], rules };
        datapath.publish(&set, 2).unwrap();
        for (guest, peer, vip) in SITES {
            assert!(
                answered(guest, vip, b"payload") && answered(guest, vip, &[9; 1001]),
                "{vip}"
            );
            assert!(!answered(guest, peer, b"payload"), "{peer} is no service");
        }
        assert!(
            !ends
                .peer
                .sees(WAIT, |f| f[6..12] == SERVICE_MAC || f[..6] == SERVICE_MAC)
        );
    });
}

#[test]
fn a_closed_port_of_a_backend_is_an_error_for_the_client() {
    World::run(|world| {
        let datapath = open(world, &[1]);
        for (guest, _, vip) in SITES {
            let client = world.udp("guest", guest, 0);
            client.connect((vip, PORT)).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            client.send(b"?").unwrap();
            let error = client.recv(&mut [0; 9]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{vip}: {error}");
            let refused = world.connect("guest", (vip, PORT).into()).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        }
        drop(datapath);
    });
}

/// An error about what a packet of this kind quotes.
fn error(from: IpAddr, to: IpAddr, kind: u8, code: u8, rest: u32, quoted: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest.to_be_bytes());
    message.extend(quoted);
    let proto = if from.is_ipv4() { 1 } else { 58 };
    let sum = if from.is_ipv4() {
        checksum(&[&message])
    } else {
        l4_checksum(from, to, proto, &message)
    };
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    frame::ip(from, to, proto, (0, 0), &message)
}

/// The IP packet that an error quotes; panics when a sum of the error or of what it quotes is wrong.
fn quoted(frame: &[u8]) -> Option<(IpAddr, IpAddr, Vec<u8>)> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (source, dest, message): (IpAddr, IpAddr, &[u8]) = match (packet.net.as_ref()?, &packet.transport) {
        (NetSlice::Ipv4(v4), Some(TransportSlice::Icmpv4(_))) => {
            let header = v4.header().to_header();
            assert_eq!(header.calc_header_checksum(), header.header_checksum);
            assert_eq!(checksum(&[v4.payload().payload]), 0, "sum of the error");
            (
                header.source.into(),
                header.destination.into(),
                v4.payload().payload,
            )
        }
        (NetSlice::Ipv6(v6), Some(TransportSlice::Icmpv6(_))) => {
            let (source, dest) = (
                v6.header().source_addr().into(),
                v6.header().destination_addr().into(),
            );
            let message = v6.payload().payload;
            assert_eq!(l4_checksum(source, dest, 58, message), 0, "sum of the error");
            (source, dest, message)
        }
        _ => return None,
    };
    if ![1, 2, 3].contains(&message[0]) {
        return None;
    }
    Some((source, dest, message[8..].to_vec()))
}

#[test]
fn errors_quote_what_their_receiver_sent() {
    World::run(|world| {
        let _datapath = open(world, &[1]);
        let ends = Ends::open(world);
        for (guest, _, vip) in SITES {
            let router: IpAddr = if guest.is_ipv4() { "10.99.0.1" } else { "fd99::1" }
                .parse()
                .unwrap();
            let served = end(&backend(vip, 1));
            let (kind, code) = if guest.is_ipv4() { (3, 3) } else { (1, 4) };
            assert_eq!(begin(&ends, guest, vip, 5000).len(), 1);
            for cut in [usize::MAX, 8] {
                for from in [served.ip(), router] {
                    let header = if guest.is_ipv4() { 20 } else { 40 };
                    let mut sent = udp_packet(guest, served.ip(), (5000, served.port()), b"payload");
                    sent.truncate(cut.saturating_add(header));
                    ends.guest.frames_until(Duration::from_millis(50), |_| false);
                    ends.peer.send(&frame::from_peer(
                        guest,
                        &error(from, guest, kind, code, 0, &sent),
                    ));
                    let frames = ends.guest.frames_until(WAIT, |f| quoted(f).is_some());
                    let (source, _, inner) = frames.iter().find_map(|f| quoted(f)).expect("the error");
                    let wanted = udp_packet(guest, vip, (5000, PORT), b"payload");
                    assert_eq!(source, if from == router { router } else { vip });
                    assert_eq!(inner, wanted[..sent.len()], "{vip} by {from}, cut to {cut}");
                }
            }
            // Of a flow that was not redirected it is an error about nothing, and is not let through.
            let other = udp_packet(guest, served.ip(), (5009, served.port()), b"payload");
            let stray = error(router, guest, kind, code, 0, &other);
            assert!(!ends.arrives(&frame::from_peer(guest, &stray)));

            // The other way: the guest refuses an answer of its service.
            let answer = udp_packet(vip, guest, (PORT, 5000), b"payload");
            ends.guest
                .send(&to_service(guest, &error(guest, vip, kind, code, 0, &answer)));
            let about_it =
                |f: &[u8]| quoted(f).is_some_and(|(source, dest, _)| (source, dest) == (guest, served.ip()));
            let frames = ends.peer.frames_until(WAIT, about_it);
            let came = frames.iter().find(|f| about_it(f)).expect("the error");
            assert_eq!(came[..6], PEER_MAC);
            let wanted = udp_packet(served.ip(), guest, (served.port(), 5000), b"payload");
            assert_eq!(quoted(came).unwrap().2, wanted);
        }
    });
}

/// A router on the way to the backend that takes less: the guest's stack believes it, of the service's address.
#[test]
fn the_path_mtu_to_a_backend_is_learned() {
    World::run(|world| {
        let datapath = open(world, &[]);
        let writer = datapath.flow_writer();
        let wire = Wire::open(world, "peer");
        for (guest, _, vip) in SITES {
            let far = support::site::backend_address(vip, 1);
            let listener = world.listen("peer", far, 8001);
            let target = Target {
                end: (far, 8001).into(),
                mac: Some(PEER_MAC),
            };
            let (from, to) = (SocketAddr::new(guest, 23010), SocketAddr::new(vip, PORT));
            writer.redirect(&tcp_key(from, to), &target).unwrap();
            let mut client = world.connect_from("guest", from, to).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            client.write_all(b"hello").unwrap();
            server.read_exact(&mut [0; 5]).unwrap();
            let sent = wire.frames_until(WAIT, |f| f.ends_with(b"hello"));
            let mut segment =
                sent.iter().find(|f| f.ends_with(b"hello")).expect("the segment")[14..].to_vec();
            // It was taken already; a stack believes errors about what is on its way.
            let sequence = if guest.is_ipv4() { 24..28 } else { 44..48 };
            let begin = u32::from_be_bytes(segment[sequence.clone()].try_into().unwrap());
            segment[sequence].copy_from_slice(&(begin.wrapping_add(5)).to_be_bytes());
            let router: IpAddr = if guest.is_ipv4() { "10.99.0.1" } else { "fd99::1" }
                .parse()
                .unwrap();
            let (kind, code) = if guest.is_ipv4() { (3, 4) } else { (2, 0) };
            let too_big = error(router, guest, kind, code, 1300, &segment);
            wire.send(&frame::from_peer(guest, &too_big));
            std::thread::sleep(Duration::from_millis(100));
            let route = world.ip("guest", &format!("route get {vip}"));
            assert!(route.contains("mtu 1300"), "{route}");
            client.write_all(&[7; 100_000]).unwrap();
            server.read_exact(&mut [0; 100_000]).unwrap();
        }
    });
}

#[test]
fn all_fragments_of_a_datagram_are_translated() {
    World::run(|world| {
        let datapath = open(world, &[0, 1, 2, 3]);
        for (guest, _, vip) in SITES {
            serve_datagrams(world, vip);
            let client = world.udp("guest", guest, 0);
            client.connect((vip, PORT)).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            let sent: Vec<u8> = (0..20_000_u32).map(|i| (i % 251) as u8).collect();
            client.send(&sent).unwrap();
            let mut buffer = vec![0; 1 << 16];
            let read = client.recv(&mut buffer).expect("an answer");
            assert!(buffer[1..read] == sent, "{vip}: {read} bytes");
        }
        assert_eq!(counters(&datapath, Direction::FromGuest).fragments, 0);
        assert_eq!(counters(&datapath, Direction::ToGuest).fragments, 0);
    });
}

/// A later fragment before the first is dropped: nobody knows yet where it is to go.
#[test]
fn a_fragment_that_comes_too_early_goes_nowhere() {
    World::run(|world| {
        let datapath = open(world, &[1]);
        let ends = Ends::open(world);
        let later = frame::ip(GUEST4, VIP4, UDP, (9, 2), b"the later fragment");
        assert!(!ends.leaves(&to_service(GUEST4, &later)));
        let mut first = frame::ip(
            GUEST4,
            VIP4,
            UDP,
            (9, 0x2000),
            &frame::udp(GUEST4, VIP4, (5000, PORT), b"payload."),
        );
        first[24] = 1; // its length is that of the whole datagram
        ends.guest.send(&to_service(GUEST4, &first));
        ends.guest.send(&to_service(GUEST4, &later));
        let is_later = |f: &[u8]| f.ends_with(b"the later fragment");
        let frames = ends.peer.frames_until(WAIT, is_later);
        let came = frames.iter().find(|f| is_later(f)).expect("the later fragment");
        assert_eq!((&came[..6], &came[30..34]), (&PEER_MAC[..], &[10, 77, 0, 11][..]));
        assert_eq!(checksum(&[&came[14..34]]), 0);
        assert_eq!(counters(&datapath, Direction::FromGuest).fragments, 1);
    });
}

#[test]
fn a_scope_that_only_monitors_translates_nothing() {
    World::run(|world| {
        let config = ScopeConfig {
            monitor_only: true,
            ..no_adoption()
        };
        let _datapath = open_with(world, config, to_services(), &[1]);
        let ends = Ends::open(world);
        for (guest, _, vip) in SITES {
            let packet = udp_packet(guest, vip, (5000, PORT), b"payload");
            assert!(ends.leaves(&to_service(guest, &packet)));
            assert!(ends.peer.frames_until(Duration::ZERO, |_| false).is_empty());
        }
    });
}
