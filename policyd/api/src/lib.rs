// SPDX-License-Identifier: GPL-3.0-only
//! Types and client of policyd's API. Types are plain data; names of fields are the JSON names.
//!
//! The daemon serves HTTP/1.1 with JSON bodies on a unix socket ([`SOCKET`]). Streams (`events`, `flows` with
//! `follow=true`) are newline-delimited JSON. This crate is all that a client needs: it links neither
//! Xen's libraries nor the daemon.
#![forbid(unsafe_code)]

pub mod chain;
mod client;
mod control;
mod event;
pub mod export;
mod flow;
mod guest;
mod qos;
mod stats;
mod trace;
mod types;

pub use client::{Client, ClientError, Stream};
pub use control::*;
pub use event::*;
pub use flow::*;
pub use guest::*;
pub use qos::*;
pub use stats::*;
pub use trace::*;
pub use types::*;

/// Where policyd listens unless told otherwise.
pub const SOCKET: &str = "/run/policyd/api.sock";
