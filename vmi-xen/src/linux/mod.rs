// SPDX-License-Identifier: GPL-3.0-only
//! Guest memory becomes plain structures: processes, sockets, addresses.
//!
//! [`Linux`] reads through the [`Layout`](crate::kernel::Layout) of the very
//! kernel that runs, so nothing here depends on a version.
//!
//! **Invariant:** whatever the guest's memory holds, every walk ends and every
//! string is bounded; a lie costs the truth about that guest, never more.
//! What an operation reads in all is bounded by its [`Budget`].
//! Lists are walked while the guest changes them, so a walk that derails ends
//! early with what it has.

mod args;
mod budget;
mod census;
mod cgroup;
mod credentials;
mod dataflow;
mod hashes;
mod inventory;
mod local;
mod lookup;
mod maple;
mod mapping;
mod measure;
mod module;
mod net;
mod owner;
mod path;
mod pid_table;
mod process;
mod reader;
mod socket;
mod tables;
mod task;
mod unheld;
mod waits;

pub use budget::Budget;
pub use census::{Census, HiddenTask, View, Views};
pub use cgroup::container_id;
pub use credentials::{Capabilities, Credentials, Ids};
pub use dataflow::{DataFlow, Edge, Outside, Via};
pub use inventory::{HeldSocket, Holder};
pub use local::LocalEnd;
pub use mapping::{Access, Mapping};
pub use measure::{Hashed, MeasureError, Measurement, PageDigests, Text, TextPage};
pub use module::{Module, ModuleView};
pub use net::InterfaceAddress;
pub use owner::{Flow, SocketOwner};
pub use process::Process;
pub use socket::{Backlog, Protocol, Socket, SocketState};
pub use task::{IdentityKey, TaskAddr};
pub use unheld::{SocketHolding, UnheldSocket};

use std::cell::Cell;

use thiserror::Error;

use crate::kernel::{Group, Kernel, LayoutError};
use crate::memory::{AddressSpace, MemoryError, PhysicalMemory};

/// Why something could not be read from a guest's kernel.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LinuxError {
    /// The memory could not be read: gone, or a pointer that was a lie.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// This kernel's structures are not understood as far as needed.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// This kernel has no such symbol.
    #[error("this kernel has no symbol `{0}`")]
    NoSymbol(&'static str),
    /// What lies at an address cannot be what it was taken for.
    #[error("{what} at {va:#x} is implausible")]
    Implausible {
        /// What it was taken for.
        what: &'static str,
        /// Its guest-virtual address.
        va: u64,
    },
    /// A socket, but not of TCP or UDP over IP.
    #[error("socket of family {family}, protocol {protocol} is neither TCP nor UDP over IP")]
    NotInet {
        /// Address family, such as 1 for a Unix socket.
        family: u16,
        /// IP protocol, where the family has one.
        protocol: u16,
    },
}

/// Addresses that are looked up by symbol once, not at every trap.
#[derive(Debug, Clone, Copy)]
struct Landmarks {
    init_task: Option<u64>,
    /// Added to a CPU's per-CPU base, where its current task is told.
    current_task: Option<u64>,
    net_namespace_list: Option<u64>,
    tcp_hashinfo: Option<u64>,
    udp_table: Option<u64>,
}

/// Reader over one guest's memory and kernel.
#[derive(Debug)]
pub struct Linux<M> {
    mem: M,
    kernel: Kernel,
    landmarks: Landmarks,
    meter: budget::Meter,
    /// How this kernel's tables are ordered, as far as proved.
    rules: lookup::Rules,
    /// Who held a file when it was looked for last.
    holders: owner::Holders,
    /// The kernel's ticks when they were looked at last.
    ticks: Cell<u64>,
}

impl<M: PhysicalMemory> Linux<M> {
    /// A reader of the guest whose memory is `mem` and whose kernel was
    /// recognised as `kernel`.
    pub fn new(mem: M, kernel: Kernel) -> Self {
        let symbol = |name| kernel.symbols.address(name);
        // 6.2 to 6.14 keep it in a structure. Before and after it is a variable
        // of its own, at times seen only under its alias for the compiler.
        let hot = symbol("pcpu_hot")
            .zip(kernel.layout.pcpu_hot_current.as_ref().ok())
            .map(|(base, offset)| base.wrapping_add(*offset));
        let landmarks = Landmarks {
            init_task: symbol("init_task"),
            current_task: hot
                .or_else(|| symbol("current_task"))
                .or_else(|| symbol("const_current_task")),
            net_namespace_list: symbol("net_namespace_list"),
            tcp_hashinfo: symbol("tcp_hashinfo"),
            udp_table: symbol("udp_table"),
        };
        Self {
            mem,
            kernel,
            landmarks,
            meter: budget::Meter::default(),
            rules: lookup::Rules::default(),
            holders: owner::Holders::default(),
            ticks: Cell::new(0),
        }
    }

    /// Whether it is the kernel that was recognised, since it booted. One of the same version that another one started (kexec) lies at the
    /// same place with the same banner; but its ticks, which only grow while a kernel runs, begin anew. Two small reads.
    pub fn is_same_boot(&self) -> bool {
        if !self.kernel.is_still_there(&self.mem) {
            return false;
        }
        let ticks = self
            .kernel
            .symbols
            .address("jiffies_64")
            .and_then(|at| self.space().read_u64(&self.mem, at).ok());
        // A kernel that does not tell has to be believed.
        ticks.is_none_or(|now| now >= self.ticks.replace(now))
    }

    /// The guest's kernel.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// The guest's memory.
    pub fn memory(&self) -> &M {
        &self.mem
    }

    /// The guest's memory, for another reader.
    pub fn into_memory(self) -> M {
        self.mem
    }

    /// Forgets cached translations of kernel addresses. Call it at the start of
    /// each trap and each sweep: stacks and large tables are remapped while the
    /// guest runs.
    pub fn refresh(&self) {
        self.kernel.space.flush();
    }

    fn space(&self) -> &AddressSpace {
        &self.kernel.space
    }
}

/// Borrows a group of offsets, or says why there is none.
pub(crate) fn group<T: Copy>(group: &Group<T>) -> Result<T, LinuxError> {
    match group {
        Ok(offsets) => Ok(*offsets),
        Err(why) => Err(why.clone().into()),
    }
}
