// SPDX-License-Identifier: GPL-3.0-only
//! What stays in the kernel when, and what goes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{Array, Map, MapData};
use netback_filter::{Action, Config, Datapath, Error, FlowKey, Opened, ScopeConfig, VifConfig};
use support::wire::Wire;
use support::*;

const VIF_CONFIG: VifConfig = VifConfig {
    scope: SCOPE,
    mac: Some(GUEST_MAC),
};

fn connects(world: &World, port: u16) -> bool {
    match world.connect("guest", (PEER4, port).into()) {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => false,
        Err(error) => panic!("port {port}: {error}"),
    }
}

fn filters(world: &World) -> String {
    let show = |hook| world.exec("dom0", &format!("tc filter show dev {VIF} {hook}"));
    show("ingress") + &show("egress")
}

/// A process of its own that attaches the vif and lets the guest connect to `port`; with its output, since it goes on
/// only as long as somebody holds that.
fn attach_in_child(world: &World, port: u16) -> (Child, impl Iterator<Item = String>) {
    let example = std::env::current_exe()
        .unwrap()
        .with_file_name("../examples/attach");
    let mut child = world
        .command("dom0", example.to_str().unwrap())
        .args([
            world.pin_dir().to_str().unwrap(),
            VIF,
            &SCOPE.to_string(),
            "closed",
            &port.to_string(),
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let mut lines = output.lines().map_while(Result::ok);
    let attached = lines.any(|line| line.starts_with("attached"));
    assert!(
        attached,
        "{} does not attach (`cargo build --examples` first?)",
        example.display()
    );
    (child, lines)
}

#[test]
fn a_killed_process_leaves_its_verdicts_in_force_and_the_next_takes_over() {
    World::run(|world| {
        let _listeners = [7000, 7001].map(|port| world.listen("peer", PEER4, port));
        let (mut child, _lines) = attach_in_child(world, 7000);
        assert!(connects(world, 7000) && !connects(world, 7001));
        assert!(child.try_wait().unwrap().is_none(), "it runs");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(connects(world, 7000), "what was allowed is allowed still");
        assert!(!connects(world, 7001), "what was denied is denied still");

        let datapath = world.open();
        assert_eq!(datapath.opened(), Opened::Adopted);
        let attached = datapath.attached().unwrap();
        assert_eq!(attached.len(), 1);
        assert_eq!(
            (attached[0].name.as_str(), attached[0].config.scope),
            (VIF, SCOPE)
        );
        assert_eq!(datapath.generation().unwrap(), 1);
        assert_eq!(
            datapath
                .flows(Some(SCOPE))
                .filter(|f| f.as_ref().unwrap().established)
                .count(),
            2
        );
        assert!(connects(world, 7000) && !connects(world, 7001));
        datapath.detach_all().unwrap();
        assert!(connects(world, 7001));
    });
}

#[test]
fn detaching_leaves_nothing_of_ours_and_all_of_others() {
    World::run(|world| {
        let mut datapath = world.attach(ScopeConfig::closed(), vec![]);
        world.exec(
            "dom0",
            &format!("tc filter add dev {VIF} ingress prio 9 u32 match u8 0 0 flowid 1:1"),
        );
        assert!(filters(world).contains("xmesh:from_guest") && filters(world).contains("xmesh:to_guest"));
        assert!(datapath.detach(VIF).unwrap());
        assert!(!datapath.detach(VIF).unwrap());
        assert!(!filters(world).contains("xmesh") && filters(world).contains("u32"));
        assert!(datapath.attached().unwrap().is_empty());

        world.exec("dom0", &format!("tc filter del dev {VIF} ingress prio 9"));
        datapath.attach(VIF, VIF_CONFIG).unwrap();
        datapath.detach_all().unwrap();
        assert_eq!(filters(world), "");
        let qdiscs = world.exec("dom0", &format!("tc qdisc show dev {VIF}"));
        assert!(!qdiscs.contains("clsact"), "{qdiscs}");
        assert!(!world.pin_dir().exists());
    });
}

#[test]
fn a_vif_can_be_attached_before_it_is_up_and_is_forgotten_when_it_is_gone() {
    World::run(|world| {
        let _listener = world.listen("peer", PEER4, 7000);
        world.ip("dom0", &format!("link set {VIF} down"));
        let mut datapath = world.attach(ScopeConfig::closed(), vec![allow_tcp(1, 7000)]);
        world.ip("dom0", &format!("link set {VIF} up"));
        // The guest's end lost its carrier, and with it its neighbour entries' use for a moment.
        let up = || world.ip("guest", "link show eth0").contains("LOWER_UP");
        while !up() {
            thread::sleep(Duration::from_millis(10));
        }
        assert!(connects(world, 7000) && !connects(world, 7001));
        assert!(matches!(
            datapath.remove_scope(SCOPE),
            Err(Error::ScopeInUse { scope: SCOPE, .. })
        ));
        world.ip("dom0", &format!("link del {VIF}"));
        assert_eq!(datapath.prune().unwrap(), 1);
        assert_eq!(datapath.prune().unwrap(), 0);
        assert!(datapath.attached().unwrap().is_empty());
        assert_eq!(datapath.flows(Some(SCOPE)).count(), 1);
        datapath.remove_scope(SCOPE).unwrap();
        assert_eq!(datapath.flows(Some(SCOPE)).count(), 0);
        assert!(datapath.stats().unwrap().is_empty());
    });
}

#[test]
fn programs_are_exchanged_without_a_gap() {
    World::run(|world| {
        drop(world.attach(ScopeConfig::closed(), vec![]));
        let (guest, peer) = (Wire::open(world, "guest"), Wire::open(world, "peer"));
        let datagram = |from, to| {
            let segment = frame::udp(from, to, (5000, 5001), b"payload");
            frame::ip(from, to, frame::UDP, (0, 0), &segment)
        };
        let stop = Stop::default();
        let sent = AtomicU32::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                let (out, back) = (datagram(GUEST4, PEER4), datagram(PEER4, GUEST4));
                let (out, back) = (frame::from_guest(GUEST4, &out), frame::from_peer(GUEST4, &back));
                while !stop.is_set() {
                    guest.send(&out);
                    peer.send(&back);
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
            let _running = stop.on_drop();
            for _ in 0..8 {
                world.unpin_programs();
                let mut datapath = world.open();
                assert_eq!(datapath.opened(), Opened::Adopted);
                assert!(!datapath.took_over_programs());
                datapath.attach(VIF, VIF_CONFIG).unwrap();
            }
        });
        let sent = u64::from(sent.load(Ordering::Relaxed));
        assert!(sent > 1000, "{sent}");
        let denied = world.open().stats().unwrap();
        for stats in denied {
            assert!(
                stats.counters.denied >= sent,
                "of {sent} datagrams, some came past: {stats:?}"
            );
        }
        assert_eq!(filters(world).matches("xmesh").count(), 2, "{}", filters(world));
    });
}

#[test]
fn programs_are_taken_over_where_the_very_same_would_be_loaded() {
    World::run(|world| {
        let _listeners = [7000, 7001].map(|port| world.listen("peer", PEER4, port));
        let timed_open = || {
            let since = Instant::now();
            (world.open(), since.elapsed())
        };
        let (datapath, loaded_in) = timed_open();
        assert!(!datapath.took_over_programs());
        drop(datapath);
        drop(world.attach(ScopeConfig::closed(), vec![allow_tcp(1, 7000)]));
        let (pins, on_vif) = (world.pinned_programs(), filters(world));
        assert_eq!(pins.len(), 2, "{pins:?}");

        let (datapath, taken_in) = timed_open();
        println!("opened in {loaded_in:?} with a load, in {taken_in:?} without");
        assert_eq!(datapath.opened(), Opened::Adopted);
        assert!(datapath.took_over_programs() && taken_in < loaded_in);
        assert_eq!(
            (world.pinned_programs(), filters(world)),
            (pins.clone(), on_vif.clone())
        );
        assert!(connects(world, 7000) && !connects(world, 7001));
        drop(datapath);

        // One is missing; one is of another object.
        let [from_guest, to_guest] = [0, 1].map(|i| world.pin_dir().join(&pins[i]));
        fs::remove_file(&to_guest).unwrap();
        assert!(!world.open().took_over_programs());
        assert_ne!(filters(world), on_vif, "exchanged");
        fs::rename(
            &from_guest,
            world.pin_dir().join("program-from_guest-of-another-build"),
        )
        .unwrap();
        assert!(!world.open().took_over_programs());
        assert_eq!(world.pinned_programs(), pins, "no others are left");
        assert!(world.open().took_over_programs());
        assert!(connects(world, 7000) && !connects(world, 7001));
    });
}

#[test]
fn programs_over_maps_that_are_pinned_no_more_are_not_taken_over() {
    World::run(|world| {
        let _listener = world.listen("peer", PEER4, 7000);
        drop(world.attach(ScopeConfig::closed(), vec![allow_tcp(1, 7000)]));
        let other = Config {
            pin_dir: world.pin_dir().with_file_name("other"),
            ..world.config()
        };
        for map in ["flows", "vifs", "events"] {
            drop(Datapath::open(other.clone()).unwrap());
            fs::rename(other.pin_dir.join(map), world.pin_dir().join(map)).unwrap();
            let mut datapath = world.open();
            assert_eq!(datapath.opened(), Opened::Adopted);
            assert!(!datapath.took_over_programs(), "{map}");
            datapath.attach(VIF, VIF_CONFIG).unwrap();
            drop(datapath);
            assert!(connects(world, 7000) && !connects(world, 7001), "{map}");
            let datapath = world.open();
            assert!(datapath.took_over_programs());
            assert!(
                datapath.flows(Some(SCOPE)).count() > 0,
                "in the map that is pinned"
            );
        }
    });
}

#[test]
fn maps_of_another_layout_are_replaced_under_protection_of_the_old_filters() {
    World::run(|world| {
        let _listeners = [7000, 7001].map(|port| world.listen("peer", PEER4, port));
        drop(world.attach(ScopeConfig::closed(), vec![allow_tcp(1, 7000)]));
        let control =
            Map::from_map_data(MapData::from_pin(world.pin_dir().join("control")).unwrap()).unwrap();
        let mut control: Array<MapData, u32> = control.try_into().unwrap();
        control.set(3, 999, 0).unwrap();

        let mut datapath = world.open();
        assert_eq!(datapath.opened(), Opened::Replaced);
        assert!(!datapath.took_over_programs());
        assert!(datapath.attached().unwrap().is_empty());
        assert!(
            connects(world, 7000) && !connects(world, 7001),
            "the old filters hold"
        );
        let attach = datapath.attach(VIF, VIF_CONFIG);
        assert!(
            matches!(attach, Err(Error::UnknownScope { scope: SCOPE, .. })),
            "{attach:?}"
        );
        datapath.set_scope(SCOPE, ScopeConfig::open()).unwrap();
        datapath.attach(VIF, VIF_CONFIG).unwrap();
        assert!(connects(world, 7001), "the new filters hold");
        drop(datapath);

        // A half-made set of maps is none.
        fs::remove_file(world.pin_dir().join("rules")).unwrap();
        assert_eq!(world.open().opened(), Opened::Replaced);
    });
}

#[test]
fn sizes_of_maps_that_are_taken_over_stay() {
    World::run(|world| {
        drop(world.attach(ScopeConfig::open(), vec![]));
        let config = Config {
            event_bytes: 4 << 20,
            flow_capacity: 64,
            ..world.config()
        };
        let datapath = Datapath::open(config).unwrap();
        let _listener = world.listen("peer", PEER4, 7000);
        let from = SocketAddr::new(GUEST4, 34000);
        world.connect_from("guest", from, (PEER4, 7000).into()).unwrap();
        let event = datapath.events().unwrap().next().unwrap();
        assert_eq!(event.flow.key.local, from);
        assert_eq!(event.flow.verdict.action, Action::Allow);
    });
}

#[test]
fn errors_name_the_interface_and_the_remedy() {
    World::run(|world| {
        let mut datapath = world.open();
        datapath.set_scope(SCOPE, ScopeConfig::open()).unwrap();
        let missing = datapath.attach("vif9.9", VIF_CONFIG).unwrap_err().to_string();
        assert!(missing.contains("vif9.9"), "{missing}");
        // A qdisc of another kind holds the place.
        world.exec("dom0", "tc qdisc add dev vif2.0 ingress");
        let taken = datapath.attach("vif2.0", VIF_CONFIG).unwrap_err().to_string();
        assert!(taken.contains("vif2.0") && taken.contains("ingress"), "{taken}");
        assert!(
            datapath.attached().unwrap().is_empty(),
            "nothing is left of the attempt"
        );
        let odd = Config {
            event_bytes: 5000,
            ..world.config()
        };
        assert!(matches!(Datapath::open(odd), Err(Error::Config { .. })));
        let elsewhere = tempfile::tempdir().unwrap();
        let config = Config {
            pin_dir: elsewhere.path().join("pins"),
            ..Config::default()
        };
        let error = Datapath::open(config).err().unwrap().to_string();
        assert!(error.contains("mount -t bpf"), "{error}");
    });
}

#[test]
fn a_scope_keeps_its_counters_for_the_next_process_and_leaves_none_to_another_scope() {
    World::run(|world| {
        let _listener = world.listen("peer", PEER4, 7000);
        let (other, later) = (SCOPE + 1, SCOPE + 2);
        let mut datapath = Datapath::open(world.config()).unwrap();
        datapath.set_scope(other, ScopeConfig::open()).unwrap();
        let refusing = ScopeConfig {
            default_from_guest: RESET,
            ..ScopeConfig::closed()
        };
        datapath.set_scope(SCOPE, refusing).unwrap();
        datapath.attach(VIF, VIF_CONFIG).unwrap();
        assert!(!connects(world, 7000));
        let denied = |datapath: &Datapath, scope| {
            let of_scope = datapath.stats().unwrap().into_iter().filter(|s| s.scope == scope);
            let list: Vec<u64> = of_scope.map(|s| s.counters.denied + s.counters.passed).collect();
            list.first().copied()
        };
        let before = denied(&datapath, SCOPE);
        assert!(before > Some(0) && denied(&datapath, other) == Some(0));
        drop(datapath);

        let mut datapath = Datapath::open(world.config()).unwrap();
        assert_eq!(datapath.opened(), Opened::Adopted);
        assert!(denied(&datapath, SCOPE) >= before);
        datapath.set_scope(later, ScopeConfig::open()).unwrap();
        assert!(
            !connects(world, 7000),
            "another scope's settings are not this one's"
        );
        assert_eq!(denied(&datapath, later), Some(0));

        datapath.detach(VIF).unwrap();
        datapath.remove_scope(SCOPE).unwrap();
        assert_eq!(denied(&datapath, SCOPE), None);
        let heir = SCOPE + 3;
        datapath.set_scope(heir, ScopeConfig::open()).unwrap();
        assert_eq!(denied(&datapath, heir), Some(0), "in the cell that is free now");
        let config = VifConfig {
            scope: heir,
            ..VIF_CONFIG
        };
        datapath.attach(VIF, config).unwrap();
        assert!(connects(world, 7000));
        assert!(denied(&datapath, heir) > Some(0) && denied(&datapath, other) == Some(0));
    });
}

#[test]
fn a_scopes_first_verdict_is_in_force_at_once_and_for_the_next_process() {
    World::run(|world| {
        let _listener = world.listen("peer", PEER4, 7000);
        let datapath = world.attach(ScopeConfig::open(), vec![]);
        let connect = |port| world.connect_from("guest", (GUEST4, port).into(), (PEER4, 7000).into());
        assert!(connect(5000).is_ok());
        for (port, scope) in [(5001, SCOPE + 1), (5002, SCOPE)] {
            let key = FlowKey {
                scope,
                ..tcp_key((GUEST4, port).into(), (PEER4, 7000).into())
            };
            datapath.flow_writer().set(&key, verdict(RESET, 9)).unwrap();
        }
        assert!(connect(5001).is_ok(), "the verdict is another scope's");
        assert!(connect(5002).is_err());
        drop(datapath);
        let _datapath = Datapath::open(world.config()).unwrap();
        assert!(connect(5002).is_err());
    });
}
