// SPDX-License-Identifier: GPL-3.0-only
//! A row for each thing that makes a pair slow.

use policyd_api::Bottleneck;

use crate::render::style::Tone;
use crate::render::{plain, signal};
use crate::top::picture::Picture;
use crate::top::table::{Cell, Column, End, Ends, Leads, Row};

/// The columns.
pub const COLUMNS: &[Column] = &[
    Column::text("From", "from", 12, 32, 0),
    Column::text("To", "to", 12, 32, 0),
    Column::text("Ver", "version", 3, 12, 3),
    Column::number("Port", "port", 5, 1),
    Column::text("Culprit", "culprit", 7, 7, 0),
    Column::number("Slower", "factor", 6, 0),
    Column::text("Evidence", "evidence", 12, 200, 2),
];

/// The rows.
pub fn rows(picture: &Picture) -> Vec<Row> {
    match &picture.signals {
        Ok(signals) => signals.findings.iter().map(row).collect(),
        Err(_) => Vec::new(),
    }
}

fn row(of: &Bottleneck) -> Row {
    let culprit = signal::culprit(of.culprit);
    let port = of.port.map(|port| port.to_string()).unwrap_or_default();
    let version = of.version.as_deref().unwrap_or_default();
    let factor = Cell::number(of.factor, format!("{}x", signal::rate(of.factor)));
    let factor = Cell {
        tone: Some(if of.factor >= 2.0 { Tone::Bad } else { Tone::Odd }),
        ..factor
    };
    Row {
        key: format!("{}\0{}\0{version}\0{port}\0{culprit}", of.from.name, of.to.name),
        cells: vec![
            Cell::text(&of.from.name),
            Cell::text(&of.to.name),
            Cell::maybe(of.version.as_ref()),
            Cell::measured(of.port.map(f64::from), |port| port.to_string()),
            Cell::text(culprit),
            factor,
            Cell::text(&of.evidence),
        ],
        into: Leads::Pair(Box::new(Ends {
            from: End {
                name: of.from.name.clone(),
                kind: of.from.kind,
            },
            to: End {
                name: of.to.name.clone(),
                kind: of.to.kind,
            },
            route: None,
            version: of.version.clone(),
            port: of.port,
            protocol: None,
        })),
        detail: vec![plain(&of.evidence)],
    }
}
