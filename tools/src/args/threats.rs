// SPDX-License-Identifier: GPL-3.0-only
//! What looks like an attack.

use clap::Args as ClapArgs;
use policyd_api::Severity;

/// Which threats to list.
#[derive(Debug, ClapArgs)]
pub struct Threats {
    /// Name or id; all domains without it.
    #[arg(conflicts_with = "rules")]
    pub domain: Option<String>,
    /// At least so bad: notice, warning or alert.
    #[arg(long, value_parser = severity, conflicts_with = "rules")]
    pub severity: Option<Severity>,
    /// Also the evidence.
    #[arg(short, long, conflicts_with = "rules")]
    pub verbose: bool,
    /// List the rules instead: what each looks for, and who does that honestly.
    #[arg(long)]
    pub rules: bool,
}

fn severity(text: &str) -> Result<Severity, String> {
    [Severity::Notice, Severity::Warning, Severity::Alert]
        .into_iter()
        .find(|severity| severity.as_str() == text)
        .ok_or_else(|| "notice, warning or alert".to_owned())
}
