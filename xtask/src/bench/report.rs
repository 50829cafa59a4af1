// SPDX-License-Identifier: GPL-3.0-only
//! What was measured: one type for every measurement, shown as a table and kept as JSON.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use super::machine::Machine;

/// All that one call of `cargo xtask bench` measured.
#[derive(Serialize)]
pub struct Report {
    /// Name of the measurement.
    pub name: String,
    /// Where and when.
    pub machine: Machine,
    /// What.
    pub sections: Vec<Section>,
}

/// Values that were measured in one way.
#[derive(Serialize)]
pub struct Section {
    /// What they are about, such as a kernel's release.
    pub title: String,
    /// How they were measured, in a sentence.
    pub method: String,
    /// The values.
    pub rows: Vec<Row>,
}

/// One value.
#[derive(Serialize)]
pub struct Row {
    /// What it is the cost of.
    pub what: String,
    /// The value: the median, where there are several runs.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// What it is held against.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub against: Vec<Against>,
}

/// Something to hold a value against.
#[derive(Serialize)]
pub struct Against {
    /// What it is; says so where it was not measured here.
    pub what: String,
    /// Its value, in the row's unit.
    pub value: f64,
    /// The row's value over this one.
    pub ratio: f64,
}

impl Row {
    /// A value alone.
    pub fn new(what: impl Into<String>, value: f64, unit: impl Into<String>) -> Row {
        Row {
            what: what.into(),
            value,
            unit: unit.into(),
            against: Vec::new(),
        }
    }

    /// Holds the value against another, which must not be zero to have a ratio.
    #[must_use]
    pub fn against(mut self, what: impl Into<String>, value: f64) -> Row {
        self.against.push(Against {
            what: what.into(),
            value,
            ratio: self.value / value,
        });
        self
    }
}

impl Report {
    /// Writes the report to `NAME.json` in `folder`; gives the path.
    ///
    /// # Errors
    /// Where that cannot be written.
    pub fn save(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        let path = folder.join(format!("{}.json", self.name));
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        let text = serde_json::to_string_pretty(self)?;
        fs::write(&path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        for section in &self.sections {
            writeln!(f, "\n{} ({})", section.title, section.method)?;
            let width = section.rows.iter().map(|row| row.what.chars().count()).max();
            for row in &section.rows {
                let Row { what, unit, .. } = row;
                write!(
                    f,
                    "  {what:<width$}  {:>12} {unit}",
                    figure(row.value),
                    width = width.unwrap_or(0)
                )?;
                for against in &row.against {
                    let (ratio, value) = (figure(against.ratio), figure(against.value));
                    write!(f, "; {ratio} × {} ({value} {unit})", against.what)?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

/// Three digits that tell something; whole numbers and large ones whole.
fn figure(value: f64) -> String {
    let decimals = match value.abs() {
        _ if value.fract() == 0.0 => 0,
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        size if size >= 0.01 => 3,
        _ => 6,
    };
    format!("{value:.decimals$}")
}

/// The middle one of some values; between two, their mean. None of none.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = values.len() / 2;
    match values.len() {
        0 => None,
        len if len % 2 == 1 => values.get(upper).copied(),
        _ => Some((values.get(upper - 1)? + values.get(upper)?) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 100.0]), Some(3.0));
        assert_eq!(median(vec![1.0, 2.0, 4.0, 100.0]), Some(3.0));
    }

    #[test]
    fn figures_have_the_digits_that_tell() {
        assert_eq!(figure(20.0), "20");
        assert_eq!(figure(1234.5), "1234");
        assert_eq!(figure(0.1234), "0.123");
        assert_eq!(figure(2.345), "2.35");
    }

    #[test]
    fn a_report_is_a_table_and_json_with_the_same_values() {
        let row = Row::new("finding the kernel", 0.15, "s").against("the goal", 0.2);
        let report = Report {
            name: "sample".to_owned(),
            machine: Machine::sample(),
            sections: vec![Section {
                title: "6.1".to_owned(),
                method: "CPU time".to_owned(),
                rows: vec![row],
            }],
        };
        let line = "  finding the kernel         0.150 s; 0.750 × the goal (0.200 s)\n";
        assert!(report.to_string().ends_with(line), "{report}");
        let folder = tempfile::tempdir().unwrap();
        let text = fs::read_to_string(report.save(folder.path()).unwrap()).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let row = &json["sections"][0]["rows"][0];
        assert_eq!(row["value"], 0.15);
        assert_eq!(row["against"][0]["value"], 0.2);
        assert!(json["machine"]["cpu"].is_string());
    }
}
