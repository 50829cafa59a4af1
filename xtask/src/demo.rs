// SPDX-License-Identifier: GPL-3.0-only
//! `cargo xtask demo`: the main job on a real nested Xen, each claim checked.

mod checks;
pub mod mesh;
mod steps;

use std::process::ExitCode;

use clap::Args;
use xmesh_rig::{Cpu, Progress, Rig, RigConfig, Xen};

use crate::test::Count;
use crate::web;
use checks::Checks;

/// What to show.
#[derive(Args)]
pub struct Options {
    /// The rig to use; brought up if it is not
    #[arg(long, default_value = "default")]
    name: String,
    /// intel (altp2m) or amd (breakpoints in guest memory)
    #[arg(long, default_value_t)]
    cpu: Cpu,
    /// 4.17 (Debian 12's) or 4.20 (Debian 13's)
    #[arg(long, default_value_t)]
    xen: Xen,
    /// Leave the rig running afterwards, to try things on it
    #[arg(long)]
    keep: bool,
}

/// Shows the mesh at work. Exit status 0 only if every check held.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let config = RigConfig {
        name: options.name.clone(),
        cpu: options.cpu,
        xen: options.xen,
        ..RigConfig::default()
    };
    let running = Rig::attach(&options.name).is_ok();
    web::try_fetch(&Progress::new(false));
    let rig = Rig::up(&config)?;
    let count = in_rig(&rig);
    if options.keep || running {
        println!(
            "the rig {0} stays up; try: cargo xtask rig exec --name {0} dom0 -- xmesh list",
            options.name
        );
    } else {
        rig.down()?;
    }
    Ok(if count.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs the demo in a rig that is up; each check counts as a test.
pub fn in_rig(rig: &Rig) -> Count {
    let mut checks = Checks::new();
    if let Err(e) = steps::run(rig, &mut checks) {
        checks.check("the demo ran to its end", Err(format!("{e:#}")));
    }
    if checks.failed() > 0 {
        mesh::show_log(rig);
    }
    checks.summary();
    Count {
        passed: checks.held(),
        failed: checks.failed(),
        recap: checks
            .failures()
            .map(|(claim, seen)| format!("failed: {claim}\n    {seen}\n"))
            .collect(),
    }
}
