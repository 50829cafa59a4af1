// SPDX-License-Identifier: GPL-3.0-only
//! Tasks: which one runs, which ones there are, and a cheap key of identity.

use super::{Linux, LinuxError, group};
use crate::memory::{CpuState, PhysicalMemory};

/// Processes of one guest that are seen: twice the default pid_max of machines
/// with up to 32 CPUs, which counts threads too.
const MAX_PROCESSES: usize = 1 << 16;
/// SIGNAL_GROUP_EXIT of the kernel's sched/signal.h, in all versions.
const SIGNAL_GROUP_EXIT: u32 = 0x4;
/// Threads of one process.
const MAX_THREADS: usize = 1 << 16;

/// Address of a `task_struct`: names a thread for as long as it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskAddr(pub u64);

/// What tells whether a [`Process`](super::Process) read earlier still holds:
/// as long as the key is equal, so are executable, arguments as they were at
/// exec, user and start. (Not what a process changes by writing to its own
/// memory, and not a change of namespace or control group.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IdentityKey {
    /// Leader of the thread's process.
    pub leader: TaskAddr,
    /// When the leader started, in nanoseconds since boot.
    pub start_time_ns: u64,
    /// The process's memory; 0 for a kernel thread.
    pub mm: u64,
    /// Its credentials, which the kernel replaces rather than changes…
    pub cred: u64,
    /// … and the real and effective user in them, since a freed structure's
    /// address can come again.
    pub uid: u32,
    /// See `uid`.
    pub euid: u32,
    /// Its executable's `struct file`; 0 if none.
    pub exe_file: u64,
    /// How often the thread has called exec.
    pub exec_id: u64,
}

impl<M: PhysicalMemory> Linux<M> {
    /// The task that runs on a vCPU, from its kernel GS base
    /// ([`CpuState::kernel_gs_base`]). One read.
    ///
    /// # Errors
    /// [`LinuxError::NoSymbol`] if this kernel tells it in an unknown way,
    /// [`LinuxError::Implausible`] if what it tells is no kernel address.
    pub fn current(&self, gs_base: u64) -> Result<TaskAddr, LinuxError> {
        let offset = self
            .landmarks
            .current_task
            .ok_or(LinuxError::NoSymbol("current_task"))?;
        let va = gs_base.wrapping_add(offset);
        let task = self.u64(va)?;
        // Addresses of the kernel are the negative half.
        if (task as i64) < 0 {
            Ok(TaskAddr(task))
        } else {
            Err(LinuxError::Implausible {
                what: "current task",
                va,
            })
        }
    }

    /// Proves [`Linux::current`] on this kernel with a vCPU at hand: the task
    /// that it yields must be its process's leader or one of its threads, or
    /// the idle task. For bring-up; too slow for a trap.
    ///
    /// # Errors
    /// [`LinuxError::Implausible`] if the task is no such thing.
    pub fn prove_current(&self, cpu: &CpuState) -> Result<TaskAddr, LinuxError> {
        let task = self.current(cpu.kernel_gs_base())?;
        let leader = self.leader(task)?;
        let known = self.is_idle(leader)?
            || self.leaders()?.contains(&leader) && (task == leader || self.threads(leader)?.contains(&task));
        if known {
            Ok(task)
        } else {
            Err(LinuxError::Implausible {
                what: "current task",
                va: task.0,
            })
        }
    }

    /// An idle task has PID 0 and is on no list.
    fn is_idle(&self, task: TaskAddr) -> Result<bool, LinuxError> {
        let offsets = group(&self.kernel.layout.task)?;
        let comm: String = self.text::<16>(task.0.wrapping_add(offsets.comm))?;
        Ok(self.u32(task.0.wrapping_add(offsets.pid))? == 0 && comm.starts_with("swapper/"))
    }

    /// Leader of the process that a thread belongs to.
    ///
    /// # Errors
    /// If the task cannot be read.
    pub fn leader(&self, task: TaskAddr) -> Result<TaskAddr, LinuxError> {
        let offsets = group(&self.kernel.layout.task)?;
        Ok(TaskAddr(self.u64(task.0.wrapping_add(offsets.group_leader))?))
    }

    /// Number of a thread in the initial PID namespace.
    ///
    /// # Errors
    /// If the task cannot be read.
    pub fn pid(&self, task: TaskAddr) -> Result<u32, LinuxError> {
        let offsets = group(&self.kernel.layout.task)?;
        Ok(self.u32(task.0.wrapping_add(offsets.pid))?)
    }

    /// When a thread was started, in nanoseconds since the guest booted.
    ///
    /// # Errors
    /// If the task cannot be read.
    pub fn start_time(&self, task: TaskAddr) -> Result<u64, LinuxError> {
        let offsets = group(&self.kernel.layout.task)?;
        Ok(self.u64(task.0.wrapping_add(offsets.start_time))?)
    }

    /// Whether a thread is in a system call of the 32-bit ABI.
    ///
    /// # Errors
    /// If this kernel does not tell, or the task cannot be read.
    pub fn in_32_bit_call(&self, task: TaskAddr) -> Result<bool, LinuxError> {
        /// TS_COMPAT of the kernel's arch/x86/include/asm/thread_info.h.
        const TS_COMPAT: u32 = 2;
        let offsets = group(&self.kernel.layout.thread_info)?;
        Ok(self.u32(task.0.wrapping_add(offsets.status))? & TS_COMPAT != 0)
    }

    /// Leaders of all processes, kernel threads included, in order of creation.
    ///
    /// # Errors
    /// If this kernel's tasks are not understood or their list has no readable
    /// start.
    pub fn leaders(&self) -> Result<Vec<TaskAddr>, LinuxError> {
        let offsets = group(&self.kernel.layout.task)?;
        let init_task = self
            .landmarks
            .init_task
            .ok_or(LinuxError::NoSymbol("init_task"))?;
        let mut leaders = Vec::new();
        self.each_in_list(
            init_task.wrapping_add(offsets.tasks),
            offsets.tasks,
            MAX_PROCESSES,
            |task| leaders.push(TaskAddr(task)),
        )?;
        Ok(leaders)
    }

    /// All threads of a process, by any of its threads.
    ///
    /// # Errors
    /// If this kernel's threads are not understood or their list has no
    /// readable start.
    pub fn threads(&self, task: TaskAddr) -> Result<Vec<TaskAddr>, LinuxError> {
        let offsets = group(&self.kernel.layout.thread)?;
        let mut threads = Vec::new();
        let signal = self.u64(task.0.wrapping_add(offsets.signal))?;
        self.each_in_list(
            signal.wrapping_add(offsets.thread_head),
            offsets.thread_node,
            MAX_THREADS,
            |thread| threads.push(TaskAddr(thread)),
        )?;
        Ok(threads)
    }

    /// The parent, as `PPid` of /proc/PID/status has it; None above PID 1.
    ///
    /// # Errors
    /// If the task cannot be read.
    pub fn parent(&self, task: TaskAddr) -> Result<Option<TaskAddr>, LinuxError> {
        let offsets = group(&self.kernel.layout.task)?;
        let parent = self.leader(TaskAddr(self.u64(task.0.wrapping_add(offsets.real_parent))?))?;
        let idle = self.u32(parent.0.wrapping_add(offsets.pid))? == 0;
        Ok((!idle && parent != task).then_some(parent))
    }

    /// Whether a thread is in the midst of a call of exec. No, where this kernel does not tell.
    ///
    /// # Errors
    /// If the task cannot be read.
    pub fn in_exec(&self, task: TaskAddr) -> Result<bool, LinuxError> {
        Ok(match &self.kernel.layout.exec {
            Ok(offsets) => self.scalar(task.0, offsets.in_execve)? != 0,
            Err(_) => false,
        })
    }

    /// What wait(2) will report of the process that a thread belongs to, once its last thread has set its own status.
    ///
    /// # Errors
    /// If the task cannot be read.
    pub fn exit_status(&self, task: TaskAddr) -> Result<u32, LinuxError> {
        let offsets = group(&self.kernel.layout.exit)?;
        let signal = self.u64(task.0.wrapping_add(offsets.signal))?;
        let status = if self.u32(signal.wrapping_add(offsets.flags))? & SIGNAL_GROUP_EXIT != 0 {
            // All threads end together: exit_group(2), or a signal.
            self.u32(signal.wrapping_add(offsets.group_exit_code))?
        } else {
            // Each ended by itself: the first thread's status counts.
            let leader = self.leader(task)?;
            self.u32(leader.0.wrapping_add(offsets.exit_code))?
        };
        Ok(status & 0xffff)
    }

    /// The key of a thread's identity, in eight reads at most.
    ///
    /// # Errors
    /// If the task cannot be read.
    pub fn identity_key(&self, task: TaskAddr) -> Result<IdentityKey, LinuxError> {
        let layout = &self.kernel.layout;
        let offsets = group(&layout.task)?;
        let leader = self.leader(task)?;
        let mm = self.u64(task.0.wrapping_add(offsets.mm))?;
        let cred = self.u64(task.0.wrapping_add(offsets.real_cred))?;
        let (uid, euid) = match &layout.cred {
            Ok(creds) => (
                self.u32(cred.wrapping_add(creds.uid))?,
                self.u32(cred.wrapping_add(creds.euid))?,
            ),
            Err(_) => (0, 0),
        };
        let exe_file = match &layout.exe {
            Ok(exe) if mm != 0 => self.u64(mm.wrapping_add(exe.exe_file))?,
            _ => 0,
        };
        Ok(IdentityKey {
            leader,
            start_time_ns: self.u64(leader.0.wrapping_add(offsets.start_time))?,
            mm,
            cred,
            uid,
            euid,
            exe_file,
            exec_id: self.scalar(task.0, offsets.self_exec_id)?,
        })
    }
}
