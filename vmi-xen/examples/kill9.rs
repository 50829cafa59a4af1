// SPDX-License-Identifier: GPL-3.0-only
//! Kills a watcher with SIGKILL at random instants, again and again, and checks
//! each time that the guest was set free and that all its vCPUs still run.
//!
//! ```text
//! kill9 [--breakpoint] DOMID ROUNDS FUNCTION...
//! ```
//!
//! FUNCTION is a kernel function that runs often on every vCPU: the guest must be under load. Every second round kills the
//! watcher at a random instant while it attaches, the others after all vCPUs have trapped; by turns their traps are resumed
//! at one exit, by a single step that Xen ends, and by one that the watcher ends.
//!
//! With `--breakpoint` the int3s go into the guest's own text, else into a view of it (altp2m). Either way the pages that hold
//! them must be, byte for byte, what they were, each time, and in the end the whole text of the kernel.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use vmi_xen::{
    altp2m::{Config, Engine, ProbeId, UndoRecord, Undone, undo},
    breakpoint::{self, Guards},
    kernel::Kernel,
    live::{LiveMemory, cpu_states},
    memory::{AddressSpace, CpuState},
    traps::Traps,
};
use xen_bindings::{
    DomId, PAGE_SIZE, Xen, altp2m, domain,
    monitor::{self, Monitor},
};

const USAGE: &str = "usage: kill9 [--breakpoint] DOMID ROUNDS FUNCTION...";
const UNDO_DIR: &str = "/run/policyd/undo-kill9";
/// CR3 bit that selects the user half of a process under KPTI.
const USER_HALF: u64 = 0x1000;
/// A vCPU that does not trap for so long under load is stuck.
const PATIENCE: Duration = Duration::from_secs(60);
/// Latest instant after all vCPUs trapped at which a running one is killed.
const RUN_MICROS: u64 = 20_000;

fn main() -> anyhow::Result<()> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let breakpoint = args.first().is_some_and(|arg| arg == "--breakpoint");
    if breakpoint {
        args.remove(0);
    }
    match args.first().map(String::as_str) {
        Some("watch") => watch(&args[1..], breakpoint),
        Some(_) => torture(&args, breakpoint),
        None => bail!(USAGE),
    }
}

/// The victim: probes and serves until it is killed.
fn watch(args: &[String], breakpoint: bool) -> anyhow::Result<()> {
    let [domid, resume, probes @ ..] = args else {
        bail!("watch DOMID skip|fast|slow HEX...");
    };
    let domid = domid.parse()?;
    let xen = Xen::open()?;
    let memory = LiveMemory::new(&xen, domid);
    let cpus = cpu_states(&xen, domid)?;
    // To find the guards. It takes long, so not where nothing asks for it.
    let kernel = breakpoint.then(|| Kernel::find(&memory, &cpus)).transpose()?;
    let space = match &kernel {
        Some(kernel) => kernel.space.clone(),
        None => first_space(&cpus)?,
    };
    let record = UndoRecord::open(Path::new(UNDO_DIR), domid)?;
    let config = Config {
        spin: Duration::ZERO,
        one_exit: resume == "skip",
        fast_step: resume != "slow",
        ..Config::default()
    };
    let guards = kernel
        .as_ref()
        .map(|kernel| Guards::find(&memory, kernel))
        .transpose()?;
    // What takes long, and touches nothing, is done: from here on it is worth while to be killed.
    say("attaching")?;
    let mut engine: Box<dyn Traps> = match guards {
        Some(guards) => Box::new(breakpoint::Engine::attach(&xen, domid, record, &guards)?),
        None => Box::new(Engine::attach_with(&xen, domid, record, config)?),
    };
    for (number, place) in probes.iter().enumerate() {
        let va = u64::from_str_radix(place, 16)?;
        engine.arm(ProbeId(u32::try_from(number)?), va, space.translate(&memory, va)?)?;
    }
    let mut unseen: Vec<u16> = (0..u16::try_from(cpus.len())?).collect();
    loop {
        let before = unseen.len();
        engine.poll(Duration::from_secs(1), &mut |_, trap| {
            unseen.retain(|vcpu| *vcpu != trap.vcpu);
        })?;
        if before > 0 && unseen.is_empty() {
            say("all")?;
        }
    }
}

/// Tells the one that will kill us how far we are.
fn say(word: &str) -> anyhow::Result<()> {
    println!("{word}");
    Ok(std::io::stdout().flush()?)
}

/// The address space of some vCPU: all share the kernel's half.
fn first_space(cpus: &[CpuState]) -> anyhow::Result<AddressSpace> {
    let cpu = cpus
        .iter()
        .find(|cpu| cpu.in_long_mode())
        .context("no vCPU in long mode")?;
    Ok(AddressSpace::new(
        cpu.page_table_root() & !USER_HALF,
        cpu.paging_levels(),
    ))
}

/// A guest's kernel, of whose text nothing may differ in the end.
struct Text {
    memory: LiveMemory,
    kernel: Kernel,
    /// Where probes are put.
    places: Vec<u64>,
    /// Addresses of the pages that watchers with breakpoints write to.
    probed: Vec<u64>,
}

impl Text {
    fn find(xen: &Xen, domid: DomId, functions: &[String]) -> anyhow::Result<Text> {
        let memory = LiveMemory::new(xen, domid);
        let kernel = Kernel::find(&memory, &cpu_states(xen, domid)?)?;
        let place = |name: &String| {
            let va = kernel.symbols.address(name);
            va.with_context(|| format!("no symbol {name}"))
        };
        let places: Vec<u64> = functions.iter().map(place).collect::<Result<_, _>>()?;
        let guards = breakpoint::guard_functions().filter_map(|name| kernel.symbols.address(name));
        let mut probed: Vec<u64> = guards
            .chain(places.iter().copied())
            .map(|va| va & !(PAGE_SIZE as u64 - 1))
            .collect();
        probed.sort_unstable();
        probed.dedup();
        Ok(Text {
            memory,
            kernel,
            places,
            probed,
        })
    }

    /// The whole of it: takes seconds where the machine is emulated.
    fn whole(&self) -> anyhow::Result<Vec<u8>> {
        let end = self.kernel.symbols.address("_etext").context("no _etext")?;
        self.read((self.kernel.text_base..end).step_by(PAGE_SIZE))
    }

    fn probed(&self) -> anyhow::Result<Vec<u8>> {
        self.read(self.probed.iter().copied())
    }

    fn read(&self, pages: impl Iterator<Item = u64>) -> anyhow::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for at in pages {
            let mut page = [0; PAGE_SIZE];
            self.kernel.space.read(&self.memory, at, &mut page)?;
            bytes.extend(page);
        }
        Ok(bytes)
    }
}

/// Fails where bytes are not what they were.
fn same(what: &str, now: &[u8], before: &[u8]) -> anyhow::Result<()> {
    let differ = now.iter().zip(before).filter(|(now, before)| now != before);
    let differ = differ.count() + now.len().abs_diff(before.len());
    ensure!(differ == 0, "{what}: {differ} bytes of the kernel's text differ");
    Ok(())
}

fn torture(args: &[String], breakpoint: bool) -> anyhow::Result<()> {
    let [domid, rounds, functions @ ..] = args else {
        bail!(USAGE);
    };
    let (domid, rounds): (DomId, u32) = (domid.parse()?, rounds.parse()?);
    let xen = Xen::open()?;
    let dir = Path::new(UNDO_DIR);
    // The first monitor of a domain costs it the page that its builder put aside
    // for the ring (libxenctrl takes it from the guest), so count after one.
    if breakpoint {
        drop(Monitor::enable(&xen, domid)?);
    } else {
        Engine::attach(&xen, domid, UndoRecord::open(dir, domid)?)?.detach()?;
    }
    let text = Text::find(&xen, domid, functions)?;
    let places: Vec<String> = text.places.iter().map(|va| format!("{va:x}")).collect();
    let (whole, probed) = (text.whole()?, text.probed()?);
    let clean = state(&xen, domid, breakpoint)?;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut freed, mut early, mut longest) = (0, 0, Duration::ZERO);
    // How long a watcher took to attach and see all vCPUs: the span in which to kill.
    let mut start_up = Duration::from_millis(100);
    for round in 0..rounds {
        let mut child = Command::new(std::env::current_exe()?)
            .args(breakpoint.then_some("--breakpoint"))
            .arg("watch")
            .arg(domid.to_string())
            .arg(["skip", "fast", "slow"][(round / 2 % 3) as usize])
            .args(&places)
            .stdout(Stdio::piped())
            .spawn()?;
        let said = lines(child.stdout.take().context("piped")?);
        let mut told = said.recv_timeout(PATIENCE);
        let attaching = Instant::now();
        let limit = if round % 2 == 0 {
            start_up.as_micros() as u64
        } else {
            told = told.and_then(|_| said.recv_timeout(PATIENCE));
            start_up = attaching.elapsed();
            RUN_MICROS
        };
        if let Err(error) = told {
            child.kill()?;
            child.wait()?;
            undo(&xen, &mut UndoRecord::open(dir, domid)?)?;
            bail!("round {round}: not all vCPUs trapped: {error}");
        }
        std::thread::sleep(Duration::from_micros(random.below(limit)));
        child.kill()?;
        child.wait()?;

        let start = Instant::now();
        let mut record = UndoRecord::open(dir, domid)?;
        let undone = undo(&xen, &mut record)?;
        longest = longest.max(start.elapsed());
        ensure!(undone != Undone::Gone, "round {round}: the domain died");
        if undone == Undone::Freed {
            freed += 1;
            early += u32::from(round % 2 == 0);
        }
        let now = state(&xen, domid, breakpoint)?;
        ensure!(now == clean, "round {round}: {now:?}, was {clean:?}");
        same(&format!("round {round}"), &text.probed()?, &probed)?;
        if round % 20 == 19 {
            println!(
                "{} rounds, {freed} undone ({early} killed while starting), {longest:?} at most",
                round + 1
            );
        }
    }
    same("in the end", &text.whole()?, &whole)?;
    println!(
        "all {rounds} rounds passed, {freed} undone ({early} killed while attaching), {longest:?} at most"
    );
    Ok(())
}

/// What must be as it was: paused, altp2m on, a ring, pages, most pages.
fn state(xen: &Xen, domid: DomId, breakpoint: bool) -> anyhow::Result<(bool, bool, bool, u64, u64)> {
    let info = domain::info(xen, domid)?.context("the domain exists")?;
    Ok((
        info.paused,
        !breakpoint && altp2m::active(xen, domid)?,
        monitor::is_enabled(xen, domid)?,
        info.tot_pages,
        info.max_pages,
    ))
}

/// Lines of the child, read by a thread so that waiting for one can time out.
fn lines(from: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    receive
}

/// Marsaglia's xorshift: the same instants in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
