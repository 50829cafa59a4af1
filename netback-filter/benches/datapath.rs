// SPDX-License-Identifier: GPL-3.0-only
//! What a packet costs: the program run by the kernel itself (BPF_PROG_TEST_RUN), without wire or stack.
//!
//! Times depend on the machine; the ratios to an ARP frame, which is only recognised, less so. `cargo xtask bench datapath`
//! reads the lines that begin with `bench:` and shows both.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a bench that cannot go on has failed"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::net::{IpAddr, SocketAddr};

use netback_filter::{
    Action, Direction, FlowKey, Peer, PeerMatch, Protocol, Rule, RuleSet, ScopeConfig, Verdict, VifConfig,
};
use support::frame::{ACK, SYN, UDP, tcp_packet};
use support::run::{Program, Ran};
use support::site::{PORT, VIP4, backend, end, service};
use support::*;

const REPEAT: u32 = 200_000;
const RULES: u32 = 10_000;

/// The least average of some runs, in ns: the one with the least noise. With it, the program's return value.
fn ns_per_packet(program: &Program, frame: &[u8]) -> Ran {
    let one = || program.run(frame, REPEAT).expect("a frame");
    (0..7).map(|_| one()).min().unwrap()
}

/// The median of runs one by one, for a frame that is another one after a run.
fn ns_one_by_one(program: &Program, frame: &[u8]) -> u32 {
    let mut all: Vec<u32> = (0..REPEAT / 4)
        .map(|_| {
            let ran = program.run(frame, 1).expect("a frame");
            assert_eq!(ran.action, -1);
            ran.ns
        })
        .collect();
    all.sort_unstable();
    all[all.len() / 2]
}

/// A TCP flow of the guest under way: plain, or to a service. Its data from the guest, and what comes back.
fn tcp_flow(program: &Program, to: IpAddr, from: SocketAddr) -> [Vec<u8>; 2] {
    let out = |flags| frame::from_guest(GUEST4, &tcp_packet(GUEST4, to, (5000, PORT), flags));
    assert_eq!(program.run(&out(SYN), 1).expect("a frame").action, -1);
    let back = tcp_packet(from.ip(), GUEST4, (from.port(), 5000), ACK);
    [out(ACK), frame::from_peer(GUEST4, &back)]
}

fn datagram(port: u16) -> Vec<u8> {
    let segment = frame::udp(GUEST4, PEER4, (5000, port), b"payload");
    frame::from_guest(GUEST4, &frame::ip(GUEST4, PEER4, UDP, (0, 0), &segment))
}

fn main() {
    World::run(|world| {
        let mut config = world.config();
        config.rule_capacity = 4 * RULES;
        config.peer_capacity = 4 * RULES;
        let mut datapath = netback_filter::Datapath::open(config).unwrap();
        datapath.set_scope(SCOPE, ScopeConfig::closed()).unwrap();
        // Test runs come from the loopback device.
        datapath
            .attach(
                "lo",
                VifConfig {
                    scope: SCOPE,
                    mac: None,
                },
            )
            .unwrap();
        let peers = (0..RULES).map(|i| Peer {
            address: std::net::Ipv4Addr::from(0x0b00_0000 + i * 256).into(),
            prefix_bits: 24,
            class: 1 + i,
        });
        let rules = (0..RULES).map(|i| Rule {
            peer: PeerMatch::Class(1 + i),
            ..rule(
                1 + i,
                Direction::FromGuest,
                Protocol::UDP,
                Some(53),
                Action::Allow,
            )
        });
        let allow = rule(
            RULES + 1,
            Direction::FromGuest,
            Protocol::UDP,
            Some(53),
            Action::Allow,
        );
        let set = RuleSet {
            peers: peers.collect(),
            rules: rules.chain([allow]).collect(),
        };
        datapath.publish(&set, 1).unwrap();
        let key = FlowKey {
            scope: SCOPE,
            protocol: Protocol::UDP,
            local: (GUEST4, 5000).into(),
            remote: (PEER4, 99).into(),
            vlan: netback_filter::Vlan::NONE,
        };
        let verdict = Verdict {
            action: Action::Allow,
            origin: Direction::FromGuest,
            rule: 9,
            generation: 1,
            mark: netback_filter::Mark::NONE,
        };

        let begin = std::time::Instant::now();
        let writer = datapath.flow_writer();
        for _ in 0..REPEAT {
            writer.set(&key, verdict).unwrap();
        }
        let set = begin.elapsed().as_nanos() / u128::from(REPEAT);
        println!("bench: {set} ns FlowWriter::set");

        let program = Program::latest("from_guest");
        let arp = frame::ethernet(GUEST_MAC, [0xff; 6], 0x0806, &[0; 28]);
        println!("from_guest with {RULES} rules and {RULES} peers, for a packet:");
        for (what, frame, expected) in [
            ("ARP", arp, -1),
            ("flow with a verdict of userspace", datagram(99), -1),
            ("flow that a rule allowed", datagram(53), -1),
            ("no flow, no rule: denied by default", datagram(54), 2),
        ] {
            let Ran { ns, action } = ns_per_packet(&program, &frame);
            assert_eq!(action, expected, "{what}");
            println!("bench: {ns} ns {what}");
        }

        datapath
            .publish(
                &RuleSet {
                    peers: vec![],
                    rules: vec![allow_tcp(1, PORT)],
                },
                2,
            )
            .unwrap();
        let served = backend(VIP4, 1);
        datapath
            .publish_services(&[service(VIP4, Protocol::TCP, vec![served])])
            .unwrap();
        let other_way = Program::latest("to_guest");
        println!("one by one, for a TCP segment:");
        for (what, to, from) in [
            ("plain flow", PEER4, (PEER4, PORT).into()),
            ("redirected flow", VIP4, end(&served)),
        ] {
            let [out, back] = tcp_flow(&program, to, from);
            println!(
                "bench: {} ns {what}, from the guest",
                ns_one_by_one(&program, &out)
            );
            println!(
                "bench: {} ns {what}, to the guest",
                ns_one_by_one(&other_way, &back)
            );
        }
    });
}
