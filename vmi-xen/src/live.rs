// SPDX-License-Identifier: GPL-3.0-only
//! The memory and the vCPUs of a running domain.

use std::cell::{Cell, RefCell};
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use xen_bindings::{
    DomId, Gfn, PAGE_SIZE, Xen, XenError, domain,
    memory::ForeignPages,
    vcpu::{self, Registers},
};

use crate::breakpoint::Patch;
use crate::memory::{CpuState, MemoryError, PhysicalMemory};

/// Frames mapped by one call. Neighbours are likely to be wanted too (tables,
/// slabs, kernel text), and one call for all costs little more than for one.
const CHUNK_PAGES: u64 = 32;
/// Chunks kept mapped: bounds the address space used, at 128 MiB. Smaller guests are mapped once.
const CHUNKS: usize = 1024;

/// How often [`LiveMemory::renew`] looks whether a domain gave pages back or got some.
const LOOKED_AT: Duration = Duration::from_secs(1);
/// For how long it keeps mappings of a domain that has as many pages as it had: it may have given one back and got another.
const KEPT: Duration = Duration::from_secs(10);

/// Guest-physical memory of a running domain, through a bounded cache of
/// foreign mappings.
///
/// A mapping shows the frame that was there when it was made. A frame that the
/// guest gave back (ballooning) since then reads as it was; call
/// [`Self::renew`] from time to time, and drop the value when the domain
/// dies: mappings keep its memory from being freed.
pub struct LiveMemory {
    xen: Xen,
    domid: DomId,
    /// One thread serves a domain, so interior mutability needs no lock.
    chunks: RefCell<Chunks>,
    hidden: RefCell<Vec<Patch>>,
    /// When the oldest mapping may have been made.
    since: Cell<Instant>,
    looked: Cell<Instant>,
    /// Pages that the domain had at the last look.
    pages: Cell<Option<u64>>,
}

/// Mapped chunks by number. The one unused for longest makes room for another: making a mapping costs as much as a hundred
/// reads, and what a trap reads is nearly always what other traps read.
struct Chunks {
    mapped: FxHashMap<u64, Chunk>,
    /// Counts uses.
    now: u64,
}

struct Chunk {
    pages: ForeignPages,
    /// When it was last used.
    used: u64,
}

impl Chunks {
    fn new() -> Self {
        let mut mapped = FxHashMap::default();
        mapped.reserve(CHUNKS);
        Self { mapped, now: 0 }
    }

    /// Makes room for one more.
    fn make_room(&mut self) {
        if self.mapped.len() < CHUNKS {
            return;
        }
        let oldest = self.mapped.iter().min_by_key(|(_, chunk)| chunk.used);
        if let Some(number) = oldest.map(|(number, _)| *number) {
            self.mapped.remove(&number);
        }
    }
}

impl LiveMemory {
    /// Memory of `domid`; nothing is mapped yet.
    pub fn new(xen: &Xen, domid: DomId) -> Self {
        Self {
            xen: xen.clone(),
            domid,
            chunks: RefCell::new(Chunks::new()),
            hidden: RefCell::default(),
            since: Cell::new(Instant::now()),
            looked: Cell::new(Instant::now()),
            pages: Cell::new(None),
        }
    }

    /// Registers of every vCPU, as [`cpu_states`] has them.
    ///
    /// # Errors
    /// Where the domain does not exist.
    pub fn cpu_states(&self) -> Result<Vec<CpuState>, XenError> {
        cpu_states(&self.xen, self.domid)
    }

    /// Forgets all mappings, so that later reads see the domain's present map. To make one anew costs as much as a hundred reads.
    pub fn invalidate(&self) {
        self.chunks.borrow_mut().mapped.clear();
        self.since.set(Instant::now());
    }

    /// Forgets all mappings where the domain may have another map now: it has more or fewer pages than a second ago, or some of
    /// the mappings are ten seconds old. Costs next to nothing where it was called within a second.
    pub fn renew(&self) {
        if self.looked.get().elapsed() < LOOKED_AT {
            return;
        }
        self.looked.set(Instant::now());
        let pages = domain::info(&self.xen, self.domid)
            .ok()
            .flatten()
            .map(|info| info.tot_pages);
        let before = self.pages.replace(pages);
        if pages != before || self.since.get().elapsed() >= KEPT {
            self.invalidate();
        }
    }

    /// Runs `read` on memory as the guest has it without these breakpoints of ours.
    pub(crate) fn without<T>(&self, patches: Vec<Patch>, read: impl FnOnce() -> T) -> T {
        self.hidden.replace(patches);
        let outcome = read();
        self.hidden.take();
        outcome
    }

    /// Copies from one page; `offset` and the length stay within it.
    fn read_in_page(&self, gfn: Gfn, offset: usize, buf: &mut [u8]) -> Result<(), MemoryError> {
        let number = gfn / CHUNK_PAGES;
        let index = (gfn % CHUNK_PAGES) as usize;
        let pa = (gfn * PAGE_SIZE as u64).wrapping_add(offset as u64);
        let mut chunks = self.chunks.borrow_mut();
        if !chunks.mapped.contains_key(&number) {
            chunks.make_room();
        }
        let Chunks { mapped, now } = &mut *chunks;
        *now += 1;
        let chunk = match mapped.entry(number) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Chunk {
                pages: self.map(number, pa)?,
                used: *now,
            }),
        };
        chunk.used = *now;
        if chunk.pages.page_error(index).is_some() {
            // It may be populated by the next time.
            mapped.remove(&number);
            return Err(MemoryError::Absent { pa });
        }
        chunk
            .pages
            .read(index * PAGE_SIZE + offset, buf)
            .map_err(|error| MemoryError::Source {
                pa,
                source: error.source,
            })
    }

    fn map(&self, number: u64, pa: u64) -> Result<ForeignPages, MemoryError> {
        let first = number * CHUNK_PAGES;
        let gfns: Vec<Gfn> = (first..first + CHUNK_PAGES).collect();
        ForeignPages::map_batch(&self.xen, self.domid, &gfns, false).map_err(|error| {
            if error.is_gone() {
                MemoryError::Source {
                    pa,
                    source: error.source,
                }
            } else {
                MemoryError::Absent { pa }
            }
        })
    }
}

impl PhysicalMemory for LiveMemory {
    fn read_phys(&self, pa: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        let mut at = pa;
        let mut rest = buf;
        while !rest.is_empty() {
            let offset = (at % PAGE_SIZE as u64) as usize;
            let (part, after) = rest.split_at_mut(rest.len().min(PAGE_SIZE - offset));
            self.read_in_page(at / PAGE_SIZE as u64, offset, part)?;
            for patch in self.hidden.borrow().iter() {
                patch.hide(at, part);
            }
            at = at
                .checked_add(part.len() as u64)
                .ok_or(MemoryError::Absent { pa })?;
            rest = after;
        }
        Ok(())
    }
}

/// Registers of every vCPU of the domain, in order; an offline vCPU has all
/// zeros. Xen pauses the domain for each read, so this is for bring-up, not for
/// the trap path (a trap carries the registers of its vCPU).
///
/// # Errors
/// Where the domain does not exist.
pub fn cpu_states(xen: &Xen, domid: DomId) -> Result<Vec<CpuState>, XenError> {
    let vcpus = domain::info(xen, domid)?.map_or(0, |info| info.vcpus);
    (0..vcpus)
        .map(|vcpu| Ok(vcpu::registers(xen, domid, vcpu)?.map_or_else(CpuState::default, state_of)))
        .collect()
}

fn state_of(registers: Registers) -> CpuState {
    CpuState {
        cr0: registers.cr0,
        cr3: registers.cr3,
        cr4: registers.cr4,
        efer: registers.efer,
        lstar: registers.lstar,
        gs_base: registers.gs_base,
        shadow_gs: registers.shadow_gs,
        rip: registers.rip,
        rsp: registers.rsp,
        idt_base: registers.idt_base,
        cpl: registers.cpl,
    }
}
