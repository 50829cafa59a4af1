// SPDX-License-Identifier: GPL-3.0-only
//! A process that becomes root without a right to.
//!
//! Credentials that an exec gives are told with the exec, so what comes here was asked for by the process itself. A setuid program that
//! gave root up for a while keeps CAP_SETUID in its permitted set, see capabilities(7); only who has neither may not become root.

use policyd_api::{Credentials, Process, Threat};

use crate::catalog::threat;
use crate::{started, who};

/// Number of CAP_SETUID, from linux/capability.h.
const SETUID: u64 = 1 << 7;

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
