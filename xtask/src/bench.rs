// SPDX-License-Identifier: GPL-3.0-only
//! `cargo xtask bench`

use clap::Args;
use std::process::ExitCode;

/// What to measure.
#[derive(Args)]
pub struct Options {
    /// The measurement's name
    name: String,
}

/// Measures one thing.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    anyhow::bail!("there is no measurement {:?} yet", options.name)
}
