// SPDX-License-Identifier: GPL-3.0-only
//! Probes turned into facts: who forked, ran, ended, listens, connects, accepts, owns a port.
//!
//! Everything here happens while a vCPU is held, so it reads little: a process is read in full once and kept under
//! its [`IdentityKey`], which costs a few reads to check and changes with every exec and setuid.

mod datagram;
mod point;

use std::collections::HashMap;
use std::sync::Arc;

pub use point::Point;

use datagram::Datagrams;

use crate::linux::{
    Budget, Credentials, IdentityKey, Linux, LinuxError, Process, Protocol, Socket, TaskAddr,
};
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
    /// A process ends with its last thread, with what wait(2) will report.
    fn exited(&mut self, who: &Arc<Subject>, code: u32);
    /// A process, told as it was, takes other credentials. (Those that an exec gives are told with the exec.)
    fn changing(&mut self, who: &Arc<Subject>, to: &Credentials);
    /// A TCP socket begins to listen.
    fn listening(&mut self, who: &Arc<Subject>, socket: &Socket);
    /// A TCP or UDP connection is being opened: both addresses and ports are fixed, no packet has left.
    /// `sequence`: what the SYN of a TCP connection will have as its sequence number, which no translation of addresses in the
    /// guest changes.
    fn connecting(&mut self, who: &Arc<Subject>, socket: &Socket, sequence: Option<u32>);
    /// A TCP connection that a peer opened is handed to who listened for it.
    fn accepted(&mut self, who: &Arc<Subject>, socket: &Socket);
    /// A UDP socket that is not connected got its port, by bind(2) or by sending.
    fn bound(&mut self, who: &Arc<Subject>, socket: &Socket);
    /// A TCP socket listens no more, or a UDP socket gives its port back. Its `struct sock` is at `sk`, as in [`Socket::sk`].
    fn closing(&mut self, sk: u64);
}

/// The registers a probe reads. All are the guest's and may lie.
#[derive(Debug, Clone, Copy)]
pub struct Registers {
    /// The kernel's GS base: these functions run in the kernel.
    pub gs_base: u64,
    /// First argument.
    pub rdi: u64,
    /// Second argument.
    pub rsi: u64,
}

/// Turns traps of one guest into facts.
#[derive(Default)]
pub struct Watch {
    subjects: HashMap<TaskAddr, (IdentityKey, Arc<Subject>)>,
    datagrams: Datagrams,
}

impl Watch {
    /// A trap at `point`, in its function of that name. What it means is told to `observer` before this returns.
    ///
    /// # Errors
    /// When guest memory does not make sense at this place, or would have more read than [`Budget::TRAP`]; then nothing
    /// was told.
    pub fn fire<M: PhysicalMemory>(
        &mut self,
        linux: &Linux<M>,
        point: Point,
        function: &str,
        registers: Registers,
        observer: &mut dyn Observer,
    ) -> Result<(), LinuxError> {
        linux.refresh();
        let fired = linux.within(Budget::TRAP, || {
            // What was left open comes before what happens now.
            self.settle(linux, observer);
            self.told(linux, point, function, registers, observer)
        });
        fired.0
    }

    fn told<M: PhysicalMemory>(
        &mut self,
        linux: &Linux<M>,
        point: Point,
        function: &str,
        registers: Registers,
        observer: &mut dyn Observer,
    ) -> Result<(), LinuxError> {
        match point {
            Point::Connect => {
                let socket = linux.socket(registers.rdi)?;
                let who = self.subject(linux, linux.current(registers.gs_base)?)?;
                observer.connecting(&who, &socket, linux.write_sequence(&socket));
            }
            Point::Listen => {
                let socket = linux.socket(registers.rdi)?;
                let who = self.subject(linux, linux.current(registers.gs_base)?)?;
                observer.listening(&who, &socket);
            }
            Point::Accept => {
                if let Some(socket) = inet(linux.socket(registers.rdi))?
                    && socket.protocol == Protocol::Tcp
                    && socket.remote.is_some()
                {
                    let who = self.subject(linux, linux.current(registers.gs_base)?)?;
                    observer.accepted(&who, &socket);
                }
            }
            Point::ConnectUdp4 | Point::ConnectUdp6 => {
                if let Some(socket) = inet(linux.socket(registers.rdi))?
                    && socket.protocol == Protocol::Udp
                    && let Some(remote) = linux.sockaddr(registers.rsi)?
                {
                    let who = self.subject(linux, linux.current(registers.gs_base)?)?;
                    if let Some(socket) = self.datagrams.connect(socket, remote, &who) {
                        observer.connecting(&who, &socket, None);
                    }
                }
            }
            Point::SourceUdp4 | Point::SourceUdp6 => {
                if let Some((who, socket)) = self.datagrams.source(linux, registers.rdi)? {
                    observer.connecting(&who, &socket, None);
                }
            }
            Point::Bind => {
                let who = self.subject(linux, linux.current(registers.gs_base)?)?;
                self.datagrams.bind(registers.rdi, who);
            }
            Point::Unlisten | Point::Unbind => {
                self.datagrams.forget(registers.rdi);
                observer.closing(registers.rdi);
            }
            Point::Exec => {
                let who = self.subject(linux, linux.current(registers.gs_base)?)?;
                observer.executed(&who);
            }
            Point::Credentials => {
                let task = linux.current(registers.gs_base)?;
                if !linux.in_exec(task)? {
                    let who = self.subject(linux, task)?;
                    let to = linux.credentials(registers.rdi)?;
                    // The kernel commits unchanged ones too, when only a keyring changes.
                    if !who.process.kthread && who.process.credentials != to {
                        observer.changing(&who, &to);
                    }
                }
            }
            Point::Exit => self.exit(linux, function, registers, observer)?,
            Point::Fork => {
                let task = TaskAddr(registers.rdi);
                // A further thread of a process is none.
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

    /// Tells what could not be told at its trap: the ports that sockets have got since. Returns whether something is
    /// still open.
    pub fn settle<M: PhysicalMemory>(&mut self, linux: &Linux<M>, observer: &mut dyn Observer) -> bool {
        if self.datagrams.is_settled() {
            return false;
        }
        linux.refresh();
        let tell = &mut |who: &Arc<Subject>, socket: &Socket| observer.bound(who, socket);
        linux
            .within(Budget::TRAP, || self.datagrams.settle(linux, tell))
            .0
    }

    fn exit<M: PhysicalMemory>(
        &mut self,
        linux: &Linux<M>,
        function: &str,
        registers: Registers,
        observer: &mut dyn Observer,
    ) -> Result<(), LinuxError> {
        let task = linux.current(registers.gs_base)?;
        let leader = linux.leader(task)?;
        let (last, code) = match function {
            // The status is an int in a long; wait(2) reports its low 16 bits.
            "do_exit" => (leader == task, (registers.rdi & 0xffff) as u32),
            // `group_dead` is an int.
            _ => (registers.rsi as u32 != 0, linux.exit_status(task)?),
        };
        if last {
            let who = self.subject(linux, task)?;
            self.subjects.remove(&leader);
            if !who.process.kthread {
                observer.exited(&who, code);
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
        // By this thread: the first may have ended, and each may have credentials of its own.
        let process = linux.process(task)?;
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

/// A socket of another kind than the point is about is no error: the function serves them too.
fn inet(socket: Result<Socket, LinuxError>) -> Result<Option<Socket>, LinuxError> {
    match socket {
        Ok(socket) => Ok(Some(socket)),
        Err(LinuxError::NotInet { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
