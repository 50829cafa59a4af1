// SPDX-License-Identifier: GPL-3.0-only
//! Which Xen a rig runs, and with it which Debian its dom0 is: Xen's tools and libxenctrl fit no Xen but their own.

use crate::chroot::is_host_release;
use crate::error::RigError;
use std::fmt;
use std::str::FromStr;

/// A release of Xen, as a Debian release has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Xen {
    /// Debian 12's.
    #[default]
    V4_17,
    /// Debian 13's.
    V4_20,
}

impl Xen {
    /// All that a rig can have.
    pub const ALL: [Xen; 2] = [Xen::V4_17, Xen::V4_20];

    /// The one whose libraries this host has, for programs that are to run here; the default where that is no Debian of these.
    pub fn here() -> Xen {
        Xen::ALL
            .into_iter()
            .find(|xen| is_host_release(xen.suite()))
            .unwrap_or_default()
    }

    /// Debian's name of the release that has it.
    pub fn suite(self) -> &'static str {
        match self {
            Xen::V4_17 => "bookworm",
            Xen::V4_20 => "trixie",
        }
    }

    /// The number of that release.
    pub fn debian(self) -> u32 {
        match self {
            Xen::V4_17 => 12,
            Xen::V4_20 => 13,
        }
    }

    /// Debian's package of the hypervisor.
    pub(crate) fn hypervisor(self) -> &'static str {
        match self {
            Xen::V4_17 => "xen-hypervisor-4.17-amd64",
            Xen::V4_20 => "xen-hypervisor-4.20-amd64",
        }
    }

    /// Debian's package of its tools.
    pub(crate) fn tools(self) -> &'static str {
        match self {
            Xen::V4_17 => "xen-utils-4.17",
            Xen::V4_20 => "xen-utils-4.20",
        }
    }
}

impl fmt::Display for Xen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Xen::V4_17 => "4.17",
            Xen::V4_20 => "4.20",
        })
    }
}

impl FromStr for Xen {
    type Err = RigError;

    fn from_str(name: &str) -> Result<Xen, RigError> {
        Xen::ALL
            .into_iter()
            .find(|xen| xen.to_string() == name)
            .ok_or_else(|| RigError::Backend(format!("no Xen {name:?}: 4.17 or 4.20")))
    }
}
