// SPDX-License-Identifier: GPL-3.0-only
//! Finds the few rules that can match a flow without trying all.
//!
//! Each rule is filed under what it asks most plainly: exact VM names or address blocks of either end, and
//! single ports. A flow looks under each combination of what it is and "not asked". What a rule is filed
//! under is only ever a part of what it asks, so the index leaves out no rule that matches; the rule itself
//! is tried in full afterwards.

use std::cmp::Reverse;
use std::net::IpAddr;

use rustc_hash::FxHashMap;

use crate::block::Block;
use crate::document::{Selector, VmPattern};
use crate::flow::Side;
use crate::matching::Subject;
use crate::port::PortRange;
use crate::ruleset::{CompiledRule, End, RuleId, severity};

/// A rule is filed at most this often; what would need more drops its widest part.
const MAX_KEYS: usize = 64;
/// Address blocks that nest deeper than this are not filed under; it bounds the look-ups for one flow.
const MAX_NESTED: usize = 3;
/// Not asked, its VM, and the blocks that hold its address.
const MAX_ANCHORS: usize = 2 + MAX_NESTED;
/// Every combination of both ends' anchors, with and without the port.
const MAX_BUCKETS: usize = MAX_ANCHORS * MAX_ANCHORS * 2;

/// What an end is asked to be, as a number; 0 where it is not asked.
type Anchor = u32;
const UNASKED: Anchor = 0;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    from: Anchor,
    to: Anchor,
    /// 0 where it is not asked.
    port: u16,
}

/// Rules under one key, by severity, each in order.
type Bucket = [Vec<RuleId>; 3];

#[derive(Debug)]
pub(crate) struct Index {
    vms: FxHashMap<Box<str>, Anchor>,
    blocks: Blocks,
    buckets: FxHashMap<Key, Bucket>,
}

/// The rules that can match one flow.
pub(crate) struct Candidates<'i> {
    buckets: [Option<&'i Bucket>; MAX_BUCKETS],
    count: usize,
}

impl Index {
    pub(crate) fn build(rules: &[CompiledRule]) -> Self {
        let mut numbers = Numbers::new(rules);
        let mut buckets: FxHashMap<Key, Bucket> = FxHashMap::default();
        for (i, rule) in (0..).zip(rules) {
            for key in keys(rule, &mut numbers) {
                buckets.entry(key).or_default()[severity(rule.action)].push(RuleId(i));
            }
        }
        // Two alternatives of one rule may share a key.
        for list in buckets.values_mut().flatten() {
            list.dedup();
        }
        Index {
            vms: numbers.vms,
            blocks: numbers.blocks,
            buckets,
        }
    }

    pub(crate) fn candidates(&self, source: &Subject<'_>, destination: &Subject<'_>) -> Candidates<'_> {
        let mut found = Candidates {
            buckets: [None; MAX_BUCKETS],
            count: 0,
        };
        let (from, from_count) = self.anchors(source);
        let (to, to_count) = self.anchors(destination);
        let port = match destination.listens {
            Some((protocol, port)) if protocol.has_ports() => port,
            _ => 0,
        };
        for from in &from[..from_count] {
            for to in &to[..to_count] {
                let mut look = |port| {
                    let key = Key {
                        from: *from,
                        to: *to,
                        port,
                    };
                    if let (Some(bucket), Some(slot)) =
                        (self.buckets.get(&key), found.buckets.get_mut(found.count))
                    {
                        *slot = Some(bucket);
                        found.count += 1;
                    }
                };
                look(0);
                if port != 0 {
                    look(port);
                }
            }
        }
        found
    }

    fn anchors(&self, subject: &Subject<'_>) -> ([Anchor; MAX_ANCHORS], usize) {
        let mut anchors = [UNASKED; MAX_ANCHORS];
        let mut count = 1;
        let vm = subject.vm.and_then(|vm| self.vms.get(vm.name.as_str()));
        let blocks = self.blocks.around(subject.address);
        for (slot, anchor) in anchors[1..].iter_mut().zip(vm.into_iter().chain(blocks)) {
            *slot = *anchor;
            count += 1;
        }
        (anchors, count)
    }
}

impl Candidates<'_> {
    /// The rule that decides: the first of the most severe kind for which `matches` holds.
    pub(crate) fn first(&self, matches: impl Fn(RuleId) -> bool) -> Option<RuleId> {
        (0..3).find_map(|kind| {
            let mut best: Option<RuleId> = None;
            for bucket in self.buckets[..self.count].iter().flatten() {
                let earlier = bucket[kind]
                    .iter()
                    .take_while(|id| best.is_none_or(|best| **id < best))
                    .find(|id| matches(**id));
                best = earlier.copied().or(best);
            }
            best
        })
    }

    /// Calls `f` with each candidate, in no order, some more than once.
    pub(crate) fn each(&self, mut f: impl FnMut(RuleId)) {
        for bucket in self.buckets[..self.count].iter().flatten() {
            bucket.iter().flatten().for_each(|id| f(*id));
        }
    }
}

/// Gives numbers to names of VMs and to blocks.
struct Numbers {
    vms: FxHashMap<Box<str>, Anchor>,
    blocks: Blocks,
    next: Anchor,
}

impl Numbers {
    fn new(rules: &[CompiledRule]) -> Self {
        let blocks = rules
            .iter()
            .flat_map(|rule| rule.from.iter().chain(&rule.to))
            .filter_map(|end| match end {
                End::Selector { selector, .. } => Some(&selector.address),
                _ => None,
            })
            .flatten()
            .copied();
        let blocks = Blocks::new(blocks);
        Numbers {
            next: blocks.last + 1,
            vms: FxHashMap::default(),
            blocks,
        }
    }

    fn vm(&mut self, name: &str) -> Anchor {
        if let Some(number) = self.vms.get(name) {
            return *number;
        }
        let number = self.next;
        self.next += 1;
        self.vms.insert(name.into(), number);
        number
    }

    /// What one end of a rule is filed under; `[UNASKED]` where it asks nothing plain.
    fn anchors(&mut self, ends: &[End]) -> Vec<Anchor> {
        let mut anchors = Vec::new();
        for end in ends {
            match end {
                End::Selector { selector, .. } => match self.anchors_of(selector) {
                    Some(some) => anchors.extend(some),
                    None => return vec![UNASKED],
                },
                // One alternative that could be anything makes the whole end anything.
                End::Any | End::World | End::Unattributed => return vec![UNASKED],
            }
        }
        anchors.sort_unstable();
        anchors.dedup();
        anchors
    }

    fn anchors_of(&mut self, selector: &Selector) -> Option<Vec<Anchor>> {
        if !selector.vm.is_empty() {
            let names: Option<Vec<&str>> = selector
                .vm
                .iter()
                .map(|pattern| match pattern {
                    VmPattern::Name(name) => name.exact(),
                    VmPattern::Uuid(..) => None,
                })
                .collect();
            if let Some(names) = names {
                return Some(names.into_iter().map(|name| self.vm(name)).collect());
            }
        }
        if selector.address.is_empty() {
            return None;
        }
        selector
            .address
            .iter()
            .map(|block| self.blocks.number(block))
            .collect()
    }
}

fn keys(rule: &CompiledRule, numbers: &mut Numbers) -> Vec<Key> {
    let mut from = numbers.anchors(rule.ends(Side::Source));
    let mut to = numbers.anchors(rule.ends(Side::Destination));
    let mut ports = ports_of(rule);
    while from.len() * to.len() * ports.len() > MAX_KEYS {
        let widest = from.len().max(to.len()).max(ports.len());
        if ports.len() == widest {
            ports = vec![0];
        } else if from.len() == widest {
            from = vec![UNASKED];
        } else {
            to = vec![UNASKED];
        }
    }
    let mut keys = Vec::with_capacity(from.len() * to.len() * ports.len());
    for from in &from {
        for to in &to {
            keys.extend(ports.iter().map(|port| Key {
                from: *from,
                to: *to,
                port: *port,
            }));
        }
    }
    keys
}

/// The single ports a rule is filed under; `[0]` where it asks none, or too many.
fn ports_of(rule: &CompiledRule) -> Vec<u16> {
    if let Some(ports) = single_ports(&rule.ports) {
        return ports;
    }
    let mut all = Vec::new();
    for end in &rule.to {
        match end {
            End::Selector { selector, .. } => match single_ports(&selector.port) {
                Some(ports) => all.extend(ports),
                None => return vec![0],
            },
            _ => return vec![0],
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

fn single_ports(ranges: &[PortRange]) -> Option<Vec<u16>> {
    let wide = |r: &PortRange| usize::from(r.last() - r.first()) >= MAX_KEYS;
    if ranges.is_empty() || ranges.iter().any(wide) {
        return None;
    }
    let mut ports: Vec<u16> = ranges.iter().flat_map(|r| r.first()..=r.last()).collect();
    ports.sort_unstable();
    ports.dedup();
    Some(ports)
}

/// Address blocks with their numbers, and for every address the numbers of the blocks around it.
#[derive(Debug)]
struct Blocks {
    numbers: FxHashMap<Block, Anchor>,
    /// Where each stretch of addresses begins that lies in the same blocks, and those blocks.
    stretches: Vec<(u128, Vec<Anchor>)>,
    last: Anchor,
}

impl Blocks {
    fn new(blocks: impl Iterator<Item = Block>) -> Self {
        let mut sorted: Vec<Block> = blocks.collect();
        // Outer before inner: at one start the shorter length comes first.
        sorted.sort_by_key(|b| (span(b).0, Reverse(span(b).1)));
        sorted.dedup();
        let mut numbers = FxHashMap::default();
        let mut stretches: Vec<(u128, Vec<Anchor>)> = vec![(0, Vec::new())];
        let mut open: Vec<(u128, Anchor)> = Vec::new();
        let mut last = UNASKED;
        for block in sorted {
            let (start, end) = span(&block);
            close(&mut open, &mut stretches, Some(start));
            if open.len() >= MAX_NESTED {
                continue;
            }
            last += 1;
            numbers.insert(block, last);
            open.push((end, last));
            begin(&mut stretches, start, &open);
        }
        close(&mut open, &mut stretches, None);
        Blocks {
            numbers,
            stretches,
            last,
        }
    }

    /// `None` where the block nests too deep to be filed under.
    fn number(&self, block: &Block) -> Option<Anchor> {
        self.numbers.get(block).copied()
    }

    fn around(&self, address: IpAddr) -> &[Anchor] {
        let at = position(address);
        let after = self.stretches.partition_point(|(start, _)| *start <= at);
        match after.checked_sub(1).and_then(|i| self.stretches.get(i)) {
            Some((_, numbers)) => numbers,
            None => &[],
        }
    }
}

/// Ends the open blocks that lie before `until`: inner ones first, as they end first.
fn close(open: &mut Vec<(u128, Anchor)>, stretches: &mut Vec<(u128, Vec<Anchor>)>, until: Option<u128>) {
    while let Some((end, _)) = open.last().copied()
        && until.is_none_or(|until| end < until)
    {
        open.pop();
        if let Some(next) = end.checked_add(1) {
            begin(stretches, next, open);
        }
    }
}

fn begin(stretches: &mut Vec<(u128, Vec<Anchor>)>, start: u128, open: &[(u128, Anchor)]) {
    let numbers = open.iter().map(|(_, number)| *number).collect();
    match stretches.last_mut() {
        Some(last) if last.0 == start => last.1 = numbers,
        _ => stretches.push((start, numbers)),
    }
}

/// Both families on one line of numbers: IPv4 stands where its mapped addresses are, which no canonical
/// IPv6 address is.
fn position(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// First and last position of a block.
fn span(block: &Block) -> (u128, u128) {
    let start = position(block.address());
    let bits = match block.address() {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    };
    let host = u128::MAX
        .checked_shr(128 - bits + u32::from(block.length()))
        .unwrap_or(0);
    (start, start | host)
}
