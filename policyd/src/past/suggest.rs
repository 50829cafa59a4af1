// SPDX-License-Identifier: GPL-3.0-only
//! What flows of the past say about policy.

use std::collections::BTreeMap;
use std::sync::TryLockError;

use policy::Document;
use policy::pattern::Pattern;
use policyd_advice::Guest;
use policyd_advice::suggest::{Options, suggest};
use policyd_advice::usage::usage;
use policyd_api as api;

use super::{LOOK_BACK, PastFlows, REPLAY_BACK, span};
use crate::daemon::DaemonError;
use crate::differences::Tally;
use crate::world::World;

/// Changes of a set that are looked at, to tell since when a rule is there.
const CHANGES: usize = 32;
/// Patterns in a question.
const PATTERNS: usize = 100;

impl PastFlows {
    /// `GET /v1/suggest`. One at a time: it takes seconds of a processor where the history is long.
    pub fn suggest(&self, query: &api::SuggestQuery) -> Result<api::Suggested, DaemonError> {
        let store = self.store()?;
        let options = options(query)?;
        let (since, until) = span(query.since, query.until, LOOK_BACK)?;
        let (tried, tried_until) = span(query.tried, None, REPLAY_BACK)?;
        let _one = match self.suggesting.try_lock() {
            Ok(one) => one,
            Err(TryLockError::WouldBlock) => {
                let why = "another suggestion is being worked out; ask again in some seconds";
                return Err(DaemonError::Unavailable(why.into()));
            }
            // It protects nothing but the processor.
            Err(TryLockError::Poisoned(one)) => one.into_inner(),
        };
        let world = self.world.load_full();
        let guests = guests(&world);
        let past = store.past(since, until, |_| true)?;
        let suggestion = suggest(
            &past.flows,
            (past.since, past.until),
            &guests,
            &world.rules,
            &options,
        )
        .map_err(|e| DaemonError::Invalid(e.to_string()))?;
        let source = api::SourceText {
            file: format!("{}.yaml", options.name),
            text: suggestion.text.clone(),
        };
        let candidate = self.control.compile(&[source])?;
        let (earlier, tally) = Tally::of_past(store, tried, tried_until, &candidate)?;
        let effect = tally.differences(Some(&self.in_force()));
        let documents = self.documents()?;
        let mut usage = usage(&documents, &world.rules, &past.flows, &guests);
        self.date(&documents, &mut usage.unused)?;
        Ok(api::Suggested {
            since: past.since,
            until: past.until,
            suggestion,
            tried: earlier.since,
            effect,
            usage,
        })
    }

    /// The sets in force. One that is not valid any more is not in force.
    fn documents(&self) -> Result<Vec<Document>, DaemonError> {
        let texts = self.control.texts()?;
        let parsed = texts
            .iter()
            .filter_map(|source| Document::parse(&source.file, &source.text).ok());
        Ok(parsed.collect())
    }

    /// Tells since when rules are there, as far as the history of policy has it.
    fn date(&self, documents: &[Document], unused: &mut [api::UnusedRule]) -> Result<(), DaemonError> {
        let mut by_set: BTreeMap<String, Vec<&mut api::UnusedRule>> = BTreeMap::new();
        for rule in unused {
            let (set, _) = rule.rule.split_once('/').unwrap_or((&rule.rule, ""));
            by_set.entry(set.to_owned()).or_default().push(rule);
        }
        for (set, mut rules) in by_set {
            let Some(now) = documents.iter().find(|document| document.name() == set) else {
                continue;
            };
            let page = self.control.history(&api::PageQuery {
                limit: Some(CHANGES),
                set: Some(set.clone()),
                ..api::PageQuery::default()
            })?;
            let mut began = false;
            for generation in &page.generations {
                let texts = self.control.sets_at(generation.generation)?.sets;
                let then = texts.get(&set).and_then(|text| Document::parse(&set, text).ok());
                // Those that were not there yet, or were others, came with a change that was looked at already.
                rules.retain(|rule| {
                    let name = rule.rule.split_once('/').map_or("", |(_, name)| name);
                    let of =
                        |document: &Document| document.rules().iter().find(|rule| rule.name == name).cloned();
                    then.as_ref().and_then(of) == of(now)
                });
                for rule in &mut rules {
                    rule.in_force_since = Some(generation.time_ns / 1_000_000_000);
                }
                let edit = generation.edits.iter().find(|edit| edit.set == set);
                began = edit.is_some_and(|edit| edit.before.is_none());
                if began || rules.is_empty() {
                    break;
                }
            }
            for rule in &mut rules {
                rule.or_longer = !began;
            }
        }
        Ok(())
    }
}

fn guests(world: &World) -> Vec<Guest> {
    let guest = |vm: &crate::world::Vm| Guest {
        name: vm.id.name.clone(),
        uuid: vm.id.uuid,
        facts: std::sync::Arc::clone(&vm.id.facts),
        sighted: !vm.opaque,
    };
    world.vms().iter().map(guest).collect()
}

fn options(query: &api::SuggestQuery) -> Result<Options, DaemonError> {
    let usual = Options::default();
    let words = query.vm.as_deref().unwrap_or_default().split(',');
    let pattern = |text: &str| {
        text.parse::<Pattern>()
            .map_err(|e| DaemonError::Invalid(format!("`{text}`: {e}")))
    };
    let vms: Vec<Pattern> = words
        .filter(|word| !word.is_empty())
        .map(pattern)
        .collect::<Result<_, _>>()?;
    if vms.len() > PATTERNS {
        return Err(DaemonError::Invalid(format!(
            "{} patterns of domains, the limit is {PATTERNS}; write fewer that match more",
            vms.len()
        )));
    }
    let prefix = |asked: Option<u8>, usual: u8, most: u8| match asked.unwrap_or(usual) {
        n if n <= most => Ok(n),
        n => Err(DaemonError::Invalid(format!(
            "a prefix has 0 to {most} bits, not {n}"
        ))),
    };
    Ok(Options {
        name: query.name.clone().unwrap_or(usual.name),
        vms,
        exact: query.exact.unwrap_or_default(),
        unknown: query.unknown.unwrap_or_default(),
        widest: (
            prefix(query.widest, usual.widest.0, 32)?,
            prefix(query.widest6, usual.widest.1, 128)?,
        ),
    })
}
