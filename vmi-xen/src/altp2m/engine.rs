// SPDX-License-Identifier: GPL-3.0-only
//! The engine: one view of one domain, its shadow pages and its probes.

use std::{collections::BTreeMap, time::Duration};

use xen_bindings::{
    DomId, Gfn, PAGE_SIZE, Xen, XenError,
    altp2m::{self, Access},
    memory,
    monitor::Response,
};

use super::{
    EngineError, ProbeId, SHADOW_SLOTS, Stats, UndoRecord, Waker,
    attach::attach,
    dispatch::Step,
    insn::ENDBR64,
    shadow::Shadow,
    undo::{self, undo},
};
use crate::ring::{self, Ring};
use crate::traps::{Degree, Handler, Traps};

/// How an engine goes about its work.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// For how long at most to look at the ring before sleeping, while events
    /// follow each other closely. Zero on a dom0 with a single vCPU: looking
    /// would keep the guest from running.
    pub spin: Duration,
    /// Move past an instruction that can be resumed without executing it, at
    /// one exit a trap. Without it all are single-stepped: for comparison only.
    pub one_exit: bool,
    /// Let Xen go back to our view after a single step by itself, which saves
    /// an event. Works from Xen 4.17 on.
    pub fast_step: bool,
    /// Make the guest's own reads of probed pages see its own bytes, at two
    /// events a read. Without it a guest that looks at its text before it
    /// patches it is upset: ftrace finds an int3 where it expects a NOP, warns,
    /// and is off until the next boot. Needs EPT execute-only pages, which every
    /// CPU that Xen offers altp2m on is known to have; Xen does not check, and
    /// on a CPU without them the guest would crash.
    pub hide_from_reads: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            spin: Duration::from_micros(20),
            one_exit: true,
            fast_step: true,
            hide_from_reads: true,
        }
    }
}

/// What became of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Armed {
    /// Where the int3 is: behind the `endbr64`, if the function starts with one.
    pub va: u64,
    /// Its instruction need not be executed to get past it: one exit per trap.
    pub one_exit: bool,
}

/// Probes in one running domain. Dropping it frees the guest.
///
/// Can be moved to the thread that drives it; [`Engine::waker`] gives other
/// threads the means to stop it at once.
pub struct Engine {
    pub(super) ring: Ring,
    pub(super) config: Config,
    pub(super) view: u16,
    pub(super) shadows: BTreeMap<Gfn, Shadow>,
    /// What each vCPU's single step is for.
    pub(super) steps: Vec<Option<Step>>,
    record: UndoRecord,
}

impl Engine {
    /// Attaches to a domain with the default [`Config`]. What a dead predecessor
    /// left (see [`UndoRecord`]) is undone first.
    ///
    /// # Errors
    /// Where the domain cannot be watched; the text says what to do about it.
    /// The domain is then as it was before.
    pub fn attach(xen: &Xen, domid: DomId, record: UndoRecord) -> Result<Self, EngineError> {
        Self::attach_with(xen, domid, record, Config::default())
    }

    /// As [`Self::attach`], with a chosen [`Config`].
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub fn attach_with(
        xen: &Xen,
        domid: DomId,
        mut record: UndoRecord,
        config: Config,
    ) -> Result<Self, EngineError> {
        let waker = Waker::new().map_err(EngineError::Wait)?;
        let attached = attach(xen, domid, &mut record)?;
        Ok(Self {
            ring: Ring::new(xen, domid, attached.monitor, waker, config.spin),
            config,
            view: attached.view,
            shadows: BTreeMap::new(),
            steps: vec![None; attached.vcpus as usize],
            record,
        })
    }

    /// The domain that is watched.
    pub fn domid(&self) -> DomId {
        self.ring.domid
    }

    /// Counters so far.
    pub fn stats(&self) -> Stats {
        self.ring.stats
    }

    /// A handle that ends a wait of this engine from any thread.
    pub fn waker(&self) -> Waker {
        self.ring.waker.clone()
    }

    /// Waits up to `timeout` for events and serves all that are there. Returns
    /// how many were served: zero on a timeout, a signal or [`Waker::wake`].
    ///
    /// The handler runs while a vCPU waits: it must not block.
    ///
    /// # Errors
    /// Where the domain is gone or the ring is broken. Drop the engine then.
    ///
    /// # Panics
    /// Goes on with the handler's panic, after the event was answered.
    pub fn poll(&mut self, timeout: Duration, handler: &mut Handler<'_>) -> Result<usize, EngineError> {
        ring::poll(self, timeout, handler)
    }

    /// Puts a probe on the function at guest-virtual `va`, whose first byte is
    /// at guest-physical `pa`. Behind an `endbr64`: an indirect call that found
    /// none would raise #CP.
    ///
    /// # Errors
    /// Where the address cannot hold a probe, or no shadow page is to be had.
    pub fn arm(&mut self, id: ProbeId, va: u64, pa: u64) -> Result<Armed, EngineError> {
        let (gfn, offset) = (pa / PAGE_SIZE as u64, (pa % PAGE_SIZE as u64) as usize);
        if !starts_with_endbr(&self.ring.xen, self.ring.domid, gfn, offset)? {
            return self.arm_at(id, va, pa);
        }
        let behind = ENDBR64.len() as u64;
        let va = va.wrapping_add(behind);
        // Where the next page is in memory is for the caller to say.
        if offset + ENDBR64.len() >= PAGE_SIZE {
            return Err(EngineError::PageEnd(va));
        }
        self.arm_at(id, va, pa + behind)
    }

    /// Puts a probe on the very instruction at `va`, which must not be an `endbr64`.
    ///
    /// # Errors
    /// As [`Self::arm`].
    pub fn arm_at(&mut self, id: ProbeId, va: u64, pa: u64) -> Result<Armed, EngineError> {
        let (gfn, offset) = (pa / PAGE_SIZE as u64, (pa % PAGE_SIZE as u64) as usize);
        let taken = self.shadows.values().any(|shadow| shadow.has(id))
            || self
                .shadows
                .get(&gfn)
                .is_some_and(|shadow| shadow.probe_at(offset).is_some());
        if taken {
            return Err(EngineError::AlreadyArmed(id));
        }
        if !self.shadows.contains_key(&gfn) {
            let shadow = self.make_shadow(gfn)?;
            self.shadows.insert(gfn, shadow);
        } else if self.shadows.get(&gfn).is_some_and(Shadow::is_bare) {
            // Its reads were let through; writes never were, so the copy is as the page.
            altp2m::set_access(&self.ring.xen, self.ring.domid, self.view, gfn, self.access())?;
        }
        // Inserted above where it was not there.
        let Some(shadow) = self.shadows.get_mut(&gfn) else {
            return Err(EngineError::NoShadowPage(SHADOW_SLOTS));
        };
        let probe = shadow.put(id, offset)?;
        Ok(Armed {
            va,
            one_exit: self.config.one_exit && probe.plan.is_some(),
        })
    }

    /// Takes a probe away. Unknown ones are ignored.
    ///
    /// # Errors
    /// Where Xen refuses.
    pub fn disarm(&mut self, id: ProbeId) -> Result<(), EngineError> {
        let Some((gfn, shadow)) = self.shadows.iter_mut().find(|(_, shadow)| shadow.has(id)) else {
            return Ok(());
        };
        // The page stays in the view, now the same as the guest's own, until the
        // engine goes: a mapping taken away under a vCPU that runs there was seen
        // to make it execute something else. But it costs the guest's reads nothing any more.
        shadow.take(id)?;
        if shadow.is_bare() {
            altp2m::set_access(
                &self.ring.xen,
                self.ring.domid,
                self.view,
                *gfn,
                Access::ReadExecute,
            )?;
        }
        Ok(())
    }

    /// Puts back remappings that Xen dropped: it does so silently when the guest
    /// balloons within the shadow area, and in log-dirty mode (migration). Worth
    /// calling every second or so; one hypercall a probed page.
    ///
    /// # Errors
    /// Where Xen refuses.
    pub fn audit(&mut self) -> Result<(), EngineError> {
        for (gfn, shadow) in &self.shadows {
            let access = self.access_of(shadow);
            if !altp2m::has_access(&self.ring.xen, self.ring.domid, self.view, *gfn, access)? {
                let frame = self.frame_of(shadow.slot);
                self.show(*gfn, frame, access)?;
                self.ring.stats.restored += 1;
            }
        }
        Ok(())
    }

    /// Frees the guest and reports. Dropping the engine does the same, but can
    /// only log what goes wrong.
    ///
    /// # Errors
    /// Where Xen refuses a step; the undo record says what is left.
    pub fn detach(mut self) -> Result<Stats, EngineError> {
        self.free_guest()?;
        Ok(self.ring.stats)
    }

    /// Frees the guest, the first time it is called.
    fn free_guest(&mut self) -> Result<(), EngineError> {
        if let Some(mut monitor) = self.ring.monitor.take() {
            // A paused guest raises no more events. Failing is no reason to
            // stop: the domain may be gone, or `undo` does the rest.
            let held = undo::hold(&self.ring.xen, &mut self.record)
                .and_then(|()| Ok(altp2m::switch_to(&self.ring.xen, self.ring.domid, 0)?));
            if let Err(error) = held {
                log::debug!("domain {}: before detaching: {error}", self.ring.domid);
            }
            // In view 0 the guest's own instruction is where RIP is. Its own
            // breakpoints it meets again, unmonitored.
            while let Ok(Some(request)) = monitor.next_event() {
                if monitor.answer(&Response::resume(&request).in_view(0)).is_err() {
                    break;
                }
            }
        }
        self.shadows.clear();
        undo(&self.ring.xen, &mut self.record)?;
        Ok(())
    }

    fn access_of(&self, shadow: &Shadow) -> Access {
        if shadow.is_bare() {
            Access::ReadExecute
        } else {
            self.access()
        }
    }

    /// The access that a page with probes has in our view.
    pub(super) fn access(&self) -> Access {
        if self.config.hide_from_reads {
            Access::ExecuteOnly
        } else {
            Access::ReadExecute
        }
    }

    fn frame_of(&self, slot: u32) -> Gfn {
        self.record.applied().shadow_base + u64::from(slot)
    }

    /// Makes a shadow of `gfn` and shows it in our view.
    fn make_shadow(&mut self, gfn: Gfn) -> Result<Shadow, EngineError> {
        let slot = self.free_slot()?;
        let frame = self.frame_of(slot);
        self.populate(slot, frame)?;
        // Paused, so that no write to the page falls between copying it and
        // write-protecting it: the view would send it to the copy.
        undo::hold(&self.ring.xen, &mut self.record)?;
        let shadow = Shadow::new(&self.ring.xen, self.ring.domid, gfn, slot, frame)
            .map_err(|source| EngineError::NoPage { gfn, source })
            .and_then(|shadow| {
                self.show(gfn, frame, self.access())?;
                Ok(shadow)
            });
        undo::let_one_go(&self.ring.xen, &mut self.record)?;
        shadow
    }

    /// Shows `frame` at `gfn` in our view, protected. In this order: remapping
    /// resets the access.
    fn show(&self, gfn: Gfn, frame: Gfn, access: Access) -> Result<(), XenError> {
        altp2m::remap(&self.ring.xen, self.ring.domid, self.view, gfn, Some(frame))?;
        altp2m::set_access(&self.ring.xen, self.ring.domid, self.view, gfn, access)
    }

    fn free_slot(&self) -> Result<u32, EngineError> {
        let used = self
            .shadows
            .values()
            .fold(0_u64, |mask, shadow| mask | 1 << shadow.slot);
        match (!used).trailing_zeros() {
            SHADOW_SLOTS.. => Err(EngineError::NoShadowPage(SHADOW_SLOTS)),
            slot => Ok(slot),
        }
    }

    /// Makes sure that the domain has a page in a slot, on record.
    fn populate(&mut self, slot: u32, frame: Gfn) -> Result<(), EngineError> {
        if self.record.applied().shadow_slots & (1 << slot) != 0 {
            return Ok(());
        }
        self.record.update(|applied| applied.shadow_slots |= 1 << slot)?;
        memory::populate(&self.ring.xen, self.ring.domid, frame)?;
        Ok(())
    }
}

impl Traps for Engine {
    fn degree(&self) -> Degree {
        Degree::Altp2m
    }

    fn arm(&mut self, id: ProbeId, va: u64, pa: u64) -> Result<Armed, EngineError> {
        Engine::arm(self, id, va, pa)
    }

    fn arm_at(&mut self, id: ProbeId, va: u64, pa: u64) -> Result<Armed, EngineError> {
        Engine::arm_at(self, id, va, pa)
    }

    fn disarm(&mut self, id: ProbeId) -> Result<(), EngineError> {
        Engine::disarm(self, id)
    }

    fn poll(&mut self, timeout: Duration, handler: &mut Handler<'_>) -> Result<usize, EngineError> {
        ring::poll(self, timeout, handler)
    }

    fn audit(&mut self) -> Result<(), EngineError> {
        Engine::audit(self)
    }

    fn page_accesses(&self, id: ProbeId) -> u64 {
        let probe = self.shadows.values().find_map(|shadow| shadow.probe(id));
        probe.map_or(0, |probe| probe.accesses)
    }

    fn stats(&self) -> Stats {
        Engine::stats(self)
    }

    fn waker(&self) -> Waker {
        Engine::waker(self)
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

/// Whether the function at `offset` of `gfn` starts with `endbr64`.
pub(crate) fn starts_with_endbr(
    xen: &Xen,
    domid: DomId,
    gfn: Gfn,
    offset: usize,
) -> Result<bool, EngineError> {
    let page = memory::ForeignPages::map_one(xen, domid, gfn, false)
        .map_err(|source| EngineError::NoPage { gfn, source })?;
    let mut code = [0; ENDBR64.len()];
    let length = code.len().min(PAGE_SIZE - offset);
    page.read(offset, &mut code[..length])?;
    Ok(code == ENDBR64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_can_be_moved_to_its_thread() {
        fn movable<T: Send>() {}
        fn shared<T: Send + Sync>() {}
        movable::<Engine>();
        shared::<Waker>();
    }
}
