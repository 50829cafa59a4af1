// SPDX-License-Identifier: GPL-3.0-only
//! Which rules hold at a time. The time is an input: this crate has no clock.

use std::collections::HashSet;
use std::sync::Arc;

use crate::document::Document;
use crate::ruleset::Ruleset;
use crate::window::Window;

/// A time, in seconds since 1970 in UTC; `None` where nobody has said what time it is.
pub(crate) type Time = Option<i64>;

/// Whether one of them is open. None is while nobody knows the time.
pub(crate) fn is_one_open(windows: &[Window], time: Time) -> bool {
    time.is_some_and(|time| windows.iter().any(|window| window.is_open(time)))
}

/// The times that the rules of these name, each once.
pub(crate) fn windows<'d>(documents: impl IntoIterator<Item = &'d Document>) -> Arc<[Window]> {
    let rules = documents.into_iter().flat_map(|document| &document.rules);
    let all: HashSet<Window> = rules.flat_map(|rule| rule.require.time.iter().copied()).collect();
    all.into_iter().collect()
}

impl Ruleset {
    /// The same rules at a time, in seconds since 1970 in UTC. All else is shared.
    ///
    /// Until this says what time it is, no rule holds that names times.
    #[must_use]
    pub fn at(&self, time: i64) -> Ruleset {
        let mut then = self.clone();
        then.time = Some(time);
        then
    }

    /// Whether [`Ruleset::at`] would make no difference to what holds. Allocates nothing.
    pub fn is_at(&self, time: i64) -> bool {
        self.holds_alike(self.time, Some(time))
    }

    /// When a rule may next begin or cease to hold, after this time; `None` where no rule ever does.
    pub fn next_change(&self, time: i64) -> Option<i64> {
        let changes = self.windows.iter().filter_map(|window| window.next_change(time));
        changes.min()
    }

    /// Which of the times that rules name it is, one after the other: the same rules hold where this is the same. For one ruleset.
    pub fn hours_at(&self, time: i64) -> Box<[bool]> {
        self.windows.iter().map(|window| window.is_open(time)).collect()
    }

    /// Whether the same rules hold in both, as far as that is a matter of time. For two of one generation.
    pub fn same_hours(&self, other: &Ruleset) -> bool {
        self.holds_alike(self.time, other.time)
    }

    fn holds_alike(&self, one: Time, other: Time) -> bool {
        let open = |window: &Window, time: Time| time.is_some_and(|time| window.is_open(time));
        self.windows
            .iter()
            .all(|window| open(window, one) == open(window, other))
    }
}
