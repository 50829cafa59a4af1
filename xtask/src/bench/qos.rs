// SPDX-License-Identifier: GPL-3.0-only
//! What shaping of a vif keeps to.

use super::child;
use super::report::{Row, Section};

/// What the times of a question are held against.
const IDLE: &str = "of a question, idle, shaped";

/// Runs the bench of `netback-filter`, which makes network namespaces. Needs root.
///
/// # Errors
/// Where this host's kernel cannot shape.
pub fn measure() -> anyhow::Result<Vec<Section>> {
    let rows = child::cargo(&[
        "bench",
        "--quiet",
        "--package",
        "netback-filter",
        "--bench",
        "qos",
    ])?;
    let (times, rates): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|row| row.unit == "µs");
    let idle: Vec<(String, f64)> = times
        .iter()
        .filter_map(|row| Some((row.what.strip_suffix(IDLE)?.to_owned(), row.value)))
        .collect();
    let times = times
        .into_iter()
        .map(
            |row| match idle.iter().find(|(name, _)| row.what.starts_with(name.as_str())) {
                Some((_, value)) if !row.what.ends_with(IDLE) => row.against("idle", *value),
                _ => row,
            },
        )
        .collect();
    Ok(vec![
        Section {
            title: "a question of 64 bytes and its answer, over TCP".to_owned(),
            method: "one in a millisecond through a vif of 200mbit both ways; median of 9 rounds of 400, in which idle and busy take turns".to_owned(),
            rows: times,
        },
        Section {
            title: "what TCP gets of what is set".to_owned(),
            method: "one connection a class for 3 s, from 1 s after its begin; as on the wire".to_owned(),
            rows: rates,
        },
    ])
}
