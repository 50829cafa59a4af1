// SPDX-License-Identifier: GPL-3.0-only
//! All that is told about one process.

use std::sync::Arc;

use super::path::Place;
use super::{Budget, Credentials, Linux, LinuxError, TaskAddr, group};
use crate::memory::{MemoryError, PhysicalMemory};

/// PF_KTHREAD of the kernel's sched.h, in all versions.
pub(super) const PF_KTHREAD: u32 = 0x0020_0000;
/// FMODE_NOACCOUNT of the kernel's fs.h: an open file that counts against nobody, as all below an overlay do.
const FMODE_NOACCOUNT: u64 = 1 << 29;
/// FMODE_BACKING: one of these bits, by version (the lower from 6.14 on, and in later releases of 6.12). What else they
/// stand for (parallel direct writes, no notification) is never set on what counts against nobody and is mapped.
const FMODE_BACKING: u64 = 1 << 24 | 1 << 25;
/// "Not set" of loginuid, and what is told where it is not known.
const NO_LOGIN: u32 = u32::MAX;
/// Generations walked up by [`Linux::ancestors`].
const MAX_ANCESTORS: usize = 64;

/// One process, or one thread of it with its process's properties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Address of the task that was asked for.
    pub task: TaskAddr,
    /// Address of the task of its first thread, which is there for as long as the process is.
    pub leader: TaskAddr,
    /// Its number in the initial PID namespace: the thread ID, and of a
    /// leader the process ID.
    pub pid: u32,
    /// Process ID in the initial PID namespace.
    pub tgid: u32,
    /// Process ID of the parent; 0 if there is none.
    pub ppid: u32,
    /// Name of the process, at most 15 bytes; the guest's code can change it.
    pub comm: String,
    /// Path of the executable as the process itself would see it: from its root
    /// directory, in its mount namespace. None for kernel threads and for
    /// processes that are gone but for their exit status.
    pub exe: Option<Arc<str>>,
    /// The executable was unlinked, or never had a name (memfd).
    pub exe_deleted: bool,
    /// Where the process's root directory lies in its mount namespace, if it is
    /// not that namespace's own root: the process did chroot, and `exe` is
    /// relative to this.
    pub chroot: Option<Arc<str>>,
    /// Arguments as /proc/PID/cmdline has them, less empty ones at the end. Read
    /// from the process's own memory: cut at 32 KiB, short where pages are
    /// swapped out, and open to change by the process.
    pub args: Vec<String>,
    /// Real user ID.
    pub uid: u32,
    /// Effective user ID.
    pub euid: u32,
    /// Real group ID.
    pub gid: u32,
    /// All users, groups and capabilities, the three above included.
    pub credentials: Credentials,
    /// User ID of the login session (audit); `u32::MAX` where there is none.
    pub loginuid: u32,
    /// When the process started, in nanoseconds since the guest booted.
    pub start_time_ns: u64,
    /// Inode number of the network namespace; 0 where not known, as of a
    /// process that is exiting.
    pub netns: u32,
    /// Inode number of the PID namespace; 0 where not known.
    pub pidns: u32,
    /// Inode number of the mount namespace; 0 where not known.
    pub mntns: u32,
    /// Control group, such as `/system.slice/nginx.service`.
    pub cgroup: Option<Arc<str>>,
    /// The container's ID or name, told by the control group.
    pub container: Option<String>,
    /// A thread of the kernel.
    pub kthread: bool,
    /// Address of its `mm_struct`: what names its memory. Each exec gives it another; 0 where it has none.
    pub mm: u64,
}

impl<M: PhysicalMemory> Linux<M> {
    /// All processes of the guest, kernel threads included. Those that vanish
    /// while they are read are left out.
    ///
    /// # Errors
    /// As [`Linux::leaders`].
    pub fn processes(&self) -> Result<Vec<Process>, LinuxError> {
        self.refresh();
        self.within(Budget::SWEEP, || {
            let leaders = self.leaders()?;
            Ok(leaders
                .into_iter()
                .filter_map(|task| self.process(task).ok())
                .collect())
        })
        .0
    }

    /// Parent, its parent and so on, up to PID 1.
    pub fn ancestors(&self, task: TaskAddr) -> Vec<TaskAddr> {
        let mut chain: Vec<TaskAddr> = Vec::new();
        let mut here = task;
        while let Ok(Some(parent)) = self.parent(here) {
            if chain.len() >= MAX_ANCESTORS || chain.contains(&parent) {
                break;
            }
            chain.push(parent);
            here = parent;
        }
        chain
    }

    /// Reads everything about a process, by any of its threads. What this
    /// kernel does not tell is left at its neutral value; see
    /// [`Layout::gaps`](crate::kernel::Layout::gaps).
    ///
    /// # Errors
    /// If the task itself cannot be read, or [`MemoryError::OverBudget`] where
    /// all of it together is more than any real process has: half of a process
    /// might be taken for another one.
    pub fn process(&self, task: TaskAddr) -> Result<Process, LinuxError> {
        match self.within(Budget::PROCESS, || self.whole_process(task)) {
            (Ok(_), true) => Err(MemoryError::OverBudget { va: task.0 }.into()),
            (result, _) => result,
        }
    }

    /// Path of a process's executable, as [`Process::exe`] has it, by any of
    /// its threads.
    ///
    /// # Errors
    /// As [`Linux::process`].
    pub fn executable(&self, task: TaskAddr) -> Result<Option<Arc<str>>, LinuxError> {
        let read = || {
            let offsets = group(&self.kernel.layout.task)?;
            let mm = self.u64(task.0.wrapping_add(offsets.mm))?;
            let kthread = self.u32(task.0.wrapping_add(offsets.flags))? & PF_KTHREAD != 0;
            match mm {
                0 => Ok(None),
                _ if kthread => Ok(None),
                mm => Ok(self.exe(task, mm)?.path),
            }
        };
        match self.within(Budget::PROCESS, read) {
            (Ok(_), true) => Err(MemoryError::OverBudget { va: task.0 }.into()),
            (result, _) => result,
        }
    }

    fn whole_process(&self, task: TaskAddr) -> Result<Process, LinuxError> {
        let offsets = group(&self.kernel.layout.task)?;
        let at = |offset: u64| task.0.wrapping_add(offset);
        let leader = self.leader(task)?;
        let kthread = self.u32(at(offsets.flags))? & PF_KTHREAD != 0;
        let ppid = match self.parent(task) {
            Ok(Some(parent)) => self.u32(parent.0.wrapping_add(offsets.tgid))?,
            _ => 0,
        };
        // A kernel thread may borrow a process's memory for a while.
        let mm = self.pointer(at(offsets.mm))?.filter(|_| !kthread);
        let exe = mm.and_then(|mm| self.exe(task, mm).ok()).unwrap_or_default();
        let credentials = self.credentials(self.u64(at(offsets.real_cred))?)?;
        let (cgroup, container) = self.cgroup(task);
        let (netns, mntns) = self.namespaces(task);
        Ok(Process {
            task,
            leader,
            pid: self.u32(at(offsets.pid))?,
            tgid: self.u32(at(offsets.tgid))?,
            ppid,
            comm: self.text::<16>(leader.0.wrapping_add(offsets.comm))?,
            exe: exe.path,
            exe_deleted: exe.deleted,
            chroot: exe.chroot,
            args: mm.map(|mm| self.args(mm)).unwrap_or_default(),
            uid: credentials.uid.real,
            euid: credentials.uid.effective,
            gid: credentials.gid.real,
            credentials,
            loginuid: self.loginuid(task),
            start_time_ns: self.u64(leader.0.wrapping_add(offsets.start_time))?,
            netns,
            pidns: self.pid_namespace(task).unwrap_or(0),
            mntns,
            cgroup,
            container,
            kthread,
            mm: mm.unwrap_or(0),
        })
    }

    fn loginuid(&self, task: TaskAddr) -> u32 {
        match &self.kernel.layout.audit {
            Ok(audit) => self.u32(task.0.wrapping_add(audit.loginuid)).unwrap_or(NO_LOGIN),
            Err(_) => NO_LOGIN,
        }
    }

    fn exe(&self, task: TaskAddr, mm: u64) -> Result<Exe, LinuxError> {
        let offsets = group(&self.kernel.layout.exe)?;
        let Some(file) = self.pointer(mm.wrapping_add(offsets.exe_file))? else {
            return Ok(Exe::default());
        };
        let root = self.root_of(task);
        let path = self.resolve(self.place_of_file(file)?, root)?;
        let chroot = root
            .and_then(|root| self.resolve(root, None).ok())
            .map(|path| path.text)
            .filter(|path| path != "/");
        Ok(Exe {
            path: Some(path.text.into()),
            deleted: path.deleted,
            chroot: chroot.map(Into::into),
        })
    }

    /// Root directory of a process: none in one that is exiting.
    pub(super) fn root_of(&self, task: TaskAddr) -> Option<Place> {
        let offsets = self.kernel.layout.exe.as_ref().ok()?;
        let fs = self.pointer(task.0.wrapping_add(offsets.fs)).ok()??;
        self.place(fs.wrapping_add(offsets.root)).ok()
    }

    /// The place of an open file, as whoever opened it knows it: of what an overlay has below it, the overlay's.
    pub(super) fn place_of_file(&self, file: u64) -> Result<Place, LinuxError> {
        let offsets = group(&self.kernel.layout.exe)?;
        if let Ok(backing) = &self.kernel.layout.backing_file {
            let mode = self.scalar(file, backing.f_mode)?;
            if mode & FMODE_NOACCOUNT != 0 && mode & FMODE_BACKING != 0 {
                return self.place(file.wrapping_add(backing.user_path));
            }
        }
        self.place(file.wrapping_add(offsets.f_path))
    }

    /// Inode numbers of the network and the mount namespace.
    fn namespaces(&self, task: TaskAddr) -> (u32, u32) {
        let Ok(offsets) = &self.kernel.layout.namespace else {
            return (0, 0);
        };
        let Ok(Some(proxy)) = self.pointer(task.0.wrapping_add(offsets.nsproxy)) else {
            return (0, 0);
        };
        let inum = |namespace: u64, inum: u64| {
            self.u64(proxy.wrapping_add(namespace))
                .and_then(|at| self.u32(at.wrapping_add(inum)))
                .unwrap_or(0)
        };
        (
            inum(offsets.net_ns, offsets.net_inum),
            inum(offsets.mnt_ns, offsets.mnt_inum),
        )
    }

    /// The PID namespace is that of the innermost number of the task's PID.
    fn pid_namespace(&self, task: TaskAddr) -> Result<u32, LinuxError> {
        let offsets = group(&self.kernel.layout.pid_namespace)?;
        let upid_size = group(&self.kernel.layout.upid_size)?;
        let pid = self.u64(task.0.wrapping_add(offsets.thread_pid))?;
        // MAX_PID_NS_LEVEL is 32.
        let level = u64::from(self.u32(pid.wrapping_add(offsets.level))?.min(32));
        let upid = pid.wrapping_add(offsets.numbers).wrapping_add(level * upid_size);
        let namespace = self.u64(upid.wrapping_add(offsets.upid_ns))?;
        Ok(self.u32(namespace.wrapping_add(offsets.inum))?)
    }
}

#[derive(Default)]
struct Exe {
    path: Option<Arc<str>>,
    deleted: bool,
    chroot: Option<Arc<str>>,
}
