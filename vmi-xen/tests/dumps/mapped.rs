// SPDX-License-Identifier: GPL-3.0-only
//! What processes have mapped, against their own /proc/PID/maps; and the text of their executables, against the files.

use vmi_xen::kernel::Kernel;
use vmi_xen::linux::{Hashed, Linux, Mapping, Measurement, PageDigests, Process, Text};
use vmi_xen::memory::PhysicalMemory;

use crate::forge::Overlay;
use crate::kernels::{Loaded, busybox, selected};
use crate::truth::{MapsRow, Truth};

/// Not in the list, but the same for all: /proc/PID/maps adds it.
const VSYSCALL: u64 = 0xffff_ffff_ff60_0000;

/// As a line of /proc/PID/maps.
fn row(mapping: &Mapping) -> MapsRow {
    let access = mapping.access;
    let flag = |set: bool, letter: char| if set { letter } else { '-' };
    let deleted = if mapping.deleted { " (deleted)" } else { "" };
    MapsRow {
        start: mapping.start,
        end: mapping.end,
        access: [
            flag(access.read, 'r'),
            flag(access.write, 'w'),
            flag(access.exec, 'x'),
            if access.shared { 's' } else { 'p' },
        ]
        .iter()
        .collect(),
        // The kernel shows none where there is no file.
        offset: if mapping.file.is_some() { mapping.offset } else { 0 },
        file: mapping.file.as_ref().map(|path| format!("{path}{deleted}")),
    }
}

pub fn mappings<M: PhysicalMemory>(linux: &Linux<M>, truth: &Truth) {
    let mut compared = 0;
    for process in linux.processes().expect("processes") {
        let mappings = linux.mappings(process.task).expect("mappings");
        let Some(told) = truth
            .processes
            .get(&process.pid)
            .filter(|told| told.exe.is_some())
        else {
            continue;
        };
        // The one that tells grows while it does.
        if process.pid == 1 {
            continue;
        }
        let who = format!("{} {:?}", process.pid, process.exe);
        let told: Vec<&MapsRow> = told.maps.iter().filter(|row| row.start != VSYSCALL).collect();
        let rows: Vec<MapsRow> = mappings.iter().map(row).collect();
        assert_eq!(rows.len(), told.len(), "{who}: {rows:#x?}\n{told:#x?}");
        for (row, told) in rows.into_iter().zip(told) {
            // A process in a chroot sees its files from its own root.
            let chroot = process.chroot.as_deref().unwrap_or_default();
            let file = row.file.map(|file| format!("{chroot}{file}"));
            assert_eq!(&MapsRow { file, ..row }, told, "{who}");
        }
        let own = |mapping: &&Mapping| mapping.executable && mapping.access.exec;
        assert!(
            mappings.iter().any(|mapping| own(&mapping)),
            "{who}: {mappings:#x?}"
        );
        compared += mappings.len();
    }
    assert!(compared > 200, "{compared} mappings");
}

/// Processes that run the program that the test has too, wherever it was copied to.
fn run_busybox<M: PhysicalMemory>(linux: &Linux<M>) -> Vec<Process> {
    let mut processes = linux.processes().expect("processes");
    let is_busybox = |process: &Process| {
        process
            .exe
            .as_deref()
            .is_some_and(|exe| exe.ends_with("/busybox"))
    };
    processes.retain(is_busybox);
    processes
}

fn text<M: PhysicalMemory>(linux: &Linux<M>, process: &Process) -> Text {
    linux
        .program_text(process, Some(&mut Hashed::default()))
        .expect("read")
}

fn measure<M: PhysicalMemory>(linux: &Linux<M>, process: &Process, digests: &PageDigests) -> Measurement {
    text(linux, process).against(digests)
}

pub fn text_is_as_in_the_file<M: PhysicalMemory>(linux: &Linux<M>) {
    let mut hashed = Hashed::default();
    let digests = PageDigests::of_elf(&busybox()).expect("a program");
    let processes = run_busybox(linux);
    assert!(processes.len() > 10);
    for process in processes {
        let who = format!("{} {:?}", process.pid, process.exe);
        assert!(linux.is_still(&process).expect(&who), "{who}");
        let text = linux.program_text(&process, Some(&mut hashed)).expect(&who);
        let found = text.against(&digests);
        assert!(found.is_sound(), "{who}: {found:x?}");
        assert!(found.same > 5, "{who}: {found:x?}");
        assert_eq!(text, self::text(linux, &process), "{who}: hashed before");
        // Who asks for no digests gets all the rest.
        let unhashed = linux.program_text(&process, None).expect(&who);
        let mut stripped = text.clone();
        stripped.pages.iter_mut().for_each(|page| page.sha256 = None);
        assert_eq!(unhashed, stripped, "{who}");
        assert!(
            !unhashed.against(&digests).is_sound(),
            "{who}: nothing was compared"
        );
        // All of it is the file's.
        assert!(text.pages.iter().all(|page| page.private == Some(false)), "{who}");
        let other = Process {
            mm: process.mm + 1,
            ..process
        };
        assert!(!linux.is_still(&other).expect(&who), "{who}");
    }
}

/// The workload wrote to its own text, in one process.
pub fn text_of_its_own_is_told<M: PhysicalMemory>(linux: &Linux<M>) {
    let processes = linux.processes().expect("processes");
    let runs_workload = |process: &&Process| process.exe.as_deref() == Some("/workload");
    let mut seen = [0, 0];
    for process in processes.iter().filter(runs_workload) {
        let private = text(linux, process).private();
        let wrote = process.args[0].ends_with("its text is its own");
        assert_eq!(
            private.len(),
            usize::from(wrote),
            "{:?}: {private:x?}",
            process.args
        );
        seen[usize::from(wrote)] += 1;
    }
    // Later kernels may be built to let nobody do that.
    let may = linux.kernel().release.starts_with("6.1.");
    assert!(seen[0] > 3 && seen[1] <= 1, "{seen:?}");
    assert!(seen[1] == 1 || !may, "{}: {seen:?}", linux.kernel().release);
}

#[test]
fn a_changed_byte_of_a_programs_text_is_found_in_every_process_that_shares_it() {
    for kernel in selected() {
        let Loaded { dump, .. } = kernel.load();
        let overlay = Overlay::new(&dump);
        let found = Kernel::find(&overlay, dump.cpus()).expect(kernel.series);
        let linux = Linux::new(overlay, found);
        let digests = PageDigests::of_elf(&busybox()).expect("a program");
        let process = &run_busybox(&linux)[1];
        let text = linux.mappings(process.task).expect("mappings");
        let text = text
            .iter()
            .find(|mapping| mapping.executable && mapping.access.exec);
        let text = text.expect("text");
        let space = linux
            .user_space(process.task)
            .expect("a space")
            .expect("a process");
        let present = (text.start..text.end)
            .step_by(4096)
            .find_map(|va| Some((va, space.translate(linux.memory(), va).ok()?)));
        let (va, pa) = present.expect("a page in memory");
        let mut byte = [0];
        linux.memory().read_phys(pa + 77, &mut byte).expect("there");
        linux.memory().patch(pa + 77, &[!byte[0]]);

        let found = measure(&linux, process, &digests);
        assert!(!found.is_sound());
        assert_eq!(
            found.changed,
            [text.offset + (va - text.start)],
            "{}",
            kernel.series
        );
        let sharing = run_busybox(&linux)
            .iter()
            .filter(|process| !measure(&linux, process, &digests).is_sound())
            .count();
        assert!(sharing > 1, "{}: {sharing}", kernel.series);
    }
}

#[test]
fn another_program_is_not_taken_for_the_measured_one() {
    let kernel = &selected().first();
    let Some(kernel) = kernel else { return };
    let Loaded { dump, .. } = kernel.load();
    let found = Kernel::find(&dump, dump.cpus()).expect(kernel.series);
    let linux = Linux::new(&dump, found);
    let digests = PageDigests::of_elf(&busybox()).expect("a program");
    let other = linux.processes().expect("processes");
    let other = other
        .iter()
        .find(|p| p.exe.as_deref().is_some_and(|exe| exe.ends_with("workload")));
    let found = measure(&linux, other.expect("a workload"), &digests);
    assert!(!found.is_sound() && found.same == 0, "{found:x?}");
    let kthread = linux
        .processes()
        .expect("processes")
        .into_iter()
        .find(|p| p.kthread);
    let none = measure(&linux, &kthread.expect("a kernel thread"), &digests);
    assert!(!none.is_sound(), "nothing is measured: {none:x?}");
}
