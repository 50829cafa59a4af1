// SPDX-License-Identifier: GPL-3.0-only
//! `cargo xtask rig`

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use xmesh_rig::{Backend, Cpu, Rig, RigConfig, Xen};

/// Which rig.
#[derive(Args)]
pub struct Which {
    /// The rig's name: several can be up side by side
    #[arg(long, default_value = "default")]
    name: String,
}

/// What to do with rigs.
#[derive(Subcommand)]
pub enum Command {
    /// Bring a rig up: Xen, dom0, and the domUs web1 (10.0.0.11) and db1 (10.0.0.12)
    Up {
        #[command(flatten)]
        which: Which,
        /// kvm, bochs or bochs-packaged [default: the first that works]
        #[arg(long)]
        backend: Option<Backend>,
        /// intel (altp2m) or amd (int3 in guest memory)
        #[arg(long, default_value_t)]
        cpu: Cpu,
        /// 4.17 (Debian 12's) or 4.20 (Debian 13's)
        #[arg(long, default_value_t)]
        xen: Xen,
        /// vCPUs of the domUs [default: what the back end carries, at most 2]
        #[arg(long)]
        vcpus: Option<u32>,
    },
    /// Run a program in dom0 or a domain; its output and exit status are passed through
    Exec {
        #[command(flatten)]
        which: Which,
        /// Pass standard input on
        #[arg(short = 'i', long)]
        stdin: bool,
        /// dom0 or a domain's name
        target: String,
        /// The program and its arguments
        #[arg(last = true, required = true)]
        argv: Vec<String>,
    },
    /// Copy a file in: LOCAL dom0:/path, or LOCAL DOMAIN:/path
    Push {
        #[command(flatten)]
        which: Which,
        /// File of this host
        local: PathBuf,
        /// dom0:/path or DOMAIN:/path
        remote: String,
    },
    /// Copy a file out: dom0:/path LOCAL, or DOMAIN:/path LOCAL
    Pull {
        #[command(flatten)]
        which: Which,
        /// dom0:/path or DOMAIN:/path
        remote: String,
        /// File of this host
        local: PathBuf,
    },
    /// Show a console: xen (with dom0's kernel), dom0 or a domain
    Logs {
        #[command(flatten)]
        which: Which,
        /// Whose
        #[arg(default_value = "xen")]
        of: String,
    },
    /// List the rigs that are up, and their domains
    List,
    /// End a rig
    Down {
        #[command(flatten)]
        which: Which,
    },
}

/// Carries a command out.
pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up {
            which,
            backend,
            cpu,
            xen,
            vcpus,
        } => {
            let config = RigConfig {
                name: which.name,
                backend,
                cpu,
                xen,
                vcpus,
                quiet: false,
            };
            let rig = Rig::up(&config)?;
            println!(
                "rig {} is up ({}, {} processor, Xen {}, logs in {})",
                rig.name(),
                rig.backend(),
                rig.cpu(),
                rig.xen(),
                rig.folder().display()
            );
        }
        Command::Exec {
            which,
            stdin,
            target,
            argv,
        } => {
            let status = Rig::attach(&which.name)?.exec_inherit(&target, &argv, stdin)?;
            return Ok(ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)));
        }
        Command::Push { which, local, remote } => {
            let (target, path) = split(&remote)?;
            Rig::attach(&which.name)?.push(&local, target, path)?;
        }
        Command::Pull { which, remote, local } => {
            let (target, path) = split(&remote)?;
            Rig::attach(&which.name)?.pull(target, path, &local)?;
        }
        Command::Logs { which, of } => print!("{}", Rig::attach(&which.name)?.logs(&of)?),
        Command::List => list()?,
        Command::Down { which } => Rig::attach(&which.name)?.down()?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list() -> anyhow::Result<()> {
    println!(
        "{:<12} {:<15} {:<6} {:<5} {:<12} {:>4} {:>6} {:>6}  STATE",
        "RIG", "BACKEND", "CPU", "XEN", "DOMAIN", "ID", "MEM", "VCPUS"
    );
    for rig in Rig::all() {
        let (name, backend, cpu) = (rig.name(), rig.backend().to_string(), rig.cpu().to_string());
        let xen = rig.xen().to_string();
        match rig.domains() {
            Ok(domains) => {
                for d in domains {
                    println!(
                        "{name:<12} {backend:<15} {cpu:<6} {xen:<5} {:<12} {:>4} {:>6} {:>6}  {}",
                        d.name, d.id, d.memory, d.vcpus, d.state
                    );
                }
            }
            Err(error) => println!("{name:<12} {backend:<15} {cpu:<6} {xen:<5} {error}"),
        }
    }
    Ok(())
}

fn split(remote: &str) -> anyhow::Result<(&str, &str)> {
    let (target, path) = remote
        .split_once(':')
        .context("where to? dom0:/path or DOMAIN:/path")?;
    if !path.starts_with('/') {
        bail!("{path:?}: a path inside the rig begins with /");
    }
    Ok((target, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_path_is_a_target_and_an_absolute_path() {
        assert_eq!(split("dom0:/a:b").unwrap(), ("dom0", "/a:b"));
        assert!(split("dom0").is_err());
        assert!(split("dom0:a").is_err());
    }
}
