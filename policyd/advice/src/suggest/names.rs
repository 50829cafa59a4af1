// SPDX-License-Identifier: GPL-3.0-only
//! Services and rules of drafts, and what they are called.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use policy::document::MAX_LIST;
use policy::pattern::Pattern;
use policy::{Block, PortRange, Protocol, Ruleset};
use policyd_api::{FlowEnd, FlowTotals, SuggestedRule};

use super::merge::{Draft, stem};
use super::{Container, Options, Place, Sample, Who, blocks, ports, yaml};
use crate::End;

/// The longest name of a service or rule.
const LONGEST: usize = 63;
/// Flows that are told of a rule.
const EXAMPLES: usize = 3;
/// Flows whose services are looked at for a name.
const ASKED: usize = 8;
/// Programs that do what a file tells them.
const INTERPRETERS: [&str; 12] = [
    "bash", "busybox", "dash", "java", "lua", "node", "perl", "php", "python", "ruby", "sh", "zsh",
];

/// What a service is, in the words of a document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service<'f> {
    /// Patterns.
    pub vms: Vec<String>,
    pub who: Who<'f>,
    /// What it listens on.
    pub listens: Option<(Protocol, Vec<PortRange>)>,
}

/// An end of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    Service(String),
    Addresses(Vec<Block>),
}

/// A rule with its name, and what it was learned from.
#[derive(Debug, Clone)]
pub struct Named {
    pub name: String,
    pub from: Vec<Peer>,
    pub to: Vec<Peer>,
    /// Where `to` is outside.
    pub listens: Option<(Protocol, Vec<PortRange>)>,
    pub totals: FlowTotals,
    pub pairs: u64,
    pub pairs_seen: u64,
    pub generalised: Vec<String>,
    pub examples: Vec<String>,
}

impl Named {
    /// As the API tells it.
    pub fn told(&self) -> SuggestedRule {
        SuggestedRule {
            name: self.name.clone(),
            totals: self.totals,
            pairs: self.pairs,
            pairs_seen: self.pairs_seen,
            generalised: self.generalised.clone(),
            examples: self.examples.clone(),
        }
    }
}

/// What a document will say.
#[derive(Debug, Default)]
pub struct Plan<'f> {
    pub services: BTreeMap<String, Service<'f>>,
    pub rules: Vec<Named>,
}

/// Names the drafts. `all`: all guests that there are, or were.
pub fn plan<'f>(
    drafts: Vec<Draft<'f>>,
    all: &BTreeSet<&str>,
    in_force: &Ruleset,
    options: &Options,
) -> Plan<'f> {
    let mut making = Making {
        all,
        in_force,
        options,
        by_content: BTreeMap::new(),
        by_user: by_user(&drafts),
        taken: Given {
            // What these words mean in a rule is no service.
            names: ["any", "world", "unattributed"].map(str::to_owned).into(),
            next: BTreeMap::new(),
        },
        rule_names: Given::default(),
        plan: Plan::default(),
    };
    for draft in drafts {
        making.rule(draft);
    }
    let mut plan = making.plan;
    plan.rules.sort_by(|a, b| a.name.cmp(&b.name));
    plan
}

struct Making<'a, 'f> {
    all: &'a BTreeSet<&'a str>,
    in_force: &'a Ruleset,
    options: &'a Options,
    by_content: BTreeMap<Service<'f>, String>,
    /// Programs that only their users tell apart.
    by_user: BTreeSet<(Option<&'f str>, Container)>,
    taken: Given,
    rule_names: Given,
    plan: Plan<'f>,
}

impl<'f> Making<'_, 'f> {
    fn rule(&mut self, draft: Draft<'f>) {
        let mut generalised = Vec::new();
        let (listens, why) = listens(&draft);
        generalised.extend(why);
        let is_outside = |places: &BTreeSet<Place<'f>>| matches!(places.first(), Some(Place::Outside(_)));
        let to_outside = is_outside(&draft.to);
        let from = self.peers(&draft, Side::From, None, &mut generalised);
        let of_service = Some(listens.clone()).filter(|_| !to_outside);
        let to = self.peers(&draft, Side::To, of_service, &mut generalised);
        let (client, server) = (self.called(&from), self.called(&to));
        let mut name = format!("{client}-to-{server}");
        if to_outside {
            name += &suffix(&listens);
        }
        let mut totals = FlowTotals::default();
        draft.samples.iter().for_each(|sample| totals.add(sample.totals));
        let mut samples = draft.samples;
        samples.sort_by(|a, b| (Reverse(a.totals.flows), a.name).cmp(&(Reverse(b.totals.flows), b.name)));
        generalised.extend(script(&draft.client, &samples));
        let count = |places: &BTreeSet<Place<'f>>| places.len() as u64;
        self.plan.rules.push(Named {
            name: self.rule_names.unused(&name),
            from,
            to,
            listens: Some(listens).filter(|_| to_outside),
            totals,
            pairs: count(&draft.from) * count(&draft.to),
            pairs_seen: draft.pairs.len() as u64,
            generalised,
            examples: samples.iter().take(EXAMPLES).map(example).collect(),
        });
    }

    /// One end of a rule.
    fn peers(
        &mut self,
        draft: &Draft<'f>,
        side: Side,
        listens: Option<(Protocol, Vec<PortRange>)>,
        generalised: &mut Vec<String>,
    ) -> Vec<Peer> {
        let (places, who) = match side {
            Side::From => (&draft.from, &draft.client),
            Side::To => (&draft.to, &draft.server),
        };
        let mut guests = BTreeSet::new();
        let mut outside = BTreeSet::new();
        for place in places {
            match place {
                Place::Guest(guest) => guests.insert(*guest),
                Place::Outside(block) => outside.insert(*block),
            };
        }
        let mut peers = Vec::new();
        if !outside.is_empty() {
            let (blocks, wider) = blocks::cover(&outside, draft.exact, self.options);
            if wider {
                generalised.push(format!(
                    "{} addresses outside as {} blocks, none wider than asked for",
                    outside.len(),
                    blocks.len()
                ));
            }
            peers.extend(blocks.chunks(MAX_LIST).map(|part| Peer::Addresses(part.to_vec())));
        }
        let vms = self.vms(&guests, draft.exact, generalised);
        for part in vms.chunks(MAX_LIST) {
            let service = Service {
                vms: part.to_vec(),
                who: who.clone(),
                listens: listens.clone(),
            };
            peers.push(Peer::Service(self.service(service, &guests, draft, side)));
        }
        peers
    }

    /// Guests as patterns: one for all where they are all that it matches.
    fn vms(&self, guests: &BTreeSet<&'f str>, exact: bool, generalised: &mut Vec<String>) -> Vec<String> {
        let list = || guests.iter().map(|guest| yaml::guest(guest)).collect();
        let stems: BTreeSet<&str> = guests.iter().map(|guest| stem(guest)).collect();
        let (Some(one), 2..) = (stems.first().filter(|_| stems.len() == 1), guests.len()) else {
            return list();
        };
        let pattern = format!("{}*", yaml::guest(one));
        let others = |pattern: Pattern| {
            let mut matched = self.all.iter().filter(|guest| pattern.matches(guest));
            matched.any(|guest| !guests.contains(guest))
        };
        if exact || pattern.parse().map_or(true, others) {
            return list();
        }
        generalised.push(format!(
            "domains {pattern}: {} do this, and no other has such a name",
            guests.len()
        ));
        vec![pattern]
    }

    /// The name of a service, which is made if it is not there.
    fn service(
        &mut self,
        service: Service<'f>,
        guests: &BTreeSet<&'f str>,
        draft: &Draft<'f>,
        side: Side,
    ) -> String {
        if let Some(name) = self.by_content.get(&service) {
            return name.clone();
        }
        let name = self
            .known_as(draft, side)
            .unwrap_or_else(|| described(&service, guests, &self.by_user));
        let name = self.taken.unused(&name);
        self.by_content.insert(service.clone(), name.clone());
        self.plan.services.insert(name.clone(), service);
        name
    }

    /// The service of the policy in force that all of its ends are of.
    fn known_as(&self, draft: &Draft<'f>, side: Side) -> Option<String> {
        let of = |sample: &Sample<'f>| -> BTreeSet<(bool, String)> {
            let name = sample.name;
            let (end, listens): (&FlowEnd, _) = match side {
                Side::From => (&name.from, None),
                Side::To => (&name.to, name.port.map(|port| (draft.protocol, port))),
            };
            let end = End::of(end).map(|end| end.known(|vm| self.in_force.known(&vm)));
            let Some(end) = end else {
                return BTreeSet::new();
            };
            let identity = self.in_force.identity(&end.endpoint(), listens);
            let mine = |s: policy::ServiceName| (s.set != self.options.name, s.name);
            identity.services.into_iter().map(mine).collect()
        };
        let mut samples = draft.samples.iter().take(ASKED);
        let first = of(samples.next()?);
        let common = samples.fold(first, |common, sample| &common & &of(sample));
        let plain = |name: &str| !name.contains('@') && !self.taken.names.contains(name);
        common.into_iter().map(|(_, name)| name).find(|name| plain(name))
    }

    fn called(&self, peers: &[Peer]) -> String {
        match peers.first() {
            Some(Peer::Service(name)) => name.clone(),
            _ => "outside".to_owned(),
        }
    }
}

#[derive(Clone, Copy)]
enum Side {
    From,
    To,
}

fn listens(draft: &Draft<'_>) -> ((Protocol, Vec<PortRange>), Option<String>) {
    if !draft.protocol.has_ports() {
        return ((draft.protocol, Vec::new()), None);
    }
    let mut singles = BTreeSet::new();
    let (mut ranges, mut why) = (Vec::new(), Vec::new());
    for (class, seen) in &draft.ports {
        if let ports::Class::Port(_) = class {
            singles.extend(seen);
            continue;
        }
        let (written, reason) = ports::written(*class, seen, &draft.all_ports);
        ranges.extend(written);
        why.extend(reason);
    }
    ranges.extend(ports::runs(&singles));
    ranges.sort_by_key(|range| range.first());
    let ranges = match ranges.len() > MAX_LIST {
        // A list has no room for them: from the first to the last.
        true => PortRange::new(
            ranges.iter().map(|r| r.first()).min().unwrap_or(1),
            ranges.iter().map(|r| r.last()).max().unwrap_or(u16::MAX),
        )
        .into_iter()
        .collect(),
        false => ranges,
    };
    (
        (draft.protocol, ranges),
        (!why.is_empty()).then(|| why.join("; ")),
    )
}

/// Executables whose users are asked for, not everywhere the same.
fn by_user<'f>(drafts: &[Draft<'f>]) -> BTreeSet<(Option<&'f str>, Container)> {
    let mut users: BTreeMap<_, BTreeSet<&[u32]>> = BTreeMap::new();
    for program in drafts
        .iter()
        .flat_map(|draft| [&draft.client, &draft.server])
        .flatten()
    {
        let of = users.entry((program.exe, program.container)).or_default();
        of.insert(&program.uids);
    }
    users.retain(|_, uids| uids.len() > 1);
    users.into_keys().collect()
}

/// `tcp-443`, for names.
fn suffix((protocol, ranges): &(Protocol, Vec<PortRange>)) -> String {
    match ranges.first() {
        Some(first) => format!("-{protocol}-{}", first.first()),
        None => format!("-{protocol}"),
    }
}

/// `web-curl`, `db1-tcp-80`.
fn described(
    service: &Service<'_>,
    guests: &BTreeSet<&str>,
    by_user: &BTreeSet<(Option<&str>, Container)>,
) -> String {
    let stems: BTreeSet<&str> = guests.iter().map(|guest| stem(guest)).collect();
    let mut name = match (guests.first(), stems.first()) {
        (Some(guest), _) if guests.len() == 1 => (*guest).to_owned(),
        (Some(_), Some(stem)) if stems.len() == 1 => stem.trim_end_matches(['-', '_', '.']).to_owned(),
        (Some(guest), _) => format!("{guest}-and-others"),
        (None, _) => "outside".to_owned(),
    };
    match (&service.who, &service.listens) {
        (Some(program), _) => {
            let exe = program
                .exe
                .and_then(|exe| exe.rsplit('/').find(|part| !part.is_empty()));
            name += &format!("-{}", exe.unwrap_or("unnamed"));
            match program.container {
                Container::Inside => name += "-contained",
                Container::Outside | Container::Either => {}
            }
            if by_user.contains(&(program.exe, program.container))
                && let [uid, ..] = program.uids.as_slice()
            {
                name += &format!("-uid-{uid}");
            }
        }
        (None, Some(listens)) => name += &suffix(listens),
        (None, None) => {}
    }
    name
}

/// Names that are given, and the next number for each that was wanted more than once.
#[derive(Debug, Default)]
struct Given {
    names: BTreeSet<String>,
    next: BTreeMap<String, u64>,
}

impl Given {
    /// The name in letters that a document takes, with a number where it is given already.
    fn unused(&mut self, name: &str) -> String {
        let plain = |c: char| match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9') => c,
            _ => '-',
        };
        let name: String = name.chars().map(plain).take(LONGEST).collect();
        let name = match name.trim_matches('-') {
            "" => "unnamed",
            name => name,
        };
        let mut candidate = name.to_owned();
        let next = self.next.entry(name.to_owned()).or_insert(2);
        while !self.names.insert(candidate.clone()) {
            let end = format!("-{next}");
            // All ASCII by now.
            let keep = name.len().min(LONGEST - end.len());
            candidate = format!("{}{end}", &name[..keep]);
            *next += 1;
        }
        candidate
    }
}

fn example(sample: &Sample<'_>) -> String {
    let name = sample.name;
    let user = match name.from.uid {
        Some(uid) => format!(" (uid {uid})"),
        None => String::new(),
    };
    let port = match name.port {
        Some(0) => name.protocol.clone(),
        Some(port) => format!("{}/{port}", name.protocol),
        None => format!("{}/many", name.protocol),
    };
    let (from, to, flows) = (name.from.label(), name.to.label(), sample.totals.flows);
    format!("{from}{user} -> {to} {port}: {flows} flows")
}

/// An interpreter is as wide as what it may be told.
fn script(client: &Who<'_>, samples: &[Sample<'_>]) -> Option<String> {
    let exe = client.as_ref()?.exe?;
    let base = exe.rsplit('/').next()?;
    let base = base.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    if !INTERPRETERS.contains(&base) {
        return None;
    }
    let seen = samples.iter().find_map(|sample| sample.name.from.args.as_ref());
    let seen = match seen {
        Some(args) => format!("; seen as `{}`", args.join(" ")),
        None => String::new(),
    };
    Some(format!(
        "any script that {exe} is given{seen}: `arg` in the service narrows it"
    ))
}
