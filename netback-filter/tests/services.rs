// SPDX-License-Identifier: GPL-3.0-only
//! Real sockets to services: who serves them, for how long, and what they see when nobody does.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use netback_filter::{
    Action, Backend, BackendState, DecidedBy, Direction, EventKind, Opened, Protocol, Refuse, ScopeConfig,
    Service, Target,
};
use support::site::{PORT, SITES};
use support::site::{
    VIP4, backend, echoes, end, everywhere, open, open_with, record, serve, serve_datagrams, service,
    to_services, visit, visit_from,
};
use support::*;

const SHORT: Duration = Duration::from_millis(200);

/// Megabytes both ways, content compared, with and without the guest leaving segments and sums to its device.
#[test]
fn a_stream_to_a_service_comes_back_unharmed() {
    World::run(|world| {
        let datapath = open(world, &[1]);
        for offload in ["on", "off"] {
            world.exec(
                "guest",
                &format!("ethtool -K eth0 tx {offload} tso {offload} gso {offload}"),
            );
            for (guest, _, vip) in SITES {
                let served = backend(vip, 1);
                let listener = world.listen("peer", served.address, served.port);
                let server = thread::spawn(move || {
                    let (mut stream, _) = listener.accept().unwrap();
                    let mut all = Vec::new();
                    stream.read_to_end(&mut all).unwrap();
                    stream.write_all(&all).unwrap();
                });
                let mut client = world.connect("guest", (vip, PORT).into()).unwrap();
                let sent: Vec<u8> = (0..6 << 20).map(|i| (i * 7 + i / 251) as u8).collect();
                client.write_all(&sent).unwrap();
                client.shutdown(std::net::Shutdown::Write).unwrap();
                let mut back = Vec::new();
                client.read_to_end(&mut back).unwrap();
                server.join().unwrap();
                assert!(back == sent, "{vip}, offload {offload}: {} bytes", back.len());
                let local = client.local_addr().unwrap();
                assert_eq!(local.ip(), guest);
                let flow = record(&datapath, local.port());
                assert_eq!(flow.key, tcp_key(local, (vip, PORT).into()));
                assert_eq!(
                    (flow.backend, flow.verdict.rule, flow.established),
                    (Some(end(&served)), 1, true)
                );
            }
        }
        assert_eq!(counters(&datapath, Direction::FromGuest).unserved, 0);
    });
}

#[test]
fn datagrams_go_to_one_backend_and_come_back_as_the_service_s() {
    World::run(|world| {
        let datapath = open(world, &[0, 1, 2]);
        for (guest, _, vip) in SITES {
            serve_datagrams(world, vip);
            let client = world.udp("guest", guest, 0);
            client.connect((vip, PORT)).unwrap();
            let mut first = None;
            for text in [&b"one"[..], b"two", &[7; 1400]] {
                client.send(text).unwrap();
                let mut buffer = vec![0; 2000];
                let read = client.recv(&mut buffer).expect("an answer");
                assert_eq!(&buffer[1..read], text);
                assert_eq!(*first.get_or_insert(buffer[0]), buffer[0]);
            }
            let flow = record(&datapath, client.local_addr().unwrap().port());
            assert_eq!(flow.backend, first.map(|number| end(&backend(vip, number))));
            assert_eq!(flow.packets, [3, 3]);
        }
        let events: Vec<_> = datapath.events().unwrap().collect();
        let told = |vip| {
            let mut of = events
                .iter()
                .filter(|e| e.flow.key.remote == SocketAddr::new(vip, PORT));
            of.any(|e| e.kind == EventKind::Start && e.flow.backend.is_some())
        };
        assert!(SITES.iter().all(|(_, _, vip)| told(*vip)), "{events:?}");
    });
}

fn weighted(vip: IpAddr, weights: &[(u8, u16)]) -> Service {
    let backends = weights.iter().map(|(number, weight)| Backend {
        weight: *weight,
        ..backend(vip, *number)
    });
    service(vip, Protocol::TCP, backends.collect())
}

/// How many of `count` connections each backend serves.
fn shares(world: &World, vip: IpAddr, count: usize) -> BTreeMap<u8, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..count {
        let (number, _) = visit(world, (vip, PORT).into()).unwrap();
        *shares.entry(number).or_default() += 1;
    }
    shares
}

#[test]
fn new_connections_are_spread_as_the_weights_say() {
    World::run(|world| {
        let mut datapath = open(world, &[]);
        for (_, _, vip) in SITES {
            serve(world, vip);
            datapath
                .publish_services(&[weighted(vip, &[(0, 80), (1, 20)])])
                .unwrap();
            let shares = shares(world, vip, 500);
            let canary = shares[&1];
            // 100 are expected; the standard deviation is 9.
            assert!(canary.abs_diff(100) < 36, "{vip}: {shares:?}");
            assert_eq!(shares.values().sum::<usize>(), 500);
        }
    });
}

#[test]
fn with_affinity_an_address_stays_with_its_backend() {
    World::run(|world| {
        let mut datapath = open(world, &[]);
        for (_, _, vip) in SITES {
            serve(world, vip);
            let affine = Service {
                affinity: true,
                ..weighted(vip, &[(0, 1), (1, 1), (2, 1), (3, 1)])
            };
            datapath.publish_services(std::slice::from_ref(&affine)).unwrap();
            let before = shares(world, vip, 40);
            assert_eq!(before.len(), 1, "{before:?}");
            // Another address may have another backend: one of some does.
            let one = *before.keys().next().unwrap();
            let prefix = if vip.is_ipv4() { "10.77.0." } else { "fd77::" };
            let others = (50..66).any(|last| {
                let address = format!("{prefix}{last}");
                let bits = if vip.is_ipv4() { 24 } else { 64 };
                world.ip(
                    "guest",
                    &format!("addr add {address}/{bits} dev eth0 {}", nodad(vip)),
                );
                let mac = GUEST_MAC.map(|byte| format!("{byte:02x}")).join(":");
                world.ip(
                    "peer",
                    &format!("neigh replace {address} lladdr {mac} dev eth0 nud permanent"),
                );
                let from = SocketAddr::new(address.parse().unwrap(), 0);
                visit_from(world, from, (vip, PORT).into()).unwrap().0 != one
            });
            assert!(others, "all addresses have one backend");
            datapath
                .publish_services(&[Service {
                    affinity: false,
                    ..affine
                }])
                .unwrap();
            assert!(shares(world, vip, 40).len() > 1);
        }
    });
}

fn nodad(vip: IpAddr) -> &'static str {
    if vip.is_ipv4() { "" } else { "nodad" }
}

fn in_state(vip: IpAddr, protocol: Protocol, states: &[(u8, BackendState)]) -> Vec<Service> {
    let backends = states.iter().map(|(number, state)| Backend {
        state: *state,
        ..backend(vip, *number)
    });
    vec![service(vip, protocol, backends.collect())]
}

#[test]
fn a_draining_backend_keeps_its_connections_and_a_dead_one_resets_them() {
    use BackendState::{Dead, Draining, Serving};
    World::run(|world| {
        let mut datapath = open(world, &[]);
        for (_, _, vip) in SITES {
            serve(world, vip);
            let to = SocketAddr::new(vip, PORT);
            let publish = |datapath: &mut netback_filter::Datapath, states: &[_]| {
                datapath
                    .publish_services(&in_state(vip, Protocol::TCP, states))
                    .unwrap();
            };
            publish(&mut datapath, &[(0, Serving)]);
            let (number, mut stream) = visit(world, to).unwrap();
            assert_eq!(number, 0);
            for left in [&[(0, Draining), (1, Serving)][..], &[(1, Serving)]] {
                publish(&mut datapath, left);
                echoes(&mut stream).unwrap();
                assert_eq!(shares(world, vip, 20).into_keys().collect::<Vec<_>>(), [1]);
                echoes(&mut stream).unwrap();
            }
            publish(&mut datapath, &[(0, Dead), (1, Serving)]);
            stream.write_all(b"hello").unwrap();
            let began = Instant::now();
            let error = stream.read(&mut [0; 5]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{vip}");
            assert!(began.elapsed() < SHORT);
            assert_eq!(visit(world, to).unwrap().0, 1);
            // Alive again, it serves again.
            publish(&mut datapath, &[(0, Serving)]);
            let (number, mut stream) = visit(world, to).unwrap();
            echoes(&mut stream).unwrap();
            assert_eq!(number, 0);
        }
    });
}

#[test]
fn datagrams_stay_with_a_draining_backend_and_leave_a_dead_one() {
    use BackendState::{Dead, Draining, Serving};
    World::run(|world| {
        let mut datapath = open(world, &[]);
        for (guest, _, vip) in SITES {
            serve_datagrams(world, vip);
            let client = world.udp("guest", guest, 0);
            client.connect((vip, PORT)).unwrap();
            let mut served = |states: &[_]| {
                datapath
                    .publish_services(&in_state(vip, Protocol::UDP, states))
                    .unwrap();
                client.send(b"?").unwrap();
                let mut buffer = [0; 9];
                client.recv(&mut buffer).expect("an answer");
                buffer[0]
            };
            assert_eq!(served(&[(0, Serving)]), 0);
            assert_eq!(served(&[(0, Draining), (1, Serving)]), 0);
            assert_eq!(served(&[(1, Serving)]), 0);
            assert_eq!(served(&[(0, Dead), (1, Serving)]), 1);
            assert_eq!(served(&[(0, Serving), (1, Serving)]), 1);
        }
    });
}

#[test]
fn userspace_chooses_for_one_flow() {
    World::run(|world| {
        let datapath = open(world, &[0]);
        let writer = datapath.flow_writer();
        for (guest, _, vip) in SITES {
            serve(world, vip);
            let (from, to) = (SocketAddr::new(guest, 23000), SocketAddr::new(vip, PORT));
            let canary = Target {
                end: end(&backend(vip, 3)),
                mac: Some(PEER_MAC),
            };
            writer.redirect(&tcp_key(from, to), &canary).unwrap();
            writer
                .set(&tcp_key(from, to), verdict(Action::Allow, 40))
                .unwrap();
            let (number, mut stream) = visit_from(world, from, to).unwrap();
            assert_eq!(number, 3);
            echoes(&mut stream).unwrap();
            let flow = record(&datapath, 23000);
            assert_eq!((flow.backend, flow.verdict.rule), (Some(canary.end), 40));
            // Another flow, and the next of the same port, go where the service says.
            assert_eq!(visit(world, to).unwrap().0, 0);
            end_with_reset(stream);
            assert_eq!(visit_from(world, from, to).unwrap().0, 0);
        }
        let icmp = netback_filter::FlowKey {
            protocol: Protocol::ICMP,
            ..tcp_key((GUEST4, 1).into(), (VIP4, 1).into())
        };
        let target = Target {
            end: (PEER4, 1).into(),
            mac: None,
        };
        assert_eq!(
            writer.redirect(&icmp, &target).unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
        let key = tcp_key((GUEST4, 1).into(), (VIP4, 1).into());
        for wrong in [
            Target {
                end: (PEER6, 1).into(),
                mac: None,
            },
            Target {
                end: (PEER4, 0).into(),
                mac: None,
            },
            Target {
                end: (PEER4, 1).into(),
                mac: Some([0xff; 6]),
            },
        ] {
            assert_eq!(
                writer.redirect(&key, &wrong).unwrap_err().kind(),
                ErrorKind::InvalidInput
            );
        }
    });
}

/// So that its port is free at once.
fn end_with_reset(stream: std::net::TcpStream) {
    use std::os::fd::AsRawFd;
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the pointer is to a linger of the size given, which the call only reads.
    let set = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    assert_eq!(set, 0);
    drop(stream);
    thread::sleep(Duration::from_millis(20));
}

/// The honeypot: the flow is for a real host that is not asked.
#[test]
fn a_flow_to_any_address_can_be_sent_elsewhere() {
    World::run(|world| {
        let datapath = open(world, &[]);
        for (guest, peer, vip) in SITES {
            serve(world, vip);
            let real = world.listen("peer", peer, PORT);
            real.set_nonblocking(true).unwrap();
            let (from, to) = (SocketAddr::new(guest, 23001), SocketAddr::new(peer, PORT));
            let honeypot = Target {
                end: end(&backend(vip, 2)),
                mac: None,
            };
            datapath
                .flow_writer()
                .redirect(&tcp_key(from, to), &honeypot)
                .unwrap();
            let (number, mut stream) = visit_from(world, from, to).unwrap();
            assert_eq!((number, stream.peer_addr().unwrap()), (2, to));
            echoes(&mut stream).unwrap();
            assert_eq!(real.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
            world.connect("guest", to).unwrap();
            real.accept().unwrap();
        }
    });
}

#[test]
fn without_a_backend_flows_are_refused_as_the_service_says() {
    World::run(|world| {
        let mut datapath = open(world, &[]);
        let mut events = datapath.events().unwrap();
        for (_, _, vip) in SITES {
            let to = SocketAddr::new(vip, PORT);
            let refused = world.connect("guest", to).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
            let event = events
                .by_ref()
                .find(|e| e.flow.key.remote == to)
                .expect("a report");
            assert_eq!(
                (event.kind, event.flow.verdict.action),
                (EventKind::Refused, RESET)
            );
            assert_eq!(
                (event.flow.decided_by, event.flow.verdict.rule),
                (DecidedBy::Service, 1)
            );
            let silent = Service {
                refuse: Refuse::Drop,
                ..service(vip, Protocol::TCP, vec![])
            };
            datapath.publish_services(&[silent]).unwrap();
            let dropped = world.inside("guest", || std::net::TcpStream::connect_timeout(&to, SHORT));
            assert_eq!(dropped.unwrap_err().kind(), ErrorKind::TimedOut);
            datapath.publish_services(&everywhere(&[])).unwrap();
        }
        assert!(counters(&datapath, Direction::FromGuest).unserved >= 4);
        assert!(
            datapath
                .flows(None)
                .all(|flow| flow.unwrap().key.protocol != Protocol::TCP)
        );
    });
}

#[test]
fn a_policy_that_denies_the_service_is_obeyed_and_what_it_allows_is_cut_when_it_turns() {
    World::run(|world| {
        let datapath = open_with(world, ScopeConfig::closed(), vec![allow_tcp(1, PORT)], &[0]);
        let writer = datapath.flow_writer();
        for (guest, _, vip) in SITES {
            serve(world, vip);
            let to = SocketAddr::new(vip, PORT);
            let other = service(vip, Protocol::TCP, vec![backend(vip, 0)]);
            // A rule for the backend's port allows nothing: the guest's flow is to the service.
            let denied = world
                .connect("guest", SocketAddr::new(vip, other.backends[0].port))
                .unwrap_err();
            assert_eq!(denied.kind(), ErrorKind::ConnectionRefused);
            let wire = support::wire::Wire::open(world, "peer");
            let from = SocketAddr::new(guest, 23002);
            writer.set(&tcp_key(from, to), verdict(RESET, 9)).unwrap();
            let denied = world.connect_from("guest", from, to).unwrap_err();
            assert_eq!(denied.kind(), ErrorKind::ConnectionRefused);
            assert!(!wire.sees(SHORT, |f| frame::has_port(f, 23002)));
            writer.remove(&tcp_key(from, to)).unwrap();

            let listener = world.listen("peer", support::site::backend_address(vip, 3), 8009);
            let target = Target {
                end: listener.local_addr().unwrap(),
                mac: Some(PEER_MAC),
            };
            let from = SocketAddr::new(guest, 23003);
            writer.redirect(&tcp_key(from, to), &target).unwrap();
            let mut client = world.connect_from("guest", from, to).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            client.write_all(b"hello").unwrap();
            server.read_exact(&mut [0; 5]).unwrap();
            writer.revise(&tcp_key(from, to), verdict(RESET, 10)).unwrap();
            client.write_all(b"hello").unwrap();
            server.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            for end in [&mut client, &mut server] {
                assert_eq!(
                    end.read(&mut [0; 5]).unwrap_err().kind(),
                    ErrorKind::ConnectionReset,
                    "{vip}"
                );
            }
        }
    });
}

/// A backend cannot tell two flows from one port of a guest apart.
#[test]
fn the_same_port_to_a_service_and_to_its_backend_is_refused_the_second_time() {
    World::run(|world| {
        let rules = vec![allow_tcp(1, PORT), allow_tcp(2, 8000)];
        let datapath = open_with(world, no_adoption(), rules, &[0]);
        for (guest, _, vip) in SITES {
            serve(world, vip);
            let from = SocketAddr::new(guest, 23004);
            let (to, direct) = (SocketAddr::new(vip, PORT), end(&backend(vip, 0)));
            for (first, second) in [(to, direct), (direct, to)] {
                let (_, mut stream) = visit_from(world, from, first).unwrap();
                let refused = world.connect_from("guest", from, second).unwrap_err();
                assert_eq!(
                    refused.kind(),
                    ErrorKind::ConnectionRefused,
                    "{first} then {second}"
                );
                echoes(&mut stream).unwrap();
                end_with_reset(stream);
                // The first is over.
                let (_, mut stream) = visit_from(world, from, second).unwrap();
                echoes(&mut stream).unwrap();
                end_with_reset(stream);
            }
        }
        assert_eq!(counters(&datapath, Direction::FromGuest).unserved, 4);
    });
}

#[test]
fn a_guest_that_is_locked_to_its_addresses_uses_services_and_cannot_take_their_place() {
    World::run(|world| {
        let locked = ScopeConfig {
            lock: netback_filter::Lock::Address,
            ..no_adoption()
        };
        let mut datapath = open_with(world, locked, to_services(), &[1]);
        datapath.set_addresses(SCOPE, &[GUEST4, GUEST6]).unwrap();
        for (_, peer, vip) in SITES {
            serve(world, vip);
            let (_, mut stream) = visit(world, (vip, PORT).into()).unwrap();
            echoes(&mut stream).unwrap();
            let before = counters(&datapath, Direction::FromGuest).forged;
            let forged = frame::tcp_packet(vip, peer, (PORT, 5000), frame::SYN);
            support::wire::Wire::open(world, "guest").send(&frame::from_guest(vip, &forged));
            assert_eq!(counters(&datapath, Direction::FromGuest).forged, before + 1);
        }
    });
}

/// The backend's own vif knows nothing of the service: it sees, and judges, a flow of the client to the backend.
#[test]
fn the_backend_s_own_vif_judges_what_it_sees() {
    World::run(|world| {
        let mut datapath = open(world, &[1]);
        let backend_scope = SCOPE + 1;
        let shut = ScopeConfig {
            default_to_guest: RESET,
            ..no_adoption()
        };
        datapath.set_scope(backend_scope, shut).unwrap();
        let vif = netback_filter::VifConfig {
            scope: backend_scope,
            mac: Some(PEER_MAC),
        };
        datapath.attach("vif2.0", vif).unwrap();
        let served = |port| netback_filter::Rule {
            scope: backend_scope,
            ..rule(7, Direction::ToGuest, Protocol::TCP, Some(port), Action::Allow)
        };
        for (generation, (guest, _, vip)) in (2..).zip(SITES) {
            serve(world, vip);
            let to = SocketAddr::new(vip, PORT);
            let mut publish = |port, generation| {
                let rules = to_services().into_iter().chain([served(port)]).collect();
                let set = netback_filter::RuleSet { peers: vec![], rules };
                datapath.publish(&set, generation).unwrap();
            };
            publish(PORT, 10 * generation);
            let refused = visit(world, to).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
            publish(backend(vip, 1).port, 10 * generation + 1);
            let (_, mut stream) = visit_from(world, SocketAddr::new(guest, 23005), to).unwrap();
            echoes(&mut stream).unwrap();
            let key = netback_filter::FlowKey {
                scope: backend_scope,
                ..tcp_key(end(&backend(vip, 1)), (guest, 23005).into())
            };
            let mut flows = datapath.flows(Some(backend_scope)).map(Result::unwrap);
            let flow = flows.find(|flow| flow.key == key).expect("the backend's flow");
            assert_eq!((flow.backend, flow.verdict.rule), (None, 7));
        }
    });
}

#[test]
fn the_same_port_to_two_services_of_one_backend_is_refused_the_second_time() {
    World::run(|world| {
        let rules = vec![allow_tcp(1, PORT), allow_tcp(2, PORT + 1)];
        let mut datapath = open_with(world, no_adoption(), rules, &[]);
        for (guest, _, vip) in SITES {
            serve(world, vip);
            let one = service(vip, Protocol::TCP, vec![backend(vip, 0)]);
            let other = Service {
                port: PORT + 1,
                ..one.clone()
            };
            datapath.publish_services(&[one, other]).unwrap();
            let from = SocketAddr::new(guest, 23006);
            let [first, second] = [PORT, PORT + 1].map(|port| SocketAddr::new(vip, port));
            let (_, mut stream) = visit_from(world, from, first).unwrap();
            let refused = world.connect_from("guest", from, second).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
            echoes(&mut stream).unwrap();
            end_with_reset(stream);
            let (_, mut stream) = visit_from(world, from, second).unwrap();
            echoes(&mut stream).unwrap();
        }
    });
}

#[test]
fn translations_outlive_the_process() {
    World::run(|world| {
        let datapath = open(world, &[0, 1]);
        serve(world, VIP4);
        let (number, mut stream) = visit(world, (VIP4, PORT).into()).unwrap();
        drop(datapath);
        echoes(&mut stream).unwrap();
        let mut datapath = world.open();
        assert_eq!(datapath.opened(), Opened::Adopted);
        datapath
            .attach(
                VIF,
                netback_filter::VifConfig {
                    scope: SCOPE,
                    mac: Some(GUEST_MAC),
                },
            )
            .unwrap();
        echoes(&mut stream).unwrap();
        assert!(visit(world, (VIP4, PORT).into()).is_ok());
        let flow = record(&datapath, stream.local_addr().unwrap().port());
        assert_eq!(flow.backend, Some(end(&backend(VIP4, number))));
        datapath.publish_services(&everywhere(&[1 - number])).unwrap();
        echoes(&mut stream).unwrap();
        assert_eq!(visit(world, (VIP4, PORT).into()).unwrap().0, 1 - number);
    });
}

/// Two sets are exchanged as fast as can be: every connection finds a backend of one of them.
#[test]
fn an_exchange_under_load_refuses_nobody() {
    World::run(|world| {
        let mut datapath = open(world, &[0]);
        serve(world, VIP4);
        let stop = Stop::default();
        thread::scope(|scope| {
            let clients = scope.spawn(|| {
                let mut served = BTreeMap::new();
                while !stop.is_set() {
                    let (number, _) = visit(world, (VIP4, PORT).into()).unwrap();
                    *served.entry(number).or_insert(0) += 1;
                }
                served
            });
            let running = stop.on_drop();
            for round in 0..60 {
                datapath.publish_services(&everywhere(&[round % 2])).unwrap();
            }
            drop(running);
            let served = clients.join().unwrap();
            assert_eq!(served.into_keys().collect::<Vec<_>>(), [0, 1]);
        });
        assert_eq!(counters(&datapath, Direction::FromGuest).unserved, 0);
    });
}

#[test]
fn services_that_cannot_be_leave_the_old_ones_in_force() {
    World::run(|world| {
        let mut datapath = open(world, &[2]);
        serve(world, VIP4);
        let twice = [everywhere(&[1]), everywhere(&[1])].concat();
        let error = datapath.publish_services(&twice).unwrap_err().to_string();
        assert!(
            error.contains("10.77.0.100:80") && error.contains("twice"),
            "{error}"
        );
        assert_eq!(visit(world, (VIP4, PORT).into()).unwrap().0, 2);
    });
}

/// Who chooses for a flow before its first packet chooses as the programs would.
#[test]
fn the_choice_can_be_known_before_the_flow() {
    World::run(|world| {
        let mut datapath = open(world, &[]);
        for affinity in [false, true] {
            let mut services = everywhere(&[0, 1, 2, 3]);
            for service in &mut services {
                service.affinity = affinity;
                for (backend, weight) in service.backends.iter_mut().zip([1, 5, 0, 9]) {
                    backend.weight = weight;
                }
            }
            datapath.publish_services(&services).unwrap();
            for (_, _, vip) in SITES {
                if !affinity {
                    serve(world, vip);
                }
                let service = services.iter().find(|s| s.address == vip).unwrap();
                for _ in 0..40 {
                    let (number, stream) = visit(world, (vip, PORT).into()).unwrap();
                    let client = stream.local_addr().unwrap();
                    let chosen = Backend::choose(service.backends.clone(), client, affinity).unwrap();
                    assert_eq!(chosen, service.backends[usize::from(number)], "{client}");
                    let key = tcp_key(client, (vip, PORT).into());
                    let found = datapath.flow_writer().backend(&key).unwrap();
                    assert_eq!(found, Some(end(&chosen)));
                }
            }
        }
    });
}
