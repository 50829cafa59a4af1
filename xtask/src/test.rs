// SPDX-License-Identifier: GPL-3.0-only
//! `cargo xtask test`: everything, counted honestly.

mod contract;
mod count;
mod page;
mod recap;

use crate::{demo, web};
use clap::Args;
pub use count::Count;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::Instant;
use xmesh_rig::{Cpu, Progress, Rig, RigConfig, RigError, Xen, programs, setup};

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
/// What is run there besides: what stands on traps (facts, traces, what a death leaves, what is seen beside traps). All others are
/// alike; to run one there too, name a rig of that kind.
const ON_AMD_TOO: [&str; 7] = [
    "patched_by_",
    "a_guests_own_breakpoint",
    "every_",
    "whenever_its_watcher",
    "daemon_and_guardian",
    "datagrams_of_sockets",
    "who_hides",
];

/// Where rigs of both kinds are up, these are left to the one without altp2m: they are alike there, and both are done sooner.
const SHARED_OUT: [&str; 6] = [
    "rig::",
    "routes::",
    "qos::",
    "rollout::",
    "suggest::",
    "threats::",
];

/// Runs them. The last line is `N passed, N failed`; the exit status is 0 only if none failed.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let mut count = Count::default();
    setup::ensure(&[setup::PROGRAMS, setup::TESTS].concat(), &Progress::new(false))?;
    web::try_fetch(&Progress::new(false));
    count.add(&cargo_test(&["--workspace"], None, Echo::Live)?);
    count.add(&contract::run());
    count.add(&page::run()?);
    if !options.quick {
        match &options.rig {
            Some(name) => {
                let mut config = RigConfig {
                    name: name.clone(),
                    ..RigConfig::default()
                };
                if let Ok(rig) = Rig::attach(name) {
                    (config.cpu, config.xen) = (rig.cpu(), rig.xen());
                }
                count.add(&in_rig(&config, true, Echo::Live, &[])?);
            }
            None => {
                let counts = in_own_rigs().unwrap_or_else(|error| vec![Err(error)]);
                for each in counts {
                    // What could not be tried has not passed.
                    count.add(&each.unwrap_or_else(|error| {
                        eprintln!("error: {error:#}");
                        Count::failure(&format!("{error:#}"))
                    }));
                }
            }
        }
    }
    print!("{}", count.recap);
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
fn in_own_rigs() -> anyhow::Result<Vec<anyhow::Result<Count>>> {
    // What goes into them is built first: beside two emulated machines a compiler takes several times as long.
    let progress = Progress::new(false);
    programs::build(Xen::default(), &progress)?;
    for example in ["kill9", "tamper"] {
        programs::example(Xen::default(), "vmi-xen", example, &progress)?;
    }
    let run = |(index, (name, cpu)): (usize, (&'static str, Cpu))| {
        let echo = if index == 0 { Echo::Live } else { Echo::AtTheEnd };
        let config = RigConfig {
            name: name.to_owned(),
            cpu,
            ..RigConfig::default()
        };
        thread::spawn(move || in_rig(&config, false, echo, &SHARED_OUT))
    };
    let threads: Vec<_> = OWN_RIGS.into_iter().enumerate().map(run).collect();
    let outcome = |thread: thread::JoinHandle<_>| {
        thread
            .join()
            .unwrap_or_else(|_| Err(anyhow::anyhow!("a run in a rig ended by a panic; see above")))
    };
    Ok(threads.into_iter().map(outcome).collect())
}

/// The tests that need a rig: marked `#[ignore]`, so that a plain `cargo test` says that it left them out. `shared_out`: what a rig
/// without altp2m has for itself.
fn in_rig(config: &RigConfig, keep: bool, echo: Echo, shared_out: &[&str]) -> anyhow::Result<Count> {
    let rig = match Rig::up(config) {
        Ok(rig) => rig,
        // What could not be tried has not passed.
        Err(error) => {
            eprintln!("error: no rig for the tests: {error}");
            return Ok(Count::failure("no rig for the tests"));
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
    match config.cpu {
        Cpu::Intel => {
            count.add(&demo::in_rig(&rig));
            for others in [&[ON_AMD], shared_out].concat() {
                arguments.extend(["--skip", others]);
            }
        }
        Cpu::Amd => arguments.extend([&[ON_AMD], &ON_AMD_TOO[..], shared_out].concat()),
    }
    let tests = cargo_test(&arguments, Some(&rig), echo);
    if !keep {
        rig.down()?;
    }
    count.add(&tests?);
    Ok(count)
}

fn cargo_test(arguments: &[&str], rig: Option<&Rig>, echo: Echo) -> anyhow::Result<Count> {
    let mut command = programs::cargo();
    command
        .args(["test", "--no-fail-fast"])
        .args(arguments)
        .current_dir(programs::workspace());
    command.env_remove("XMESH_RIG_NAME");
    if let Some(rig) = rig {
        command.env("XMESH_RIG_NAME", rig.name());
    }
    let ran = copied(&mut command, echo)?;
    Ok(Count::of(&ran.output, &ran.errors, ran.status.success()))
}

/// What a script gives where what it needs cannot be installed.
const NOT_HERE: i32 = 77;

/// What a run has said.
struct Ran {
    output: String,
    errors: String,
    status: ExitStatus,
}

/// Runs a command to its end, and shows what it says.
fn copied(command: &mut Command, echo: Echo) -> anyhow::Result<Ran> {
    let program = command.get_program().to_string_lossy().into_owned();
    let start = |source| RigError::Start {
        program: program.clone(),
        source,
    };
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let begin = Instant::now();
    let errors = thread::spawn(move || Copied::all(stderr, begin, echo, std::io::stderr()));
    let output = Copied::all(stdout, begin, echo, std::io::stdout());
    // A thread that panicked has told nothing: what it was to tell counts as not seen.
    let errors = errors.join().unwrap_or_default();
    let status = child.wait().map_err(start)?;
    // A reader of ours that is gone does not make tests fail.
    let _ = std::io::stderr().write_all(errors.held.as_bytes());
    let _ = std::io::stdout().write_all(output.held.as_bytes());
    Ok(Ran {
        output: output.text,
        errors: errors.text,
        status,
    })
}

/// A stream of a run, read to its end.
#[derive(Default)]
struct Copied {
    /// As it was.
    text: String,
    /// What is still to be shown: each line with the seconds since the run began, so that what takes long is seen.
    held: String,
}

impl Copied {
    fn all(from: Option<impl Read>, begin: Instant, echo: Echo, mut to: impl Write) -> Copied {
        let mut copied = Copied::default();
        let Some(from) = from else { return copied };
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            let shown = format!("[{:5} s] {line}\n", begin.elapsed().as_secs());
            match echo {
                // A reader of ours that is gone does not make tests fail.
                Echo::Live => drop(to.write_all(shown.as_bytes())),
                Echo::AtTheEnd => copied.held.push_str(&shown),
            }
            copied.text.push_str(&line);
            copied.text.push('\n');
        }
        copied
    }
}
