// SPDX-License-Identifier: GPL-3.0-only
//! `cargo xtask test`: everything, counted honestly.

mod count;

use crate::demo;
use clap::Args;
pub use count::Count;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use xmesh_rig::{Cpu, Progress, Rig, RigConfig, RigError, programs, setup};

/// Which tests.
#[derive(Args)]
pub struct Options {
    /// Leave out what needs a rig
    #[arg(long)]
    quick: bool,
    /// Use this rig, and leave it up [default: one of each processor, one after the other, ended at the end]
    #[arg(long)]
    rig: Option<String>,
}

/// The rigs that tests get when none is named. One after the other: each is given the whole machine.
const OWN_RIGS: [(&str, Cpu); 2] = [("test", Cpu::Intel), ("test-amd", Cpu::Amd)];
/// The module of the tests that need an AMD processor.
const ON_AMD: &str = "amd::";
/// What is run there: what differs without altp2m, and of the rest what stands on traps (facts, traces, what a death leaves,
/// what is seen beside traps). All others are alike; to run one there too, name a rig of that kind.
const WITHOUT_ALTP2M: [&str; 5] = [
    ON_AMD,
    "every_",
    "daemon_and_guardian",
    "datagrams_of_sockets",
    "who_hides",
];

/// Runs them. The last line is `N passed, N failed`; the exit status is 0 only if none failed.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let mut count = Count::default();
    setup::ensure(&[setup::PROGRAMS, setup::TESTS].concat(), &Progress::new(false))?;
    count.add(&cargo_test(&["--workspace"], None)?);
    if !options.quick {
        match &options.rig {
            Some(name) => {
                let cpu = Rig::attach(name).map_or(Cpu::default(), |rig| rig.cpu());
                count.add(&in_rig(name, cpu, true)?);
            }
            None => {
                for (name, cpu) in OWN_RIGS {
                    count.add(&in_rig(name, cpu, false)?);
                }
            }
        }
    }
    println!("{} passed, {} failed", count.passed, count.failed);
    Ok(if count.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The tests that need a rig: marked `#[ignore]`, so that a plain `cargo test` says that it left them out.
fn in_rig(name: &str, cpu: Cpu, keep: bool) -> anyhow::Result<Count> {
    let config = RigConfig {
        name: name.to_owned(),
        cpu,
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
    let mut count = Count::default();
    // One at a time: they share the domains.
    let mut arguments = vec![
        "--package",
        "xmesh-rig",
        "--test",
        "*",
        "--",
        "--ignored",
        "--test-threads=1",
    ];
    match cpu {
        Cpu::Intel => {
            count.add(&demo::in_rig(&rig));
            arguments.extend(["--skip", ON_AMD]);
        }
        Cpu::Amd => arguments.extend(WITHOUT_ALTP2M),
    }
    let tests = cargo_test(&arguments, Some(&rig));
    if !keep {
        rig.down()?;
    }
    count.add(&tests?);
    Ok(count)
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
