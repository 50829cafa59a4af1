// SPDX-License-Identifier: GPL-3.0-only
//! Reading a guest's memory: what every layer above this one stands on.
//!
//! Guest-physical memory is one small trait, [`PhysicalMemory`], which a live
//! domain and a dump file both implement. Guest-virtual memory is that trait
//! seen through the page tables of an [`AddressSpace`].
//!
//! **Invariant:** everything read here was written by the guest and may be a
//! lie. A read either fills the whole buffer or fails, walks have a fixed
//! number of steps, and nothing panics on any content.

mod cpu;
mod dump;
mod paging;

pub use cpu::CpuState;
pub use dump::{Dump, DumpError, Format};
pub use paging::{AddressSpace, PageFlags, Translation};

use thiserror::Error;

/// Size of the smallest page of x86-64, in bytes.
pub const PAGE_SIZE: u64 = 4096;

/// Why guest memory could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// Nothing backs this guest-physical address: a hole, a device, a page
    /// ballooned out, or one that a dump does not hold.
    #[error("guest-physical {pa:#x} is not backed by memory")]
    Absent {
        /// The guest-physical address that was asked for.
        pa: u64,
    },
    /// The page tables have no present entry for this address. For a user
    /// address that is ordinary: never touched, swapped out, or gone.
    #[error("guest-virtual {va:#x} is not mapped (level {level} entry not present)")]
    NotMapped {
        /// The guest-virtual address that was asked for.
        va: u64,
        /// Level of the absent entry: 5 or 4 for the top table, 1 for a page.
        level: u8,
    },
    /// The address is not canonical for the paging depth in use, or the range
    /// runs past the end of the address space: no valid pointer looks so.
    #[error("guest-virtual {va:#x} is not a canonical address")]
    NonCanonical {
        /// The guest-virtual address that was asked for.
        va: u64,
    },
    /// One operation was about to read more than any sound guest asks for: its
    /// structures run in circles, or are too many.
    #[error("guest-virtual {va:#x} is not read any more: the operation has read too much already")]
    OverBudget {
        /// The guest-virtual address that was asked for.
        va: u64,
    },
    /// The source of the memory (a mapping, a file) failed.
    #[error("reading guest-physical {pa:#x}: {source}")]
    Source {
        /// The guest-physical address that was asked for.
        pa: u64,
        /// What the hypervisor or the file system said.
        #[source]
        source: std::io::Error,
    },
}

/// Guest-physical memory of one guest: a live domain or a dump of one.
///
/// Reading takes `&self`; an implementation that caches mappings does so
/// behind interior mutability, since one thread serves one domain.
pub trait PhysicalMemory {
    /// Fills `buf` with the bytes at guest-physical `pa`. The range may cross
    /// page boundaries. On an error the content of `buf` is unspecified.
    ///
    /// # Errors
    /// [`MemoryError::Absent`] where no memory is, [`MemoryError::Source`]
    /// where the source failed.
    fn read_phys(&self, pa: u64, buf: &mut [u8]) -> Result<(), MemoryError>;
}

impl<M: PhysicalMemory + ?Sized> PhysicalMemory for &M {
    fn read_phys(&self, pa: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        (**self).read_phys(pa, buf)
    }
}

impl<M: PhysicalMemory + ?Sized> PhysicalMemory for Box<M> {
    fn read_phys(&self, pa: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        (**self).read_phys(pa, buf)
    }
}

/// A byte slice is memory that starts at guest-physical 0: for raw images that
/// fit in memory, and for tests.
impl PhysicalMemory for [u8] {
    fn read_phys(&self, pa: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        let bytes = usize::try_from(pa)
            .ok()
            .and_then(|start| self.get(start..start.checked_add(buf.len())?))
            .ok_or(MemoryError::Absent { pa })?;
        buf.copy_from_slice(bytes);
        Ok(())
    }
}
