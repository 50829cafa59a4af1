// SPDX-License-Identifier: GPL-3.0-only
//! What a trap costs, in exits and instructions: times in an emulator say nothing, these are exact.
//!
//! A guest opens connections to a closed port of its own; each meets a probe on tcp_connect once. What the same connections
//! cost without a probe is taken off.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use xmesh_rig::{Discard, Job, Progress, Rig, programs};

use super::child;
use super::counters::Counts;
use super::report::{Row, Section, median};
use crate::demo::mesh;

/// Traps of a run.
const CONNECTS: u32 = 300;
/// Programs of a run.
const PROGRAMS: u32 = 60;
/// The guest that is probed.
const GUEST: &str = "web1";
/// Where the programs and what they print are put.
const TRAP: &str = "/tmp/bench-trap";
const CONNECT: &str = "/tmp/bench-connects";
const LOG: &str = "/tmp/bench-trap.log";
/// Where maps are pinned that no vif uses.
const PINS: &str = "/sys/fs/bpf/xmesh-bench";
/// Intel's numbers of exit reasons (SDM volume 3, appendix C): exception, and monitor trap flag, the single step. Exceptions are
/// #BP and, where Xen loads a guest's FPU state only when it is used, #NM: once dom0 has run, the guest meets that too.
const TRAP_REASONS: [u32; 2] = [0, 37];

/// A way to serve traps.
struct Way {
    title: &'static str,
    flags: &'static [&'static str],
}

const WAYS: [Way; 4] = [
    Way {
        title: "one exit: past the NOP",
        flags: &[],
    },
    Way {
        title: "one exit, process and socket read",
        flags: &["--read"],
    },
    Way {
        title: "single step, view put back by Xen",
        flags: &["--step"],
    },
    Way {
        title: "an event for breakpoint and step, views switched from dom0, as xen-access does",
        flags: &["--slow-step"],
    },
];

/// Measures.
///
/// # Errors
/// Where the rig's emulator does not count, or something in it fails.
pub fn in_rig(rig: &Rig, runs: u32) -> anyhow::Result<Vec<Section>> {
    let progress = Progress::new(false);
    let example = programs::example(rig.xen(), "vmi-xen", "trap", &progress)?;
    rig.push(&example, "dom0", TRAP)?;
    rig.push(&programs::guest("connects")?, GUEST, CONNECT)?;
    // A guest has one watcher at a time, and one that is about to end would be counted.
    mesh::end(rig)?;
    Counts::now(rig, TRAP).context("only the Bochs that the rig builds counts")?;

    progress.say("without a probe");
    let base = costs(rig, runs)?;
    let without = programs_cost(rig, runs)?;
    let mut sections = Vec::new();
    let mut one_exit: Option<Vec<Row>> = None;
    for way in &WAYS {
        progress.say(way.title);
        let watcher = Watcher::start(rig, way.flags)?;
        let costs = costs(rig, runs)?;
        let told = watcher.stop()?;
        let mut rows = rows(&base, &costs, CONNECTS)?;
        rows.extend(child::rows(&told));
        let rows = match &one_exit {
            Some(first) => against(rows, first),
            None => rows,
        };
        if one_exit.is_none() {
            one_exit = Some(
                rows.iter()
                    .map(|row| Row::new(&row.what, row.value, &row.unit))
                    .collect(),
            );
        }
        sections.push(section(way.title, runs, rows));
    }

    progress.say("the ring");
    let watcher = Watcher::start(rig, &["--spin"])?;
    rig.check(GUEST, &[CONNECT, &CONNECTS.to_string()])?;
    let ring = child::rows(&watcher.stop()?);

    progress.say("policyd");
    mesh::install(rig)?;
    mesh::start(rig)?;
    mesh::wait_for_sight(rig, &[GUEST])?;
    let costs = costs(rig, runs)?;
    progress.say("programs that come and go");
    let with = programs_cost(rig, runs)?;
    rig.exec("dom0", &["pkill", "-x", "policyd"])?;
    let mut rows = against(rows(&base, &costs, CONNECTS)?, &one_exit.unwrap_or_default());
    progress.say("its parts");
    rows.extend(ring);
    rows.extend(part(rig, &progress, "policy", "decide", "")?);
    rows.extend(part(rig, &progress, "netback-filter", "verdicts", PINS)?);
    sections.push(section(
        "policyd: read, decided, written to the map, logged",
        runs,
        rows,
    ));
    sections.push(Section {
        title: "policyd: a program that is started, connects and ends".to_owned(),
        method: format!(
            "a program, of {PROGRAMS} that another starts one after the other, less what the same cost without policyd, beside what they cost then; \
             median of {runs} runs"
        ),
        rows: programs_rows(&without, &with)?,
    });
    Ok(sections)
}

/// What a part of policyd's work at a trap takes by itself.
fn part(
    rig: &Rig,
    progress: &Progress,
    package: &str,
    example: &str,
    argument: &str,
) -> anyhow::Result<Vec<Row>> {
    let program = programs::example(rig.xen(), package, example, progress)?;
    let there = format!("/tmp/bench-{example}");
    rig.push(&program, "dom0", &there)?;
    Ok(child::rows(&rig.check("dom0", &[&there, argument])?))
}

fn section(title: &str, runs: u32, rows: Vec<Row>) -> Section {
    Section {
        title: title.to_owned(),
        method: format!(
            "a trap, of {CONNECTS}, less what the same connections cost without a probe; median of {runs} runs"
        ),
        rows,
    }
}

/// The example, at work in dom0.
struct Watcher<'r> {
    rig: &'r Rig,
    job: Job,
}

impl<'r> Watcher<'r> {
    fn start(rig: &'r Rig, flags: &[&str]) -> anyhow::Result<Watcher<'r>> {
        let domid = rig.domain(GUEST)?.context("the rig has no web1")?.id;
        rig.exec("dom0", &["rm", "-f", LOG])?;
        let command = format!(
            "exec {TRAP} watch {domid} tcp_connect --quiet {} > {LOG} 2>&1",
            flags.join(" ")
        );
        let job = rig.spawn("dom0", &["sh", "-c", &command], Discard)?;
        let watcher = Watcher { rig, job };
        let end = Instant::now() + Duration::from_secs(180);
        while !watcher.log()?.contains("armed tcp_connect") {
            if Instant::now() > end || !watcher.job.is_running() {
                bail!("the example armed nothing: {}", watcher.log()?);
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(watcher)
    }

    fn log(&self) -> anyhow::Result<String> {
        Ok(self.rig.exec("dom0", &["cat", LOG])?.text())
    }

    /// Ends it; gives what it printed.
    fn stop(self) -> anyhow::Result<String> {
        // By its whole name: pkill -x compares the first 15 bytes.
        self.rig.check("dom0", &["pkill", "-INT", "-x", "bench-trap"])?;
        let Watcher { rig, job } = self;
        let status = job.wait()?;
        let text = rig.exec("dom0", &["cat", LOG])?.text();
        ensure!(status == 0, "the example ended with {status}: {text}");
        Ok(text)
    }
}

/// What the connections of each run cost in all.
fn costs(rig: &Rig, runs: u32) -> anyhow::Result<Vec<Counts>> {
    counted(rig, runs, &[CONNECT], CONNECTS)
}

/// The same of programs.
fn programs_cost(rig: &Rig, runs: u32) -> anyhow::Result<Vec<Counts>> {
    counted(rig, runs, &[CONNECT, "each"], PROGRAMS)
}

fn counted(rig: &Rig, runs: u32, command: &[&str], count: u32) -> anyhow::Result<Vec<Counts>> {
    let run = |count: &str| rig.check(GUEST, &[command, &[count]].concat());
    // The first meets cold caches, here and in the guest.
    run("10")?;
    (0..runs)
        .map(|_| {
            let before = Counts::now(rig, TRAP)?;
            run(&count.to_string())?;
            Ok(Counts::now(rig, TRAP)?.since(&before))
        })
        .collect()
}

/// What policyd adds to a program, beside what the program costs.
fn programs_rows(without: &[Counts], with: &[Counts]) -> anyhow::Result<Vec<Row>> {
    let each = |counts: &[Counts], of: &dyn Fn(&Counts) -> u64| {
        let middle = median(counts.iter().map(|counts| of(counts) as f64).collect()).context("no run")?;
        anyhow::Ok(middle / f64::from(PROGRAMS))
    };
    let all = |counts: &Counts| counts.get("instructions");
    let mut rows = Vec::new();
    for (what, unit, of) in [
        (
            "instructions, all",
            "instructions",
            &all as &dyn Fn(&Counts) -> u64,
        ),
        ("exits, all", "exits", &|counts| counts.get("exits")),
    ] {
        let (before, after) = (each(without, of)?, each(with, of)?);
        rows.push(Row::new(what, after - before, unit).against("the program itself", before));
    }
    Ok(rows)
}

/// What one trap costs beyond `base`.
fn rows(base: &[Counts], costs: &[Counts], traps: u32) -> anyhow::Result<Vec<Row>> {
    let middle = |counts: &[Counts], of: &dyn Fn(&Counts) -> u64| {
        median(counts.iter().map(|counts| of(counts) as f64).collect()).context("no run")
    };
    type Counter<'c> = (&'c str, &'c str, &'c dyn Fn(&Counts) -> u64);
    let counters: [Counter<'_>; 6] = [
        ("exits by exception (#BP, #NM)", "exits", &|c| {
            c.of("exits", &TRAP_REASONS[..1])
        }),
        ("exits by step", "exits", &|c| c.of("exits", &TRAP_REASONS[1..])),
        ("exits, all", "exits", &|c| c.get("exits")),
        ("host, from those exits to the next entry", "instructions", &|c| {
            c.of("host-instructions", &TRAP_REASONS)
        }),
        ("host, all", "instructions", &Counts::host),
        ("guest", "instructions", &|c| c.get("guest-instructions")),
    ];
    let mut rows = Vec::new();
    for (what, unit, of) in counters {
        let value = (middle(costs, of)? - middle(base, of)?) / f64::from(traps);
        rows.push(Row::new(what, value, unit));
    }
    Ok(rows)
}

/// Holds each row against the one of the same name.
fn against(rows: Vec<Row>, others: &[Row]) -> Vec<Row> {
    let hold = |row: Row| match others.iter().find(|other| other.what == row.what) {
        // A ratio to next to nothing says nothing.
        Some(other) if other.value.abs() >= 0.5 => row.against("one exit", other.value),
        _ => row,
    };
    rows.into_iter().map(hold).collect()
}
