// SPDX-License-Identifier: GPL-3.0-only
//! Running this machine's own programs.

use crate::error::{Result, RigError};
use std::process::{Command, Stdio};

/// Lines of a failed program's output that its error repeats.
const TAIL: usize = 20;

/// A program and its arguments.
pub(crate) fn command<const N: usize>(program: &str, arguments: [&str; N]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Runs a program to its end and gives its standard output; a status other than 0 is an error.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| RigError::Start {
            program: command.get_program().to_string_lossy().into_owned(),
            source,
        })?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        return Ok(stdout.into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = stdout.lines().chain(stderr.lines()).collect();
    let tail = lines
        .get(lines.len().saturating_sub(TAIL)..)
        .unwrap_or_default()
        .join("\n");
    Err(RigError::Failed {
        command: format!("{command:?}"),
        status: output.status.to_string(),
        tail,
    })
}
