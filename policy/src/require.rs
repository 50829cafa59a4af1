// SPDX-License-Identifier: GPL-3.0-only
//! Whether what a rule requires holds.

use crate::clock::{Time, is_one_open};
use crate::document::{Level, Require};
use crate::flow::{Owner, Side};
use crate::matching::{Subject, Truth, of_roles};

impl Require {
    /// Whether it is one of its times.
    pub(crate) fn is_open(&self, time: Time) -> bool {
        self.time.is_empty() || is_one_open(&self.time, time)
    }

    /// Whether it may take a process to be known at this end.
    pub(crate) fn asks_owner(&self, side: Side) -> bool {
        self.authentication == Some(Level::Process) || (side == Side::Source && !self.role.is_empty())
    }

    /// Whether all but the time holds.
    pub(crate) fn holds(&self, source: &Subject<'_>, destination: &Subject<'_>) -> Truth {
        let mut all = Truth::Yes;
        if let Some(level) = self.authentication {
            all = level.holds(source).min(level.holds(destination));
        }
        if !self.role.is_empty() && all != Truth::No {
            all = all.min(of_roles(&self.role, source));
        }
        all
    }
}

impl Level {
    /// Whether it is known this surely who an end is.
    pub(crate) fn holds(self, subject: &Subject<'_>) -> Truth {
        match self {
            Level::Network => subject.proven.into(),
            Level::Process => match (subject.proven, &subject.owner) {
                (true, Owner::Process(_)) => Truth::Yes,
                (true, Owner::Unknown) => Truth::Maybe,
                (true, Owner::Unattributed) | (false, _) => Truth::No,
            },
        }
    }
}
