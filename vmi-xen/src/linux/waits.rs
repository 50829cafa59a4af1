// SPDX-License-Identifier: GPL-3.0-only
//! Who sleeps on a socket.
//!
//! A task that waits for a connection or for data is in the wait queue of the
//! socket, or of the epoll instance that the socket tells: nothing else would
//! wake it. So a process that is on no list of processes is still there.

use std::collections::HashSet;

use super::{Linux, LinuxError, TaskAddr, group};
use crate::kernel::layout::SocketWaitOffsets;
use crate::memory::PhysicalMemory;

/// Entries of one queue that are looked at.
const MAX_WAITERS: usize = 1 << 16;

/// What an entry of a wait queue is, which its function tells.
#[derive(Debug, Clone, Copy)]
enum Entry {
    /// Its `private` is the task to wake.
    Task,
    /// Its `private` is a call of poll(2) or select(2).
    Poll,
    /// It is part of what tells an epoll instance.
    Epoll,
}

/// Functions of entries. Each kind of call that waits has its own, and not all
/// kernels have each.
const FUNCTIONS: [(&str, Entry); 7] = [
    ("autoremove_wake_function", Entry::Task),
    ("default_wake_function", Entry::Task),
    ("woken_wake_function", Entry::Task),
    ("receiver_wake_function", Entry::Task),
    ("ep_autoremove_wake_function", Entry::Task),
    ("pollwake", Entry::Poll),
    ("ep_poll_callback", Entry::Epoll),
];

impl<M: PhysicalMemory> Linux<M> {
    /// Every task that waits on a TCP or UDP socket of the kernel's tables, in
    /// the call itself, by poll or by epoll. On a running guest a queue that
    /// changes while it is read may cost some.
    ///
    /// # Errors
    /// As [`Linux::hashed_sockets`], and if this kernel's wait queues are not
    /// understood.
    pub(super) fn waiters(&self) -> Result<Vec<TaskAddr>, LinuxError> {
        let offsets = group(&self.kernel.layout.socket_wait)?;
        let symbols = &self.kernel.symbols;
        let functions: Vec<(u64, Entry)> = FUNCTIONS
            .iter()
            .filter_map(|&(name, entry)| Some((symbols.address(name)?, entry)))
            .collect();
        // By these accept(2) and read(2) wait, in all versions.
        for name in ["autoremove_wake_function", "woken_wake_function"] {
            symbols.address(name).ok_or(LinuxError::NoSymbol(name))?;
        }
        let sockets = self.hashed_sockets()?;
        let mut queues: Vec<u64> = sockets
            .iter()
            .filter_map(|socket| self.wait_queue(&offsets, socket.sk).ok()?)
            .collect();
        let mut known = HashSet::new();
        let mut tasks = Vec::new();
        while let Some(queue) = queues.pop() {
            // Many sockets tell one epoll instance.
            if !known.insert(queue) {
                continue;
            }
            // A socket that is gone meanwhile has no queue.
            let _ = self.each_in_list(queue, offsets.entry, MAX_WAITERS, |entry| {
                // Nor is there an entry whose task is awake meanwhile.
                let _ = self.note_waiter(&offsets, &functions, entry, &mut tasks, &mut queues);
            });
        }
        Ok(tasks)
    }

    /// The queue of a socket; none if no program has it.
    fn wait_queue(&self, offsets: &SocketWaitOffsets, sk: u64) -> Result<Option<u64>, LinuxError> {
        if !self.is_whole(sk)? {
            return Ok(None);
        }
        let queue = self.pointer(sk.wrapping_add(offsets.sk_wq))?;
        Ok(queue.map(|queue| queue.wrapping_add(offsets.queue)))
    }

    /// Notes the task of an entry, or the further queues it leads to.
    fn note_waiter(
        &self,
        offsets: &SocketWaitOffsets,
        functions: &[(u64, Entry)],
        entry: u64,
        tasks: &mut Vec<TaskAddr>,
        queues: &mut Vec<u64>,
    ) -> Result<(), LinuxError> {
        let function = self.u64(entry.wrapping_add(offsets.func))?;
        let Some(&(_, kind)) = functions.iter().find(|(va, _)| *va == function) else {
            return Ok(());
        };
        let private = || self.u64(entry.wrapping_add(offsets.private));
        let task = match kind {
            Entry::Task => private()?,
            Entry::Poll => {
                let poll = group(&self.kernel.layout.poll)?;
                self.u64(private()?.wrapping_add(poll.task))?
            }
            Entry::Epoll => {
                let epoll = group(&self.kernel.layout.epoll)?;
                let told = entry.wrapping_sub(epoll.wait);
                let item = self.u64(told.wrapping_add(epoll.base))?;
                let instance = self.u64(item.wrapping_add(epoll.ep))?;
                queues.push(instance.wrapping_add(epoll.wq));
                queues.push(instance.wrapping_add(epoll.poll_wait));
                return Ok(());
            }
        };
        // Addresses of the kernel are the negative half.
        if (task as i64) < 0 {
            tasks.push(TaskAddr(task));
        }
        Ok(())
    }
}
