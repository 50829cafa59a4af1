// SPDX-License-Identifier: GPL-3.0-only
//! Who is really there: every task, by every way that leads to one.
//!
//! A rootkit that hides a process takes it off the list of all processes, or
//! out of the table of PIDs that /proc is made from. The scheduler and the
//! parent still need it, and what it sleeps on must know whom to wake, so it is
//! seen there, and what is in one and not in the other is told. So is a socket
//! that is open, and open in no process of the list.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::pid_table::{KIND, MARKS, NODE};
use super::{Budget, Linux, LinuxError, SocketHolding, TaskAddr, group};
use crate::memory::PhysicalMemory;

/// Tasks of one guest that are looked at, threads included.
const MAX_TASKS: usize = 1 << 17;
/// Nodes of the table of PIDs: each holds 64 entries.
const MAX_NODES: usize = 1 << 15;
/// NR_CPUS of distribution kernels.
const MAX_CPUS: u32 = 8192;
/// EXIT_DEAD of the kernel's sched.h: released, on no list any more, and on its
/// CPU for its last few instructions.
const EXIT_DEAD: u32 = 0x10;

/// A way to find a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum View {
    /// The list of all processes, by which the kernel itself visits them.
    TaskList,
    /// The list of a process's threads.
    ThreadList,
    /// The table of PIDs, which /proc and ps show.
    PidTable,
    /// The parent's list of children.
    Children,
    /// What a CPU runs, or has in its run queue.
    RunQueue,
    /// The leader that a thread names.
    Leader,
    /// Who waits on a TCP or UDP socket.
    SocketWait,
}

impl View {
    const ALL: [View; 7] = [
        View::TaskList,
        View::ThreadList,
        View::PidTable,
        View::Children,
        View::RunQueue,
        View::Leader,
        View::SocketWait,
    ];
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            View::TaskList => "the task list",
            View::ThreadList => "its process's list of threads",
            View::PidTable => "the table of PIDs",
            View::Children => "its parent's children",
            View::RunQueue => "a run queue",
            View::Leader => "its threads",
            View::SocketWait => "a socket's queue of waiters",
        })
    }
}

/// A set of views.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Views(u8);

impl Views {
    /// Whether `view` is in the set.
    pub fn has(self, view: View) -> bool {
        self.0 & 1 << view as u8 != 0
    }

    /// The views of the set, in a fixed order.
    pub fn iter(self) -> impl Iterator<Item = View> {
        View::ALL.into_iter().filter(move |&view| self.has(view))
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn add(&mut self, view: View) {
        self.0 |= 1 << view as u8;
    }

    fn without(self, other: Views) -> Views {
        Views(self.0 & !other.0)
    }
}

/// As a list in a sentence.
impl fmt::Display for Views {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, view) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            view.fmt(f)?;
        }
        Ok(())
    }
}

/// A task that one view shows and another, which should, does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HiddenTask {
    /// The task.
    pub task: TaskAddr,
    /// Leader of its process; itself where it is a whole process.
    pub leader: TaskAddr,
    /// Its number; what the task itself says.
    pub pid: u32,
    /// Its name; what the task itself says.
    pub comm: String,
    /// Where it was seen.
    pub seen_in: Views,
    /// Where it should have been seen and was not.
    pub missing_in: Views,
    /// It says that it is released and about to vanish. True of an honest task
    /// for microseconds only: tell of it if it is still there at a later look.
    pub dying: bool,
}

impl HiddenTask {
    /// Whether it is a whole process rather than one thread of one.
    pub fn is_process(&self) -> bool {
        self.task == self.leader
    }
}

/// All tasks by all views, and whether somebody holds what is open.
#[derive(Debug)]
pub struct Census {
    /// Number of tasks that were seen by any view.
    pub tasks: usize,
    /// What does not agree.
    pub hidden: Vec<HiddenTask>,
    /// Views that could not be had, and why.
    pub unseen: Vec<(View, LinuxError)>,
    /// Whether listed processes hold all sockets, or why that is not known.
    pub holding: Result<SocketHolding, LinuxError>,
}

/// Tasks by all views.
struct Count {
    tasks: usize,
    hidden: Vec<HiddenTask>,
    unseen: Vec<(View, LinuxError)>,
}

/// Tasks found so far, and by which views.
#[derive(Default)]
struct Sightings(BTreeMap<u64, Views>);

impl Sightings {
    /// Notes a task; tells whether it is new.
    fn note(&mut self, task: u64, view: View) -> bool {
        if self.0.len() >= MAX_TASKS {
            return false;
        }
        let views = self.0.entry(task).or_default();
        let new = views.is_empty();
        views.add(view);
        new
    }
}

impl<M: PhysicalMemory> Linux<M> {
    /// Takes a census. The guest may run meanwhile, and then a task that comes
    /// or goes looks hidden for a moment: believe only what a second census
    /// finds too.
    ///
    /// # Errors
    /// As [`Linux::leaders`], and where it would take more than
    /// [`Budget::SWEEP`]: half a list would accuse whom the other half has. A
    /// view that this kernel lacks is told in the census, and its absence
    /// accuses nobody.
    pub fn census(&self) -> Result<Census, LinuxError> {
        self.refresh();
        // Bounded each by itself, so that lies about sockets do not cost the
        // lists of tasks.
        let waiters = self.wholly(Budget::SWEEP, || self.waiters());
        let Count {
            tasks,
            hidden,
            unseen,
        } = self.wholly(Budget::SWEEP, || self.count(waiters))?;
        let holding = self.wholly(Budget::SWEEP, || self.socket_holding(&hidden));
        Ok(Census {
            tasks,
            hidden,
            unseen,
            holding,
        })
    }

    fn count(&self, waiters: Result<Vec<TaskAddr>, LinuxError>) -> Result<Count, LinuxError> {
        let mut seen = Sightings::default();
        let mut unseen = Vec::new();
        let mut had = Views::default();
        for task in self.leaders()? {
            seen.note(task.0, View::TaskList);
        }
        had.add(View::TaskList);
        let mut have = |view: View, result: Result<(), LinuxError>| match result {
            Ok(()) => had.add(view),
            Err(why) => unseen.push((view, why)),
        };
        have(View::PidTable, self.note_pid_table(&mut seen));
        have(View::RunQueue, self.note_run_queues(&mut seen));
        let waiting = waiters.map(|tasks| {
            for task in tasks {
                seen.note(task.0, View::SocketWait);
            }
        });
        have(View::SocketWait, waiting);
        have(View::ThreadList, self.note_threads(&mut seen));
        have(View::Children, self.note_children(&mut seen));
        let hidden = self.disagreements(&mut seen, had)?;
        Ok(Count {
            tasks: seen.0.len(),
            hidden,
            unseen,
        })
    }

    /// Every thread that the table of PIDs has.
    fn note_pid_table(&self, seen: &mut Sightings) -> Result<(), LinuxError> {
        let (offsets, head) = self.pid_table()?;
        let slots = offsets.node_slots.count.min(64) as usize;
        let mut raw = [0; 64 * 8];
        // A node and the shift that it must have: each level's is smaller than
        // its parent's, so the depth is bounded.
        let mut nodes: Vec<(u64, u8)> = Vec::new();
        let mut found = Vec::new();
        let mut sort = |entry: u64, below: u8, nodes: &mut Vec<(u64, u8)>| match entry & KIND {
            0 if entry != 0 => found.push(entry),
            NODE if entry > MARKS => nodes.push((entry - NODE, below)),
            _ => {}
        };
        sort(head, u8::MAX, &mut nodes);
        let mut budget = MAX_NODES;
        while let Some((node, below)) = nodes.pop() {
            let Some(left) = budget.checked_sub(1) else { break };
            budget = left;
            let Ok(shift) = self.u8(node.wrapping_add(offsets.node_shift)) else {
                continue;
            };
            let raw = &mut raw[..slots * 8];
            if shift >= below
                || self
                    .read(node.wrapping_add(offsets.node_slots.offset), raw)
                    .is_err()
            {
                continue;
            }
            for slot in raw.chunks_exact(8) {
                sort(slot.try_into().map_or(0, u64::from_le_bytes), shift, &mut nodes);
            }
        }
        for pid in found {
            // Without a task of the first kind it is kept as a group's number.
            if let Ok(Some(link)) = self.pointer(pid.wrapping_add(offsets.pid_tasks)) {
                seen.note(link.wrapping_sub(offsets.pid_links), View::PidTable);
            }
        }
        Ok(())
    }

    /// What runs on each CPU, and the ordinary tasks that wait to.
    fn note_run_queues(&self, seen: &mut Sightings) -> Result<(), LinuxError> {
        let offsets = group(&self.kernel.layout.run_queue)?;
        let symbol = |name| {
            self.kernel
                .symbols
                .address(name)
                .ok_or(LinuxError::NoSymbol(name))
        };
        let runqueues = symbol("runqueues")?;
        let bases = symbol("__per_cpu_offset")?;
        let online = symbol("__cpu_online_mask")?;
        let cpus = self.u32(symbol("nr_cpu_ids")?)?.min(MAX_CPUS);
        for cpu in 0..u64::from(cpus) {
            let word = self.u64(online.wrapping_add(cpu / 64 * 8))?;
            if word >> (cpu % 64) & 1 == 0 {
                continue;
            }
            let base = self.u64(bases.wrapping_add(cpu * 8))?;
            let queue = base.wrapping_add(runqueues);
            let current = self.u64(queue.wrapping_add(offsets.curr))?;
            // The idle task alone may be on no list; that it says so itself,
            // by PID 0, proves nothing.
            if current != self.u64(queue.wrapping_add(offsets.idle))? {
                seen.note(current, View::RunQueue);
            }
            self.each_in_list(
                queue.wrapping_add(offsets.cfs_tasks),
                offsets.group_node,
                MAX_TASKS,
                |task| {
                    seen.note(task, View::RunQueue);
                },
            )?;
        }
        Ok(())
    }

    /// Threads of every process seen so far, and the leaders they name.
    fn note_threads(&self, seen: &mut Sightings) -> Result<(), LinuxError> {
        group(&self.kernel.layout.thread)?;
        let leaders: BTreeSet<u64> = seen
            .0
            .keys()
            .filter_map(|&task| Some(self.leader(TaskAddr(task)).ok()?.0))
            .collect();
        for leader in leaders {
            seen.note(leader, View::Leader);
            // A process that is gone meanwhile has none.
            for thread in self.threads(TaskAddr(leader)).unwrap_or_default() {
                seen.note(thread.0, View::ThreadList);
            }
        }
        Ok(())
    }

    /// Children of every task, and theirs; a child hangs on the very thread that
    /// forked it.
    fn note_children(&self, seen: &mut Sightings) -> Result<(), LinuxError> {
        let offsets = group(&self.kernel.layout.kinship)?;
        let init_task = self
            .landmarks
            .init_task
            .ok_or(LinuxError::NoSymbol("init_task"))?;
        let mut parents: Vec<u64> = seen.0.keys().copied().collect();
        parents.push(init_task);
        while let Some(parent) = parents.pop() {
            let head = parent.wrapping_add(offsets.children);
            // A task that is gone meanwhile has none.
            let _ = self.each_in_list(head, offsets.sibling, MAX_TASKS, |child| {
                if seen.note(child, View::Children) {
                    parents.push(child);
                }
            });
        }
        Ok(())
    }

    fn disagreements(&self, seen: &mut Sightings, had: Views) -> Result<Vec<HiddenTask>, LinuxError> {
        let offsets = group(&self.kernel.layout.task)?;
        let init_task = self.landmarks.init_task.unwrap_or(0);
        let mut hidden = Vec::new();
        for (&task, &seen_in) in &seen.0 {
            // A leader that a thread names may be the idle task of this CPU.
            if task == init_task {
                continue;
            }
            let at = |offset: u64| task.wrapping_add(offset);
            let Ok(leader) = self.u64(at(offsets.group_leader)) else {
                continue;
            };
            let mut expected = Views::default();
            expected.add(View::PidTable);
            if leader == task {
                expected.add(View::TaskList);
                expected.add(View::Children);
            } else {
                expected.add(View::ThreadList);
            }
            let missing_in = Views(expected.0 & had.0).without(seen_in);
            if missing_in.is_empty() {
                continue;
            }
            let state = match &self.kernel.layout.kinship {
                Ok(kinship) => self.u32(at(kinship.exit_state)).unwrap_or(0),
                Err(_) => 0,
            };
            let (Ok(pid), Ok(comm)) = (self.u32(at(offsets.pid)), self.text::<16>(at(offsets.comm))) else {
                continue;
            };
            hidden.push(HiddenTask {
                task: TaskAddr(task),
                leader: TaskAddr(leader),
                pid,
                comm,
                seen_in,
                missing_in,
                dying: state & EXIT_DEAD != 0,
            });
        }
        Ok(hidden)
    }
}

#[cfg(test)]
mod tests {
    use super::{View, Views};

    #[test]
    fn views_read_as_a_list() {
        let mut views = Views::default();
        assert!(views.is_empty());
        views.add(View::RunQueue);
        views.add(View::TaskList);
        assert_eq!(views.to_string(), "the task list, a run queue");
        let mut some = Views::default();
        some.add(View::TaskList);
        assert_eq!(views.without(some).to_string(), "a run queue");
        assert_eq!(views.iter().count(), 2);
    }
}
