// SPDX-License-Identifier: GPL-3.0-only
//! The same views as tables, one after the other: for files, pipes and scripts.

use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use policyd_api::Client;
use serde_json::{Value as Json, json};

use super::look::{Due, Source, look};
use super::model::{Model, find};
use super::table::Value;
use crate::args::top::Top;
use crate::error::ToolError;
use crate::output::Output;
use crate::render::signal::rate;
use crate::render::table::Table;
use crate::render::time::{bytes, timestamp};
use crate::render::{multiline, plain};

/// Prints a table for each look but the first, which the rates of the second stand on.
///
/// # Errors
/// The daemon is away at the first look or at the last.
pub fn run(client: &Client, host: String, asked: &Top, output: &mut Output) -> Result<(), ToolError> {
    let epoch = Instant::now();
    // Whoever is not there to begin with is asked for nothing else.
    let domains = client.domains()?;
    if let Some(name) = &asked.domain
        && find(&domains, name).is_none()
    {
        return Err(ToolError::NoDomain(name.clone()));
    }
    let mut model = Model::new(host, asked);
    // So an id is known by its name from the first look on.
    model.know(domains);
    step(client, &mut model, epoch);
    let mut left = asked.iterations;
    loop {
        thread::sleep(model.delay);
        step(client, &mut model, epoch);
        match &model.away {
            None => output.line(&object(&model), |_| text(&model))?,
            Some(why) => {
                output.finish()?;
                eprintln!("xmesh: {}", multiline(why));
            }
        }
        left = left.map(|left| left - 1);
        if left == Some(0) {
            break;
        }
    }
    match model.away {
        None => Ok(()),
        // Asked once more, for the error that says how it stands.
        Some(_) => Ok(client.status().map(drop)?),
    }
}

fn step(source: &impl Source, model: &mut Model, epoch: Instant) {
    let due = Due {
        base: true,
        threats: true,
        processes: true,
    };
    model.take(look(source, &model.wants(), due, || epoch.elapsed()));
}

fn text(model: &Model) -> String {
    let totals = model.picture.totals();
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), rate);
    let amount = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| bytes(v as u64));
    let generation = model.picture.status.as_ref().map(|status| status.generation);
    let generation = generation.map(|g| format!(" generation {g}")).unwrap_or_default();
    let head = format!(
        "{} {}{generation}: {} flows open, {}/s new, {}/s denied, {}/s out, {}/s in\n",
        timestamp(now_ns()),
        model.host,
        model.picture.open_flows(),
        number(totals.flows),
        number(totals.denied),
        amount(totals.bytes_out),
        amount(totals.bytes_in)
    );
    let body = match model.refused() {
        Some(why) => format!("{}\n", multiline(why)),
        None => table(model),
    };
    format!("{}\n{body}", plain(head.trim_end()))
}

/// All columns but those that only draw.
fn table(model: &Model) -> String {
    let spark = |i: usize| {
        let drawn = |row: &super::table::Row| row.cells.get(i).is_some_and(|c| c.value == Value::Spark);
        model.rows().iter().any(drawn)
    };
    let columns = model.view().columns();
    let kept: Vec<usize> = (0..columns.len()).filter(|i| !spark(*i)).collect();
    let heads: Vec<_> = kept
        .iter()
        .map(|i| (columns[*i].name, columns[*i].align))
        .collect();
    let mut table = Table::new(&heads);
    for row in model.rows() {
        table.row(
            kept.iter()
                .filter_map(|i| row.cells.get(*i))
                .map(|cell| cell.shown.clone()),
        );
    }
    table.render()
}

/// An iteration as one object.
fn object(model: &Model) -> Json {
    let totals = model.picture.totals();
    let columns = model.view().columns();
    let rows: Vec<Json> = model.rows().iter().map(|row| row.json(columns)).collect();
    let threats = model.picture.severities();
    let threats: serde_json::Map<String, Json> = threats
        .into_iter()
        .map(|(severity, count)| (severity.as_str().to_owned(), count.into()))
        .collect();
    json!({
        "time_ns": now_ns(),
        "host": model.host,
        "generation": model.picture.status.as_ref().map(|status| status.generation),
        "view": model.view().word(),
        "flows": model.picture.open_flows(),
        "flows_per_s": totals.flows,
        "denied_per_s": totals.denied,
        "bytes_out_per_s": totals.bytes_out,
        "bytes_in_per_s": totals.bytes_in,
        "threats": threats,
        "refused": model.refused(),
        "rows": rows,
    })
}

fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}
