// SPDX-License-Identifier: GPL-3.0-only
//! Which rules can have flows in common with a rule, without trying all pairs.

use std::collections::HashMap;

use super::relation::selector;
use crate::document::VmPattern;
use crate::ruleset::{CompiledRule, End};

/// Rules by the VMs that they are to, where these are told by name.
pub(super) struct Candidates<'r> {
    rules: Vec<&'r CompiledRule>,
    by_name: HashMap<&'r str, Vec<usize>>,
    /// Those that may be to any VM.
    rest: Vec<usize>,
}

impl<'r> Candidates<'r> {
    pub(super) fn new(rules: Vec<&'r CompiledRule>) -> Self {
        let mut by_name: HashMap<&str, Vec<usize>> = HashMap::new();
        let mut rest = Vec::new();
        for (number, rule) in rules.iter().copied().enumerate() {
            match names(rule) {
                Some(names) => {
                    for name in names {
                        by_name.entry(name).or_default().push(number);
                    }
                }
                None => rest.push(number),
            }
        }
        Candidates { rules, by_name, rest }
    }

    /// Numbers of all rules that may have flows in common with this one, itself included.
    pub(super) fn of(&self, number: usize) -> Box<dyn Iterator<Item = usize> + '_> {
        match self.rules.get(number).copied().and_then(names) {
            Some(names) => {
                let mut found: Vec<usize> = names
                    .into_iter()
                    .filter_map(|name| self.by_name.get(name))
                    .flatten()
                    .chain(&self.rest)
                    .copied()
                    .collect();
                found.sort_unstable();
                found.dedup();
                Box::new(found.into_iter())
            }
            None => Box::new(0..self.rules.len()),
        }
    }
}

/// The VMs that it is to; `None` where one of who it is to is not told by a name.
fn names(rule: &CompiledRule) -> Option<Vec<&str>> {
    let all: Option<Vec<Vec<&str>>> = rule.to.iter().map(names_of).collect();
    Some(all?.concat())
}

fn names_of(end: &End) -> Option<Vec<&str>> {
    let vms = &selector(end)?.vm;
    if vms.is_empty() {
        return None;
    }
    vms.iter().map(name).collect()
}

fn name(pattern: &VmPattern) -> Option<&str> {
    match pattern {
        VmPattern::Name(name) => name.exact(),
        VmPattern::Uuid(..) => None,
    }
}
