// SPDX-License-Identifier: GPL-3.0-only
//! Policy from behaviour: the least policy that allows what was seen ([`suggest`]), what of a policy was used ([`usage`]), and whether
//! the new version behind a route fares as well as the old one ([`canary`]).
//!
//! Pure: no I/O, no clock, no threads. Flows of the past, guests and documents go in; documents, findings and verdicts come out, in an order
//! that depends on nothing else. What guests say of themselves (paths, arguments) is hostile: it is written so that it can be nothing but
//! a pattern or a comment.
#![forbid(unsafe_code)]

mod calendar;
pub mod canary;
mod candidate;
pub mod suggest;
pub mod usage;

use std::sync::Arc;

use policy::{Facts, VmId};

pub use candidate::{Candidate, Candidates, Clock, End, Judgement, Times};

/// A guest that there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: [u8; 16],
    /// What is known of it besides.
    pub facts: Arc<Facts>,
    /// Its processes can be read. What no program was seen for is by none that the guest's kernel knows of, and not only unknown.
    pub sighted: bool,
}

impl Guest {
    /// As policy knows it.
    pub fn id(&self) -> VmId {
        VmId {
            facts: Arc::clone(&self.facts),
            ..VmId::new(self.name.as_str(), self.uuid)
        }
    }
}
