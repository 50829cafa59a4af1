// SPDX-License-Identifier: GPL-3.0-only
//! Finds the kernel image in physical memory without any register.
//!
//! A page of the image betrays it: `level3_kernel_pgt`
//! (arch/x86/kernel/head_64.S), the table that maps the uppermost 512 GiB of
//! the kernel's half. All of it is empty but the last two entries, for the
//! image and for the fixmap behind it; it is the same in every 64-bit kernel
//! and with any KASLR, and the page tables of all processes share it. One look
//! at 16 bytes of each page thus finds where the image lies, in physical and
//! in virtual memory alike, and the rest is proved as for a live guest.

use std::cell::Cell;
use std::ops::Range;

use super::image;
use crate::memory::{AddressSpace, PAGE_SIZE, PhysicalMemory};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ENTRY_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Imitations that are tried before the search gives up: leftovers of a kernel
/// that ran before, a guest's guests, or an attempt to keep the engine busy.
const MAX_CANDIDATES: usize = 64;
/// Where the last two entries of a table lie.
const LAST_TWO: u64 = PAGE_SIZE - 16;

/// A kernel's page table that may map its image, and an address in that image.
pub(super) struct Candidate {
    /// The uppermost 512 GiB as that table maps them.
    pub space: AddressSpace,
    /// An address in the image.
    pub anchor: u64,
}

/// Searches ranges of physical memory, which are page-aligned; the rest of a
/// range that is not is left out. What is walked takes of `pages_left`.
pub(super) fn candidates<M: PhysicalMemory + ?Sized>(
    mem: &M,
    ranges: impl Iterator<Item = Range<u64>>,
    pages_left: &Cell<u64>,
) -> impl Iterator<Item = Candidate> {
    level3_tables(mem, ranges).filter_map(|(page, _)| {
        let space = AddressSpace::new(page, 3);
        let mut left = pages_left.get();
        let anchor = image::first_mapped(mem, &space, &mut left);
        pages_left.set(left);
        Some(Candidate {
            space,
            anchor: anchor?,
        })
    })
}

/// How far from its own address the kernel's memory lies in an image that
/// leaves out the hole below 4 GiB: the kernel's tables lie side by side, so
/// where one says that the next is, is where it should be itself. None if it
/// is there, or if there is no such table.
pub(super) fn displacement<M: PhysicalMemory + ?Sized>(
    mem: &M,
    ranges: impl Iterator<Item = Range<u64>>,
) -> Option<u64> {
    level3_tables(mem, ranges)
        .filter_map(|(page, level2)| level2.checked_sub(PAGE_SIZE)?.checked_sub(page))
        .find(|&distance| distance != 0)
}

/// Pages that can be `level3_kernel_pgt`, each with the address of the table
/// that maps the image.
fn level3_tables<M: PhysicalMemory + ?Sized>(
    mem: &M,
    ranges: impl Iterator<Item = Range<u64>>,
) -> impl Iterator<Item = (u64, u64)> {
    ranges
        .flat_map(|range| {
            let first = range.start.next_multiple_of(PAGE_SIZE);
            let pages = range.end.saturating_sub(first) / PAGE_SIZE;
            (0..pages).map(move |page| first + page * PAGE_SIZE)
        })
        .filter_map(|page| Some((page, level2_of(mem, page)?)))
        .take(MAX_CANDIDATES)
}

/// The table that maps the image, if a page can be `level3_kernel_pgt`.
fn level2_of<M: PhysicalMemory + ?Sized>(mem: &M, page: u64) -> Option<u64> {
    let mut last_two = [0; 16];
    mem.read_phys(page + LAST_TWO, &mut last_two).ok()?;
    let word = |at: usize| last_two[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
    let (kernel, fixmap) = (word(0), word(8));
    if !is_table(kernel) || !is_table(fixmap) || (kernel ^ fixmap) & ENTRY_ADDRESS == 0 {
        return None;
    }
    let mut table = [0; PAGE_SIZE as usize];
    mem.read_phys(page, &mut table).ok()?;
    let empty = table[..LAST_TWO as usize].iter().all(|&byte| byte == 0);
    empty.then_some(kernel & ENTRY_ADDRESS)
}

/// Whether an entry points at another table, as the kernel's own do.
fn is_table(entry: u64) -> bool {
    let flags = PRESENT | WRITABLE;
    entry & (flags | LARGE | NO_EXECUTE) == flags && entry & ENTRY_ADDRESS != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEVEL3: usize = 5;
    const LEVEL2: usize = 6;
    const FIXMAP: usize = 7;

    fn put(mem: &mut [u8], page: usize, index: usize, entry: u64) {
        let at = page * 4096 + index * 8;
        mem[at..at + 8].copy_from_slice(&entry.to_le_bytes());
    }

    /// A kernel that maps 2 MiB at 0xffffffff_a0000000.
    fn memory() -> Vec<u8> {
        let mut mem = vec![0; 4 << 20];
        put(&mut mem, LEVEL3, 510, (LEVEL2 as u64) << 12 | 0x63);
        put(&mut mem, LEVEL3, 511, (FIXMAP as u64) << 12 | 0x67);
        put(&mut mem, LEVEL2, 256, 0x20_0000 | 0xe3);
        mem
    }

    fn found(mem: &[u8]) -> Vec<(u64, u64)> {
        candidates(mem, std::iter::once(0..mem.len() as u64), &Cell::new(1 << 20))
            .map(|candidate| (candidate.space.root(), candidate.anchor))
            .collect()
    }

    #[test]
    fn the_table_tells_where_the_image_is() {
        let mem = memory();
        assert_eq!(found(&mem), [(LEVEL3 as u64 * 4096, 0xffff_ffff_a000_0000)]);
        let space = AddressSpace::new(LEVEL3 as u64 * 4096, 3);
        let pa = space.translate(&mem[..], 0xffff_ffff_a000_1234).unwrap();
        assert_eq!(pa, 0x20_1234);
    }

    #[test]
    fn tables_of_other_kinds_are_passed_over() {
        let damage: [(usize, usize, u64); 5] = [
            // Something else is mapped in the same 512 GiB.
            (LEVEL3, 3, 1),
            // No table, or the same one twice.
            (LEVEL3, 511, 0),
            (LEVEL3, 511, (LEVEL2 as u64) << 12 | 0x67),
            (LEVEL3, 510, 0x4000_0000 | 0xe3),
            // An image area that is empty.
            (LEVEL2, 256, 0),
        ];
        for (page, index, entry) in damage {
            let mut mem = memory();
            put(&mut mem, page, index, entry);
            assert_eq!(found(&mem), [], "{page} {index} {entry:#x}");
        }
    }

    #[test]
    fn a_memory_full_of_imitations_ends() {
        let mut mem = memory();
        let table = mem[LEVEL3 * 4096..][..4096].to_vec();
        for page in 100..1000 {
            mem[page * 4096..][..4096].copy_from_slice(&table);
        }
        assert_eq!(found(&mem).len(), MAX_CANDIDATES);
    }
}
