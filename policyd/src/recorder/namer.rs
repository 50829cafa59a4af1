// SPDX-License-Identifier: GPL-3.0-only
//! Keeps kinds of flow few: what differs too often is not told apart.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash, RandomState};
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
/// Users of one program, and ancestors, that are kept each.
const USERS: usize = 16;
/// Groups of a user.
const GROUPS: usize = 32;
/// Bytes that the paths of ancestors may have in all.
const LONGEST_PARENTS: usize = 512;
/// Of one program, all that is kept of its arguments, users and ancestors together.
const VARIANTS: usize = 64;

/// Makes names.
#[derive(Default)]
pub struct Namer {
    hasher: RandomState,
    addresses: HashSet<IpAddr>,
    ports: HashMap<u64, HashSet<u16>>,
    arguments: HashMap<u64, HashSet<u64>>,
    users: HashMap<u64, HashSet<u64>>,
    parents: HashMap<u64, HashSet<u64>>,
    variants: HashMap<u64, HashSet<u64>>,
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
        let (args, user, parents) = (end.args.take(), end.user.take(), end.parents.take());
        // What is left of it is the program that has them.
        let program = self.hasher.hash_one(&*end);
        let length = |texts: &[String]| texts.iter().map(|text| text.len() + 1).sum::<usize>();
        let args = args.filter(|args| length(args) <= LONGEST);
        end.args = self.hasher.keep(&mut self.arguments, program, args, ARGUMENTS);
        let user = user.filter(|user| user.groups.len() <= GROUPS);
        end.user = self.hasher.keep(&mut self.users, program, user, USERS);
        let parents = parents.filter(|parents| length(parents) <= LONGEST_PARENTS);
        end.parents = self.hasher.keep(&mut self.parents, program, parents, USERS);
        // Each by itself may be few where all together are many: what differs most is given up first.
        let mut is_known = |end: &FlowEnd| {
            let these = self.hasher.hash_one((&end.args, &end.user, &end.parents));
            has_room(&mut self.variants, program, these, VARIANTS)
        };
        if !is_known(end) {
            end.args = None;
        }
        if !is_known(end) {
            end.parents = None;
        }
        if !is_known(end) {
            end.user = None;
        }
    }
}

trait Keep {
    /// What is known of a program, if it is among what is told apart.
    fn keep<V: Hash>(
        &self,
        map: &mut HashMap<u64, HashSet<u64>>,
        program: u64,
        value: Option<V>,
        most: usize,
    ) -> Option<V>;
}

impl Keep for RandomState {
    fn keep<V: Hash>(
        &self,
        map: &mut HashMap<u64, HashSet<u64>>,
        program: u64,
        value: Option<V>,
        most: usize,
    ) -> Option<V> {
        value.filter(|value| has_room(map, program, self.hash_one(value), most))
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
    use policyd_api::{FlowUser, Verdict};

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
    fn users_and_ancestors_are_kept_while_they_are_few() {
        let mut namer = Namer::default();
        let user = |gid: u32| FlowUser {
            gid,
            groups: vec![gid, 7],
            loginuid: Some(1000),
        };
        let run = |gid: u32, parent: usize, arg: usize| FlowEnd {
            domain: Some("web1".into()),
            uid: Some(0),
            args: Some(vec!["job".into(), arg.to_string()]),
            user: Some(user(gid)),
            parents: Some(vec![format!("/usr/bin/{parent}"), "/sbin/init".into()]),
            given: Some(true),
            ..FlowEnd::default()
        };
        let mut kept = |end: FlowEnd| namer.fold(name(end, 80)).from.clone();
        for n in 0..USERS {
            assert_eq!(kept(run(n as u32, n, n)), run(n as u32, n, n));
        }
        let more = kept(run(99, 99, 99));
        assert_eq!((more.user, more.parents, more.args), (None, None, None));
        // Together they are bounded more closely than each by itself.
        let all: HashSet<FlowEnd> = (0..USERS)
            .flat_map(|a| (0..USERS).map(move |b| (a, b)))
            .map(|(a, b)| kept(run(a as u32, b, a)))
            .collect();
        assert!(all.len() <= VARIANTS + 1, "{}", all.len());
        let mut crowd = run(0, 0, 0);
        crowd.user = Some(FlowUser {
            groups: (0..=GROUPS as u32).collect(),
            ..user(0)
        });
        assert_eq!(kept(crowd).user, None);
        let mut deep = run(0, 0, 0);
        deep.parents = Some(vec!["x".repeat(LONGEST_PARENTS)]);
        assert_eq!(kept(deep).parents, None);
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
