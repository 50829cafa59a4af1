// SPDX-License-Identifier: GPL-3.0-only
//! Room on the disk: how much is free, and a file that is given up when there is none.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// Bytes that are free on the disk of `path`, or of the directory that will hold it.
pub fn free(path: &Path) -> io::Result<u64> {
    let stat = nix::sys::statvfs::statvfs(path)?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

/// A file whose only use is the room that it takes.
pub struct Ballast {
    path: PathBuf,
    bytes: u64,
}

impl Ballast {
    /// The ballast of a store.
    pub fn of(path: PathBuf, bytes: u64) -> Ballast {
        Ballast { path, bytes }
    }

    /// Takes its room again, if twice as much is free.
    pub fn take(&self) {
        if fs::metadata(&self.path).is_ok_and(|m| m.len() == self.bytes) || self.bytes == 0 {
            return;
        }
        let parent = self.path.parent().unwrap_or(Path::new("."));
        if !free(parent).is_ok_and(|free| free > self.bytes.saturating_mul(2)) {
            return;
        }
        let made = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&self.path)
            .and_then(|file| {
                let bytes = i64::try_from(self.bytes).unwrap_or(i64::MAX);
                Ok(nix::fcntl::posix_fallocate(&file, 0, bytes)?)
            });
        if let Err(e) = made {
            log::warn!("{}: no room could be set apart: {e}", self.path.display());
            self.give_up();
        }
    }

    /// Gives its room to others. Returns whether there was any.
    pub fn give_up(&self) -> bool {
        fs::remove_file(&self.path).is_ok()
    }
}
