// SPDX-License-Identifier: GPL-3.0-only
//! Whether what a rule requires holds.

use crate::clock::{Time, is_one_open};
use crate::document::{Level, Require};
use crate::flow::{Measured, Owner, Side};
use crate::matching::{Subject, Truth, of_roles};

impl Require {
    /// Whether it is one of its times.
    pub(crate) fn is_open(&self, time: Time) -> bool {
        self.time.is_empty() || is_one_open(&self.time, time)
    }

    /// Whether it may take a process to be known at this end.
    pub(crate) fn asks_owner(&self, side: Side) -> bool {
        self.authentication.of(side) >= Some(Level::Process)
            || (side == Side::Source && !self.role.is_empty())
    }

    /// Whether all but the time holds.
    pub(crate) fn holds(&self, source: &Subject<'_>, destination: &Subject<'_>) -> Truth {
        let holds = |level: Option<Level>, subject| level.map_or(Truth::Yes, |level| level.holds(subject));
        let mut all = holds(self.authentication.from, source).min(holds(self.authentication.to, destination));
        if !self.role.is_empty() && all != Truth::No {
            all = all.min(of_roles(&self.role, source));
        }
        all
    }
}

impl Level {
    /// Whether it is known this surely who an end is.
    pub(crate) fn holds(self, subject: &Subject<'_>) -> Truth {
        let measured = match (self, subject.proven, &subject.owner) {
            (_, false, _) => return Truth::No,
            (Level::Network, true, _) => return Truth::Yes,
            (Level::Process, true, Owner::Process(_)) => return Truth::Yes,
            (Level::Measured, true, Owner::Process(process)) => process.measured,
            (_, true, Owner::Unknown) => return Truth::Maybe,
            (_, true, Owner::Unattributed) => return Truth::No,
        };
        match measured {
            Measured::Same => Truth::Yes,
            Measured::Unknown => Truth::Maybe,
            Measured::Unregistered | Measured::Changed => Truth::No,
        }
    }
}
