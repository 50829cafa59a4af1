// SPDX-License-Identifier: GPL-3.0-only
//! What a packet costs by how much is in the tables: the program run by the kernel itself, one packet at a time, each of
//! another flow.

use std::net::Ipv4Addr;

use netback_filter::{
    Action, Config, Datapath, Direction, FlowKey, Protocol, ScopeConfig, Verdict, VifConfig,
};

use super::contenders::rule_set;
use super::load::percentile;
use super::support::frame::{SYN, from_guest, tcp_packet};
use super::support::run::Program;
use super::support::{GUEST4, SCOPE, World};

/// Packets that are run, of flows all over the table.
const PACKETS: u32 = 100_000;
/// About what a flow takes in the kernel, its bucket included.
const FLOW_BYTES: u64 = 400;

pub fn measure() {
    for rules in [1000, 100_000] {
        for flows in [1000, 1_000_000] {
            if u64::from(flows) * FLOW_BYTES > available() / 4 {
                println!("{flows} flows: not enough memory");
                continue;
            }
            let (known, new) = one(rules, flows);
            println!("bench: {known:.0} ns packet of a known flow: {rules} rules, {flows} flows");
            println!("bench: {new:.0} ns packet without a flow: {rules} rules, {flows} flows");
        }
    }
}

/// Bytes that the machine could give.
fn available() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("MemAvailable"))
        .unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

/// The guest's flow of this number.
fn remote(number: u32) -> (Ipv4Addr, u16) {
    (
        Ipv4Addr::from(0x0c00_0000 + number / 1000),
        (1 + number % 1000) as u16,
    )
}

fn frame(number: u32) -> Vec<u8> {
    let (address, port) = remote(number);
    from_guest(GUEST4, &tcp_packet(GUEST4, address.into(), (5000, port), SYN))
}

/// Medians, in ns.
fn one(rules: u32, flows: u32) -> (f64, f64) {
    let mut medians = (0.0, 0.0);
    World::run(|world| {
        let config = Config {
            verdict_capacity: 2 * flows,
            rule_capacity: 4 * rules,
            peer_capacity: 4 * rules,
            ..world.config()
        };
        let mut datapath = Datapath::open(config).unwrap();
        datapath.set_scope(SCOPE, ScopeConfig::closed()).unwrap();
        // Test runs come from the loopback device.
        let vif = VifConfig {
            scope: SCOPE,
            mac: None,
        };
        datapath.attach("lo", vif).unwrap();
        datapath.publish(&rule_set(rules), 1).unwrap();
        let writer = datapath.flow_writer();
        let verdict = Verdict {
            action: Action::Allow,
            origin: Direction::FromGuest,
            rule: 9,
            generation: 1,
            mark: netback_filter::Mark::NONE,
        };
        for number in 0..flows {
            let key = FlowKey {
                scope: SCOPE,
                protocol: Protocol::TCP,
                local: (GUEST4, 5000).into(),
                remote: remote(number).into(),
                vlan: netback_filter::Vlan::NONE,
            };
            writer.set(&key, verdict).unwrap();
        }
        let program = Program::latest("from_guest");
        let run = |number: u32| f64::from(program.run(&frame(number), 1).expect("a frame").ns);
        // Without a flow: behind the last one, where the rules are asked.
        let new: Vec<f64> = (0..PACKETS).map(|i| run(flows + i)).collect();
        // A step that is prime to the number of flows: no two near each other follow.
        let known: Vec<f64> = (0..PACKETS)
            .map(|i| run((u64::from(i) * 7_368_787 % u64::from(flows)) as u32))
            .collect();
        medians = (percentile(&known, 0.5), percentile(&new, 0.5));
    });
    medians
}
