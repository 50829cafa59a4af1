// SPDX-License-Identifier: GPL-3.0-only
//! What it costs to find the process behind a flow that no trap showed, from dumps.

use std::process::Command;

use xmesh_rig::{Progress, Xen, programs};

use super::bringup::{dumps, told};
use super::child;
use super::report::Section;

/// What the others are compared with: what a tool without knowledge of the kernel's tables has to do.
const SWEEP: &str = "by all descriptors";

/// Measures on the dumps that `bench bringup` measures on.
///
/// # Errors
/// Where no dump can be made or read.
pub fn measure(runs: u32) -> anyhow::Result<Vec<Section>> {
    let progress = Progress::new(false);
    progress.say("dumps (made once)");
    let dumps = dumps()?;
    let example = programs::example(Xen::here(), "vmi-xen", "lookup", &progress)?;
    let mut sections = Vec::new();
    for dump in &dumps {
        progress.say(dump.display().to_string());
        let run = || child::output(Command::new(&example).arg(dump));
        // The first run brings the file into memory.
        let first = run()?;
        let outputs: Vec<String> = (0..runs).map(|_| run()).collect::<Result<_, _>>()?;
        let rows = child::medians(outputs.iter().map(|text| child::rows(text)).collect());
        let sweeps: Vec<(String, f64)> = rows
            .iter()
            .filter(|row| row.what == SWEEP)
            .map(|row| (row.unit.clone(), row.value))
            .collect();
        let rows = rows.into_iter().map(|row| {
            let sweep = sweeps
                .iter()
                .find(|(unit, _)| row.what != SWEEP && *unit == row.unit);
            match sweep {
                Some((_, value)) => row.against(SWEEP, *value),
                None => row,
            }
        });
        sections.push(Section {
            title: told(&first, "release "),
            method: format!(
                "one lookup, mean over {} connections of a guest with {} processes, median of {runs} runs, file in memory; reads are of physical memory",
                told(&first, "connections "),
                told(&first, "processes ")
            ),
            rows: rows.collect(),
        });
    }
    Ok(sections)
}
