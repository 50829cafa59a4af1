// SPDX-License-Identifier: GPL-3.0-only
//! What is served, against what others think of it: the API against its own document, the metrics as Prometheus reads them.

use std::process::{Command, Stdio};

use xmesh_rig::programs;

use super::{Count, NOT_HERE};

/// A script, with its arguments and what is left out without its tool.
type Script = (&'static str, &'static [&'static str], &'static str);

const SCRIPTS: [Script; 2] = [
    (
        "tests/schemathesis.sh",
        &["--max-examples", "20"],
        "the API was not tried with schemathesis",
    ),
    (
        "tests/promtool.sh",
        &[],
        "the metrics were not tried with promtool",
    ),
];

/// Runs each, as one test. Where its tool cannot be had that is said and not counted: the tests of `policyd` look at the same, with fewer
/// requests.
pub fn run() -> Count {
    let mut count = Count::default();
    for script in &SCRIPTS {
        count.add(&one(script));
    }
    count
}

fn one((script, arguments, left_out): &Script) -> Count {
    let mut command = Command::new(programs::workspace().join(script));
    let status = command.args(*arguments).stdin(Stdio::null()).status();
    let passed = match status {
        Ok(status) if status.code() == Some(NOT_HERE) => {
            eprintln!("note: {left_out}");
            return Count::default();
        }
        Ok(status) => status.success(),
        Err(error) => {
            eprintln!("error: {script}: {error}");
            false
        }
    };
    if passed {
        Count {
            passed: 1,
            ..Count::default()
        }
    } else {
        Count::failure(script)
    }
}
