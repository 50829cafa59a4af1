// SPDX-License-Identifier: GPL-3.0-only
//! What is answered to which event.
//!
//! **Invariant:** each event is answered before the next is taken, on every path. What can fail (a hypercall, the handler) is
//! done first and its failure kept until the answer is on the ring.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::{Duration, Instant},
};

use xen_bindings::{
    Gfn, PAGE_SIZE, domain,
    memory::ForeignPages,
    monitor::{self, Reason, Request, Response},
};

use super::{
    Engine,
    resume::Resume,
    site::{Placed, Purpose, Scope},
};
use crate::{
    altp2m::{ALIVE_EVERY, Decided, EngineError, INT3, ProbeId, TRAP_FLAG, Trap, Woken, sleep},
    traps::Handler,
};

/// The kind of event that is an exception of the processor's own (X86_EVENTTYPE_HW_EXCEPTION).
const HARDWARE_EXCEPTION: u8 = 3;

impl Engine {
    /// As [`crate::traps::Traps::poll`].
    pub(super) fn poll(
        &mut self,
        timeout: Duration,
        handler: &mut Handler<'_>,
    ) -> Result<usize, EngineError> {
        // A timeout beyond what the clock can hold is none.
        let deadline = Instant::now().checked_add(timeout);
        loop {
            let served = self.serve_all(handler)?;
            self.come_back()?;
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
            let until = |at: Instant| at.saturating_duration_since(Instant::now());
            let rest = deadline.map_or(ALIVE_EVERY, until).min(ALIVE_EVERY);
            let rest = self.out.map_or(rest, |out| rest.min(until(out.not_before)));
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
        // The engine stays consistent: counters are all that a panic can interrupt.
        let decided = catch_unwind(AssertUnwindSafe(|| self.decide(request, handler)));
        let (response, panic) = match decided {
            Ok(decided) => decided,
            Err(panic) => (Response::resume(request), Some(panic)),
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
            Reason::SoftwareBreakpoint { gfn, length, .. } => {
                self.on_breakpoint(request, handler, gfn, length)
            }
            reason => {
                log::debug!("domain {}: event of reason {reason:?}", self.domid);
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
        length: u32,
    ) -> Decided {
        let offset = (request.registers().rip % PAGE_SIZE as u64) as usize;
        let index = self
            .sites
            .iter()
            .position(|site| site.gfn == gfn && site.offset == offset);
        if let Some(index) = index
            && let Some(placed) = self.sites[index].placed
        {
            if self.sites[index].is_intact().unwrap_or(true) {
                return match self.sites[index].purpose {
                    Purpose::Probe(id) => {
                        let panic = self.call(handler, request, id);
                        (self.resume(request, &placed), panic)
                    }
                    Purpose::Guard(guard) => {
                        self.make_way(guard);
                        (self.resume(request, &placed), None)
                    }
                };
            }
            // The guest is changing the instruction, unannounced: what is there now is its own.
            self.sites[index].placed = None;
            self.stats.instructions_changed += 1;
            self.stay_out(Scope::Traceable, Duration::ZERO);
        }
        if !self.breaks_itself(index, gfn, offset) {
            // The int3 was ours, and is there no more.
            self.stats.stale += 1;
            return (Response::resume(request), None);
        }
        self.stats.foreign += 1;
        (self.hand_over(request, length), None)
    }

    /// Gives the guest its own breakpoint: #BP, with RIP behind the int3.
    ///
    /// RIP is moved by us and the exception raised as the processor's own, since the return address of a software exception is
    /// taken from a field of its own (nRIP), which not every SVM honours: then the guest's handler looks at the byte before.
    fn hand_over(&self, request: &Request, length: u32) -> Response {
        let resume = Response::resume(request);
        let injected =
            monitor::inject_breakpoint(&self.xen, self.domid, request.vcpu(), HARDWARE_EXCEPTION, 0);
        match injected {
            Ok(()) => {
                let mut registers = *request.registers();
                registers.rip = registers.rip.wrapping_add(u64::from(length));
                resume.with_registers(&registers)
            }
            Err(error) => {
                // The vCPU meets the same int3 again, and we try again.
                log::debug!("domain {}: {error}", self.domid);
                resume
            }
        }
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

    /// How a vCPU gets past an int3 of ours, which stays.
    fn resume(&mut self, request: &Request, placed: &Placed) -> Response {
        let resume = Response::resume(request);
        match placed.resume {
            // With TF set the guest expects a #DB behind the NOP, which only executing it raises.
            Resume::Skip(length) if request.registers().rflags & TRAP_FLAG == 0 => {
                self.stats.one_exit += 1;
                let mut registers = *request.registers();
                registers.rip = registers.rip.wrapping_add(u64::from(length));
                resume.with_registers(&registers)
            }
            Resume::Skip(_) => {
                self.stats.stepped += 1;
                resume.emulate(placed.patch.code())
            }
            Resume::Emulate(code) => {
                self.stats.stepped += 1;
                resume.emulate(&code)
            }
        }
    }

    /// Whether the guest's memory has an int3 there. Where it cannot be read the CPU is believed, which did execute one.
    fn breaks_itself(&self, index: Option<usize>, gfn: Gfn, offset: usize) -> bool {
        if let Some(site) = index.and_then(|index| self.sites.get(index)) {
            return site.breaks().unwrap_or(true);
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
