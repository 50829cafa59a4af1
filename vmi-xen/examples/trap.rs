// SPDX-License-Identifier: GPL-3.0-only
//! Puts probes on kernel functions of a running guest and prints what fires.
//!
//! ```text
//! trap watch DOMID FUNCTION[=HEX]... [--seconds N] [--quiet] [--slow-step] [--visible] [--audit]
//! trap undo                      free all guests whose watcher died
//! ```
//!
//! A function without an address is looked up in the guest's own symbol table.
//! `--panic N` makes the handler panic at the N-th trap, for testing.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use vmi_xen::{
    altp2m::{Config, Engine, ProbeId, UndoRecord, undo},
    kernel::Kernel,
    live::{LiveMemory, cpu_states},
    memory::AddressSpace,
};
use xen_bindings::{DomId, Xen};

const UNDO_DIR: &str = "/run/policyd/undo";
/// CR3 bit that selects the user half of a process under KPTI.
const USER_HALF: u64 = 0x1000;

static STOP: AtomicBool = AtomicBool::new(false);

struct Options {
    domid: DomId,
    functions: Vec<(String, Option<u64>)>,
    seconds: u64,
    quiet: bool,
    audit: bool,
    panic_at: u64,
    config: Config,
}

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("watch") => watch(&options(args)?),
        Some("undo") => undo_all(),
        _ => bail!("usage: trap watch DOMID FUNCTION[=HEX]... | trap undo"),
    }
}

fn options(mut args: impl Iterator<Item = String>) -> anyhow::Result<Options> {
    let mut options = Options {
        domid: args.next().context("which domain?")?.parse()?,
        functions: Vec::new(),
        seconds: 1_000_000,
        quiet: false,
        audit: false,
        panic_at: 0,
        config: Config {
            spin: Duration::ZERO,
            ..Config::default()
        },
    };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seconds" => options.seconds = args.next().context("how many?")?.parse()?,
            "--panic" => options.panic_at = args.next().context("at which trap?")?.parse()?,
            "--quiet" => options.quiet = true,
            "--audit" => options.audit = true,
            "--slow-step" => options.config.fast_step = false,
            "--visible" => options.config.hide_from_reads = false,
            function => options.functions.push(match function.split_once('=') {
                Some((name, hex)) => (name.to_owned(), Some(u64::from_str_radix(hex, 16)?)),
                None => (function.to_owned(), None),
            }),
        }
    }
    Ok(options)
}

fn watch(options: &Options) -> anyhow::Result<()> {
    let xen = Xen::open()?;
    let domid = options.domid;
    let memory = LiveMemory::new(&xen, domid);
    let cpus = cpu_states(&xen, domid)?;

    let (space, symbols) = if options.functions.iter().all(|(_, va)| va.is_some()) {
        let cpu = cpus
            .iter()
            .find(|cpu| cpu.in_long_mode())
            .context("no vCPU in long mode")?;
        let root = cpu.page_table_root() & !USER_HALF;
        (AddressSpace::new(root, cpu.paging_levels()), None)
    } else {
        let start = Instant::now();
        let kernel = Kernel::find(&memory, &cpus)?;
        println!("{} (found in {:?})", kernel.release, start.elapsed());
        (kernel.space.clone(), Some(kernel.symbols))
    };

    let record = UndoRecord::open(Path::new(UNDO_DIR), domid)?;
    let mut engine = Engine::attach_with(&xen, domid, record, options.config)?;
    let waker = engine.waker();
    ctrl_c(move || waker.wake())?;

    for (number, (name, va)) in options.functions.iter().enumerate() {
        let va = va
            .or_else(|| symbols.as_ref()?.address(name))
            .with_context(|| format!("no symbol {name}"))?;
        let pa = space.translate(&memory, va)?;
        let armed = engine.arm(ProbeId(u32::try_from(number)?), va, pa)?;
        println!(
            "armed {name} at {:#x} (physical {pa:#x}), {}",
            armed.va,
            if armed.one_exit { "one exit" } else { "single step" }
        );
    }

    let end = Instant::now() + Duration::from_secs(options.seconds);
    let mut traps = 0_u64;
    while !STOP.load(Ordering::Relaxed) && Instant::now() < end {
        engine.poll(Duration::from_millis(500), &mut |probe, trap| {
            traps += 1;
            assert_ne!(traps, options.panic_at, "asked for by --panic");
            if !options.quiet {
                println!(
                    "{} vcpu {} rip {:#x} rdi {:#x}",
                    options.functions[probe.0 as usize].0, trap.vcpu, trap.va, trap.regs.rdi
                );
            }
        })?;
        if options.audit {
            engine.audit()?;
        }
    }
    let start = Instant::now();
    let stats = engine.detach()?;
    println!("detached in {:?}: {stats:?}", start.elapsed());
    Ok(())
}

fn undo_all() -> anyhow::Result<()> {
    let xen = Xen::open()?;
    let dir = Path::new(UNDO_DIR);
    for domid in UndoRecord::domains(dir)? {
        let start = Instant::now();
        match UndoRecord::open(dir, domid) {
            Ok(mut record) => println!(
                "domain {domid}: {:?} in {:?}",
                undo(&xen, &mut record)?,
                start.elapsed()
            ),
            Err(error) => println!("domain {domid}: {error}"),
        }
    }
    Ok(())
}

/// Sets [`STOP`] and calls `wake` on SIGINT and SIGTERM, from a thread that
/// waits for them, so that no code runs in signal context.
fn ctrl_c(wake: impl Fn() + Send + 'static) -> anyhow::Result<()> {
    use nix::sys::signal::{SigSet, Signal};
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            STOP.store(true, Ordering::Relaxed);
            wake();
        }
    });
    Ok(())
}
