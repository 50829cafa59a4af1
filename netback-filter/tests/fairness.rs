// SPDX-License-Identifier: GPL-3.0-only
//! What one guest's flood of new flows does to the flows of others, and to its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::thread;
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use netback_filter::{
    Action, AdoptEstablished, Config, Datapath, DecidedBy, FlowKey, Protocol, RuleSet, ScopeConfig, VifConfig,
};
use support::frame::{SYN, tcp_packet};
use support::wire::Wire;
use support::*;

/// The peer is a guest, too, and the one that floods.
const FLOODER: u32 = SCOPE + 1;
const FLOODERS_VIF: &str = "vif2.0";
const SERVER4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 3));
const SERVER_MAC: [u8; 6] = [0x00, 0x16, 0x3e, 0, 0, 3];
const PORT: u16 = 7000;

const CAPACITY: u32 = 4096;
const SHARE: u32 = 256;

/// A world with a third end, which is under no datapath; both guests under one whose scopes have so many flows.
fn open(world: &World, scope_flows: u32) -> Datapath {
    let ns = world.add("watcher");
    let mac = text(SERVER_MAC);
    world.ip(
        "dom0",
        &format!("link add vif3.0 type veth peer name eth0 address {mac} netns {ns}"),
    );
    world.ip("dom0", "link set vif3.0 master br0 up");
    world.ip("watcher", "addr add 10.77.0.3/24 dev eth0");
    world.ip("watcher", "link set eth0 up");
    let knows = |part, address: IpAddr, mac| {
        world.ip(
            part,
            &format!(
                "neigh replace {address} lladdr {} dev eth0 nud permanent",
                text(mac)
            ),
        );
    };
    for (part, address, mac) in [("guest", GUEST4, GUEST_MAC), ("peer", PEER4, PEER_MAC)] {
        knows(part, SERVER4, SERVER_MAC);
        knows("watcher", address, mac);
    }

    let config = Config {
        flow_capacity: CAPACITY,
        verdict_capacity: CAPACITY,
        scope_flows,
        ..world.config()
    };
    let mut datapath = Datapath::open(config).unwrap();
    let flooder = ScopeConfig {
        adopt_established: AdoptEstablished::No,
        ..ScopeConfig::open()
    };
    datapath.set_scope(SCOPE, no_adoption()).unwrap();
    datapath.set_scope(FLOODER, flooder).unwrap();
    let rules = vec![allow_tcp(1, PORT)];
    datapath.publish(&RuleSet { peers: vec![], rules }, 1).unwrap();
    for (vif, scope, mac) in [(VIF, SCOPE, GUEST_MAC), (FLOODERS_VIF, FLOODER, PEER_MAC)] {
        let config = VifConfig {
            scope,
            mac: Some(mac),
        };
        datapath.attach(vif, config).unwrap();
    }
    datapath
}

fn to_server(mac: [u8; 6], packet: &[u8]) -> Vec<u8> {
    [&SERVER_MAC[..], &mac, &[0x08, 0x00], packet].concat()
}

fn datagram(number: u32) -> (u16, u16) {
    (1024 + (number % 60_000) as u16, 9000 + (number / 60_000) as u16)
}

/// So many flows that nobody answers, from two CPUs at once where there are two.
fn flood(world: &World, flows: u32) {
    thread::scope(|scope| {
        for half in 0..2 {
            scope.spawn(move || {
                let wire = Wire::open(world, "peer");
                for number in (half..flows).step_by(2) {
                    let segment = frame::udp(PEER4, SERVER4, datagram(number), b"x");
                    let packet = frame::ip(PEER4, SERVER4, frame::UDP, (0, 0), &segment);
                    wire.send(&to_server(PEER_MAC, &packet));
                }
            });
        }
    });
}

/// A connection from one of the guests to the server.
struct Connection {
    near: TcpStream,
    far: TcpStream,
}

impl Connection {
    fn open(world: &World, part: &str) -> Connection {
        let listener = world.listen("watcher", SERVER4, PORT);
        let near = world.connect(part, (SERVER4, PORT).into()).unwrap();
        let (far, _) = listener.accept().unwrap();
        for end in [&near, &far] {
            end.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        }
        Connection { near, far }
    }

    /// Whether what one end says is heard at the other.
    fn lives(&mut self) -> bool {
        let mut heard = [0; 4];
        self.near.write_all(b"ping").unwrap();
        if self.far.read_exact(&mut heard).is_err() {
            return false;
        }
        self.far.write_all(b"pong").unwrap();
        self.near.read_exact(&mut heard).is_ok()
    }
}

fn flows(datapath: &Datapath, scope: u32) -> u32 {
    datapath.flows(Some(scope)).count() as u32
}

/// The turns that are taken: scope and number.
fn turns(world: &World) -> Vec<[u32; 2]> {
    let data = MapData::from_pin(world.pin_dir().join("turns")).unwrap();
    let map: HashMap<MapData, [u32; 2], [u8; 44]> = Map::from_map_data(data).unwrap().try_into().unwrap();
    map.keys().map(Result::unwrap).collect()
}

#[test]
fn a_flood_ends_neither_the_connections_of_another_guest_nor_its_own() {
    World::run(|world| {
        let datapath = open(world, SHARE);
        let mut connections = ["guest", "peer"].map(|part| Connection::open(world, part));
        flood(world, 6 * CAPACITY);
        let taken = flows(&datapath, FLOODER);
        assert!(taken > SHARE / 2 && taken <= SHARE, "{taken}");
        assert_eq!(flows(&datapath, SCOPE), 1);
        assert!(connections.iter_mut().all(Connection::lives));
    });
}

/// What the share is for: without it the table is whose flows are newest.
#[test]
fn without_shares_a_flood_ends_the_connections_of_others() {
    World::run(|world| {
        let datapath = open(world, u32::MAX);
        let mut connection = Connection::open(world, "guest");
        assert!(connection.lives());
        // Each CPU evicts what it meets first: where one does all of it, it may meet the connection late.
        let ended = (0..10).any(|_| {
            flood(world, 6 * CAPACITY);
            assert!(flows(&datapath, FLOODER) > CAPACITY / 2);
            !connection.lives()
        });
        assert!(ended);
    });
}

#[test]
fn verdicts_of_userspace_are_of_the_share_and_a_flow_that_begins_anew_keeps_its_turn() {
    World::run(|world| {
        let datapath = open(world, SHARE);
        let (writer, wire) = (datapath.flow_writer(), Wire::open(world, "peer"));
        for number in 0..3 * SHARE {
            let (from, to) = datagram(number);
            let key = FlowKey {
                scope: FLOODER,
                protocol: Protocol::UDP,
                ..tcp_key((PEER4, from).into(), (SERVER4, to).into())
            };
            writer.set(&key, verdict(Action::Allow, 9)).unwrap();
            let segment = frame::udp(PEER4, SERVER4, (from, to), b"x");
            let packet = frame::ip(PEER4, SERVER4, frame::UDP, (0, 0), &segment);
            wire.send(&to_server(PEER_MAC, &packet));
        }
        let records = datapath.flows(Some(FLOODER)).map(Result::unwrap);
        let decided = records.filter(|f| f.decided_by == DecidedBy::Userspace).count() as u32;
        assert!(decided > SHARE / 2 && decided <= SHARE, "{decided}");

        // The server's RST ends each.
        let (guest, server) = (Wire::open(world, "guest"), Wire::open(world, "watcher"));
        let syn = to_server(GUEST_MAC, &tcp_packet(GUEST4, SERVER4, (5000, PORT), SYN));
        for _ in 0..5 {
            guest.send(&syn);
            assert!(server.sees(Duration::from_secs(1), |f| f == syn));
            assert!(guest.sees(Duration::from_secs(1), |f| f[6..12] == SERVER_MAC));
        }
        let of_guest = turns(world).iter().filter(|[scope, _]| *scope == SCOPE).count();
        assert_eq!(of_guest, 1);
    });
}

#[test]
fn shares_are_smaller_where_there_are_many_scopes_and_go_with_them() {
    World::run(|world| {
        let mut datapath = open(world, CAPACITY / 2);
        flood(world, CAPACITY / 4);
        let highest = || turns(world).iter().map(|[_, turn]| *turn).max();
        let count = |scope| turns(world).iter().filter(|[s, _]| *s == scope).count() as u32;
        assert!(count(FLOODER) > CAPACITY / 8, "{}", count(FLOODER));

        // Of twice the table's size a scope of 32 has a 32nd.
        let others = 100..130;
        for scope in others.clone() {
            datapath.set_scope(scope, ScopeConfig::open()).unwrap();
        }
        assert!(highest() <= Some(CAPACITY / 16), "{:?}", highest());
        flood(world, 2 * CAPACITY);
        assert!(highest() <= Some(CAPACITY / 16) && count(FLOODER) > 0);

        for scope in others {
            datapath.remove_scope(scope).unwrap();
        }
        flood(world, CAPACITY);
        assert!(count(FLOODER) > CAPACITY / 16 && count(FLOODER) <= CAPACITY / 2);
        datapath.detach(FLOODERS_VIF).unwrap();
        datapath.remove_scope(FLOODER).unwrap();
        assert_eq!(count(FLOODER), 0);
    });
}
