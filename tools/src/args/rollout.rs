// SPDX-License-Identifier: GPL-3.0-only
//! Changes that hold for some VMs first.

use clap::Args as ClapArgs;
use policyd_api::StageOptions;

use super::past::{Ago, ago};

/// For whom a change is to hold first.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct Stage {
    /// Put the documents in force for these VMs first (names or patterns; may be given more than once): for flows with one of them at an end.
    /// It is taken back by itself when more of their flows are refused than before.
    #[arg(long = "stage", value_name = "VM", value_delimiter = ',')]
    pub vms: Vec<String>,
    /// With `--stage`: for all after this time without trouble, as 10m or 2h; unless told, when `policy-promote` says so.
    #[arg(long = "for", value_name = "TIME", value_parser = ago, requires = "vms")]
    pub time: Option<Ago>,
}

impl Stage {
    /// As the daemon wants it; none: for all at once.
    pub fn options(&self) -> Option<StageOptions> {
        (!self.vms.is_empty()).then(|| StageOptions {
            vms: self.vms.clone(),
            seconds: self.time.map(Ago::seconds),
        })
    }
}
