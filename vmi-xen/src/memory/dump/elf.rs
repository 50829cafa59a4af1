// SPDX-License-Identifier: GPL-3.0-only
//! The two ELF core formats that hold a whole guest.
//!
//! QEMU (`dump-guest-memory`, docs and structures in its target/i386/arch_dump.c):
//! PT_LOAD segments by physical address, and one note "QEMU" for each vCPU.
//! Xen (`xl dump-core`, its docs/misc/dump-core-format.txt): sections
//! `.xen_pages` and `.xen_pfn`; registers in `.xen_prstatus` are not read, since
//! its layout follows the tool stack's version.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::{CpuState, Extent, join_pages};
use crate::memory::PAGE_SIZE;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// Notes or section tables larger than this are not read.
const MAX_TABLE: u64 = 64 << 20;

pub(super) enum ElfError {
    Io(io::Error),
    Format(&'static str),
}

impl From<io::Error> for ElfError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Reads a table of the file, no more than the file has.
fn table(file: &File, file_len: u64, offset: u64, len: u64) -> Result<Vec<u8>, ElfError> {
    if len > MAX_TABLE || offset.checked_add(len).is_none_or(|end| end > file_len) {
        return Err(ElfError::Format("a header points outside the file"));
    }
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

pub(super) fn parse(file: &File, file_len: u64) -> Result<(Vec<Extent>, Vec<CpuState>), ElfError> {
    let header = table(file, file_len, 0, 64)?;
    let cut = || ElfError::Format("the ELF header is cut off");
    if header[4..6] != [2, 1] {
        return Err(ElfError::Format("not a 64-bit little-endian ELF"));
    }
    let phoff = u64_at(&header, 32).ok_or_else(cut)?;
    let shoff = u64_at(&header, 40).ok_or_else(cut)?;
    let phnum = u64::from(u16_at(&header, 56).ok_or_else(cut)?);
    let shnum = u64::from(u16_at(&header, 60).ok_or_else(cut)?);
    let shstrndx = usize::from(u16_at(&header, 62).ok_or_else(cut)?);
    let segments = table(file, file_len, phoff, phnum * 56)?;
    let mut extents = Vec::new();
    let mut cpus = Vec::new();
    for segment in segments.chunks_exact(56) {
        let word = |at| u64_at(segment, at).unwrap_or(0);
        let (offset, pa, len) = (word(8), word(24), word(32));
        match u32_at(segment, 0) {
            Some(PT_LOAD) if offset.checked_add(len).is_some_and(|end| end <= file_len) => {
                extents.push(Extent {
                    pa,
                    len,
                    file_offset: offset,
                });
            }
            Some(PT_LOAD) => return Err(ElfError::Format("the file is shorter than its memory")),
            Some(PT_NOTE) => cpus.extend(qemu_cpus(&table(file, file_len, offset, len)?)),
            _ => {}
        }
    }
    if extents.is_empty() && shnum > 0 {
        let sections = table(file, file_len, shoff, shnum * 64)?;
        extents = xen_extents(file, file_len, &sections, shstrndx)?;
    }
    if extents.is_empty() {
        return Err(ElfError::Format("an ELF file that holds no guest memory"));
    }
    Ok((extents, cpus))
}

/// vCPUs from QEMU's notes.
fn qemu_cpus(mut notes: &[u8]) -> Vec<CpuState> {
    let mut cpus = Vec::new();
    while let (Some(name_len), Some(len)) = (u32_at(notes, 0), u32_at(notes, 4)) {
        let name_end = 12usize.saturating_add(name_len as usize);
        let start = name_end.next_multiple_of(4);
        let end = start.saturating_add(len as usize);
        if let (Some(b"QEMU\0"), Some(state)) = (notes.get(12..name_end), notes.get(start..end)) {
            cpus.extend(qemu_cpu(state));
        }
        notes = notes.get(end.next_multiple_of(4)..).unwrap_or(&[]);
    }
    cpus
}

/// One QEMUCPUState, version 1: version and size, 16 registers, RIP, RFLAGS,
/// ten segments of 24 bytes (cs ds es fs gs ss ldt tr gdt idt), CR0 to CR4,
/// kernel GS base.
fn qemu_cpu(state: &[u8]) -> Option<CpuState> {
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

/// Extents of `xl dump-core`: one frame number in `.xen_pfn` for each page of
/// `.xen_pages`.
fn xen_extents(
    file: &File,
    file_len: u64,
    sections: &[u8],
    names_index: usize,
) -> Result<Vec<Extent>, ElfError> {
    let place = |section: &[u8]| Some((u64_at(section, 24)?, u64_at(section, 32)?));
    let names_section = sections.chunks_exact(64).nth(names_index);
    let Some((offset, len)) = names_section.and_then(place) else {
        return Ok(Vec::new());
    };
    let names = table(file, file_len, offset, len)?;
    let find = |wanted: &[u8]| {
        sections
            .chunks_exact(64)
            .find(|section| {
                u32_at(section, 0)
                    .and_then(|name| names.get(name as usize..))
                    .is_some_and(|name| name.starts_with(wanted))
            })
            .and_then(place)
    };
    let (Some((pages, pages_len)), Some((pfn, pfn_len))) = (find(b".xen_pages\0"), find(b".xen_pfn\0"))
    else {
        return Ok(Vec::new());
    };
    if pages.checked_add(pages_len).is_none_or(|end| end > file_len) {
        return Err(ElfError::Format("the file is shorter than its memory"));
    }
    let frames = table(file, file_len, pfn, pfn_len)?;
    let count = (pages_len / PAGE_SIZE) as usize;
    let frames = frames
        .chunks_exact(8)
        .take(count)
        .map(|raw| u64_at(raw, 0).unwrap_or(u64::MAX));
    Ok(join_pages(frames, pages))
}
