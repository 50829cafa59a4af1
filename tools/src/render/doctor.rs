// SPDX-License-Identifier: GPL-3.0-only
//! What a host lacks.

use super::plain;
use super::style::{self, Style};
use crate::doctor::Finding;

/// `xmesh doctor`: a line for each finding, below it what to do.
pub fn lines(findings: &[Finding]) -> String {
    let style = style::current();
    findings.iter().map(|finding| line(finding, style)).collect()
}

fn line(finding: &Finding, style: Style) -> String {
    let level = format!("{:<4}", finding.level.as_str());
    let level = match style::tone(finding.level.as_str()) {
        Some(tone) => style.paint(tone, &level),
        None => level,
    };
    let mut text = format!("{level}  {:<12}  {}\n", finding.check, plain(&finding.found));
    if let Some(remedy) = &finding.remedy {
        text += &format!("{:20}{}\n", "", plain(remedy));
    }
    text
}
