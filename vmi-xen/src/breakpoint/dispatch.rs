// SPDX-License-Identifier: GPL-3.0-only
//! What is answered to which event.

use std::time::{Duration, Instant};

use xen_bindings::{
    Gfn, PAGE_SIZE,
    monitor::{self, Reason, Request, Response},
};

use super::{
    Engine,
    resume::Resume,
    site::{Placed, Purpose, Scope},
};
use crate::altp2m::{EngineError, TRAP_FLAG};
use crate::ring::{self, Decided, Ring};
use crate::traps::Handler;

/// The kind of event that is an exception of the processor's own (X86_EVENTTYPE_HW_EXCEPTION).
const HARDWARE_EXCEPTION: u8 = 3;

impl ring::Engine for Engine {
    fn ring(&mut self) -> &mut Ring {
        &mut self.ring
    }

    fn let_go(request: &Request) -> Response {
        Response::resume(request)
    }

    fn settle(&mut self) -> Result<Option<Instant>, EngineError> {
        self.come_back()?;
        Ok(self.out.map(|out| out.not_before))
    }

    fn decide(&mut self, request: &Request, handler: &mut Handler<'_>) -> Decided {
        let resume = Response::resume(request);
        if !request.is_understood() {
            self.ring.stats.unknown += 1;
            return (resume, None);
        }
        match request.reason() {
            Reason::SoftwareBreakpoint { gfn, length, .. } => {
                self.on_breakpoint(request, handler, gfn, length)
            }
            reason => {
                log::debug!("domain {}: event of reason {reason:?}", self.ring.domid);
                self.ring.stats.unknown += 1;
                (resume, None)
            }
        }
    }
}

impl Engine {
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
                        let panic = self.ring.call(handler, request, id);
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
            self.ring.stats.instructions_changed += 1;
            self.stay_out(Scope::Traceable, Duration::ZERO);
        }
        if !self.breaks_itself(index, gfn, offset) {
            // The int3 was ours, and is there no more.
            self.ring.stats.stale += 1;
            return (Response::resume(request), None);
        }
        self.ring.stats.foreign += 1;
        (self.hand_over(request, length), None)
    }

    /// Gives the guest its own breakpoint: #BP, with RIP behind the int3.
    ///
    /// RIP is moved by us and the exception raised as the processor's own, since the return address of a software exception is
    /// taken from a field of its own (nRIP), which not every SVM honours: then the guest's handler looks at the byte before.
    fn hand_over(&self, request: &Request, length: u32) -> Response {
        let resume = Response::resume(request);
        let injected = monitor::inject_breakpoint(
            &self.ring.xen,
            self.ring.domid,
            request.vcpu(),
            HARDWARE_EXCEPTION,
            0,
        );
        match injected {
            Ok(()) => {
                let mut registers = *request.registers();
                registers.rip = registers.rip.wrapping_add(u64::from(length));
                resume.with_registers(&registers)
            }
            Err(error) => {
                // The vCPU meets the same int3 again, and we try again.
                log::debug!("domain {}: {error}", self.ring.domid);
                resume
            }
        }
    }

    /// How a vCPU gets past an int3 of ours, which stays.
    fn resume(&mut self, request: &Request, placed: &Placed) -> Response {
        let resume = Response::resume(request);
        match placed.resume {
            // With TF set the guest expects a #DB behind the NOP, which only executing it raises.
            Resume::Skip(length) if request.registers().rflags & TRAP_FLAG == 0 => {
                self.ring.stats.one_exit += 1;
                let mut registers = *request.registers();
                registers.rip = registers.rip.wrapping_add(u64::from(length));
                resume.with_registers(&registers)
            }
            Resume::Skip(_) => {
                self.ring.stats.stepped += 1;
                resume.emulate(placed.patch.code())
            }
            Resume::Emulate(code) => {
                self.ring.stats.stepped += 1;
                resume.emulate(&code)
            }
        }
    }

    /// Whether the guest's memory has an int3 there. Where it cannot be read the CPU is believed, which did execute one.
    fn breaks_itself(&self, index: Option<usize>, gfn: Gfn, offset: usize) -> bool {
        if let Some(site) = index.and_then(|index| self.sites.get(index)) {
            return site.breaks().unwrap_or(true);
        }
        self.ring.breaks_at(gfn, offset)
    }
}
