// SPDX-License-Identifier: GPL-3.0-only
//! A row a domain.

use policyd_api::Severity;

use super::{bytes, rate};
use crate::render::plain;
use crate::render::style::Tone;
use crate::top::picture::{Picture, domain};
use crate::top::table::{Cell, Column, Leads, Row};

/// The columns.
pub const COLUMNS: &[Column] = &[
    Column::text("Name", "name", 14, 32, 0),
    Column::number("ID", "id", 5, 1),
    Column::text("Sight", "sight", 6, 10, 1),
    Column::number("Procs", "processes", 5, 4),
    Column::number("Flows", "flows", 5, 1),
    Column::number("New/s", "new_per_s", 5, 1),
    Column::number("Denied/s", "denied_per_s", 8, 1),
    Column::number("Out/s", "bytes_out_per_s", 5, 1),
    Column::number("In/s", "bytes_in_per_s", 5, 1),
    Column::number("Threats", "threats", 7, 2),
    Column::text("State", "state", 7, 8, 5),
    Column::text("Kernel", "kernel", 10, 24, 6),
    Column::text("3 min", "history", 8, 60, 3),
];

/// The rows.
pub fn rows(picture: &Picture) -> Vec<Row> {
    let row = |of: &policyd_api::Domain| {
        let rates = picture.domain_rates(&of.name);
        let rate_of = |i: usize| rates.map(|rates| rates[i]);
        let (threats, worst) = picture.threats_of(&of.name);
        let mut threats = Cell::count(threats as u64);
        threats.tone = match worst {
            Some(Severity::Alert) => Some(Tone::Bad),
            Some(Severity::Warning) => Some(Tone::Odd),
            Some(Severity::Notice) | None => None,
        };
        Row {
            key: of.name.clone(),
            cells: vec![
                Cell::text(&of.name),
                Cell::count(of.id.into()),
                Cell::word(of.mode.as_str()),
                Cell::count(of.processes as u64),
                Cell::count(of.flows as u64),
                rate(rate_of(domain::NEW)),
                rate(rate_of(domain::DENIED)).bad_above_zero(Tone::Bad),
                bytes(rate_of(domain::OUT)),
                bytes(rate_of(domain::IN)),
                threats,
                Cell::word(&of.state),
                Cell::maybe(of.kernel.as_ref()),
                Cell::spark(),
            ],
            into: Leads::Domain(of.name.clone()),
            detail: of.problems.iter().map(|problem| plain(problem)).collect(),
        }
    };
    picture.all_domains().iter().map(row).collect()
}
