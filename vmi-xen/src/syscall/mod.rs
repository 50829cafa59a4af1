// SPDX-License-Identifier: GPL-3.0-only
//! System calls of x86-64 Linux as strace(1) writes them.
//!
//! - [`table`]: the calls of both ABIs, their numbers and the kinds of their
//!   arguments
//! - [`Call`]: one call under way; its arguments become text at its entry, or at
//!   its return where the kernel fills them in
//! - [`result()`]: what it returned
//! - [`Entries`]: where a guest's kernel has the functions behind them
//!
//! What the arguments point to is read through [`UserMemory`].
//!
//! **Invariant:** whatever a process passes, a call's text is bounded: see
//! [`MAX_TEXT`].

mod arguments;
mod entries;
mod kinds;
mod names;
mod quote;
mod result;
mod structures;
pub mod table;

pub use arguments::{Arguments, Call, MAX_TEXT};
pub use entries::{Abis, Entries, Entry};
pub use result::{errno, result};
pub use table::Signature;

/// In which way a program calls the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Abi {
    /// `syscall` of 64-bit programs.
    X64,
    /// `int 0x80` and `sysenter`: 32-bit programs, and 64-bit ones that want to.
    Ia32,
}

impl Abi {
    /// Bytes of a word and of a pointer.
    pub fn word(self) -> usize {
        match self {
            Abi::X64 => 8,
            Abi::Ia32 => 4,
        }
    }

    /// Name, as uname(1) calls the architecture.
    pub fn as_str(self) -> &'static str {
        match self {
            Abi::X64 => "x86_64",
            Abi::Ia32 => "i386",
        }
    }
}

/// Memory of the process that makes a call.
pub trait UserMemory {
    /// Fills `buf` from `va` as far as there is memory without a gap; returns how
    /// many bytes that was.
    fn read(&self, va: u64, buf: &mut [u8]) -> usize;
}

impl UserMemory for &dyn UserMemory {
    fn read(&self, va: u64, buf: &mut [u8]) -> usize {
        (**self).read(va, buf)
    }
}
