// SPDX-License-Identifier: GPL-3.0-only
//! Memory of a guest in a file: ELF cores of QEMU's `dump-guest-memory` and of
//! `xl dump-core`, and raw images.

mod elf;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{CpuState, MemoryError, PAGE_SIZE, PhysicalMemory};

/// Why a dump file could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DumpError {
    /// The file could not be read.
    #[error("reading dump {path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file starts as an ELF core but is not one that holds a guest.
    #[error("dump {path}: {why}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
}

/// A range of guest-physical memory that the file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    pa: u64,
    len: u64,
    file_offset: u64,
}

/// An opened dump file.
#[derive(Debug)]
pub struct Dump {
    file: File,
    /// Sorted by address, not overlapping.
    extents: Vec<Extent>,
    cpus: Vec<CpuState>,
}

impl Dump {
    /// Opens a dump; its kind is told by its content. A file that is no ELF
    /// core is taken as a raw image: byte n is guest-physical n.
    ///
    /// # Errors
    /// [`DumpError`] names the file and what is wrong with it.
    pub fn open(path: &Path) -> Result<Self, DumpError> {
        let io = |source| DumpError::Io {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        let mut magic = [0; 4];
        let is_elf = file.read_exact_at(&mut magic, 0).is_ok() && magic == *b"\x7fELF";
        let (mut extents, cpus) = if is_elf {
            elf::parse(&file, len).map_err(|error| match error {
                elf::ElfError::Io(source) => io(source),
                elf::ElfError::Format(why) => DumpError::Format {
                    path: path.to_owned(),
                    why,
                },
            })?
        } else {
            let whole = Extent {
                pa: 0,
                len,
                file_offset: 0,
            };
            (vec![whole], Vec::new())
        };
        extents.sort_by_key(|extent| extent.pa);
        Ok(Self { file, extents, cpus })
    }

    /// Registers of the guest's vCPUs; empty where the file has none.
    pub fn cpus(&self) -> &[CpuState] {
        &self.cpus
    }

    /// Bytes of guest memory in the file.
    pub fn memory_len(&self) -> u64 {
        self.extents
            .iter()
            .fold(0, |sum, extent| sum.saturating_add(extent.len))
    }
}

impl PhysicalMemory for Dump {
    fn read_phys(&self, pa: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        let mut done = 0;
        while done < buf.len() {
            let at = pa.checked_add(done as u64).ok_or(MemoryError::Absent { pa })?;
            let after = self.extents.partition_point(|extent| extent.pa <= at);
            let (extent, inside) = after
                .checked_sub(1)
                .map(|index| (self.extents[index], at - self.extents[index].pa))
                .filter(|(extent, inside)| *inside < extent.len)
                .ok_or(MemoryError::Absent { pa: at })?;
            let left = usize::try_from(extent.len - inside).unwrap_or(usize::MAX);
            let take = left.min(buf.len() - done);
            self.file
                .read_exact_at(&mut buf[done..done + take], extent.file_offset + inside)
                .map_err(|source| MemoryError::Source { pa: at, source })?;
            done += take;
        }
        Ok(())
    }
}

/// Frames of x86-64 have at most 40 bits: addresses have 52. A larger number
/// marks a page that could not be had.
const MAX_FRAME: u64 = 1 << 40;

/// Extents of single pages, joined where both sides run on.
fn join_pages(frames: impl Iterator<Item = u64>, file_offset: u64) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    for (index, frame) in frames.enumerate() {
        if frame >= MAX_FRAME {
            continue;
        }
        let pa = frame * PAGE_SIZE;
        let offset = file_offset.saturating_add(index as u64 * PAGE_SIZE);
        if let Some(last) = extents.last_mut()
            && last.pa + last.len == pa
        {
            last.len += PAGE_SIZE;
        } else {
            extents.push(Extent {
                pa,
                len: PAGE_SIZE,
                file_offset: offset,
            });
        }
    }
    extents
}

#[cfg(test)]
#[path = "dump_tests.rs"]
mod tests;
