// SPDX-License-Identifier: GPL-3.0-only
//! All that documents say of VMs by name alone.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::document::qos::Totals;
use crate::document::{Action, Answer, Document, Lock, Other, Tagged};
use crate::labels::Labels;
use crate::ruleset::severity;
use crate::settings::Settings;

/// What all sets say of VMs.
#[derive(Debug)]
pub(crate) struct ByVm {
    pub defaults: Settings<Action>,
    pub locks: Settings<Lock>,
    pub tagged: Settings<Tagged>,
    pub other: Settings<Other>,
    /// By the word for a threat.
    pub answers: BTreeMap<&'static str, Settings<Answer>>,
    pub totals: Settings<Totals>,
    pub labels: Labels,
}

impl ByVm {
    /// From documents sorted by name.
    pub(crate) fn of(documents: &[&Document]) -> ByVm {
        ByVm {
            defaults: Settings::build(documents, |d| &d.defaults, severity),
            locks: Settings::build(documents, |d| &d.locks, Reverse),
            tagged: Settings::build_part(documents, |d| &d.frames, |frames| frames.tagged, Reverse),
            other: Settings::build_part(documents, |d| &d.frames, |frames| frames.other, Reverse),
            answers: answers(documents),
            totals: Settings::build(documents, |d| &d.qos.vms, Totals::strictness),
            labels: Labels::of(documents),
        }
    }
}

fn answers(documents: &[&Document]) -> BTreeMap<&'static str, Settings<Answer>> {
    let words: BTreeSet<&'static str> = documents
        .iter()
        .flat_map(|document| document.answers.values())
        .flat_map(|answers| answers.keys().copied())
        .collect();
    let of = |word| {
        Settings::build_part(
            documents,
            |d| &d.answers,
            |answers| answers.get(word).cloned(),
            Reverse,
        )
    };
    words.into_iter().map(|word| (word, of(word))).collect()
}
