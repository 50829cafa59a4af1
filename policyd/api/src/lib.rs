// SPDX-License-Identifier: GPL-3.0-only
//! Types and client of policyd's API. Types are plain data; names of fields are the JSON names.
//!
//! The daemon serves HTTP/1.1 with JSON bodies on a unix socket ([`SOCKET`]), and by TLS where it is told to. Streams (`events`, `flows` with
//! `follow=true`) are newline-delimited JSON. This crate is all that a client needs: it links neither
//! Xen's libraries nor the daemon.
#![forbid(unsafe_code)]

pub mod chain;
mod client;
mod control;
mod event;
pub mod export;
mod flow;
mod flow_history;
mod guest;
mod histogram;
mod measured;
mod qos;
mod replay;
mod signals;
mod stats;
mod suggest;
mod threat;
mod trace;
mod types;

pub use client::{Client, ClientError, Identity, Stream, escape};
pub use control::*;
pub use event::*;
pub use flow::*;
pub use flow_history::*;
pub use guest::*;
pub use histogram::*;
pub use measured::*;
pub use qos::*;
pub use replay::*;
pub use signals::*;
pub use stats::*;
pub use suggest::*;
pub use threat::*;
pub use trace::*;
pub use types::*;

/// Where policyd listens unless told otherwise.
pub const SOCKET: &str = "/run/policyd/api.sock";
