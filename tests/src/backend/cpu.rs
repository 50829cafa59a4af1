// SPDX-License-Identifier: GPL-3.0-only
//! Whose processor the emulated machine has.

use crate::error::RigError;
use std::fmt;
use std::str::FromStr;

/// The maker of the machine's processor: it decides which of Xen's means there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cpu {
    /// VMX with EPT: Xen offers altp2m, mem_access and single steps.
    #[default]
    Intel,
    /// SVM with nested paging: Xen offers none of the three, but reports int3.
    Amd,
}

impl Cpu {
    /// Whether Xen offers altp2m on it.
    pub fn has_altp2m(self) -> bool {
        self == Cpu::Intel
    }

    /// The degree of sight that policyd has of a guest there, as `xmesh list` calls it.
    pub fn sight(self) -> &'static str {
        match self {
            Cpu::Intel => "altp2m",
            Cpu::Amd => "breakpoint",
        }
    }

    /// The flag that /proc/cpuinfo shows where hardware virtualisation is to be had.
    pub(super) fn flag(self) -> &'static str {
        match self {
            Cpu::Intel => "vmx",
            Cpu::Amd => "svm",
        }
    }

    /// The kernel module that lends it to guests.
    pub(super) fn kvm_module(self) -> &'static str {
        match self {
            Cpu::Intel => "kvm_intel",
            Cpu::Amd => "kvm_amd",
        }
    }

    /// The model that Bochs is to be.
    pub(super) fn bochs_model(self) -> &'static str {
        match self {
            Cpu::Intel => "corei7_skylake_x",
            Cpu::Amd => "ryzen",
        }
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cpu::Intel => "intel",
            Cpu::Amd => "amd",
        })
    }
}

impl FromStr for Cpu {
    type Err = RigError;

    fn from_str(name: &str) -> Result<Cpu, RigError> {
        [Cpu::Intel, Cpu::Amd]
            .into_iter()
            .find(|cpu| cpu.to_string() == name)
            .ok_or_else(|| RigError::Backend(format!("no processor {name:?}: intel or amd")))
    }
}
