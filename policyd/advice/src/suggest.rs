// SPDX-License-Identifier: GPL-3.0-only
//! The least policy that allows what was seen.
//!
//! 1. [`seen`]: flows are sorted into those to learn from, those that were refused, and those that no rule should allow.
//! 2. [`programs`]: a program is its executable; its users and whether it runs in a container count where they make a difference.
//! 3. [`merge`]: flows alike become drafts of rules: from these programs in these guests to those programs on those ports.
//! 4. [`write`]: the drafts become a document.
//! 5. What was refused is tried on that document. Where it would pass, the guests it was between are taken again, with nothing generalised.

mod blocks;
mod merge;
mod names;
mod ports;
mod programs;
mod seen;
mod write;
mod yaml;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use policy::document::{MAX_RULES, MAX_TEXT};
use policy::pattern::Pattern;
use policy::{Block, Document, Problems, Protocol, Ruleset};
use policyd_api::{FlowName, FlowTotals, LeftOut, PastFlow, Suggestion, Verdict};

use crate::{Candidate, Guest};
use seen::Sorted;

/// Kinds of flow in each list of a suggestion.
const LISTED: usize = 1000;

/// After so many tries no guest is generalised any more, where something that was refused would pass still.
const TRIES: usize = 3;

/// How to learn.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of the set.
    pub name: String,
    /// Patterns of the guests to cover; none: all that have flows.
    pub vms: Vec<Pattern>,
    /// Generalise nothing.
    pub exact: bool,
    /// Allow by guest and port also what no program was seen for in a guest whose programs can be seen.
    pub unknown: bool,
    /// The shortest prefix of a block of addresses outside: of IPv4, 0 to 32, and of IPv6, 0 to 128.
    pub widest: (u8, u8),
}

impl Default for Options {
    fn default() -> Options {
        Options {
            name: "suggested".into(),
            vms: Vec::new(),
            exact: false,
            unknown: false,
            widest: (24, 48),
        }
    }
}

impl Options {
    fn covers(&self, guest: &str) -> bool {
        self.vms.is_empty() || self.vms.iter().any(|pattern| pattern.matches(guest))
    }

    /// The shortest prefix that a block of this address may have.
    fn shortest(&self, address: IpAddr) -> u8 {
        match address {
            IpAddr::V4(_) => self.widest.0,
            IpAddr::V6(_) => self.widest.1,
        }
    }
}

/// Why there is no suggestion.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SuggestError {
    /// More than a document may have.
    #[error(
        "what was seen makes {what}, and a policy has at most {most}; cover fewer domains (--vm), or look at less time"
    )]
    TooMuch {
        /// How much it makes.
        what: String,
        /// How much there may be.
        most: usize,
    },
    /// The name of the set is none that a set can have.
    #[error("{0}")]
    Invalid(Problems),
}

/// An end of a flow: a guest, by name, or addresses outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Place<'f> {
    Guest(&'f str),
    Outside(Block),
}

/// What a program is known by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Program<'f> {
    exe: Option<&'f str>,
    /// Empty: of any user.
    uids: Vec<u32>,
    container: Container,
}

/// Whether a program runs in a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Container {
    Either,
    Outside,
    Inside,
}

/// A program, or any, known or not.
type Who<'f> = Option<Program<'f>>;

/// Flows that were counted together.
#[derive(Debug, Clone, Copy)]
struct Sample<'f> {
    name: &'f FlowName,
    totals: &'f FlowTotals,
}

impl Sample<'_> {
    fn past(&self) -> PastFlow {
        PastFlow {
            name: self.name.clone(),
            totals: *self.totals,
        }
    }
}

/// Learns from the flows of some time. `since`, `until`: which, seconds since 1970. `in_force`: its services give theirs their names.
///
/// The document parses and compiles, alone and beside any sets but one of its name.
///
/// # Errors
/// More than fits in a document; a name that no set can have.
pub fn suggest(
    flows: &[(Arc<FlowName>, FlowTotals)],
    (since, until): (u64, u64),
    guests: &[Guest],
    in_force: &Ruleset,
    options: &Options,
) -> Result<Suggestion, SuggestError> {
    let mut samples: Vec<Sample<'_>> = flows
        .iter()
        .map(|(name, totals)| Sample { name, totals })
        .collect();
    // The same flows in another order make the same document.
    samples.sort_by(|a, b| a.name.cmp(b.name));
    let sorted = seen::sort(&samples, guests, options);
    let mut barred = BTreeSet::new();
    let mut written;
    let mut tries = 0;
    loop {
        written = learn(&sorted, &barred, (since, until), guests, in_force, options)?;
        let before = barred.len();
        for sample in &written.opened {
            barred.extend(sample.name.from.domain.as_deref());
            barred.extend(sample.name.to.domain.as_deref());
        }
        tries += 1;
        if tries == TRIES && !written.opened.is_empty() {
            barred.extend(&sorted.guests);
        }
        // Guests only join, so this ends; once they have, what is left no rule can tell apart.
        if barred.len() == before {
            break;
        }
    }
    let mut unlisted = 0;
    let mut listed = |samples: Vec<Sample<'_>>| {
        unlisted += samples.len().saturating_sub(LISTED);
        let shown = samples.iter().take(LISTED).map(Sample::past);
        shown.collect::<Vec<_>>()
    };
    let (refused, assumed) = (listed(by_flows(sorted.refused)), listed(by_flows(sorted.assumed)));
    let opened = listed(written.opened);
    let mut left_out = sorted.left_out;
    left_out.sort_by_key(|(sample, _)| Reverse(sample.totals.flows));
    unlisted += left_out.len().saturating_sub(LISTED);
    Ok(Suggestion {
        name: options.name.clone(),
        text: written.text,
        flows: sorted.taken.iter().map(|taken| taken.sample.totals.flows).sum(),
        covered: written.covered,
        rules: written.rules,
        refused,
        left_out: left_out
            .into_iter()
            .take(LISTED)
            .map(|(sample, why)| LeftOut {
                flow: sample.past(),
                why,
            })
            .collect(),
        assumed,
        opened,
        unlisted,
    })
}

struct Learned<'f> {
    text: String,
    covered: Vec<String>,
    rules: Vec<policyd_api::SuggestedRule>,
    opened: Vec<Sample<'f>>,
}

/// One try. `barred`: guests of which nothing is to be generalised.
fn learn<'f>(
    sorted: &Sorted<'f>,
    barred: &BTreeSet<&'f str>,
    span: (u64, u64),
    guests: &[Guest],
    in_force: &Ruleset,
    options: &Options,
) -> Result<Learned<'f>, SuggestError> {
    let edges = programs::edges(sorted, barred, options);
    let drafts = merge::drafts(edges, barred, options);
    if drafts.len() > MAX_RULES {
        return Err(SuggestError::TooMuch {
            what: format!("{} rules", drafts.len()),
            most: MAX_RULES,
        });
    }
    let covered = covered(sorted, guests, options);
    let all = all_guests(sorted, guests);
    let plan = names::plan(drafts, &all, in_force, options);
    let mut whole = write::Whole {
        options,
        span,
        sorted,
        covered: &covered,
        plan: &plan,
        opened: &[],
    };
    let (document, _) = whole.document()?;
    let rules = Ruleset::compile(std::slice::from_ref(&document), 1).map_err(SuggestError::Invalid)?;
    let candidate = Candidate::new(rules.into(), std::iter::once(&document));
    let allows = |name: &FlowName| {
        let judged = candidate.judge(name);
        judged.is_some_and(|judged| judged.verdict == Verdict::Allow)
    };
    let passes = |sample: &Sample<'_>| match sample.name.port {
        Some(_) => allows(sample.name),
        // Many ports, that the history does not tell apart: what allows a wide range allows some of these.
        None => SOME_PORTS.into_iter().any(|port| {
            allows(&FlowName {
                port: Some(port),
                ..sample.name.clone()
            })
        }),
    };
    let in_scope = |sample: &Sample<'_>| {
        let ends = [&sample.name.from.domain, &sample.name.to.domain];
        ends.into_iter().flatten().any(|guest| covered.contains(guest))
    };
    let refused = sorted.refused.iter().copied();
    let opened = by_flows(
        refused
            .filter(|sample| in_scope(sample) && passes(sample))
            .collect(),
    );
    whole.opened = &opened;
    let (_, text) = whole.document()?;
    Ok(Learned {
        text,
        rules: plan.rules.iter().map(names::Named::told).collect(),
        covered,
        opened,
    })
}

/// Guests whose default becomes deny: those asked for by pattern that have flows, and those asked for by name.
fn covered(sorted: &Sorted<'_>, guests: &[Guest], options: &Options) -> Vec<String> {
    let named = options.vms.iter().filter_map(|pattern| pattern.exact());
    let known: BTreeSet<&str> = all_guests(sorted, guests);
    let named = named.filter(|name| known.contains(name));
    let seen = sorted
        .guests
        .iter()
        .copied()
        .filter(|guest| options.covers(guest));
    let all: BTreeSet<&str> = seen.chain(named).collect();
    all.into_iter().map(str::to_owned).collect()
}

/// All guests that there are, or were.
fn all_guests<'a>(sorted: &Sorted<'a>, guests: &'a [Guest]) -> BTreeSet<&'a str> {
    let there = guests.iter().map(|guest| guest.name.as_str());
    there.chain(sorted.guests.iter().copied()).collect()
}

fn by_flows(mut samples: Vec<Sample<'_>>) -> Vec<Sample<'_>> {
    samples.sort_by(|a, b| (Reverse(a.totals.flows), a.name).cmp(&(Reverse(b.totals.flows), b.name)));
    samples
}

/// A document that is too long for one, by its text.
fn fits(text: &str) -> Result<(), SuggestError> {
    match text.len() {
        0..=MAX_TEXT => Ok(()),
        n => Err(SuggestError::TooMuch {
            what: format!("a document of {n} bytes"),
            most: MAX_TEXT,
        }),
    }
}

fn parse(options: &Options, text: &str) -> Result<Document, SuggestError> {
    fits(text)?;
    Document::parse(&format!("{}.yaml", options.name), text).map_err(SuggestError::Invalid)
}

/// Whether a process is known of the ends of a flow of this protocol, before its first packet is decided.
fn has_processes(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::TCP | Protocol::UDP)
}

/// Ports that stand for all: from each part of their range.
const SOME_PORTS: [u16; 4] = [1, 1024, 32_768, u16::MAX];

/// A map of lists.
type Groups<K, V> = BTreeMap<K, Vec<V>>;

#[cfg(test)]
mod tests;
