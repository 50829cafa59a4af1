// SPDX-License-Identifier: GPL-3.0-only
//! A real guest, read through memory that lies. What each operation reads is held against its budget.

use std::net::SocketAddr;
use std::sync::Arc;

use vmi_xen::kernel::Kernel;
use vmi_xen::linux::{Budget, Credentials, Flow, Linux, Protocol, Socket, TaskAddr};
use vmi_xen::memory::{CpuState, PAGE_SIZE, PhysicalMemory};
use vmi_xen::observe::{Observer, Point, Registers, Subject, Watch};

use super::memory::{Hostile, Recorder};

/// Reads that one read of guest-virtual memory is at most: five tables and the page itself, for each of the two pages
/// that it may lie in.
const READS_A_READ: u64 = 12;
/// Bytes of a table's entry.
const ENTRY: u64 = 8;

/// A guest that was read once, soundly, and can be read again with lies.
pub struct Guest {
    linux: Linux<Hostile>,
    cpus: Vec<CpuState>,
    /// Leaders of all processes.
    tasks: Vec<TaskAddr>,
    /// Sockets of all processes.
    sockets: Vec<Socket>,
}

impl Guest {
    /// Reads all that the targets will read.
    pub fn record<M: PhysicalMemory>(memory: M, cpus: &[CpuState]) -> Guest {
        let kernel = Kernel::find(&memory, cpus).expect("a sound guest");
        let linux = Linux::new(Recorder::new(memory), kernel.clone());
        let tasks = linux.leaders().expect("tasks");
        let mut sockets = Vec::new();
        let mut watch = Watch::default();
        for &task in &tasks {
            linux.threads(task).expect("threads");
            watch.subject(&linux, task).expect("a process");
            let held = linux.sockets_of(task).expect("sockets");
            sockets.extend(held.into_iter().map(|(_, socket)| socket));
        }
        linux.addresses().expect("addresses");
        for cpu in cpus {
            linux.prove_current(cpu).expect("a current task");
        }
        assert!(tasks.len() > 20 && !sockets.is_empty(), "a guest with a workload");
        Guest {
            linux: Linux::new(linux.into_memory().into_hostile(), kernel),
            cpus: cpus.to_vec(),
            tasks,
            sockets,
        }
    }

    /// What each operation may have read at most.
    fn within<T>(&self, what: &str, budget: Budget, operation: impl FnOnce(&Linux<Hostile>) -> T) -> T {
        self.linux.memory().spent();
        let result = operation(&self.linux);
        let spent = self.linux.memory().spent();
        let reads = READS_A_READ * (budget.reads + budget.bytes / PAGE_SIZE + 1);
        assert!(spent.reads <= reads, "{what}: {spent:?} beyond {budget:?}");
        let bytes = budget.bytes + reads * ENTRY;
        assert!(spent.bytes <= bytes, "{what}: {spent:?} beyond {budget:?}");
        result
    }

    fn lie(&self, data: &[u8]) {
        self.linux.memory().lie(data);
        self.linux.refresh();
    }

    /// Lists of tasks, and all about each.
    pub fn tasks(&self, data: &[u8]) {
        self.lie(data);
        let leaders = self
            .within("leaders", Budget::SWEEP, Linux::leaders)
            .unwrap_or_default();
        for &task in leaders.iter().take(200).chain(&self.tasks[..10]) {
            let process = self.within("process", Budget::PROCESS, |linux| linux.process(task));
            if let Ok(process) = process {
                assert!(process.comm.len() <= 15 * 3, "{process:?}");
                assert!(
                    process.exe.is_none_or(|exe| exe.len() <= 3 * (4096 + 256)),
                    "a long path"
                );
                let args: usize = process.args.iter().map(String::len).sum();
                assert!(args <= 3 * (32 << 10), "long arguments");
            }
            let _ = self.within("executable", Budget::PROCESS, |linux| linux.executable(task));
            let _ = self.within("key", Budget::PROCESS, |linux| linux.identity_key(task));
            let _ = self.within("threads", Budget::SWEEP, |linux| linux.threads(task));
            let _ = self.within("ancestors", Budget::PROCESS, |linux| linux.ancestors(task));
        }
        let census = Budget {
            reads: 3 * Budget::SWEEP.reads,
            bytes: 3 * Budget::SWEEP.bytes,
        };
        let _ = self.within("census", census, Linux::census);
        for cpu in &self.cpus {
            let _ = self.within("current", Budget::SWEEP, |linux| linux.prove_current(cpu));
        }
    }

    /// Descriptors, sockets and addresses.
    pub fn sockets(&self, data: &[u8]) {
        self.lie(data);
        for &task in &self.tasks {
            let _ = self.within("sockets", Budget::SOCKETS, |linux| linux.sockets_of(task));
        }
        let _ = self.within("addresses", Budget::SWEEP, Linux::addresses);
        if let Some(socket) = self.sockets.get(data.len() % self.sockets.len()) {
            let stranger = SocketAddr::from(([203, 0, 113, 9], 9));
            let flow = Flow {
                protocol: Protocol::Tcp,
                netns: None,
                local: socket.local,
                remote: socket.remote.unwrap_or(stranger),
            };
            let _ = self.within("owner", Budget::SWEEP, |linux| linux.socket_owner(&flow));
        }
    }

    /// Every probe, with first arguments that are right and ones that are not; each twice, since the second finds a cache.
    pub fn traps(&self, data: &[u8]) {
        self.lie(data);
        let mut watch = Watch::default();
        let socket = |number: usize| self.sockets[number % self.sockets.len()].sk;
        let pick = data.first().map_or(0, |&byte| usize::from(byte));
        let task = self.tasks[pick % self.tasks.len()].0;
        for point in Point::ALL {
            for rdi in [
                socket(pick),
                task,
                socket(pick + 1),
                0,
                u64::MAX,
                0xffff_8880_0000_0001,
            ] {
                for cpu in &self.cpus {
                    let registers = Registers {
                        gs_base: cpu.kernel_gs_base(),
                        rdi,
                        rsi: rdi,
                    };
                    for function in point.functions() {
                        for _ in 0..2 {
                            let _ = self.within(function, Budget::TRAP, |linux| {
                                watch.fire(linux, point, function, registers, &mut Nobody)
                            });
                        }
                    }
                }
            }
        }
    }
}

/// An observer that does nothing.
struct Nobody;

impl Observer for Nobody {
    fn forked(&mut self, _: &Arc<Subject>) {}
    fn executed(&mut self, _: &Arc<Subject>) {}
    fn exited(&mut self, _: &Arc<Subject>, _: u32) {}
    fn listening(&mut self, _: &Arc<Subject>, _: &Socket) {}
    fn connecting(&mut self, _: &Arc<Subject>, _: &Socket, _: Option<u32>) {}
    fn changing(&mut self, _: &Arc<Subject>, _: &Credentials) {}
    fn accepted(&mut self, _: &Arc<Subject>, _: &Socket) {}
    fn bound(&mut self, _: &Arc<Subject>, _: &Socket) {}
    fn closing(&mut self, _: u64) {}
}
