// SPDX-License-Identifier: GPL-3.0-only
//! What a program is and where it comes from.

use policyd_api::{Process, Threat};

use crate::catalog::threat;
use crate::{started, who};

/// Programs that mine.
const MINERS: [&str; 8] = [
    "xmrig", "minerd", "cpuminer", "cgminer", "bfgminer", "ethminer", "t-rex", "nbminer",
];
/// Whom only they are told to work for.
const POOLS: [&str; 3] = ["stratum+tcp://", "stratum+ssl://", "stratum2+tcp://"];
/// Options that only they have.
const OPTIONS: [&str; 2] = ["--donate-level", "--randomx-mode"];
/// How runc and crun call the copy of themselves that they run from.
const RUNTIMES: [&str; 2] = ["/memfd:runc_cloned:", "/memfd:crun_cloned:"];

/// What of an argument only a miner is told. A text in which it comes up, as a shell's script or what is searched for, is none.
fn mines(arg: &str) -> Option<&'static str> {
    let option = |option: &&&str| {
        arg.strip_prefix(**option)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    };
    let pool = |pool: &&&str| {
        arg.split_once(**pool).is_some_and(|(before, after)| {
            let is_option = before.starts_with('-') && (before.ends_with('=') || before.len() == 2);
            !after.is_empty() && (before.is_empty() || is_option)
        })
    };
    let found = POOLS.iter().find(pool).or_else(|| OPTIONS.iter().find(option));
    found.copied()
}

/// What an exec shows.
pub(crate) fn look(process: &Process) -> Option<(Threat, String)> {
    let exe = process.exe.as_deref()?;
    let found = |rule: &str, what: String, more: String| {
        let evidence = vec![more, started(process)];
        Some((threat(rule, what, evidence, Some(process)), exe.to_owned()))
    };
    let name = exe.rsplit('/').next().unwrap_or(exe);
    // The first is what it calls itself.
    let word = process.args.iter().skip(1).find_map(|arg| mines(arg));
    if let Some(word) = word {
        return found(
            "miner",
            format!("{} has arguments of a miner", who(process)),
            format!("`{word}` is among its arguments"),
        );
    }
    if MINERS.contains(&name) {
        return found(
            "miner",
            format!("{} has the name of a miner", who(process)),
            format!("the executable is called `{name}`"),
        );
    }
    if RUNTIMES.iter().any(|runtime| exe.starts_with(runtime)) {
        return None;
    }
    if exe.starts_with("/memfd:") || exe.starts_with("/dev/shm/") || exe.starts_with("/proc/") {
        return found(
            "fileless-program",
            format!("{} runs from memory", who(process)),
            format!("the executable is {exe}"),
        );
    }
    if process.exe_deleted {
        return found(
            "deleted-program",
            format!("{} was started from a deleted file", who(process)),
            format!("{exe} has been unlinked"),
        );
    }
    if exe.starts_with("/tmp/") || exe.starts_with("/var/tmp/") {
        return found(
            "temporary-program",
            format!("{} runs from a directory that anybody can write to", who(process)),
            format!("the executable is {exe}"),
        );
    }
    None
}
