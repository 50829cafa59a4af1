// SPDX-License-Identifier: GPL-3.0-only
//! What policyd must not lose: the policy sets in force, how they came about, and who asked for what.
//!
//! All of it is in sled. A change is one sled transaction (sets, history, audit log and generation together), then a flush;
//! what was acknowledged is on disk and what was not is wholly absent or wholly there. Sled by itself fails badly on a full disk: after one
//! write that did not fit it refuses everything until it is opened again, for which it wants to write, too; and the write that
//! failed may be there then. So a change is refused before the disk is full ([`space`]), a ballast file is given up to open a
//! store on a disk that is full all the same, and what was refused is taken back when it turns out to be there.
//!
//! Beside the store `DIR` are `DIR.exports`, an export of the last few generations each; `DIR.ballast`; and
//! `DIR.damaged-TIME`, stores that were set aside. The history of flows ([`FlowStore`]) is in files of its own, and may fail without
//! harm to any of this. Nothing here knows what a policy means.
#![forbid(unsafe_code)]

mod damage;
mod error;
mod export;
mod flows;
mod history;
mod migrate;
mod patience;
mod space;
mod store;
mod texts;
mod trees;

use std::time::{SystemTime, UNIX_EPOCH};

pub use damage::Recovery;
pub use error::StoreError;
pub use export::Scope;
pub use flows::{FlowConfig, FlowStore, FlowsError, MAX_NAMES, Past, Records};
pub use store::{Change, Set, StagedChange, Store, Undo};

/// How much is kept, and how much room is left to others.
#[derive(Debug, Clone)]
pub struct Config {
    /// Generations whose changes are kept, and that can be gone back to. What is in force is kept whatever its age.
    pub generations: usize,
    /// Entries of the audit log that are kept; the hash of the one before the first is kept beside them.
    pub audit: u64,
    /// Automatic exports that are kept.
    pub exports: usize,
    /// Bytes that must be free on the disk for a change.
    pub reserve: u64,
    /// Bytes of the ballast, with which a store on a full disk can be opened.
    pub ballast: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            generations: 1000,
            audit: 100_000,
            exports: 5,
            reserve: 8 << 20,
            ballast: 4 << 20,
        }
    }
}

/// Nanoseconds since 1970.
pub(crate) fn now_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}
