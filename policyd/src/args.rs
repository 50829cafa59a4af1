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
        /// Somebody else starts another daemon in place of one that hangs
        #[arg(long)]
        supervised: bool,
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
    /// Seconds between two looks at the program that a process runs; 0 is never again
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    pub measure_every: u64,
    /// What traps may cost a guest, in percent of one vCPU's time; probes that cost more rest for a while
    #[arg(long, value_name = "PERCENT", default_value = "5", value_parser = percent)]
    pub budget: f64,
    /// On a host without altp2m, as all of AMD's: put breakpoints into the guests' own memory. Guests that trace their kernel could notice.
    #[arg(long)]
    pub breakpoints: bool,
    /// Have packets between guests of one bridge go by that bridge, instead of straight from vif to vif where it would only forward
    /// them
    #[arg(long)]
    pub no_direct: bool,
    /// MiB on the disk that the history of flows may have (beside the store); 0 keeps none
    #[arg(long, value_name = "MIB", default_value_t = 512, value_parser = clap::value_parser!(u64).range(..1 << 30))]
    pub history_size: u64,
    /// Days that the history of flows goes back; by the minute it is kept for a day, by the hour for two weeks
    #[arg(long, value_name = "DAYS", default_value_t = 400, value_parser = clap::value_parser!(u64).range(1..=36_500))]
    pub history_days: u64,
    /// Who may use the API, and how.
    #[command(flatten)]
    pub api: crate::api::Access,
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// A manual that leaves out an option is worse than none; so is one that tells of an option that has gone.
    #[test]
    fn the_manual_names_every_option_and_no_other() {
        let manual = include_str!("../man/policyd.8");
        let mut command = Args::command();
        command.build();
        let mut options: Vec<String> = command
            .get_arguments()
            .filter_map(|argument| argument.get_long())
            .map(str::to_owned)
            .collect();
        let items = manual.lines().filter_map(|line| line.strip_prefix(".It Fl -"));
        let mut told: Vec<String> = items
            .flat_map(|item| item.split(", Fl -"))
            .filter_map(|item| item.split_whitespace().next())
            .map(str::to_owned)
            .collect();
        options.sort();
        told.sort();
        assert_eq!(told, options);
        let (synopsis, _) = manual.split_once(".Sh DESCRIPTION").expect("a synopsis");
        for option in options
            .iter()
            .filter(|option| !matches!(option.as_str(), "help" | "version"))
        {
            assert!(synopsis.contains(&format!("Fl -{option}")), "--{option}");
        }
    }

    #[test]
    fn the_manual_tells_the_defaults() {
        let manual = include_str!("../man/policyd.8");
        for argument in Args::command().get_arguments() {
            for value in argument.get_default_values() {
                let value = value.to_string_lossy();
                assert!(manual.contains(&*value), "{}: {value}", argument.get_id());
            }
        }
    }
}
