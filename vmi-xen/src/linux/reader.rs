// SPDX-License-Identifier: GPL-3.0-only
//! The few ways in which kernel memory is read.

use super::{Linux, LinuxError};
use crate::kernel::layout::Scalar;
use crate::memory::{AddressSpace, MemoryError, PAGE_SIZE, PhysicalMemory};

impl<M: PhysicalMemory> Linux<M> {
    pub(crate) fn read(&self, va: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        self.meter.charge(va, 1, buf.len() as u64)?;
        self.space().read(&self.mem, va, buf)
    }

    /// As [`AddressSpace::read_prefix`], in any address space.
    pub(super) fn prefix(&self, space: &AddressSpace, va: u64, buf: &mut [u8]) -> usize {
        let len = buf.len() as u64;
        match self.meter.charge(va, 1 + len / PAGE_SIZE, len) {
            Ok(()) => space.read_prefix(&self.mem, va, buf),
            Err(_) => 0,
        }
    }

    pub(crate) fn u8(&self, va: u64) -> Result<u8, MemoryError> {
        let mut raw = [0; 1];
        self.read(va, &mut raw)?;
        Ok(raw[0])
    }

    pub(crate) fn u16(&self, va: u64) -> Result<u16, MemoryError> {
        let mut raw = [0; 2];
        self.read(va, &mut raw)?;
        Ok(u16::from_le_bytes(raw))
    }

    pub(crate) fn u32(&self, va: u64) -> Result<u32, MemoryError> {
        let mut raw = [0; 4];
        self.read(va, &mut raw)?;
        Ok(u32::from_le_bytes(raw))
    }

    pub(crate) fn u64(&self, va: u64) -> Result<u64, MemoryError> {
        let mut raw = [0; 8];
        self.read(va, &mut raw)?;
        Ok(u64::from_le_bytes(raw))
    }

    /// A pointer, or None where it is null.
    pub(crate) fn pointer(&self, va: u64) -> Result<Option<u64>, MemoryError> {
        Ok(Some(self.u64(va)?).filter(|&pointer| pointer != 0))
    }

    /// An unsigned member whose size and place in its word BTF told.
    pub(crate) fn scalar(&self, base: u64, member: Scalar) -> Result<u64, MemoryError> {
        let mut raw = [0; 8];
        let size = usize::from(member.size).min(8);
        self.read(base.wrapping_add(member.offset), &mut raw[..size])?;
        let word = u64::from_le_bytes(raw);
        Ok(match member.bits {
            Some(bits) if bits.width < 64 => (word >> (bits.shift & 63)) & ((1u64 << bits.width) - 1),
            _ => word,
        })
    }

    /// Text in a fixed array, up to its NUL.
    pub(crate) fn text<const N: usize>(&self, va: u64) -> Result<String, MemoryError> {
        let mut raw = [0; N];
        self.read(va, &mut raw)?;
        let len = raw.iter().position(|&byte| byte == 0).unwrap_or(N);
        Ok(String::from_utf8_lossy(&raw[..len]).into_owned())
    }

    /// Walks a `struct list_head` list and calls `visit` with the address of
    /// each element, that is of the structure that holds the link at
    /// `link_offset`. Ends at the head, after `limit` elements, where memory
    /// cannot be read, or where the list bites its own tail elsewhere than at
    /// its head.
    ///
    /// # Errors
    /// Only if the head itself cannot be read.
    pub(crate) fn each_in_list(
        &self,
        head: u64,
        link_offset: u64,
        limit: usize,
        mut visit: impl FnMut(u64),
    ) -> Result<(), LinuxError> {
        let mut link = self.u64(head)?;
        // Brent's cycle detection: a marker that moves ahead in powers of two.
        let (mut marker, mut until_next_marker) = (head, 1usize);
        for index in 0..limit {
            if link == head || link == marker || link == 0 {
                break;
            }
            visit(link.wrapping_sub(link_offset));
            if index == until_next_marker {
                marker = link;
                until_next_marker = until_next_marker.saturating_mul(2);
            }
            match self.u64(link) {
                Ok(next) => link = next,
                Err(_) => break,
            }
        }
        Ok(())
    }
}
