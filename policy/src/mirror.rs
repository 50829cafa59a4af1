// SPDX-License-Identifier: GPL-3.0-only
//! Who gets copies of flows, with services looked up.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::document::{Document, MirrorTo, Share, VmPattern};
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

/// All guests that get copies.
#[derive(Debug, Default)]
pub(crate) struct Mirrors {
    /// As people call them, and who may be meant.
    targets: Vec<(String, Vec<VmPattern>)>,
    numbers: HashMap<String, MirrorId>,
}

impl Mirrors {
    /// What a rule of `document` says, as a number.
    pub(crate) fn number(&mut self, document: &Document, mirror: &crate::document::Mirror) -> Mirroring {
        let (name, vms) = match &mirror.to {
            MirrorTo::Vm(vm) => (vm.as_str().to_owned(), vec![vm.clone()]),
            MirrorTo::Service(service) => (
                format!("{}/{service}", document.name),
                // A document's own services hold every name its rules use.
                document
                    .services
                    .get(service)
                    .map(|selector| selector.vm.clone())
                    .unwrap_or_default(),
            ),
        };
        // There are no more of them than rules.
        let next = MirrorId(u32::try_from(self.targets.len()).unwrap_or(u32::MAX));
        let to = *self.numbers.entry(name.clone()).or_insert(next);
        if to == next {
            self.targets.push((name, vms));
        }
        Mirroring {
            to,
            share: mirror.share,
        }
    }

    fn get(&self, MirrorId(n): MirrorId) -> Option<&(String, Vec<VmPattern>)> {
        self.targets.get(usize::try_from(n).ok()?)
    }
}

impl Ruleset {
    /// Whether a guest is one that gets these copies; of several the first gets them. Allocates nothing.
    pub fn gets_copies(&self, vm: &VmId, to: MirrorId) -> bool {
        self.mirrors
            .get(to)
            .is_some_and(|(_, vms)| vms.iter().any(|pattern| pattern.matches(vm)))
    }

    /// What a person calls who gets these copies: a VM, or `set/service`.
    pub fn mirror_name(&self, to: MirrorId) -> Option<&str> {
        self.mirrors.get(to).map(|(name, _)| name.as_str())
    }
}
