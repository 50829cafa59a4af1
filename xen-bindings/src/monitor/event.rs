// SPDX-License-Identifier: GPL-3.0-only
//! What Xen reports on the ring, and what can be answered.

use crate::{Gfn, sys, vm_event_regs_x86};

/// The format of events that this code speaks. It has not changed from Xen
/// 4.13 to 4.22.
pub(super) const INTERFACE_VERSION: u32 = sys::VM_EVENT_INTERFACE_VERSION;

/// Bytes of an instruction that an answer can carry.
pub const INSN_ROOM: usize = 16;

/// Why a vCPU stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It executed an `int3`.
    SoftwareBreakpoint {
        /// Frame that holds the instruction, as the domain numbers it.
        gfn: Gfn,
        /// Kind of trap, to be handed back when it is injected into the guest.
        kind: u8,
        /// Length of the instruction in bytes.
        length: u32,
    },
    /// It has executed one instruction in single-step mode.
    SingleStep,
    /// It accessed a page against the access of the view.
    MemoryAccess {
        /// Frame that was accessed.
        gfn: Gfn,
        /// Byte within the frame.
        offset: u64,
        /// It was (also) a write.
        write: bool,
        /// It was (also) an instruction fetch.
        execute: bool,
    },
    /// Something that was not asked for.
    Other(u32),
}

/// One event, copied out of the ring.
#[derive(Clone, Copy)]
pub struct Request {
    pub(super) raw: sys::vm_event_st,
}

impl Request {
    /// Whether the event is in the format that this code speaks.
    pub fn is_understood(&self) -> bool {
        self.raw.version == INTERFACE_VERSION
    }

    /// The vCPU it happened on.
    pub fn vcpu(&self) -> u32 {
        self.raw.vcpu_id
    }

    /// Whether the vCPU waits for the answer.
    pub fn vcpu_waits(&self) -> bool {
        self.raw.flags & sys::VM_EVENT_FLAG_VCPU_PAUSED != 0
    }

    /// The view it happened in; 0 where altp2m is off.
    pub fn view(&self) -> u16 {
        if self.raw.flags & sys::VM_EVENT_FLAG_ALTERNATE_P2M != 0 {
            self.raw.altp2m_idx
        } else {
            0
        }
    }

    /// Why the vCPU stopped.
    pub fn reason(&self) -> Reason {
        // SAFETY: every member of the unions is plain integers, so reading any
        // of them is defined whatever was written; `reason` tells which is meant.
        unsafe {
            match self.raw.reason {
                sys::VM_EVENT_REASON_SOFTWARE_BREAKPOINT => {
                    let event = self.raw.u.software_breakpoint;
                    Reason::SoftwareBreakpoint {
                        gfn: event.gfn,
                        kind: event.type_,
                        length: event.insn_length,
                    }
                }
                sys::VM_EVENT_REASON_SINGLESTEP => Reason::SingleStep,
                sys::VM_EVENT_REASON_MEM_ACCESS => {
                    let event = self.raw.u.mem_access;
                    Reason::MemoryAccess {
                        gfn: event.gfn,
                        offset: event.offset,
                        write: event.flags & sys::MEM_ACCESS_W != 0,
                        execute: event.flags & sys::MEM_ACCESS_X != 0,
                    }
                }
                other => Reason::Other(other),
            }
        }
    }

    /// Registers of the vCPU at the event.
    pub fn registers(&self) -> &vm_event_regs_x86 {
        // SAFETY: as in `reason`; on x86 Xen fills this member.
        unsafe { &self.raw.data.regs.x86 }
    }
}

/// An answer. Starts as "go on, unchanged".
#[derive(Clone, Copy)]
pub struct Response {
    pub(super) raw: sys::vm_event_st,
}

impl Response {
    /// Lets the vCPU go on where it stopped.
    pub fn resume(request: &Request) -> Self {
        let mut raw = sys::vm_event_st {
            version: INTERFACE_VERSION,
            flags: request.raw.flags & sys::VM_EVENT_FLAG_VCPU_PAUSED,
            reason: request.raw.reason,
            vcpu_id: request.raw.vcpu_id,
            altp2m_idx: request.raw.altp2m_idx,
            ..sys::vm_event_st::default()
        };
        raw.u = request.raw.u;
        Self { raw }
    }

    /// Releases a vCPU that waits for an answer to an event which died with
    /// another monitor. Xen ignores it where the vCPU does not wait.
    pub(super) fn release(vcpu: u32) -> Self {
        Self {
            raw: sys::vm_event_st {
                version: INTERFACE_VERSION,
                flags: sys::VM_EVENT_FLAG_VCPU_PAUSED,
                vcpu_id: vcpu,
                ..sys::vm_event_st::default()
            },
        }
    }

    /// Goes on in `view`.
    #[must_use]
    pub fn in_view(mut self, view: u16) -> Self {
        self.raw.flags |= sys::VM_EVENT_FLAG_ALTERNATE_P2M;
        self.raw.altp2m_idx = view;
        self
    }

    /// Turns single-step mode of the vCPU on, or off if it is on.
    #[must_use]
    pub fn toggle_singlestep(mut self) -> Self {
        self.raw.flags |= sys::VM_EVENT_FLAG_TOGGLE_SINGLESTEP;
        self
    }

    /// Executes one instruction, then goes on in `view` with no further event.
    #[must_use]
    pub fn step_then_view(mut self, view: u16) -> Self {
        self.raw.flags |= sys::VM_EVENT_FLAG_FAST_SINGLESTEP;
        self.raw.u.fast_singlestep.p2midx = view;
        self
    }

    /// Goes on by carrying out the instruction that starts `code`, in place of what is at the instruction
    /// pointer: Xen's emulator does it before the vCPU runs. The longest instruction has 15 bytes; what
    /// follows it in `code` does not matter. One that the emulator does not know raises #UD in the guest.
    #[must_use]
    pub fn emulate(mut self, code: &[u8; INSN_ROOM]) -> Self {
        self.raw.flags |= sys::VM_EVENT_FLAG_EMULATE | sys::VM_EVENT_FLAG_SET_EMUL_INSN_DATA;
        self.raw.data.emul.insn.data = *code;
        self
    }

    /// Goes on with these general registers, flags and instruction pointer.
    #[must_use]
    pub fn with_registers(mut self, registers: &vm_event_regs_x86) -> Self {
        self.raw.flags |= sys::VM_EVENT_FLAG_SET_REGISTERS;
        self.raw.data.regs.x86 = *registers;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breakpoint() -> Request {
        let mut raw = sys::vm_event_st {
            version: INTERFACE_VERSION,
            flags: sys::VM_EVENT_FLAG_VCPU_PAUSED | sys::VM_EVENT_FLAG_ALTERNATE_P2M,
            reason: sys::VM_EVENT_REASON_SOFTWARE_BREAKPOINT,
            vcpu_id: 3,
            altp2m_idx: 1,
            ..Default::default()
        };
        raw.u.software_breakpoint.gfn = 0x1234;
        raw.u.software_breakpoint.insn_length = 1;
        raw.data.regs.x86.rip = 0xffff_ffff_8100_0000;
        Request { raw }
    }

    #[test]
    fn a_breakpoint_is_decoded() {
        let request = breakpoint();
        assert_eq!(
            request.reason(),
            Reason::SoftwareBreakpoint {
                gfn: 0x1234,
                kind: 0,
                length: 1
            }
        );
        assert_eq!((request.vcpu(), request.view()), (3, 1));
        assert_eq!(request.registers().rip, 0xffff_ffff_8100_0000);
    }

    #[test]
    fn the_plain_answer_changes_nothing_but_the_pause() {
        let response = Response::resume(&breakpoint());
        assert_eq!(response.raw.flags, sys::VM_EVENT_FLAG_VCPU_PAUSED);
        assert_eq!(response.raw.vcpu_id, 3);
    }

    #[test]
    fn view_without_the_flag_is_the_domains_own_map() {
        let mut request = breakpoint();
        request.raw.flags = 0;
        assert_eq!(request.view(), 0);
        assert!(!request.vcpu_waits());
    }
}
