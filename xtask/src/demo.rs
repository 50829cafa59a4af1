// SPDX-License-Identifier: GPL-3.0-only
//! `cargo xtask demo`

use clap::Args;
use std::process::ExitCode;

/// What to show.
#[derive(Args)]
pub struct Options {
    /// The rig to use; brought up if it is not
    #[arg(long, default_value = "default")]
    name: String,
}

/// Shows the mesh at work.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    anyhow::bail!("the demo (in rig {:?}) is not written yet", options.name)
}
