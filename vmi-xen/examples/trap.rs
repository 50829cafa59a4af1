// SPDX-License-Identifier: GPL-3.0-only
//! Puts probes on kernel functions of a running guest and prints what fires.
//!
//! ```text
//! trap watch DOMID FUNCTION[=HEX]... [--seconds N] [--quiet] [--step] [--slow-step] [--visible] [--audit] [--read] [--spin]
//! trap undo                      free all guests whose watcher died
//! trap counters                  what the rig's emulator has counted so far
//! ```
//!
//! A function without an address is looked up in the guest's own symbol table.
//! `--panic N` makes the handler panic at the N-th trap, for testing. `--step` has every probe single-stepped, `--slow-step`
//! with an event for the step too, as xen-access does it. `--read` reads process and socket at each trap as policyd does,
//! and tells at the end what that cost where the emulator counts. `--spin` asks for events without ever waiting, and tells
//! what taking and answering one costs besides.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use vmi_xen::{
    altp2m::{Config, Engine, ProbeId, Trap, UndoRecord, undo},
    kernel::Kernel,
    linux::{Credentials, Linux, Socket},
    live::{LiveMemory, cpu_states},
    memory::AddressSpace,
    observe::{Observer, Point, Registers, Subject, Watch},
};
use xen_bindings::{DomId, Xen};

#[path = "support/counters.rs"]
mod counters;

use counters::Counters;

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
    read: bool,
    spin: bool,
    panic_at: u64,
    config: Config,
}

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("watch") => watch(&options(args)?),
        Some("undo") => undo_all(),
        Some("counters") => {
            let counters = Counters::find().context("no emulator of the rig counts here")?;
            counters.print();
            Ok(())
        }
        _ => bail!("usage: trap watch DOMID FUNCTION[=HEX]... | trap undo | trap counters"),
    }
}

fn options(mut args: impl Iterator<Item = String>) -> anyhow::Result<Options> {
    let mut options = Options {
        domid: args.next().context("which domain?")?.parse()?,
        functions: Vec::new(),
        seconds: 1_000_000,
        quiet: false,
        audit: false,
        read: false,
        spin: false,
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
            "--read" => options.read = true,
            "--spin" => options.spin = true,
            "--step" => options.config.one_exit = false,
            "--slow-step" => (options.config.one_exit, options.config.fast_step) = (false, false),
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

    let mut reading = None;
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
        let names = (kernel.space.clone(), Some(kernel.symbols.clone()));
        if options.read {
            reading = Some(Reading::new(Linux::new(LiveMemory::new(&xen, domid), kernel)));
        }
        names
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
    let mut ring = options.spin.then(RingCost::find).transpose()?;
    while !STOP.load(Ordering::Relaxed) && Instant::now() < end {
        if let Some(ring) = &mut ring {
            let begin = ring.now();
            let served = engine.poll(Duration::ZERO, &mut |_, _| {})?;
            ring.polled(begin, served);
            // The guest may have no other processor.
            std::thread::yield_now();
            continue;
        }
        engine.poll(Duration::from_millis(500), &mut |probe, trap| {
            traps += 1;
            assert_ne!(traps, options.panic_at, "asked for by --panic");
            if let Some(reading) = &mut reading {
                reading.read(&options.functions[probe.0 as usize].0, trap);
            }
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
    if let Some(reading) = reading {
        reading.print();
    }
    if let Some(ring) = ring {
        ring.print();
    }
    Ok(())
}

/// What it costs to take an event off the ring, find its probe and answer it: a poll that served one, less one that found
/// nothing.
struct RingCost {
    counters: Counters,
    /// Instructions of polls that served one event.
    served: Vec<u64>,
    /// Instructions of polls that found none.
    idle: Vec<u64>,
}

impl RingCost {
    /// More of either say nothing more.
    const ENOUGH: usize = 10_000;

    fn find() -> anyhow::Result<Self> {
        Ok(Self {
            counters: Counters::find().context("no emulator of the rig counts here")?,
            served: Vec::new(),
            idle: Vec::new(),
        })
    }

    /// Instructions of dom0 and Xen: answering sets a vCPU free, which may run before the answer returns.
    fn now(&self) -> u64 {
        self.counters.host_instructions()
    }

    fn polled(&mut self, begin: u64, served: usize) {
        let cost = self.now() - begin;
        let costs = match served {
            0 => &mut self.idle,
            1 => &mut self.served,
            _ => return,
        };
        if costs.len() < Self::ENOUGH {
            costs.push(cost);
        }
    }

    fn print(mut self) {
        self.served.sort_unstable();
        self.idle.sort_unstable();
        let middle = |costs: &[u64]| costs.get(costs.len() / 2).copied();
        if let (Some(served), Some(idle)) = (middle(&self.served), middle(&self.idle)) {
            println!("{} events by themselves", self.served.len());
            let ring = served.saturating_sub(idle);
            println!("bench: {ring} instructions ring: take the event, find the probe, answer");
        }
    }
}

/// What policyd reads at a trap, and its cost.
struct Reading {
    linux: Linux<LiveMemory>,
    watch: Watch,
    counters: Option<Counters>,
    facts: Facts,
    /// Instructions of each trap.
    costs: Vec<u64>,
}

/// Counts what it is told.
#[derive(Default)]
struct Facts(u64);

impl Observer for Facts {
    fn forked(&mut self, _: &Arc<Subject>) {
        self.0 += 1;
    }
    fn executed(&mut self, _: &Arc<Subject>) {
        self.0 += 1;
    }
    fn exited(&mut self, _: &Arc<Subject>, _: u32) {
        self.0 += 1;
    }
    fn listening(&mut self, _: &Arc<Subject>, _: &Socket) {
        self.0 += 1;
    }
    fn connecting(&mut self, _: &Arc<Subject>, _: &Socket, _: Option<u32>) {
        self.0 += 1;
    }
    fn changing(&mut self, _: &Arc<Subject>, _: &Credentials) {
        self.0 += 1;
    }
    fn accepted(&mut self, _: &Arc<Subject>, _: &Socket) {
        self.0 += 1;
    }
    fn bound(&mut self, _: &Arc<Subject>, _: &Socket) {
        self.0 += 1;
    }
    fn closing(&mut self, _: u64) {
        self.0 += 1;
    }
}

impl Reading {
    fn new(linux: Linux<LiveMemory>) -> Self {
        Self {
            linux,
            watch: Watch::default(),
            counters: Counters::find(),
            facts: Facts::default(),
            costs: Vec::new(),
        }
    }

    fn read(&mut self, function: &str, trap: &Trap<'_>) {
        let Some(point) = Point::ALL
            .into_iter()
            .find(|point| point.functions().contains(&function))
        else {
            return;
        };
        let registers = Registers {
            gs_base: trap.regs.gs_base,
            rdi: trap.regs.rdi,
            rsi: trap.regs.rsi,
        };
        let before = self.counters.map(|counters| counters.instructions());
        // What cannot be read is no fact: the counts tell.
        let _ = self
            .watch
            .fire(&self.linux, point, function, registers, &mut self.facts);
        let after = self.counters.map(|counters| counters.instructions());
        self.costs
            .extend(after.zip(before).map(|(after, before)| after - before));
    }

    fn print(mut self) {
        println!("{} facts", self.facts.0);
        self.costs.sort_unstable();
        if let (Some(most), Some(median)) = (self.costs.last(), self.costs.get(self.costs.len() / 2)) {
            println!("bench: {median} instructions reading, median");
            println!("bench: {most} instructions reading, most");
        }
    }
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
