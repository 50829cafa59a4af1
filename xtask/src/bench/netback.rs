// SPDX-License-Identifier: GPL-3.0-only
//! The datapath beside a bare bridge, plain routing, and nftables.

use xmesh_rig::{Progress, setup};

use super::child;
use super::report::{Row, Section};

/// What each group of values is about, how it is told from the others, and what the rest of a group is held against.
const GROUPS: [(&str, &str, Option<&str>); 4] = [
    ("bridge, ", "on a bridge", Some("bare bridge")),
    (
        "routed, ",
        "where dom0 routes, filtering and load balancing",
        Some("plain routing"),
    ),
    ("packet of a known flow: ", "a packet of a known flow", None),
    (
        "packet without a flow: ",
        "a packet that the rules decide, and deny",
        None,
    ),
];
const TRAFFIC: &str = "veth pairs as vifs, all contenders at once, measured in turn, median of 15 rounds: both ends in \
    one thread: a TCP stream of 0.25 s, by the median of pieces of 32 KiB, and 4000 questions of one byte with their answers";
const TEST_RUN: &str = "BPF_PROG_TEST_RUN on this host, one packet at a time, each of another flow all over the table, median of 100000";
/// There where the kernel has ipvs.
const IPVS: &str = "/proc/net/ip_vs";

/// Runs the bench of `netback-filter`. Needs root, this host's kernel, and nftables, which is installed if need be.
///
/// # Errors
/// Where something of it is missing.
pub fn measure() -> anyhow::Result<Vec<Section>> {
    setup::ensure(setup::NETBACK, &Progress::new(false))?;
    let rows = child::cargo(&[
        "bench",
        "--quiet",
        "--package",
        "netback-filter",
        "--bench",
        "netback",
    ])?;
    let ipvs = if std::path::Path::new(IPVS).exists() {
        "ipvs is there, and not measured"
    } else {
        "this kernel has no ipvs"
    };
    Ok(GROUPS
        .iter()
        .map(|(prefix, title, baseline)| Section {
            title: (*title).to_owned(),
            method: match baseline {
                Some(_) => format!("{TRAFFIC}; {ipvs}"),
                None => TEST_RUN.to_owned(),
            },
            rows: group(&rows, prefix, *baseline),
        })
        .collect())
}

/// The rows of one group, each against the baseline's of the same measure.
fn group(rows: &[Row], prefix: &str, baseline: Option<&str>) -> Vec<Row> {
    let of_group: Vec<(&str, &Row)> = rows
        .iter()
        .filter_map(|row| Some((row.what.strip_prefix(prefix)?, row)))
        .collect();
    of_group
        .iter()
        .map(|(what, row)| {
            let plain = Row::new(*what, row.value, &row.unit);
            let Some((measure, name)) = what.split_once(": ") else {
                return plain;
            };
            let base = baseline.filter(|base| *base != name).and_then(|base| {
                let wanted = format!("{measure}: {base}");
                of_group.iter().find(|(what, _)| *what == wanted)
            });
            match (base, baseline) {
                (Some((_, base)), Some(label)) => plain.against(label, base.value),
                _ => plain,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_is_held_against_the_baseline_of_its_measure() {
        let rows = [
            Row::new("bridge, stream: bare bridge", 10.0, "Gb/s"),
            Row::new("bridge, stream: ours", 9.0, "Gb/s"),
            Row::new("bridge, round trip p50: bare bridge", 4.0, "us"),
            Row::new("bridge, round trip p50: ours", 5.0, "us"),
            Row::new("routed, stream: plain routing", 1.0, "Gb/s"),
        ];
        let bridge = group(&rows, "bridge, ", Some("bare bridge"));
        assert_eq!(bridge.len(), 4);
        assert!(bridge[0].against.is_empty());
        assert_eq!(bridge[1].what, "stream: ours");
        assert_eq!(bridge[1].against[0].ratio, 0.9);
        assert_eq!(bridge[3].against[0].ratio, 1.25);
        assert_eq!(group(&rows, "routed, ", Some("plain routing")).len(), 1);
    }
}
