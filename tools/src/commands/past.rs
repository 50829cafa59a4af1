// SPDX-License-Identifier: GPL-3.0-only
//! `flows --since`, `policy-replay`, `policy-shadow`.

use policyd_api::{Client, PastQuery, ReplayRequest, ShadowRequest};

use super::policies::documents;
use crate::args::past::{Ago, Replay, Shadow};
use crate::error::ToolError;
use crate::output::Output;
use crate::render::past as render;

pub fn flows(client: &Client, query: &PastQuery, output: &mut Output) -> Result<(), ToolError> {
    output.answer(&client.past_flows(query)?, render::flows)
}

/// Ends in an error that says so if anything would be otherwise: a script asks by the exit status.
pub fn replay(client: &Client, replay: &Replay, output: &mut Output) -> Result<(), ToolError> {
    let request = ReplayRequest {
        documents: documents(&replay.files)?,
        since: Some(replay.since.time()),
        until: replay.until.map(Ago::time),
    };
    let found = client.replay(&request)?;
    output.answer(&found, render::replay)?;
    match found.differences.differences.is_empty() {
        true => Ok(()),
        false => {
            output.finish()?;
            Err(ToolError::Differs)
        }
    }
}

pub fn shadow(client: &Client, shadow: &Shadow, output: &mut Output) -> Result<(), ToolError> {
    let status = match (shadow.files.as_slice(), shadow.off) {
        ([], false) => client.shadow()?,
        (files, _) => client.set_shadow(&ShadowRequest {
            documents: documents(files)?,
        })?,
    };
    output.answer(&status, render::shadow)
}
