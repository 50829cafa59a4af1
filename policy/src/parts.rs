// SPDX-License-Identifier: GPL-3.0-only
//! The documents of a ruleset, each compiled by itself. A part stays as it is for as long as its document does, and so does the
//! number that its rules are filed under; what numbers the rules have follows from the parts before it.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::document::{Document, Level, VmPattern};
use crate::flow::VmId;
use crate::index::{Index, Place};
use crate::mirror::Mirrors;
use crate::rollout::Stage;
use crate::route::Route;
use crate::ruleset::{CompiledRule, RuleId, Service, ends, selector_of};
use crate::target::Instead;

/// A document, and of which policy it is.
pub(crate) type Staged = (Arc<Document>, Stage);

/// One document, compiled.
#[derive(Debug)]
pub(crate) struct Part {
    pub document: Arc<Document>,
    pub rules: Box<[CompiledRule]>,
    /// By name.
    pub services: Box<[Service]>,
    guests: ServicesByGuest,
    pub routes: Box<[Arc<Route>]>,
    pub mirrors: Mirrors,
    /// Some rule is in dry run.
    pub tries: bool,
    /// Some rule asks whether programs are what they are taken for.
    pub measures: bool,
}

impl Part {
    fn compile(document: &Arc<Document>, stage: Stage) -> Part {
        let set: Arc<str> = document.name.as_str().into();
        let shown: Arc<str> = stage.set_name(&document.name).into();
        let mut services: Vec<Service> = document
            .services
            .iter()
            .flat_map(|(name, service)| service.selectors(name))
            .map(|(name, selector)| Service {
                set: set.clone(),
                name: name.into(),
                selector: Arc::new(selector),
            })
            .collect();
        services.sort_by(|a, b| a.name.cmp(&b.name));
        let service = |name: &str| selector_of(&services, name);
        let mut mirrors = Mirrors::default();
        let rules: Box<[CompiledRule]> = document
            .rules
            .iter()
            .map(|rule| CompiledRule {
                set: shown.clone(),
                name: rule.name.as_str().into(),
                action: rule.action,
                protocol: rule.protocol,
                ports: rule.ports.as_slice().into(),
                from: ends(&rule.from, &services),
                to: ends(&rule.to, &services),
                require: (!rule.require.is_empty()).then(|| Box::new(rule.require.clone())),
                dry_run: rule.dry_run,
                instead: rule
                    .instead
                    .as_ref()
                    .and_then(|target| Instead::new(target, service)),
                mirror: rule
                    .mirror
                    .as_ref()
                    .map(|mirror| mirrors.number(&set, mirror, service)),
            })
            .collect();
        let routes = document.routes.iter().map(|(name, route)| {
            Arc::new(Route::new(&set, name, route, service, |peers| {
                ends(peers, &services)
            }))
        });
        Part {
            routes: routes.collect(),
            tries: rules.iter().any(|rule| rule.dry_run),
            measures: rules.iter().any(|rule| rule.asks_level(Level::Measured)),
            document: document.clone(),
            guests: ServicesByGuest::of(&services),
            rules,
            services: services.into(),
            mirrors,
        }
    }
}

/// The services of a part, by the guests that may serve them: so that it does not take a look at each to say who somebody is.
#[derive(Debug)]
struct ServicesByGuest {
    /// Those of guests that are named, by name.
    named: FxHashMap<Box<str>, Vec<u32>>,
    /// Those that may be of any.
    others: Vec<u32>,
}

impl ServicesByGuest {
    fn of(services: &[Service]) -> ServicesByGuest {
        let mut all = ServicesByGuest {
            named: FxHashMap::default(),
            others: Vec::new(),
        };
        for (number, service) in (0..).zip(services) {
            let name = |pattern: &VmPattern| match pattern {
                VmPattern::Name(pattern) => pattern.exact().map(Box::from),
                VmPattern::Uuid(..) => None,
            };
            let names: Option<BTreeSet<Box<str>>> = service.selector.vm.iter().map(name).collect();
            match names.filter(|names| !names.is_empty()) {
                Some(names) => names
                    .into_iter()
                    .for_each(|name| all.named.entry(name).or_default().push(number)),
                None => all.others.push(number),
            }
        }
        all
    }
}

impl Part {
    /// The services that may be of this guest, or of none, by name.
    fn services_of(&self, vm: Option<&VmId>) -> impl Iterator<Item = &Service> {
        let named = vm.and_then(|vm| self.guests.named.get(vm.name.as_str()));
        let mut numbers: Vec<u32> = self.guests.others.clone();
        if let Some(named) = named {
            numbers.extend(named);
            numbers.sort_unstable();
        }
        numbers
            .into_iter()
            .filter_map(|number| self.services.get(number as usize))
    }
}

/// A part among the others.
#[derive(Debug, Clone)]
struct Seat {
    /// The number of its first rule.
    first_rule: u32,
    /// The number of the first guest that gets copies by its rules.
    first_mirror: u32,
    stage: Stage,
    part: Arc<Part>,
}

/// All parts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Parts {
    /// By the number that a part's rules are filed under.
    seats: Vec<Option<Seat>>,
    /// Those numbers, by name of the set.
    sorted: Vec<u32>,
}

impl Parts {
    /// Those of these documents, which are sorted by name and stage. What another has of them is taken from there; `index`, which has the
    /// rules of the other, gets those of this.
    pub(crate) fn build(documents: &[Staged], other: &Parts, index: &mut Index) -> Parts {
        let mut seats = other.seats.clone();
        let mut free: Vec<u32> = Vec::new();
        let is_kept = |seat: &Seat| {
            let name = (&seat.part.document.name, seat.stage);
            let at = documents.binary_search_by(|(d, stage)| (&d.name, *stage).cmp(&name));
            let found = at.ok().and_then(|at| documents.get(at));
            found.is_some_and(|(d, _)| Arc::ptr_eq(d, &seat.part.document))
        };
        for (number, seat) in (0..).zip(&mut seats) {
            if let Some(gone) = seat.as_ref().filter(|seat| !is_kept(seat)) {
                index.take_out(number, &gone.part.rules);
                *seat = None;
            }
            if seat.is_none() {
                free.push(number);
            }
        }
        let mut sorted = Vec::with_capacity(documents.len());
        let mut new = Vec::new();
        // Both are sorted by name.
        let mut known = other.sorted.iter().filter(|number| {
            let seat = seats.get(**number as usize);
            seat.is_some_and(Option::is_some)
        });
        let mut next_known = known.next();
        for staged in documents {
            let (document, stage) = staged;
            let same = |number: &&u32| {
                let seat = seats.get(**number as usize).and_then(Option::as_ref);
                seat.is_some_and(|seat| Arc::ptr_eq(&seat.part.document, document) && seat.stage == *stage)
            };
            match next_known.filter(same) {
                Some(number) => {
                    sorted.push(*number);
                    next_known = known.next();
                }
                None => {
                    new.push((sorted.len(), staged));
                    sorted.push(0);
                }
            }
        }
        for (at, (document, stage)) in &new {
            let seat = Some(Seat {
                first_rule: 0,
                first_mirror: 0,
                stage: *stage,
                part: Arc::new(Part::compile(document, *stage)),
            });
            let number = match free.pop() {
                Some(number) => {
                    seats[number as usize] = seat;
                    number
                }
                None => {
                    seats.push(seat);
                    seats.len() as u32 - 1
                }
            };
            sorted[*at] = number;
        }
        let (mut first_rule, mut first_mirror) = (0, 0);
        for number in &sorted {
            if let Some(Some(seat)) = seats.get_mut(*number as usize) {
                (seat.first_rule, seat.first_mirror) = (first_rule, first_mirror);
                first_rule += seat.part.rules.len() as u32;
                first_mirror += seat.part.mirrors.len();
            }
        }
        let parts = Parts { seats, sorted };
        for (at, _) in new {
            let number = parts.sorted[at];
            if let Some(seat) = parts.seat(number) {
                index.file(number, &seat.part.rules, |place| parts.number(place).0);
            }
        }
        parts
    }

    fn seat(&self, number: u32) -> Option<&Seat> {
        self.seats.get(number as usize)?.as_ref()
    }

    fn in_order(&self) -> impl Iterator<Item = &Seat> {
        self.sorted.iter().filter_map(|number| self.seat(*number))
    }

    /// The parts, by name of the set, and of which policy each is.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Part, Stage)> {
        self.in_order().map(|seat| (&*seat.part, seat.stage))
    }

    /// The number of the rule at a place.
    pub(crate) fn number(&self, place: Place) -> RuleId {
        let first = self.seat(place.part).map_or(0, |seat| seat.first_rule);
        RuleId(first + place.at)
    }

    /// The rule at a place, if it is of the policy as it will be (`after`), or as it was.
    pub(crate) fn at(&self, place: Place, after: bool) -> Option<&CompiledRule> {
        let seat = self.seat(place.part).filter(|seat| seat.stage.holds(after))?;
        seat.part.rules.get(place.at as usize)
    }

    /// The number of the first guest that gets copies by rules of this part.
    pub(crate) fn first_mirror(&self, place: Place) -> u32 {
        self.seat(place.part).map_or(0, |seat| seat.first_mirror)
    }

    /// The rule of a number.
    pub(crate) fn rule(&self, RuleId(number): RuleId) -> Option<&CompiledRule> {
        let after = self.sorted.partition_point(|n| {
            let seat = self.seat(*n);
            seat.is_some_and(|seat| seat.first_rule <= number)
        });
        let seat = self.seat(*self.sorted.get(after.checked_sub(1)?)?)?;
        seat.part.rules.get((number - seat.first_rule) as usize)
    }

    /// All rules in order.
    pub(crate) fn rules(&self) -> impl Iterator<Item = (RuleId, &CompiledRule)> {
        let all = self.in_order().flat_map(|seat| seat.part.rules.iter());
        (0..).map(RuleId).zip(all)
    }

    /// The services of the policy as it will be, or as it was, that may be of this guest, or of none; by set and name.
    pub(crate) fn services<'p>(
        &'p self,
        after: bool,
        vm: Option<&'p VmId>,
    ) -> impl Iterator<Item = &'p Service> {
        let of_it = self.iter().filter(move |(_, stage)| stage.holds(after));
        of_it.flat_map(move |(part, _)| part.services_of(vm))
    }

    /// The rules of the policy as it will be, or as it was, in order.
    pub(crate) fn rules_of(&self, after: bool) -> impl Iterator<Item = (RuleId, &CompiledRule)> {
        let of_it = self.in_order().filter(move |seat| seat.stage.holds(after));
        of_it.flat_map(|seat| (seat.first_rule..).map(RuleId).zip(seat.part.rules.iter()))
    }

    /// The guests that get copies, with what number theirs begin.
    pub(crate) fn mirrors(&self) -> impl DoubleEndedIterator<Item = (u32, &Mirrors)> {
        let seats = self.sorted.iter().filter_map(|number| self.seat(*number));
        seats.map(|seat| (seat.first_mirror, &seat.part.mirrors))
    }
}
