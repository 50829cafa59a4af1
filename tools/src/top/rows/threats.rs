// SPDX-License-Identifier: GPL-3.0-only
//! A row a threat.

use policyd_api::KnownThreat;

use crate::render::plain;
use crate::render::time::timestamp;
use crate::top::picture::Picture;
use crate::top::table::{Cell, Column, Leads, Row};

/// The columns.
pub const COLUMNS: &[Column] = &[
    Column::number("Last", "last", 8, 0),
    Column::text("Domain", "domain", 6, 24, 0),
    Column::text("Severity", "severity", 8, 8, 0),
    Column::text("Rule", "rule", 8, 24, 1),
    Column::number("Count", "count", 5, 2),
    Column::text("Technique", "technique", 9, 10, 4),
    Column::text("Answer", "answer", 8, 32, 5),
    Column::text("What", "what", 16, 200, 1),
];

/// The rows.
pub fn rows(picture: &Picture) -> Vec<Row> {
    picture.all_threats().iter().map(row).collect()
}

fn row(known: &KnownThreat) -> Row {
    let threat = &known.threat;
    let mut detail: Vec<String> = vec![plain(&threat.title)];
    detail.extend(threat.evidence.iter().map(|evidence| plain(evidence)));
    detail.extend(
        threat
            .answer
            .iter()
            .map(|answer| plain(&format!("answer: {answer}"))),
    );
    // What it is about is in its title: one rule finds several things in a domain.
    let key = format!(
        "{}\0{}\0{}",
        known.domain.as_deref().unwrap_or_default(),
        threat.rule,
        threat.title
    );
    Row {
        key,
        cells: vec![
            Cell::number(known.last_ns as f64 / 1e9, clock(known.last_ns)),
            Cell::maybe(known.domain.as_ref()),
            Cell::word(threat.severity.as_str()),
            Cell::text(&threat.rule),
            Cell::count(known.count),
            Cell::text(&threat.technique),
            Cell::maybe(threat.answer.as_ref()),
            Cell::text(&threat.title),
        ],
        into: match &known.domain {
            Some(domain) => Leads::Domain(domain.clone()),
            None => Leads::Nothing,
        },
        detail,
    }
}

/// The time of day, UTC.
fn clock(ns: u64) -> String {
    timestamp(ns).chars().skip(11).take(8).collect()
}
