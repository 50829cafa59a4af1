// SPDX-License-Identifier: GPL-3.0-only
//! A week of a busy host in the history of flows.

use super::child;
use super::report::Section;

/// Runs the test that replays the week, optimised; once, for it takes minutes.
///
/// # Errors
/// Where it fails.
pub fn measure() -> anyhow::Result<Vec<Section>> {
    let rows = child::cargo(&[
        "test",
        "--quiet",
        "--release",
        "--package",
        "policyd-store",
        "--test",
        "week",
        "--",
        "--nocapture",
    ])?;
    Ok(vec![Section {
        title: "a week of a host with 10,000 flows a second".to_owned(),
        method: "counts of each minute for each kind of flow, made up, on a file system in memory; real time, one run".to_owned(),
        rows,
    }])
}
