// SPDX-License-Identifier: GPL-3.0-only
//! A vif with several queues is judged on each of them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use netback_filter::{Action, Direction, Protocol, VifConfig};
use support::frame::UDP;
use support::wire::Wire;
use support::*;

const WIDE: &str = "vif1.1";
const QUEUES: usize = 4;
const FLOWS: u16 = 64;
const ALLOWED: u16 = 80;
const DENIED: u16 = 81;

/// A datagram of the flow with this number.
fn datagram(source: IpAddr, dest: IpAddr, flow: u16, port: u16) -> Vec<u8> {
    let payload = frame::udp(source, dest, (20_000 + flow, port), &flow.to_be_bytes());
    frame::ip(source, dest, UDP, (0, 0), &payload)
}

/// Packets that each queue of a device sent.
fn sent(world: &World, part: &str, device: &str) -> Vec<u64> {
    let shown = world.exec(part, &format!("tc -s qdisc show dev {device}"));
    let queues = shown.split("qdisc ").filter(|queue| queue.contains(" parent 1:"));
    queues
        .map(|queue| {
            let words: Vec<&str> = queue.split_whitespace().collect();
            let at = words.iter().position(|word| *word == "pkt").unwrap();
            words[at - 1].parse().unwrap()
        })
        .collect()
}

#[test]
fn every_queue_of_a_vif_is_judged() {
    World::run(|world| {
        let wide = format!("numtxqueues {QUEUES} numrxqueues {QUEUES}");
        let guest = world.ns("guest");
        world.ip(
            "dom0",
            &format!("link add {WIDE} {wide} type veth peer name eth1 {wide} netns {guest}"),
        );
        for (part, device) in [("dom0", WIDE), ("guest", "eth1")] {
            world.ip(part, &format!("link set {device} addrgenmode none up"));
            world.exec(part, &format!("tc qdisc replace dev {device} root handle 1: mq"));
        }
        let rules = Direction::BOTH
            .into_iter()
            .map(|direction| rule(1, direction, Protocol::UDP, Some(ALLOWED), Action::Allow))
            .collect();
        let mut datapath = world.attach(no_adoption(), rules);
        let config = VifConfig {
            scope: SCOPE,
            mac: None,
        };
        datapath.attach(WIDE, config).unwrap();

        for (direction, part, device) in [
            (Direction::FromGuest, "guest", "eth1"),
            (Direction::ToGuest, "dom0", WIDE),
        ] {
            let wire = Wire::open_on(world, part, device);
            for port in [ALLOWED, DENIED] {
                for flow in 0..FLOWS {
                    let taken = wire.offer(&match direction {
                        Direction::FromGuest => {
                            frame::from_guest(GUEST4, &datagram(GUEST4, PEER4, flow, port))
                        }
                        Direction::ToGuest => frame::from_peer(GUEST4, &datagram(PEER4, GUEST4, flow, port)),
                    });
                    // What is denied on its way to the guest is denied to who sends it here.
                    assert_eq!(taken, direction == Direction::FromGuest || port == ALLOWED);
                }
            }
            let all = || {
                let counted = counters(&datapath, direction);
                [counted.passed, counted.denied]
            };
            let began = Instant::now();
            while all().iter().sum::<u64>() < 2 * u64::from(FLOWS) && began.elapsed() < Duration::from_secs(2)
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            // Each of them is judged. The kernel itself sends a packet now and then.
            let judged = u64::from(FLOWS)..u64::from(FLOWS) + 4;
            assert!(
                all().iter().all(|count| judged.contains(count)),
                "{direction:?}: {:?}",
                all()
            );
            let sent = sent(world, part, device);
            assert_eq!(sent.len(), QUEUES);
            assert!(sent.iter().all(|packets| *packets > 0), "{direction:?}: {sent:?}");
        }
    });
}
