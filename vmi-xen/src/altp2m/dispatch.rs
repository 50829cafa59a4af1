// SPDX-License-Identifier: GPL-3.0-only
//! The ring dispatcher: what is answered to which event.
//!
//! **Invariant:** each event is answered before the next is taken, on every
//! path. What can fail (a hypercall, the handler) is done first and its failure
//! kept until the answer is on the ring.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::{Duration, Instant},
};

use xen_bindings::{
    Gfn, PAGE_SIZE,
    altp2m::{self, Access},
    domain,
    memory::ForeignPages,
    monitor::{self, Reason, Request, Response},
    vm_event_regs_x86,
};

use super::{
    Engine, EngineError, ProbeId,
    emulate::State,
    insn::INT3,
    shadow::Probe,
    wait::{Woken, sleep},
};
use crate::memory::CpuState;
use crate::traps::Handler;

/// How often to ask whether a silent domain still exists.
pub(crate) const ALIVE_EVERY: Duration = Duration::from_secs(1);
/// RFLAGS.TF: the guest single-steps itself.
pub(crate) const TRAP_FLAG: u64 = 1 << 8;

/// A probe that fired. Its vCPU waits until the handler returns.
#[derive(Clone, Copy)]
pub struct Trap<'a> {
    /// The vCPU it fired on.
    pub vcpu: u16,
    /// Guest-virtual address of the probe.
    pub va: u64,
    /// Registers of the vCPU.
    pub regs: &'a vm_event_regs_x86,
}

impl Trap<'_> {
    /// The vCPU's registers as the memory readers want them. An event does not
    /// carry the base of the interrupt table: that is zero.
    pub fn cpu_state(&self) -> CpuState {
        CpuState {
            cr0: self.regs.cr0,
            cr3: self.regs.cr3,
            cr4: self.regs.cr4,
            efer: self.regs.msr_efer,
            lstar: self.regs.msr_lstar,
            gs_base: self.regs.gs_base,
            shadow_gs: self.regs.shadow_gs,
            rip: self.regs.rip,
            rsp: self.regs.rsp,
            idt_base: 0,
            // DPL of SS: bits 5 and 6 of its attributes.
            cpl: ((self.regs.ss.ar() >> 5) & 3) as u8,
        }
    }
}

/// What a vCPU's single step is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// To execute a probed instruction.
    Probe,
    /// To carry out an access to a shadowed page.
    Access,
}

impl Engine {
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
    ///
    /// [`Waker::wake`]: super::Waker::wake
    pub fn poll(&mut self, timeout: Duration, handler: &mut Handler<'_>) -> Result<usize, EngineError> {
        // A timeout beyond what the clock can hold is none.
        let deadline = Instant::now().checked_add(timeout);
        loop {
            let served = self.serve_all(handler)?;
            if served > 0 {
                return Ok(served);
            }
            let Some(monitor) = &self.monitor else {
                return Err(EngineError::Gone(self.domid));
            };
            if self.spin.look(|| monitor.waiting() != Ok(0)) {
                continue;
            }
            let Some(channel) = monitor.fd() else {
                return Err(EngineError::Gone(self.domid));
            };
            let rest = deadline
                .map_or(ALIVE_EVERY, |at| at.saturating_duration_since(Instant::now()))
                .min(ALIVE_EVERY);
            match sleep(channel, &self.waker, rest).map_err(EngineError::Wait)? {
                // Before looking at the ring: what comes after notifies again.
                Woken::Event => monitor.acknowledge()?,
                Woken::Waker => return Ok(0),
                Woken::Timeout => {
                    self.check_alive()?;
                    if deadline.is_some_and(|at| Instant::now() >= at) {
                        return self.serve_all(handler);
                    }
                }
            }
        }
    }

    /// Serves what is on the ring.
    fn serve_all(&mut self, handler: &mut Handler<'_>) -> Result<usize, EngineError> {
        let mut served = 0;
        while let Some(monitor) = &mut self.monitor {
            let Some(request) = monitor.next_event()? else {
                break;
            };
            self.serve(&request, handler)?;
            self.spin.found();
            served += 1;
        }
        Ok(served)
    }

    /// Serves one event: decides, answers, then reports what went wrong.
    fn serve(&mut self, request: &Request, handler: &mut Handler<'_>) -> Result<(), EngineError> {
        self.stats.events += 1;
        self.seen_alive = Instant::now();
        // The engine stays consistent: counters and step marks are all that a
        // panic can interrupt.
        let decided = catch_unwind(AssertUnwindSafe(|| self.decide(request, handler)));
        let (response, panic) = match decided {
            Ok((response, panic)) => (response, panic),
            Err(panic) => (Response::resume(request).in_view(0), Some(panic)),
        };
        let answered = match &mut self.monitor {
            Some(monitor) => monitor.answer(&response),
            None => Ok(()),
        };
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
        Ok(answered?)
    }

    fn decide(&mut self, request: &Request, handler: &mut Handler<'_>) -> Decided {
        let resume = Response::resume(request);
        if !request.is_understood() {
            self.stats.unknown += 1;
            return (resume, None);
        }
        match request.reason() {
            Reason::SoftwareBreakpoint { gfn, kind, length } => {
                self.on_breakpoint(request, handler, gfn, kind, length)
            }
            Reason::SingleStep => (self.on_step(request), None),
            Reason::MemoryAccess { gfn, write, .. } => (self.on_access(request, gfn, write), None),
            Reason::Other(reason) => {
                log::debug!("domain {}: event of reason {reason}", self.domid);
                self.stats.unknown += 1;
                (resume, None)
            }
        }
    }

    fn on_breakpoint(
        &mut self,
        request: &Request,
        handler: &mut Handler<'_>,
        gfn: Gfn,
        kind: u8,
        length: u32,
    ) -> Decided {
        let offset = (request.registers().rip % PAGE_SIZE as u64) as usize;
        let own = self.breaks_itself(gfn, offset);
        let mut panic = None;
        if request.view() == self.view {
            let probe = self
                .shadows
                .get(&gfn)
                .and_then(|shadow| shadow.probe_at(offset))
                .copied();
            match probe {
                Some(probe) => {
                    panic = self.call(handler, request, probe.id);
                    if !own {
                        return (self.resume_probe(request, &probe), panic);
                    }
                    // The guest has a breakpoint at the same place: it gets it.
                }
                // The int3 was ours, and is there no more.
                None if !own => {
                    self.stats.stale += 1;
                    return (Response::resume(request), None);
                }
                None => {}
            }
        }
        self.stats.foreign += 1;
        let injected = monitor::inject_breakpoint(&self.xen, self.domid, request.vcpu(), kind, length);
        if let Err(error) = injected {
            // The vCPU meets the same int3 again, and we try again.
            log::debug!("domain {}: {error}", self.domid);
        }
        (Response::resume(request), panic)
    }

    /// Calls the handler; returns its panic, if it had one.
    fn call(
        &mut self,
        handler: &mut Handler<'_>,
        request: &Request,
        id: ProbeId,
    ) -> Option<Box<dyn std::any::Any + Send>> {
        self.stats.traps += 1;
        let trap = Trap {
            // Xen has fewer vCPUs than that.
            vcpu: request.vcpu() as u16,
            va: request.registers().rip,
            regs: request.registers(),
        };
        let start = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| handler(id, &trap)));
        self.stats.handler_took(start.elapsed());
        outcome.err()
    }

    /// How a vCPU gets past a probe of ours.
    fn resume_probe(&mut self, request: &Request, probe: &Probe) -> Response {
        let resume = Response::resume(request);
        match probe.plan {
            // With TF set the guest expects a #DB behind the instruction, which
            // only executing it raises.
            Some(plan) if self.config.one_exit && request.registers().rflags & TRAP_FLAG == 0 => {
                self.stats.one_exit += 1;
                let mut state = State::of(request.registers());
                plan.apply(&mut state);
                resume.with_registers(&state.within(request.registers()))
            }
            _ => {
                self.stats.stepped += 1;
                if self.config.fast_step {
                    return resume.in_view(0).step_then_view(self.view);
                }
                self.step(request, Step::Probe)
            }
        }
    }

    /// One instruction in view 0, which reports when it is done.
    fn step(&mut self, request: &Request, what: Step) -> Response {
        let resume = Response::resume(request);
        match self.steps.get_mut(request.vcpu() as usize) {
            Some(Some(_)) => resume.in_view(0),
            Some(none) => {
                *none = Some(what);
                resume.in_view(0).toggle_singlestep()
            }
            None => {
                self.stats.unknown += 1;
                resume
            }
        }
    }

    fn on_step(&mut self, request: &Request) -> Response {
        let step = self.steps.get_mut(request.vcpu() as usize).and_then(Option::take);
        match step {
            Some(Step::Access) => self.refresh_shadows(),
            Some(Step::Probe) => {}
            None => self.stats.unknown += 1,
        }
        Response::resume(request).in_view(self.view).toggle_singlestep()
    }

    /// The guest wrote to (or, if hidden, read from) a shadowed page: let that
    /// happen to its own page.
    fn on_access(&mut self, request: &Request, gfn: Gfn, write: bool) -> Response {
        if let Some(shadow) = self.shadows.get_mut(&gfn) {
            shadow.charge();
            self.stats.writes += u64::from(write);
            self.stats.reads += u64::from(!write);
            return self.step(request, Step::Access);
        }
        // Not a page that we protected (any more): answering unchanged would
        // make the vCPU fault for ever, so the protection goes.
        self.stats.unknown += 1;
        if request.view() == self.view {
            let open = Access::ReadWriteExecute;
            if let Err(error) = altp2m::set_access(&self.xen, self.domid, self.view, gfn, open) {
                log::debug!("domain {}: {error}", self.domid);
                return self.step(request, Step::Access);
            }
        }
        Response::resume(request)
    }

    /// Brings all shadows up to date, after a read too: whether an instruction
    /// that does both is reported as a write is up to the CPU. All shadows, since one instruction may write over
    /// a page boundary, and only the first page is reported.
    fn refresh_shadows(&mut self) {
        for (gfn, shadow) in &mut self.shadows {
            match shadow.refresh() {
                Ok(found) => {
                    self.stats.refreshed += u64::from(found.changed);
                    self.stats.instructions_changed += found.instructions;
                }
                Err(error) => log::warn!("domain {}: frame {gfn:#x}: {error}", self.domid),
            }
        }
    }

    /// Whether the guest's own memory has an int3 there. Where it cannot be
    /// read the CPU is believed, which did execute one.
    fn breaks_itself(&self, gfn: Gfn, offset: usize) -> bool {
        if let Some(shadow) = self.shadows.get(&gfn) {
            return shadow.original_breaks_at(offset).unwrap_or(true);
        }
        let mut byte = [0];
        ForeignPages::map_one(&self.xen, self.domid, gfn, false)
            .and_then(|page| page.read(offset, &mut byte))
            .map_or(true, |()| byte[0] == INT3)
    }

    /// Finds out whether a silent domain still exists.
    fn check_alive(&mut self) -> Result<(), EngineError> {
        if self.seen_alive.elapsed() < ALIVE_EVERY {
            return Ok(());
        }
        self.seen_alive = Instant::now();
        match domain::info(&self.xen, self.domid)? {
            Some(info) if !info.dying => Ok(()),
            _ => Err(EngineError::Gone(self.domid)),
        }
    }
}

/// The answer, and the handler's panic if it had one.
pub(crate) type Decided = (Response, Option<Box<dyn std::any::Any + Send>>);
