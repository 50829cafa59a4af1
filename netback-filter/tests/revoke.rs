// SPDX-License-Identifier: GPL-3.0-only
//! Connections that are revoked while nobody speaks on them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use netback_filter::{Datapath, Direction, FlowKey, Revoker, RuleSet, ScopeConfig};
use support::site::{PORT, SITES, backend, end, open};
use support::*;

/// A connection on which nobody says anything.
fn idle(world: &World, from: &str, to: (&str, SocketAddr), addressed: SocketAddr) -> [TcpStream; 2] {
    let listener = world.listen(to.0, to.1.ip(), to.1.port());
    let client = world.connect(from, addressed).unwrap();
    let (server, _) = listener.accept().unwrap();
    [client, server]
}

/// Both ends learn within a second, from now on, that it is over.
fn both_are_reset(ends: &mut [TcpStream; 2], of: &str) {
    let begun = Instant::now();
    for end in ends {
        end.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let error = end.read(&mut [0; 9]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{of}: {error}");
        assert!(begun.elapsed() < Duration::from_secs(1), "{of}: too late");
    }
}

fn is_quiet(end: &mut TcpStream) -> bool {
    end.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    matches!(end.read(&mut [0; 9]), Err(error) if error.kind() == ErrorKind::WouldBlock)
}

fn revoke(datapath: &Datapath, key: &FlowKey) -> bool {
    let revoker = Revoker::open(datapath.flow_writer()).unwrap();
    revoker.revoke(key, &datapath.attached().unwrap()).unwrap()
}

#[test]
fn an_idle_connection_ends_at_both_ends_at_once() {
    World::run(|world| {
        let datapath = world.attach(no_adoption(), vec![allow_tcp(1, PORT)]);
        for (guest, peer) in FAMILIES {
            let mut ends = idle(world, "guest", ("peer", (peer, PORT).into()), (peer, PORT).into());
            let key = tcp_key(ends[0].local_addr().unwrap(), (peer, PORT).into());
            // To be asked is nothing that a connection notices which is allowed.
            assert!(revoke(&datapath, &key));
            assert!(ends.iter_mut().all(is_quiet));
            datapath.flow_writer().revise(&key, verdict(RESET, 2)).unwrap();
            assert!(
                ends.iter_mut().all(is_quiet),
                "the verdict alone does it: {guest}"
            );
            assert!(revoke(&datapath, &key));
            both_are_reset(&mut ends, &guest.to_string());
        }
    });
}

#[test]
fn it_does_with_data_before_it_and_where_the_peer_opened_it() {
    World::run(|world| {
        let rules = vec![rule(
            1,
            Direction::ToGuest,
            netback_filter::Protocol::TCP,
            Some(PORT),
            netback_filter::Action::Allow,
        )];
        let mut datapath = world.attach(no_adoption(), rules);
        for (number, (guest, peer)) in (2..).step_by(2).zip(FAMILIES) {
            let mut ends = idle(
                world,
                "peer",
                ("guest", (guest, PORT).into()),
                (guest, PORT).into(),
            );
            for _ in 0..3 {
                let [client, server] = &ends;
                for (mut from, mut to) in [(client, server), (server, client)] {
                    std::io::Write::write_all(&mut from, b"hello").unwrap();
                    to.read_exact(&mut [0; 5]).unwrap();
                }
            }
            let key = tcp_key((guest, PORT).into(), ends[0].local_addr().unwrap());
            assert_eq!(key.remote.ip(), peer);
            // By another rule set.
            let deny = rule(
                2,
                Direction::ToGuest,
                netback_filter::Protocol::TCP,
                Some(PORT),
                RESET,
            );
            datapath
                .publish(
                    &RuleSet {
                        peers: vec![],
                        rules: vec![deny],
                    },
                    number,
                )
                .unwrap();
            assert!(revoke(&datapath, &key));
            both_are_reset(&mut ends, &guest.to_string());
            let allow = rule(
                1,
                Direction::ToGuest,
                netback_filter::Protocol::TCP,
                Some(PORT),
                netback_filter::Action::Allow,
            );
            datapath
                .publish(
                    &RuleSet {
                        peers: vec![],
                        rules: vec![allow],
                    },
                    number + 1,
                )
                .unwrap();
        }
    });
}

#[test]
fn it_does_through_a_service() {
    World::run(|world| {
        let datapath = open(world, &[1]);
        for (_, _, vip) in SITES {
            let behind = end(&backend(vip, 1));
            let mut ends = idle(world, "guest", ("peer", behind), (vip, PORT).into());
            let key = tcp_key(ends[0].local_addr().unwrap(), (vip, PORT).into());
            assert_eq!(datapath.flow_writer().backend(&key).unwrap(), Some(behind));
            datapath.flow_writer().revise(&key, verdict(RESET, 2)).unwrap();
            assert!(revoke(&datapath, &key));
            both_are_reset(&mut ends, &vip.to_string());
        }
    });
}

/// Of one that began before the vif had a datapath no sequence number is known, but what its packets said since.
#[test]
fn it_does_where_the_beginning_was_not_seen() {
    World::run(|world| {
        let (guest, peer): (IpAddr, IpAddr) = FAMILIES[0];
        let mut ends = idle(world, "guest", ("peer", (peer, PORT).into()), (peer, PORT).into());
        let datapath = world.attach(ScopeConfig::open(), vec![]);
        // Only the guest has something to say: of what it expects nothing is told.
        std::io::Write::write_all(&mut ends[0], b"?").unwrap();
        ends[1].read_exact(&mut [0; 1]).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let key = tcp_key(ends[0].local_addr().unwrap(), (peer, PORT).into());
        assert_eq!(key.local.ip(), guest);
        datapath.flow_writer().revise(&key, verdict(RESET, 2)).unwrap();
        assert!(revoke(&datapath, &key));
        both_are_reset(&mut ends, "adopted");
    });
}

/// What is refused without an answer stays so.
#[test]
fn a_refusal_in_silence_is_none_for_who_is_asked() {
    World::run(|world| {
        let datapath = world.attach(no_adoption(), vec![allow_tcp(1, PORT)]);
        let (_, peer) = FAMILIES[0];
        let mut ends = idle(world, "guest", ("peer", (peer, PORT).into()), (peer, PORT).into());
        let key = tcp_key(ends[0].local_addr().unwrap(), (peer, PORT).into());
        datapath.flow_writer().revise(&key, verdict(DROP, 2)).unwrap();
        assert!(revoke(&datapath, &key));
        assert!(ends.iter_mut().all(is_quiet));
    });
}
