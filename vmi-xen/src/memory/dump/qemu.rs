// SPDX-License-Identifier: GPL-3.0-only
//! Cores of QEMU's `dump-guest-memory` (structures in its
//! target/i386/arch_dump.c): PT_LOAD segments by physical address, and one note
//! "QEMU" for each vCPU. With `-p` the segments are by virtual address, so that
//! the same memory can come in several; the physical address is told anyway.

use super::bytes::{u32_at, u64_at};
use super::elf::Segment;
use super::{Contents, CpuState, Extent, Format};

pub(super) fn contents(loads: &[Segment], notes: &[Vec<u8>]) -> Contents {
    Contents {
        format: Format::QemuCore,
        extents: loads
            .iter()
            .map(|load| Extent {
                pa: load.pa,
                len: load.len,
                file_offset: load.offset,
            })
            .collect(),
        cpus: notes.iter().flat_map(|notes| cpus(notes)).collect(),
    }
}

/// vCPUs from QEMU's notes.
fn cpus(mut notes: &[u8]) -> Vec<CpuState> {
    let mut cpus = Vec::new();
    while let (Some(name_len), Some(len)) = (u32_at(notes, 0), u32_at(notes, 4)) {
        let name_end = 12usize.saturating_add(name_len as usize);
        let start = name_end.next_multiple_of(4);
        let end = start.saturating_add(len as usize);
        if let (Some(b"QEMU\0"), Some(state)) = (notes.get(12..name_end), notes.get(start..end)) {
            cpus.extend(cpu(state));
        }
        notes = notes.get(end.next_multiple_of(4)..).unwrap_or(&[]);
    }
    cpus
}

/// One QEMUCPUState, version 1: version and size, 16 registers, RIP, RFLAGS,
/// ten segments of 24 bytes (cs ds es fs gs ss ldt tr gdt idt), CR0 to CR4,
/// kernel GS base.
fn cpu(state: &[u8]) -> Option<CpuState> {
    const REGISTERS: usize = 8;
    const SEGMENTS: usize = REGISTERS + 18 * 8;
    const CONTROL: usize = SEGMENTS + 10 * 24;
    let segment_base = |index: usize| u64_at(state, SEGMENTS + index * 24 + 16);
    let control = |index: usize| u64_at(state, CONTROL + index * 8);
    let code_segment = u32_at(state, SEGMENTS)?;
    Some(CpuState {
        cr0: control(0)?,
        cr3: control(3)?,
        cr4: control(4)?,
        efer: 0,
        lstar: 0,
        gs_base: segment_base(4)?,
        // Appended to the structure later.
        shadow_gs: u64_at(state, CONTROL + 5 * 8).unwrap_or(0),
        rip: u64_at(state, REGISTERS + 16 * 8)?,
        // rax, rbx, rcx, rdx, rsi, rdi, rsp
        rsp: u64_at(state, REGISTERS + 6 * 8)?,
        idt_base: segment_base(9)?,
        cpl: (code_segment & 3) as u8,
    })
}
