// SPDX-License-Identifier: GPL-3.0-only
//! The registers of a vCPU that introspection starts from.

/// CR0.PG: paging is on.
const CR0_PG: u64 = 1 << 31;
/// CR4.LA57: five levels of page tables.
const CR4_LA57: u64 = 1 << 12;
/// EFER.LMA: the CPU runs in long mode.
const EFER_LMA: u64 = 1 << 10;
/// Address bits of CR3: neither the PCID (0..12) nor the no-flush bit (63).
const CR3_ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Registers of one vCPU at one moment, all as the guest sees them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuState {
    /// Control register 0.
    pub cr0: u64,
    /// Control register 3, with PCID and (under KPTI) the user-half bit 12.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// MSR_EFER. Zero where the source does not carry it.
    pub efer: u64,
    /// MSR_LSTAR, the entry of 64-bit system calls. Zero where the source does
    /// not carry it (QEMU's dump format does not).
    pub lstar: u64,
    /// GS base in use now: the per-CPU base while the kernel runs.
    pub gs_base: u64,
    /// MSR_KERNEL_GS_BASE: the per-CPU base while user code runs.
    pub shadow_gs: u64,
    /// Instruction pointer.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Linear address of the interrupt descriptor table.
    pub idt_base: u64,
    /// Current privilege level, 0 (kernel) to 3 (user).
    pub cpl: u8,
}

impl CpuState {
    /// Guest-physical address of the top page table, as CR3 has it. Under KPTI
    /// this is the user half (bit 12 set) while user code runs.
    pub fn page_table_root(&self) -> u64 {
        self.cr3 & CR3_ADDRESS
    }

    /// Depth of the page tables: 4, or 5 where CR4.LA57 is set.
    pub fn paging_levels(&self) -> u8 {
        if self.cr4 & CR4_LA57 != 0 { 5 } else { 4 }
    }

    /// Whether the vCPU runs with 64-bit paging. A vCPU that was never started
    /// does not, and has nothing to teach about the kernel. Where EFER is
    /// unknown, paging alone decides.
    pub fn in_long_mode(&self) -> bool {
        self.cr0 & CR0_PG != 0 && (self.efer == 0 || self.efer & EFER_LMA != 0)
    }

    /// The kernel's GS base, that is the per-CPU base of this vCPU.
    ///
    /// The privilege level decides, not the look of the values: with FSGSBASE
    /// user code may set its GS base to any address, a kernel one included.
    /// Wrong only in the few instructions between kernel entry and `swapgs`,
    /// where no probe lies.
    pub fn kernel_gs_base(&self) -> u64 {
        if self.cpl == 0 {
            self.gs_base
        } else {
            self.shadow_gs
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_drops_pcid_and_no_flush() {
        let cpu = CpuState {
            cr3: (1 << 63) | 0x1234_5000 | 0x803,
            ..CpuState::default()
        };
        assert_eq!(cpu.page_table_root(), 0x1234_5000);
    }

    #[test]
    fn user_mode_takes_the_shadow_gs_whatever_it_holds() {
        let cpu = CpuState {
            gs_base: 0xffff_8880_0000_0000,
            shadow_gs: 0xffff_8880_1111_0000,
            cpl: 3,
            ..CpuState::default()
        };
        assert_eq!(cpu.kernel_gs_base(), 0xffff_8880_1111_0000);
    }

    #[test]
    fn a_vcpu_that_never_started_is_not_in_long_mode() {
        assert!(!CpuState::default().in_long_mode());
    }
}
