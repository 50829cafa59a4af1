// SPDX-License-Identifier: GPL-3.0-only
//! What happens on the vifs, as it happens.

use std::os::fd::{AsFd, BorrowedFd};

use aya::maps::{MapData, PerfEventArray, RingBuf};

use crate::error::Error;
use crate::flows::FlowRecord;
use crate::held::HeldFrame;
use crate::layout::{self, EVENT_HELD, KIND, RawEvent};
use crate::perf::PerfReader;
use crate::types::{Direction, Protocol};

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
    /// That packet was in a VLAN, which [`crate::FlowKey::vlan`] need not tell.
    pub tagged: bool,
    /// The flow at that time. Of a refused one only the verdict is filled in.
    pub flow: FlowRecord,
    /// MAC address that the packet came from; `None` where there was none.
    pub sender: Option<[u8; 6]>,
    /// Of TCP: sequence number of a refused packet; of a flow that starts from the guest with a SYN, the one behind it.
    pub sequence: u32,
}

impl Event {
    /// The initial sequence number of a TCP connection that the guest opens, if this is about its first packet. (Of a packet in the
    /// middle of a connection that was not seen before it is the sequence number that the packet has, or one of no meaning.)
    pub fn initial_sequence(&self) -> Option<u32> {
        let is_from_guest = self.flow.verdict.origin == Direction::FromGuest;
        let is_asked = self.flow.key.protocol == Protocol::TCP && is_from_guest;
        match self.kind {
            EventKind::Start if is_asked => Some(self.sequence.wrapping_sub(1)),
            EventKind::Refused if is_asked => Some(self.sequence),
            _ => None,
        }
    }

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
            tagged: raw.tagged != 0,
            flow: FlowRecord::from_raw(&raw.key, &raw.value, raw.backend.end()),
            sender: (raw.sender != [0; 6]).then_some(raw.sender),
            sequence: raw.value.next_seq[0],
        })
    }
}

/// What a vif tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Something happened.
    Event(Event),
    /// A frame is to be held. It comes before the event that its flow is refused, if that is to be reported.
    Held(HeldFrame),
}

impl Report {
    /// `None` for what is cut short, or a newer layout may hold.
    pub(crate) fn from_record(record: &[u8]) -> Option<Self> {
        if record.get(KIND) == Some(&EVENT_HELD) {
            return HeldFrame::from_record(record).map(Self::Held);
        }
        Event::from_raw(&layout::read(record)?).map(Self::Event)
    }

    /// When, CLOCK_MONOTONIC in nanoseconds.
    pub(crate) fn ns(&self) -> u64 {
        match self {
            Self::Event(event) => event.ns,
            Self::Held(frame) => frame.ns,
        }
    }
}

/// What carries events from the kernel to their reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EventChannel {
    /// The ring where the kernel has it, else the buffers.
    #[default]
    Auto,
    /// One ring for all CPUs (Linux 5.8): what happened while nobody read is there for the next reader.
    Ring,
    /// A buffer a CPU, as long as somebody reads; what happens meanwhile is lost, and counted.
    PerfArray,
}

/// The events, oldest first; of buffers, the oldest first of those that are there. The descriptor becomes readable when there
/// is one: poll it, then iterate until `None`, which means "none now". When they are read too slowly, events are lost (and
/// counted), never packets.
///
/// As an iterator it drops held frames; who holds them asks for [`Events::report`].
pub struct Events(Source);

enum Source {
    Ring(RingBuf<MapData>),
    Cpus(PerfReader),
}

impl Events {
    pub(crate) fn of_ring(ring: RingBuf<MapData>) -> Self {
        Self(Source::Ring(ring))
    }

    pub(crate) fn of_cpus(array: PerfEventArray<MapData>, bytes: u32) -> Result<Self, Error> {
        PerfReader::open(array, bytes)
            .map(|reader| Self(Source::Cpus(reader)))
            .map_err(|source| Error::Map {
                map: "events",
                source: source.into(),
            })
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Source::Ring(ring) => ring.as_fd(),
            Source::Cpus(reader) => reader.as_fd(),
        }
    }
}

impl Events {
    /// The next event or held frame; `None`: none now.
    pub fn report(&mut self) -> Option<Report> {
        loop {
            let report = match &mut self.0 {
                Source::Ring(ring) => Report::from_record(&ring.next()?),
                Source::Cpus(reader) => Some(reader.next()?),
            };
            if report.is_some() {
                return report;
            }
        }
    }
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        loop {
            if let Report::Event(event) = self.report()? {
                return Some(event);
            }
        }
    }
}
