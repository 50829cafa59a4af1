// SPDX-License-Identifier: GPL-3.0-only
//! Rows of each view, made of the picture.

pub mod domains;
pub mod findings;
pub mod flows;
pub mod pairs;
pub mod processes;
pub mod threats;

use std::time::Duration;

use super::table::Cell;
use crate::render::signal;
use crate::render::time;

/// Things a second.
fn rate(value: Option<f64>) -> Cell {
    Cell::measured(value, signal::rate)
}

/// Bytes a second.
fn bytes(value: Option<f64>) -> Cell {
    Cell::measured(value, |value| time::bytes(value as u64))
}

/// µs.
fn micros(value: Option<f64>) -> Cell {
    Cell::measured(value, signal::micros)
}

/// Seconds that something is old.
fn age(age: Duration) -> Cell {
    Cell::number(age.as_secs_f64(), time::duration(age.as_secs()))
}
