// SPDX-License-Identifier: GPL-3.0-only
//! Kills a watcher with SIGKILL at random instants, again and again, and checks
//! each time that the guest was set free and that all its vCPUs still run.
//!
//! ```text
//! kill9 DOMID HEX ROUNDS [HEX]...
//! ```
//!
//! HEX is the address of a kernel function that runs often on every vCPU: the
//! guest must be under load. Every second round kills the watcher at a random
//! instant of its start, the others after all vCPUs have trapped. Give an address
//! of an instruction that is no NOP too, so that single steps are interrupted.

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
    live::{LiveMemory, cpu_states},
    memory::AddressSpace,
};
use xen_bindings::{DomId, Xen, altp2m, domain, monitor};

const UNDO_DIR: &str = "/run/policyd/undo-kill9";
/// CR3 bit that selects the user half of a process under KPTI.
const USER_HALF: u64 = 0x1000;
/// A vCPU that does not trap for so long under load is stuck.
const PATIENCE: Duration = Duration::from_secs(60);
/// Latest instant after all vCPUs trapped at which a running one is killed.
const RUN_MICROS: u64 = 20_000;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("watch") => watch(&args[1..]),
        Some(_) => torture(&args),
        None => bail!("usage: kill9 DOMID HEX ROUNDS [HEX]..."),
    }
}

/// The victim: probes and serves until it is killed.
fn watch(args: &[String]) -> anyhow::Result<()> {
    let [domid, step, probes @ ..] = args else {
        bail!("watch DOMID fast|slow HEX...");
    };
    let domid = domid.parse()?;
    let xen = Xen::open()?;
    let memory = LiveMemory::new(&xen, domid);
    let cpus = cpu_states(&xen, domid)?;
    let cpu = cpus
        .iter()
        .find(|cpu| cpu.in_long_mode())
        .context("no vCPU in long mode")?;
    let space = AddressSpace::new(cpu.page_table_root() & !USER_HALF, cpu.paging_levels());
    let record = UndoRecord::open(Path::new(UNDO_DIR), domid)?;
    let config = Config {
        spin: Duration::ZERO,
        fast_step: step == "fast",
        ..Config::default()
    };
    let mut engine = Engine::attach_with(&xen, domid, record, config)?;
    for (number, hex) in probes.iter().enumerate() {
        let va = u64::from_str_radix(hex, 16)?;
        engine.arm(ProbeId(u32::try_from(number)?), va, space.translate(&memory, va)?)?;
    }
    let mut unseen: Vec<u16> = (0..u16::try_from(cpus.len())?).collect();
    loop {
        let before = unseen.len();
        engine.poll(Duration::from_secs(1), &mut |_, trap| {
            unseen.retain(|vcpu| *vcpu != trap.vcpu);
        })?;
        if before > 0 && unseen.is_empty() {
            println!("all");
            std::io::stdout().flush()?;
        }
    }
}

fn torture(args: &[String]) -> anyhow::Result<()> {
    let [domid, first, rounds, more @ ..] = args else {
        bail!("usage: kill9 DOMID HEX ROUNDS [HEX]...");
    };
    let probes: Vec<&String> = std::iter::once(first).chain(more).collect();
    let (domid, rounds): (DomId, u32) = (domid.parse()?, rounds.parse()?);
    let xen = Xen::open()?;
    let dir = Path::new(UNDO_DIR);
    // The first monitor of a domain costs it the page that its builder put aside
    // for the ring (libxenctrl takes it from the guest), so count after one.
    Engine::attach(&xen, domid, UndoRecord::open(dir, domid)?)?.detach()?;
    let clean = state(&xen, domid)?;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut freed, mut early, mut longest) = (0, 0, Duration::ZERO);
    // How long a watcher took to see all vCPUs: the span in which to kill.
    let mut start_up = Duration::from_millis(100);
    for round in 0..rounds {
        let spawned = Instant::now();
        let mut child = Command::new(std::env::current_exe()?)
            .arg("watch")
            .arg(domid.to_string())
            .arg(if round % 4 < 2 { "fast" } else { "slow" })
            .args(&probes)
            .stdout(Stdio::piped())
            .spawn()?;
        let said = lines(child.stdout.take().context("piped")?);
        if round % 2 == 0 {
            std::thread::sleep(Duration::from_micros(random.below(start_up.as_micros() as u64)));
        } else {
            let line = said.recv_timeout(PATIENCE);
            if line.as_deref() != Ok("all") {
                child.kill()?;
                child.wait()?;
                undo(&xen, &mut UndoRecord::open(dir, domid)?)?;
                bail!("round {round}: not all vCPUs trapped: {line:?}");
            }
            start_up = spawned.elapsed();
            std::thread::sleep(Duration::from_micros(random.below(RUN_MICROS)));
        }
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
        let now = state(&xen, domid)?;
        ensure!(now == clean, "round {round}: {now:?}, was {clean:?}");
        if round % 20 == 19 {
            println!(
                "{} rounds, {freed} undone ({early} killed while starting), {longest:?} at most",
                round + 1
            );
        }
    }
    println!("all {rounds} rounds passed");
    Ok(())
}

/// What must be as it was: paused, altp2m on, a ring, pages, most pages.
fn state(xen: &Xen, domid: DomId) -> anyhow::Result<(bool, bool, bool, u64, u64)> {
    let info = domain::info(xen, domid)?.context("the domain exists")?;
    Ok((
        info.paused,
        altp2m::active(xen, domid)?,
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
