// SPDX-License-Identifier: GPL-3.0-only
//! A process that becomes root without a right to.
//!
//! Credentials that an exec gives are told with the exec, so what comes here was asked for by the process itself. A setuid program that
//! gave root up for a while keeps CAP_SETUID in its permitted set, see capabilities(7); only who has neither may not become root.
//!
//! Who writes them into the kernel's memory asks for nothing. That shows by what the process does next: it is root, or makes a child
//! that is, and ran no other program since it was not.

use std::collections::HashMap;

use policyd_api::{Credentials, Process, Threat};

use crate::catalog::threat;
use crate::{started, who};

/// Number of CAP_SETUID, from linux/capability.h.
const SETUID: u64 = 1 << 7;

/// Processes that are remembered.
const PROCESSES: usize = 16 << 10;

/// What a process was when it was seen last.
struct Seen {
    start_time_ns: u64,
    exe: Option<String>,
    args: Vec<String>,
    uid: u32,
    euid: u32,
    permitted: u64,
    /// It was root at some time, or may become root. Threads may have credentials of their own, so that one is and others are not.
    may: bool,
}

impl Seen {
    fn of(process: &Process) -> Seen {
        let permitted = process.capabilities.permitted;
        Seen {
            start_time_ns: process.start_time_ns,
            exe: process.exe.clone(),
            args: process.args.clone(),
            uid: process.uid,
            euid: process.euid,
            permitted,
            may: process.uid == 0 || process.euid == 0 || permitted & SETUID != 0,
        }
    }

    /// It runs no other program.
    fn same_program(&self, process: &Process) -> bool {
        self.exe.is_some() && self.exe == process.exe && self.args == process.args
    }
}

/// Who of a guest's processes may be root.
#[derive(Default)]
pub(crate) struct Rights {
    seen: HashMap<u32, Seen>,
}

impl Rights {
    /// A process runs a new program: what it may follows from that.
    pub(crate) fn begins(&mut self, process: &Process) {
        if self.seen.len() >= PROCESSES {
            // Exits were missed. Who lives is seen again.
            self.seen.clear();
        }
        self.seen.insert(process.pid, Seen::of(process));
    }

    /// A process asked for other credentials, and has them.
    pub(crate) fn changed(&mut self, process: &Process, after: &Credentials) {
        self.begins(process);
        if let Some(seen) = self.seen.get_mut(&process.pid) {
            (seen.uid, seen.euid, seen.permitted) = (after.uid, after.euid, after.permitted);
            seen.may |= after.uid == 0 || after.euid == 0 || after.permitted & SETUID != 0;
        }
    }

    pub(crate) fn ended(&mut self, process: &Process) {
        self.seen.remove(&process.pid);
    }

    /// Something that happened was not told.
    pub(crate) fn lost(&mut self) {
        self.seen.clear();
    }

    /// A process was made; its credentials are those of who made it.
    pub(crate) fn forked(&mut self, child: &Process) -> Option<(Threat, String)> {
        let found = self
            .seen
            .get(&child.ppid)
            .filter(|parent| parent.start_time_ns <= child.start_time_ns)
            .and_then(|parent| became(parent, child, "the process that made it was"));
        self.begins(child);
        found
    }

    /// A process does something, as who it is told.
    pub(crate) fn acts(&mut self, process: &Process) -> Option<(Threat, String)> {
        let before = self.seen.get(&process.pid);
        let before = before.filter(|before| before.start_time_ns == process.start_time_ns);
        let found = before.and_then(|before| became(before, process, "it was"));
        let was = before.is_some_and(|before| before.may && before.same_program(process));
        self.begins(process);
        if let Some(seen) = self.seen.get_mut(&process.pid) {
            seen.may |= was;
        }
        found
    }
}

fn became(before: &Seen, process: &Process, was: &str) -> Option<(Threat, String)> {
    let is_root = process.uid == 0 || process.euid == 0;
    if before.may || !is_root || !before.same_program(process) {
        return None;
    }
    let evidence = vec![
        format!(
            "{was} uid {} euid {} before, with permitted capabilities {:016x}: no CAP_SETUID",
            before.uid, before.euid, before.permitted
        ),
        "it ran no other program since, and did not ask the kernel for other credentials".to_owned(),
        started(process),
    ];
    Some((
        threat(
            "privilege",
            format!("{} is root without having become it", who(process)),
            evidence,
            Some(process),
        ),
        process.exe.clone().unwrap_or_else(|| process.comm.clone()),
    ))
}

pub(crate) fn look(process: &Process, before: &Credentials, after: &Credentials) -> Option<(Threat, String)> {
    let was_root = before.uid == 0 || before.euid == 0;
    let is_root = after.uid == 0 || after.euid == 0;
    if was_root || !is_root || before.permitted & SETUID != 0 {
        return None;
    }
    let evidence = vec![
        format!(
            "uid {} euid {} became uid {} euid {}, without an exec",
            before.uid, before.euid, after.uid, after.euid
        ),
        format!(
            "its permitted capabilities were {:016x}: no CAP_SETUID",
            before.permitted
        ),
        started(process),
    ];
    Some((
        threat(
            "privilege",
            format!("{} became root without a right to", who(process)),
            evidence,
            Some(process),
        ),
        process.exe.clone().unwrap_or_else(|| process.comm.clone()),
    ))
}
