// SPDX-License-Identifier: GPL-3.0-only
//! The event log in memory: a ring that writers never wait on and readers follow at their own pace.
//!
//! A reader holds no place in the ring: it asks for what came after the last number it has seen, and learns
//! by a gap what it missed. So a slow reader costs the daemon nothing.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use policyd_api::{Event, What};
use tokio::sync::watch;

/// The ring. One writer thread, any number of readers.
pub struct EventLog {
    ring: Mutex<VecDeque<Arc<Event>>>,
    capacity: usize,
    last: watch::Sender<u64>,
    missed: AtomicU64,
}

/// What a reader gets: events in order and how many it came too late for.
pub struct Batch {
    /// Events after the number asked for.
    pub events: Vec<Arc<Event>>,
    /// Events that had already left the ring.
    pub missed: u64,
}

impl EventLog {
    /// A log that keeps the last `capacity` events.
    pub fn new(capacity: usize) -> EventLog {
        EventLog {
            ring: Mutex::new(VecDeque::with_capacity(capacity)),
            capacity,
            last: watch::Sender::new(0),
            missed: AtomicU64::new(0),
        }
    }

    /// Appends an event and wakes the readers.
    pub fn publish(&self, domain: Option<(u16, &str)>, what: What) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let seq = *self.last.borrow() + 1;
        if ring.len() == self.capacity {
            ring.pop_front();
        }
        ring.push_back(Arc::new(Event {
            seq,
            time_ns: now_ns(),
            domain: domain.map(|(_, name)| name.to_owned()),
            domid: domain.map(|(id, _)| id),
            what,
        }));
        // Under the ring's lock, so that numbers rise in the order of the ring.
        self.last.send_replace(seq);
    }

    /// Events with a number above `after`.
    pub fn since(&self, after: u64) -> Batch {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(oldest) = ring.front().map(|e| e.seq) else {
            return Batch {
                events: Vec::new(),
                missed: 0,
            };
        };
        let missed = oldest.saturating_sub(after.saturating_add(1));
        let skip = after.saturating_add(1).saturating_sub(oldest);
        let events = ring
            .iter()
            .skip(usize::try_from(skip).unwrap_or(usize::MAX))
            .cloned()
            .collect();
        Batch { events, missed }
    }

    /// Counts events a follower lost.
    pub fn count_missed(&self, n: u64) {
        self.missed.fetch_add(n, Ordering::Relaxed);
    }

    /// Events lost by followers since the start.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    /// A watch on the newest number.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }
}

/// Nanoseconds since 1970.
pub fn now_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(n: u64) -> What {
        What::Policy {
            generation: n,
            change: String::new(),
        }
    }

    #[test]
    fn a_reader_sees_all_in_order_and_learns_of_its_gap() {
        let log = EventLog::new(3);
        assert_eq!(log.since(0).events.len(), 0);
        for n in 1..=5 {
            log.publish(None, change(n));
        }
        let batch = log.since(0);
        assert_eq!(batch.missed, 2);
        assert_eq!(batch.events.iter().map(|e| e.seq).collect::<Vec<_>>(), [3, 4, 5]);
        let batch = log.since(4);
        assert_eq!((batch.missed, batch.events.len()), (0, 1));
        assert_eq!(log.since(5).events.len(), 0);
        assert_eq!(log.since(u64::MAX).events.len(), 0);
    }
}
