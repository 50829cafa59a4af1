// SPDX-License-Identifier: GPL-3.0-only
//! What a check found, as a sentence.

use std::fmt;

use super::target::{Owner, Target};
use crate::linux::{HiddenTask, ModuleView, Protocol, UnheldSocket};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// An honest administrator's tool does this too, as tracing does. Worth
    /// knowing; by itself no sign of an intruder.
    Notice,
    /// Rare on an honest machine.
    Warning,
    /// Nothing honest does this.
    Alert,
}

impl Severity {
    /// The lower-case word.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Notice => "notice",
            Severity::Warning => "warning",
            Severity::Alert => "alert",
        }
    }
}

/// A place that the kernel itself patches while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SiteKind {
    /// First instruction of a function that ftrace may trace.
    Ftrace,
    /// A branch switched by a static key.
    StaticKey,
    /// A call switched by a static call.
    StaticCall,
}

impl fmt::Display for SiteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SiteKind::Ftrace => "place for tracing",
            SiteKind::StaticKey => "static key's branch",
            SiteKind::StaticCall => "static call",
        })
    }
}

/// Something that an untouched kernel does not show.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// A process or thread that hides.
    HiddenTask(HiddenTask),
    /// A socket that is open in no listed process.
    UnheldSocket(UnheldSocket),
    /// A module that hides.
    HiddenModule {
        /// What it calls itself.
        name: String,
        /// Address of its `struct module`.
        at: u64,
        /// Where it was seen.
        seen_in: Vec<ModuleView>,
        /// Where it was not.
        missing_in: Vec<ModuleView>,
    },
    /// An entry of a system-call table leads to no system call of the kernel.
    SystemCall {
        /// Symbol of the table.
        table: &'static str,
        /// Number of the call.
        number: usize,
        /// Where it leads.
        target: Target,
    },
    /// A vCPU enters the kernel elsewhere than at the kernel's own entry.
    Entry {
        /// Index of the vCPU.
        vcpu: usize,
        /// The register that says where.
        register: &'static str,
        /// Where it leads.
        target: Target,
    },
    /// A gate of the interrupt descriptor table leads to no handler of the
    /// kernel.
    Gate {
        /// Vector, 0 to 255.
        vector: u8,
        /// Where it leads.
        target: Target,
    },
    /// A vCPU uses another interrupt descriptor table than the kernel's.
    ForeignIdt {
        /// Index of the vCPU.
        vcpu: usize,
        /// Where its table is.
        base: u64,
    },
    /// A place that the kernel patches holds what the kernel never puts there.
    Overwritten {
        /// What it is a place for.
        site: SiteKind,
        /// Where it is.
        place: Target,
        /// What it holds, from its first byte on.
        bytes: [u8; 5],
        /// Where it leads, if it is a jump or a call.
        target: Option<Target>,
    },
    /// A function is traced: something is called when it is.
    Traced {
        /// The function.
        function: Target,
        /// What is called.
        by: Target,
    },
    /// Somebody has functions of the kernel traced.
    Tracer {
        /// Address of its `struct ftrace_ops`.
        at: u64,
        /// What is called for each traced function.
        callback: Target,
    },
    /// A kernel probe.
    Kprobe {
        /// The probed place.
        place: Target,
        /// What is called there.
        handler: Target,
    },
    /// A function begins with a jump out of the kernel's text.
    Detour {
        /// The function.
        function: Target,
        /// Where it leads.
        target: Target,
    },
    /// Code of the kernel is not as it was when it was first seen.
    TextChanged {
        /// The function.
        function: Target,
        /// Its length in bytes.
        len: usize,
        /// A kernel probe in it explains the change.
        probed: bool,
    },
    /// A constant table of operations points out of the kernel.
    Operations {
        /// Symbol of the table.
        table: String,
        /// Offset in the table in bytes.
        offset: u64,
        /// Where it leads.
        target: Target,
    },
}

impl Finding {
    /// The kind, as a word for machines.
    pub fn kind(&self) -> &'static str {
        match self {
            Finding::HiddenTask(task) if task.is_process() => "hidden-process",
            Finding::HiddenTask(_) => "hidden-thread",
            Finding::UnheldSocket(_) => "unheld-socket",
            Finding::HiddenModule { .. } => "hidden-module",
            Finding::SystemCall { .. } => "system-call",
            Finding::Entry { .. } => "kernel-entry",
            Finding::Gate { .. } => "interrupt-gate",
            Finding::ForeignIdt { .. } => "interrupt-table",
            Finding::Overwritten { .. } => "patch-site",
            Finding::Traced { .. } => "traced",
            Finding::Tracer { .. } => "tracer",
            Finding::Kprobe { .. } => "kprobe",
            Finding::Detour { .. } => "detour",
            Finding::TextChanged { .. } => "text",
            Finding::Operations { .. } => "operations",
        }
    }

    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match self {
            Finding::Traced { by: target, .. }
            | Finding::Tracer { callback: target, .. }
            | Finding::Kprobe { handler: target, .. } => match target.owner {
                Owner::Nobody | Owner::KernelData { .. } => Severity::Alert,
                Owner::Module { .. } => Severity::Warning,
                Owner::Kernel { .. } | Owner::Bpf { .. } | Owner::Tracer => Severity::Notice,
            },
            Finding::TextChanged { probed: true, .. } => Severity::Notice,
            // Rare, but there are honest ways to it.
            Finding::UnheldSocket(unheld) if unheld.holder.is_none() => Severity::Warning,
            _ => Severity::Alert,
        }
    }

    /// Whether it is what another check found too. The same task or socket may
    /// be seen elsewhere or be in another state at each look.
    pub fn is_same(&self, other: &Finding) -> bool {
        match (self, other) {
            (Finding::HiddenTask(one), Finding::HiddenTask(other)) => {
                (one.task, one.pid, one.missing_in) == (other.task, other.pid, other.missing_in)
            }
            (Finding::UnheldSocket(one), Finding::UnheldSocket(other)) => {
                let identity = |unheld: &UnheldSocket| {
                    let socket = &unheld.socket;
                    (unheld.file, socket.sk, socket.local, socket.remote)
                };
                identity(one) == identity(other)
            }
            _ => self == other,
        }
    }
}

fn views(views: &[ModuleView]) -> String {
    let words: Vec<String> = views.iter().map(ModuleView::to_string).collect();
    words.join(", ")
}

/// The finding as a sentence, evidence included.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::HiddenTask(task) => {
                let what = if task.is_process() { "process" } else { "thread" };
                write!(
                    f,
                    "{what} {} ({}) hides: seen in {}, missing in {} (task {:#x})",
                    task.pid,
                    task.comm.escape_debug(),
                    task.seen_in,
                    task.missing_in,
                    task.task.0
                )
            }
            Finding::UnheldSocket(UnheldSocket { socket, file, holder }) => {
                let protocol = match socket.protocol {
                    Protocol::Tcp => "TCP",
                    Protocol::Udp => "UDP",
                };
                let (local, remote) = socket.as_shown();
                write!(f, "the {protocol} socket {local} ")?;
                if socket.remote.is_some() {
                    write!(f, "↔ {remote} ")?;
                }
                write!(f, "({}) is open in no listed process", socket.state.as_ss())?;
                match holder {
                    Some(pid) => write!(f, ", but in process {pid}, which hides")?,
                    None => f.write_str(
                        ": who has it hides, if it was not given to io_uring or a driver of the kernel (as nbd), \
                         or closed while a call on it still waits",
                    )?,
                }
                write!(f, " (file {file:#x})")
            }
            Finding::HiddenModule {
                name,
                at,
                seen_in,
                missing_in,
            } => write!(
                f,
                "module {} hides: seen in {}, missing in {} (module {at:#x})",
                name.escape_debug(),
                views(seen_in),
                views(missing_in)
            ),
            Finding::SystemCall {
                table,
                number,
                target,
            } => {
                write!(f, "system call {number} of {table} leads to {target}")
            }
            Finding::Entry {
                vcpu,
                register,
                target,
            } => write!(f, "vCPU {vcpu} enters the kernel by {register} at {target}"),
            Finding::Gate { vector, target } => {
                write!(f, "interrupt vector {vector} leads to {target}")
            }
            Finding::ForeignIdt { vcpu, base } => write!(
                f,
                "vCPU {vcpu} uses an interrupt descriptor table at {base:#x} that is not the kernel's"
            ),
            Finding::Overwritten {
                site,
                place,
                bytes,
                target,
            } => {
                write!(f, "the {site} at {place} holds {bytes:02x?}")?;
                match target {
                    Some(target) => write!(f, ", which leads to {target}"),
                    None => f.write_str(", which the kernel never puts there"),
                }
            }
            Finding::Traced { function, by } => write!(f, "{function} is traced by {by}"),
            Finding::Tracer { at, callback } => {
                write!(
                    f,
                    "functions of the kernel are traced by {callback} (ftrace_ops {at:#x})"
                )
            }
            Finding::Kprobe { place, handler } => {
                write!(f, "a kernel probe at {place} calls {handler}")
            }
            Finding::Detour { function, target } => {
                write!(f, "{function} begins with a jump to {target}")
            }
            Finding::TextChanged {
                function,
                len,
                probed,
            } => {
                write!(f, "the code of {function}, {len} bytes long, was changed")?;
                f.write_str(match probed {
                    true => " by a kernel probe",
                    false => " by nothing that the kernel knows of",
                })
            }
            Finding::Operations {
                table,
                offset,
                target,
            } => write!(f, "{table}, a constant, points at offset {offset:#x} to {target}"),
        }
    }
}
