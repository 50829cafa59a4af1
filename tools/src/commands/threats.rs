// SPDX-License-Identifier: GPL-3.0-only
//! `threats`.

use policyd_api::{Client, Severity, ThreatQuery};

use crate::args::threats::Threats;
use crate::error::ToolError;
use crate::output::Output;
use crate::render::threat as render;

/// Ends in an error if an alert is listed: a script asks by the exit status.
pub fn threats(client: &Client, asked: &Threats, output: &mut Output) -> Result<(), ToolError> {
    if asked.rules {
        return output.answer(&client.threat_rules()?, |rules| render::rules(rules));
    }
    let found = client.threats(&ThreatQuery {
        domain: asked.domain.clone(),
        severity: asked.severity,
    })?;
    output.answer(&found, |found| match asked.verbose {
        true => render::in_full(found),
        false => render::table(found),
    })?;
    let alerts = found
        .threats
        .iter()
        .filter(|known| known.threat.severity == Severity::Alert)
        .count();
    match alerts {
        0 => Ok(()),
        alerts => {
            output.finish()?;
            Err(ToolError::Alerts(alerts))
        }
    }
}
