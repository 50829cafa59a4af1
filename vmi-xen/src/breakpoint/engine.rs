// SPDX-License-Identifier: GPL-3.0-only
//! The engine: the breakpoints of one domain, in its way and out of it.

use std::time::{Duration, Instant};

use xen_bindings::{DomId, PAGE_SIZE, Xen, domain, memory::ForeignPages, monitor::Response};

use super::{
    attach::attach,
    guard::{Guard, Guards, MUTEX_FLAGS},
    patch::{self, MAX_PATCHES, Patch},
    resume::{Resume, Unfit},
    site::{Placed, Purpose, Scope, Site},
};
use crate::{
    altp2m::{
        Armed, ENDBR64, EngineError, ProbeId, Stats, UndoRecord, Waker, hold, let_one_go, starts_with_endbr,
        undo,
    },
    ring::{self, Ring},
    traps::{Degree, Handler, Traps},
};

/// For how long at most to look at the ring before sleeping.
const SPIN: Duration = Duration::from_micros(20);
/// How soon to look again whether the guest is done patching.
const BUSY_AGAIN: Duration = Duration::from_millis(5);
/// For how long a kprobe's making is left alone: it decodes the function first, without a lock that can be seen.
const KPROBE_QUIET: Duration = Duration::from_secs(1);
/// For how long a guest that begins to sleep is left alone, unless it shuts down, which ends the session.
const SLEEP_QUIET: Duration = Duration::from_secs(30);

/// Breakpoints in one running domain. Dropping it frees the guest.
pub struct Engine {
    pub(super) ring: Ring,
    pub(super) sites: Vec<Site>,
    /// While int3s are out of the guest's way, or are not all in place.
    pub(super) out: Option<Out>,
    text_mutex: Word,
    record: UndoRecord,
}

/// Until when int3s stay out of the guest's way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Out {
    scope: Scope,
    pub not_before: Instant,
}

/// A word of guest memory that is looked at again and again.
struct Word {
    page: ForeignPages,
    offset: usize,
}

impl Engine {
    /// Attaches to a domain whose kernel has these `guards`. What a dead predecessor left (see [`UndoRecord`]) is undone first.
    ///
    /// # Errors
    /// Where the domain cannot be watched; the text says what to do about it. The domain is then as it was before.
    pub fn attach(
        xen: &Xen,
        domid: DomId,
        mut record: UndoRecord,
        guards: &Guards,
    ) -> Result<Engine, EngineError> {
        let waker = Waker::new().map_err(EngineError::Wait)?;
        let gfn = guards.text_mutex / PAGE_SIZE as u64;
        let text_mutex = Word {
            page: ForeignPages::map_one(xen, domid, gfn, false)
                .map_err(|source| EngineError::NoPage { gfn, source })?,
            offset: (guards.text_mutex % PAGE_SIZE as u64) as usize,
        };
        let monitor = attach(xen, domid, &mut record)?;
        let mut engine = Engine {
            ring: Ring::new(xen, domid, monitor, waker, SPIN),
            sites: Vec::new(),
            out: None,
            text_mutex,
            record,
        };
        for watched in &guards.watched {
            engine
                .add(Purpose::Guard(watched.guard), watched.va, watched.pa, true)
                .map_err(|error| match error {
                    EngineError::Unfit(_) | EngineError::PageEnd(_) => EngineError::NoGuard(watched.function),
                    other => other,
                })?;
        }
        Ok(engine)
    }

    /// Frees the guest and reports. Dropping the engine does the same, but can only log what goes wrong.
    ///
    /// # Errors
    /// Where Xen refuses a step; the undo record says what is left.
    pub fn detach(mut self) -> Result<Stats, EngineError> {
        self.free_guest()?;
        Ok(self.ring.stats)
    }

    /// What is patched in the guest's text now.
    pub fn patches(&self) -> Vec<Patch> {
        self.sites
            .iter()
            .filter_map(|site| Some(site.placed?.patch))
            .collect()
    }

    fn add(&mut self, purpose: Purpose, va: u64, pa: u64, entry: bool) -> Result<Armed, EngineError> {
        let (mut va, mut pa) = (va, pa);
        let (gfn, offset) = (pa / PAGE_SIZE as u64, (pa % PAGE_SIZE as u64) as usize);
        if entry && starts_with_endbr(&self.ring.xen, self.ring.domid, gfn, offset)? {
            let behind = ENDBR64.len();
            va = va.wrapping_add(behind as u64);
            pa += behind as u64;
            // Where the next page is in memory is for the caller to say.
            if offset + behind >= PAGE_SIZE {
                return Err(EngineError::PageEnd(va));
            }
        }
        if self.sites.len() >= MAX_PATCHES {
            return Err(EngineError::TooManyBreakpoints(MAX_PATCHES));
        }
        let site = Site::new(&self.ring.xen, self.ring.domid, purpose, pa)?;
        let taken =
            |other: &Site| other.purpose == purpose || (other.gfn == site.gfn && other.offset == site.offset);
        if let (true, Purpose::Probe(id)) = (self.sites.iter().any(taken), purpose) {
            return Err(EngineError::AlreadyArmed(id));
        }
        let planned = site.survey()?.map_err(|_| EngineError::Unfit(va))?;
        self.sites.push(site);
        if self.out.is_none() && !self.put_in()? {
            self.stay_out(Scope::Traceable, Duration::ZERO);
        }
        Ok(Armed {
            va,
            one_exit: matches!(planned.resume, Resume::Skip(_)),
        })
    }

    /// Puts every int3 in place that is not, unless the guest patches its text right now: returns whether that was tried. One on
    /// which the guest has a breakpoint of its own, or an instruction that cannot be carried out elsewhere, is left for the next
    /// audit.
    fn put_in(&mut self) -> Result<bool, EngineError> {
        // Looked at first without pausing the guest, which most often is not needed.
        if self.plan()?.is_empty() {
            return Ok(true);
        }
        if self.guest_patches()? {
            return Ok(false);
        }
        hold(&self.ring.xen, &mut self.record)?;
        let done = self.put_in_paused();
        let_one_go(&self.ring.xen, &mut self.record)?;
        done
    }

    fn put_in_paused(&mut self) -> Result<bool, EngineError> {
        if self.guest_patches()? {
            return Ok(false);
        }
        let plan = self.plan()?;
        let mut patches = self.patches();
        patches.extend(plan.iter().map(|(_, placed)| placed.patch));
        self.record.update(|applied| applied.patches = patches)?;
        for (index, placed) in plan {
            if let Some(site) = self.sites.get_mut(index) {
                site.place(&self.ring.xen, self.ring.domid, placed)?;
            }
        }
        Ok(true)
    }

    /// Places that lack their int3 and can have it.
    fn plan(&self) -> Result<Vec<(usize, Placed)>, EngineError> {
        let mut plan = Vec::new();
        for (index, site) in self.sites.iter().enumerate() {
            if site.placed.is_none() {
                match site.survey()? {
                    Ok(placed) => plan.push((index, placed)),
                    Err(Unfit::Breakpoint | Unfit::Instruction) => {}
                }
            }
        }
        Ok(plan)
    }

    /// Whether someone in the guest holds `text_mutex`.
    fn guest_patches(&self) -> Result<bool, EngineError> {
        let mut owner = [0; 8];
        self.text_mutex.page.read(self.text_mutex.offset, &mut owner)?;
        Ok(u64::from_le_bytes(owner) & !MUTEX_FLAGS != 0)
    }

    /// The guest is about to look at its text: takes int3s out of its way. The vCPU that is about to waits meanwhile, so what is
    /// taken away is gone before it looks.
    pub(super) fn make_way(&mut self, guard: Guard) {
        let (scope, quiet) = match guard {
            Guard::Ftrace => (Scope::Traceable, Duration::ZERO),
            Guard::Kprobe => (Scope::Traceable, KPROBE_QUIET),
            Guard::Sleep => (Scope::All, SLEEP_QUIET),
        };
        self.ring.stats.withdrawn += 1;
        for site in self.sites.iter_mut().filter(|site| site.goes(scope)) {
            if let Err(error) = site.withdraw(&self.ring.xen, self.ring.domid) {
                log::warn!("domain {}: frame {:#x}: {error}", self.ring.domid, site.gfn);
            }
        }
        self.note_patches();
        self.stay_out(scope, quiet);
    }

    /// Makes the record name what is in place and no more. Where that fails it names more, which undoing tolerates.
    fn note_patches(&mut self) {
        let patches = self.patches();
        if let Err(error) = self.record.update(|applied| applied.patches = patches) {
            log::warn!("domain {}: {error}", self.ring.domid);
        }
    }

    /// Leaves the guest alone for `quiet` at least.
    pub(super) fn stay_out(&mut self, scope: Scope, quiet: Duration) {
        let not_before = Instant::now() + quiet;
        self.out = Some(match self.out {
            Some(out) => Out {
                scope: out.scope.max(scope),
                not_before: out.not_before.max(not_before),
            },
            None => Out { scope, not_before },
        });
    }

    /// Comes back, if it is time to.
    pub(super) fn come_back(&mut self) -> Result<(), EngineError> {
        let now = Instant::now();
        let Some(out) = self.out.filter(|out| out.not_before <= now) else {
            return Ok(());
        };
        // What is asleep, or saved, must stay as it is.
        let awake = out.scope < Scope::All
            || domain::info(&self.ring.xen, self.ring.domid)?.is_some_and(|info| info.shutdown.is_none());
        self.out = if awake && self.put_in()? {
            None
        } else {
            Some(Out {
                not_before: now + BUSY_AGAIN,
                ..out
            })
        };
        Ok(())
    }

    /// Frees the guest, the first time it is called.
    fn free_guest(&mut self) -> Result<(), EngineError> {
        if let Some(mut monitor) = self.ring.monitor.take() {
            // A paused guest raises no more events. Failing is no reason to stop: the domain may be gone, or `undo` does the
            // rest.
            let held = hold(&self.ring.xen, &mut self.record)
                .and_then(|()| patch::restore_all(&self.ring.xen, &mut self.record));
            if let Err(error) = held {
                log::debug!("domain {}: before detaching: {error}", self.ring.domid);
            }
            // The guest's own instruction is where RIP is. Its own breakpoints it meets again, unmonitored.
            while let Ok(Some(request)) = monitor.next_event() {
                if monitor.answer(&Response::resume(&request)).is_err() {
                    break;
                }
            }
        }
        self.sites.clear();
        undo(&self.ring.xen, &mut self.record)?;
        Ok(())
    }
}

impl Traps for Engine {
    fn degree(&self) -> Degree {
        Degree::Breakpoint
    }

    fn arm(&mut self, id: ProbeId, va: u64, pa: u64) -> Result<Armed, EngineError> {
        self.add(Purpose::Probe(id), va, pa, true)
    }

    fn arm_at(&mut self, id: ProbeId, va: u64, pa: u64) -> Result<Armed, EngineError> {
        self.add(Purpose::Probe(id), va, pa, false)
    }

    fn disarm(&mut self, id: ProbeId) -> Result<(), EngineError> {
        let found = self
            .sites
            .iter()
            .position(|site| site.purpose == Purpose::Probe(id));
        if let Some(index) = found {
            self.sites[index].withdraw(&self.ring.xen, self.ring.domid)?;
            self.sites.swap_remove(index);
            self.note_patches();
        }
        Ok(())
    }

    fn poll(&mut self, timeout: Duration, handler: &mut Handler<'_>) -> Result<usize, EngineError> {
        ring::poll(self, timeout, handler)
    }

    /// Notices where the guest wrote over an int3 unannounced, and follows.
    fn audit(&mut self) -> Result<(), EngineError> {
        let mut lost = 0;
        for site in &mut self.sites {
            if site.placed.is_some() && !site.is_intact()? {
                site.placed = None;
                lost += 1;
            }
        }
        if lost > 0 {
            self.ring.stats.restored += lost;
            self.note_patches();
        }
        if self.out.is_none() && !self.put_in()? {
            self.stay_out(Scope::Traceable, BUSY_AGAIN);
        }
        Ok(())
    }

    fn patches(&self) -> Vec<Patch> {
        Engine::patches(self)
    }

    fn stats(&self) -> Stats {
        self.ring.stats
    }

    fn waker(&self) -> Waker {
        self.ring.waker.clone()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Err(error) = self.free_guest() {
            log::error!(
                "domain {}: freeing the guest: {error}; the guardian will try again",
                self.ring.domid
            );
        }
    }
}
