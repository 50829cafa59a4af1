// SPDX-License-Identifier: GPL-3.0-only
//! Memory of a real guest, as far as it was read once, with lies in it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use vmi_xen::memory::{MemoryError, PAGE_SIZE, PhysicalMemory};

use super::edits::edits;

type Page = Box<[u8; PAGE_SIZE as usize]>;

/// Remembers what is read, and where.
pub struct Recorder<M> {
    memory: M,
    pages: RefCell<BTreeMap<u64, Page>>,
    sites: RefCell<BTreeSet<u64>>,
}

impl<M: PhysicalMemory> Recorder<M> {
    /// Nothing was read yet.
    pub fn new(memory: M) -> Self {
        Self {
            memory,
            pages: RefCell::default(),
            sites: RefCell::default(),
        }
    }

    /// What was read, as memory of its own.
    pub fn into_hostile(self) -> Hostile {
        Hostile {
            pages: self.pages.into_inner(),
            sites: self.sites.into_inner().into_iter().collect(),
            lies: RefCell::default(),
            spent: Cell::default(),
        }
    }
}

impl<M: PhysicalMemory> PhysicalMemory for Recorder<M> {
    fn read_phys(&self, pa: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        self.memory.read_phys(pa, buf)?;
        self.sites.borrow_mut().insert(pa & !7);
        let end = pa + buf.len() as u64;
        for number in pa / PAGE_SIZE..end.div_ceil(PAGE_SIZE) {
            let mut pages = self.pages.borrow_mut();
            if let std::collections::btree_map::Entry::Vacant(entry) = pages.entry(number) {
                let mut page = Box::new([0; PAGE_SIZE as usize]);
                self.memory.read_phys(number * PAGE_SIZE, &mut page[..])?;
                entry.insert(page);
            }
        }
        Ok(())
    }
}

/// What was read of a memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Reads, those of page tables included.
    pub reads: u64,
    /// Bytes.
    pub bytes: u64,
}

/// A lie about one 8-byte word, or about a page.
#[derive(Clone, Copy)]
enum Lie {
    /// The word has this value.
    Value(u64),
    /// Every other read finds this value.
    Fickle(u64),
    /// The page is not there.
    Gone,
}

/// Recorded memory with lies in it; counts what is read.
pub struct Hostile {
    pages: BTreeMap<u64, Page>,
    /// Addresses of words that were read: where a lie has an effect.
    sites: Vec<u64>,
    lies: RefCell<Vec<(u64, Lie)>>,
    spent: Cell<Spent>,
}

impl Hostile {
    /// Lies as an input says, and no longer as the input before.
    pub fn lie(&self, data: &[u8]) {
        let site = |number: u64| self.sites[(number % self.sites.len() as u64) as usize];
        self.lies.replace(Vec::new());
        let lies = edits(data)
            .map(|edit| {
                let at = site(u64::from(edit.place));
                let lie = match edit.kind % 8 {
                    0 | 1 => Lie::Value(edit.value),
                    // What another word says: lists that run into each other, parents that are children.
                    2 | 3 => Lie::Value(self.word(site(edit.value))),
                    // Near to where it pointed.
                    4 => Lie::Value(self.word(at).wrapping_add_signed((edit.value as i8).into())),
                    5 => Lie::Fickle(edit.value),
                    6 => Lie::Fickle(self.word(site(edit.value))),
                    _ => Lie::Gone,
                };
                (at, lie)
            })
            .collect();
        self.lies.replace(lies);
    }

    /// What was read since the last call.
    pub fn spent(&self) -> Spent {
        self.spent.take()
    }

    fn word(&self, at: u64) -> u64 {
        let mut raw = [0; 8];
        // Sites lie in recorded pages, aligned.
        match self.copy(at, &mut raw) {
            Ok(()) => u64::from_le_bytes(raw),
            Err(_) => 0,
        }
    }

    fn copy(&self, pa: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        let mut at = pa;
        let mut rest = buf;
        while !rest.is_empty() {
            let inside = (at % PAGE_SIZE) as usize;
            let len = rest.len().min(PAGE_SIZE as usize - inside);
            let (part, after) = rest.split_at_mut(len);
            let page = self.pages.get(&(at / PAGE_SIZE));
            let page = page.ok_or(MemoryError::Absent { pa: at })?;
            part.copy_from_slice(&page[inside..inside + len]);
            at = at.checked_add(len as u64).ok_or(MemoryError::Absent { pa })?;
            rest = after;
        }
        Ok(())
    }
}

impl PhysicalMemory for Hostile {
    fn read_phys(&self, pa: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        let Spent { reads, bytes } = self.spent.get();
        self.spent.set(Spent {
            reads: reads + 1,
            bytes: bytes + buf.len() as u64,
        });
        self.copy(pa, buf)?;
        let end = pa.saturating_add(buf.len() as u64);
        for &(at, lie) in self.lies.borrow().iter() {
            let value = match lie {
                Lie::Gone if at / PAGE_SIZE == pa / PAGE_SIZE => return Err(MemoryError::Absent { pa }),
                Lie::Fickle(value) if reads % 2 == 0 => value,
                Lie::Value(value) => value,
                _ => continue,
            };
            for (byte, here) in value.to_le_bytes().into_iter().zip(at..) {
                if (pa..end).contains(&here) {
                    buf[(here - pa) as usize] = byte;
                }
            }
        }
        Ok(())
    }
}
