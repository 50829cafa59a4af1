// SPDX-License-Identifier: GPL-3.0-only
//! Sockets that are open, and open in no process of the list.
//!
//! A process that hides from every list still has its sockets, and the kernel's
//! tables still have them, with the `struct file` that a program opened. What no
//! descriptor of a listed process holds, nor a message on its way, somebody
//! else does.

use std::collections::{BTreeMap, HashSet};

use super::local::AF_UNIX;
use super::{HiddenTask, Linux, LinuxError, Socket, group};
use crate::kernel::layout::FileOffsets;
use crate::memory::PhysicalMemory;

/// Descriptors of one process that are looked at: all, since one that is not
/// looked at would be an accusation. The kernel allows 1 Mi unless it is told
/// otherwise.
const MAX_FDS: u32 = 1 << 24;
/// Tables of descriptors, and Unix sockets, of one guest. With more nothing is
/// told.
const MAX_TABLES: usize = 1 << 20;
/// Messages in the queue of one Unix socket.
const MAX_MESSAGES: usize = 1 << 16;
/// Files in one message: SCM_MAX_FD of the kernel is 253.
const MAX_FILES: usize = 256;

/// Whether somebody holds what is open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SocketHolding {
    /// Number of TCP and UDP sockets that a program opened.
    pub sockets: usize,
    /// Those that no listed process holds.
    pub unheld: Vec<UnheldSocket>,
}

/// A socket that a program opened and no listed process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UnheldSocket {
    /// The socket.
    pub socket: Socket,
    /// Address of its `struct file`.
    pub file: u64,
    /// Process ID of a hidden process that was found by other ways and holds
    /// it.
    pub holder: Option<u32>,
}

/// Sockets by the address of their `struct file`.
type ByFile = BTreeMap<u64, Socket>;

impl<M: PhysicalMemory> Linux<M> {
    /// Looks for each socket that a program opened in the descriptors of all
    /// listed processes, and of their threads that have descriptors of their
    /// own, and in messages on their way over Unix sockets. `hidden` are tasks
    /// that are not listed, to be named where they hold what no other does.
    ///
    /// # Errors
    /// As [`Linux::leaders`] and [`Linux::hashed_sockets`], and if this kernel
    /// does not tell all of that.
    pub(super) fn socket_holding(&self, hidden: &[HiddenTask]) -> Result<SocketHolding, LinuxError> {
        let offsets = group(&self.kernel.layout.file)?;
        let mut open = ByFile::new();
        for socket in self.hashed_sockets()? {
            // Of a socket that is gone meanwhile nothing is told.
            if let Ok(Some(file)) = self.opened(&offsets, socket.sk) {
                open.insert(file, socket);
            }
        }
        let sockets = open.len();
        let tables = self.tables_of_the_listed(&offsets)?;
        for &table in &tables {
            // A process that is gone meanwhile holds nothing.
            let _ = self.each_file_in(&offsets, table, MAX_FDS, |_, file| {
                open.remove(&file);
                !open.is_empty()
            });
        }
        if !open.is_empty() {
            self.remove_in_flight(&offsets, &tables, &mut open)?;
        }
        let unheld = open
            .into_iter()
            // Closed meanwhile.
            .filter(
                |(file, socket)| matches!(self.opened(&offsets, socket.sk), Ok(Some(now)) if now == *file),
            )
            .map(|(file, socket)| UnheldSocket {
                socket,
                file,
                holder: self.hidden_holder(&offsets, file, hidden),
            })
            .collect();
        Ok(SocketHolding { sockets, unheld })
    }

    /// The `struct file` of a socket that a program opened. None if it is the
    /// kernel's own, was not accepted yet, or is closed.
    fn opened(&self, offsets: &FileOffsets, sk: u64) -> Result<Option<u64>, LinuxError> {
        let inode = group(&self.kernel.layout.socket_inode)?;
        let kernel_socket = group(&self.kernel.layout.kernel_socket)?;
        let Some(side) = self.file_side(sk)? else {
            return Ok(None);
        };
        // Some of the kernel's own have a file all the same, as those of NFS.
        if self.scalar(sk, kernel_socket.is_kernels)? != 0 {
            return Ok(None);
        }
        let Some(file) = self.pointer(side.wrapping_add(inode.file))? else {
            return Ok(None);
        };
        let back = self.u64(file.wrapping_add(offsets.private_data))?;
        Ok((back == side).then_some(file))
    }

    /// Every `files_struct` of a process of the list or of one of its threads.
    fn tables_of_the_listed(&self, offsets: &FileOffsets) -> Result<HashSet<u64>, LinuxError> {
        group(&self.kernel.layout.thread)?;
        let mut tables = HashSet::new();
        for leader in self.leaders()? {
            // A process that is gone meanwhile has no threads.
            for task in self.threads(leader).unwrap_or_default() {
                if let Ok(Some(table)) = self.pointer(task.0.wrapping_add(offsets.files)) {
                    tables.insert(table);
                }
            }
            bounded(tables.len(), leader.0)?;
        }
        Ok(tables)
    }

    /// Removes what is in a message that nobody has received yet, or in one to
    /// a Unix socket that is itself in such a message, or that nobody has
    /// accepted yet.
    fn remove_in_flight(
        &self,
        offsets: &FileOffsets,
        tables: &HashSet<u64>,
        open: &mut ByFile,
    ) -> Result<(), LinuxError> {
        let flight = group(&self.kernel.layout.flight)?;
        let family = group(&self.kernel.layout.sock)?.family;
        let unix = |file: u64| -> Option<u64> {
            let sk = self.sk_of_file(offsets, file).ok()??;
            (self.u16(sk.wrapping_add(family)).ok()? == AF_UNIX).then_some(sk)
        };
        let mut receivers: Vec<u64> = Vec::new();
        for &table in tables {
            let _ = self.each_file_in(offsets, table, MAX_FDS, |_, file| {
                receivers.extend(unix(file));
                true
            });
        }
        let mut known = HashSet::new();
        while let Some(sk) = receivers.pop() {
            bounded(known.len(), sk)?;
            if !known.insert(sk) {
                continue;
            }
            let mut messages = Vec::new();
            let queue = sk.wrapping_add(flight.queue);
            // A socket that is gone meanwhile has no queue.
            let _ = self.each_in_list(queue, flight.next, MAX_MESSAGES, |message| messages.push(message));
            for message in messages {
                // Its sender; of a message in a listener's queue, who connects.
                if let Ok(Some(other)) = self.pointer(message.wrapping_add(flight.sk)) {
                    receivers.push(other);
                }
                for file in self.files_in(message).unwrap_or_default() {
                    open.remove(&file);
                    receivers.extend(unix(file));
                }
            }
        }
        Ok(())
    }

    /// Files in a message of a Unix socket.
    fn files_in(&self, message: u64) -> Result<Vec<u64>, LinuxError> {
        let flight = group(&self.kernel.layout.flight)?;
        let Some(list) = self.pointer(message.wrapping_add(flight.cb + flight.files))? else {
            return Ok(Vec::new());
        };
        let most = MAX_FILES.min(flight.list.count as usize);
        let count = most.min(self.scalar(list, flight.count)? as usize);
        let mut raw = [0; MAX_FILES * 8];
        let raw = &mut raw[..count * 8];
        self.read(list.wrapping_add(flight.list.offset), raw)?;
        let files = raw.chunks_exact(8);
        Ok(files
            .map(|file| file.try_into().map_or(0, u64::from_le_bytes))
            .collect())
    }

    /// The hidden process that has a file in a descriptor.
    fn hidden_holder(&self, offsets: &FileOffsets, file: u64, hidden: &[HiddenTask]) -> Option<u32> {
        let holds = |task: &&HiddenTask| {
            let mut found = false;
            // A process that is gone meanwhile holds nothing.
            let _ = self.each_file(offsets, task.task, |_, held| {
                found = held == file;
                !found
            });
            found
        };
        hidden.iter().find(holds).map(|task| task.pid)
    }
}

fn bounded(count: usize, va: u64) -> Result<(), LinuxError> {
    match count {
        0..MAX_TABLES => Ok(()),
        _ => Err(LinuxError::Implausible {
            what: "the number of open files",
            va,
        }),
    }
}
