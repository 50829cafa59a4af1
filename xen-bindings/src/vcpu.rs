// SPDX-License-Identifier: GPL-3.0-only
//! Registers of a vCPU, taken from the record that Xen writes for migration.

use xenctrl_sys as xc;

use crate::{DomId, Xen, XenError, sys};

/// Room for the CPU record of any Xen release: later ones may append fields.
const RECORD_ROOM: usize = 4096;
/// Xen answers this for a vCPU that is not online.
const OFFLINE: i32 = libc::ENODATA;

/// Registers of one vCPU at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the architecture's")]
pub struct Registers {
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub lstar: u64,
    pub gs_base: u64,
    /// MSR_KERNEL_GS_BASE.
    pub shadow_gs: u64,
    pub rip: u64,
    pub rsp: u64,
    pub rflags: u64,
    pub idt_base: u64,
    pub cs_sel: u16,
    /// Current privilege level, 0 (kernel) to 3 (user).
    pub cpl: u8,
}

impl Registers {
    fn from_record(record: &sys::hvm_hw_cpu) -> Self {
        Self {
            cr0: record.cr0,
            cr3: record.cr3,
            cr4: record.cr4,
            efer: record.msr_efer,
            lstar: record.msr_lstar,
            gs_base: record.gs_base,
            shadow_gs: record.shadow_gs,
            rip: record.rip,
            rsp: record.rsp,
            rflags: record.rflags,
            idt_base: record.idtr_base,
            // Selectors are 16 bits wide; the record pads them.
            cs_sel: (record.cs_sel & 0xffff) as u16,
            // The privilege level is DPL of SS: bits 5 and 6 of its attributes.
            cpl: ((record.ss_arbytes >> 5) & 3) as u8,
        }
    }
}

/// Reads the registers of one vCPU; `None` where it is offline. The domain is
/// paused by Xen for the length of the call.
///
/// # Errors
/// Where the domain or the vCPU does not exist.
pub fn registers(xen: &Xen, domid: DomId, vcpu: u32) -> Result<Option<Registers>, XenError> {
    #[repr(C, align(8))]
    struct Room([u8; RECORD_ROOM]);
    const { assert!(size_of::<sys::hvm_hw_cpu>() <= RECORD_ROOM) };

    let instance = u16::try_from(vcpu)
        .map_err(|_| XenError::from_errno("xc_domain_hvm_getcontext", Some(domid), libc::ESRCH))?;
    let mut room = Room([0; RECORD_ROOM]);
    let result = xen.call("xc_domain_hvm_getcontext_partial", Some(domid), |handle| {
        // SAFETY: `room` has the announced size and outlives the call.
        unsafe {
            xc::xc_domain_hvm_getcontext_partial(
                handle,
                domid,
                // A code of the save format is 16 bits wide.
                sys::xmesh_save_code_XMESH_SAVE_CODE_CPU as u16,
                instance,
                room.0.as_mut_ptr().cast(),
                RECORD_ROOM as u32,
            )
        }
    });
    match result {
        Ok(_) => {}
        Err(error) if error.errno() == OFFLINE => return Ok(None),
        Err(error) => return Err(error),
    }
    // SAFETY: the record is plain integers, valid for any content; `room` is
    // large enough (asserted above) and aligned for it.
    let record = unsafe { room.0.as_ptr().cast::<sys::hvm_hw_cpu>().read() };
    Ok(Some(Registers::from_record(&record)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privilege_is_taken_from_the_stack_segment() {
        let record = sys::hvm_hw_cpu {
            ss_arbytes: 0xc0f3,
            cs_sel: 0x33,
            ..Default::default()
        };
        let registers = Registers::from_record(&record);
        assert_eq!((registers.cpl, registers.cs_sel), (3, 0x33));
    }
}
