// SPDX-License-Identifier: GPL-3.0-only
//! Whose code is at an address: the kernel's, a module's, BPF's, nobody's.

use std::fmt;
use std::ops::Range;

use crate::linux::{Linux, LinuxError, Module, group};
use crate::memory::PhysicalMemory;

/// BPF programs and trampolines of one guest.
const MAX_BPF: usize = 1 << 16;
/// KSYM_NAME_LEN of kernels up to 6.0; longer names are cut.
const BPF_NAME: usize = 128;
/// Users of ftrace.
const MAX_TRACERS: usize = 4096;

/// An address and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The guest-virtual address.
    pub address: u64,
    /// Whose it is.
    pub owner: Owner,
}

/// Whose an address is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant tells a name and the distance in bytes")]
pub enum Owner {
    /// The kernel's own text, at or after this symbol.
    Kernel { symbol: String, offset: u64 },
    /// The kernel's image, but not its text.
    KernelData { symbol: String, offset: u64 },
    /// A loaded module.
    Module { name: String, offset: u64 },
    /// Code that BPF made.
    Bpf { name: String },
    /// A trampoline that ftrace made for one of its users.
    Tracer,
    /// None of these: memory that no loaded code admits to.
    Nobody,
}

impl Target {
    /// Whether it is the first byte of a function of the kernel.
    pub fn is_function(&self) -> bool {
        matches!(self.owner, Owner::Kernel { offset: 0, .. })
    }

    /// Whether it is the kernel's own text.
    pub fn is_kernel(&self) -> bool {
        matches!(self.owner, Owner::Kernel { .. })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Target { address, owner } = self;
        match owner {
            Owner::Kernel { symbol, offset } => write!(f, "{symbol}+{offset:#x} ({address:#x})"),
            Owner::KernelData { symbol, offset } => {
                write!(f, "the kernel's data at {symbol}+{offset:#x} ({address:#x})")
            }
            Owner::Module { name, offset } => write!(f, "module {name}+{offset:#x} ({address:#x})"),
            Owner::Bpf { name } => write!(f, "BPF's {name} ({address:#x})"),
            Owner::Tracer => write!(f, "a trampoline of ftrace ({address:#x})"),
            Owner::Nobody => write!(f, "{address:#x}, which no loaded code admits to"),
        }
    }
}

/// A user of ftrace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracer {
    /// Address of its `struct ftrace_ops`.
    pub at: u64,
    /// What it has called at each traced function.
    pub callback: u64,
}

/// The area that holds `address`, of areas sorted by their start, and the
/// distance from there. Honest areas do not overlap.
fn find(areas: &[(Range<u64>, String)], address: u64) -> Option<(String, u64)> {
    let after = areas.partition_point(|(range, _)| range.start <= address);
    let (range, name) = areas.get(after.checked_sub(1)?)?;
    (address < range.end).then(|| (name.clone(), address - range.start))
}

/// Knows the owner of every address of code in one guest, at one moment.
pub struct AddressBook<'a, M> {
    linux: &'a Linux<M>,
    /// The kernel's text.
    pub text: Range<u64>,
    modules: Vec<(Range<u64>, String)>,
    bpf: Vec<(Range<u64>, String)>,
    trampolines: Vec<Range<u64>>,
    /// Users of ftrace.
    pub tracers: Vec<Tracer>,
}

impl<'a, M: PhysicalMemory> AddressBook<'a, M> {
    /// Reads who owns what. What this kernel does not tell owns nothing.
    ///
    /// # Errors
    /// [`LinuxError::NoSymbol`] if the kernel does not tell where its text is.
    pub fn read(linux: &'a Linux<M>, modules: &[Module]) -> Result<Self, LinuxError> {
        let symbol = |name| {
            let found = linux.kernel().symbols.address(name);
            found.ok_or(LinuxError::NoSymbol(name))
        };
        let mut book = Self {
            linux,
            text: symbol("_stext")?..symbol("_etext")?,
            modules: Vec::new(),
            bpf: Vec::new(),
            trampolines: Vec::new(),
            tracers: Vec::new(),
        };
        for module in modules {
            for area in &module.memory {
                book.modules.push((area.clone(), module.name.clone()));
            }
        }
        // A kernel without BPF or ftrace has no such code.
        let _ = book.read_bpf();
        let _ = book.read_tracers();
        for list in [&mut book.modules, &mut book.bpf] {
            list.sort_by_key(|(range, _)| range.start);
        }
        Ok(book)
    }

    /// Whose `address` is.
    pub fn target(&self, address: u64) -> Target {
        Target {
            address,
            owner: self.owner(address),
        }
    }

    fn owner(&self, address: u64) -> Owner {
        let kernel = self.linux.kernel();
        let nearest = || {
            let found = kernel.symbols.nearest(address);
            found.map_or(("?".to_owned(), 0), |(symbol, offset)| {
                (symbol.name.to_owned(), offset)
            })
        };
        if self.text.contains(&address) {
            let (symbol, offset) = nearest();
            return Owner::Kernel { symbol, offset };
        }
        if kernel.in_image(address) {
            let (symbol, offset) = nearest();
            return Owner::KernelData { symbol, offset };
        }
        if let Some((name, offset)) = find(&self.modules, address) {
            return Owner::Module { name, offset };
        }
        if let Some((name, _)) = find(&self.bpf, address) {
            return Owner::Bpf { name };
        }
        if self.trampolines.iter().any(|range| range.contains(&address)) {
            return Owner::Tracer;
        }
        Owner::Nobody
    }

    fn read_bpf(&mut self) -> Result<(), LinuxError> {
        let linux = self.linux;
        let offsets = group(&linux.kernel().layout.bpf_symbol)?;
        let list = linux.kernel().symbols.address("bpf_kallsyms");
        let list = list.ok_or(LinuxError::NoSymbol("bpf_kallsyms"))?;
        linux.each_in_list(list, offsets.lnode, MAX_BPF, |at| {
            let field = |offset: u64| linux.u64(at.wrapping_add(offset));
            if let Ok(start) = field(offsets.start)
                && let Ok(end) = field(offsets.end)
                && let Ok(name) = linux.text::<BPF_NAME>(at.wrapping_add(offsets.name))
            {
                self.bpf.push((start..end, name));
            }
        })
    }

    fn read_tracers(&mut self) -> Result<(), LinuxError> {
        let linux = self.linux;
        let offsets = group(&linux.kernel().layout.ftrace)?;
        let symbol = |name| {
            let found = linux.kernel().symbols.address(name);
            found.ok_or(LinuxError::NoSymbol(name))
        };
        let end = symbol("ftrace_list_end")?;
        let mut next = linux.u64(symbol("ftrace_ops_list")?)?;
        for _ in 0..MAX_TRACERS {
            if next == end || next == 0 {
                break;
            }
            let at = next;
            let field = |offset: u64| linux.u64(at.wrapping_add(offset));
            self.tracers.push(Tracer {
                at,
                callback: field(offsets.ops_func)?,
            });
            let start = field(offsets.ops_trampoline)?;
            if start != 0 {
                let len = field(offsets.ops_trampoline_size)?;
                self.trampolines.push(start..start.saturating_add(len));
            }
            next = field(offsets.ops_next)?;
        }
        Ok(())
    }
}
