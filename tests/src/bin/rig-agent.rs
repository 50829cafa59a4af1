// SPDX-License-Identifier: GPL-3.0-only
//! The agent inside the rig's domains; see [`xmesh_rig::agent`].

use std::process::ExitCode;
use xmesh_rig::agent;

fn main() -> ExitCode {
    let outcome = match std::env::args().nth(1).as_deref() {
        Some("dom0") => agent::dom0::serve(),
        Some("domu") => agent::domu::serve(),
        _ => {
            eprintln!("usage: rig-agent dom0|domu");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rig-agent: {error}");
            ExitCode::FAILURE
        }
    }
}
