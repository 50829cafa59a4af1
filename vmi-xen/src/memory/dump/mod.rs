// SPDX-License-Identifier: GPL-3.0-only
//! Memory of a guest in a file: ELF cores of QEMU's `dump-guest-memory` and of
//! `xl dump-core`, and raw images.

mod bytes;
mod elf;
mod other;
mod qemu;
mod xen;

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{CpuState, MemoryError, PhysicalMemory};
use bytes::Source;

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
    /// The file is not one that holds a guest, or not one that is understood.
    #[error("dump {path}: {why}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what would help.
        why: &'static str,
    },
}

/// What can go wrong below; the file's name comes in above.
enum FormatError {
    Io(io::Error),
    Malformed(&'static str),
}

impl From<io::Error> for FormatError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Kind of a dump file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// ELF core of QEMU's `dump-guest-memory`.
    QemuCore,
    /// ELF core of `xl dump-core`.
    XenCore,
    /// Memory and nothing else.
    Raw,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::QemuCore => "QEMU ELF core",
            Self::XenCore => "Xen ELF core",
            Self::Raw => "raw image",
        })
    }
}

/// A range of guest-physical memory that the file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    pa: u64,
    len: u64,
    file_offset: u64,
}

/// What a format's parser makes of a file.
struct Contents {
    format: Format,
    extents: Vec<Extent>,
    cpus: Vec<CpuState>,
}

/// An opened dump file.
#[derive(Debug)]
pub struct Dump {
    file: File,
    format: Format,
    /// Sorted by address, not overlapping.
    extents: Vec<Extent>,
    cpus: Vec<CpuState>,
}

impl Dump {
    /// Opens a dump; its kind is told by its content. A file of no known kind
    /// is taken as a raw image: byte n is guest-physical n.
    ///
    /// # Errors
    /// [`DumpError`] names the file, what is wrong with it and what would help.
    pub fn open(path: &Path) -> Result<Self, DumpError> {
        let io = |source| DumpError::Io {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        let contents = contents(&Source { file: &file, len }).map_err(|error| match error {
            FormatError::Io(source) => io(source),
            FormatError::Malformed(why) => DumpError::Format {
                path: path.to_owned(),
                why,
            },
        })?;
        Ok(Self {
            file,
            format: contents.format,
            extents: contents.extents,
            cpus: contents.cpus,
        })
    }

    /// The kind of file it is.
    pub fn format(&self) -> Format {
        self.format
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

    /// Ranges of guest-physical memory that the file holds, in order.
    pub fn ranges(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.extents
            .iter()
            .map(|extent| extent.pa..extent.pa.saturating_add(extent.len))
    }

    /// Takes a raw image as one that leaves out the hole below 4 GiB, where a
    /// PC has its devices: what lies from `low` bytes on is memory from 4 GiB
    /// on. `low` at the image's length or above takes it as it is: byte n is
    /// guest-physical n. Cores tell where their memory lies and stay as they
    /// are.
    pub fn place_hole(&mut self, low: u64) {
        if self.format != Format::Raw {
            return;
        }
        let len = self.memory_len();
        let low = low.min(len);
        let below = Extent {
            pa: 0,
            len: low,
            file_offset: 0,
        };
        let above = Extent {
            pa: FOUR_GIB,
            len: len - low,
            file_offset: low,
        };
        self.extents = [below, above]
            .into_iter()
            .filter(|extent| extent.len > 0)
            .collect();
    }
}

/// End of the addresses that have 32 bits.
const FOUR_GIB: u64 = 1 << 32;

fn contents(source: &Source<'_>) -> Result<Contents, FormatError> {
    let mut magic = [0; 16];
    let got = source.len.min(16) as usize;
    source.file.read_exact_at(&mut magic[..got], 0)?;
    if magic.starts_with(b"\x7fELF") {
        let mut contents = elf::parse(source)?;
        contents.extents = without_overlaps(contents.extents);
        // A byte of the file is one byte of memory; else a small file could
        // claim more than can be searched.
        let claimed = contents
            .extents
            .iter()
            .fold(0u64, |sum, e| sum.saturating_add(e.len));
        return if claimed > source.len {
            Err(FormatError::Malformed("it holds less than it claims"))
        } else {
            Ok(contents)
        };
    }
    if let Some(why) = other::recognise(&magic) {
        return Err(FormatError::Malformed(why));
    }
    if source.len == 0 {
        return Err(FormatError::Malformed("an empty file"));
    }
    Ok(Contents {
        format: Format::Raw,
        extents: vec![Extent {
            pa: 0,
            len: source.len,
            file_offset: 0,
        }],
        cpus: Vec::new(),
    })
}

/// Sorts extents, and cuts off what an earlier one holds already.
fn without_overlaps(mut extents: Vec<Extent>) -> Vec<Extent> {
    extents.sort_by_key(|extent| extent.pa);
    let mut end = 0;
    extents.retain_mut(|extent| {
        let Some(extent_end) = extent.pa.checked_add(extent.len) else {
            return false;
        };
        let cut = end.max(extent.pa).min(extent_end) - extent.pa;
        extent.pa += cut;
        extent.len -= cut;
        extent.file_offset += cut;
        end = end.max(extent_end);
        extent.len > 0
    });
    extents
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

#[cfg(test)]
mod tests;
