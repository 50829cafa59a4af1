// SPDX-License-Identifier: GPL-3.0-only
//! Probes that come and go while a session runs: a tracer's, for as long as somebody looks at what it prints.
//!
//! A [`Tap`] lives on its domain's thread. Other threads hand it in and end it through a [`TapHandle`], and hear of it by
//! whatever the tap itself was given, such as a channel.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::altp2m::{ENDBR64, EngineError, ProbeId, Trap, Waker};
use crate::linux::Linux;
use crate::live::LiveMemory;
use crate::meter::Meter;
use crate::observe::Watch;
use crate::traps::Traps;

/// Requests that wait for a session.
const MAX_WAITING: usize = 64;
/// Places that all taps of a session may have at once.
pub const MAX_PLACES: usize = 1024;

/// Where a tap wants to be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// The tap's own name for it.
    pub key: u32,
    /// Guest-virtual address in the kernel's text.
    pub va: u64,
    /// Whether it is a function's first byte (the probe then goes behind an `endbr64`) or the very instruction.
    pub entry: bool,
}

/// Whether a tap goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It wants more.
    Continue,
    /// It wants no more for now: its probes are taken away until [`Tap::tick`] says `Continue`.
    Rest,
    /// It has seen enough: its probes are taken away.
    Finish,
}

/// Something that wants to be called at places of a guest's kernel. Everything happens on the domain's thread.
pub trait Tap: Send {
    /// The places; asked once, when the tap begins. A place that another tap has already is shared with it.
    ///
    /// # Errors
    /// A sentence: the tap then does not begin, and [`Self::ended`] is told.
    fn places(&mut self, linux: &Linux<LiveMemory>) -> Result<Vec<Place>, String>;

    /// A place could not be armed, at the beginning or after a rest. `Finish` gives the whole tap up.
    fn refused(&mut self, place: Place, why: &EngineError) -> Next;

    /// Its places are armed, but for those that were refused: at the beginning, and after each rest.
    fn armed(&mut self) -> Next {
        Next::Continue
    }

    /// A vCPU waits at the place `key`: return soon.
    fn fire(&mut self, key: u32, trap: &Trap<'_>, linux: &Linux<LiveMemory>, watch: &mut Watch) -> Next;

    /// About once a second, between traps.
    fn tick(&mut self) -> Next {
        Next::Continue
    }

    /// Traps cost the guest more than its budget, and what taps show is needed least: the probes of all taps are taken away for
    /// `time`. `why` is a sentence without its subject.
    fn rests(&mut self, time: Duration, why: &str);

    /// It is over, and its probes are gone: `why` is None where it or its owner ended it.
    fn ended(&mut self, why: Option<&str>);
}

/// What a session is asked.
pub(crate) enum Request {
    Begin(u64, Box<dyn Tap>),
    End(u64),
}

/// Hands taps to a running session. Cheap to clone.
#[derive(Clone)]
pub struct TapHandle {
    requests: Sender<Request>,
    waker: Waker,
    probed: Probed,
}

/// Addresses that taps have probes at. Held for no longer than a look at it.
type Probed = Arc<Mutex<BTreeSet<u64>>>;

impl fmt::Debug for TapHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TapHandle").finish_non_exhaustive()
    }
}

/// Why a tap could not be handed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TapError {
    /// The domain is not watched by traps any more.
    #[error("the domain is not watched by traps any more")]
    Over,
    /// Its thread has too many requests waiting.
    #[error("the domain's thread is too busy; try again")]
    Busy,
}

impl TapHandle {
    pub(crate) fn new(waker: Waker) -> (TapHandle, Taps) {
        let (requests, receiver) = bounded(MAX_WAITING);
        let probed = Probed::default();
        let taps = Taps::new(receiver, Arc::clone(&probed));
        let handle = TapHandle {
            requests,
            waker,
            probed,
        };
        (handle, taps)
    }

    /// Whether the breakpoint of a tap's probe is at `va`: one asked for at an `endbr64` stands behind it.
    pub fn has_probe_at(&self, va: u64) -> bool {
        let probed = self.probed.lock().unwrap_or_else(PoisonError::into_inner);
        probed.contains(&va) || probed.contains(&va.wrapping_sub(ENDBR64.len() as u64))
    }

    /// Hands a tap in, under a number of the caller's choice that no other tap of the session has.
    ///
    /// # Errors
    /// [`TapError`]; the tap is dropped.
    pub fn begin(&self, number: u64, tap: Box<dyn Tap>) -> Result<(), TapError> {
        self.send(Request::Begin(number, tap))
    }

    /// Ends a tap; one that has ended already is ignored.
    ///
    /// # Errors
    /// [`TapError`].
    pub fn end(&self, number: u64) -> Result<(), TapError> {
        self.send(Request::End(number))
    }

    fn send(&self, request: Request) -> Result<(), TapError> {
        self.requests.try_send(request).map_err(|error| match error {
            TrySendError::Full(_) => TapError::Busy,
            TrySendError::Disconnected(_) => TapError::Over,
        })?;
        self.waker.wake();
        Ok(())
    }
}

/// Probe numbers from here on are taps'; those below are the session's own.
const FIRST_ID: u32 = 1 << 16;

/// The taps of one session.
pub(crate) struct Taps {
    requests: Receiver<Request>,
    probed: Probed,
    running: HashMap<u64, Running>,
    probes: HashMap<ProbeId, Probe>,
    next_id: u32,
    /// What they have cost so far, those that are over included.
    meter: Meter,
    /// None has probes, for the time being.
    resting: Option<Resting>,
}

struct Resting {
    until: Instant,
    why: String,
}

/// The probes of all taps of a session, as one.
#[derive(Debug, Clone, Default)]
pub struct TapStatus {
    /// How many there are.
    pub probes: usize,
    /// How often they fired, and how long that took, since the session began.
    pub meter: Meter,
    /// Why they rest: a sentence without its subject.
    pub rests: Option<String>,
}

/// A probe, for every tap that has a place there.
struct Probe {
    va: u64,
    entry: bool,
    /// Number of the tap, and its name for the place.
    users: Vec<(u64, u32)>,
    /// Accesses to its page that the engine had counted when last asked.
    accesses: u64,
}

impl Probe {
    /// Accesses to its page since this was last asked.
    fn accessed(&mut self, id: ProbeId, engine: &dyn Traps) -> u64 {
        let counted = engine.page_accesses(id);
        counted.saturating_sub(std::mem::replace(&mut self.accesses, counted))
    }
}

struct Running {
    tap: Box<dyn Tap>,
    places: Vec<Place>,
    /// Its probes are there.
    armed: bool,
    /// What it said last.
    next: Next,
}

impl Taps {
    fn new(requests: Receiver<Request>, probed: Probed) -> Taps {
        Taps {
            requests,
            probed,
            running: HashMap::new(),
            probes: HashMap::new(),
            next_id: FIRST_ID,
            meter: Meter::default(),
            resting: None,
        }
    }

    /// Begins and ends what was asked for, and takes away and brings back the probes of taps that want it.
    ///
    /// # Errors
    /// Where Xen refuses to take a probe away.
    pub(crate) fn settle(
        &mut self,
        engine: &mut dyn Traps,
        linux: &Linux<LiveMemory>,
    ) -> Result<(), EngineError> {
        while let Ok(request) = self.requests.try_recv() {
            match request {
                Request::Begin(number, tap) => self.begin(number, tap, engine, linux)?,
                Request::End(number) => self.end(number, engine, None)?,
            }
        }
        for (number, next) in self.due() {
            match next {
                Next::Continue => self.arm(number, engine, linux)?,
                Next::Rest => self.disarm(number, engine)?,
                Next::Finish => self.end(number, engine, None)?,
            }
        }
        Ok(())
    }

    /// The taps that are not as they want to be, or as they may be.
    fn due(&self) -> Vec<(u64, Next)> {
        let due = |(number, running): (&u64, &Running)| {
            let next = match running.next {
                Next::Continue if self.resting.is_some() => Next::Rest,
                next => next,
            };
            let due = match next {
                Next::Continue => !running.armed,
                Next::Rest => running.armed,
                Next::Finish => true,
            };
            due.then_some((*number, next))
        };
        self.running.iter().filter_map(due).collect()
    }

    /// Takes the probes of all taps away with the next [`Self::settle`], until [`Self::resume`]. Says so to each of them.
    pub(crate) fn rest(&mut self, time: Duration, why: String) {
        for running in self.running.values_mut() {
            running.tap.rests(time, &why);
        }
        let until = Instant::now() + time;
        self.resting = Some(Resting { until, why });
    }

    /// Lets the taps have their probes again.
    pub(crate) fn resume(&mut self) {
        self.resting = None;
    }

    /// What all taps have cost up to now.
    pub(crate) fn metered(&mut self, engine: &dyn Traps) -> Meter {
        for (id, probe) in &mut self.probes {
            self.meter.accesses += probe.accessed(*id, engine);
        }
        self.meter
    }

    /// How the taps are.
    pub(crate) fn status(&self) -> TapStatus {
        TapStatus {
            probes: self.probes.len(),
            meter: self.meter,
            rests: self.resting.as_ref().map(|resting| resting.why.clone()),
        }
    }

    /// Why none can begin now, and until when.
    fn refusal(&self) -> Option<String> {
        let Resting { until, why } = self.resting.as_ref()?;
        let left = until.saturating_duration_since(Instant::now()).as_secs_f64();
        Some(format!(
            "tracing of this guest {why}; try again in {:.0} s, with fewer calls",
            left.ceil()
        ))
    }

    fn begin(
        &mut self,
        number: u64,
        mut tap: Box<dyn Tap>,
        engine: &mut dyn Traps,
        linux: &Linux<LiveMemory>,
    ) -> Result<(), EngineError> {
        if let Some(why) = self.refusal() {
            tap.ended(Some(&why));
            return Ok(());
        }
        linux.refresh();
        // Which instructions a function has is read from its text, where int3s of another tap may be.
        let found = linux.memory().without(engine.patches(), || tap.places(linux));
        let places = match found {
            Ok(places) if places.len() + self.probes.len() > MAX_PLACES => {
                tap.ended(Some(&format!("more than {MAX_PLACES} places at once")));
                return Ok(());
            }
            Ok(places) => places,
            Err(why) => {
                tap.ended(Some(&why));
                return Ok(());
            }
        };
        let running = Running {
            tap,
            places,
            armed: false,
            next: Next::Continue,
        };
        self.running.insert(number, running);
        self.arm(number, engine, linux)
    }

    /// Arms all places of a tap; ends it if there is none.
    fn arm(
        &mut self,
        number: u64,
        engine: &mut dyn Traps,
        linux: &Linux<LiveMemory>,
    ) -> Result<(), EngineError> {
        let Some(running) = self.running.get_mut(&number) else {
            return Ok(());
        };
        running.armed = true;
        let mut armed = 0;
        let mut given_up = None;
        for place in &running.places {
            let user = (number, place.key);
            let known = self
                .probes
                .values_mut()
                .find(|probe| probe.va == place.va && probe.entry == place.entry);
            if let Some(probe) = known {
                probe.users.push(user);
                armed += 1;
                continue;
            }
            let id = ProbeId(self.next_id);
            self.next_id = self.next_id.checked_add(1).unwrap_or(FIRST_ID);
            match arm(engine, linux, id, *place) {
                Ok(()) => {
                    let probe = Probe {
                        va: place.va,
                        entry: place.entry,
                        users: vec![user],
                        accesses: 0,
                    };
                    self.probes.insert(id, probe);
                    armed += 1;
                }
                Err(error) => {
                    if running.tap.refused(*place, &error) == Next::Finish {
                        given_up = Some(error.to_string());
                        break;
                    }
                }
            }
        }
        self.publish();
        if armed == 0 && given_up.is_none() {
            given_up = Some("no place could be probed".into());
        }
        match given_up {
            Some(why) => self.end(number, engine, Some(&why)),
            None => {
                if let Some(running) = self.running.get_mut(&number) {
                    running.next = running.tap.armed();
                }
                Ok(())
            }
        }
    }

    /// Takes away the probes of a tap that no other tap has.
    fn disarm(&mut self, number: u64, engine: &mut dyn Traps) -> Result<(), EngineError> {
        if let Some(running) = self.running.get_mut(&number) {
            running.armed = false;
        }
        let mut outcome = Ok(());
        self.probes.retain(|id, probe| {
            probe.users.retain(|(user, _)| *user != number);
            if !probe.users.is_empty() {
                return true;
            }
            self.meter.accesses += probe.accessed(*id, engine);
            if let Err(error) = engine.disarm(*id) {
                outcome = Err(error);
            }
            false
        });
        self.publish();
        outcome
    }

    /// Lets others know where probes are.
    fn publish(&self) {
        let probed = self.probes.values().map(|probe| probe.va).collect();
        *self.probed.lock().unwrap_or_else(PoisonError::into_inner) = probed;
    }

    fn end(&mut self, number: u64, engine: &mut dyn Traps, why: Option<&str>) -> Result<(), EngineError> {
        let outcome = self.disarm(number, engine);
        if let Some(mut running) = self.running.remove(&number) {
            running.tap.ended(why);
        }
        outcome
    }

    /// A probe fired; false if it is none of a tap's.
    pub(crate) fn fire(
        &mut self,
        id: ProbeId,
        trap: &Trap<'_>,
        linux: &Linux<LiveMemory>,
        watch: &mut Watch,
    ) -> bool {
        let Some(probe) = self.probes.get(&id) else {
            // An event of a probe that was taken away in the meantime.
            return id.0 >= FIRST_ID;
        };
        let began = Instant::now();
        linux.refresh();
        for (number, key) in &probe.users {
            if let Some(running) = self.running.get_mut(number).filter(|r| r.next == Next::Continue) {
                running.next = running.tap.fire(*key, trap, linux, watch);
            }
        }
        self.meter.add(began.elapsed());
        true
    }

    /// Once a second.
    pub(crate) fn tick(&mut self) {
        for running in self.running.values_mut().filter(|r| r.next != Next::Finish) {
            running.next = running.tap.tick();
        }
    }
}

impl Drop for Taps {
    fn drop(&mut self) {
        let over = Some("the guest is not watched by traps any more");
        for running in self.running.values_mut() {
            running.tap.ended(over);
        }
        while let Ok(request) = self.requests.try_recv() {
            if let Request::Begin(_, mut tap) = request {
                tap.ended(over);
            }
        }
    }
}

fn arm(
    engine: &mut dyn Traps,
    linux: &Linux<LiveMemory>,
    id: ProbeId,
    place: Place,
) -> Result<(), EngineError> {
    let translated = linux.kernel().space.translate(linux.memory(), place.va);
    let pa = translated.map_err(|_| EngineError::NotMapped(place.va))?;
    if place.entry {
        engine.arm(id, place.va, pa)?;
    } else {
        engine.arm_at(id, place.va, pa)?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "tap_tests.rs"]
mod tests;
