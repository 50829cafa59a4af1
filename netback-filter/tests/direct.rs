// SPDX-License-Identifier: GPL-3.0-only
//! The short way from vif to vif: where it is taken, that both ends judge what takes it, and that all else stays with the bridge.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::io::ErrorKind;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use netback_filter::{
    BridgeWatch, Counters, DIRECT_LEASE, Datapath, Detour, Direction, Protocol, Rate, Rule, ScopeConfig,
    Shaping,
};
use support::frame::{CTAG, UDP, ethernet, ethertype_of, tagged};
use support::traffic::{Stream, mbits};
use support::wire::{Ends, Wire};
use support::*;

const PORT: u16 = 7000;
const CLOSED: u16 = 7001;

fn world(test: impl FnOnce(&World) + Send) {
    World::run_on(Path::Direct, test);
}

/// Both vifs; what the guest opens by these rules, the peer's vif takes by `peer`.
fn open(world: &World, rules: Vec<Rule>, peer: ScopeConfig) -> Datapath {
    let mut datapath = world.attach(no_adoption(), rules);
    world.open_direct(&mut datapath, peer);
    datapath
}

fn allow(protocol: Protocol, port: u16) -> Rule {
    rule(
        1,
        Direction::FromGuest,
        protocol,
        Some(port),
        netback_filter::Action::Allow,
    )
}

fn both() -> Vec<Rule> {
    vec![allow(Protocol::TCP, PORT), allow(Protocol::UDP, PORT)]
}

fn sent(datapath: &Datapath) -> Counters {
    counters(datapath, Direction::FromGuest)
}

/// A datagram of the guest's to the peer, as the rules allow it.
fn datagram(guest: IpAddr, peer: IpAddr, payload: &[u8]) -> Vec<u8> {
    frame::ip(
        guest,
        peer,
        UDP,
        (0, 0),
        &frame::udp(guest, peer, (5000, PORT), payload),
    )
}

fn from_guest(guest: IpAddr, peer: IpAddr, payload: &[u8]) -> Vec<u8> {
    ethernet(
        GUEST_MAC,
        PEER_MAC,
        ethertype_of(guest),
        &datagram(guest, peer, payload),
    )
}

/// Sends two datagrams, of which the bridge may have its one. How many arrive, and how many of them past the bridge.
fn two(datapath: &Datapath, ends: &Ends) -> (usize, u64) {
    let before = sent(datapath).direct;
    let arrived = [b"first ", b"second"]
        .into_iter()
        .filter(|payload| ends.leaves(&from_guest(GUEST4, PEER4, *payload)))
        .count();
    (arrived, sent(datapath).direct - before)
}

fn way(datapath: &mut Datapath, vif: &str) -> Result<(), Detour> {
    let all = datapath.renew_direct().unwrap();
    all.into_iter().find(|one| one.name == vif).unwrap().way
}

#[test]
fn what_passes_goes_straight_and_is_counted_and_judged_at_both_ends() {
    world(|world| {
        // The peer's vif lets nobody in but by its own rule.
        let in_rule = Rule {
            scope: PEER_SCOPE,
            ..rule(
                9,
                Direction::ToGuest,
                Protocol::TCP,
                Some(PORT),
                netback_filter::Action::Allow,
            )
        };
        let rules = vec![allow(Protocol::TCP, PORT), allow(Protocol::TCP, CLOSED), in_rule];
        let closed = ScopeConfig {
            default_to_guest: RESET,
            ..no_adoption()
        };
        let datapath = open(world, rules, closed);
        for (_, peer) in FAMILIES {
            let listener = world.listen("peer", peer, PORT);
            let before = [SCOPE, PEER_SCOPE]
                .map(|scope| Direction::BOTH.map(|direction| counters_of(&datapath, scope, direction)));
            let mut stream = world.connect("guest", (peer, PORT).into()).unwrap();
            let (mut other, _) = listener.accept().unwrap();
            for _ in 0..20 {
                std::io::Write::write_all(&mut stream, b"question").unwrap();
                std::io::Read::read_exact(&mut other, &mut [0; 8]).unwrap();
                std::io::Write::write_all(&mut other, b"answer").unwrap();
                std::io::Read::read_exact(&mut stream, &mut [0; 6]).unwrap();
            }
            let now = [SCOPE, PEER_SCOPE]
                .map(|scope| Direction::BOTH.map(|direction| counters_of(&datapath, scope, direction)));
            for (end, (before, now)) in before.iter().zip(&now).enumerate() {
                let passed = now[0].passed - before[0].passed;
                let direct = now[0].direct - before[0].direct;
                // One in a second goes by the bridge, and so do the stacks' own multicasts.
                assert!(
                    direct >= 20 && direct <= passed,
                    "{peer}, end {end}: {direct} of {passed}"
                );
                assert_eq!(now[1].direct, 0, "what goes to a guest goes nowhere else");
                // What left the one end was judged at the other.
                let received = &now[1];
                assert!(received.passed - before[1].passed >= 20, "{peer}, end {end}");
                assert_eq!(received.foreign, 0);
            }
            // The guest's vif allows it, the peer's does not, and says so.
            let resets = || counters_of(&datapath, PEER_SCOPE, Direction::ToGuest).resets;
            let (before, direct) = (resets(), sent(&datapath).direct);
            let begun = Instant::now();
            let refused = world.connect("guest", (peer, CLOSED).into()).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
            assert!(begun.elapsed() < Duration::from_millis(500));
            assert_eq!(resets(), before + 1);
            assert!(
                sent(&datapath).direct > direct,
                "it met the peer's vif past the bridge"
            );
            // The guest's own vif denies, and nothing goes anywhere. The last answer's ACK was late.
            thread::sleep(Duration::from_millis(300));
            let direct = sent(&datapath).direct;
            let wire = Wire::open(world, "peer");
            assert!(world.connect("guest", (peer, 9).into()).is_err());
            assert!(!wire.sees(Duration::from_millis(50), |f| frame::has_port(f, 9)));
            assert_eq!(sent(&datapath).direct, direct);
        }
    });
}

#[test]
fn only_plain_unicast_from_the_guests_own_address_goes_straight() {
    world(|world| {
        let datapath = open(world, both(), ScopeConfig::open());
        let ends = Ends::open(world);
        let frame = |source, dest| ethernet(source, dest, 0x0800, &datagram(GUEST4, PEER4, b"once"));
        let other = [0x00, 0x16, 0x3e, 0, 0, 9];
        // The bridge has had its frame of this second.
        two(&datapath, &ends);
        for (what, frame) in [
            ("to all", frame(GUEST_MAC, [0xff; 6])),
            ("to many", frame(GUEST_MAC, [0x01, 0, 0x5e, 1, 1, 1])),
            ("to nobody that is known", frame(GUEST_MAC, other)),
            ("from another address", frame(other, PEER_MAC)),
            ("tagged", tagged(&frame(GUEST_MAC, PEER_MAC), CTAG, 5)),
            (
                "tagged by priority alone",
                tagged(&frame(GUEST_MAC, PEER_MAC), CTAG, 0x2000),
            ),
        ] {
            let before = sent(&datapath);
            assert!(ends.leaves(&frame), "{what}");
            let after = sent(&datapath);
            assert_eq!(after.direct, before.direct, "{what}");
            assert!(after.passed > before.passed, "{what}");
        }
    });
}

#[test]
fn where_a_bridge_does_more_than_forward_packets_are_left_to_it() {
    type Change = (&'static str, &'static str, Detour, bool);
    // What is done, what undoes it, and whether packets arrive by the bridge meanwhile.
    let changes: [Change; 6] = [
        (
            "ip link set br0 type bridge vlan_filtering 1",
            "ip link set br0 type bridge vlan_filtering 0",
            Detour::VlanFiltering,
            true,
        ),
        (
            "ip link set br0 type bridge ageing_time 0",
            "ip link set br0 type bridge ageing_time 30000",
            Detour::ForgetsSoon,
            true,
        ),
        (
            "bridge link set dev vif1.0 isolated on",
            "bridge link set dev vif1.0 isolated off",
            Detour::Isolated,
            true,
        ),
        (
            "bridge link set dev vif1.0 state 0",
            "bridge link set dev vif1.0 state 3",
            Detour::NotForwarding,
            false,
        ),
        (
            "ip link set vif1.0 nomaster",
            "ip link set vif1.0 master br0",
            Detour::NoBridge,
            false,
        ),
        (
            "nft add table bridge t; add chain bridge t c { type filter hook forward priority 0; policy drop; }",
            "nft delete table bridge t",
            Detour::Netfilter,
            false,
        ),
    ];
    world(|world| {
        let mut datapath = open(world, both(), ScopeConfig::open());
        let ends = Ends::open(world);
        assert_eq!(way(&mut datapath, VIF), Ok(()));
        let watch = BridgeWatch::open().unwrap();
        for (change, undo, detour, arrives) in changes {
            if detour == Detour::VlanFiltering && !has_vlan_filtering(world) {
                println!("not tried: this kernel has no VLAN filtering");
                continue;
            }
            while watch.wait(Duration::from_millis(20)) {}
            run_words(world, change);
            assert!(watch.wait(Duration::from_secs(2)), "{change}: nobody was told");
            assert_eq!(way(&mut datapath, VIF), Err(detour), "{change}");
            let (arrived, direct) = two(&datapath, &ends);
            assert_eq!((arrived, direct), (if arrives { 2 } else { 0 }, 0), "{change}");
            run_words(world, undo);
            world.meet();
            assert_eq!(way(&mut datapath, VIF), Ok(()), "{undo}");
            let (arrived, direct) = two(&datapath, &ends);
            assert!(arrived == 2 && direct >= 1, "{undo}: {arrived}, {direct}");
        }
        if std::path::Path::new("/proc/sys/net/bridge").exists() {
            world.set_br_netfilter(true);
            assert_eq!(way(&mut datapath, VIF), Err(Detour::Netfilter));
            world.set_br_netfilter(false);
        }
        assert_eq!(way(&mut datapath, VIF), Ok(()));
        // The bridge does not know any more where the peer is.
        run_words(world, "bridge fdb del 00:16:3e:00:00:02 dev vif2.0 master");
        assert_eq!(way(&mut datapath, VIF), Ok(()));
        assert_eq!(two(&datapath, &ends), (2, 0));
        datapath.stop_direct().unwrap();
        world.meet();
        assert_eq!(two(&datapath, &ends), (2, 0));
    });
}

fn has_vlan_filtering(world: &World) -> bool {
    let mut ip = world.command("dom0", "ip");
    ip.args("link set br0 type bridge vlan_filtering 0".split(' '))
        .output()
        .unwrap()
        .status
        .success()
}

/// As a shell would, but for nft, which takes all behind its name as one.
fn run_words(world: &World, command: &str) {
    match command.strip_prefix("nft ") {
        Some(script) => {
            let mut nft = world.command("dom0", "nft");
            assert!(nft.arg(script).status().unwrap().success(), "{command}");
        }
        None => {
            world.exec("dom0", command);
        }
    }
}

#[test]
fn neighbours_of_the_host_are_no_news() {
    world(|world| {
        let watch = BridgeWatch::open().unwrap();
        while watch.wait(Duration::from_millis(50)) {}
        world.ip(
            "dom0",
            "neigh replace 10.9.9.9 lladdr 00:16:3e:00:00:02 dev br0 nud permanent",
        );
        assert!(!watch.wait(Duration::from_millis(100)));
        run_words(
            world,
            "bridge fdb replace 00:16:3e:00:00:44 dev vif2.0 master static",
        );
        assert!(watch.wait(Duration::from_secs(1)));
    });
}

#[test]
fn when_nobody_looks_any_more_all_goes_by_the_bridge() {
    world(|world| {
        let datapath = open(world, both(), ScopeConfig::open());
        let ends = Ends::open(world);
        let begun = Instant::now();
        while begun.elapsed() < DIRECT_LEASE - Duration::from_millis(500) {
            let (arrived, direct) = two(&datapath, &ends);
            assert!(arrived == 2 && direct >= 1, "after {:?}", begun.elapsed());
            thread::sleep(Duration::from_millis(500));
        }
        thread::sleep((DIRECT_LEASE + Duration::from_millis(2200)).saturating_sub(begun.elapsed()));
        assert_eq!(two(&datapath, &ends), (2, 0));
    });
}

/// It remembers for three seconds here.
#[test]
fn the_bridge_forgets_nobody_that_speaks_past_it() {
    world(|world| {
        world.exec("dom0", "ip link set br0 type bridge ageing_time 300");
        // The stacks' own multicasts would remind it.
        for part in ["guest", "peer"] {
            world.exec(part, "sysctl -qw net.ipv6.conf.eth0.router_solicitations=0");
        }
        let mut datapath = open(world, both(), ScopeConfig::open());
        let ends = Ends::open(world);
        let begun = Instant::now();
        let (mut rounds, before) = (0, sent(&datapath));
        while begun.elapsed() < Duration::from_secs(8) {
            datapath.renew_direct().unwrap();
            ends.guest.send(&from_guest(GUEST4, PEER4, b"again"));
            let back = frame::udp(PEER4, GUEST4, (PORT, 5000), b"back");
            ends.peer.send(&frame::from_peer(
                PEER4,
                &frame::ip(PEER4, GUEST4, UDP, (0, 0), &back),
            ));
            if rounds % 20 == 0 {
                let known = world.exec("dom0", "bridge fdb show br br0");
                for mac in [GUEST_MAC, PEER_MAC] {
                    assert!(known.contains(&text(mac)), "after {:?}: {known}", begun.elapsed());
                }
            }
            rounds += 1;
            thread::sleep(Duration::from_millis(20));
        }
        let direct = sent(&datapath).direct - before.direct;
        // One a second, and room for a machine that is busy.
        assert!(direct + 20 >= rounds && direct < rounds, "{direct} of {rounds}");
    });
}

#[test]
fn the_receivers_shaping_holds_and_the_senders_ends_the_short_way() {
    world(|world| {
        let mut datapath = open(world, both(), ScopeConfig::open());
        let to_guest = Shaping {
            to_guest: Rate::from_bits(100_000_000),
            from_guest: None,
            classes: vec![],
        };
        datapath.shape(PEER_VIF, &to_guest).unwrap();
        assert_eq!(way(&mut datapath, PEER_VIF), Ok(()));
        assert_eq!(way(&mut datapath, VIF), Ok(()));
        let before = sent(&datapath);
        let stream = Stream::start(world, "guest", "peer", (PEER4, PORT).into());
        thread::sleep(Duration::from_millis(700));
        let [is] = mbits([&stream], Duration::from_secs(2));
        drop(stream);
        let after = sent(&datapath);
        assert!((80.0..105.0).contains(&is), "{is:.1} of 100 Mbit/s");
        let (passed, direct) = (after.passed - before.passed, after.direct - before.direct);
        assert!(direct * 10 > passed * 9, "{direct} of {passed}");

        let from_guest = Shaping {
            to_guest: None,
            from_guest: Rate::from_bits(60_000_000),
            classes: vec![],
        };
        datapath.shape(VIF, &from_guest).unwrap();
        // At once, and not with the next look.
        let before = sent(&datapath).direct;
        let stream = Stream::start(world, "guest", "peer", (PEER4, PORT).into());
        thread::sleep(Duration::from_millis(700));
        let [is] = mbits([&stream], Duration::from_secs(1));
        drop(stream);
        assert!((45.0..64.0).contains(&is), "{is:.1} of 60 Mbit/s");
        assert_eq!(sent(&datapath).direct, before);
        assert_eq!(way(&mut datapath, VIF), Err(Detour::Filters));
        datapath.unshape(VIF).unwrap();
        assert_eq!(way(&mut datapath, VIF), Ok(()));
    });
}

#[test]
fn what_is_too_large_for_the_receivers_vif_is_left_to_the_bridge() {
    world(|world| {
        world.ip("dom0", "link set vif2.0 mtu 1000");
        let datapath = open(world, both(), ScopeConfig::open());
        let ends = Ends::open(world);
        two(&datapath, &ends);
        let headers = 14 + 20 + 8;
        for (size, fits) in [(1018, true), (1019, false)] {
            let before = sent(&datapath).direct;
            let frame = from_guest(GUEST4, PEER4, &vec![b'x'; size - headers]);
            assert_eq!(frame.len(), size);
            assert_eq!(ends.leaves(&frame), fits, "{size} bytes");
            assert_eq!(sent(&datapath).direct - before, u64::from(fits));
        }
    });
}
