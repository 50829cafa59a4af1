// SPDX-License-Identifier: GPL-3.0-only
//! Is this kernel still what it was, and does it hide anything?
//!
//! Each check compares two things that an honest kernel keeps equal: one list
//! with another, a pointer with the place it must point to, code with itself as
//! it was before. Nothing is compared with a file from outside: there is no
//! profile of any kernel.
//!
//! **Invariant:** reads only, beside the trap path. What cannot be checked in a
//! kernel is told ([`Report::unchecked`]), never passed over. What a check reads
//! is bounded: lists of tasks, sockets and code by a [`Budget::SWEEP`] each.

mod entries;
mod finding;
mod hooks;
mod sites;
mod target;
mod text;

use std::time::{Duration, Instant};

pub use finding::{Finding, Severity, SiteKind};
pub use target::{Owner, Target};

use crate::linux::{Budget, Linux, LinuxError, Module, ModuleView, TaskAddr, UnheldSocket};
use crate::memory::{CpuState, MemoryError, PhysicalMemory};
use target::AddressBook;
use text::{Baseline, Text};

/// Findings of one check that are told; a guest that is turned upside down
/// must not fill the log.
const MAX_FINDINGS: usize = 1000;

/// What was looked at, and what was found.
#[derive(Debug, Default)]
pub struct Report {
    /// What an untouched kernel does not show.
    pub findings: Vec<Finding>,
    /// What could not be checked, and why; a sentence each.
    pub unchecked: Vec<String>,
    /// How much was looked at.
    pub extent: Extent,
    /// How long it took.
    pub took: Duration,
}

/// How much a check looked at.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Tasks, threads included, by any view.
    pub tasks: usize,
    /// TCP and UDP sockets that a program opened.
    pub sockets: usize,
    /// Modules.
    pub modules: usize,
    /// Entries of system-call tables.
    pub system_calls: usize,
    /// Entry registers of vCPUs.
    pub registers: usize,
    /// Gates of the interrupt descriptor table.
    pub gates: usize,
    /// Places that the kernel patches: of ftrace, static keys and static calls.
    pub sites: usize,
    /// Constant tables of operations.
    pub operations: usize,
    /// Bytes of code.
    pub text: usize,
    /// Functions that were compared with what they were at the first check; 0
    /// at the first.
    pub functions: usize,
}

/// Checks one guest, again and again: remembers what its code was like when it
/// was first seen.
#[derive(Debug, Default)]
pub struct Checker {
    baseline: Option<Baseline>,
    /// Tasks that said they were about to vanish, at the last check.
    dying: Vec<TaskAddr>,
}

impl Checker {
    /// Checks the guest once. Findings about a guest that runs may be moments
    /// of an honest change: believe those that a second check confirms
    /// ([`Report::confirm`]). `own` tells whether a breakpoint at an address is
    /// the engine's own.
    ///
    /// Copies the kernel's text (some 16 MiB) for as long as it takes.
    pub fn check<M: PhysicalMemory>(
        &mut self,
        linux: &Linux<M>,
        cpus: &[CpuState],
        own: &dyn Fn(u64) -> bool,
    ) -> Report {
        let begun = Instant::now();
        linux.refresh();
        let mut report = Report::default();
        let unheld = self.tasks(linux, &mut report);
        let ((), refused) = linux.within(Budget::SWEEP, || self.kernel(linux, cpus, own, &mut report));
        if refused {
            // What was found stays: no honest kernel takes so much.
            report.cannot(
                "all of the kernel's code",
                &MemoryError::OverBudget { va: 0 }.into(),
            );
        }
        // Last, since one process may have thousands, and all else weighs more.
        report
            .findings
            .extend(unheld.into_iter().map(Finding::UnheldSocket));
        report.findings.truncate(MAX_FINDINGS);
        report.took = begun.elapsed();
        report
    }

    /// Tells of tasks that hide; returns the sockets that nobody holds.
    fn tasks<M: PhysicalMemory>(&mut self, linux: &Linux<M>, report: &mut Report) -> Vec<UnheldSocket> {
        let census = match linux.census() {
            Ok(census) => census,
            Err(why) => {
                report.cannot("processes", &why);
                return Vec::new();
            }
        };
        report.extent.tasks = census.tasks;
        for (view, why) in &census.unseen {
            report.cannot(&view.to_string(), why);
        }
        let before = std::mem::take(&mut self.dying);
        for task in census.hidden {
            if task.dying {
                self.dying.push(task.task);
                if !before.contains(&task.task) {
                    continue;
                }
            }
            report.findings.push(Finding::HiddenTask(task));
        }
        match census.holding {
            Ok(holding) => {
                report.extent.sockets = holding.sockets;
                holding.unheld
            }
            Err(why) => {
                report.cannot("who holds sockets", &why);
                Vec::new()
            }
        }
    }

    fn kernel<M: PhysicalMemory>(
        &mut self,
        linux: &Linux<M>,
        cpus: &[CpuState],
        own: &dyn Fn(u64) -> bool,
        report: &mut Report,
    ) {
        let modules = modules(linux, report);
        match AddressBook::read(linux, &modules) {
            Ok(book) => {
                entries(linux, &book, cpus, report);
                self.code(linux, &book, own, report);
            }
            Err(why) => report.cannot("anything of the kernel's code", &why),
        }
    }

    fn code<M: PhysicalMemory>(
        &mut self,
        linux: &Linux<M>,
        book: &AddressBook<'_, M>,
        own: &dyn Fn(u64) -> bool,
        report: &mut Report,
    ) {
        hooks::tracers(book, &mut report.findings);
        let probes = match hooks::kprobes(linux, book, &mut report.findings) {
            Ok(probes) => probes,
            Err(why) => {
                report.cannot("kernel probes", &why);
                Vec::new()
            }
        };
        match hooks::operations(linux, book, &mut report.findings) {
            Ok(tables) => report.extent.operations = tables,
            Err(why) => report.cannot("tables of operations", &why),
        }
        let mut text = match Text::read(linux, book.text.clone()) {
            Ok(text) => text,
            Err(why) => return report.cannot("the kernel's text", &why),
        };
        report.extent.text = text.len();
        let probed = |va: u64| probes.contains(&va);
        let own = |va: u64| own(va) || probed(va);
        match sites::check(linux, book, &mut text, &own, &mut report.findings) {
            Ok(count) => report.extent.sites = count.ftrace + count.keys + count.calls,
            Err(why) => return report.cannot("the kernel's text", &why),
        }
        hooks::detours(linux, book, &text, &mut report.findings);
        let symbols = &linux.kernel().symbols;
        let Some(baseline) = self.baseline.as_ref().filter(|known| known.is_of(&text)) else {
            // Until the first program runs the kernel still patches itself, and
            // frees what only its start needed.
            if has_booted(linux) {
                self.baseline = Some(Baseline::of(&text, symbols));
            } else {
                report
                    .unchecked
                    .push("changes of the kernel's text: it still boots".to_owned());
            }
            return;
        };
        report.extent.functions = baseline.functions();
        for (va, len) in baseline.changed(&text, symbols) {
            let range = va..va.saturating_add(len as u64);
            report.findings.push(Finding::TextChanged {
                function: book.target(va),
                len,
                probed: probes.iter().any(|probe| range.contains(probe)),
            });
        }
    }
}

impl Report {
    /// Keeps what `other`, an earlier or later report on the same guest, found
    /// too.
    pub fn confirm(&mut self, other: &Report) {
        self.findings
            .retain(|finding| other.findings.iter().any(|again| finding.is_same(again)));
    }

    /// The worst severity found.
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(Finding::severity).max()
    }

    fn cannot(&mut self, what: &str, why: &LinuxError) {
        self.unchecked.push(format!("{what}: {why}"));
    }
}

/// Whether a program of user space runs: PID 1 comes first in the list.
fn has_booted<M: PhysicalMemory>(linux: &Linux<M>) -> bool {
    let first = linux.leaders().ok().and_then(|leaders| leaders.first().copied());
    first.is_some_and(|init| linux.process(init).is_ok_and(|init| init.exe.is_some()))
}

fn modules<M: PhysicalMemory>(linux: &Linux<M>, report: &mut Report) -> Vec<Module> {
    let (modules, views) = match linux.modules() {
        Ok(found) => found,
        Err(why) => {
            report.cannot("modules", &why);
            return Vec::new();
        }
    };
    report.extent.modules = modules.len();
    for view in [ModuleView::Sysfs, ModuleView::AddressTree] {
        if !views.contains(&view) {
            report.unchecked.push(format!("{view}: this kernel has none"));
        }
    }
    for module in modules.iter().filter(|module| module.live) {
        let missing: Vec<ModuleView> = views
            .iter()
            .copied()
            .filter(|view| !module.seen_in.contains(view))
            .collect();
        if !missing.is_empty() {
            report.findings.push(Finding::HiddenModule {
                name: module.name.clone(),
                at: module.at,
                seen_in: module.seen_in.clone(),
                missing_in: missing,
            });
        }
    }
    modules
}

fn entries<M: PhysicalMemory>(
    linux: &Linux<M>,
    book: &AddressBook<'_, M>,
    cpus: &[CpuState],
    report: &mut Report,
) {
    match entries::system_calls(linux, book, &mut report.findings) {
        Ok(count) => report.extent.system_calls = count,
        Err(why) => report.cannot("system calls", &why),
    }
    match entries::interrupts(linux, book, cpus, &mut report.findings) {
        Ok(count) => report.extent.gates = count,
        Err(why) => report.cannot("interrupts", &why),
    }
    report.extent.registers = entries::registers(linux, book, cpus, &mut report.findings);
    if report.extent.registers == 0 {
        report
            .unchecked
            .push("LSTAR: this source of memory does not carry it".to_owned());
    }
}
