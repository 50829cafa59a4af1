// SPDX-License-Identifier: GPL-3.0-only
//! `doctor`.

use policyd_api::Client;

use crate::doctor::{self, Level, Live};
use crate::error::ToolError;
use crate::output::Output;
use crate::render::doctor as render;

/// Looks at this host and asks policyd; ends in an error if the mesh does not run or does not enforce.
pub fn doctor(client: &Client, output: &mut Output) -> Result<(), ToolError> {
    let host = Live::below("/");
    let mut findings = doctor::host(&host);
    findings.extend(doctor::daemon(&host, client));
    output.answer(&findings, |findings| render::lines(findings))?;
    match findings.iter().any(|finding| finding.level == Level::Fail) {
        false => Ok(()),
        true => {
            output.finish()?;
            Err(ToolError::Lacking)
        }
    }
}
