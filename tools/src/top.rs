// SPDX-License-Identifier: GPL-3.0-only
//! `xmesh top`: a live view, as xentop is of domains.
//!
//! Data goes one way: `ask` looks, on a thread of its own; `picture` keeps what looks told and `rates` what is between them; `rows`
//! make rows of it; `model` knows where one is, by keys; `draw` draws the model. Only `live` and `screen` touch the terminal, only
//! `ask` and `batch` the daemon, and all else is a function over values.

mod ask;
pub mod batch;
mod columns;
mod draw;
mod key;
pub mod live;
mod look;
mod model;
mod picture;
mod rates;
mod rows;
mod screen;
mod table;
pub mod view;

#[cfg(test)]
mod sample;
