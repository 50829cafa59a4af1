// SPDX-License-Identifier: GPL-3.0-only
//! One domain: attach → bring-up → observe → detach.
//!
//! [`Session`] traps and belongs to one thread. [`Inspector`] only reads, and may run beside it: whoever asks for all processes
//! does not hold up the trap path.

mod budget;

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use xen_bindings::{DomId, Xen, XenError, domain};

use crate::altp2m::{self, Armed, EngineError, ProbeId, RecordError, UndoRecord};
use crate::breakpoint;
use crate::integrity::{Checker, Report};
use crate::kernel::{Kernel, KernelError, LayoutError};
use crate::linux::{
    Budget, DataFlow, Flow, Hashed, InterfaceAddress, Linux, LinuxError, Process, Socket, Text,
};
use crate::live::{self, LiveMemory};
use crate::meter::{Governor, Meter, TrapBudget};
use crate::observe::{Observer, Point, Registers, Subject, Watch};
use crate::tap::{TapHandle, TapStatus, Taps};
use crate::traps::{Degree, Traps};

pub use crate::altp2m::Waker;

/// Longest wait on the ring before the domain is looked at.
const WAIT: Duration = Duration::from_millis(500);
/// The same while a socket's port is awaited, which the guest's kernel finds within microseconds.
const GLANCE: Duration = Duration::from_millis(1);
/// How often a finding about a running guest must be seen again.
const CONFIRMATIONS: u32 = 2;
/// And how long after: no honest kernel takes as long between two halves of one change.
const CONFIRM_AFTER: Duration = Duration::from_millis(100);
/// How often the status is told.
const STATUS_PERIOD: Duration = Duration::from_secs(1);

/// Why a domain cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The domain is gone or is going.
    #[error("domain {0} is gone")]
    Gone(DomId),
    /// Not a guest with hardware virtualisation.
    #[error("a PV guest cannot be watched from outside: make it a PVH guest (type=\"pvh\" in its xl.cfg)")]
    NotHvm,
    /// The kernel was not recognised: it is still booting, or it is none we know.
    #[error("its kernel is not understood (yet): {0}")]
    Kernel(#[from] KernelError),
    /// The kernel was recognised, but not what its structures look like.
    #[error("its kernel {release} is known, its processes are not: {why}")]
    Blind {
        /// As `uname -r` prints it.
        release: String,
        /// What is missing.
        why: LayoutError,
    },
    /// Traps cannot be had.
    #[error("no traps: {0}")]
    Engine(#[from] EngineError),
    /// The undo record cannot be had; without it nothing is done to a guest.
    #[error("no traps: {0}")]
    Record(#[from] RecordError),
    /// Another kernel runs in the domain: kexec, or a boot loader that went on.
    #[error("another kernel runs in it now")]
    KernelChanged,
    /// A hypercall failed.
    #[error(transparent)]
    Xen(#[from] XenError),
    /// A fault of the watcher itself; the guest was freed.
    #[error("a fault in policyd while it watched the guest, which was freed; please report policyd's log")]
    Fault,
    /// No probe at all could be armed.
    #[error("no probe could be armed: {0}")]
    NoProbe(String),
}

impl SessionError {
    /// Whether a kernel tells who its processes are: without that there is nothing to trap for.
    ///
    /// # Errors
    /// [`SessionError::Blind`], with what is missing.
    pub fn if_blind(kernel: &Kernel) -> Result<(), SessionError> {
        kernel.layout.sees_processes().map_err(|why| SessionError::Blind {
            release: kernel.release.clone(),
            why,
        })
    }

    /// Whether trying again is pointless while domain and host stay as they are.
    pub fn is_permanent(&self) -> bool {
        match self {
            SessionError::NotHvm | SessionError::Blind { .. } => true,
            SessionError::Engine(e) => matches!(
                e,
                EngineError::NotHvm(_)
                    | EngineError::ModeFixed { .. }
                    | EngineError::Unsupported { .. }
                    | EngineError::NoGuard(_)
                    | EngineError::TooManyVcpus { .. }
            ),
            SessionError::Fault
            | SessionError::KernelChanged
            | SessionError::NoProbe(_)
            | SessionError::Gone(_)
            | SessionError::Kernel(_)
            | SessionError::Record(_)
            | SessionError::Xen(_) => false,
        }
    }
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was asked to.
    Stopped,
    /// The domain was destroyed, or has shut down. It may go on under the same number: suspended for a copy of it, or with the kernel that
    /// kexec left behind.
    Gone,
}

/// What a session has done so far.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// Events taken from the ring.
    pub traps: u64,
    /// Its probes.
    pub probes: Vec<ProbeStatus>,
    /// Those of its taps, as one.
    pub taps: TapStatus,
    /// Share of one vCPU's time that they have cost since the session began, 0 to 1.
    pub taps_share: f64,
    /// What is not seen, a sentence each.
    pub uncovered: Vec<String>,
    /// Connects are not trapped for the time being: the budget does not allow it.
    pub connects_rest: bool,
    /// Every TCP socket that begins or stops to listen traps.
    pub counts_listeners: bool,
    /// Traps at which guest memory made no sense; nothing was told of them.
    pub unreadable: u64,
}

/// One probe.
#[derive(Debug, Clone)]
pub struct ProbeStatus {
    /// Kernel function.
    pub function: &'static str,
    /// Guest-virtual address of the instruction that it stands on; 0 if it is not armed.
    pub address: u64,
    /// How its traps are resumed, or why it is not armed.
    pub resume: String,
    /// How often it fired, and how long that took.
    pub meter: Meter,
    /// Share of one vCPU's time that it has cost since the session began, 0 to 1.
    pub share: f64,
}

/// Brings up a reader of a domain: finds its kernel, knowing nothing of it.
fn reader(xen: &Xen, domid: DomId) -> Result<Linux<LiveMemory>, SessionError> {
    let info = domain::info(xen, domid)?
        .filter(|info| !info.dying && info.shutdown.is_none())
        .ok_or(SessionError::Gone(domid))?;
    if !info.hvm {
        return Err(SessionError::NotHvm);
    }
    let memory = LiveMemory::new(xen, domid);
    let cpus = live::cpu_states(xen, domid)?;
    let kernel = Kernel::find(&memory, &cpus)?;
    Ok(Linux::new(memory, kernel))
}

/// Standard input, output and error.
const STANDARD_DESCRIPTORS: u32 = 3;

/// Reads a guest on demand.
pub struct Inspector {
    linux: Linux<LiveMemory>,
    vcpus: u32,
    /// Processes that [`Inspector::owner`] met.
    owners: RefCell<Watch>,
}

impl Inspector {
    /// Finds the kernel of a domain.
    ///
    /// # Errors
    /// [`SessionError`] says what is in the way.
    pub fn open(domid: DomId) -> Result<Inspector, SessionError> {
        let xen = Xen::open()?;
        let linux = reader(&xen, domid)?;
        let vcpus = domain::info(&xen, domid)?.map_or(0, |info| info.vcpus);
        Ok(Inspector {
            linux,
            vcpus,
            owners: RefCell::default(),
        })
    }

    /// Whether the kernel that was found still runs, and has not booted again since.
    pub fn is_same_boot(&self) -> bool {
        self.linux.refresh();
        self.linux.is_same_boot()
    }

    /// Release of the guest's kernel, as `uname -r` prints it.
    pub fn release(&self) -> &str {
        &self.linux.kernel().release
    }

    /// The guest's kernel, for a [`Session`] on the same domain.
    pub fn kernel(&self) -> &Kernel {
        self.linux.kernel()
    }

    /// Number of vCPUs, online or not.
    pub fn vcpus(&self) -> u32 {
        self.vcpus
    }

    /// Every process there is now, kernel threads included.
    ///
    /// # Errors
    /// When the task list cannot be walked; single processes that cannot be read are left out.
    pub fn processes(&self) -> Result<Vec<Arc<Subject>>, LinuxError> {
        let sweep = || {
            let mut watch = Watch::default();
            let leaders = self.linux.leaders()?;
            let subjects = leaders
                .into_iter()
                .filter_map(|task| watch.subject(&self.linux, task).ok());
            Ok(subjects.collect())
        };
        self.read(|| self.linux.within(Budget::SWEEP, sweep).0)
    }

    /// Every TCP and UDP socket that a process holds open, once, with the first process that holds it.
    ///
    /// # Errors
    /// As [`Inspector::processes`].
    pub fn sockets(&self) -> Result<Vec<(Socket, Arc<Subject>)>, LinuxError> {
        self.read(|| self.linux.within(Budget::SWEEP, || self.swept_sockets()).0)
    }

    fn swept_sockets(&self) -> Result<Vec<(Socket, Arc<Subject>)>, LinuxError> {
        let mut watch = Watch::default();
        let mut found: HashMap<u64, (Socket, Arc<Subject>)> = HashMap::new();
        for task in self.linux.leaders()? {
            // A process that ends while it is read has no sockets to tell of.
            let Ok(sockets) = self.linux.sockets_of(task) else {
                continue;
            };
            for (_, socket) in sockets {
                if let Ok(subject) = watch.subject(&self.linux, task) {
                    found.entry(socket.sk).or_insert((socket, subject));
                }
            }
        }
        let mut all: Vec<_> = found.into_values().collect();
        all.sort_by_key(|(socket, who)| (who.process.tgid, socket.local));
        Ok(all)
    }

    /// The socket that a flow belongs to and a process that holds it, as [`Linux::socket_owner`] finds them. None where no
    /// process owns it.
    ///
    /// Made to be asked often: processes that were met are remembered until they change.
    ///
    /// # Errors
    /// As [`Linux::socket_owner`].
    pub fn owner(&self, flow: &Flow) -> Result<Option<(Socket, Arc<Subject>)>, LinuxError> {
        self.read(|| self.found_owner(flow))
    }

    fn found_owner(&self, flow: &Flow) -> Result<Option<(Socket, Arc<Subject>)>, LinuxError> {
        let Some(found) = self.linux.socket_owner(flow)? else {
            return Ok(None);
        };
        let subject = self.owners.borrow_mut().subject(&self.linux, found.task)?;
        Ok(Some((found.socket, subject)))
    }

    /// The sockets that are a process's standard input, output and error, by descriptor. None where there is no such process: it
    /// is known by its number and its start, nanoseconds after the guest's boot.
    ///
    /// # Errors
    /// As [`Inspector::processes`], and if its table of descriptors cannot be read.
    pub fn standard_sockets(
        &self,
        pid: u32,
        start_time_ns: u64,
    ) -> Result<Option<Vec<(u32, Socket)>>, LinuxError> {
        let first = || self.first_sockets(pid, start_time_ns);
        self.read(|| self.linux.within(Budget::SWEEP, first).0)
    }

    fn first_sockets(&self, pid: u32, start_time_ns: u64) -> Result<Option<Vec<(u32, Socket)>>, LinuxError> {
        let found = match self.linux.task_numbered(pid) {
            // A kernel whose table is not understood.
            Err(LinuxError::Layout(_) | LinuxError::NoSymbol(_)) => {
                let mut leaders = self.linux.leaders()?.into_iter();
                leaders.find(|task| self.linux.pid(*task).is_ok_and(|number| number == pid))
            }
            found => found?,
        };
        match found {
            Some(task) if self.linux.start_time(task)? == start_time_ns => {
                Ok(Some(self.linux.first_sockets_of(task, STANDARD_DESCRIPTORS)?))
            }
            _ => Ok(None),
        }
    }

    /// The text of a process's executable, as it is in memory; `None` where the process is gone, or runs another program. What
    /// `hashed` has of frames is believed: it is for one round. Without it pages are looked at and not hashed.
    ///
    /// # Errors
    /// As [`Linux::program_text`].
    pub fn program_text(
        &self,
        process: &Process,
        hashed: Option<&mut Hashed>,
    ) -> Result<Option<Text>, LinuxError> {
        self.current();
        // What was its task may be anything by now.
        let is_still = || self.linux.is_still(process).unwrap_or(false);
        if !is_still() {
            return Ok(None);
        }
        let text = self.linux.program_text(process, hashed)?;
        Ok(is_still().then_some(text))
    }

    /// Addresses of the guest's interfaces, in all its network namespaces.
    ///
    /// # Errors
    /// When the list of namespaces cannot be walked.
    pub fn addresses(&self) -> Result<Vec<InterfaceAddress>, LinuxError> {
        self.read(|| self.linux.addresses())
    }

    /// Who gives data to whom in the guest, and which connections leave it.
    ///
    /// # Errors
    /// As [`Inspector::processes`].
    pub fn data_flow(&self) -> Result<DataFlow, LinuxError> {
        self.read(|| self.linux.data_flow())
    }

    /// Checks the guest's kernel with a checker that is this guest's alone. Where something is found it looks again, twice, a
    /// moment later, and tells what was there each time: an honest change takes microseconds. `own` tells whether a
    /// breakpoint at an address is the engine's.
    ///
    /// # Errors
    /// When the vCPUs' registers cannot be read; all else that cannot be checked is in the report.
    pub fn check(&self, checker: &mut Checker, own: &dyn Fn(u64) -> bool) -> Result<Report, XenError> {
        let mut look = || {
            self.fresh();
            let cpus = self.linux.memory().cpu_states()?;
            Ok(checker.check(&self.linux, &cpus, own))
        };
        let mut report = look()?;
        for _ in 0..CONFIRMATIONS {
            if report.findings.is_empty() {
                break;
            }
            std::thread::sleep(CONFIRM_AFTER);
            let again = look()?;
            report.confirm(&again);
            report.took += again.took;
        }
        Ok(report)
    }

    /// Reads the guest as it is. Where that fails it is tried once more, with all of it mapped anew: a running guest may have moved on
    /// while it was read, and a page may have got other memory since it was mapped.
    fn read<T>(&self, read: impl Fn() -> Result<T, LinuxError>) -> Result<T, LinuxError> {
        self.current();
        match read() {
            // Nothing that is read anew makes these good.
            Err(why @ (LinuxError::Layout(_) | LinuxError::NoSymbol(_))) => Err(why),
            Err(_) => {
                self.fresh();
                read()
            }
            done => done,
        }
    }

    /// What was read before is not believed any more.
    fn current(&self) {
        self.linux.memory().renew();
        self.linux.refresh();
    }

    /// The same of what was mapped.
    fn fresh(&self) {
        self.linux.memory().invalidate();
        self.linux.refresh();
    }
}

/// A domain with probes in it. Dropping it frees the guest.
pub struct Session<O> {
    engine: Box<dyn Traps>,
    taps: Taps,
    handle: TapHandle,
    linux: Linux<LiveMemory>,
    watch: Watch,
    observer: O,
    xen: Xen,
    domid: DomId,
    probes: Vec<Probe>,
    unreadable: u64,
    governor: Governor,
    begun: Instant,
}

/// A probe, armed or not.
struct Probe {
    point: Point,
    /// Where it is armed, or would have been first.
    function: &'static str,
    armed: Result<Armed, String>,
    meter: Meter,
    /// Accesses to its page that the engine had counted when last asked.
    accesses: u64,
}

impl<O: Observer> Session<O> {
    /// Arms every probe there is a place for in `kernel`, as [`Inspector::kernel`] found it in this domain: in an altp2m view,
    /// or, where the host has no altp2m and `breakpoints` allows it, as breakpoints in the guest's own memory.
    ///
    /// # Errors
    /// [`SessionError`]; the guest is then as it was.
    pub fn attach(
        domid: DomId,
        kernel: Kernel,
        undo_dir: &Path,
        breakpoints: bool,
        observer: O,
    ) -> Result<Session<O>, SessionError> {
        // A connection of its own: calls of other threads must not hold up this domain's traps.
        let xen = Xen::open()?;
        let linux = Linux::new(LiveMemory::new(&xen, domid), kernel);
        let mut engine = engine(&xen, &linux, domid, undo_dir, breakpoints)?;
        let probes: Vec<Probe> = Point::ALL
            .into_iter()
            .map(|point| {
                let (function, armed) = arm(&mut *engine, &linux, point);
                Probe {
                    point,
                    function,
                    armed,
                    meter: Meter::default(),
                    accesses: 0,
                }
            })
            .collect();
        if probes.iter().all(|p| p.armed.is_err()) {
            let why = probes.into_iter().find_map(|p| p.armed.err()).unwrap_or_default();
            return Err(SessionError::NoProbe(why));
        }
        let (handle, taps) = TapHandle::new(engine.waker());
        Ok(Session {
            engine,
            taps,
            handle,
            linux,
            watch: Watch::default(),
            observer,
            xen,
            domid,
            governor: budget::governor(TrapBudget::default(), &probes),
            begun: Instant::now(),
            probes,
            unreadable: 0,
        })
    }

    /// Wakes [`Session::run`] from another thread.
    pub fn waker(&self) -> Waker {
        self.engine.waker()
    }

    /// By which other threads hand in probes of their own.
    pub fn taps(&self) -> TapHandle {
        self.handle.clone()
    }

    /// Sets what traps may cost the guest; [`TrapBudget::default`] until then.
    pub fn set_budget(&mut self, budget: TrapBudget) {
        self.governor = budget::governor(budget, &self.probes);
    }

    /// How the probes are put into the guest.
    pub fn degree(&self) -> Degree {
        self.engine.degree()
    }

    /// Serves traps until the domain ends or `stop` says so. `report` is called about once a second, between traps.
    ///
    /// # Errors
    /// When the ring fails; the guest is freed when the session is dropped.
    pub fn run(
        &mut self,
        stop: &mut dyn FnMut() -> bool,
        report: &mut dyn FnMut(&Status),
    ) -> Result<End, SessionError> {
        let mut next_report = Instant::now() + STATUS_PERIOD;
        let mut wait = WAIT;
        loop {
            if stop() {
                return Ok(End::Stopped);
            }
            self.taps.settle(&mut *self.engine, &self.linux)?;
            let Session {
                engine,
                taps,
                linux,
                watch,
                observer,
                probes,
                unreadable,
                ..
            } = self;
            engine.poll(wait, &mut |id, trap| {
                if taps.fire(id, trap, linux, watch) {
                    return;
                }
                let Some(probe) = probes.iter_mut().find(|p| self::id(p.point) == id) else {
                    return;
                };
                let began = Instant::now();
                let registers = Registers {
                    gs_base: trap.regs.gs_base,
                    rdi: trap.regs.rdi,
                    rsi: trap.regs.rsi,
                };
                let fired = watch.fire(linux, probe.point, probe.function, registers, observer);
                *unreadable += u64::from(fired.is_err());
                probe.meter.add(began.elapsed());
            })?;
            wait = if watch.settle(linux, observer) {
                GLANCE
            } else {
                WAIT
            };
            if Instant::now() >= next_report {
                next_report = Instant::now() + STATUS_PERIOD;
                self.keep_within_budget()?;
                report(&self.status());
                self.engine.audit()?;
                // What was mapped may have been given back by ballooning.
                self.linux.memory().renew();
                self.linux.refresh();
                if !self.linux.is_same_boot() {
                    return Err(SessionError::KernelChanged);
                }
                self.taps.tick();
                match domain::info(&self.xen, self.domid)? {
                    Some(info) if !info.dying && info.shutdown.is_none() => {}
                    _ => return Ok(End::Gone),
                }
            }
        }
    }
}

/// The best engine that the host has for the domain.
fn engine(
    xen: &Xen,
    linux: &Linux<LiveMemory>,
    domid: DomId,
    undo_dir: &Path,
    breakpoints: bool,
) -> Result<Box<dyn Traps>, SessionError> {
    let record = UndoRecord::open(undo_dir, domid)?;
    match altp2m::Engine::attach(xen, domid, record) {
        Ok(engine) => Ok(Box::new(engine)),
        Err(EngineError::Unsupported { .. }) if breakpoints => {
            let guards = breakpoint::Guards::find(linux.memory(), linux.kernel())?;
            let record = UndoRecord::open(undo_dir, domid)?;
            Ok(Box::new(breakpoint::Engine::attach(xen, domid, record, &guards)?))
        }
        Err(error) => Err(error.into()),
    }
}

/// Arms a point at the first of its functions that can be probed. Gives that function, or the first and what is wrong
/// with it.
fn arm(
    engine: &mut dyn Traps,
    linux: &Linux<LiveMemory>,
    point: Point,
) -> (&'static str, Result<Armed, String>) {
    let mut failed = None;
    for function in point.functions() {
        match arm_function(engine, linux, point, function) {
            Ok(armed) => return (function, Ok(armed)),
            Err(why) => failed = failed.or(Some((*function, Err(why)))),
        }
    }
    failed.unwrap_or_else(|| ("", Err("no function serves".into())))
}

fn arm_function(
    engine: &mut dyn Traps,
    linux: &Linux<LiveMemory>,
    point: Point,
    function: &str,
) -> Result<Armed, String> {
    let kernel = linux.kernel();
    if let Err(why) = point.readable(&kernel.layout) {
        return Err(why.to_string());
    }
    let va = kernel
        .symbols
        .address(function)
        .ok_or_else(|| format!("this kernel has no function {function}"))?;
    let pa = kernel
        .space
        .translate(linux.memory(), va)
        .map_err(|e| e.to_string())?;
    engine.arm(id(point), va, pa).map_err(|e| e.to_string())
}

fn id(point: Point) -> ProbeId {
    ProbeId(point as u32)
}
