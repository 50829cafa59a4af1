// SPDX-License-Identifier: GPL-3.0-only
//! Where a guest's kernel has the functions behind system calls.
//!
//! Both ways of dispatch lead to the same functions: up to 6.8 the tables
//! `sys_call_table` and `ia32_sys_call_table` are indexed by the number; from
//! 6.9 on a switch calls them by name, and the first table stays for tracing
//! alone. So the table is believed where there is one, for that is what runs
//! even where somebody changed it, and else the function's name.

use super::{Abi, Signature, table};
use crate::kernel::Kernel;
use crate::memory::PhysicalMemory;

/// Which ABIs lead to a function. One without arguments is often shared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Abis {
    /// `syscall` leads there.
    pub x64: bool,
    /// `int 0x80` leads there.
    pub ia32: bool,
}

/// A function that carries out system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its guest-virtual address.
    pub va: u64,
    /// Who calls it.
    pub abis: Abis,
}

/// Finds the functions of system calls in a guest's kernel.
#[derive(Debug)]
pub struct Entries<'k> {
    kernel: &'k Kernel,
    tables: [Option<u64>; 2],
}

/// Prefixes of the functions' names, those that are tried first in front: where
/// i386 has a function of its own for a call it is never called by the other
/// name.
const PREFIXES: [&[&str]; 2] = [&["__x64_sys_"], &["__ia32_compat_sys_", "__ia32_sys_"]];

impl<'k> Entries<'k> {
    /// A finder of functions in this kernel.
    pub fn new(kernel: &'k Kernel) -> Self {
        let symbol = |name| kernel.symbols.address(name);
        Self {
            kernel,
            tables: [symbol("sys_call_table"), symbol("ia32_sys_call_table")],
        }
    }

    /// The functions that carry out the call named `name`, of either ABI: none
    /// where this kernel does not have it, at most two.
    pub fn of<M: PhysicalMemory + ?Sized>(&self, mem: &M, name: &str) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        for abi in [Abi::X64, Abi::Ia32] {
            let Some(va) = self.of_abi(mem, abi, name) else {
                continue;
            };
            let known = entries.iter().position(|entry| entry.va == va);
            let at = known.unwrap_or(entries.len());
            if known.is_none() {
                entries.push(Entry {
                    va,
                    abis: Abis::default(),
                });
            }
            match abi {
                Abi::X64 => entries[at].abis.x64 = true,
                Abi::Ia32 => entries[at].abis.ia32 = true,
            }
        }
        entries
    }

    /// The function that carries out one call of one ABI.
    pub fn of_abi<M: PhysicalMemory + ?Sized>(&self, mem: &M, abi: Abi, name: &str) -> Option<u64> {
        let signature = table::by_name(abi, name);
        signature
            .and_then(|signature| self.by_table(mem, abi, signature))
            .or_else(|| self.by_symbol(abi, signature.map_or(name, |signature| signature.function_name())))
            .filter(|va| !self.is_nothing(*va))
    }

    /// What the kernel's own table has for a call.
    pub fn by_table<M: PhysicalMemory + ?Sized>(
        &self,
        mem: &M,
        abi: Abi,
        signature: &Signature,
    ) -> Option<u64> {
        let start = self.tables[abi as usize]?;
        let slot = start.wrapping_add(u64::from(signature.number(abi)?) * 8);
        // A table ends where the next symbol is.
        let (symbol, _) = self.kernel.symbols.nearest(slot)?;
        if symbol.address != start {
            return None;
        }
        let va = self.kernel.space.read_u64(mem, slot).ok()?;
        self.kernel.is_text(va).then_some(va)
    }

    /// The function that has the name of a call's.
    pub fn by_symbol(&self, abi: Abi, function: &str) -> Option<u64> {
        PREFIXES[abi as usize]
            .iter()
            .find_map(|prefix| self.kernel.symbols.address(&format!("{prefix}{function}")))
    }

    /// Whether a function stands for calls that this kernel was built without.
    fn is_nothing(&self, va: u64) -> bool {
        ["sys_ni_syscall", "__x64_sys_ni_syscall", "__ia32_sys_ni_syscall"]
            .iter()
            .any(|name| self.kernel.symbols.all(name).any(|symbol| symbol.address == va))
    }
}
