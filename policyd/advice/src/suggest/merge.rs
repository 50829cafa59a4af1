// SPDX-License-Identifier: GPL-3.0-only
//! From flows to drafts of rules.
//!
//! Guests whose names differ by the digits at their end (web1, web2) are *replicas* of one another in a thing that they do if they do it with
//! the same program, and share somebody they do it with. So web1 and web2 that both reach cache1, and one of them cache2, are
//! allowed to reach both; web1 that reaches db1, and web2 that reaches db2, are not allowed to reach the other's. Of guests that are
//! barred, and where all is to be exact, only those go together that did it with just the same ones: then each pair that is allowed was seen.

use std::collections::{BTreeMap, BTreeSet};

use policy::Protocol;

use super::ports::{Class, Seen};
use super::programs::Edge;
use super::{Options, Place, Sample, Who};

/// A rule to be.
#[derive(Debug, Clone)]
pub struct Draft<'f> {
    pub client: Who<'f>,
    pub from: BTreeSet<Place<'f>>,
    pub server: Who<'f>,
    pub to: BTreeSet<Place<'f>>,
    pub protocol: Protocol,
    /// By class those that were seen.
    pub ports: BTreeMap<Class, BTreeSet<u16>>,
    /// All ports that were seen of the same programs.
    pub all_ports: Seen,
    /// Nothing is to be generalised.
    pub exact: bool,
    pub samples: Vec<Sample<'f>>,
    /// Pairs of ends that were seen.
    pub pairs: BTreeSet<(Place<'f>, Place<'f>)>,
}

/// What edges of one group have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Alike<'f> {
    client: Who<'f>,
    from: Option<&'f str>,
    server: Who<'f>,
    to: Option<&'f str>,
    protocol: Protocol,
    exact: bool,
}

type Pairs<'f> = BTreeMap<(Place<'f>, Place<'f>), Vec<Sample<'f>>>;

/// Drafts that allow the flows. Of a barred guest nothing is generalised.
pub fn drafts<'f>(edges: Vec<Edge<'f>>, barred: &BTreeSet<&'f str>, options: &Options) -> Vec<Draft<'f>> {
    let is_barred = |place: Place<'f>| matches!(place, Place::Guest(guest) if barred.contains(guest));
    let mut groups: BTreeMap<Alike<'f>, Vec<Edge<'f>>> = BTreeMap::new();
    for edge in edges {
        let exact = options.exact || is_barred(edge.from) || is_barred(edge.to);
        let alike = Alike {
            client: edge.client.clone(),
            from: kin(edge.from, exact),
            server: edge.server.clone(),
            to: kin(edge.to, exact),
            protocol: edge.protocol,
            exact,
        };
        groups.entry(alike).or_default().push(edge);
    }
    groups
        .into_iter()
        .flat_map(|(alike, edges)| of_group(&alike, edges))
        .collect()
}

/// By what replicas are known; none: an end outside.
fn kin<'f>(place: Place<'f>, exact: bool) -> Option<&'f str> {
    match place {
        Place::Guest(guest) if exact => Some(guest),
        Place::Guest(guest) => Some(stem(guest)),
        Place::Outside(_) => None,
    }
}

/// A guest's name without the digits at its end, unless nothing else is left.
pub fn stem(guest: &str) -> &str {
    match guest.trim_end_matches(|c: char| c.is_ascii_digit()) {
        "" => guest,
        stem => stem,
    }
}

fn of_group<'f>(alike: &Alike<'f>, edges: Vec<Edge<'f>>) -> Vec<Draft<'f>> {
    let mut all_ports = Seen::default();
    edges.iter().for_each(|edge| all_ports.add(edge.port));
    let mut classes: BTreeMap<Class, (BTreeSet<u16>, Pairs<'f>)> = BTreeMap::new();
    for edge in edges {
        let class = all_ports.class(edge.port, alike.exact);
        let (ports, pairs) = classes.entry(class).or_default();
        ports.extend(edge.port);
        pairs.entry((edge.from, edge.to)).or_default().push(edge.sample);
    }
    // Ports that the same ends use are one rule.
    let mut drafts: BTreeMap<(BTreeSet<Place<'f>>, BTreeSet<Place<'f>>), Draft<'f>> = BTreeMap::new();
    for (class, (ports, pairs)) in classes {
        for part in parts(alike, pairs) {
            let from: BTreeSet<Place<'f>> = part.keys().map(|(from, _)| *from).collect();
            let to: BTreeSet<Place<'f>> = part.keys().map(|(_, to)| *to).collect();
            let draft = drafts.entry((from.clone(), to.clone())).or_insert_with(|| Draft {
                client: alike.client.clone(),
                from,
                server: alike.server.clone(),
                to,
                protocol: alike.protocol,
                ports: BTreeMap::new(),
                all_ports: all_ports.clone(),
                exact: alike.exact,
                samples: Vec::new(),
                pairs: BTreeSet::new(),
            });
            draft.ports.entry(class).or_default().extend(&ports);
            for (pair, samples) in part {
                draft.pairs.insert(pair);
                draft.samples.extend(samples);
            }
        }
    }
    drafts.into_values().collect()
}

/// The pairs that go into one rule each.
fn parts<'f>(alike: &Alike<'f>, pairs: Pairs<'f>) -> Vec<Pairs<'f>> {
    match (alike.exact, alike.from, alike.to) {
        (true, ..) => rows(pairs),
        (false, Some(_), Some(_)) => components(pairs),
        // Addresses outside come and go: they are those of the program, whichever replica met them.
        (false, ..) => vec![pairs],
    }
}

/// Sources with just the same destinations go together.
fn rows(pairs: Pairs<'_>) -> Vec<Pairs<'_>> {
    let mut of: BTreeMap<Place<'_>, BTreeSet<Place<'_>>> = BTreeMap::new();
    for (from, to) in pairs.keys() {
        of.entry(*from).or_default().insert(*to);
    }
    let mut parts: BTreeMap<BTreeSet<Place<'_>>, Pairs<'_>> = BTreeMap::new();
    for ((from, to), samples) in pairs {
        let row = of.get(&from).cloned().unwrap_or_default();
        parts.entry(row).or_default().insert((from, to), samples);
    }
    parts.into_values().collect()
}

/// What hangs together goes together.
fn components(pairs: Pairs<'_>) -> Vec<Pairs<'_>> {
    let mut left: Vec<((Place<'_>, Place<'_>), Vec<Sample<'_>>)> = pairs.into_iter().collect();
    let mut parts = Vec::new();
    while let Some((first, samples)) = left.pop() {
        let (mut sources, mut targets) = (BTreeSet::from([first.0]), BTreeSet::from([first.1]));
        let mut part = Pairs::from([(first, samples)]);
        loop {
            let before = part.len();
            let (near, rest): (Vec<_>, Vec<_>) = left
                .into_iter()
                .partition(|((from, to), _)| sources.contains(from) || targets.contains(to));
            left = rest;
            for ((from, to), samples) in near {
                sources.insert(from);
                targets.insert(to);
                part.insert((from, to), samples);
            }
            if part.len() == before {
                break;
            }
        }
        parts.push(part);
    }
    // In the order of what is in them.
    parts.sort_by(|a, b| a.keys().cmp(b.keys()));
    parts
}
