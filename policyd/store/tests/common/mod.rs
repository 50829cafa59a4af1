// SPDX-License-Identifier: GPL-3.0-only
//! Changes that are known by their number, and what the store must hold after each.
#![allow(dead_code)]

use std::collections::BTreeMap;

use policyd_api::chain::{Attempt, Outcome};
use policyd_api::{Action, Author};
use policyd_store::{Change, Config, Store};

/// Little is kept, so that pruning is part of every test.
pub fn config() -> Config {
    Config {
        generations: 40,
        audit: 200,
        exports: 3,
        reserve: 4 << 20,
        ballast: 1 << 20,
    }
}

pub fn author() -> Author {
    Author {
        uid: 0,
        name: Some("root".into()),
    }
}

/// The text of a set at a generation: some kilobytes, that differ by a line or two.
pub fn text(set: u64, generation: u64) -> String {
    let mut text = format!("policy: s{set}\n# generation {generation}\n");
    for line in 0..40 + 100 * set {
        text.push_str(&format!("# line {line} of set {set}\n"));
    }
    text
}

/// The edits of the change that makes a generation.
pub fn edits(generation: u64) -> Vec<(String, Option<(String, String)>)> {
    let one = |set: u64| {
        let version = (format!("s{set}.yaml"), text(set, generation));
        (format!("s{set}"), Some(version))
    };
    match generation % 6 {
        0 => vec![("s1".into(), None)],
        5 => vec![one(1), one(2), one(3)],
        n => vec![one(n % 4)],
    }
}

pub fn change(generation: u64) -> Change {
    Change {
        generation,
        time_ns: generation,
        by: author(),
        action: Action::Apply,
        to: None,
        message: Some(format!("change {generation}")),
        what: format!("sets of {generation}"),
        edits: edits(generation),
        continues: None,
        stage: None,
    }
}

pub fn refusal(why: &str) -> Attempt {
    Attempt {
        time_ns: 1,
        by: author(),
        action: Action::Delete,
        what: "nothing".into(),
        message: None,
        outcome: Outcome::Refused { why: why.into() },
        edits: Vec::new(),
    }
}

/// The sets after a generation, by name.
pub fn model(generation: u64) -> BTreeMap<String, String> {
    let mut sets = BTreeMap::new();
    // Every set is changed once in six generations.
    for generation in generation.saturating_sub(11).max(1)..=generation {
        for (set, after) in edits(generation) {
            match after {
                Some((_, text)) => sets.insert(set, text),
                None => sets.remove(&set),
            };
        }
    }
    sets
}

/// Whether all of the store fits its generation. Returns that.
pub fn check(store: &Store) -> u64 {
    let (generation, sets) = store.sets().expect("the sets are readable");
    let sets: BTreeMap<String, String> = sets.into_iter().map(|(name, set)| (name, set.text)).collect();
    assert!(
        sets == model(generation),
        "the sets are not those of generation {generation}"
    );
    let (history, oldest) = store.history(u64::MAX, usize::MAX, None).expect("history");
    let numbers: Vec<u64> = history.iter().map(|g| g.generation).collect();
    let kept = generation.min(config().generations as u64);
    let wanted: Vec<u64> = (generation - kept + 1..=generation).rev().collect();
    assert_eq!(numbers, wanted, "the history has a gap");
    for entry in &history {
        assert_eq!(entry.message, Some(format!("change {}", entry.generation)));
        assert_eq!(entry.edits.len(), edits(entry.generation).len());
    }
    for at in [oldest, generation.midpoint(oldest)] {
        let then: BTreeMap<String, String> = store
            .sets_at(at)
            .expect("the sets of then")
            .into_iter()
            .map(|(set, _, text)| (set, text))
            .collect();
        assert!(
            then == model(at),
            "the sets of generation {at} are not what they were"
        );
    }
    let chain = store.chain().expect("the audit log");
    chain.verify().expect("whole");
    // Each generation was stored once more than it was taken back.
    if chain.base.seq == 0 {
        for wanted in 1..=generation {
            let count = |stored: bool| {
                let of = |e: &&policyd_api::chain::AuditEntry| match e.attempt.outcome {
                    Outcome::Stored { generation } => stored && generation == wanted,
                    Outcome::Withdrawn { generation, .. } => !stored && generation == wanted,
                    Outcome::Refused { .. } => false,
                };
                chain.entries.iter().filter(of).count()
            };
            assert_eq!(
                count(true),
                count(false) + 1,
                "generation {wanted} in the audit log"
            );
        }
    }
    generation
}
