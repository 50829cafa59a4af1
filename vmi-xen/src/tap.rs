// SPDX-License-Identifier: GPL-3.0-only
//! Probes that come and go while a session runs: a tracer's, for as long as somebody looks at what it prints.
//!
//! A [`Tap`] lives on its domain's thread. Other threads hand it in and end it through a [`TapHandle`], and hear of it by
//! whatever the tap itself was given, such as a channel.

use std::collections::HashMap;
use std::fmt;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::altp2m::{EngineError, ProbeId, Trap, Waker};
use crate::linux::Linux;
use crate::live::LiveMemory;
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
    /// It has seen enough: its probes are taken away.
    Finish,
}

/// Something that wants to be called at places of a guest's kernel. Everything happens on the domain's thread.
pub trait Tap: Send {
    /// The places; asked once, when the tap begins.
    ///
    /// # Errors
    /// A sentence: the tap then does not begin, and [`Self::ended`] is told.
    fn places(&mut self, linux: &Linux<LiveMemory>) -> Result<Vec<Place>, String>;

    /// A place could not be armed. `Finish` gives the whole tap up.
    fn refused(&mut self, place: Place, why: &EngineError) -> Next;

    /// A vCPU waits at the place `key`: return soon.
    fn fire(&mut self, key: u32, trap: &Trap<'_>, linux: &Linux<LiveMemory>, watch: &mut Watch) -> Next;

    /// About once a second, between traps.
    fn tick(&mut self) -> Next {
        Next::Continue
    }

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
}

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
    pub(crate) fn new(waker: Waker) -> (TapHandle, Receiver<Request>) {
        let (requests, receiver) = bounded(MAX_WAITING);
        (TapHandle { requests, waker }, receiver)
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
    running: HashMap<u64, Running>,
    places: HashMap<ProbeId, (u64, u32)>,
    next_id: u32,
}

struct Running {
    tap: Box<dyn Tap>,
    ids: Vec<ProbeId>,
    finished: bool,
}

impl Taps {
    pub(crate) fn new(requests: Receiver<Request>) -> Taps {
        Taps {
            requests,
            running: HashMap::new(),
            places: HashMap::new(),
            next_id: FIRST_ID,
        }
    }

    /// Begins and ends what was asked for, and takes away the probes of taps that have finished.
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
        let finished: Vec<u64> = self
            .running
            .iter()
            .filter(|(_, running)| running.finished)
            .map(|(number, _)| *number)
            .collect();
        for number in finished {
            self.end(number, engine, None)?;
        }
        Ok(())
    }

    fn begin(
        &mut self,
        number: u64,
        mut tap: Box<dyn Tap>,
        engine: &mut dyn Traps,
        linux: &Linux<LiveMemory>,
    ) -> Result<(), EngineError> {
        linux.refresh();
        let places = match tap.places(linux) {
            Ok(places) if places.len() + self.places.len() > MAX_PLACES => {
                tap.ended(Some(&format!("more than {MAX_PLACES} places at once")));
                return Ok(());
            }
            Ok(places) => places,
            Err(why) => {
                tap.ended(Some(&why));
                return Ok(());
            }
        };
        let mut running = Running {
            tap,
            ids: Vec::new(),
            finished: false,
        };
        let mut given_up = None;
        for place in places {
            let id = ProbeId(self.next_id);
            self.next_id = self.next_id.checked_add(1).unwrap_or(FIRST_ID);
            match arm(engine, linux, id, place) {
                Ok(()) => {
                    running.ids.push(id);
                    self.places.insert(id, (number, place.key));
                }
                Err(error) => {
                    if running.tap.refused(place, &error) == Next::Finish {
                        given_up = Some(error.to_string());
                        break;
                    }
                }
            }
        }
        if running.ids.is_empty() && given_up.is_none() {
            given_up = Some("no place could be probed".into());
        }
        self.running.insert(number, running);
        match given_up {
            Some(why) => self.end(number, engine, Some(&why)),
            None => Ok(()),
        }
    }

    fn end(&mut self, number: u64, engine: &mut dyn Traps, why: Option<&str>) -> Result<(), EngineError> {
        let Some(mut running) = self.running.remove(&number) else {
            return Ok(());
        };
        let mut outcome = Ok(());
        for id in running.ids {
            self.places.remove(&id);
            outcome = outcome.and(engine.disarm(id));
        }
        running.tap.ended(why);
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
        let Some((number, key)) = self.places.get(&id).copied() else {
            // An event of a probe that was taken away in the meantime.
            return id.0 >= FIRST_ID;
        };
        if let Some(running) = self.running.get_mut(&number).filter(|r| !r.finished) {
            linux.refresh();
            running.finished = running.tap.fire(key, trap, linux, watch) == Next::Finish;
        }
        true
    }

    /// Once a second.
    pub(crate) fn tick(&mut self) {
        for running in self.running.values_mut().filter(|r| !r.finished) {
            running.finished = running.tap.tick() == Next::Finish;
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
