// SPDX-License-Identifier: GPL-3.0-only
//! `cargo xtask bench`: what the parts cost, as a table and as JSON.
//!
//! One module a measurement. Each gives [`Section`]s; where and when it was measured is added here.

mod bringup;
mod child;
mod counters;
mod daemon;
mod datapath;
mod history;
mod idle;
mod lookup;
mod machine;
mod netback;
mod policy;
mod qos;
mod report;
mod trap;
mod vifs;

use clap::{Args, ValueEnum};
use std::process::ExitCode;

use machine::Machine;
use report::{Report, Section};
use xmesh_rig::{Rig, RigConfig, programs};

/// What to measure.
#[derive(Args)]
pub struct Options {
    /// What to measure
    name: Name,
    /// Times each thing is measured; the median is told
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// The rig to measure in, where a rig is needed or can be used
    #[arg(long)]
    rig: Option<String>,
}

/// The measurements there are.
#[derive(Clone, Copy, ValueEnum)]
enum Name {
    /// Understanding a guest of which nothing is known: from dumps, and live with --rig
    Bringup,
    /// The process behind a flow, without a trap; from dumps
    Lookup,
    /// A trap, in exits and instructions, by the way it is served; in a rig
    Trap,
    /// A packet through the eBPF program, run by this host's kernel
    Datapath,
    /// The whole datapath beside a bare bridge and nftables, on this host
    Netback,
    /// A stream and a question between two guests over real vifs, in instructions; in a rig
    Vifs,
    /// What policyd costs while nothing happens, in instructions; in a rig
    Idle,
    /// A decision of the policy engine
    Policy,
    /// Rates, guarantees and latency of a shaped vif, with this host's kernel
    Qos,
    /// A week of a busy host in the history of flows
    History,
}

/// Measures one thing, prints it, and leaves it in `target/bench/NAME.json`.
///
/// # Errors
/// Where it cannot be measured here; nothing is written then.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let rig = options.rig.as_deref();
    let sections: Vec<Section> = match options.name {
        Name::Bringup => bringup::measure(rig, options.runs)?,
        Name::Lookup => lookup::measure(options.runs)?,
        Name::Trap => measured_in(rig, options.runs, trap::in_rig)?,
        Name::Datapath => datapath::measure()?,
        Name::Netback => netback::measure()?,
        Name::Vifs => measured_in(rig, options.runs, vifs::in_rig)?,
        Name::Idle => measured_in(rig, options.runs, idle::in_rig)?,
        Name::Policy => policy::measure(options.runs)?,
        Name::Qos => qos::measure()?,
        Name::History => history::measure()?,
    };
    let name = options
        .name
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default();
    let report = Report {
        name,
        machine: Machine::this()?,
        sections,
    };
    print!("{report}");
    let path = report.save(&programs::target_folder().join("bench"))?;
    println!("\nthe same as JSON: {}", path.display());
    Ok(ExitCode::SUCCESS)
}

/// Measures in the rig of that name, brought up if it is not, else in one of its own, which is ended.
fn measured_in(
    rig: Option<&str>,
    runs: u32,
    measure: fn(&Rig, u32) -> anyhow::Result<Vec<Section>>,
) -> anyhow::Result<Vec<Section>> {
    let config = RigConfig {
        name: rig.unwrap_or("bench").to_owned(),
        ..RigConfig::default()
    };
    let was_up = Rig::attach(&config.name).is_ok();
    let rig = Rig::up(&config)?;
    let sections = measure(&rig, runs);
    if !was_up {
        rig.down()?;
    }
    sections
}
