// SPDX-License-Identifier: GPL-3.0-only
//! A change of policy that holds for some VMs first.
//!
//! A flow with such a VM at either end is decided by the policy as it will be, every other flow by the policy as it was: each
//! flow by one of the two, and whole.

use crate::flow::{Flow, VmId};
use crate::pattern::Pattern;
use crate::ruleset::Ruleset;

/// For whom a change holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    /// Names of VMs.
    pub vms: Vec<Pattern>,
}

impl Rollout {
    /// Whether the change holds for this VM.
    pub fn is_for(&self, vm: &VmId) -> bool {
        self.vms.iter().any(|pattern| pattern.matches(&vm.name))
    }

    fn is_for_flow(&self, flow: &Flow<'_>) -> bool {
        let ends = [flow.source.vm, flow.destination.vm];
        ends.into_iter().flatten().any(|vm| self.is_for(vm))
    }
}

/// Of which policy something is while a change is rolled out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Of both: it does not change.
    Both,
    /// Of the policy as it was.
    Before,
    /// Of the policy as it will be.
    After,
}

impl Stage {
    /// Whether it holds where the policy does that was, or that will be.
    pub(crate) fn holds(self, after: bool) -> bool {
        match self {
            Stage::Both => true,
            Stage::Before => !after,
            Stage::After => after,
        }
    }

    /// What people see a set called of which there are two.
    pub(crate) fn set_name(self, name: &str) -> String {
        match self {
            Stage::Both | Stage::Before => name.to_owned(),
            Stage::After => format!("{name} (staged)"),
        }
    }
}

impl Ruleset {
    /// The change that is being rolled out.
    pub fn rollout(&self) -> Option<&Rollout> {
        self.rollout.as_deref()
    }

    /// Whether the policy as it will be holds for a flow.
    pub(crate) fn is_after(&self, flow: &Flow<'_>) -> bool {
        self.rollout
            .as_ref()
            .is_some_and(|rollout| rollout.is_for_flow(flow))
    }

    /// The same for what is asked of one VM.
    pub(crate) fn is_after_for(&self, vm: Option<&VmId>) -> bool {
        let is_for = |rollout: &Rollout| vm.is_some_and(|vm| rollout.is_for(vm));
        self.rollout.as_deref().is_some_and(is_for)
    }
}
