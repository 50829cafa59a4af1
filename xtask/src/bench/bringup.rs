// SPDX-License-Identifier: GPL-3.0-only
//! What it costs to understand a guest of which nothing is known: from a dump, and in a rig.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use xmesh_rig::{Progress, Rig, Xen, programs};

use super::child;
use super::report::{Row, Section, median};

/// CPU seconds in which a guest is to be understood.
const GOAL: f64 = 0.2;
/// CPU seconds of mquire's first query of tasks, as its authors published it.
const PUBLISHED: f64 = 3.0;
const QUERY: &str = "SELECT * FROM tasks";
const LIVE: &str = "/tmp/bench-bringup";

/// Measures on a dump of the newest kernel with 512 MiB and on one of each kernel that the tests of dumps try; live in the
/// rig of that name too, if one is named.
///
/// # Errors
/// Where no dump can be made or read.
pub fn measure(rig: Option<&str>, runs: u32) -> anyhow::Result<Vec<Section>> {
    let progress = Progress::new(false);
    progress.say("dumps (made once)");
    let dumps = dumps()?;
    let example = |xen| programs::example(xen, "vmi-xen", "bringup", &progress);
    let here = example(Xen::here())?;
    let inspect = programs::build(Xen::here(), &progress)?
        .into_iter()
        .find(|path| path.ends_with("xmesh"));
    let mut sections = Vec::new();
    for dump in &dumps {
        progress.say(dump.display().to_string());
        sections.push(of_dump(&here, inspect.as_deref(), dump, runs)?);
    }
    if let Some(name) = rig {
        let rig = Rig::attach(name)?;
        rig.push(&example(rig.xen())?, "dom0", LIVE)?;
        for guest in ["web1", "db1"] {
            progress.say(guest);
            sections.push(of_domain(&rig, guest, runs)?);
        }
    }
    Ok(sections)
}

/// The dumps, from the tests that make them.
pub(super) fn dumps() -> anyhow::Result<Vec<PathBuf>> {
    let output = programs::cargo()
        .args(["test", "--quiet", "--package", "vmi-xen", "--test", "dumps", "--"])
        .args(["--ignored", "--exact", "--nocapture", "dumps_to_measure"])
        .current_dir(programs::workspace())
        .stderr(Stdio::inherit())
        .output()
        .context("starting cargo")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "no dumps: {text}");
    let dumps: Vec<PathBuf> = text
        .lines()
        .filter_map(|line| Some(line.split_once("dump: ")?.1.into()))
        .collect();
    ensure!(!dumps.is_empty(), "the tests named no dump: {text}");
    Ok(dumps)
}

fn of_dump(example: &Path, xmesh: Option<&Path>, dump: &Path, runs: u32) -> anyhow::Result<Section> {
    let run = || child::output(Command::new(example).arg("dump").arg(dump));
    // The first run brings the file into memory.
    let first = run()?;
    let release = told(&first, "release ");
    let outputs: Vec<String> = (0..runs).map(|_| run()).collect::<Result<_, _>>()?;
    let mut rows = child::medians(outputs.iter().map(|text| child::rows(text)).collect());
    if let Some(xmesh) = xmesh {
        let mut command = Command::new(xmesh);
        command.arg("inspect").arg(dump);
        rows.push(Row::new(
            "xmesh inspect, the whole program",
            cpu_time(&mut command, runs)?,
            "s",
        ));
    }
    let mquire = mquire(example, dump, runs)?;
    let method = format!(
        "CPU time, user and system, median of {runs} runs, file in memory; {} processes{}",
        told(&first, "processes "),
        match mquire {
            Mquire::Absent => "; mquire is not on PATH (cargo install mquire)",
            Mquire::Refused => "; mquire does not read this dump",
            Mquire::Took(_) => "",
        }
    );
    let rows = rows
        .into_iter()
        .map(|row| {
            if row.what != "both" {
                return row;
            }
            let row = row
                .against("the goal", GOAL)
                .against("mquire as published, not measured", PUBLISHED);
            match mquire {
                Mquire::Took(time) => row.against("mquire on this dump, now", time),
                _ => row,
            }
        })
        .collect();
    Ok(Section {
        title: release,
        method,
        rows,
    })
}

/// What another program needs for the same.
#[derive(Clone, Copy)]
enum Mquire {
    Absent,
    Refused,
    Took(f64),
}

/// Runs mquire's first query of tasks, where it is installed. It reads raw images.
fn mquire(example: &Path, dump: &Path, runs: u32) -> anyhow::Result<Mquire> {
    let is_there = Command::new("mquire")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !is_there.is_ok_and(|status| status.success()) {
        return Ok(Mquire::Absent);
    }
    let folder = tempfile::tempdir_in(dump.parent().unwrap_or(Path::new(".")))?;
    let image = folder.path().join("memory.raw");
    let written = Command::new(example).arg("raw").arg(dump).arg(&image).status()?;
    ensure!(written.success(), "{}: {written}", example.display());
    let mut query = Command::new("mquire");
    query.arg("query").arg(&image).arg(QUERY);
    match cpu_time(&mut query, runs) {
        Ok(time) => Ok(Mquire::Took(time)),
        Err(_) => Ok(Mquire::Refused),
    }
}

/// CPU seconds of a program, those of the children it waited for included: the median of some runs behind one that counts not.
fn cpu_time(command: &mut Command, runs: u32) -> anyhow::Result<f64> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut one = || -> anyhow::Result<f64> {
        let before = of_children()?;
        let status = command
            .status()
            .with_context(|| format!("starting {command:?}"))?;
        ensure!(status.success(), "{command:?}: {status}");
        Ok(of_children()? - before)
    };
    one()?;
    let times = (0..runs).map(|_| one()).collect::<Result<_, _>>()?;
    median(times).context("no run")
}

/// CPU seconds of all children that were waited for.
fn of_children() -> anyhow::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    Ok((usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6)
}

fn of_domain(rig: &Rig, guest: &str, runs: u32) -> anyhow::Result<Section> {
    let domid = rig
        .domain(guest)?
        .with_context(|| format!("the rig has no {guest}"))?
        .id;
    let run = || rig.check("dom0", &[LIVE, "domain", &domid.to_string()]);
    let outputs: Vec<String> = (0..runs).map(|_| run()).collect::<Result<_, _>>()?;
    let first = outputs.first().map_or("", String::as_str);
    Ok(Section {
        title: format!("{guest}, live, {}", told(first, "release ")),
        method: format!(
            "instructions of the whole rig meanwhile, counted by its emulator, median of {runs} runs; {} processes",
            told(first, "processes ")
        ),
        rows: child::medians(outputs.iter().map(|text| child::rows(text)).collect()),
    })
}

/// The rest of the line that begins so.
pub(super) fn told(text: &str, head: &str) -> String {
    text.lines()
        .find_map(|line| line.strip_prefix(head))
        .unwrap_or_default()
        .to_owned()
}
