// SPDX-License-Identifier: GPL-3.0-only
//! Shells at the end of a connection.
//!
//! Found by what the process's standard input and output are, not by its arguments: `bash -i >& /dev/tcp/…`, `nc -e`, and a shell
//! that a Python program starts with its socket as standard input look alike here. A shell behind a pseudo-terminal or a
//! pair of pipes that another program feeds from its socket is not found so.

use policyd_api::{Process, Threat};

use crate::catalog::threat;
use crate::family::Family;
use crate::{Descriptor, started, who};

/// When an interpreter that connects is looked at, ms: it makes the socket its standard input only then.
pub(crate) const DELAYS_MS: [u64; 3] = [50, 300, 800];

/// Programs that run what they read.
const INTERPRETERS: [&str; 17] = [
    "sh", "bash", "dash", "zsh", "ksh", "mksh", "ash", "fish", "csh", "tcsh", "busybox", "perl", "ruby",
    "php", "node", "pwsh", "awk",
];
/// The same with a version behind the name: `python3.11`, `lua5.4`.
const VERSIONED: [&str; 6] = ["python", "perl", "ruby", "php", "lua", "tclsh"];

pub(crate) fn is_interpreter(process: &Process) -> bool {
    let Some(exe) = &process.exe else { return false };
    let name = exe.rsplit('/').next().unwrap_or(exe);
    INTERPRETERS.contains(&name)
        || VERSIONED.iter().any(|word| {
            name.strip_prefix(word)
                .is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit() || c == '.'))
        })
}

/// `sockets`: those among its descriptors 0 to 2.
pub(crate) fn look(process: &Process, family: &Family, sockets: &[Descriptor]) -> Option<(Threat, String)> {
    let input = sockets.iter().find(|socket| socket.fd == 0)?;
    let remote = input.remote?;
    let same = |socket: &&Descriptor| (socket.local, socket.remote) == (input.local, input.remote);
    sockets.iter().filter(|socket| socket.fd == 1).find(same)?;
    let known = family.connection(input.local, remote);
    // A connection that nobody told of is from before the attach; who opened it is not known.
    let outgoing = known?.outgoing;
    let rule = if outgoing { "reverse-shell" } else { "bind-shell" };
    let way = if outgoing { "to" } else { "from" };
    let title = format!(
        "{} talks {way} {remote} as its standard input and output",
        who(process)
    );
    let evidence = vec![
        format!(
            "descriptors 0 and 1 are the TCP socket {} – {remote}",
            input.local
        ),
        match outgoing {
            true => "the guest opened that connection".to_owned(),
            false => format!("{remote} opened that connection"),
        },
        started(process),
    ];
    let exe = process.exe.as_deref().unwrap_or(&process.comm);
    Some((
        threat(rule, title, evidence, Some(process)),
        format!("{exe} {remote}"),
    ))
}
