// SPDX-License-Identifier: GPL-3.0-only
//! What joins processes of one guest without a network: pipes, FIFOs, Unix
//! sockets.

use super::{Linux, LinuxError, TaskAddr, group};
use crate::kernel::layout::{FileOffsets, LocalOffsets};
use crate::memory::PhysicalMemory;

const S_IFMT: u16 = 0o170_000;
const S_IFIFO: u16 = 0o010_000;
pub(super) const AF_UNIX: u16 = 1;
/// FMODE_READ and FMODE_WRITE of the kernel's fs.h, in all versions.
const FMODE_READ: u64 = 1;
const FMODE_WRITE: u64 = 2;
/// Longest name of a Unix socket: `struct sockaddr_un` without its family.
const MAX_NAME: usize = 108;

/// An open end of something local.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalEnd {
    /// A pipe or FIFO.
    Pipe {
        /// Address of its `pipe_inode_info`, the same for all its ends.
        pipe: u64,
        /// Its inode number, as in `pipe:[N]` of /proc/PID/fd.
        inode: u64,
        /// The FIFO's path; None for a pipe without a name.
        path: Option<String>,
        /// This end reads.
        reads: bool,
        /// This end writes.
        writes: bool,
    },
    /// A Unix socket.
    Unix {
        /// Address of its `struct sock`.
        sk: u64,
        /// That of the socket it is connected to.
        peer: Option<u64>,
        /// Its inode number, as in `socket:[N]`.
        inode: u64,
        /// The name it is bound to; an abstract one begins with `@`, as in
        /// /proc/net/unix.
        name: Option<String>,
    },
}

impl<M: PhysicalMemory> Linux<M> {
    /// Every open end of a pipe, FIFO or Unix socket of a process, with its
    /// descriptor. Those that cannot be read (closed meanwhile) are left out.
    ///
    /// # Errors
    /// If this kernel's are not understood, or the process's table of
    /// descriptors cannot be read.
    pub fn local_ends_of(&self, task: TaskAddr) -> Result<Vec<(u32, LocalEnd)>, LinuxError> {
        let files = group(&self.kernel.layout.file)?;
        let offsets = group(&self.kernel.layout.local)?;
        let mut ends = Vec::new();
        self.each_file(&files, task, |fd, file| {
            if let Ok(Some(end)) = self.local_end(&files, &offsets, task, file) {
                ends.push((fd, end));
            }
            true
        })?;
        Ok(ends)
    }

    fn local_end(
        &self,
        files: &FileOffsets,
        offsets: &LocalOffsets,
        task: TaskAddr,
        file: u64,
    ) -> Result<Option<LocalEnd>, LinuxError> {
        let inode = self.u64(file.wrapping_add(files.f_inode))?;
        let number = || self.u64(inode.wrapping_add(offsets.i_ino));
        if self.u16(inode.wrapping_add(files.i_mode))? & S_IFMT == S_IFIFO {
            let mode = self.scalar(file, offsets.f_mode)?;
            return Ok(Some(LocalEnd::Pipe {
                pipe: self.u64(file.wrapping_add(files.private_data))?,
                inode: number()?,
                path: self.fifo_path(offsets, task, file),
                reads: mode & FMODE_READ != 0,
                writes: mode & FMODE_WRITE != 0,
            }));
        }
        let Some(sk) = self.sk_of_file(files, file)? else {
            return Ok(None);
        };
        if self.u16(sk.wrapping_add(offsets.family))? != AF_UNIX {
            return Ok(None);
        }
        Ok(Some(LocalEnd::Unix {
            sk,
            peer: self.pointer(sk.wrapping_add(offsets.unix_peer))?,
            inode: number()?,
            name: self.unix_name(offsets, sk)?,
        }))
    }

    /// Only what lies in a directory has a path; a pipe's file system has none.
    fn fifo_path(&self, offsets: &LocalOffsets, task: TaskAddr, file: u64) -> Option<String> {
        let place = self.place(file.wrapping_add(offsets.f_path)).ok()?;
        let exe = group(&self.kernel.layout.exe).ok()?;
        let root = self
            .pointer(task.0.wrapping_add(exe.fs))
            .ok()?
            .and_then(|fs| self.place(fs.wrapping_add(exe.root)).ok());
        let path = self.resolve(place, root).ok()?;
        (path.text.len() > 1 && !path.deleted).then_some(path.text)
    }

    fn unix_name(&self, offsets: &LocalOffsets, sk: u64) -> Result<Option<String>, LinuxError> {
        let Some(address) = self.pointer(sk.wrapping_add(offsets.unix_addr))? else {
            return Ok(None);
        };
        // The family's two bytes count.
        let len = self
            .u32(address.wrapping_add(offsets.addr_len))?
            .saturating_sub(2);
        let mut raw = [0; MAX_NAME];
        let raw = &mut raw[..MAX_NAME.min(len as usize)];
        self.read(address.wrapping_add(offsets.addr_name + 2), raw)?;
        let name = match raw {
            [0, name @ ..] => format!("@{}", String::from_utf8_lossy(name)),
            name => {
                let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
                String::from_utf8_lossy(&name[..end]).into_owned()
            }
        };
        Ok(Some(name).filter(|name| !name.is_empty()))
    }
}
