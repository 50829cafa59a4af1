// SPDX-License-Identifier: GPL-3.0-only
//! The kernel's table of PIDs: an XArray, from a number to a `struct pid` and from there to its tasks.

use super::{Linux, LinuxError, TaskAddr, group};
use crate::kernel::layout::PidTableOffsets;
use crate::memory::PhysicalMemory;

/// An entry's low bits say what it is (include/linux/xarray.h): these of a node, none of what is stored.
pub(super) const KIND: u64 = 3;
pub(super) const NODE: u64 = 2;
/// Internal entries up to here are marks.
pub(super) const MARKS: u64 = 4096;

impl<M: PhysicalMemory> Linux<M> {
    /// How the table is laid out, and its first entry: that of the initial PID namespace, which numbers the threads of all others too.
    pub(super) fn pid_table(&self) -> Result<(PidTableOffsets, u64), LinuxError> {
        let offsets = group(&self.kernel.layout.pid_table)?;
        let namespace = self
            .kernel
            .symbols
            .address("init_pid_ns")
            .ok_or(LinuxError::NoSymbol("init_pid_ns"))?;
        let head = self.u64(namespace.wrapping_add(offsets.xa_head))?;
        Ok((offsets, head))
    }

    /// The thread with this number in the initial PID namespace, as the kernel itself finds it: some reads, however many there are.
    /// None where there is none, or where it was taken out of the table ([`Linux::census`] tells of such).
    ///
    /// # Errors
    /// If this kernel's table is not understood, or cannot be read.
    pub fn task_numbered(&self, pid: u32) -> Result<Option<TaskAddr>, LinuxError> {
        let (offsets, mut entry) = self.pid_table()?;
        let slots = offsets.node_slots.count;
        // Each level's shift is smaller than its parent's, so the depth is bounded. The first has no more slots than others: what lies
        // beyond them is not in the table.
        let mut above: Option<u8> = None;
        while entry & KIND == NODE && entry > MARKS {
            let node = entry - NODE;
            let shift = self.u8(node.wrapping_add(offsets.node_shift))?;
            if above.is_some_and(|above| shift >= above) {
                return Err(LinuxError::Implausible {
                    what: "the table of PIDs",
                    va: node,
                });
            }
            let index = pid.checked_shr(shift.into()).unwrap_or(0);
            let slot = match above {
                None if index >= slots => return Ok(None),
                None => index,
                Some(_) => index % slots.max(1),
            };
            above = Some(shift);
            let place = offsets.node_slots.offset + 8 * u64::from(slot);
            entry = self.u64(node.wrapping_add(place))?;
        }
        // Without a node there is number 0 alone, which nobody has.
        if entry == 0 || entry & KIND != 0 || above.is_none() {
            return Ok(None);
        }
        // Without a task of the first kind the number is kept as a group's.
        let link = self.pointer(entry.wrapping_add(offsets.pid_tasks))?;
        let task = link.map(|link| TaskAddr(link.wrapping_sub(offsets.pid_links)));
        match task {
            Some(task) if self.pid(task)? == pid => Ok(Some(task)),
            _ => Ok(None),
        }
    }
}
