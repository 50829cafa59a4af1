// SPDX-License-Identifier: GPL-3.0-only
//! Cores of `xl dump-core` (Xen's docs/misc/dump-core-format.txt): one frame
//! number in `.xen_pfn` for each page of `.xen_pages`, and one
//! `vcpu_guest_context` in `.xen_prstatus` for each vCPU.

use std::os::unix::fs::FileExt;

use super::bytes::{Source, u64_at};
use super::elf::Section;
use super::{Contents, CpuState, Extent, Format, FormatError};
use crate::memory::PAGE_SIZE;

/// Frames of x86-64 have at most 40 bits: addresses have 52. A larger number
/// marks a page that could not be had.
const MAX_FRAME: u64 = 1 << 40;
/// Frame numbers read at a time, in bytes.
const FRAMES_A_READ: usize = 1 << 20;
/// More vCPUs than Xen gives to a guest.
const MAX_VCPUS: u64 = 4096;
/// Size of `vcpu_guest_context_t` in Xen's public/arch-x86/xen.h for 64-bit
/// guests, unchanged since Xen 3.
const CONTEXT_LEN: u64 = 5168;

pub(super) fn contents(
    source: &Source<'_>,
    find: impl Fn(&str) -> Option<Section>,
) -> Result<Contents, FormatError> {
    let (pages, frames) = match (find(".xen_pages"), find(".xen_pfn")) {
        (Some(pages), Some(frames)) => (pages, frames),
        (Some(_), None) => {
            return Err(FormatError::Malformed(
                "a core of a PV guest: only guests with hardware virtualisation (PVH, HVM) are understood",
            ));
        }
        _ => return Err(FormatError::Malformed("an ELF file that holds no guest memory")),
    };
    if !source.holds(pages.offset, pages.len) || !source.holds(frames.offset, frames.len) {
        return Err(FormatError::Malformed("the file is shorter than its memory"));
    }
    let extents = join_pages(source, frames, pages)?;
    if extents.is_empty() {
        return Err(FormatError::Malformed("a core without a single page of memory"));
    }
    Ok(Contents {
        format: Format::XenCore,
        extents,
        // Without registers the kernel is found all the same.
        cpus: find(".xen_prstatus")
            .and_then(|status| cpus(source, status).ok())
            .unwrap_or_default(),
    })
}

/// Extents of single pages, joined where both sides run on.
fn join_pages(source: &Source<'_>, frames: Section, pages: Section) -> Result<Vec<Extent>, FormatError> {
    let count = (pages.len / PAGE_SIZE).min(frames.len / 8);
    let mut extents: Vec<Extent> = Vec::new();
    let mut index = 0;
    let mut raw = vec![0; FRAMES_A_READ];
    while index < count {
        let some = (count - index).min(FRAMES_A_READ as u64 / 8);
        let raw = &mut raw[..some as usize * 8];
        source.file.read_exact_at(raw, frames.offset + index * 8)?;
        for (page, word) in (index..).zip(raw.chunks_exact(8)) {
            let frame = u64_at(word, 0).unwrap_or(u64::MAX);
            if frame >= MAX_FRAME {
                continue;
            }
            let next = Extent {
                pa: frame * PAGE_SIZE,
                len: PAGE_SIZE,
                file_offset: pages.offset + page * PAGE_SIZE,
            };
            match extents.last_mut() {
                Some(last)
                    if last.pa + last.len == next.pa && last.file_offset + last.len == next.file_offset =>
                {
                    last.len += PAGE_SIZE;
                }
                _ => extents.push(next),
            }
        }
        index += some;
    }
    Ok(extents)
}

fn cpus(source: &Source<'_>, status: Section) -> Result<Vec<CpuState>, FormatError> {
    if status.entry_len != CONTEXT_LEN {
        return Ok(Vec::new());
    }
    let raw = source.table(status.offset, status.len, MAX_VCPUS * CONTEXT_LEN)?;
    Ok(raw.chunks_exact(CONTEXT_LEN as usize).filter_map(cpu).collect())
}

/// The FPU's 512 bytes, flags, the user registers (200 bytes), 256 traps of 16
/// bytes, LDT and GDT (152), the kernel's stack (16), eight control and eight
/// debug registers, four words, and the bases of FS and both GS.
fn cpu(context: &[u8]) -> Option<CpuState> {
    const REGISTERS: usize = 512 + 8;
    const CONTROL: usize = REGISTERS + 200 + 256 * 16 + 152 + 16;
    const BASES: usize = CONTROL + 16 * 8 + 4 * 8;
    let register = |index: usize| u64_at(context, REGISTERS + index * 8);
    let control = |index: usize| u64_at(context, CONTROL + index * 8);
    let cpl = (register(17)? & 3) as u8;
    let (kernel_gs, user_gs) = (u64_at(context, BASES + 8)?, u64_at(context, BASES + 16)?);
    Some(CpuState {
        cr0: control(0)?,
        cr3: control(3)?,
        cr4: control(4)?,
        gs_base: if cpl == 0 { kernel_gs } else { user_gs },
        shadow_gs: if cpl == 0 { user_gs } else { kernel_gs },
        rip: register(16)?,
        rsp: register(19)?,
        cpl,
        // Neither EFER, LSTAR nor the IDT is in there.
        ..CpuState::default()
    })
}
