// SPDX-License-Identifier: GPL-3.0-only
//! Classes of flows, compiled: they are found as rules are, so at their cost.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::document::qos::{MAX_CLASSES, Totals, Treatment};
use crate::document::{Action, Document};
use crate::flow::{Flow, VmId};
use crate::index::Index;
use crate::matching::{Subject, Truth};
use crate::problem::Problem;
use crate::ruleset::{CompiledRule, End, RuleId, Ruleset, Service, ends};
use crate::settings::{Settings, VmSetting};

/// Number of a class. It names the same class for as long as the generation lasts, no longer; below [`MAX_CLASSES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClassId(pub u32);

/// A class of the ruleset. Prints as `set/name`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class<'r> {
    /// Number within the generation.
    pub id: ClassId,
    /// The set it is written in.
    pub set: &'r str,
    /// Its name within the set.
    pub name: &'r str,
    /// How its packets are treated.
    pub treatment: Treatment,
}

impl fmt::Display for Class<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.set, self.name)
    }
}

/// The classes of all sets: by set, then as written.
#[derive(Debug)]
pub(crate) struct Classes {
    /// What each asks, as a rule; the action is of no meaning.
    pub rules: Box<[CompiledRule]>,
    treatments: Box<[Treatment]>,
    index: Index,
    totals: Settings<Totals>,
}

impl Classes {
    /// From documents sorted by name, with the services of each.
    pub(crate) fn compile(documents: &[&Document], services: &[Service]) -> Self {
        let mut rules = Vec::new();
        let mut treatments = Vec::new();
        for document in documents {
            let set: Arc<str> = document.name.as_str().into();
            // Services are by set, as the documents are.
            let first = services.partition_point(|service| *service.set < *set);
            let mine = services
                .get(first..first + document.services.len())
                .unwrap_or_default();
            for class in &document.qos.classes {
                treatments.push(class.treatment);
                rules.push(CompiledRule {
                    set: set.clone(),
                    name: class.name.as_str().into(),
                    action: Action::Allow,
                    protocol: class.protocol,
                    ports: class.ports.as_slice().into(),
                    from: ends(&class.from, mine),
                    to: ends(&class.to, mine),
                    instead: None,
                    mirror: None,
                });
            }
        }
        Classes {
            index: Index::build(&rules),
            rules: rules.into(),
            treatments: treatments.into(),
            totals: Settings::build(documents, |d| &d.qos.vms, Totals::strictness),
        }
    }

    /// The first class that surely matches.
    pub(crate) fn of(
        &self,
        flow: &Flow<'_>,
        source: &Subject<'_>,
        destination: &Subject<'_>,
    ) -> Option<ClassId> {
        if self.rules.is_empty() {
            return None;
        }
        let first = self.index.candidates(source, destination).first(|id| {
            self.rule(id)
                .is_some_and(|rule| rule.matches(flow, source, destination) == Truth::Yes)
        });
        first.map(|RuleId(n)| ClassId(n))
    }

    fn rule(&self, RuleId(n): RuleId) -> Option<&CompiledRule> {
        self.rules.get(usize::try_from(n).ok()?)
    }
}

/// What is wrong with all sets together.
pub(crate) fn check(documents: &[&Document]) -> Option<Problem> {
    let classes: usize = documents.iter().map(|d| d.qos.classes.len()).sum();
    let last = documents.last().filter(|_| classes > MAX_CLASSES)?;
    Some(Problem {
        file: last.origin.file.clone(),
        line: last.origin.name.line,
        column: last.origin.name.column,
        what: format!("{classes} classes in all sets together, the limit is {MAX_CLASSES}"),
        remedy: "join classes: `from` and `to` take lists".to_owned(),
    })
}

impl Ruleset {
    /// A class of this generation.
    pub fn class(&self, id: ClassId) -> Option<Class<'_>> {
        let rule = self.classes.rule(RuleId(id.0))?;
        let treatment = self.classes.treatments.get(usize::try_from(id.0).ok()?)?;
        Some(Class {
            id,
            set: &rule.set,
            name: &rule.name,
            treatment: *treatment,
        })
    }

    /// The classes in order, by number.
    pub fn classes(&self) -> impl Iterator<Item = Class<'_>> {
        (0..).map(ClassId).map_while(|id| self.class(id))
    }

    /// The classes that a flow of this VM may be in, at either end.
    pub fn classes_of(&self, vm: &VmId) -> impl Iterator<Item = Class<'_>> {
        let may = |end: &End| match end {
            End::Any | End::Unattributed => true,
            End::World => false,
            End::Selector { selector, .. } => {
                selector.vm.is_empty() || selector.vm.iter().any(|p| p.matches(vm))
            }
        };
        self.classes().filter(move |class| {
            self.classes
                .rule(RuleId(class.id.0))
                .is_some_and(|rule| rule.from.iter().chain(&rule.to).any(may))
        })
    }

    /// What each vif of a VM may carry in all, and `set` and pattern that say so; `None` where no set says anything.
    pub fn totals_of(&self, vm: &VmId) -> Option<&VmSetting<Totals>> {
        self.classes.totals.of(vm)
    }
}
