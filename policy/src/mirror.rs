// SPDX-License-Identifier: GPL-3.0-only
//! Who gets copies of flows, with services looked up.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::document::{MirrorTo, Selector, Share, VmPattern};
use crate::flow::VmId;
use crate::ruleset::Ruleset;

/// Number of a guest that gets copies, within a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MirrorId(u32);

/// Copies of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mirroring {
    /// Who gets them.
    pub to: MirrorId,
    /// Of how many such flows.
    pub share: Share,
}

/// Who may get copies.
#[derive(Debug)]
enum Copies {
    Vm(VmPattern),
    /// A service's guests; none where there is no such service.
    Service(Option<Arc<Selector>>),
}

impl Copies {
    fn are_for(&self, vm: &VmId) -> bool {
        match self {
            Copies::Vm(pattern) => pattern.matches(vm),
            Copies::Service(selector) => selector.as_ref().is_some_and(|selector| selector.is_guest(vm)),
        }
    }
}

/// All guests that get copies by the rules of one set.
#[derive(Debug, Default)]
pub(crate) struct Mirrors {
    /// As people call them, and who may be meant.
    targets: Vec<(String, Copies)>,
    numbers: HashMap<String, MirrorId>,
}

impl Mirrors {
    /// What a rule of `document` says, as a number.
    pub(crate) fn number(
        &mut self,
        set: &str,
        mirror: &crate::document::Mirror,
        service: impl Fn(&str) -> Option<Arc<Selector>>,
    ) -> Mirroring {
        let (name, vms) = match &mirror.to {
            MirrorTo::Vm(vm) => (vm.as_str().to_owned(), Copies::Vm(vm.clone())),
            MirrorTo::Service(name) => (
                format!("{set}/{name}"),
                // A document's own services hold every name its rules use.
                Copies::Service(service(name)),
            ),
        };
        let next = MirrorId(self.len());
        let to = *self.numbers.entry(name.clone()).or_insert(next);
        if to == next {
            self.targets.push((name, vms));
        }
        Mirroring {
            to,
            share: mirror.share,
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> u32 {
        // There are no more of them than rules.
        u32::try_from(self.targets.len()).unwrap_or(u32::MAX)
    }
}

impl Mirroring {
    /// The same, its number being one of a set whose numbers begin there.
    pub(crate) fn among(self, first: u32) -> Mirroring {
        Mirroring {
            to: MirrorId(first.saturating_add(self.to.0)),
            ..self
        }
    }
}

impl Ruleset {
    /// Whether a guest is one that gets these copies; of several the first gets them. Allocates nothing.
    pub fn gets_copies(&self, vm: &VmId, to: MirrorId) -> bool {
        self.mirror(to).is_some_and(|(_, copies)| copies.are_for(vm))
    }

    /// What a person calls who gets these copies: a VM, or `set/service`.
    pub fn mirror_name(&self, to: MirrorId) -> Option<&str> {
        self.mirror(to).map(|(name, _)| name.as_str())
    }

    fn mirror(&self, MirrorId(n): MirrorId) -> Option<&(String, Copies)> {
        // The last set whose numbers begin there or before; one that has none begins where the next does.
        let (first, mirrors) = self
            .parts
            .mirrors()
            .rfind(|(first, mirrors)| *first <= n && mirrors.len() > 0)?;
        mirrors.targets.get(usize::try_from(n - first).ok()?)
    }
}
