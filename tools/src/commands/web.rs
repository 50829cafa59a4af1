// SPDX-License-Identifier: GPL-3.0-only
//! `web`.

use policyd_api::Client;
use serde_json::json;

use crate::error::ToolError;
use crate::output::Output;
use crate::web::{Door, serve, token};

/// Serves until it is ended.
pub fn web(client: Client, port: Option<u16>, output: &mut Output) -> Result<(), ToolError> {
    // Nobody opens a browser for a daemon that is not there.
    client.status()?;
    let token = token()?;
    serve(client, port.unwrap_or(0), |port| {
        let door = Door::new(port, token);
        let address = door.address();
        output.line(&json!({ "address": address }), |_| address.clone())?;
        Ok(door)
    })
}
