// SPDX-License-Identifier: GPL-3.0-only
//! What can go wrong with the store, and what to do about it.

use std::path::PathBuf;

use policyd_api::export::ExportError;

/// What can go wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Sled could not open its files.
    #[error(
        "cannot open the store {}: {source}; if another policyd runs, stop it; if the disk is full, make room",
        path.display()
    )]
    Open {
        /// Directory of the store.
        path: PathBuf,
        /// Sled's word.
        source: sled::Error,
    },
    /// The store is damaged, and could not be moved away.
    #[error("the store {} is damaged ({why}) and cannot be set aside: {source}; move it away", path.display())]
    Stuck {
        /// Directory of the store.
        path: PathBuf,
        /// What is damaged.
        why: String,
        /// Why it stays.
        source: std::io::Error,
    },
    /// The disk is nearly full.
    #[error(
        "only {free} bytes are free on the disk of {}, and a change of policy wants {reserve}; nothing was changed: make room and try again",
        path.display()
    )]
    Full {
        /// Directory of the store.
        path: PathBuf,
        /// Bytes that are free.
        free: u64,
        /// Bytes that must be.
        reserve: u64,
    },
    /// Sled failed.
    #[error("the store failed: {0}; nothing was changed. Is the disk full?")]
    Sled(#[from] sled::Error),
    /// Sled failed, and what it was to write may be there or not.
    #[error(
        "the store failed: {0}; the change is not in force, but it could not be taken back from the disk yet. \
         That is tried again with the next request; if policyd is restarted before that, look at `xmesh policy-history`. Is the disk full?"
    )]
    Unsettled(sled::Error),
    /// A stored record is not what this version writes.
    #[error(
        "the store's record of {what} is damaged ({why}); restart policyd: it sets the store aside and goes on from its last export"
    )]
    Damaged {
        /// Which record.
        what: String,
        /// What the decoder said.
        why: String,
    },
    /// A generation is not kept any more, or never was.
    #[error(
        "generation {asked} is not kept; `xmesh policy-history` lists those that are ({oldest} to {newest})"
    )]
    NoSuchGeneration {
        /// What was asked for.
        asked: u64,
        /// The oldest kept.
        oldest: u64,
        /// The one in force.
        newest: u64,
    },
    /// A text is not kept: the history came from an automatic export, which has only the texts in force.
    #[error(
        "the text of {set} at that generation is not kept: the history was brought back from an export without it"
    )]
    NoText {
        /// Name of the set.
        set: String,
    },
    /// An export could not be written or read.
    #[error("{}: {why}", path.display())]
    Export {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// An export contradicts itself.
    #[error(transparent)]
    Content(#[from] ExportError),
}
