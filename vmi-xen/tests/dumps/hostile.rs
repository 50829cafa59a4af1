// SPDX-License-Identifier: GPL-3.0-only
//! Memory of a real kernel, corrupted: the engine must end, without panic, in
//! bounded time, whatever it makes of it. The targets of `fuzz/` run here too,
//! with inputs from a fixed seed.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use vmi_xen::integrity::Checker;
use vmi_xen::kernel::Kernel;
use vmi_xen::linux::{Budget, Linux};
use vmi_xen::memory::{Dump, MemoryError, PhysicalMemory};
use vmi_xen::observe::Watch;

use crate::fuzz;
use crate::kernels::{Loaded, selected};

/// Bringing up and sweeping a sound dump takes well under a second even
/// unoptimised; lies may make walks longer, up to their bounds.
const LIMIT: Duration = Duration::from_secs(60);

/// Memory in which one 8-byte word of every `rate` is replaced, always by the
/// same value for the same place and seed.
struct Corrupted<'a> {
    dump: &'a Dump,
    seed: u64,
    rate: u64,
    on: Cell<bool>,
}

/// SplitMix64's finaliser.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl PhysicalMemory for Corrupted<'_> {
    fn read_phys(&self, pa: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        self.dump.read_phys(pa, buf)?;
        if !self.on.get() {
            return Ok(());
        }
        for (byte, at) in buf.iter_mut().zip(pa..) {
            let dice = mix(self.seed ^ (at / 8));
            if dice.is_multiple_of(self.rate) {
                // Half of the lies are other pointers into real structures:
                // the same word with some low bits changed.
                let value = mix(dice);
                let mask = if value & 1 == 0 { u64::MAX } else { 0xfff8 };
                *byte ^= (value & mask).to_le_bytes()[(at % 8) as usize];
            }
        }
        Ok(())
    }
}

fn sweep(mem: &Corrupted<'_>, kernel: Kernel) {
    let linux = Linux::new(mem, kernel);
    let leaders = linux.leaders().unwrap_or_default();
    for task in leaders.into_iter().take(5000) {
        let _ = linux.process(task);
        let _ = linux.identity_key(task);
        let _ = linux.sockets_of(task);
        let _ = linux.threads(task);
        let _ = linux.ancestors(task);
    }
    let _ = linux.addresses();
    for cpu in mem.dump.cpus() {
        let _ = linux.prove_current(cpu);
    }
    let mut checker = Checker::default();
    for _ in 0..2 {
        let report = checker.check(&linux, mem.dump.cpus(), &|_| false);
        // Each finding can be told.
        assert!(
            report
                .findings
                .iter()
                .all(|finding| finding.to_string().len() < 2000)
        );
    }
}

#[test]
fn corrupted_structures_end() {
    let Some(kernel) = selected().first() else {
        return;
    };
    let Loaded { dump, .. } = kernel.load();
    for seed in 0..12 {
        let begun = Instant::now();
        let mem = Corrupted {
            dump: &dump,
            seed,
            rate: [20, 100, 500][seed as usize % 3],
            on: Cell::new(false),
        };
        let found = Kernel::find(&mem, dump.cpus()).expect("a sound dump");
        mem.on.set(true);
        sweep(&mem, found);
        assert!(begun.elapsed() < LIMIT, "seed {seed}: {:?}", begun.elapsed());
    }
}

#[test]
fn corrupted_kernel_images_end() {
    let Some(kernel) = selected().first() else {
        return;
    };
    let Loaded { dump, .. } = kernel.load();
    for seed in 0..6 {
        let begun = Instant::now();
        let mem = Corrupted {
            dump: &dump,
            seed,
            // From hopeless to nearly sound.
            rate: 10u64.pow(2 + seed as u32),
            on: Cell::new(true),
        };
        if let Ok(kernel) = Kernel::find(&mem, dump.cpus()) {
            sweep(&mem, kernel);
        }
        assert!(begun.elapsed() < LIMIT, "seed {seed}: {:?}", begun.elapsed());
    }
}

/// Inputs of up to 512 bytes, the same in each run.
fn inputs(count: u64) -> impl Iterator<Item = Vec<u8>> {
    (0..count).map(|seed| {
        let len = mix(!seed) % 64;
        (0..len)
            .flat_map(|word| mix(seed << 8 | word).to_le_bytes())
            .collect()
    })
}

#[test]
fn parsers_take_any_bytes() {
    for input in inputs(600) {
        fuzz::paging(&input);
        fuzz::kallsyms(&input);
        fuzz::btf(&input);
        fuzz::dump(&input);
    }
    // Nothing changed: sound, and read to the end.
    for sound in [&[][..], &[0]] {
        fuzz::kallsyms(sound);
        fuzz::btf(sound);
        fuzz::dump(sound);
    }
}

#[test]
fn parsers_take_what_is_left_of_a_real_kernel() {
    for kernel in selected() {
        let Loaded { dump, .. } = kernel.load();
        let begun = Instant::now();
        let real = fuzz::Real::cut(&dump, dump.cpus());
        real.paging(&[]);
        real.kallsyms(&[]);
        real.btf(&[]);
        for input in inputs(300) {
            real.paging(&input);
        }
        for input in inputs(36) {
            real.kallsyms(&input);
            real.btf(&input);
        }
        assert!(begun.elapsed() < 4 * LIMIT, "{:?}", begun.elapsed());
    }
}

#[test]
fn lies_stay_within_the_budgets() {
    let Some(kernel) = selected().first() else {
        return;
    };
    let Loaded { dump, .. } = kernel.load();
    let guest = fuzz::Guest::record(&dump, dump.cpus());
    for input in inputs(60) {
        guest.tasks(&input);
        guest.sockets(&input);
        guest.traps(&input);
    }
}

/// A guest in which everything is mapped and every pointer leads to something new: no list ends, and none comes round.
struct Endless<'a> {
    dump: &'a Dump,
    sound: Cell<bool>,
    reads: Cell<u64>,
}

impl PhysicalMemory for Endless<'_> {
    fn read_phys(&self, pa: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        if self.sound.get() {
            return self.dump.read_phys(pa, buf);
        }
        self.reads.set(self.reads.get() + 1);
        for (number, part) in (0..).zip(buf.chunks_mut(8)) {
            // As a pointer, an address of the direct map; as an entry of a page table, a page that is present.
            let word = 0xffff_8880_0000_0001 | mix(pa + number) & 0x3_ffff_ff00;
            part.copy_from_slice(&word.to_le_bytes()[..part.len()]);
        }
        Ok(())
    }
}

#[test]
fn bounds_that_multiply_are_bounded_together() {
    let Some(kernel) = selected().first() else {
        return;
    };
    let Loaded { dump, .. } = kernel.load();
    let mem = Endless {
        dump: &dump,
        sound: Cell::new(true),
        reads: Cell::new(0),
    };
    let linux = Linux::new(&mem, Kernel::find(&mem, dump.cpus()).expect("a sound dump"));
    mem.sound.set(false);
    linux.refresh();
    // An operation's own budget and that of what it is part of, whichever is less.
    let small = Budget {
        reads: 100_000,
        bytes: 10_000_000,
    };
    for (what, run) in [
        ("addresses", &(|| drop(linux.addresses())) as &dyn Fn()),
        ("processes", &|| drop(linux.processes())),
        ("census", &|| drop(linux.census())),
        ("check", &|| {
            drop(Checker::default().check(&linux, dump.cpus(), &|_| false))
        }),
    ] {
        let ((), refused) = linux.within(small, run);
        assert!(refused, "{what} would go on after {} reads", mem.reads.get());
        let reads = mem.reads.take();
        assert!(
            reads <= 12 * (small.reads + small.bytes / 4096),
            "{what}: {reads} reads"
        );
        assert!(reads >= small.reads / 2, "{what}: {reads} reads");
    }
    for number in 0..100 {
        let task = linux.current(number << 12).expect("any kernel address");
        mem.reads.take();
        let _ = linux.process(task);
        let reads = mem.reads.take();
        let most = 12 * (Budget::PROCESS.reads + Budget::PROCESS.bytes / 4096);
        assert!(reads <= most, "one process: {reads} reads");
    }
}

#[test]
fn half_a_process_is_none() {
    let Some(kernel) = selected().first() else {
        return;
    };
    let Loaded { dump, .. } = kernel.load();
    let linux = Linux::new(&dump, Kernel::find(&dump, dump.cpus()).expect("a sound dump"));
    let leaders = linux.leaders().expect("leaders");
    let told = |task| Watch::default().subject(&linux, task).expect("a process");
    let whole = leaders
        .into_iter()
        .map(told)
        .max_by_key(|subject| subject.parents.len());
    let whole = whole.expect("a process");
    let task = whole.process.task;
    for reads in 0.. {
        let budget = Budget {
            reads,
            ..Budget::PROCESS
        };
        let (process, refused) = linux.within(budget, || linux.process(task));
        let (subject, _) = linux.within(budget, || Watch::default().subject(&linux, task));
        assert_eq!(process.is_err(), refused, "{reads} reads");
        if let Ok(subject) = subject {
            assert_eq!(subject.process, whole.process);
            assert_eq!(subject.parents, whole.parents);
            assert!((50..1000).contains(&reads), "{reads} reads");
            break;
        }
    }
}

#[test]
fn half_a_check_accuses_nobody() {
    let Some(kernel) = selected().first() else {
        return;
    };
    let Loaded { dump, .. } = kernel.load();
    let linux = Linux::new(&dump, Kernel::find(&dump, dump.cpus()).expect("a sound dump"));
    let mut seen = BTreeSet::new();
    for reads in (0..6_000).step_by(100).chain([Budget::SWEEP.reads]) {
        let budget = Budget {
            reads,
            ..Budget::SWEEP
        };
        let check = || Checker::default().check(&linux, dump.cpus(), &|_| false);
        let (report, refused) = linux.within(budget, check);
        assert_eq!(report.findings, [], "{reads} reads");
        let said = report.unchecked.iter().any(|what| what.contains("too much"));
        assert_eq!(said, refused, "{reads} reads: {:?}", report.unchecked);
        // Of tasks, and of sockets, all or none.
        seen.insert((report.extent.tasks, report.extent.sockets));
    }
    let &(tasks, sockets) = seen.last().expect("a whole check");
    assert_eq!(seen, BTreeSet::from([(0, 0), (tasks, 0), (tasks, sockets)]));
}
