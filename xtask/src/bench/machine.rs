// SPDX-License-Identifier: GPL-3.0-only
//! Where and when something was measured.

use std::fmt;
use std::fs;
use std::process::Command;

use anyhow::{Context, ensure};
use serde::Serialize;
use xmesh_rig::programs;

/// The machine, the moment and the source that a measurement belongs to.
#[derive(Serialize)]
pub struct Machine {
    /// The processor's own name for itself.
    cpu: String,
    /// Logical processors.
    cores: usize,
    /// Memory in MiB.
    memory_mib: u64,
    /// Release of the kernel.
    kernel: String,
    /// Load average over the last minute: others' work disturbs.
    load: String,
    /// The moment, UTC.
    date: String,
    /// The commit that was measured; "+" where the tree has changes on top.
    commit: String,
}

impl Machine {
    /// This one, now.
    ///
    /// # Errors
    /// Where /proc, date or git do not tell.
    pub fn this() -> anyhow::Result<Machine> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("reading {path}"));
        let cpuinfo = read("/proc/cpuinfo")?;
        let field = |text: &str, name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))
                .map(|value| value.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo")?, "MemTotal").unwrap_or_default();
        let kib: u64 = memory
            .trim_end_matches(" kB")
            .parse()
            .context("MemTotal of /proc/meminfo")?;
        let load = read("/proc/loadavg")?;
        let changed = !output("git", &["status", "--porcelain", "--untracked-files=no"])?.is_empty();
        Ok(Machine {
            cpu: field(&cpuinfo, "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: kib / 1024,
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
            date: output("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"])?,
            commit: output("git", &["rev-parse", "--short=12", "HEAD"])? + if changed { "+" } else { "" },
        })
    }

    #[cfg(test)]
    pub fn sample() -> Machine {
        Machine {
            cpu: "CPU".to_owned(),
            cores: 2,
            memory_mib: 1024,
            kernel: "6.1".to_owned(),
            load: "0.00".to_owned(),
            date: "2026-11-24T12:00:00Z".to_owned(),
            commit: "0123456789ab".to_owned(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine {
            cpu,
            cores,
            memory_mib,
            kernel,
            load,
            date,
            commit,
        } = self;
        write!(
            f,
            "{cpu}, {cores} cores, {memory_mib} MiB, Linux {kernel}, load {load}; commit {commit}, {date}"
        )
    }
}

fn output(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(programs::workspace())
        .output()
        .with_context(|| format!("starting {program}"))?;
    ensure!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        output.status
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_tells_what_it_is() {
        let machine = Machine::this().unwrap();
        assert!(machine.cores > 0 && machine.memory_mib > 0);
        assert!(machine.date.ends_with('Z') && !machine.kernel.is_empty());
    }
}
