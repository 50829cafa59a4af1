// SPDX-License-Identifier: GPL-3.0-only
//! What holds for a VM by its name: what happens to its traffic that no rule decides, and what it may send from.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::document::Document;
use crate::flow::VmId;
use crate::pattern::Pattern;

/// What one set says of the VMs that match a pattern.
#[derive(Debug, Clone)]
pub struct VmSetting<T> {
    /// The set that says it.
    pub set: Arc<str>,
    /// The pattern it says it of.
    pub pattern: Pattern,
    /// What it says.
    pub value: T,
}

/// What all sets say. The most specific pattern counts: a name before any pattern, then the pattern with more literal
/// letters. Of two that are equal in that the stricter counts, so that a set can loosen nothing by writing the same pattern.
#[derive(Debug)]
pub(crate) struct Settings<T> {
    exact: FxHashMap<Box<str>, VmSetting<T>>,
    /// In the order in which they count.
    patterns: Box<[VmSetting<T>]>,
}

impl<T: Clone> Settings<T> {
    /// From documents sorted by name. `strictness` orders what is said, the strictest first.
    pub(crate) fn build<O: Ord>(
        documents: &[&Document],
        said: impl Fn(&Document) -> &BTreeMap<Pattern, T>,
        strictness: impl Fn(T) -> O,
    ) -> Self {
        Self::build_part(documents, said, |whole| Some(whole.clone()), strictness)
    }

    /// The same of a part of what is said, as far as a set says it.
    pub(crate) fn build_part<W, O: Ord>(
        documents: &[&Document],
        said: impl Fn(&Document) -> &BTreeMap<Pattern, W>,
        part: impl Fn(&W) -> Option<T>,
        strictness: impl Fn(T) -> O,
    ) -> Self {
        let mut all = Vec::new();
        for document in documents {
            let set: Arc<str> = document.name.as_str().into();
            all.extend(said(document).iter().filter_map(|(pattern, whole)| {
                Some(VmSetting {
                    set: set.clone(),
                    pattern: pattern.clone(),
                    value: part(whole)?,
                })
            }));
        }
        // Stable: the sets' order decides what is left.
        all.sort_by_key(|s| (Reverse(s.pattern.specificity()), strictness(s.value.clone())));
        let mut exact = FxHashMap::default();
        let mut patterns = Vec::new();
        for setting in all {
            match setting.pattern.exact() {
                Some(name) => {
                    exact.entry(name.into()).or_insert(setting);
                }
                None => patterns.push(setting),
            }
        }
        Settings {
            exact,
            patterns: patterns.into(),
        }
    }

    pub(crate) fn of(&self, vm: &VmId) -> Option<&VmSetting<T>> {
        self.exact.get(vm.name.as_str()).or_else(|| {
            self.patterns
                .iter()
                .find(|setting| setting.pattern.matches(&vm.name))
        })
    }
}
