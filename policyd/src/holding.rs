// SPDX-License-Identifier: GPL-3.0-only
//! First packets that wait until it is known whose they are.
//!
//! The vif's program takes a packet out of the way where only not knowing its process denies it. It waits here while its flow
//! is looked up, and goes on, by the same program, once there is a verdict. [`Room`] is the policy of it: bounds, time and order,
//! without clock and effects. What has no place, or no verdict in time, is dropped and counted: the client then tries again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use netback_filter::{FlowKey, HeldFrame, Release};
use vmi_xen::meter::Meter;

use crate::daemon::monotonic_ns;
use crate::registry::lock;

/// How much may wait, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Frames of one guest.
    pub guest: usize,
    /// Frames of all guests.
    pub all: usize,
    /// Of each frame.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            guest: 64,
            all: 1024,
            // A lookup takes a millisecond at most; a client tries again after a second.
            time: Duration::from_millis(100),
        }
    }
}

/// What became of what was to wait, since the daemon started.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Taken in.
    pub held: u64,
    /// Of them, let go once their flow had a verdict.
    pub released: u64,
    /// Of them, dropped after their time.
    pub late: u64,
    /// Of them, dropped since nobody owns their flow, or nobody could say who does.
    pub unowned: u64,
    /// Not taken in: no room.
    pub full: u64,
    /// Let go, but the kernel did not take them.
    pub failed: u64,
}

/// What is to be done with a frame that came.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken<F> {
    /// Nothing: it waits.
    Waits,
    /// Let it go: its flow has got its verdict a moment ago.
    Goes(F),
    /// Drop it: there is no room.
    Full,
}

struct Waiting<F> {
    since: Instant,
    key: FlowKey,
    frame: F,
}

/// What waits.
pub struct Room<F> {
    limits: Limits,
    /// By the number of its arrival.
    frames: BTreeMap<u64, Waiting<F>>,
    arrivals: u64,
    flows: HashMap<FlowKey, Vec<u64>>,
    guests: HashMap<u32, usize>,
    /// When flows got their verdict: more of their frames may be on the way here.
    settled: HashMap<FlowKey, Instant>,
    counts: Counts,
}

impl<F> Room<F> {
    /// An empty one.
    pub fn new(limits: Limits) -> Room<F> {
        Room {
            limits,
            frames: BTreeMap::new(),
            arrivals: 0,
            flows: HashMap::new(),
            guests: HashMap::new(),
            settled: HashMap::new(),
            counts: Counts::default(),
        }
    }

    /// Takes a frame in that waits since `now`.
    pub fn take(&mut self, now: Instant, key: FlowKey, frame: F) -> Taken<F> {
        self.expire(now);
        if self.settled.contains_key(&key) {
            self.counts.held += 1;
            self.counts.released += 1;
            return Taken::Goes(frame);
        }
        let of_guest = self.guests.entry(key.scope).or_default();
        if *of_guest >= self.limits.guest || self.frames.len() >= self.limits.all {
            if *of_guest == 0 {
                self.guests.remove(&key.scope);
            }
            self.counts.full += 1;
            return Taken::Full;
        }
        *of_guest += 1;
        self.arrivals += 1;
        self.flows.entry(key).or_default().push(self.arrivals);
        let waiting = Waiting {
            since: now,
            key,
            frame,
        };
        self.frames.insert(self.arrivals, waiting);
        self.counts.held += 1;
        Taken::Waits
    }

    /// The flow has its verdict: gives those of its frames whose time is not over, in the order in which they came. What comes of
    /// it within the same time goes at once.
    pub fn settle(&mut self, now: Instant, key: &FlowKey) -> Vec<F> {
        self.expire(now);
        if self.settled.len() < self.limits.all {
            self.settled.insert(*key, now);
        }
        let frames = self.remove(key);
        self.counts.released += frames.len() as u64;
        frames
    }

    /// Nobody will tell whose the flow is.
    pub fn dismiss(&mut self, key: &FlowKey) {
        self.counts.unowned += self.remove(key).len() as u64;
    }

    /// Drops what waits for too long.
    pub fn expire(&mut self, now: Instant) {
        let time = self.limits.time;
        self.settled.retain(|_, since| now < *since + time);
        while let Some(oldest) = self.frames.first_entry() {
            if now < oldest.get().since + time {
                return;
            }
            let (number, waiting) = oldest.remove_entry();
            self.left(waiting.key.scope);
            if let Some(numbers) = self.flows.get_mut(&waiting.key) {
                numbers.retain(|n| *n != number);
                if numbers.is_empty() {
                    self.flows.remove(&waiting.key);
                }
            }
            self.counts.late += 1;
        }
    }

    /// When the time of the oldest is over.
    pub fn due(&self) -> Option<Instant> {
        let (_, oldest) = self.frames.first_key_value()?;
        Some(oldest.since + self.limits.time)
    }

    fn remove(&mut self, key: &FlowKey) -> Vec<F> {
        let numbers = self.flows.remove(key).unwrap_or_default();
        let mut frames = Vec::with_capacity(numbers.len());
        for number in numbers {
            if let Some(waiting) = self.frames.remove(&number) {
                self.left(key.scope);
                frames.push(waiting.frame);
            }
        }
        frames
    }

    fn left(&mut self, scope: u32) {
        if let Some(count) = self.guests.get_mut(&scope) {
            *count -= 1;
            if *count == 0 {
                self.guests.remove(&scope);
            }
        }
    }
}

/// The room of this host, and the way out of it. Shared by who reads the vifs' reports and who writes verdicts.
pub struct Holding {
    room: Mutex<Room<HeldFrame>>,
    release: Option<Release>,
    failed: AtomicU64,
    waits: Mutex<Meter>,
}

impl Holding {
    /// An empty room. Where nothing could be let go the log says so, once, and nothing waits.
    pub fn open(limits: Limits) -> Holding {
        let release = Release::open()
            .inspect_err(|e| log::warn!("first packets are dropped while their process is looked up: {e}"))
            .ok();
        Holding {
            room: Mutex::new(Room::new(limits)),
            release,
            failed: AtomicU64::new(0),
            waits: Mutex::default(),
        }
    }

    /// Takes a frame in, or lets it go at once.
    pub fn take(&self, frame: HeldFrame) {
        let mut room = lock(&self.room);
        if self.release.is_none() {
            room.counts.full += 1;
            return;
        }
        // Its time is counted from when the vif took it. The channel keeps what came while no daemon read.
        let (now, age) = (Instant::now(), age(&frame));
        match now.checked_sub(age).filter(|_| age < room.limits.time) {
            None => {
                room.counts.held += 1;
                room.counts.late += 1;
            }
            Some(since) => {
                room.expire(now);
                if let Taken::Goes(frame) = room.take(since, frame.key, frame) {
                    self.let_go(&frame);
                }
            }
        }
    }

    /// The flow's verdict is in force: lets its frames go. Returns how many went.
    pub fn settle(&self, key: &FlowKey) -> usize {
        let mut room = lock(&self.room);
        let frames = room.settle(Instant::now(), key);
        // The room stays locked: what comes meanwhile is not to overtake them. Sending does not wait.
        frames.iter().filter(|frame| self.let_go(frame)).count()
    }

    fn let_go(&self, frame: &HeldFrame) -> bool {
        let sent = self.release.as_ref().map(|release| release.send(frame));
        if let Some(Err(e)) = &sent {
            log::debug!("{}: a packet that was held is lost: {e}", frame.key);
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        lock(&self.waits).add(age(frame));
        matches!(sent, Some(Ok(())))
    }

    /// Nobody will tell whose the flow is: drops its frames.
    pub fn dismiss(&self, key: &FlowKey) {
        lock(&self.room).dismiss(key);
    }

    /// Drops what waits for too long. Returns when the next is due.
    pub fn expire(&self) -> Option<Instant> {
        let mut room = lock(&self.room);
        room.expire(Instant::now());
        room.due()
    }

    /// For how long those were away from their vif that were let go.
    pub fn waits(&self) -> Meter {
        *lock(&self.waits)
    }

    /// What became of all so far.
    pub fn counts(&self) -> Counts {
        Counts {
            failed: self.failed.load(Ordering::Relaxed),
            ..lock(&self.room).counts
        }
    }
}

/// How long ago its vif took it.
fn age(frame: &HeldFrame) -> Duration {
    Duration::from_nanos(monotonic_ns().saturating_sub(frame.ns))
}

#[cfg(test)]
mod tests {
    use netback_filter::Protocol;

    use super::*;

    const LIMITS: Limits = Limits {
        guest: 3,
        all: 5,
        time: Duration::from_millis(100),
    };

    fn key(scope: u32, port: u16) -> FlowKey {
        FlowKey {
            scope,
            protocol: Protocol::UDP,
            local: ([10, 0, 0, 1], port).into(),
            remote: ([10, 0, 0, 2], 53).into(),
            vlan: netback_filter::Vlan::NONE,
        }
    }

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn frames_of_a_flow_go_in_order_once_it_is_settled() {
        let (start, mut room) = (Instant::now(), Room::new(LIMITS));
        for (port, frame) in [(1, 'a'), (2, 'x'), (1, 'b')] {
            assert_eq!(room.take(start, key(1, port), frame), Taken::Waits);
        }
        assert_eq!(room.settle(at(start, 50), &key(1, 1)), ['a', 'b']);
        assert_eq!(room.settle(at(start, 50), &key(1, 1)), [], "once");
        // One that was on its way when the verdict was written.
        assert_eq!(room.take(at(start, 60), key(1, 1), 'c'), Taken::Goes('c'));
        assert_eq!(
            room.take(at(start, 60), key(2, 1), 'y'),
            Taken::Waits,
            "another guest's"
        );
        // The verdict is not told of for ever: a new flow may have the same name.
        assert_eq!(room.take(at(start, 150), key(1, 1), 'd'), Taken::Waits);
        let counts = Counts {
            held: 6,
            released: 3,
            late: 1,
            ..Counts::default()
        };
        assert_eq!(room.counts, counts);
    }

    #[test]
    fn nothing_waits_beyond_its_time() {
        let (start, mut room) = (Instant::now(), Room::new(LIMITS));
        assert_eq!(room.due(), None);
        room.take(start, key(1, 1), 'a');
        room.take(at(start, 40), key(1, 1), 'b');
        assert_eq!(room.due(), Some(at(start, 100)));
        room.expire(at(start, 99));
        assert_eq!(room.counts.late, 0);
        room.expire(at(start, 100));
        assert_eq!((room.counts.late, room.due()), (1, Some(at(start, 140))));
        assert_eq!(room.settle(at(start, 139), &key(1, 1)), ['b']);
        room.take(at(start, 300), key(1, 2), 'c');
        assert_eq!(
            room.settle(at(start, 400), &key(1, 2)),
            [],
            "a verdict that comes late"
        );
        assert_eq!((room.counts.late, room.due()), (2, None));
    }

    #[test]
    fn a_guest_and_all_together_have_their_bounds_and_get_their_room_back() {
        let (start, mut room) = (Instant::now(), Room::new(LIMITS));
        for port in 0..3 {
            assert_eq!(room.take(start, key(1, port), port), Taken::Waits);
        }
        assert_eq!(room.take(start, key(1, 3), 3), Taken::Full, "its own bound");
        assert_eq!(room.take(start, key(2, 0), 0), Taken::Waits);
        assert_eq!(room.take(start, key(2, 1), 1), Taken::Waits);
        for scope in [2, 3] {
            assert_eq!(
                room.take(start, key(scope, 2), 2),
                Taken::Full,
                "the bound of all"
            );
        }
        room.dismiss(&key(1, 0));
        assert_eq!(room.take(start, key(3, 0), 0), Taken::Waits);
        assert_eq!(room.counts.full, 3);
        assert_eq!(room.counts.unowned, 1);
        room.settle(start, &key(2, 0));
        room.expire(at(start, 100));
        assert_eq!(room.counts.late, 4);
        assert!(room.frames.is_empty() && room.flows.is_empty());
        assert!(room.guests.is_empty() && room.settled.is_empty());
        assert_eq!(room.take(at(start, 100), key(1, 0), 0), Taken::Waits);
    }

    #[test]
    fn what_is_remembered_of_verdicts_is_bounded() {
        let (start, mut room) = (Instant::now(), Room::<()>::new(LIMITS));
        for port in 0..100 {
            room.settle(start, &key(1, port));
        }
        assert_eq!(room.settled.len(), LIMITS.all);
    }
}
