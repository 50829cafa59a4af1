// SPDX-License-Identifier: GPL-3.0-only
//! The labels that documents give to guests.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::document::{Document, VmPattern};
use crate::flow::VmId;
use crate::label::{Label, LabelFrom, MAX_LABELS, value_of};
use crate::pattern::Pattern;
use crate::problem::Problem;

/// What one set says of the guests that match a pattern.
#[derive(Debug)]
struct Said {
    vm: VmPattern,
    labels: Box<[Label]>,
}

/// What all sets say, in the order in which it counts: a name or a UUID before any pattern, then the pattern with more literal
/// letters; of equal ones the set that is first by name.
#[derive(Debug, Default)]
pub(crate) struct Labels {
    all: Box<[Said]>,
    /// Numbers of those that are of one guest.
    by_name: FxHashMap<Box<str>, Vec<usize>>,
    by_uuid: FxHashMap<[u8; 16], Vec<usize>>,
    /// And of the others.
    patterns: Box<[usize]>,
}

impl Labels {
    /// From documents sorted by name.
    pub(crate) fn of(documents: &[&Document]) -> Labels {
        let mut all: Vec<(usize, Said)> = Vec::new();
        for document in documents {
            let set: Arc<str> = document.name.as_str().into();
            all.extend(document.labels.iter().map(|(pattern, labels)| {
                let from = LabelFrom::Set {
                    set: Arc::clone(&set),
                    pattern: pattern.as_str().into(),
                };
                // A document has only those that are plain.
                let label = |(key, value): (&String, &String)| Label::new(key, value, from.clone()).ok();
                let said = Said {
                    vm: pattern.clone().into(),
                    labels: labels.iter().filter_map(label).collect(),
                };
                (pattern.specificity(), said)
            }));
        }
        // Stable: the sets' order decides what is left.
        all.sort_by_key(|(specificity, _)| Reverse(*specificity));
        let all: Box<[Said]> = all.into_iter().map(|(_, said)| said).collect();
        let mut labels = Labels::default();
        let mut patterns = Vec::new();
        for (number, said) in all.iter().enumerate() {
            match (&said.vm, said.vm.name().and_then(Pattern::exact)) {
                (VmPattern::Uuid(uuid, _), _) => labels.by_uuid.entry(*uuid).or_default().push(number),
                (_, Some(name)) => labels.by_name.entry(name.into()).or_default().push(number),
                (_, None) => patterns.push(number),
            }
        }
        Labels {
            all,
            patterns: patterns.into(),
            ..labels
        }
    }

    /// All labels of a guest, by key: what is said here, and of `given` what is not. The same allocation where nothing is said here.
    pub(crate) fn with(&self, vm: &VmId, given: &Arc<[Label]>) -> Arc<[Label]> {
        let named = self.by_name.get(vm.name.as_str()).into_iter().flatten();
        let mut of_it: Vec<usize> = named
            .chain(self.by_uuid.get(&vm.uuid).into_iter().flatten())
            .copied()
            .collect();
        // Those by name and by UUID count in the order of their sets.
        of_it.sort_unstable();
        let matching = self.patterns.iter().copied();
        of_it.extend(matching.filter(|n| self.all.get(*n).is_some_and(|said| said.vm.matches(vm))));
        if of_it.is_empty() {
            return Arc::clone(given);
        }
        let said = of_it.iter().filter_map(|n| self.all.get(*n));
        let mut labels: Vec<Label> = said.flat_map(|said| said.labels.iter()).cloned().collect();
        // Stable: of one key the first stays first.
        labels.sort_by(|a, b| a.key().cmp(b.key()));
        labels.dedup_by(|b, a| a.key() == b.key());
        let more = given
            .iter()
            .filter(|label| value_of(&labels, label.key()).is_none());
        let more: Vec<Label> = more.cloned().collect();
        labels.extend(more);
        labels.sort_by(|a, b| a.key().cmp(b.key()));
        labels.into()
    }
}

/// What is wrong with all sets together: a guest may match all patterns, and an index looks for each of its labels.
pub(crate) fn check(documents: &[&Document]) -> Option<Problem> {
    let mut keys = BTreeSet::new();
    for document in documents {
        keys.extend(document.labels.values().flat_map(|labels| labels.keys()));
        if keys.len() > MAX_LABELS {
            return Some(Problem {
                file: document.origin.file.clone(),
                line: document.origin.name.line,
                column: document.origin.name.column,
                what: format!(
                    "{} keys of labels in all sets together, the limit is {MAX_LABELS}",
                    keys.len()
                ),
                remedy: "use one key for what is of one kind, and tell it apart by values".to_owned(),
            });
        }
    }
    None
}
