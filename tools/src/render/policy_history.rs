// SPDX-License-Identifier: GPL-3.0-only
//! Generations, what differs between them, and the audit log.

use policyd_api::chain::{AuditEntry, Outcome};
use policyd_api::{Action, AuditCheck, AuditPage, Author, Edit, Generation, HistoryPage};
use similar::TextDiff;

use super::table::{Align::Left, Align::Right, Table};
use super::time::timestamp;
use super::{multiline, plain};

/// Most characters of a sentence that a table shows; JSON has all of it.
const SHOWN: usize = 72;

/// The sets that a generation changed, and for whom, if not for all.
fn changed(g: &Generation) -> String {
    match (&g.stage, g.action) {
        (Some(stage), Action::Stage) => format!("{} for {}", sets(&stage.edits), stage.vms.join(" ")),
        _ => sets(&g.edits),
    }
}

/// `xmesh policy-history`.
pub fn history(page: &HistoryPage) -> String {
    let mut table = Table::new(&[
        ("Generation", Right),
        ("Time", Left),
        ("By", Left),
        ("Action", Left),
        ("Sets", Left),
        ("Why", Left),
    ]);
    for g in &page.generations {
        let action = match g.to {
            Some(to) => format!("{} {to}", g.action.as_str()),
            None => g.action.as_str().to_owned(),
        };
        table.row([
            g.generation.to_string(),
            second(g.time_ns),
            who(&g.by),
            action,
            changed(g),
            g.message.as_deref().map(shortened).unwrap_or_default(),
        ]);
    }
    table.render() + &more(page.next)
}

/// A line of `xmesh policy-history -f`.
pub fn generation(g: &Generation) -> String {
    let action = match g.to {
        Some(to) => format!("{} {to}", g.action.as_str()),
        None => g.action.as_str().to_owned(),
    };
    let why = g.message.as_deref().map(|m| format!(": {}", shortened(m)));
    let line = format!(
        "{} generation {} by {}, {action} {}{}",
        second(g.time_ns),
        g.generation,
        who(&g.by),
        changed(g),
        why.unwrap_or_default()
    );
    plain(&line)
}

/// A line of `xmesh audit -f`.
pub fn entry(e: &AuditEntry) -> String {
    let line = format!(
        "{} entry {} by {}, {} {}: {}",
        second(e.attempt.time_ns),
        e.seq,
        who(&e.attempt.by),
        e.attempt.action.as_str(),
        shortened(&e.attempt.what),
        shortened(&outcome(&e.attempt.outcome))
    );
    plain(&line)
}

/// `xmesh audit`.
pub fn audit(page: &AuditPage) -> String {
    let mut table = Table::new(&[
        ("Entry", Right),
        ("Time", Left),
        ("By", Left),
        ("Action", Left),
        ("What", Left),
        ("Outcome", Left),
    ]);
    for e in &page.entries {
        table.row([
            e.seq.to_string(),
            second(e.attempt.time_ns),
            who(&e.attempt.by),
            e.attempt.action.as_str().to_owned(),
            shortened(&e.attempt.what),
            shortened(&outcome(&e.attempt.outcome)),
        ]);
    }
    table.render() + &more(page.next)
}

/// `xmesh audit --verify`.
pub fn audit_check(check: &AuditCheck) -> String {
    match check.broken {
        None => format!(
            "the audit log is whole: {} entries, head {} {}\n",
            check.entries,
            check.head.seq,
            plain(&check.head.hash)
        ),
        // The error says it.
        Some(_) => String::new(),
    }
}

/// What differs between two texts of a set, as `diff -u` writes it; none is `/dev/null`.
pub fn unified(name: &str, before: (u64, Option<&String>), after: (u64, Option<&String>)) -> String {
    let label = |(generation, text): (u64, Option<&String>)| match text {
        Some(_) => format!("{name}\tgeneration {generation}"),
        None => format!("/dev/null\tgeneration {generation}"),
    };
    let text = |(_, text): (u64, Option<&String>)| text.map(|t| multiline(t)).unwrap_or_default();
    let (old, new) = (text(before), text(after));
    TextDiff::from_lines(&old, &new)
        .unified_diff()
        .header(&label(before), &label(after))
        .to_string()
}

/// Names of the sets that a change touched.
pub fn sets(edits: &[Edit]) -> String {
    let names = edits.iter().map(|edit| {
        let sign = match (&edit.before, &edit.after) {
            (None, Some(_)) => "+",
            (Some(_), None) => "-",
            _ => "",
        };
        format!("{sign}{}", edit.set)
    });
    shortened(&names.collect::<Vec<_>>().join(" "))
}

fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Stored { generation } => format!("generation {generation}"),
        Outcome::Withdrawn { generation, why } => format!("generation {generation} taken back: {why}"),
        Outcome::Refused { why } => format!("refused: {why}"),
    }
}

fn who(by: &Author) -> String {
    by.name.clone().unwrap_or_else(|| by.uid.to_string())
}

/// The first line of a text, or its beginning.
fn shortened(text: &str) -> String {
    let mut lines = text.lines();
    let line = lines.next().unwrap_or_default();
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None if lines.next().is_some() => format!("{line} …"),
        None => line.to_owned(),
    }
}

/// To the second: generations are told apart by their number.
pub fn second(ns: u64) -> String {
    let time = timestamp(ns);
    format!("{}Z", time.split('.').next().unwrap_or_default())
}

fn more(next: Option<u64>) -> String {
    match next {
        Some(next) => format!("more with --before {next}\n"),
        None => String::new(),
    }
}
