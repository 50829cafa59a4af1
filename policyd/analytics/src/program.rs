// SPDX-License-Identifier: GPL-3.0-only
//! What a program is and where it comes from.

use policyd_api::{Process, Threat};

use crate::catalog::threat;
use crate::{started, who};

/// Programs that mine.
const MINERS: [&str; 8] = [
    "xmrig", "minerd", "cpuminer", "cgminer", "bfgminer", "ethminer", "t-rex", "nbminer",
];
/// What only they are told.
const WORDS: [&str; 5] = [
    "stratum+tcp://",
    "stratum+ssl://",
    "stratum2+tcp://",
    "--donate-level",
    "--randomx-mode",
];
/// How runc and crun call the copy of themselves that they run from.
const RUNTIMES: [&str; 2] = ["/memfd:runc_cloned:", "/memfd:crun_cloned:"];

/// What an exec shows.
pub(crate) fn look(process: &Process) -> Option<(Threat, String)> {
    let exe = process.exe.as_deref()?;
    let found = |rule: &str, what: String, more: String| {
        let evidence = vec![more, started(process)];
        Some((threat(rule, what, evidence, Some(process)), exe.to_owned()))
    };
    let name = exe.rsplit('/').next().unwrap_or(exe);
    let word = process
        .args
        .iter()
        .find_map(|arg| WORDS.iter().find(|word| arg.contains(**word)));
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
