// SPDX-License-Identifier: GPL-3.0-only
//! Probes turned into facts: who forked, ran, ended, listens, connects.
//!
//! Everything here happens while a vCPU is held, so it reads little: a process is read in full once and kept under
//! its [`IdentityKey`], which costs a few reads to check and changes with every exec and setuid.

use std::collections::HashMap;
use std::sync::Arc;

use crate::kernel::{Group, Layout};
use crate::linux::{Budget, IdentityKey, Linux, LinuxError, Process, Socket, TaskAddr};
use crate::memory::{MemoryError, PhysicalMemory};

/// Ancestors whose executables are told.
const MAX_PARENTS: usize = 8;
/// Processes kept. A guest with more living processes than this only pays for reading some again.
const MAX_CACHED: usize = 32 << 10;

/// Who does something: a process and where it comes from.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The process.
    pub process: Process,
    /// Executables of its ancestors, nearest first, at most eight.
    pub parents: Vec<Arc<str>>,
}

/// What is told of a guest, while the vCPU that does it is held: an observer must not wait.
pub trait Observer {
    /// A process was made; it still has its parent's executable.
    fn forked(&mut self, child: &Arc<Subject>);
    /// A process runs a new executable; its credentials and arguments are final.
    fn executed(&mut self, who: &Arc<Subject>);
    /// A process's first thread ends, with what wait(2) will report. (Of a process whose other threads live on this is early;
    /// of one in which another thread calls exec, an exec under the same pid follows.)
    fn exited(&mut self, who: &Arc<Subject>, code: u32);
    /// A TCP socket begins to listen.
    fn listening(&mut self, who: &Arc<Subject>, socket: &Socket);
    /// A TCP connection is being opened: both addresses and ports are fixed, no packet has left.
    fn connecting(&mut self, who: &Arc<Subject>, socket: &Socket);
}

/// Where a guest's kernel is probed. The functions are global in every kernel from 5.10 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Point {
    /// `tcp_connect(struct sock *)`: called for IPv4 and IPv6 once the source port is chosen.
    Connect,
    /// `inet_csk_listen_start(struct sock *, …)`.
    Listen,
    /// `finalize_exec(struct linux_binprm *)`: the last step of a successful exec.
    Exec,
    /// `do_exit(long code)`.
    Exit,
    /// `wake_up_new_task(struct task_struct *)`.
    Fork,
}

impl Point {
    /// All, the ones that policy needs first.
    pub const ALL: [Point; 5] = [
        Point::Connect,
        Point::Listen,
        Point::Exec,
        Point::Exit,
        Point::Fork,
    ];

    /// The kernel function.
    pub fn function(self) -> &'static str {
        match self {
            Point::Connect => "tcp_connect",
            Point::Listen => "inet_csk_listen_start",
            Point::Exec => "finalize_exec",
            Point::Exit => "do_exit",
            Point::Fork => "wake_up_new_task",
        }
    }

    /// Whether what its traps are about can be read on a kernel of this layout: a trap that tells nothing only costs.
    ///
    /// # Errors
    /// What is missing.
    pub fn readable(self, layout: &Layout) -> Group<()> {
        match self {
            Point::Connect | Point::Listen => layout.sees_sockets(),
            Point::Exec | Point::Exit | Point::Fork => layout.sees_processes(),
        }
    }

    /// What is not seen where it cannot be armed.
    pub fn covers(self) -> &'static str {
        match self {
            Point::Connect => "connections are decided by VM, not by process",
            Point::Listen => "listeners are found by reading the guest, a little later",
            Point::Exec => "no exec events",
            Point::Exit => "no exit events",
            Point::Fork => "no fork events",
        }
    }
}

/// The registers a probe reads. All are the guest's and may lie.
#[derive(Debug, Clone, Copy)]
pub struct Registers {
    /// The kernel's GS base: these functions run in the kernel.
    pub gs_base: u64,
    /// First argument.
    pub rdi: u64,
}

/// Turns traps of one guest into facts.
#[derive(Default)]
pub struct Watch {
    subjects: HashMap<TaskAddr, (IdentityKey, Arc<Subject>)>,
}

impl Watch {
    /// A trap at `point`. What it means is told to `observer` before this returns.
    ///
    /// # Errors
    /// When guest memory does not make sense at this place, or would have more read than [`Budget::TRAP`]; then nothing
    /// was told.
    pub fn fire<M: PhysicalMemory>(
        &mut self,
        linux: &Linux<M>,
        point: Point,
        registers: Registers,
        observer: &mut dyn Observer,
    ) -> Result<(), LinuxError> {
        linux.refresh();
        let fired = linux.within(Budget::TRAP, || self.told(linux, point, registers, observer));
        fired.0
    }

    fn told<M: PhysicalMemory>(
        &mut self,
        linux: &Linux<M>,
        point: Point,
        registers: Registers,
        observer: &mut dyn Observer,
    ) -> Result<(), LinuxError> {
        match point {
            Point::Connect | Point::Listen => {
                let socket = linux.socket(registers.rdi)?;
                let who = self.subject(linux, linux.current(registers.gs_base)?)?;
                if point == Point::Connect {
                    observer.connecting(&who, &socket);
                } else {
                    observer.listening(&who, &socket);
                }
            }
            Point::Exec => {
                let who = self.subject(linux, linux.current(registers.gs_base)?)?;
                observer.executed(&who);
            }
            Point::Exit => {
                let task = linux.current(registers.gs_base)?;
                if linux.leader(task)? == task {
                    let who = self.subject(linux, task)?;
                    self.subjects.remove(&task);
                    if !who.process.kthread {
                        // The status is an int in a long; wait(2) reports its low 16 bits.
                        observer.exited(&who, (registers.rdi & 0xffff) as u32);
                    }
                }
            }
            Point::Fork => {
                let task = TaskAddr(registers.rdi);
                if linux.leader(task)? == task {
                    let child = self.subject(linux, task)?;
                    if !child.process.kthread {
                        observer.forked(&child);
                    }
                }
            }
        }
        Ok(())
    }

    /// The process a thread belongs to, from the cache where it still holds.
    ///
    /// # Errors
    /// As [`Linux::process`].
    pub fn subject<M: PhysicalMemory>(
        &mut self,
        linux: &Linux<M>,
        task: TaskAddr,
    ) -> Result<Arc<Subject>, LinuxError> {
        if let Some(known) = self.known(linux, task)? {
            return Ok(known);
        }
        // Half of its parents would make it another subject.
        match linux.within(Budget::TRAP, || self.read_subject(linux, task)) {
            (Ok(_), true) => Err(MemoryError::OverBudget { va: task.0 }.into()),
            (Ok((key, subject)), false) => {
                if self.subjects.len() >= MAX_CACHED {
                    self.subjects.clear();
                }
                self.subjects.insert(key.leader, (key, Arc::clone(&subject)));
                Ok(subject)
            }
            (Err(error), _) => Err(error),
        }
    }

    fn read_subject<M: PhysicalMemory>(
        &self,
        linux: &Linux<M>,
        task: TaskAddr,
    ) -> Result<(IdentityKey, Arc<Subject>), LinuxError> {
        let key = linux.identity_key(task)?;
        let process = linux.process(key.leader)?;
        let parents = linux
            .ancestors(key.leader)
            .into_iter()
            .take(MAX_PARENTS)
            .filter_map(|parent| self.executable(linux, parent))
            .collect();
        Ok((key, Arc::new(Subject { process, parents })))
    }

    fn known<M: PhysicalMemory>(
        &self,
        linux: &Linux<M>,
        task: TaskAddr,
    ) -> Result<Option<Arc<Subject>>, LinuxError> {
        let key = linux.identity_key(task)?;
        Ok(self
            .subjects
            .get(&key.leader)
            .filter(|(known, _)| *known == key)
            .map(|(_, s)| Arc::clone(s)))
    }

    fn executable<M: PhysicalMemory>(&self, linux: &Linux<M>, task: TaskAddr) -> Option<Arc<str>> {
        match self.known(linux, task).ok()? {
            Some(subject) => subject.process.exe.clone(),
            // An ancestor that has not been seen yet is read for its executable only, not kept: keeping it would mean its
            // own ancestors too.
            None => linux.executable(task).ok()?,
        }
    }
}
