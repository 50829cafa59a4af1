// SPDX-License-Identifier: GPL-3.0-only
//! Finds the few rules that can match a flow without trying all.
//!
//! Each rule is filed under what it asks most plainly: exact VM names, a label or address blocks of either end, and
//! single ports. A flow looks under each combination of what it is and "not asked". What a rule is filed
//! under is only ever a part of what it asks, so the index leaves out no rule that matches; the rule itself
//! is tried in full afterwards.
//!
//! What a rule is filed under depends on that rule alone. So the rules of one document can be taken out and others filed, at the
//! cost of these and of a copy of the index, whatever else there is.

use std::collections::hash_map::Entry;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHasher};

use crate::block::Block;
use crate::document::{Selector, VmPattern};
use crate::flow::Side;
use crate::label::{Label, MAX_LABELS};
use crate::matching::Subject;
use crate::port::PortRange;
use crate::ruleset::{CompiledRule, End, severity};

/// A rule is filed at most this often; what would need more drops its widest part.
const MAX_KEYS: usize = 64;
/// Lengths of prefixes that blocks are filed by: a block is in one bucket with all others of the longest of these that holds it.
const LENGTHS_V4: [u8; 4] = [8, 16, 24, 32];
const LENGTHS_V6: [u8; 4] = [32, 48, 64, 128];
/// Not asked, its VM, and the blocks around its address.
const MAX_ANCHORS: usize = 2 + LENGTHS_V4.len();
/// Every combination of both ends' anchors, with and without the port.
const MAX_BUCKETS: usize = MAX_ANCHORS * MAX_ANCHORS * 2;

/// Where a rule is: in a part of the ruleset, by the number that the part keeps for as long as it is there, and its place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub part: u32,
    pub at: u32,
}

/// What an end is asked to be: of what kind, and a hash of it. Two that are the same by chance cost a try, and no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Anchor(u32);

/// Kinds of anchors, in the lowest bits.
const KIND_BITS: u32 = 4;
const VM: u32 = 1;
const FIRST_V4: u32 = 2;
const FIRST_V6: u32 = FIRST_V4 + LENGTHS_V4.len() as u32;
const LABEL: u32 = FIRST_V6 + LENGTHS_V6.len() as u32;
const KINDS: usize = 1 << KIND_BITS;

impl Anchor {
    /// It is not asked.
    const NONE: Anchor = Anchor(0);

    fn new(kind: u32, what: impl Hash) -> Anchor {
        let mut hasher = FxHasher::default();
        what.hash(&mut hasher);
        Anchor((hasher.finish() as u32 & !(KINDS as u32 - 1)) | kind)
    }

    fn vm(name: &str) -> Anchor {
        Anchor::new(VM, name)
    }

    pub(crate) fn label(key: &str, value: &str) -> Anchor {
        Anchor::new(LABEL, (key, value))
    }

    /// Of the addresses that have their first bits in common with this one: so many as the length of that number says.
    fn block(address: IpAddr, number: usize) -> Anchor {
        match address {
            IpAddr::V4(v4) => {
                let length = u32::from(LENGTHS_V4[number]);
                Anchor::new(FIRST_V4 + number as u32, v4.to_bits() >> (32 - length))
            }
            IpAddr::V6(v6) => {
                let length = u32::from(LENGTHS_V6[number]);
                Anchor::new(FIRST_V6 + number as u32, v6.to_bits() >> (128 - length))
            }
        }
    }

    /// What a block is filed under; `None` for one that is wider than all lengths.
    fn of_block(block: &Block) -> Option<Anchor> {
        let lengths = match block.address() {
            IpAddr::V4(_) => LENGTHS_V4,
            IpAddr::V6(_) => LENGTHS_V6,
        };
        let number = lengths.iter().rposition(|length| *length <= block.length())?;
        Some(Anchor::block(block.address(), number))
    }

    fn kind(self) -> usize {
        (self.0 & (KINDS as u32 - 1)) as usize
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    from: Anchor,
    to: Anchor,
    /// 0 where it is not asked.
    port: u16,
}

impl Key {
    /// Of what kinds its parts are: most combinations are asked by no rule.
    fn shape(self) -> usize {
        (self.from.kind() * KINDS + self.to.kind()) * 2 + usize::from(self.port != 0)
    }
}

/// Rules by severity, each in order.
type Lists = [Vec<Place>; 3];

/// Rules under one key. Most have one: a copy of those is a copy of some bytes.
#[derive(Debug, Clone)]
enum Bucket {
    One(u8, Place),
    Many(Arc<Lists>),
}

impl Bucket {
    /// Those of a severity.
    fn of(&self, severity: usize) -> &[Place] {
        match self {
            Bucket::One(of, place) if usize::from(*of) == severity => std::slice::from_ref(place),
            Bucket::One(..) => &[],
            Bucket::Many(lists) => &lists[severity],
        }
    }

    /// Puts places that are in one stretch where they are in order.
    fn put(&mut self, severity: usize, places: Vec<Place>, order: impl Fn(Place) -> u32) {
        if let Bucket::One(of, place) = *self {
            let mut lists = Lists::default();
            lists[usize::from(of)].push(place);
            *self = Bucket::Many(Arc::new(lists));
        }
        if let Bucket::Many(lists) = self {
            let list = &mut Arc::make_mut(lists)[severity];
            let before = places.first().map_or(0, |first| order(*first));
            let at = match list.last() {
                Some(last) if order(*last) > before => list.partition_point(|place| order(*place) < before),
                _ => list.len(),
            };
            list.splice(at..at, places);
        }
    }

    /// Takes out what is of a part; whether nothing is left.
    fn take(&mut self, part: u32) -> bool {
        match self {
            Bucket::One(_, place) => place.part == part,
            Bucket::Many(lists) => {
                let lists = Arc::make_mut(lists);
                for list in lists.iter_mut() {
                    list.retain(|place| place.part != part);
                }
                lists.iter().all(Vec::is_empty)
            }
        }
    }
}

/// What rules are filed under at one end: a flow looks for nothing else.
#[derive(Debug, Clone, Default)]
struct Asked {
    /// How many filings there are under each.
    anchors: FxHashMap<Anchor, u32>,
    /// The same by kind.
    kinds: [u32; KINDS],
}

impl Asked {
    fn add(&mut self, anchor: Anchor) {
        *self.anchors.entry(anchor).or_default() += 1;
        self.kinds[anchor.kind()] += 1;
    }

    fn take(&mut self, anchor: Anchor) {
        if let Some(count) = self.anchors.get_mut(&anchor) {
            *count -= 1;
            self.kinds[anchor.kind()] -= 1;
            if *count == 0 {
                self.anchors.remove(&anchor);
            }
        }
    }

    /// What this end of a flow may be asked to be.
    fn of<'s>(&self, subject: &Subject<'s>) -> Anchors<'s> {
        let mut found = [Anchor::NONE; MAX_ANCHORS];
        let mut count = usize::from(self.kinds[0] > 0);
        let mut look = |anchor: Anchor| {
            if self.anchors.contains_key(&anchor) {
                found[count] = anchor;
                count += 1;
            }
        };
        if self.kinds[VM as usize] > 0
            && let Some(vm) = subject.vm
        {
            look(Anchor::vm(&vm.name));
        }
        let first = match subject.address {
            IpAddr::V4(_) => FIRST_V4,
            IpAddr::V6(_) => FIRST_V6,
        };
        for number in 0..LENGTHS_V4.len() {
            if self.kinds[first as usize + number] > 0 {
                look(Anchor::block(subject.address, number));
            }
        }
        let mut asked = 0;
        if self.kinds[LABEL as usize] > 0 {
            for (bit, label) in (0..u128::BITS).zip(subject.labels) {
                asked |= u128::from(self.anchors.contains_key(&label.anchor())) << bit;
            }
        }
        Anchors {
            plain: found,
            count,
            labels: subject.labels,
            asked,
        }
    }
}

// Each of a guest's labels has a bit in `Anchors`.
const _: () = assert!(2 * MAX_LABELS <= u128::BITS as usize);

/// What an end of a flow is that some rule asks for.
#[derive(Clone, Copy)]
struct Anchors<'s> {
    /// Not asked, its VM, and the blocks around its address.
    plain: [Anchor; MAX_ANCHORS],
    count: usize,
    labels: &'s [Label],
    /// Which of the labels, by bit.
    asked: u128,
}

impl Anchors<'_> {
    fn plain(&self) -> &[Anchor] {
        &self.plain[..self.count]
    }

    fn labels(&self) -> impl Iterator<Item = Anchor> + '_ {
        let labels = std::iter::successors(Some(self.asked), |left| Some(left & left.wrapping_sub(1)));
        let labels = labels
            .take_while(|left| *left != 0)
            .filter_map(|left| self.labels.get(left.trailing_zeros() as usize));
        labels.map(Label::anchor)
    }
}

#[derive(Debug, Clone)]
struct Shapes(Box<[u32; KINDS * KINDS * 2]>);

impl Default for Shapes {
    fn default() -> Shapes {
        Shapes(Box::new([0; KINDS * KINDS * 2]))
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    from: Asked,
    to: Asked,
    ports: FxHashMap<u16, u32>,
    /// How many filings there are of each shape of key.
    shapes: Shapes,
    buckets: FxHashMap<Key, Bucket>,
}

/// The rules that can match one flow.
pub(crate) struct Candidates<'i> {
    buckets: [Option<&'i Bucket>; MAX_BUCKETS],
    count: usize,
    /// Between guests with many labels that rules ask for there may be more than fit above. Those are looked for each time.
    rest: Option<Rest<'i>>,
}

/// What there is by labels, beyond what was found room for.
struct Rest<'i> {
    by_labels: ByLabels<'i>,
    /// So many of it have room.
    found: usize,
}

/// What is filed under a label at one end or both.
#[derive(Clone, Copy)]
struct ByLabels<'i> {
    index: &'i Index,
    from: Anchors<'i>,
    to: Anchors<'i>,
    /// 0 where none of it is asked.
    port: u16,
}

impl<'i> ByLabels<'i> {
    fn buckets(&self) -> impl Iterator<Item = &'i Bucket> + '_ {
        let plain = self.from.plain().iter().copied();
        let to_labels = plain.flat_map(|from| self.to.labels().map(move |to| (from, to)));
        let from_labels = self.from.labels().flat_map(|from| {
            let plain = self.to.plain().iter().copied();
            plain.chain(self.to.labels()).map(move |to| (from, to))
        });
        let keys = to_labels.chain(from_labels).flat_map(|(from, to)| {
            let port = (self.port != 0).then_some(self.port);
            std::iter::once(0)
                .chain(port)
                .map(move |port| Key { from, to, port })
        });
        keys.filter_map(|key| self.index.bucket(key))
    }
}

impl Index {
    /// Files the rules of a part. `order`: of any rule that is filed, or will be; those of one part are in one stretch.
    pub(crate) fn file(&mut self, part: u32, rules: &[CompiledRule], order: impl Fn(Place) -> u32) {
        for ((key, severity), places) in filed(part, rules) {
            for _ in &places {
                self.from.add(key.from);
                self.to.add(key.to);
                self.shapes.0[key.shape()] += 1;
                *self.ports.entry(key.port).or_default() += 1;
            }
            match (self.buckets.entry(key), &places[..]) {
                (Entry::Vacant(entry), [place]) => drop(entry.insert(Bucket::One(severity as u8, *place))),
                (entry, _) => entry
                    .or_insert_with(|| Bucket::Many(Arc::default()))
                    .put(severity, places, &order),
            }
        }
    }

    /// Takes the rules of a part out, which were filed under this number.
    pub(crate) fn take_out(&mut self, part: u32, rules: &[CompiledRule]) {
        for ((key, _), places) in filed(part, rules) {
            for _ in &places {
                self.from.take(key.from);
                self.to.take(key.to);
                self.shapes.0[key.shape()] -= 1;
                if let Some(count) = self.ports.get_mut(&key.port) {
                    *count -= 1;
                    if *count == 0 {
                        self.ports.remove(&key.port);
                    }
                }
            }
            if let Entry::Occupied(mut bucket) = self.buckets.entry(key)
                && bucket.get_mut().take(part)
            {
                bucket.remove();
            }
        }
    }

    pub(crate) fn candidates<'i>(
        &'i self,
        source: &Subject<'i>,
        destination: &Subject<'i>,
    ) -> Candidates<'i> {
        let (from, to) = (self.from.of(source), self.to.of(destination));
        let port = match destination.listens {
            Some((protocol, port)) if protocol.has_ports() && self.ports.contains_key(&port) => port,
            _ => 0,
        };
        let mut found = Candidates {
            buckets: [None; MAX_BUCKETS],
            count: 0,
            rest: None,
        };
        for from in from.plain() {
            for to in to.plain() {
                let mut look = |port| {
                    let key = Key {
                        from: *from,
                        to: *to,
                        port,
                    };
                    if let Some(bucket) = self.bucket(key) {
                        // There is room for all of these.
                        found.put(bucket);
                    }
                };
                look(0);
                if port != 0 {
                    look(port);
                }
            }
        }
        if from.asked | to.asked != 0 {
            let index = self;
            found.add_labelled(ByLabels {
                index,
                from,
                to,
                port,
            });
        }
        found
    }

    fn bucket(&self, key: Key) -> Option<&Bucket> {
        match self.shapes.0[key.shape()] > 0 {
            true => self.buckets.get(&key),
            false => None,
        }
    }
}

impl<'i> Candidates<'i> {
    /// Whether there is room for it.
    fn put(&mut self, bucket: &'i Bucket) -> bool {
        let slot = self.buckets.get_mut(self.count);
        let has_room = slot.is_some();
        if let Some(slot) = slot {
            *slot = Some(bucket);
            self.count += 1;
        }
        has_room
    }

    fn add_labelled(&mut self, by_labels: ByLabels<'i>) {
        for (found, bucket) in (0..).zip(by_labels.buckets()) {
            if !self.put(bucket) {
                self.rest = Some(Rest { by_labels, found });
                return;
            }
        }
    }

    fn found(&self) -> impl Iterator<Item = &'i Bucket> + '_ {
        self.buckets[..self.count].iter().flatten().copied()
    }

    fn rest(&self) -> impl Iterator<Item = &'i Bucket> + '_ {
        let rest = self.rest.iter();
        rest.flat_map(|rest| rest.by_labels.buckets().skip(rest.found))
    }

    /// The rule that decides: the first in order of the most severe kind for which `matches` holds.
    pub(crate) fn first(
        &self,
        order: impl Fn(Place) -> u32,
        matches: impl Fn(Place) -> bool,
    ) -> Option<Place> {
        (0..3).find_map(|kind| {
            let mut best: Option<(u32, Place)> = None;
            let mut look = |bucket: &Bucket| {
                for place in bucket.of(kind) {
                    let number = order(*place);
                    if best.is_some_and(|(best, _)| best <= number) {
                        break;
                    }
                    if matches(*place) {
                        best = Some((number, *place));
                        break;
                    }
                }
            };
            for bucket in self.found() {
                look(bucket);
            }
            if self.rest.is_some() {
                self.rest().for_each(look);
            }
            best.map(|(_, place)| place)
        })
    }

    /// Calls `f` with each candidate, in no order, some more than once.
    pub(crate) fn each(&self, mut f: impl FnMut(Place)) {
        for bucket in self.found().chain(self.rest()) {
            (0..3)
                .flat_map(|kind| bucket.of(kind))
                .for_each(|place| f(*place));
        }
    }
}

/// What the rules of a part are filed under, each list in order.
fn filed(part: u32, rules: &[CompiledRule]) -> FxHashMap<(Key, usize), Vec<Place>> {
    let mut all: FxHashMap<(Key, usize), Vec<Place>> = FxHashMap::default();
    for (at, rule) in (0..).zip(rules) {
        for key in keys(rule) {
            let list = all.entry((key, severity(rule.action))).or_default();
            list.push(Place { part, at });
        }
    }
    all
}

/// What one end of a rule is filed under; `[NONE]` where it asks nothing plain.
fn anchors(ends: &[End]) -> Vec<Anchor> {
    let mut anchors = Vec::new();
    for end in ends {
        match end {
            End::Selector { selector, .. } => match anchors_of(selector) {
                Some(some) => anchors.extend(some),
                None => return vec![Anchor::NONE],
            },
            // One alternative that could be anything makes the whole end anything.
            End::Any | End::World | End::Unattributed => return vec![Anchor::NONE],
        }
    }
    anchors.sort_unstable();
    anchors.dedup();
    anchors
}

fn anchors_of(selector: &Selector) -> Option<Vec<Anchor>> {
    if !selector.vm.is_empty() {
        let names: Option<Vec<Anchor>> = selector
            .vm
            .iter()
            .map(|pattern| match pattern {
                VmPattern::Name(name) => name.exact().map(Anchor::vm),
                VmPattern::Uuid(..) => None,
            })
            .collect();
        if names.is_some() {
            return names;
        }
    }
    // All pairs must hold, so any one of them will do: the first of those with the fewest values.
    let labels = selector.label.iter().filter_map(|(key, values)| {
        let exact = values
            .iter()
            .map(|value| Some(Anchor::label(key, value.exact()?)));
        exact.collect::<Option<Vec<Anchor>>>()
    });
    if let Some(fewest) = labels.min_by_key(Vec::len) {
        return Some(fewest);
    }
    if selector.address.is_empty() {
        return None;
    }
    selector.address.iter().map(Anchor::of_block).collect()
}

/// Each once.
fn keys(rule: &CompiledRule) -> Vec<Key> {
    let mut from = anchors(rule.ends(Side::Source));
    let mut to = anchors(rule.ends(Side::Destination));
    let mut ports = ports_of(rule);
    while from.len() * to.len() * ports.len() > MAX_KEYS {
        let widest = from.len().max(to.len()).max(ports.len());
        if ports.len() == widest {
            ports = vec![0];
        } else if from.len() == widest {
            from = vec![Anchor::NONE];
        } else {
            to = vec![Anchor::NONE];
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
