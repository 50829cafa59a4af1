// SPDX-License-Identifier: GPL-3.0-only
//! What puts probes into a running guest and serves their traps. Two ways exist, and a [`Session`](crate::session::Session)
//! works with either: an altp2m view ([`crate::altp2m`]), and breakpoints in the guest's own memory.

use std::time::Duration;

use crate::altp2m::{Armed, EngineError, ProbeId, Stats, Trap, Waker};
use crate::breakpoint::Patch;

/// How probes are put into a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Degree {
    /// Breakpoints in the guest's memory: the guest could see them.
    Breakpoint,
    /// Breakpoints that exist in an altp2m view only.
    Altp2m,
}

/// The handler of traps: called while the vCPU waits, so it must not block.
pub type Handler<'h> = dyn FnMut(ProbeId, &Trap<'_>) + 'h;

/// Probes in one running domain. Dropping it frees the guest.
pub trait Traps: Send {
    /// Which of the two ways this is.
    fn degree(&self) -> Degree;

    /// Puts a probe on the function at guest-virtual `va`, whose first byte is at guest-physical `pa`: behind its
    /// `endbr64`, if it starts with one.
    ///
    /// # Errors
    /// Where the address cannot hold a probe, or no room for one is to be had.
    fn arm(&mut self, id: ProbeId, va: u64, pa: u64) -> Result<Armed, EngineError>;

    /// Puts a probe on the very instruction at `va`, which must not be an `endbr64`.
    ///
    /// # Errors
    /// As [`Self::arm`].
    fn arm_at(&mut self, id: ProbeId, va: u64, pa: u64) -> Result<Armed, EngineError>;

    /// Takes a probe away. Unknown ones are ignored.
    ///
    /// # Errors
    /// Where Xen refuses.
    fn disarm(&mut self, id: ProbeId) -> Result<(), EngineError>;

    /// Waits up to `timeout` for events and serves all that are there. Returns how many were served: zero on a timeout, a
    /// signal or [`Waker::wake`].
    ///
    /// # Errors
    /// Where the domain is gone or the ring is broken. Drop the engine then.
    fn poll(&mut self, timeout: Duration, handler: &mut Handler<'_>) -> Result<usize, EngineError>;

    /// Looks after the probes; worth calling about once a second.
    ///
    /// # Errors
    /// Where Xen refuses.
    fn audit(&mut self) -> Result<(), EngineError>;

    /// How many accesses of the guest to a probe's page have trapped for it since it was armed. Probes on one page share them:
    /// each access is one probe's.
    fn page_accesses(&self, id: ProbeId) -> u64 {
        let _ = id;
        0
    }

    /// What is patched in the guest's own memory now, and so there to be read.
    fn patches(&self) -> Vec<Patch> {
        Vec::new()
    }

    /// Counters so far.
    fn stats(&self) -> Stats;

    /// A handle that ends a wait from any thread.
    fn waker(&self) -> Waker;
}
