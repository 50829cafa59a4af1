// SPDX-License-Identifier: GPL-3.0-only
//! What is answered to which event.

use xen_bindings::{
    Gfn, PAGE_SIZE,
    altp2m::{self, Access},
    monitor::{self, Reason, Request, Response},
    vm_event_regs_x86,
};

use super::{Engine, emulate::State, shadow::Probe};
use crate::memory::CpuState;
use crate::ring::{self, Decided, Ring};
use crate::traps::Handler;

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

impl ring::Engine for Engine {
    fn ring(&mut self) -> &mut Ring {
        &mut self.ring
    }

    fn let_go(request: &Request) -> Response {
        Response::resume(request).in_view(0)
    }

    fn decide(&mut self, request: &Request, handler: &mut Handler<'_>) -> Decided {
        let resume = Response::resume(request);
        if !request.is_understood() {
            self.ring.stats.unknown += 1;
            return (resume, None);
        }
        match request.reason() {
            Reason::SoftwareBreakpoint { gfn, kind, length } => {
                self.on_breakpoint(request, handler, gfn, kind, length)
            }
            Reason::SingleStep => (self.on_step(request), None),
            Reason::MemoryAccess { gfn, write, .. } => (self.on_access(request, gfn, write), None),
            Reason::Other(reason) => {
                log::debug!("domain {}: event of reason {reason}", self.ring.domid);
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
                    panic = self.ring.call(handler, request, probe.id);
                    if !own {
                        return (self.resume_probe(request, &probe), panic);
                    }
                    // The guest has a breakpoint at the same place: it gets it.
                }
                // The int3 was ours, and is there no more.
                None if !own => {
                    self.ring.stats.stale += 1;
                    return (Response::resume(request), None);
                }
                None => {}
            }
        }
        self.ring.stats.foreign += 1;
        let injected =
            monitor::inject_breakpoint(&self.ring.xen, self.ring.domid, request.vcpu(), kind, length);
        if let Err(error) = injected {
            // The vCPU meets the same int3 again, and we try again.
            log::debug!("domain {}: {error}", self.ring.domid);
        }
        (Response::resume(request), panic)
    }

    /// How a vCPU gets past a probe of ours.
    fn resume_probe(&mut self, request: &Request, probe: &Probe) -> Response {
        let resume = Response::resume(request);
        match probe.plan {
            // With TF set the guest expects a #DB behind the instruction, which
            // only executing it raises.
            Some(plan) if self.config.one_exit && request.registers().rflags & TRAP_FLAG == 0 => {
                self.ring.stats.one_exit += 1;
                let mut state = State::of(request.registers());
                plan.apply(&mut state);
                resume.with_registers(&state.within(request.registers()))
            }
            _ => {
                self.ring.stats.stepped += 1;
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
                self.ring.stats.unknown += 1;
                resume
            }
        }
    }

    fn on_step(&mut self, request: &Request) -> Response {
        let step = self.steps.get_mut(request.vcpu() as usize).and_then(Option::take);
        match step {
            Some(Step::Access) => self.refresh_shadows(),
            Some(Step::Probe) => {}
            None => self.ring.stats.unknown += 1,
        }
        Response::resume(request).in_view(self.view).toggle_singlestep()
    }

    /// The guest wrote to (or, if hidden, read from) a shadowed page: let that
    /// happen to its own page.
    fn on_access(&mut self, request: &Request, gfn: Gfn, write: bool) -> Response {
        if let Some(shadow) = self.shadows.get_mut(&gfn) {
            shadow.charge();
            self.ring.stats.writes += u64::from(write);
            self.ring.stats.reads += u64::from(!write);
            return self.step(request, Step::Access);
        }
        // Not a page that we protected (any more): answering unchanged would
        // make the vCPU fault for ever, so the protection goes.
        self.ring.stats.unknown += 1;
        if request.view() == self.view {
            let open = Access::ReadWriteExecute;
            if let Err(error) = altp2m::set_access(&self.ring.xen, self.ring.domid, self.view, gfn, open) {
                log::debug!("domain {}: {error}", self.ring.domid);
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
                    self.ring.stats.refreshed += u64::from(found.changed);
                    self.ring.stats.instructions_changed += found.instructions;
                }
                Err(error) => log::warn!("domain {}: frame {gfn:#x}: {error}", self.ring.domid),
            }
        }
    }

    /// Whether the guest's own memory has an int3 there. Where it cannot be
    /// read the CPU is believed, which did execute one.
    fn breaks_itself(&self, gfn: Gfn, offset: usize) -> bool {
        if let Some(shadow) = self.shadows.get(&gfn) {
            return shadow.original_breaks_at(offset).unwrap_or(true);
        }
        self.ring.breaks_at(gfn, offset)
    }
}
