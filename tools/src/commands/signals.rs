// SPDX-License-Identifier: GPL-3.0-only
//! `signals`.

use policyd_api::Client;

use crate::args::signals::Signals;
use crate::error::ToolError;
use crate::output::Output;
use crate::render::signal as render;

/// With `--findings` the JSON has the findings alone, too.
pub fn signals(client: &Client, asked: &Signals, output: &mut Output) -> Result<(), ToolError> {
    let signals = client.signals(&asked.query())?;
    match asked.findings {
        true => output.answer(&signals.findings, |found| render::findings(found)),
        false => output.answer(&signals, render::tables),
    }
}
