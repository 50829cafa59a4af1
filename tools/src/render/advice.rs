// SPDX-License-Identifier: GPL-3.0-only
//! Policies that were learned, what of the one in force was used, and how canaries fare.

use std::path::Path;

use policyd_advice::canary::Judged;
use policyd_api::{PolicyUsage, Suggested};

use super::past::{differences, second, sum};
use super::table::{Align::Left, Align::Right, Table};
use super::{multiline, plain};
use crate::commands::advice::Report;

/// `xmesh suggest`.
pub fn document(answer: &Suggested) -> String {
    multiline(&answer.suggestion.text)
}

/// `xmesh suggest -o FILE`.
pub fn summary(answer: &Suggested, path: &Path) -> String {
    let s = &answer.suggestion;
    let path = plain(&path.display().to_string());
    let mut text = format!(
        "{path}: {} rules, from {} flows seen from {} to {}; default deny for {} domains\n",
        s.rules.len(),
        s.flows,
        second(answer.since),
        second(answer.until),
        s.covered.len()
    );
    let counts = [
        (
            s.left_out.len(),
            "kinds of flow passed and are not allowed by it; the document tells why",
        ),
        (
            s.opened.len(),
            "kinds of flow were refused and pass by it, since no rule can tell them apart",
        ),
    ];
    for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
        text += &format!("{count} {what}\n");
    }
    text += &format!(
        "on flows since {}: {}\n",
        second(answer.tried),
        sum(&answer.effect)
    );
    text
}

/// `xmesh suggest --effect`.
pub fn effect(answer: &Suggested) -> String {
    let told = &answer.effect;
    format!(
        "{}on flows since {}: {}\n",
        differences(told),
        second(answer.tried),
        sum(told)
    )
}

/// `xmesh suggest --unused`.
pub fn unused(usage: &PolicyUsage) -> String {
    if usage.unused.is_empty() {
        return "every rule in force decided some flow\n".to_owned();
    }
    let mut table = Table::new(&[("Unused", Left), ("Action", Left), ("In force since", Left)]);
    for rule in &usage.unused {
        let since = match (rule.in_force_since, rule.or_longer) {
            (Some(since), true) => format!("{} or longer", second(since)),
            (Some(since), false) => second(since),
            (None, _) => String::new(),
        };
        table.row([rule.rule.clone(), rule.action.clone(), since]);
    }
    table.render()
}

/// `xmesh suggest --wide`.
pub fn wide(usage: &PolicyUsage) -> String {
    if usage.wide.is_empty() {
        return "no rule in force lets pass more than what used it\n".to_owned();
    }
    let mut table = Table::new(&[
        ("Wide", Left),
        ("Times", Right),
        ("Flows", Right),
        ("In", Left),
        ("Allowed", Right),
        ("Used", Right),
        ("How", Left),
    ]);
    for rule in &usage.wide {
        for excess in &rule.excess {
            table.row([
                rule.rule.clone(),
                times(rule.factor),
                rule.totals.flows.to_string(),
                excess.of.as_str().to_owned(),
                format!("{}{}", excess.allowed, if excess.open_ended { "+" } else { "" }),
                excess.used.to_string(),
                excess.says.clone(),
            ]);
        }
    }
    table.render()
}

/// `xmesh canary`.
pub fn canary(report: &Report) -> String {
    let mut table = Table::new(&[
        ("Signal", Left),
        ("Baseline", Right),
        ("Canary", Right),
        ("BaselineN", Right),
        ("CanaryN", Right),
        ("P", Right),
        ("Below", Right),
        ("Verdict", Left),
    ]);
    for signal in &report.signals {
        table.row([
            signal.signal.to_owned(),
            figure(signal, signal.baseline),
            figure(signal, signal.canary),
            signal.baseline_count.to_string(),
            signal.canary_count.to_string(),
            signal.p.map(probability).unwrap_or_default(),
            // No p is below nothing: a signal that shows more did not pass either.
            Some(signal.threshold)
                .filter(|t| *t > 0.0)
                .map(probability)
                .unwrap_or_default(),
            signal.verdict.as_str().to_owned(),
        ]);
    }
    let (route, canary, baseline) = (
        plain(&report.route),
        plain(&report.canary),
        plain(&report.baseline),
    );
    let share = report.share;
    let mut text = table.render();
    text += &format!(
        "{route}: {canary}, with {share:.0} % of the flows, against {baseline} in {} s: {}\n",
        report.window, report.verdict
    );
    let what = match (report.proposal, &report.applied) {
        ("done", _) => format!("nothing is left to do: {canary} has all"),
        ("wait", _) if share == 0.0 => format!("{canary} gets no flows: give it a first weight by hand"),
        ("wait", _) => "nothing is to be done until there is more to judge by".to_owned(),
        (proposal, applied) => {
            let goes = match proposal {
                "raise" => format!("{canary} gets {:.0} %", report.proposed_share),
                _ => format!("{canary} gets no flows any more"),
            };
            match applied {
                None => format!("proposed: {goes}; --apply does it"),
                Some(done) if done.dry_run => format!("valid, and not done: {goes}"),
                Some(done) => format!("done: {goes}; generation {}", done.generation),
            }
        }
    };
    text + &what + "\n"
}

fn figure(signal: &Judged, value: f64) -> String {
    match signal.signal {
        "failures" => format!("{:.2}%", value * 100.0),
        _ => format!("{value:.0}us"),
    }
}

fn probability(p: f64) -> String {
    match p < 0.0001 {
        true => format!("{p:.0e}"),
        false => format!("{p:.4}"),
    }
}

fn times(factor: f64) -> String {
    match factor < 100.0 {
        true => format!("{factor:.1}"),
        false if factor < 1e7 => format!("{factor:.0}"),
        false => format!("{factor:.0e}"),
    }
}
