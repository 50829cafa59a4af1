// SPDX-License-Identifier: GPL-3.0-only
//! The memory of who makes a call.

use crate::memory::{AddressSpace, PhysicalMemory};
use crate::syscall::UserMemory;

/// User memory through the page tables that were in use at a trap.
pub(super) struct TaskMemory<'a, M> {
    pub mem: &'a M,
    pub space: &'a AddressSpace,
}

impl<M: PhysicalMemory> UserMemory for TaskMemory<'_, M> {
    fn read(&self, va: u64, buf: &mut [u8]) -> usize {
        // The tables map the kernel too; a process that passes a kernel's address shall not have it read.
        if !is_user(va, buf.len()) {
            return 0;
        }
        self.space.read_prefix(self.mem, va, buf)
    }
}

/// Memory of a process that has just replaced it by exec. The kernel's copy of
/// the path is all that is left of the arguments.
pub(super) struct Replaced<'a, M> {
    pub new: TaskMemory<'a, M>,
    /// Where the path was.
    pub path: u64,
    /// Where its copy is.
    pub copy: u64,
}

impl<M: PhysicalMemory> UserMemory for Replaced<'_, M> {
    fn read(&self, va: u64, buf: &mut [u8]) -> usize {
        if va == self.path {
            self.new.read(self.copy, buf)
        } else {
            0
        }
    }
}

/// Whether all of a range is in the lower half.
fn is_user(va: u64, len: usize) -> bool {
    va.checked_add(len as u64).is_some_and(|end| (end as i64) >= 0)
}

#[cfg(test)]
mod tests {
    use super::is_user;

    #[test]
    fn the_upper_half_is_the_kernels() {
        assert!(is_user(0x7fff_ffff_f000, 4096));
        assert!(is_user(0, 0));
        assert!(!is_user(0xffff_8000_0000_0000, 8));
        assert!(!is_user(u64::MAX, 1));
        assert!(!is_user(0x7fff_ffff_ffff_fff0, 64));
    }
}
