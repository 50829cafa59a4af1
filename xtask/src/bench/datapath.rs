// SPDX-License-Identifier: GPL-3.0-only
//! What a packet costs in the eBPF program, and a verdict on its way into the map.

use super::child;
use super::report::Section;

/// Runs the bench of `netback-filter`. Needs root and this host's kernel: the program is run by it.
///
/// # Errors
/// Where the kernel does not load the program.
pub fn measure() -> anyhow::Result<Vec<Section>> {
    let rows = child::cargo(&[
        "bench",
        "--quiet",
        "--package",
        "netback-filter",
        "--bench",
        "datapath",
    ])?;
    // Times are the machine's; what an ARP frame costs, which is only recognised, is a measure that goes along.
    let arp = rows.iter().find(|row| row.what == "ARP").map(|row| row.value);
    let rows = rows
        .into_iter()
        .map(|row| match arp {
            Some(arp) if row.what != "ARP" && row.what != "FlowWriter::set" => {
                row.against("an ARP frame", arp)
            }
            _ => row,
        })
        .collect();
    Ok(vec![Section {
        title: "from_guest".to_owned(),
        method: "BPF_PROG_TEST_RUN on this host, least mean of 7 runs of 200000".to_owned(),
        rows,
    }])
}
