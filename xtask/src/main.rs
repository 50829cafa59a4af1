// SPDX-License-Identifier: GPL-3.0-only
//! The developer's commands: `cargo xtask --help`.

mod bench;
mod demo;
mod dist;
mod rig;
mod test;
mod web;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The developer's commands
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A nested Xen with dom0 and two domUs: bring it up, use it, end it
    #[command(subcommand)]
    Rig(rig::Command),
    /// Run all tests; the last line says how many passed and failed
    Test(test::Options),
    /// Show the mesh at work in a rig
    Demo(demo::Options),
    /// Measure what a part costs: a table, and JSON in target/bench
    Bench(bench::Options),
    /// Fetch the library that draws the map on the web page, from npm
    Web,
    /// Make Debian packages, and install and purge them in roots of their releases
    Dist(dist::Options),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Rig(command) => rig::run(command),
        Command::Test(options) => test::run(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Web => web::run(),
        Command::Dist(options) => dist::run(&options),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(125)
    })
}
