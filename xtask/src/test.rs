// SPDX-License-Identifier: GPL-3.0-only
//! `cargo xtask test`: everything, counted honestly.

mod count;

use crate::demo;
use clap::Args;
pub use count::Count;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use xmesh_rig::{Progress, Rig, RigConfig, RigError, programs, setup};

/// Which tests.
#[derive(Args)]
pub struct Options {
    /// Leave out what needs a rig
    #[arg(long)]
    quick: bool,
    /// Use this rig, and leave it up [default: one of its own, ended at the end]
    #[arg(long)]
    rig: Option<String>,
}

/// The rig that tests get when none is named.
const OWN_RIG: &str = "test";

/// Runs them. The last line is `N passed, N failed`; the exit status is 0 only if none failed.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let mut count = Count::default();
    setup::ensure(&[setup::PROGRAMS, setup::TESTS].concat(), &Progress::new(false))?;
    count.add(&cargo_test(&["--workspace"], None)?);
    if !options.quick {
        count.add(&in_rig(options)?);
    }
    println!("{} passed, {} failed", count.passed, count.failed);
    Ok(if count.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The tests that need a rig: marked `#[ignore]`, so that a plain `cargo test` says that it left them out.
fn in_rig(options: &Options) -> anyhow::Result<Count> {
    let name = options.rig.as_deref().unwrap_or(OWN_RIG);
    let config = RigConfig {
        name: name.to_owned(),
        ..RigConfig::default()
    };
    let rig = match Rig::up(&config) {
        Ok(rig) => rig,
        // What could not be tried has not passed.
        Err(error) => {
            eprintln!("error: no rig for the tests: {error}");
            return Ok(Count { passed: 0, failed: 1 });
        }
    };
    let mut demo = demo::in_rig(&rig);
    // One at a time: they share the domains.
    let arguments = [
        "--package",
        "xmesh-rig",
        "--test",
        "*",
        "--",
        "--ignored",
        "--test-threads=1",
    ];
    let tests = cargo_test(&arguments, Some(&rig));
    if options.rig.is_none() {
        rig.down()?;
    }
    demo.add(&tests?);
    Ok(demo)
}

fn cargo_test(arguments: &[&str], rig: Option<&Rig>) -> anyhow::Result<Count> {
    let mut command = Command::new("cargo");
    command
        .args(["test", "--no-fail-fast"])
        .args(arguments)
        .current_dir(programs::workspace());
    command.env_remove("XMESH_RIG_NAME");
    if let Some(rig) = rig {
        command.env("XMESH_RIG_NAME", rig.name());
    }
    let start = |source| RigError::Start {
        program: "cargo".to_owned(),
        source,
    };
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let errors = thread::spawn(move || pass_on(stderr, std::io::stderr()));
    let output = pass_on(stdout, std::io::stdout());
    // A thread that panicked has told nothing: what it was to tell counts as not seen.
    let errors = errors.join().unwrap_or_default();
    let status = child.wait().map_err(start)?;
    Ok(Count::of(&output, &errors, status.success()))
}

/// Copies a stream line by line, and gives it whole.
fn pass_on(from: Option<impl Read>, mut to: impl Write) -> String {
    let mut text = String::new();
    let Some(from) = from else { return text };
    for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        // A reader of ours that is gone does not make tests fail.
        let _ = writeln!(to, "{line}");
        text.push_str(&line);
        text.push('\n');
    }
    text
}
