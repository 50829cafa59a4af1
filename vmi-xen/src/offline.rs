// SPDX-License-Identifier: GPL-3.0-only
//! A guest in a file: opened, its kernel found, ready to be read.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::kernel::{Kernel, KernelError};
use crate::linux::Linux;
use crate::memory::{Dump, DumpError, Format};

/// Below lies the hole for devices, in every PC; memory that does not fit below
/// it goes on here.
const FOUR_GIB: u64 = 1 << 32;

/// Why a file cannot be inspected.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OfflineError {
    /// The file is no dump that is understood.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// No kernel was recognised in it.
    #[error("{path}: {format}: {source}", path = path.display())]
    Kernel {
        /// The file.
        path: PathBuf,
        /// What kind it was taken for.
        format: Format,
        /// How far it came.
        #[source]
        source: KernelError,
    },
}

/// An opened guest.
#[derive(Debug)]
pub struct Offline {
    /// Reads it.
    pub linux: Linux<Dump>,
    /// How a raw image was taken, since it does not tell itself; a sentence.
    pub assumed: Option<String>,
    /// Bytes that the guest's memory has beyond the end of what a raw image
    /// holds: what lies there is not seen.
    pub missing: u64,
}

impl Offline {
    /// Opens a dump and finds the kernel in it: by the vCPUs' registers where
    /// the file has them, else by a look at each page.
    ///
    /// # Errors
    /// [`OfflineError`] names the file and what would help.
    pub fn open(path: &Path) -> Result<Self, OfflineError> {
        let dump = Dump::open(path)?;
        let failed = |format| {
            move |source| OfflineError::Kernel {
                path: path.to_owned(),
                format,
                source,
            }
        };
        if dump.format() == Format::Raw {
            return raw(dump).map_err(failed(Format::Raw));
        }
        let kernel = Kernel::find(&dump, dump.cpus())
            .or_else(|_| Kernel::find_in(&dump, dump.ranges()))
            .map_err(failed(dump.format()))?;
        Ok(Self {
            linux: Linux::new(dump, kernel),
            assumed: None,
            missing: 0,
        })
    }
}

/// A raw image has no word about the hole below 4 GiB: it may be in the file
/// (a dump of physical addresses) or not (a file that backs a guest's memory).
/// The kernel's own idea of its memory tells which.
fn raw(mut dump: Dump) -> Result<Offline, KernelError> {
    let len = dump.memory_len();
    let mut low = len;
    let mut found = Kernel::find_in(&dump, dump.ranges());
    if found.is_err()
        && let Some(distance) = Kernel::displacement(&dump, dump.ranges())
        && let Some(start) = FOUR_GIB.checked_sub(distance)
    {
        low = start;
        dump.place_hole(low);
        found = Kernel::find_in(&dump, dump.ranges());
    }
    let mut kernel = found?;
    let end = kernel.memory_end(&dump).unwrap_or(len);
    let above = end.saturating_sub(FOUR_GIB);
    // All of memory is there if the hole is taken as left out.
    if low == len && end > len && above > 0 && above < len && len - above <= FOUR_GIB {
        low = len - above;
        dump.place_hole(low);
        kernel = Kernel::find_in(&dump, dump.ranges())?;
    }
    let assumed = if low == len {
        "byte n of the file is guest-physical address n".to_owned()
    } else {
        format!("the file leaves out the device hole: its byte {low:#x} is guest-physical 4 GiB")
    };
    let held = dump.ranges().last().map_or(0, |range| range.end);
    Ok(Offline {
        linux: Linux::new(dump, kernel),
        assumed: Some(assumed),
        missing: end.saturating_sub(held),
    })
}
