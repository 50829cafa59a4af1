// SPDX-License-Identifier: GPL-3.0-only
//! Memory of a real kernel, corrupted: the engine must end, without panic, in
//! bounded time, whatever it makes of it.

use std::cell::Cell;
use std::time::{Duration, Instant};

use vmi_xen::integrity::Checker;
use vmi_xen::kernel::Kernel;
use vmi_xen::linux::Linux;
use vmi_xen::memory::{Dump, MemoryError, PhysicalMemory};

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
