// SPDX-License-Identifier: GPL-3.0-only
//! Keeps kinds of flow few: what differs too often is not told apart.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;

use policy::Block;
use policyd_api::{FlowEnd, FlowName};
use policyd_store::MAX_NAMES;

/// Addresses outside that are kept each; others by their block of /24, or /48 of IPv6.
const ADDRESSES: usize = 4096;
/// Ports between two ends that are kept each: who scans has many.
const PORTS: usize = 64;
/// Arguments of one program that are kept each.
const ARGUMENTS: usize = 16;
/// Bytes that arguments may have in all.
const LONGEST: usize = 256;

/// Makes names.
#[derive(Default)]
pub struct Namer {
    hasher: RandomState,
    addresses: HashSet<IpAddr>,
    ports: HashMap<u64, HashSet<u16>>,
    arguments: HashMap<u64, HashSet<u64>>,
}

impl Namer {
    /// One that goes on where the names were made that there are.
    pub fn seeded(names: &[Arc<FlowName>]) -> Namer {
        let mut namer = Namer::default();
        for name in names {
            namer.fold((**name).clone());
        }
        namer
    }

    /// The name, made coarser where it has to be.
    pub fn fold(&mut self, mut name: FlowName) -> Arc<FlowName> {
        self.fold_end(&mut name.from);
        self.fold_end(&mut name.to);
        if let Some(port) = name.port {
            let pair = self.hasher.hash_one((&name.from, &name.to, &name.protocol));
            if !has_room(&mut self.ports, pair, port, PORTS) {
                name.port = None;
            }
        }
        Arc::new(name)
    }

    fn fold_end(&mut self, end: &mut FlowEnd) {
        if let (None, Some(address), None) = (&end.domain, end.address, end.prefix)
            && !self.addresses.contains(&address)
        {
            if self.addresses.len() < ADDRESSES {
                self.addresses.insert(address);
            } else {
                let block = Block::new(address, if address.is_ipv4() { 24 } else { 48 });
                (end.address, end.prefix) = (Some(block.address()), Some(block.length()));
            }
        }
        if let Some(args) = end.args.take()
            && args.iter().map(|a| a.len() + 1).sum::<usize>() <= LONGEST
        {
            // What is left of it is the program that has them.
            let program = self.hasher.hash_one(&*end);
            let these = self.hasher.hash_one(&args);
            if has_room(&mut self.arguments, program, these, ARGUMENTS) {
                end.args = Some(args);
            }
        }
    }
}

/// Whether `value` is among those of `key`, or can be.
fn has_room<V: Eq + std::hash::Hash>(
    map: &mut HashMap<u64, HashSet<V>>,
    key: u64,
    value: V,
    most: usize,
) -> bool {
    let full = map.len() >= MAX_NAMES;
    match map.get_mut(&key) {
        Some(values) => values.contains(&value) || (values.len() < most && values.insert(value)),
        None if full => false,
        None => map.entry(key).or_default().insert(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policyd_api::Verdict;

    fn name(from: FlowEnd, port: u16) -> FlowName {
        FlowName {
            from,
            to: FlowEnd::default(),
            protocol: "tcp".into(),
            port: Some(port),
            verdict: Verdict::Allow,
            rule: "r".into(),
            by_policy: true,
        }
    }

    fn outside(n: u32) -> FlowEnd {
        FlowEnd {
            address: Some(IpAddr::from((0x0a00_0000 + n).to_be_bytes())),
            ..FlowEnd::default()
        }
    }

    #[test]
    fn what_differs_too_often_is_not_told_apart() {
        let mut namer = Namer::default();
        for n in 0..ADDRESSES as u32 {
            assert_eq!(*namer.fold(name(outside(n), 80)), name(outside(n), 80));
        }
        let folded = namer.fold(name(outside(0x0012_3456), 80));
        assert_eq!(folded.from.label(), "10.18.52.0/24");
        assert_eq!(
            namer.fold(name(outside(7), 80)).from,
            outside(7),
            "known ones stay"
        );
        for port in 0..PORTS as u16 - 1 {
            assert_eq!(namer.fold(name(outside(7), port)).port, Some(port));
        }
        assert_eq!(namer.fold(name(outside(7), 9999)).port, None);
        assert_eq!(namer.fold(name(outside(7), 80)).port, Some(80));
        let run = |n: usize| FlowEnd {
            domain: Some("web1".into()),
            uid: Some(0),
            args: Some(vec!["job".into(), n.to_string()]),
            ..FlowEnd::default()
        };
        for n in 0..ARGUMENTS {
            assert_eq!(namer.fold(name(run(n), 80)).from, run(n));
        }
        assert_eq!(namer.fold(name(run(99), 80)).from.args, None);
        let mut long = run(0);
        long.args = Some(vec!["x".repeat(LONGEST)]);
        assert_eq!(namer.fold(name(long, 80)).from.args, None);
    }

    #[test]
    fn a_restart_tells_the_same_things_apart() {
        let mut namer = Namer::default();
        let names: Vec<_> = (0..5000).map(|n| namer.fold(name(outside(n), 80))).collect();
        let mut again = Namer::seeded(&names);
        for (n, known) in (0..).zip(&names) {
            assert_eq!(again.fold(name(outside(n), 80)), *known);
        }
    }
}
