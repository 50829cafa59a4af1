// SPDX-License-Identifier: GPL-3.0-only
//! Counters of an engine.

use std::time::Duration;

/// What an engine has done since it was attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Events taken from the ring.
    pub events: u64,
    /// Probes that fired.
    pub traps: u64,
    /// Traps resumed by setting registers: one exit each.
    pub one_exit: u64,
    /// Traps resumed by executing the instruction: in view 0, or by Xen's emulator.
    pub stepped: u64,
    /// Breakpoints that were the guest's own, given back to it.
    pub foreign: u64,
    /// Breakpoints that were gone when they were served: of a disarmed probe, or
    /// of the guest while it patched its text. The vCPU goes on with what is there.
    pub stale: u64,
    /// Writes by the guest to a probed page that were carried out.
    pub writes: u64,
    /// Reads by the guest of a probed page that were given the guest's own bytes.
    pub reads: u64,
    /// Shadow pages brought up to date after such a write.
    pub refreshed: u64,
    /// Probes whose instruction the guest changed; they stay armed.
    pub instructions_changed: u64,
    /// Remappings that Xen had dropped and that were put back.
    pub restored: u64,
    /// Times that breakpoints went out of the way of a guest that patches its text or falls asleep.
    pub withdrawn: u64,
    /// Events that were not understood, answered unchanged.
    pub unknown: u64,
    /// Longest time that a handler took.
    pub handler_max: Duration,
    /// Time that handlers took in all.
    pub handler_total: Duration,
}

impl Stats {
    pub(crate) fn handler_took(&mut self, time: Duration) {
        self.handler_max = self.handler_max.max(time);
        self.handler_total = self.handler_total.saturating_add(time);
    }
}
