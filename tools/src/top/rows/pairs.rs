// SPDX-License-Identifier: GPL-3.0-only
//! A row a pair of parties.

use policyd_api::{PairSignals, Quantiles};

use super::{bytes, micros, rate};
use crate::render::style::Tone;
use crate::top::picture::{Picture, pair, pair_key};
use crate::top::table::{Cell, Column, End, Ends, Leads, Row};

/// The columns. Counts a second are of the last look, times of the daemon's window.
pub const COLUMNS: &[Column] = &[
    Column::text("From", "from", 12, 32, 0),
    Column::text("To", "to", 12, 32, 0),
    Column::text("Route", "route", 5, 24, 7),
    Column::text("Ver", "version", 3, 12, 4),
    Column::text("Proto", "protocol", 5, 6, 6),
    Column::number("Port", "port", 5, 1),
    Column::number("Open", "open", 5, 5),
    Column::number("Conn/s", "connections_per_s", 6, 1),
    Column::number("Denied/s", "denied_per_s", 8, 1),
    Column::number("Failed/s", "failed_per_s", 8, 2),
    Column::number("Out/s", "bytes_out_per_s", 5, 3),
    Column::number("In/s", "bytes_in_per_s", 5, 3),
    Column::number("Setup", "setup_p50_us", 6, 2),
    Column::number("p99", "setup_p99_us", 6, 1),
    Column::number("RTT", "server_rtt_p50_us", 6, 4),
    Column::number("1st byte", "first_byte_p50_us", 8, 4),
    Column::number("Retr/s", "retransmissions_per_s", 6, 5),
    Column::text("3 min", "history", 8, 60, 8),
];

/// The rows.
pub fn rows(picture: &Picture) -> Vec<Row> {
    match &picture.signals {
        Ok(signals) => signals.pairs.iter().map(|of| row(picture, of)).collect(),
        Err(_) => Vec::new(),
    }
}

fn row(picture: &Picture, of: &PairSignals) -> Row {
    let key = pair_key(of);
    let rates = picture.pair_rates(&key);
    let rate_of = |i: usize| rates.map(|rates| rates[i]);
    let p50 = |of: &Quantiles| (of.count > 0).then_some(of.p50);
    let p99 = |of: &Quantiles| (of.count > 0).then_some(of.p99);
    let window = &of.window;
    Row {
        cells: vec![
            Cell::text(&of.from.name),
            Cell::text(&of.to.name),
            Cell::maybe(of.route.as_ref()),
            Cell::maybe(of.version.as_ref()),
            Cell::text(&of.protocol),
            Cell::measured(of.port.map(f64::from), |port| port.to_string()),
            Cell::count(of.open),
            rate(rate_of(pair::CONNECTIONS)),
            rate(rate_of(pair::DENIED)).bad_above_zero(Tone::Bad),
            rate(rate_of(pair::FAILED)).bad_above_zero(Tone::Bad),
            bytes(rate_of(pair::OUT)),
            bytes(rate_of(pair::IN)),
            micros(p50(&window.setup_us)),
            micros(p99(&window.setup_us)),
            micros(p50(&window.server_rtt_us)),
            micros(p50(&window.first_byte_us)),
            rate(rate_of(pair::RETRANSMISSIONS)).bad_above_zero(Tone::Odd),
            Cell::spark(),
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
            route: of.route.clone(),
            version: of.version.clone(),
            port: of.port,
            protocol: Some(of.protocol.clone()),
        })),
        detail: Vec::new(),
        key,
    }
}
