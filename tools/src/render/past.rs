// SPDX-License-Identifier: GPL-3.0-only
//! Flows of the past, and what another policy would do otherwise.

use policyd_api::{Differences, FlowName, PastPage, Replay, ShadowStatus, Verdict};

use super::table::{Align::Left, Align::Right, Table};
use super::time::{bytes, timestamp};
use super::{multiline, plain};

/// `xmesh flows --since`.
pub fn flows(page: &PastPage) -> String {
    let mut table = Table::new(&[
        ("From", Left),
        ("To", Left),
        ("Port", Left),
        ("Verdict", Left),
        ("Rule", Left),
        ("Flows", Right),
        ("Refused", Right),
        ("Out", Right),
        ("In", Right),
        ("Last", Left),
    ]);
    for flow in &page.flows {
        let (name, totals) = (&flow.name, &flow.totals);
        table.row([
            name.from.label(),
            name.to.label(),
            port(name),
            name.verdict.as_str().to_owned(),
            name.rule.clone(),
            totals.flows.to_string(),
            totals.refused.to_string(),
            bytes(totals.bytes_out),
            bytes(totals.bytes_in),
            second(totals.last),
        ]);
    }
    let mut text = table.render();
    if let Some(next) = page.next {
        text += &format!("{} of {}; more with --skip {next}\n", page.flows.len(), page.all);
    }
    text
}

/// `xmesh policy-replay`.
pub fn replay(replay: &Replay) -> String {
    let told = &replay.differences;
    format!(
        "{}from {} to {}: {}\n",
        differences(told),
        second(replay.since),
        second(replay.until),
        sum(told)
    )
}

/// `xmesh policy-shadow`.
pub fn shadow(status: &ShadowStatus) -> String {
    if status.files.is_empty() {
        return "no policy runs beside the one in force\n".to_owned();
    }
    let told = &status.differences;
    let mut text = differences(told);
    text += &format!(
        "{} beside the policy in force since {}: {}\n",
        plain(&status.files.join(" ")),
        second(status.since),
        sum(told)
    );
    if let Some(problem) = &status.problem {
        text += &format!(
            "it does not run: beside the sets that are in force now it is not valid: {}\n",
            multiline(problem)
        );
    }
    text
}

/// What would be otherwise, as a table; nothing where nothing would.
pub fn differences(told: &Differences) -> String {
    if told.differences.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[
        ("Would", Left),
        ("From", Left),
        ("To", Left),
        ("Port", Left),
        ("Flows", Right),
        ("Last", Left),
        ("By", Left),
        ("Was by", Left),
        ("Now", Left),
    ]);
    for d in &told.differences {
        let would = match d.would {
            Verdict::Deny => "cut",
            Verdict::Allow => "open",
        };
        table.row([
            format!("{would}{}", if d.unsure.is_some() { "?" } else { "" }),
            d.flow.name.from.label(),
            d.flow.name.to.label(),
            port(&d.flow.name),
            d.flow.totals.flows.to_string(),
            second(d.flow.totals.last),
            d.would_rule.clone(),
            d.flow.name.rule.clone(),
            d.now.as_str().to_owned(),
        ]);
    }
    let mut text = table.render();
    let unsure: std::collections::BTreeSet<&str> = told
        .differences
        .iter()
        .filter_map(|d| d.unsure.as_deref())
        .collect();
    for why in unsure {
        text += &format!("? {}\n", plain(why));
    }
    if told.left_out > 0 {
        text += &format!("and {} that are not listed\n", told.left_out);
    }
    text
}

/// The same in a few words.
pub fn sum(told: &Differences) -> String {
    let mut text = format!(
        "of {} flows {} would be cut, {} opened",
        told.flows, told.cut, told.opened
    );
    if told.not_judged > 0 {
        text += &format!("; {} are not for rules to decide", told.not_judged);
    }
    text
}

fn port(name: &FlowName) -> String {
    match name.port {
        Some(0) => name.protocol.clone(),
        Some(port) => format!("{}/{port}", name.protocol),
        None => format!("{}/many", name.protocol),
    }
}

/// A point in time to the second.
pub fn second(seconds: u64) -> String {
    let text = timestamp(seconds.saturating_mul(1_000_000_000));
    format!("{}Z", text.split('.').next().unwrap_or_default())
}
