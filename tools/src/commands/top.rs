// SPDX-License-Identifier: GPL-3.0-only
//! `top`.

use std::io::{IsTerminal, stdout};

use policyd_api::Client;

use crate::args::Args;
use crate::args::top::Top;
use crate::error::ToolError;
use crate::output::Output;
use crate::top::view::View;
use crate::top::{batch, live};

/// A full screen, or tables where nobody could see it.
pub fn top(client: Client, args: &Args, asked: &Top, output: &mut Output) -> Result<(), ToolError> {
    let screen = stdout().is_terminal() && std::env::var("TERM").is_ok_and(|term| term != "dumb");
    if screen && !asked.batch && !args.json {
        if asked.iterations.is_some() {
            return Err(ToolError::Usage(
                "--iterations is of tables: write --batch with it".to_owned(),
            ));
        }
        return live::run(client, host(args), asked);
    }
    if asked.first_view() == View::Processes && asked.domain.is_none() {
        return Err(ToolError::Usage(
            "whose processes? write the domain's name, as in `xmesh top --batch web1`".to_owned(),
        ));
    }
    batch::run(&client, host(args), asked, output)
}

/// Where the daemon is.
fn host(args: &Args) -> String {
    if let Some(url) = &args.remote.url {
        return url.trim_start_matches("https://").to_owned();
    }
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.map_or_else(|_| "this host".to_owned(), |name| name.trim().to_owned())
}
