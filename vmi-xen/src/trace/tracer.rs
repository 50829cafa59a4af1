// SPDX-License-Identifier: GPL-3.0-only
//! Traps brought together to calls.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::limit::{LeftOut, Limit, Verdict};
use super::memory::{Replaced, TaskMemory};
use super::sites::{self, Site, Wanted};
use crate::altp2m::{EngineError, Trap};
use crate::linux::{Linux, LinuxError, TaskAddr};
use crate::live::LiveMemory;
use crate::memory::{AddressSpace, PhysicalMemory};
use crate::observe::{Subject, Watch};
use crate::syscall::{Abi, Arguments, Call, UserMemory};
use crate::tap::{Next, Place, Tap};

/// Calls that are under way at once: more threads than a guest lets wait in
/// traced calls. Further ones are told at their entry.
const MAX_PENDING: usize = 16 << 10;
/// Bytes of `struct pt_regs`: 21 words, in the order of the kernel's
/// arch/x86/include/uapi/asm/ptrace.h.
const PT_REGS: usize = 168;

/// Whose calls are told. Nothing said means everybody's.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Those of this process, by its ID in the initial PID namespace; a thread's
    /// ID stands for that thread.
    pub pid: Option<u32>,
    /// Those of processes with this executable.
    pub exe: Option<String>,
}

impl Filter {
    fn wants(&self, who: &Subject, tid: u32) -> bool {
        let process = &who.process;
        self.pid.is_none_or(|pid| pid == process.tgid || pid == tid)
            && self
                .exe
                .as_deref()
                .is_none_or(|exe| process.exe.as_deref() == Some(exe))
    }
}

/// A call, as it was seen.
#[derive(Debug, Clone)]
pub struct Traced {
    /// When it was made.
    pub time: SystemTime,
    /// Who made it.
    pub who: Arc<Subject>,
    /// Which of its threads.
    pub tid: u32,
    /// The call.
    pub call: Call,
    /// Its arguments.
    pub arguments: Arguments,
    /// What it returned; `None` where it did not, or was not seen to.
    pub result: Option<u64>,
}

/// What a tracer tells.
#[derive(Debug)]
pub enum Told {
    /// The probes are armed: what happens from now on is told.
    Begun {
        /// Names of the calls that are traced.
        calls: Vec<String>,
        /// What is not traced in full, a sentence each.
        gaps: Vec<String>,
    },
    /// A call has returned, or never will.
    Call(Box<Traced>),
    /// The trace was over its limit.
    LeftOut(LeftOut),
    /// Traps cost the guest more than its budget: nothing is seen of it for a while.
    Rests {
        /// For how long.
        time: Duration,
        /// Why: a sentence without its subject.
        why: String,
    },
    /// That is over: what happens from now on is told again.
    Resumed,
    /// The trace is over: why, where nobody asked for it.
    Ended(Option<String>),
}

/// A call under way.
struct Pending {
    /// Where its return address is.
    rsp: u64,
    cr3: u64,
    traced: Box<Traced>,
}

/// The registers that a probe reads. All are the guest's and may lie.
#[derive(Debug, Clone, Copy)]
struct Registers {
    gs_base: u64,
    cr3: u64,
    rsp: u64,
    rdi: u64,
    rax: u64,
}

/// One trace of one guest. `tell` is called on the domain's thread, at times
/// while a vCPU waits: it must not. It returns false when nobody listens any
/// more.
pub struct Tracer<F> {
    wanted: Vec<Wanted>,
    /// Names of the calls that are wanted.
    names: HashSet<String>,
    filter: Filter,
    limit: Limit,
    tell: F,
    /// What stands at each place, by the place's key.
    sites: Vec<Site>,
    /// What is to be told once the places are armed.
    found: Option<(Vec<String>, Vec<String>)>,
    pending: HashMap<TaskAddr, Pending>,
    /// The page tables that were used last, and the CR3 that they are of.
    space: Option<(u64, AddressSpace)>,
    /// It was told that the budget does not allow it.
    rests: bool,
    listened: bool,
}

impl<F: FnMut(Told) -> bool + Send> Tracer<F> {
    /// A trace of these calls, at most `limit` of them a second.
    pub fn new(wanted: Vec<Wanted>, filter: Filter, limit: u32, tell: F) -> Self {
        Self {
            names: wanted.iter().map(|one| one.name.clone()).collect(),
            wanted,
            filter,
            limit: Limit::new(limit),
            tell,
            sites: Vec::new(),
            found: None,
            pending: HashMap::new(),
            space: None,
            rests: false,
            listened: true,
        }
    }

    fn tell(&mut self, told: Told) {
        self.listened &= (self.tell)(told);
    }

    fn next(&self) -> Next {
        if self.listened {
            Next::Continue
        } else {
            Next::Finish
        }
    }

    /// Tells what was found, before anything else.
    fn begin(&mut self) {
        if let Some((calls, gaps)) = self.found.take() {
            self.tell(Told::Begun { calls, gaps });
        }
    }

    /// A trap at an entry.
    fn entered<M: PhysicalMemory>(
        &mut self,
        linux: &Linux<M>,
        watch: &mut Watch,
        registers: Registers,
    ) -> Result<(), LinuxError> {
        let task = linux.current(registers.gs_base)?;
        let tid = linux.pid(task)?;
        let who = watch.subject(linux, task)?;
        if !self.filter.wants(&who, tid) {
            return Ok(());
        }
        let call = call_of(linux, task, registers.rdi)?;
        // A function may be shared with a call that is not wanted.
        if call
            .signature
            .is_some_and(|signature| !self.names.contains(signature.name))
        {
            return Ok(());
        }
        let space = space_of(&mut self.space, linux, registers.cr3);
        let memory = TaskMemory {
            mem: linux.memory(),
            space,
        };
        let traced = Box::new(Traced {
            time: SystemTime::now(),
            who,
            tid,
            arguments: call.enter(&memory),
            call,
            result: None,
        });
        let returns = call.signature.is_none_or(|signature| signature.returns());
        if !returns || (self.pending.len() >= MAX_PENDING && !self.pending.contains_key(&task)) {
            self.tell(Told::Call(traced));
            return Ok(());
        }
        let pending = Pending {
            rsp: registers.rsp,
            cr3: registers.cr3,
            traced,
        };
        // A task makes one call at a time: an earlier one's return was missed.
        if let Some(missed) = self.pending.insert(task, pending) {
            self.tell(Told::Call(missed.traced));
        }
        Ok(())
    }

    /// A trap where a traced function returns, whoever called it.
    fn returned<M: PhysicalMemory>(
        &mut self,
        linux: &Linux<M>,
        registers: Registers,
    ) -> Result<(), LinuxError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let task = linux.current(registers.gs_base)?;
        if self
            .pending
            .get(&task)
            .is_none_or(|pending| pending.rsp != registers.rsp)
        {
            return Ok(());
        }
        let Some(mut pending) = self.pending.remove(&task) else {
            return Ok(());
        };
        let space = space_of(&mut self.space, linux, registers.cr3);
        let memory = TaskMemory {
            mem: linux.memory(),
            space,
        };
        let Traced {
            call,
            arguments,
            result,
            ..
        } = &mut *pending.traced;
        let same = AddressSpace::new(pending.cr3, space.levels()).root() == space.root();
        let copy = if same { None } else { linux.path_of_exec(task).ok() };
        let replaced;
        let memory: &dyn UserMemory = match copy {
            Some(copy) => {
                replaced = Replaced {
                    new: memory,
                    path: call.path(),
                    copy,
                };
                &replaced
            }
            None => &memory,
        };
        call.leave(memory, registers.rax, arguments);
        *result = Some(registers.rax);
        self.tell(Told::Call(pending.traced));
        Ok(())
    }

    /// Tells the calls under way as they are: their returns will not be seen.
    fn give_up_pending(&mut self) {
        for (_, pending) in std::mem::take(&mut self.pending) {
            self.tell(Told::Call(pending.traced));
        }
    }
}

impl<F: FnMut(Told) -> bool + Send> Tap for Tracer<F> {
    fn places(&mut self, linux: &Linux<LiveMemory>) -> Result<Vec<Place>, String> {
        let found = sites::find(linux.memory(), linux.kernel(), &self.wanted);
        if found.places.is_empty() {
            let nothing = "this kernel has none of the calls".to_owned();
            return Err(found
                .gaps
                .into_iter()
                .reduce(|a, b| format!("{a}; {b}"))
                .unwrap_or(nothing));
        }
        self.found = Some((found.found, found.gaps));
        // Returns first: a call that is seen to begin is to be seen to end.
        let (returns, entries): (Vec<_>, Vec<_>) = found
            .places
            .into_iter()
            .partition(|(_, site)| *site == Site::Return);
        let mut places = Vec::new();
        for (va, site) in returns.into_iter().chain(entries) {
            places.push(Place {
                key: self.sites.len() as u32,
                va,
                entry: site != Site::Return,
            });
            self.sites.push(site);
        }
        Ok(places)
    }

    fn refused(&mut self, place: Place, why: &EngineError) -> Next {
        if let Some((_, gaps)) = &mut self.found {
            gaps.push(format!("{:#x} has no probe: {why}", place.va));
        }
        self.next()
    }

    fn armed(&mut self) -> Next {
        self.begin();
        if std::mem::take(&mut self.rests) {
            self.tell(Told::Resumed);
        }
        self.next()
    }

    fn fire(&mut self, key: u32, trap: &Trap<'_>, linux: &Linux<LiveMemory>, watch: &mut Watch) -> Next {
        let Some(site) = self.sites.get(key as usize) else {
            return self.next();
        };
        let registers = Registers {
            gs_base: trap.regs.gs_base,
            cr3: trap.regs.cr3,
            rsp: trap.regs.rsp,
            rdi: trap.regs.rdi,
            rax: trap.regs.rax,
        };
        // Where guest memory makes no sense there is nothing to tell.
        match *site {
            Site::Return => drop(self.returned(linux, registers)),
            Site::Entry => match self.limit.call() {
                Verdict::Tell => drop(self.entered(linux, watch, registers)),
                Verdict::Pass => {}
                Verdict::Stop => return Next::Rest,
            },
        }
        self.next()
    }

    fn tick(&mut self) -> Next {
        if let Some(left_out) = self.limit.tick() {
            if left_out.at_least {
                self.give_up_pending();
            }
            self.tell(Told::LeftOut(left_out));
        }
        self.next()
    }

    fn rests(&mut self, time: Duration, why: &str) {
        self.give_up_pending();
        self.rests = true;
        let why = why.to_owned();
        self.tell(Told::Rests { time, why });
    }

    fn ended(&mut self, why: Option<&str>) {
        self.give_up_pending();
        if let Some(left_out) = self.limit.tick() {
            self.tell(Told::LeftOut(left_out));
        }
        self.tell(Told::Ended(why.map(str::to_owned)));
    }
}

/// The address space of these page tables; most traps come from the same one as
/// the last.
fn space_of<'s, M: PhysicalMemory>(
    last: &'s mut Option<(u64, AddressSpace)>,
    linux: &Linux<M>,
    cr3: u64,
) -> &'s AddressSpace {
    if last.as_ref().is_some_and(|(of, _)| *of != cr3) {
        *last = None;
    }
    let levels = linux.kernel().space.levels();
    let (_, space) = last.get_or_insert_with(|| (cr3, AddressSpace::new(cr3, levels)));
    space.flush();
    space
}

/// The call whose caller's registers are at `pt_regs`.
fn call_of<M: PhysicalMemory>(linux: &Linux<M>, task: TaskAddr, pt_regs: u64) -> Result<Call, LinuxError> {
    let mut raw = [0; PT_REGS];
    linux.read(pt_regs, &mut raw)?;
    let word = |index: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&raw[index * 8..index * 8 + 8]);
        u64::from_le_bytes(bytes)
    };
    let [bp, bx, r10, r9, r8, cx, dx, si, di, number] = [4, 5, 7, 8, 9, 11, 12, 13, 14, 15].map(word);
    Ok(if linux.in_32_bit_call(task)? {
        Call::new(Abi::Ia32, number, [bx, cx, dx, si, di, bp])
    } else {
        Call::new(Abi::X64, number, [di, si, dx, r10, r8, r9])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_hears_of_a_rest_and_of_its_end() {
        let mut heard = Vec::new();
        let mut tracer = Tracer::new(Vec::new(), Filter::default(), 5, |told| {
            heard.push(told);
            true
        });
        tracer.found = Some((vec!["openat".into()], Vec::new()));
        assert_eq!(tracer.armed(), Next::Continue);
        tracer.rests(Duration::from_secs(10), "rests");
        // Its probes are there again; after a rest for its own limit nothing is said.
        tracer.armed();
        tracer.armed();
        drop(tracer);
        assert!(
            matches!(&heard[..], [Told::Begun { .. }, Told::Rests { time, why }, Told::Resumed]
                if time.as_secs() == 10 && why == "rests"),
            "{heard:?}"
        );
    }
}
