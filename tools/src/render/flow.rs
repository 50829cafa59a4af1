// SPDX-License-Identifier: GPL-3.0-only
//! Flows at the interfaces of domains.

use policyd_api::{Flow, Verdict};

use super::event::whom;
use super::plain;
use super::route::via;
use super::table::{Align::Left, Align::Right, Table};
use super::time::{bytes, duration};

/// `xmesh flows`.
pub fn table(flows: &[Flow]) -> String {
    let mut table = Table::new(&[
        ("Domain", Left),
        ("Proto", Left),
        ("Local", Left),
        ("Dir", Left),
        ("Remote", Left),
        ("State", Left),
        ("Out", Right),
        ("In", Right),
        ("Age", Right),
        ("Verdict", Left),
        ("Rule", Left),
        ("Exe", Left),
        ("Via", Left),
    ]);
    for flow in flows {
        table.row([
            flow.domain.clone(),
            flow.protocol.clone(),
            flow.local.to_string(),
            (if flow.outgoing { "→" } else { "←" }).to_owned(),
            flow.remote.to_string(),
            flow.state.clone(),
            bytes(flow.bytes_out),
            bytes(flow.bytes_in),
            duration(flow.age_ms / 1000),
            verdict(flow.decision.verdict).to_owned(),
            flow.decision.rule.clone(),
            flow.who
                .as_ref()
                .and_then(|who| who.exe.clone())
                .unwrap_or_default(),
            via(flow.route.as_ref())
                .trim_start_matches(" via")
                .trim_start()
                .to_owned(),
        ]);
    }
    table.render()
}

/// What became of a flow, for those who follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It is there and was not.
    New,
    /// Its verdict, rule or state is another.
    Changed,
    /// It was there and is not.
    Gone,
}

/// A change in one line.
pub fn sentence(change: Change, flow: &Flow) -> String {
    let inside = match &flow.who {
        Some(who) => whom(who, &flow.local),
        None => format!("{} {}", flow.domain, flow.local),
    };
    let remote = format!("{}{}", flow.remote, via(flow.route.as_ref()));
    let (from, to) = if flow.outgoing {
        (inside, remote)
    } else {
        (remote, inside)
    };
    let word = match change {
        Change::New => "new",
        Change::Changed => "changed",
        Change::Gone => "gone",
    };
    let line = format!(
        "{word:<7} {from} → {to} {} {}, {} by {}, {} out, {} in",
        flow.protocol,
        flow.state,
        verdict(flow.decision.verdict),
        flow.decision.rule,
        bytes(flow.bytes_out),
        bytes(flow.bytes_in),
    );
    plain(&line)
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
    }
}
