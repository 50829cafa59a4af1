// SPDX-License-Identifier: GPL-3.0-only
//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};

/// Agentless service mesh for Xen: watches guests from dom0 and enforces policy on their vifs.
#[derive(Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
pub struct Args {
    /// What to do; without it, run the daemon.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Options of the daemon.
    #[command(flatten)]
    pub options: Options,
}

/// What policyd starts of itself.
#[derive(Subcommand)]
pub enum Command {
    /// Wait for the daemon to end, then free the guests (policyd starts this itself)
    #[command(hide = true)]
    Guardian {
        /// Where the undo records are
        #[arg(long)]
        undo_dir: PathBuf,
        /// Arguments of the daemon, for another in place of one that hangs
        #[arg(last = true)]
        daemon: Vec<OsString>,
    },
}

/// Where the daemon keeps what, and what it may do.
#[derive(ClapArgs)]
pub struct Options {
    /// Directory of the policy store
    #[arg(long, default_value = "/var/lib/policyd/store")]
    pub store: PathBuf,
    /// Directory of the lock and the undo records; must be lost with a reboot of dom0, as the guests are
    #[arg(long, default_value = "/run/policyd")]
    pub run_dir: PathBuf,
    /// Unix socket of the API
    #[arg(long, default_value = policyd_api::SOCKET)]
    pub socket: PathBuf,
    /// Directory in a bpffs for what must outlive the daemon at the vifs
    #[arg(long, default_value = "/sys/fs/bpf/xmesh")]
    pub pin_dir: PathBuf,
    /// Seconds between two checks of every guest's kernel; 0 is never
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub check_every: u64,
    /// What traps may cost a guest, in percent of one vCPU's time; probes that cost more rest for a while
    #[arg(long, value_name = "PERCENT", default_value = "5", value_parser = percent)]
    pub budget: f64,
    /// On a host without altp2m, as all of AMD's: put breakpoints into the guests' own memory. Guests that trace their kernel could notice.
    #[arg(long)]
    pub breakpoints: bool,
    /// Take the datapath off every vif and end
    #[arg(long)]
    pub detach: bool,
}

fn percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').parse::<f64>() {
        Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent),
        _ => Err("a number above 0, at most 100".to_owned()),
    }
}
