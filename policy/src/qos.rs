// SPDX-License-Identifier: GPL-3.0-only
//! Classes of flows, compiled: they are found as rules are, so at their cost.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::document::qos::{MAX_CLASSES, Totals, Treatment};
use crate::document::{Action, Document};
use crate::flow::{Flow, VmId};
use crate::index::{Index, Place};
use crate::matching::{Subject, Truth};
use crate::parts::Part;
use crate::problem::Problem;
use crate::rollout::Stage;
use crate::ruleset::{CompiledRule, End, Ruleset, ends};
use crate::settings::VmSetting;

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

/// The number of a class: all are filed as one part.
fn number(place: Place) -> u32 {
    place.at
}

/// The classes of all sets: by set, then as written.
#[derive(Debug)]
pub(crate) struct Classes {
    /// What each asks, as a rule; the action is of no meaning.
    pub rules: Box<[CompiledRule]>,
    treatments: Box<[Treatment]>,
    index: Index,
    /// Of which policy each is.
    stages: Box<[Stage]>,
}

impl Classes {
    /// From the parts, by name.
    pub(crate) fn compile<'p>(parts: impl Iterator<Item = (&'p Part, Stage)>) -> Self {
        let mut rules = Vec::new();
        let mut treatments = Vec::new();
        let mut stages = Vec::new();
        for (part, stage) in parts {
            let document = &*part.document;
            let set: Arc<str> = stage.set_name(&document.name).into();
            for class in &document.qos.classes {
                treatments.push(class.treatment);
                stages.push(stage);
                rules.push(CompiledRule {
                    set: set.clone(),
                    name: class.name.as_str().into(),
                    action: Action::Allow,
                    protocol: class.protocol,
                    ports: class.ports.as_slice().into(),
                    from: ends(&class.from, &part.services),
                    to: ends(&class.to, &part.services),
                    require: None,
                    dry_run: false,
                    instead: None,
                    mirror: None,
                });
            }
        }
        let mut index = Index::default();
        index.file(0, &rules, number);
        Classes {
            index,
            rules: rules.into(),
            treatments: treatments.into(),
            stages: stages.into(),
        }
    }

    /// The first class that surely matches.
    pub(crate) fn of(
        &self,
        flow: &Flow<'_>,
        source: &Subject<'_>,
        destination: &Subject<'_>,
        after: bool,
    ) -> Option<ClassId> {
        if self.rules.is_empty() {
            return None;
        }
        let first = self.index.candidates(source, destination).first(number, |place| {
            let stage = self.stages.get(place.at as usize);
            stage.is_some_and(|stage| stage.holds(after))
                && self
                    .rule(ClassId(place.at))
                    .is_some_and(|rule| rule.matches(flow, source, destination) == Truth::Yes)
        });
        first.map(|place| ClassId(place.at))
    }

    fn rule(&self, ClassId(n): ClassId) -> Option<&CompiledRule> {
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
        let rule = self.classes.rule(id)?;
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
            End::Selector { selector, .. } => selector.may_be_guest(vm),
        };
        self.classes().filter(move |class| {
            self.classes
                .rule(class.id)
                .is_some_and(|rule| rule.from.iter().chain(&rule.to).any(may))
        })
    }

    /// What each vif of a VM may carry in all, and `set` and pattern that say so; `None` where no set says anything.
    pub fn totals_of(&self, vm: &VmId) -> Option<&VmSetting<Totals>> {
        self.for_vm(vm).totals.of(vm)
    }
}
