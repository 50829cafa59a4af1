// SPDX-License-Identifier: GPL-3.0-only
//! The kernel's code, compared with itself over time.
//!
//! A running kernel's code differs from the file it was loaded from, in
//! thousands of places that it patches itself. Those are checked one by one, by
//! what they may hold, and then left out; the rest must never change. Of that a
//! keyed digest a function is kept: it names the function that changed, in
//! half a megabyte rather than the twenty of a copy, and whoever changed it
//! cannot search for a change that keeps the digest.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use crate::kernel::Symbols;
use crate::linux::{Linux, LinuxError};
use crate::memory::PhysicalMemory;

/// Text of a kernel; Debian's is 14 to 18 MiB.
const MAX_TEXT: u64 = 128 << 20;

/// A copy of a kernel's text.
pub struct Text {
    range: Range<u64>,
    bytes: Vec<u8>,
}

impl Text {
    /// Copies the text, for the length of one check.
    ///
    /// # Errors
    /// If it cannot be read as a whole.
    pub fn read<M: PhysicalMemory>(linux: &Linux<M>, range: Range<u64>) -> Result<Self, LinuxError> {
        let len = range.end.saturating_sub(range.start);
        if len > MAX_TEXT {
            return Err(LinuxError::Implausible {
                what: "kernel text",
                va: range.start,
            });
        }
        let mut bytes = vec![0; len as usize];
        linux.read(range.start, &mut bytes)?;
        Ok(Self { range, bytes })
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes from `va` on, as many as asked for and there are.
    pub fn at(&self, va: u64, len: usize) -> &[u8] {
        let Some(start) = self.offset(va) else {
            return &[];
        };
        &self.bytes[start..self.bytes.len().min(start.saturating_add(len))]
    }

    /// Blanks what may change.
    pub fn blank(&mut self, va: u64, len: usize) {
        let Some(start) = self.offset(va) else {
            return;
        };
        let end = self.bytes.len().min(start.saturating_add(len));
        self.bytes[start..end].fill(0);
    }

    fn offset(&self, va: u64) -> Option<usize> {
        self.range.contains(&va).then(|| (va - self.range.start) as usize)
    }

    /// Every function: where it starts, and its bytes.
    fn functions<'a>(&'a self, symbols: &'a Symbols) -> impl Iterator<Item = (u64, &'a [u8])> {
        let mut start = self.range.start;
        std::iter::from_fn(move || {
            if start >= self.range.end {
                return None;
            }
            let end = symbols.above(start).unwrap_or(u64::MAX).min(self.range.end);
            let function = (start, self.at(start, (end - start) as usize));
            start = end;
            Some(function)
        })
    }
}

/// The digests of a kernel's text.
#[derive(Debug)]
pub struct Baseline {
    key: RandomState,
    /// One for each function, in the order of their addresses.
    digests: Vec<u64>,
    range: Range<u64>,
}

impl Baseline {
    /// Digests of text from which all that may change was blanked.
    pub fn of(text: &Text, symbols: &Symbols) -> Self {
        let key = RandomState::new();
        let digests = text
            .functions(symbols)
            .map(|(_, bytes)| key.hash_one(bytes))
            .collect();
        Self {
            key,
            digests,
            range: text.range.clone(),
        }
    }

    /// Number of functions.
    pub fn functions(&self) -> usize {
        self.digests.len()
    }

    /// Whether these are digests of this text at all, and not of another
    /// kernel's: a guest may boot another without a new domain.
    pub fn is_of(&self, text: &Text) -> bool {
        self.range == text.range
    }

    /// Functions that are not as they were: address and length in bytes.
    pub fn changed(&self, text: &Text, symbols: &Symbols) -> Vec<(u64, usize)> {
        text.functions(symbols)
            .zip(&self.digests)
            .filter(|((_, bytes), digest)| self.key.hash_one(bytes) != **digest)
            .map(|((va, bytes), _)| (va, bytes.len()))
            .collect()
    }
}
