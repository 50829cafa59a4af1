// SPDX-License-Identifier: GPL-3.0-only
//! Guest-virtual addresses through the guest's own page tables (Intel SDM
//! volume 3, chapter "Paging"; AMD's tables are the same).

use std::cell::Cell;

use super::{MemoryError, PAGE_SIZE, PhysicalMemory};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
/// Address bits of a table entry: 12 to 51.
const ENTRY_ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Slots of the translation cache. Enough for the handful of pages that one
/// trap touches; a walk that misses costs four reads of cached pages.
const CACHE_SLOTS: usize = 64;
/// No page has this number: a virtual page number has at most 52 bits.
const NO_PAGE: u64 = u64::MAX;

/// What the page tables say about a page, all levels taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageFlags {
    /// Writes are allowed.
    pub writable: bool,
    /// User code may touch it.
    pub user: bool,
    /// Instructions may be fetched from it.
    pub executable: bool,
}

/// Result of a page walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translation {
    /// Guest-physical address of the byte asked for.
    pub pa: u64,
    /// Size of the page it lies in: 4 KiB, 2 MiB or 1 GiB.
    pub page_size: u64,
    /// Rights of that page.
    pub flags: PageFlags,
}

/// One set of page tables: a process's, or the kernel's.
///
/// Translations are cached in the instance. Kernel image and direct map hardly
/// ever change; for anything else call [`AddressSpace::flush`], or make a new
/// instance, before trusting a translation older than the present trap.
#[derive(Debug, Clone)]
pub struct AddressSpace {
    root: u64,
    levels: u8,
    /// Direct-mapped by virtual page number: (virtual page, physical page).
    cache: Box<[Cell<(u64, u64)>; CACHE_SLOTS]>,
}

impl AddressSpace {
    /// An address space whose top table is at guest-physical `root` (bits
    /// below 12 and above 51 are ignored). `levels` is 4 or 5, as CPUs have it,
    /// or 3 for the uppermost 512 GiB alone, seen through the table of level 3
    /// that maps them; anything else is taken as 4.
    pub fn new(root: u64, levels: u8) -> Self {
        Self {
            root: root & ENTRY_ADDRESS,
            levels: if matches!(levels, 3 | 5) { levels } else { 4 },
            cache: Box::new([const { Cell::new((NO_PAGE, 0)) }; CACHE_SLOTS]),
        }
    }

    /// Guest-physical address of the top table.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// Depth of the page tables, 3 to 5.
    pub fn levels(&self) -> u8 {
        self.levels
    }

    /// Forgets every cached translation.
    pub fn flush(&self) {
        for slot in self.cache.iter() {
            slot.set((NO_PAGE, 0));
        }
    }

    /// Walks the tables for `va`, past the cache.
    ///
    /// # Errors
    /// [`MemoryError::NonCanonical`], [`MemoryError::NotMapped`], or what
    /// reading a table gave.
    pub fn walk<M: PhysicalMemory + ?Sized>(&self, mem: &M, va: u64) -> Result<Translation, MemoryError> {
        let unused_bits = 64 - (12 + 9 * u32::from(self.levels));
        let sign_extended = ((va << unused_bits) as i64 >> unused_bits) as u64;
        if sign_extended != va {
            return Err(MemoryError::NonCanonical { va });
        }
        let mut flags = PageFlags {
            writable: true,
            user: true,
            executable: true,
        };
        let mut table = self.root;
        for level in (1..=self.levels).rev() {
            let shift = 12 + 9 * (u32::from(level) - 1);
            let index = (va >> shift) & 0x1ff;
            let mut raw = [0; 8];
            mem.read_phys(table + index * 8, &mut raw)?;
            let entry = u64::from_le_bytes(raw);
            if entry & PRESENT == 0 {
                return Err(MemoryError::NotMapped { va, level });
            }
            flags.writable &= entry & WRITABLE != 0;
            flags.user &= entry & USER != 0;
            flags.executable &= entry & NO_EXECUTE == 0;
            // Only page directories and their pointers can map large pages;
            // at level 1 the same bit is PAT.
            if level == 1 || (entry & LARGE != 0 && level <= 3) {
                let page_size = 1u64 << shift;
                let offset_mask = page_size - 1;
                // A large page's entry has PAT at bit 12, below its address.
                let base = entry & ENTRY_ADDRESS & !offset_mask;
                return Ok(Translation {
                    pa: base | (va & offset_mask),
                    page_size,
                    flags,
                });
            }
            table = entry & ENTRY_ADDRESS;
        }
        // The loop returns at level 1 at the latest.
        Err(MemoryError::NotMapped { va, level: 0 })
    }

    /// Guest-physical address of `va`, from the cache where it is known.
    ///
    /// # Errors
    /// As [`AddressSpace::walk`].
    pub fn translate<M: PhysicalMemory + ?Sized>(&self, mem: &M, va: u64) -> Result<u64, MemoryError> {
        let page = va / PAGE_SIZE;
        let slot = &self.cache[page as usize % CACHE_SLOTS];
        let (cached_page, frame) = slot.get();
        if cached_page == page {
            return Ok(frame * PAGE_SIZE + va % PAGE_SIZE);
        }
        let pa = self.walk(mem, va)?.pa;
        slot.set((page, pa / PAGE_SIZE));
        Ok(pa)
    }

    /// Fills `buf` from `va`, across pages.
    ///
    /// # Errors
    /// As [`AddressSpace::walk`]; a range that passes the end of the address
    /// space is [`MemoryError::NonCanonical`].
    pub fn read<M: PhysicalMemory + ?Sized>(
        &self,
        mem: &M,
        va: u64,
        buf: &mut [u8],
    ) -> Result<(), MemoryError> {
        let mut done = 0;
        while done < buf.len() {
            let at = va
                .checked_add(done as u64)
                .ok_or(MemoryError::NonCanonical { va })?;
            let left = buf.len() - done;
            let in_page = (PAGE_SIZE - at % PAGE_SIZE) as usize;
            let (pa, run) = if left <= in_page {
                (self.translate(mem, at)?, left)
            } else {
                // One walk serves the rest of a large page.
                let walked = self.walk(mem, at)?;
                (walked.pa, (walked.page_size - at % walked.page_size) as usize)
            };
            let take = run.min(left);
            mem.read_phys(pa, &mut buf[done..done + take])?;
            done += take;
        }
        Ok(())
    }

    /// Fills `buf` from `va` as far as pages are mapped without a gap, and
    /// returns how many bytes that was. For text that may be partly swapped
    /// out, such as a process's arguments.
    pub fn read_prefix<M: PhysicalMemory + ?Sized>(&self, mem: &M, va: u64, buf: &mut [u8]) -> usize {
        let mut done = 0;
        while done < buf.len() {
            let Some(at) = va.checked_add(done as u64) else {
                break;
            };
            let in_page = (PAGE_SIZE - at % PAGE_SIZE) as usize;
            let take = in_page.min(buf.len() - done);
            if self.read(mem, at, &mut buf[done..done + take]).is_err() {
                break;
            }
            done += take;
        }
        done
    }

    /// Reads a little-endian `u64` at `va`.
    ///
    /// # Errors
    /// As [`AddressSpace::read`].
    pub fn read_u64<M: PhysicalMemory + ?Sized>(&self, mem: &M, va: u64) -> Result<u64, MemoryError> {
        let mut raw = [0; 8];
        self.read(mem, va, &mut raw)?;
        Ok(u64::from_le_bytes(raw))
    }

    /// Reads a little-endian `u32` at `va`.
    ///
    /// # Errors
    /// As [`AddressSpace::read`].
    pub fn read_u32<M: PhysicalMemory + ?Sized>(&self, mem: &M, va: u64) -> Result<u32, MemoryError> {
        let mut raw = [0; 4];
        self.read(mem, va, &mut raw)?;
        Ok(u32::from_le_bytes(raw))
    }
}

#[cfg(test)]
#[path = "paging_tests.rs"]
mod tests;
