// SPDX-License-Identifier: GPL-3.0-only
//! Completions: the script for a shell, and what that script asks this tool while somebody types. So names of domains, policy
//! sets and routes are those that there are at the moment.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::{CommandFactory, ValueEnum};
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};
use policyd_api::{Client, ClientError};

use crate::args::Args;

/// By this variable the scripts ask.
const VARIABLE: &str = "_XMESH_COMPLETE";
/// Whoever presses a key does not wait longer for the daemon.
const PATIENCE: Duration = Duration::from_millis(500);

/// A shell that completes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU Bash.
    Bash,
    /// Z shell.
    Zsh,
    /// fish.
    Fish,
}

/// The script that makes a shell complete `xmesh`.
pub fn script(shell: Shell) -> std::io::Result<Vec<u8>> {
    let completer: &dyn EnvCompleter = match shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    let mut script = Vec::new();
    // By its name, not by the path of the one that runs now: packages are built elsewhere.
    completer.write_registration(VARIABLE, "xmesh", "xmesh", "xmesh", &mut script)?;
    Ok(script)
}

/// Answers a script that asks, and ends; else does nothing.
pub fn answer() {
    CompleteEnv::with_factory(Args::command).var(VARIABLE).complete();
}

/// Names of domains.
pub fn domains() -> ArgValueCandidates {
    ArgValueCandidates::new(|| asked(|client| Ok(client.domains()?.into_iter().map(|d| d.name).collect())))
}

/// Names of policy sets in force.
pub fn sets() -> ArgValueCandidates {
    ArgValueCandidates::new(|| asked(|client| Ok(client.policies()?.into_iter().map(|p| p.name).collect())))
}

/// Names of routes.
pub fn routes() -> ArgValueCandidates {
    ArgValueCandidates::new(|| asked(|client| Ok(client.routes()?.into_iter().map(|r| r.name).collect())))
}

/// Names of domains and routes: whom a flow may be opened to.
pub fn targets() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        asked(|client| {
            let routes = client.routes()?.into_iter().map(|r| r.name);
            let domains = client.domains()?.into_iter().map(|d| d.name);
            Ok(domains.chain(routes).collect())
        })
    })
}

/// What the daemon says within [`PATIENCE`]; nothing without it, since nobody reads an error in the midst of a line.
fn asked(
    question: impl FnOnce(&Client) -> Result<Vec<String>, ClientError> + Send + 'static,
) -> Vec<CompletionCandidate> {
    let (answer, answers) = mpsc::channel();
    thread::spawn(move || {
        let names = Client::new(socket(std::env::args_os())).and_then(|client| question(&client));
        // Nobody listens any more if it took too long.
        let _ = answer.send(names.unwrap_or_default());
    });
    let names = answers.recv_timeout(PATIENCE).unwrap_or_default();
    // Names come from xenstore: none may write to the terminal.
    let typed = |name: &String| !name.chars().any(char::is_control);
    names
        .into_iter()
        .filter(typed)
        .map(CompletionCandidate::new)
        .collect()
}

/// The socket that the line being typed names.
fn socket(words: impl Iterator<Item = OsString>) -> PathBuf {
    let mut words = words.skip_while(|word| word != "--").skip(1);
    while let Some(word) = words.next() {
        let Some(word) = word.to_str() else { continue };
        match word.strip_prefix("--socket") {
            Some("") => return words.next().map_or_else(default, PathBuf::from),
            Some(rest) => match rest.strip_prefix('=') {
                Some(path) => return path.into(),
                None => continue,
            },
            None => {}
        }
    }
    default()
}

fn default() -> PathBuf {
    policyd_api::SOCKET.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_the_lines_own() {
        let of = |line: &str| socket(line.split(' ').map(OsString::from));
        assert_eq!(of("xmesh -- xmesh --socket /s ps w"), PathBuf::from("/s"));
        assert_eq!(of("xmesh -- xmesh ps --socket=/t w"), PathBuf::from("/t"));
        assert_eq!(of("xmesh -- xmesh ps w"), default());
        assert_eq!(of("xmesh -- xmesh --socket"), default());
    }
}
