// SPDX-License-Identifier: GPL-3.0-only
//! The two kinds of hooks: what each leaves when its process is gone, the move from one to the other under traffic, and
//! the company of others' filters.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use aya::programs::{SchedClassifier, TcAttachType};
use netback_filter::{
    Attach, Config, Datapath, Direction, Hooks, Opened, Protocol, Rule, ScopeConfig, VifConfig,
};
use support::site::{PORT, VIP4, backend, end, service, to_service};
use support::wire::Wire;
use support::*;

const VIF_CONFIG: VifConfig = VifConfig {
    scope: SCOPE,
    mac: Some(GUEST_MAC),
};

fn config(world: &World, attach: Attach) -> Config {
    Config {
        attach,
        ..world.config()
    }
}

fn open(world: &World, attach: Attach) -> Datapath {
    Datapath::open(config(world, attach)).unwrap()
}

fn attached(world: &World, attach: Attach, rules: Vec<Rule>) -> Datapath {
    let mut datapath = open(world, attach);
    datapath.set_scope(SCOPE, no_adoption()).unwrap();
    let set = netback_filter::RuleSet { peers: vec![], rules };
    datapath.publish(&set, 1).unwrap();
    datapath.attach(VIF, VIF_CONFIG).unwrap();
    datapath
}

fn hooks(datapath: &Datapath) -> Option<Hooks> {
    datapath.attached().unwrap().first().map(|vif| vif.hooks)
}

fn filters(world: &World) -> String {
    let show = |hook| world.exec("dom0", &format!("tc filter show dev {VIF} {hook}"));
    show("ingress") + &show("egress")
}

fn tcx_programs() -> usize {
    [TcAttachType::Ingress, TcAttachType::Egress]
        .map(|side| SchedClassifier::query_tcx(VIF, side).unwrap().1.len())
        .iter()
        .sum()
}

/// Whether the guest's datagram from `port` arrives.
fn arrives(world: &World, port: u16) -> bool {
    let (guest, peer) = (Wire::open(world, "guest"), Wire::open(world, "peer"));
    let segment = frame::udp(GUEST4, PEER4, (port, PORT), b"datagram");
    let packet = frame::ip(GUEST4, PEER4, frame::UDP, (0, 0), &segment);
    guest.send(&frame::from_guest(GUEST4, &packet));
    peer.sees(Duration::from_millis(100), |f| f.ends_with(&packet))
}

fn allow_udp() -> Vec<Rule> {
    vec![rule(
        1,
        Direction::FromGuest,
        Protocol::UDP,
        Some(PORT),
        netback_filter::Action::Allow,
    )]
}

/// Sends datagrams both ways while `moves` goes on: of a flow to a service, of one that is allowed and of one that is not.
/// Each must be counted once, translated once, and come past nothing.
fn under_flood(world: &World, datapath: &mut Datapath, moves: impl FnOnce()) {
    datapath
        .publish_services(&[service(VIP4, Protocol::UDP, vec![backend(VIP4, 1)])])
        .unwrap();
    let behind = end(&backend(VIP4, 1));
    world.ip("peer", &format!("addr add {}/24 dev eth0", behind.ip()));
    let (guest, peer) = (Wire::open(world, "guest"), Wire::open(world, "peer"));
    let datagram = |from, to, ports| {
        let segment = frame::udp(from, to, ports, b"payload");
        frame::ip(from, to, frame::UDP, (0, 0), &segment)
    };
    let served = to_service(GUEST4, &datagram(GUEST4, VIP4, (5000, PORT)));
    let answer = datagram(behind.ip(), GUEST4, (behind.port(), 5000));
    let answer = frame::from_peer(GUEST4, &answer);
    let allowed = frame::from_guest(GUEST4, &datagram(GUEST4, PEER4, (5001, PORT)));
    let denied = frame::from_guest(GUEST4, &datagram(GUEST4, PEER4, (5002, 99)));
    let counts = [(); 2].map(|()| AtomicU64::new(0));
    let before = counters(datapath, Direction::FromGuest).denied;
    let (stop, sent) = (Stop::default(), AtomicU64::new(0));
    thread::scope(|scope| {
        // Counted as they come: no buffer would hold them all.
        for (part, count) in ["peer", "guest"].into_iter().zip(&counts) {
            let wire = Wire::open(world, part);
            let stop = &stop;
            scope.spawn(move || {
                let mut others = 0;
                let wanted = |f: &[u8]| match part {
                    "peer" => frame::has_port(f, behind.port()) && f[30..34] == [10, 77, 0, 11],
                    _ => frame::has_port(f, 5000) && f[26..30] == [10, 77, 0, 100],
                };
                while !stop.is_set() {
                    for f in wire.frames_until(Duration::from_millis(10), |_| true) {
                        match wanted(&f) {
                            true => _ = count.fetch_add(1, Ordering::Relaxed),
                            false => others += usize::from(frame::has_port(&f, 99)),
                        }
                    }
                }
                assert!(part == "guest" || others == 0, "{others} came past the programs");
            });
        }
        scope.spawn(|| {
            while !stop.is_set() {
                guest.send(&served);
                peer.send(&answer);
                guest.send(&allowed);
                guest.send(&denied);
                sent.fetch_add(1, Ordering::Relaxed);
            }
        });
        let _running = stop.on_drop();
        moves();
    });
    let sent = sent.load(Ordering::Relaxed);
    assert!(sent > 1000, "{sent}");
    let now = counters(datapath, Direction::FromGuest).denied;
    assert_eq!(now - before, sent, "each denied datagram is counted once");
    assert_eq!(support::site::record(datapath, 5001).packets[0], sent);
    assert_eq!(support::site::record(datapath, 5000).packets, [sent, sent]);
    assert!(counts[0].load(Ordering::Relaxed) > 100 && counts[1].load(Ordering::Relaxed) > 100);
}

#[test]
fn a_vif_moves_between_the_hooks_under_traffic_and_each_packet_is_judged_once() {
    if !has_tcx() {
        return;
    }
    World::run(|world| {
        let mut first = attached(world, Attach::Clsact, allow_udp());
        assert_eq!(hooks(&first), Some(Hooks::Clsact));
        under_flood(world, &mut first, || {
            // By the same programs, and by those of another build.
            for (attach, now, anew) in [
                (Attach::Tcx, Hooks::Tcx, true),
                (Attach::Clsact, Hooks::Clsact, true),
                (Attach::Auto, Hooks::Tcx, false),
                (Attach::Tcx, Hooks::Tcx, true),
                (Attach::Clsact, Hooks::Clsact, false),
                (Attach::Clsact, Hooks::Clsact, true),
                (Attach::Tcx, Hooks::Tcx, true),
                (Attach::Tcx, Hooks::Tcx, false),
            ] {
                if anew {
                    world.unpin_programs();
                }
                let datapath = open(world, attach);
                assert_eq!(datapath.opened(), Opened::Adopted);
                assert_eq!(datapath.took_over_programs(), !anew);
                assert_eq!(hooks(&datapath), Some(now), "{attach:?}");
                let (filters, programs) = (filters(world).matches("xmesh").count(), tcx_programs());
                assert_eq!(filters + programs, 2, "{attach:?}: {filters} and {programs}");
            }
        });
        first.detach_all().unwrap();
        assert_eq!((filters(world).as_str(), tcx_programs()), ("", 0));
        assert!(!world.pin_dir().exists());
        assert!(arrives(world, 5002), "traffic flows as without us");
    });
}

#[test]
fn a_killed_process_leaves_its_links_in_force_and_the_next_takes_over() {
    if !has_tcx() {
        return;
    }
    World::run(|world| {
        let example = std::env::current_exe()
            .unwrap()
            .with_file_name("../examples/attach");
        let pins = world.pin_dir();
        let mut child = world
            .command("dom0", example.to_str().unwrap())
            .args([pins.to_str().unwrap(), VIF, &SCOPE.to_string(), "closed", "7000"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok);
        assert!(
            lines.any(|line| line.starts_with("attached")),
            "{}",
            example.display()
        );
        assert_eq!(
            (filters(world).as_str(), tcx_programs()),
            ("", 2),
            "where there are TCX hooks"
        );
        let _listeners = [7000, 7001].map(|port| world.listen("peer", PEER4, port));
        let connects = |port| world.connect("guest", (PEER4, port).into()).is_ok();
        assert!(connects(7000) && !connects(7001));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(connects(7000) && !connects(7001), "all is in force still");

        let mut datapath = open(world, Attach::Auto);
        assert_eq!(datapath.opened(), Opened::Adopted);
        assert_eq!(hooks(&datapath), Some(Hooks::Tcx));
        assert!(connects(7000) && !connects(7001));
        assert!(datapath.detach(VIF).unwrap() && !datapath.detach(VIF).unwrap());
        assert!(connects(7001) && tcx_programs() == 0);
        assert!(datapath.attached().unwrap().is_empty());
        datapath.detach_all().unwrap();
        assert!(!world.pin_dir().exists());
    });
}

#[test]
fn the_links_of_a_vif_that_is_gone_are_forgotten() {
    if !has_tcx() {
        return;
    }
    World::run(|world| {
        let mut datapath = attached(world, Attach::Tcx, vec![]);
        let links = || {
            let names = std::fs::read_dir(world.pin_dir()).unwrap();
            names
                .filter(|name| {
                    name.as_ref()
                        .unwrap()
                        .file_name()
                        .to_string_lossy()
                        .starts_with("tcx-")
                })
                .count()
        };
        assert_eq!(links(), 2);
        world.ip("dom0", &format!("link set {VIF} down"));
        world.ip("dom0", &format!("link set {VIF} name renamed"));
        assert_eq!(datapath.attached().unwrap()[0].name, "renamed");
        world.ip("dom0", "link del renamed");
        assert_eq!(datapath.prune().unwrap(), 1);
        assert_eq!(links(), 0);
    });
}

#[test]
fn a_link_that_somebody_took_off_is_missed_and_put_back() {
    if !has_tcx() {
        return;
    }
    World::run(|world| {
        let mut datapath = attached(world, Attach::Tcx, vec![]);
        assert!(!arrives(world, 5000));
        for pin in std::fs::read_dir(world.pin_dir()).unwrap() {
            let pin = pin.unwrap();
            if pin.file_name().to_string_lossy().ends_with("-ingress") {
                std::fs::remove_file(pin.path()).unwrap();
            }
        }
        // The kernel ends a link that nobody holds a moment later.
        let taken_off = |_: &u32| hooks(&datapath).is_none() && tcx_programs() == 1;
        assert!(
            (0..200).find(taken_off).is_some() || {
                thread::sleep(Duration::from_millis(100));
                taken_off(&0)
            }
        );
        assert!(arrives(world, 5000));
        datapath.attach(VIF, VIF_CONFIG).unwrap();
        assert_eq!((hooks(&datapath), tcx_programs()), (Some(Hooks::Tcx), 2));
        assert!(!arrives(world, 5000));
    });
}

#[test]
fn filters_of_others_run_before_and_behind_ours() {
    for attach in [Attach::Clsact, Attach::Tcx] {
        if attach == Attach::Tcx && !has_tcx() {
            return;
        }
        World::run(|world| {
            // What is allowed passes ours and meets theirs.
            let config = Config {
                priority: 5,
                ..config(world, attach)
            };
            let mut datapath = Datapath::open(config).unwrap();
            datapath.set_scope(SCOPE, ScopeConfig::open()).unwrap();
            datapath.attach(VIF, VIF_CONFIG).unwrap();
            if attach == Attach::Tcx {
                world.exec("dom0", &format!("tc qdisc add dev {VIF} clsact"));
            }
            assert!(arrives(world, 6000));
            world.ip("dom0", "link add elsewhere up type bridge");
            let theirs = |priority, port| {
                world.exec(
                    "dom0",
                    &format!(
                        "tc filter add dev {VIF} ingress prio {priority} protocol ip u32 match ip sport {port} 0xffff action mirred egress redirect dev elsewhere"
                    ),
                );
            };
            theirs(1, 6001);
            theirs(9, 6009);
            assert!(!arrives(world, 6001), "{attach:?}: before ours");
            assert!(!arrives(world, 6009), "{attach:?}: behind ours");
            assert!(arrives(world, 6000));
            // And ours has the last word on the rest.
            datapath.set_scope(SCOPE, no_adoption()).unwrap();
            datapath.publish(&netback_filter::RuleSet::default(), 2).unwrap();
            assert!(!arrives(world, 6000));
            datapath.detach_all().unwrap();
            assert!(arrives(world, 6000) && !arrives(world, 6001) && !arrives(world, 6009));
        });
    }
}
