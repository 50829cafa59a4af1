// SPDX-License-Identifier: GPL-3.0-only
//! What a decision costs, among few rules and among many.

use super::child;
use super::report::Section;

/// Runs the test of the policy engine's hot path, optimised.
///
/// # Errors
/// Where it fails.
pub fn measure(runs: u32) -> anyhow::Result<Vec<Section>> {
    let run = || {
        child::cargo(&[
            "test",
            "--quiet",
            "--release",
            "--package",
            "policy",
            "--test",
            "hot_path",
            "--",
            "--nocapture",
            "--exact",
            "cost_does_not_grow_with_the_policy",
        ])
    };
    let runs_of_it = (0..runs).map(|_| run()).collect::<Result<_, _>>()?;
    Ok(vec![Section {
        title: "decide".to_owned(),
        method: format!("real time, least of 50 rounds; median of {runs} runs"),
        rows: child::medians(runs_of_it),
    }])
}
