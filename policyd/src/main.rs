// SPDX-License-Identifier: GPL-3.0-only
//! policyd: the daemon in dom0 that joins sight, policy and enforcement.
//!
//! Started as root in dom0 it watches every Linux guest, and enforces the stored policy on their vifs. Without a policy
//! it changes no traffic.

mod addresses;
mod allowance;
mod api;
mod args;
mod backends;
mod bridges;
mod classes;
mod control;
mod cover;
mod daemon;
mod differences;
mod domain;
mod dry_runs;
mod enforcer;
mod events;
mod explain;
mod facts;
mod gate;
mod graph;
mod guardian;
mod health;
mod holding;
mod integrity;
mod inventory;
mod links;
mod lock;
mod lookups;
mod measures;
mod metrics;
mod past;
mod present;
mod priority;
mod ready;
mod recorder;
mod registry;
mod revocations;
mod rollout;
mod routes;
mod shadow;
mod shapes;
mod signals;
mod stats;
mod tables;
mod threats;
mod traces;
mod vif_events;
mod watcher;
mod world;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = args::Args::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    // Started by itself, through /proc/self/exe, it would be called `exe`.
    let name = match args.command {
        Some(_) => c"policyd-guard",
        None => c"policyd",
    };
    if let Err(e) = nix::sys::prctl::set_name(name) {
        log::debug!("its name stays as it is: {e}");
    }
    match args.command {
        Some(args::Command::Guardian {
            undo_dir,
            supervised,
            daemon,
        }) => guardian::run(&undo_dir, (!supervised).then_some(daemon.as_slice())),
        None => match daemon::run(&args.options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                log::error!("{e}");
                ExitCode::FAILURE
            }
        },
    }
}
