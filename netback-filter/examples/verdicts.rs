// SPDX-License-Identifier: GPL-3.0-only
//! What writing a verdict costs in instructions, the kernel's included, as the rig's emulator counts them: a part of
//! `cargo xtask bench trap`.
//!
//! ```text
//! verdicts PIN_DIR
//! ```

use std::net::SocketAddr;

use netback_filter::{Action, Config, Datapath, Direction, FlowKey, Protocol, Verdict};

#[path = "../../vmi-xen/examples/support/counters.rs"]
mod counters;

/// Verdicts that are written.
const VERDICTS: u16 = 300;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pin_dir = std::env::args().nth(1).ok_or("usage: verdicts PIN_DIR")?;
    let counters = counters::Counters::find().ok_or("only the Bochs that the rig builds counts")?;
    let datapath = Datapath::open(Config {
        pin_dir: pin_dir.into(),
        ..Config::default()
    })?;
    let writer = datapath.flow_writer();
    let verdict = Verdict {
        action: Action::Allow,
        origin: Direction::FromGuest,
        rule: 1,
        generation: 1,
        mark: netback_filter::Mark::NONE,
    };
    let mut costs = Vec::new();
    for port in 1..=VERDICTS {
        let key = FlowKey {
            scope: 1,
            protocol: Protocol::TCP,
            local: SocketAddr::from(([10, 0, 0, 1], port)),
            remote: SocketAddr::from(([10, 0, 0, 2], 80)),
            vlan: netback_filter::Vlan::NONE,
        };
        let before = counters.instructions();
        writer.set(&key, verdict)?;
        costs.push(counters.instructions() - before);
    }
    datapath.detach_all()?;
    costs.sort_unstable();
    println!(
        "bench: {} instructions a verdict written to the map, median",
        costs[costs.len() / 2]
    );
    Ok(())
}
