// SPDX-License-Identifier: GPL-3.0-only
//! What a process has mapped into its memory, as /proc/PID/maps tells it.

use std::collections::HashMap;
use std::sync::Arc;

use super::path::Place;
use super::process::PF_KTHREAD;
use super::{Budget, Linux, LinuxError, TaskAddr, group};
use crate::kernel::layout::MappingOffsets;
use crate::memory::{MemoryError, PAGE_SIZE, PhysicalMemory};

/// sysctl_max_map_count as every distribution has it; the next is not looked at.
const MAX_MAPPINGS: usize = 65_530;
/// Bits of `vm_flags`, alike in all versions (include/linux/mm.h).
const VM_READ: u64 = 0x1;
const VM_WRITE: u64 = 0x2;
const VM_EXEC: u64 = 0x4;
const VM_MAYSHARE: u64 = 0x80;

/// What a process may do with a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in mmap(2)")]
pub struct Access {
    pub read: bool,
    pub write: bool,
    pub exec: bool,
    /// MAP_SHARED: writes reach the file, or others that have it mapped.
    pub shared: bool,
}

/// One mapping of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// The address after the last.
    pub end: u64,
    /// What the process may do there.
    pub access: Access,
    /// Where in the file it begins, in bytes; meaningless without a file.
    pub offset: u64,
    /// Path of the file, as the process itself would see it; none where the memory is of no file.
    pub file: Option<Arc<str>>,
    /// The file was unlinked, or never had a name (memfd, shared memory).
    pub deleted: bool,
    /// The file is the process's executable.
    pub executable: bool,
}

/// A mapping before its path is put together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Area {
    pub start: u64,
    pub end: u64,
    pub flags: u64,
    /// In bytes.
    pub offset: u64,
    /// Address of the `struct file`; 0 for none.
    pub file: u64,
}

impl Area {
    pub fn is_executable(&self) -> bool {
        self.flags & VM_EXEC != 0
    }
}

impl<M: PhysicalMemory> Linux<M> {
    /// What the process has mapped, in order, by any of its threads. Empty for kernel threads and for what is exiting.
    ///
    /// # Errors
    /// If the task cannot be read, this kernel's mappings are not understood, or there are more than any real process has.
    pub fn mappings(&self, task: TaskAddr) -> Result<Vec<Mapping>, LinuxError> {
        let read = || {
            let Some(mm) = self.memory_of(task)? else {
                return Ok(Vec::new());
            };
            let own = self.executable_place(mm).ok().flatten();
            let root = self.root_of(task);
            let mut files: HashMap<u64, (Option<Arc<str>>, bool, bool)> = HashMap::new();
            let areas = self.areas(mm)?;
            Ok(areas
                .into_iter()
                .map(|area| {
                    let (file, deleted, executable) = match area.file {
                        0 => (None, false, false),
                        file => files
                            .entry(file)
                            .or_insert_with(|| self.mapped_file(file, root, own))
                            .clone(),
                    };
                    Mapping {
                        start: area.start,
                        end: area.end,
                        access: Access {
                            read: area.flags & VM_READ != 0,
                            write: area.flags & VM_WRITE != 0,
                            exec: area.flags & VM_EXEC != 0,
                            shared: area.flags & VM_MAYSHARE != 0,
                        },
                        offset: area.offset,
                        file,
                        deleted,
                        executable,
                    }
                })
                .collect())
        };
        match self.within(Budget::MAPPINGS, read) {
            (Ok(_), true) => Err(MemoryError::OverBudget { va: task.0 }.into()),
            (result, _) => result,
        }
    }

    /// Address of the `mm_struct` of a process that has memory of its own.
    pub(super) fn memory_of(&self, task: TaskAddr) -> Result<Option<u64>, LinuxError> {
        let offsets = group(&self.kernel.layout.task)?;
        let kthread = self.u32(task.0.wrapping_add(offsets.flags))? & PF_KTHREAD != 0;
        Ok(self
            .pointer(task.0.wrapping_add(offsets.mm))?
            .filter(|_| !kthread))
    }

    /// Where the executable of a process lies whose `mm_struct` is at `mm`.
    pub(super) fn executable_place(&self, mm: u64) -> Result<Option<Place>, LinuxError> {
        let offsets = group(&self.kernel.layout.exe)?;
        match self.pointer(mm.wrapping_add(offsets.exe_file))? {
            Some(file) => self.place_of_file(file).map(Some),
            None => Ok(None),
        }
    }

    /// Path of a mapped file, whether it is deleted, and whether it is the executable, which lies at `own`.
    fn mapped_file(
        &self,
        file: u64,
        root: Option<Place>,
        own: Option<Place>,
    ) -> (Option<Arc<str>>, bool, bool) {
        let place = self.place_of_file(file).ok();
        let path = place.and_then(|place| self.resolve(place, root).ok());
        let deleted = path.as_ref().is_some_and(|path| path.deleted);
        // Not none: that would be memory of no file.
        let text = path.map_or_else(|| "?".into(), |path| path.text.into());
        (Some(text), deleted, place.is_some() && place == own)
    }

    /// All areas of an `mm_struct`, in order. Where the guest changes them meanwhile some may be missing.
    pub(super) fn areas(&self, mm: u64) -> Result<Vec<Area>, LinuxError> {
        let layout = &self.kernel.layout;
        let offsets = group(&layout.mapping)?;
        let mut addresses = Vec::new();
        if let Ok(list) = &layout.mapping_list {
            let mut next = self.pointer(mm.wrapping_add(list.mmap))?;
            while let Some(area) = next.filter(|_| addresses.len() < MAX_MAPPINGS) {
                addresses.push(area);
                next = self.pointer(area.wrapping_add(list.vm_next)).unwrap_or(None);
            }
        } else {
            let maple = group(&layout.maple)?;
            self.each_in_maple(mm.wrapping_add(maple.root), MAX_MAPPINGS, |area| {
                addresses.push(area)
            })?;
        }
        let mut areas: Vec<Area> = addresses
            .into_iter()
            .filter_map(|at| self.area(&offsets, at).ok().flatten())
            .collect();
        // A list that bites its tail has each area more than once.
        areas.sort_by_key(|area| area.start);
        areas.dedup_by_key(|area| area.start);
        Ok(areas)
    }

    /// One area; none where the bounds cannot be those of any.
    fn area(&self, offsets: &MappingOffsets, at: u64) -> Result<Option<Area>, LinuxError> {
        let field = |offset: u64| self.u64(at.wrapping_add(offset));
        let (start, end) = (field(offsets.vm_start)?, field(offsets.vm_end)?);
        if start >= end || start % PAGE_SIZE != 0 || end % PAGE_SIZE != 0 {
            return Ok(None);
        }
        Ok(Some(Area {
            start,
            end,
            flags: field(offsets.vm_flags)?,
            offset: field(offsets.vm_pgoff)?.wrapping_mul(PAGE_SIZE),
            file: field(offsets.vm_file)?,
        }))
    }
}
