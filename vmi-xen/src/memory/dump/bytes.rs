// SPDX-License-Identifier: GPL-3.0-only
//! Little-endian numbers in a block of bytes, and blocks in a file.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::FormatError;

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// A file and its length, which is asked for once.
pub(super) struct Source<'a> {
    pub file: &'a File,
    pub len: u64,
}

impl Source<'_> {
    /// Whether the file has all of these bytes.
    pub fn holds(&self, offset: u64, len: u64) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.len)
    }

    /// Reads a table, no more than the file has and no more than `most`.
    pub fn table(&self, offset: u64, len: u64, most: u64) -> Result<Vec<u8>, FormatError> {
        if len > most || !self.holds(offset, len) {
            return Err(FormatError::Malformed("a header points outside the file"));
        }
        let mut bytes = vec![0; len as usize];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}
