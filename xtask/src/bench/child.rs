// SPDX-License-Identifier: GPL-3.0-only
//! Programs that measure themselves: they print a line `bench: VALUE UNIT WHAT` for each value, between whatever else they print.

use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use xmesh_rig::programs;

use super::report::{Row, median};

/// Runs cargo in the workspace and reads the values printed on standard output.
///
/// # Errors
/// Where it fails or prints no value.
pub fn cargo(arguments: &[&str]) -> anyhow::Result<Vec<Row>> {
    measure(
        programs::cargo()
            .args(arguments)
            .current_dir(programs::workspace()),
    )
}

fn measure(command: &mut Command) -> anyhow::Result<Vec<Row>> {
    let text = output(command)?;
    let rows = rows(&text);
    ensure!(!rows.is_empty(), "{command:?} printed no value:\n{text}");
    Ok(rows)
}

/// Runs a program; gives its standard output.
///
/// # Errors
/// Where it fails.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    Ok(text.into_owned())
}

/// The values among the lines of a program's output.
pub fn rows(text: &str) -> Vec<Row> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.trim_start().strip_prefix("bench: ")?.splitn(3, ' ');
            let value = words.next()?.parse().ok()?;
            let unit = words.next()?;
            Some(Row::new(words.next()?, value, unit))
        })
        .collect()
}

/// Rows of several runs become one row each, with the median.
pub fn medians(runs: Vec<Vec<Row>>) -> Vec<Row> {
    let Some(first) = runs.first() else {
        return Vec::new();
    };
    first
        .iter()
        .filter_map(|row| {
            let same = |other: &&Row| other.what == row.what && other.unit == row.unit;
            let values = runs.iter().flatten().filter(same).map(|row| row.value).collect();
            Some(Row::new(&row.what, median(values)?, &row.unit))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_that_measure_count() {
        let text = "running\nbench: 12.5 ns a decision among 3 rules\nbench: lots ns no number\ntest ok\n";
        let rows = rows(text);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].what, "a decision among 3 rules");
        assert_eq!((rows[0].value, rows[0].unit.as_str()), (12.5, "ns"));
    }

    #[test]
    fn several_runs_become_their_median() {
        let run = |value: f64| vec![Row::new("a", value, "ns"), Row::new("b", 1.0, "ns")];
        let rows = medians(vec![run(9.0), run(2.0), run(3.0)]);
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].value, 3.0);
    }
}
