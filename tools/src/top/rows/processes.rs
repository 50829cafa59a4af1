// SPDX-License-Identifier: GPL-3.0-only
//! A row a process of one domain, with what its flows carry.

use std::collections::HashMap;

use policyd_api::Process;

use super::bytes;
use crate::render::plain;
use crate::top::picture::{Picture, flow};
use crate::top::table::{Cell, Column, Leads, Row};

/// The columns.
pub const COLUMNS: &[Column] = &[
    Column::number("PID", "pid", 7, 0),
    Column::number("PPID", "ppid", 7, 5),
    Column::number("User", "user", 6, 1),
    Column::path("Exe", "exe", 12, 48, 0),
    Column::text("Container", "container", 9, 12, 2),
    Column::number("Flows", "flows", 5, 1),
    Column::number("Denied", "denied", 6, 2),
    Column::number("Out/s", "bytes_out_per_s", 5, 1),
    Column::number("In/s", "bytes_in_per_s", 5, 1),
    Column::text("Arguments", "args", 9, 80, 4),
];

#[derive(Default)]
struct Carried {
    flows: u64,
    denied: u64,
    out: Option<f64>,
    into: Option<f64>,
}

/// The rows.
pub fn rows(picture: &Picture, domain: &str) -> Vec<Row> {
    let processes = match &picture.processes {
        Some((of, Ok(processes))) if of == domain => processes.as_slice(),
        _ => return Vec::new(),
    };
    let carried = carried(picture, domain);
    let nothing = Carried::default();
    processes
        .iter()
        .map(|process| row(domain, process, carried.get(&process.pid).unwrap_or(&nothing)))
        .collect()
}

fn carried(picture: &Picture, domain: &str) -> HashMap<u32, Carried> {
    let mut carried: HashMap<u32, Carried> = HashMap::new();
    for flow in picture.all_flows().iter().filter(|flow| flow.domain == domain) {
        let Some(pid) = flow.who.as_ref().and_then(|who| who.pid) else {
            continue;
        };
        let of = carried.entry(pid).or_default();
        of.flows += 1;
        of.denied += u64::from(flow.decision.verdict == policyd_api::Verdict::Deny);
        if let Some(rates) = picture.flow_rates(flow) {
            *of.out.get_or_insert(0.0) += rates[flow::OUT];
            *of.into.get_or_insert(0.0) += rates[flow::IN];
        }
    }
    carried
}

fn row(domain: &str, process: &Process, carried: &Carried) -> Row {
    // As in /proc: what is in brackets has no executable.
    let mut exe = process
        .exe
        .clone()
        .unwrap_or_else(|| format!("[{}]", process.comm));
    if process.exe_deleted {
        exe.push_str(" (deleted)");
    }
    // The first twelve digits are what container tools show.
    let container = process.container.as_ref();
    let container = container.map(|id| id.chars().take(12).collect::<String>());
    let parents = match process.parents.as_slice() {
        [] => Vec::new(),
        parents => vec![plain(&format!("parents: {}", parents.join(", ")))],
    };
    Row {
        key: process.pid.to_string(),
        cells: vec![
            Cell::count(process.pid.into()),
            Cell::count(process.ppid.into()),
            Cell::count(process.euid.into()),
            Cell::text(&exe),
            Cell::maybe(container),
            Cell::count(carried.flows),
            Cell::count(carried.denied).bad_above_zero(crate::render::style::Tone::Bad),
            bytes(carried.out),
            bytes(carried.into),
            Cell::text(process.args.get(1..).unwrap_or_default().join(" ")),
        ],
        into: Leads::Process(domain.to_owned(), process.pid, exe),
        detail: parents,
    }
}
