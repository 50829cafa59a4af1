// SPDX-License-Identifier: GPL-3.0-only
//! A process's arguments, from its own memory through its own page tables.

use super::{Linux, LinuxError, TaskAddr, group};
use crate::memory::PhysicalMemory;

/// Arguments longer than this are cut. The kernel itself showed a page of them
/// for most of its life; policies and people need less.
const MAX_ARGS: usize = 32 << 10;
/// A title that a process wrote over its arguments; the kernel shows a page.
const MAX_TITLE: usize = 4096;

impl<M: PhysicalMemory> Linux<M> {
    /// Arguments of the process whose `mm_struct` is at `mm`, as
    /// /proc/PID/cmdline has them; what cannot be read is left out.
    pub(super) fn args(&self, mm: u64) -> Vec<String> {
        self.raw_args(mm).map(|raw| split_args(&raw)).unwrap_or_default()
    }

    /// Where in its own memory a process has the path that was given to its
    /// exec: the kernel puts it right behind the environment.
    ///
    /// # Errors
    /// If the task is a kernel's thread or cannot be read.
    pub fn path_of_exec(&self, task: TaskAddr) -> Result<u64, LinuxError> {
        let (task_offsets, offsets) = (group(&self.kernel.layout.task)?, group(&self.kernel.layout.args)?);
        let va = task.0.wrapping_add(task_offsets.mm);
        let mm = self.pointer(va)?.ok_or(LinuxError::Implausible {
            what: "memory of a process",
            va,
        })?;
        Ok(self.u64(mm.wrapping_add(offsets.env_end))?)
    }

    fn raw_args(&self, mm: u64) -> Result<Vec<u8>, LinuxError> {
        let offsets = group(&self.kernel.layout.args)?;
        let field = |offset: u64| self.u64(mm.wrapping_add(offset));
        let (start, end) = (field(offsets.arg_start)?, field(offsets.arg_end)?);
        let (env_start, env_end) = (field(offsets.env_start)?, field(offsets.env_end)?);
        let space = self.space_of(mm)?;
        let read = |len: u64, most: usize| {
            let mut raw = vec![0; len.min(most as u64) as usize];
            let got = self.prefix(&space, start, &mut raw);
            raw.truncate(got);
            raw
        };
        let len = end.saturating_sub(start);
        let raw = read(len, MAX_ARGS);
        // No NUL at the end: setproctitle(3) wrote a title over the arguments,
        // which runs on into the environment if that follows. So the kernel,
        // in fs/proc/base.c, get_mm_cmdline.
        let whole = raw.len() as u64 == len;
        if whole && raw.last().is_some_and(|&last| last != 0) && env_start == end {
            let mut title = read(env_end.saturating_sub(start), MAX_TITLE);
            let len = title.iter().position(|&byte| byte == 0);
            title.truncate(len.unwrap_or(title.len()));
            return Ok(title);
        }
        Ok(raw)
    }
}

/// Arguments lie one after the other, each ended by a NUL. Empty ones at the
/// end are dropped: most often they are what a title was written over.
fn split_args(raw: &[u8]) -> Vec<String> {
    let len = raw.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1);
    if len == 0 {
        return Vec::new();
    }
    raw[..len]
        .split(|&byte| byte == 0)
        .map(|arg| String::from_utf8_lossy(arg).into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::split_args;

    #[test]
    fn empty_arguments_count_but_at_the_end() {
        assert_eq!(split_args(b"a\0\0b c\0d\0"), ["a", "", "b c", "d"]);
        assert_eq!(split_args(b"title\0\0\0\0"), ["title"]);
        assert_eq!(split_args(b"cut"), ["cut"]);
        assert!(split_args(b"\0\0").is_empty());
        assert!(split_args(b"").is_empty());
    }
}
