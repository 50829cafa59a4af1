// SPDX-License-Identifier: GPL-3.0-only
//! What happens on the vifs, as it happens.

use std::os::fd::{AsFd, BorrowedFd};

use aya::maps::{MapData, RingBuf};

use crate::flows::FlowRecord;
use crate::layout::{self, RawEvent};
use crate::types::Direction;

/// What happened to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// The rules allowed it and its first packet passed.
    Start,
    /// A packet of it was denied. Reported once a verdict, and for flows without an entry once in 10 seconds.
    Refused,
    /// TCP: both ends sent FIN, or one RST. The record's counts miss what follows (the last ACK).
    End,
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// When, CLOCK_MONOTONIC in nanoseconds.
    pub ns: u64,
    /// Which way the packet went that caused it.
    pub direction: Direction,
    /// False: the scope only monitors, and a refused packet passed.
    pub enforced: bool,
    /// The flow at that time. Of a refused one only the verdict is filled in.
    pub flow: FlowRecord,
}

impl Event {
    /// `None` for what a newer layout may hold.
    fn from_raw(raw: &RawEvent) -> Option<Self> {
        Some(Self {
            kind: match raw.kind {
                1 => EventKind::Start,
                2 => EventKind::Refused,
                3 => EventKind::End,
                _ => return None,
            },
            ns: raw.ns,
            direction: Direction::from_raw(raw.direction),
            enforced: raw.enforced != 0,
            flow: FlowRecord::from_raw(&raw.key, &raw.value, raw.backend.end()),
        })
    }
}

/// The events, oldest first. The descriptor becomes readable when there is one: poll it, then iterate until `None`,
/// which means "none now". When they are read too slowly, events are lost (and counted), never packets.
pub struct Events {
    ring: RingBuf<MapData>,
}

impl Events {
    pub(crate) fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        loop {
            let item = self.ring.next()?;
            if let Some(event) = layout::read::<RawEvent>(&item).as_ref().and_then(Event::from_raw) {
                return Some(event);
            }
        }
    }
}
