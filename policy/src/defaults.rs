// SPDX-License-Identifier: GPL-3.0-only
//! What happens to traffic of a VM that no rule decides.

use std::cmp::Reverse;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::document::{Action, Document};
use crate::flow::VmId;
use crate::pattern::Pattern;
use crate::ruleset::severity;

/// What one set says of the VMs that match a pattern.
#[derive(Debug, Clone)]
pub struct VmDefault {
    /// The set that says it.
    pub set: Arc<str>,
    /// The pattern it says it of.
    pub pattern: Pattern,
    /// What happens.
    pub action: Action,
}

/// The defaults of all sets. The most specific pattern counts: a name before any pattern, then the
/// pattern with more literal letters. Of two that are equal in that, deny comes before audit and audit
/// before allow, so that a set can loosen nobody's default by writing the same pattern.
#[derive(Debug)]
pub(crate) struct Defaults {
    exact: FxHashMap<Box<str>, VmDefault>,
    /// In the order in which they count.
    patterns: Box<[VmDefault]>,
}

impl Defaults {
    /// From documents sorted by name.
    pub(crate) fn build(documents: &[&Document]) -> Self {
        let mut all: Vec<VmDefault> = documents
            .iter()
            .flat_map(|document| {
                let set: Arc<str> = document.name.as_str().into();
                document.defaults.iter().map(move |(pattern, action)| VmDefault {
                    set: set.clone(),
                    pattern: pattern.clone(),
                    action: *action,
                })
            })
            .collect();
        // Stable: the sets' order decides what is left.
        all.sort_by_key(|d| (Reverse(d.pattern.specificity()), severity(d.action)));
        let mut exact = FxHashMap::default();
        let mut patterns = Vec::new();
        for default in all {
            match default.pattern.exact() {
                Some(name) => {
                    exact.entry(name.into()).or_insert(default);
                }
                None => patterns.push(default),
            }
        }
        Defaults {
            exact,
            patterns: patterns.into(),
        }
    }

    pub(crate) fn of(&self, vm: &VmId) -> Option<&VmDefault> {
        self.exact.get(vm.name.as_str()).or_else(|| {
            self.patterns
                .iter()
                .find(|default| default.pattern.matches(&vm.name))
        })
    }
}
