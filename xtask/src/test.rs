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
    /// Use this rig, and leave it up [default: one of each processor, both at once, ended at the end]
    #[arg(long)]
    rig: Option<String>,
}

/// The rigs that tests get when none is named. Both at once: an emulated machine is one thread, and its clock goes by the
/// instructions that it has carried out.
const OWN_RIGS: [(&str, Cpu); 2] = [("test", Cpu::Intel), ("test-amd", Cpu::Amd)];
/// The module of the tests that need an AMD processor.
const ON_AMD: &str = "amd::";
/// What is run there: what differs without altp2m, and of the rest what stands on traps (facts, traces, what a death leaves,
/// what is seen beside traps). All others are alike; to run one there too, name a rig of that kind.
const WITHOUT_ALTP2M: [&str; 7] = [
    ON_AMD,
    "patched_by_",
    "a_guests_own_breakpoint",
    "every_",
    "daemon_and_guardian",
    "datagrams_of_sockets",
    "who_hides",
];

/// Runs them. The last line is `N passed, N failed`; the exit status is 0 only if none failed.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let mut count = Count::default();
    setup::ensure(&[setup::PROGRAMS, setup::TESTS].concat(), &Progress::new(false))?;
    count.add(&cargo_test(&["--workspace"], None, Echo::Live)?);
    if !options.quick {
        match &options.rig {
            Some(name) => {
                let cpu = Rig::attach(name).map_or(Cpu::default(), |rig| rig.cpu());
                count.add(&in_rig(name, cpu, true, Echo::Live)?);
            }
            None => {
                for each in in_own_rigs() {
                    count.add(&each?);
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

/// When a run's output is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Echo {
    /// Line by line.
    Live,
    /// When the run is over: another is shown live meanwhile.
    AtTheEnd,
}

/// Runs in all of [`OWN_RIGS`] at once, the first of them shown live.
fn in_own_rigs() -> Vec<anyhow::Result<Count>> {
    let run = |(index, (name, cpu)): (usize, (&'static str, Cpu))| {
        let echo = if index == 0 { Echo::Live } else { Echo::AtTheEnd };
        thread::spawn(move || in_rig(name, cpu, false, echo))
    };
    let threads: Vec<_> = OWN_RIGS.into_iter().enumerate().map(run).collect();
    let outcome = |thread: thread::JoinHandle<_>| {
        thread
            .join()
            .unwrap_or_else(|_| Err(anyhow::anyhow!("a run in a rig ended by a panic; see above")))
    };
    threads.into_iter().map(outcome).collect()
}

/// The tests that need a rig: marked `#[ignore]`, so that a plain `cargo test` says that it left them out.
fn in_rig(name: &str, cpu: Cpu, keep: bool, echo: Echo) -> anyhow::Result<Count> {
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
        "on_rig",
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
    let tests = cargo_test(&arguments, Some(&rig), echo);
    if !keep {
        rig.down()?;
    }
    count.add(&tests?);
    Ok(count)
}

fn cargo_test(arguments: &[&str], rig: Option<&Rig>, echo: Echo) -> anyhow::Result<Count> {
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
    let live = echo == Echo::Live;
    let errors = thread::spawn(move || pass_on(stderr, live.then(std::io::stderr)));
    let output = pass_on(stdout, live.then(std::io::stdout));
    // A thread that panicked has told nothing: what it was to tell counts as not seen.
    let errors = errors.join().unwrap_or_default();
    let status = child.wait().map_err(start)?;
    if !live {
        // A reader of ours that is gone does not make tests fail.
        let _ = std::io::stderr().write_all(errors.as_bytes());
        let _ = std::io::stdout().write_all(output.as_bytes());
    }
    Ok(Count::of(&output, &errors, status.success()))
}

/// Gives a stream whole, and copies it line by line meanwhile.
fn pass_on(from: Option<impl Read>, mut to: Option<impl Write>) -> String {
    let mut text = String::new();
    let Some(from) = from else { return text };
    for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        if let Some(to) = &mut to {
            // A reader of ours that is gone does not make tests fail.
            let _ = writeln!(to, "{line}");
        }
        text.push_str(&line);
        text.push('\n');
    }
    text
}
