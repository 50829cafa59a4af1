// SPDX-License-Identifier: GPL-3.0-only
//! The guardian: a process that outlives the daemon to free the guests.
//!
//! The daemon holds the write end of a pipe whose read end is the guardian's standard input. However the daemon
//! ends, the kernel closes that end; the guardian wakes, undoes what the undo records say is applied to
//! each guest, and ends. It holds no other state, so a guardian that dies is simply started again.
//!
//! While it lives the daemon writes a byte a second, as long as every guest's traps are served. When the bytes stay away (the daemon
//! was stopped, or hangs) vCPUs wait for nobody: the guardian kills the daemon, frees the guests, and becomes
//! another daemon, which attaches again.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigHandler, Signal};

use crate::registry::Registry;
use vmi_xen::altp2m::{self, EngineError, UndoRecord, Undone};
use xen_bindings::{DomId, Xen};

/// How long the guardian tries to free a guest before it gives up, loudly.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often the daemon says that it serves, and the guardian looks.
const BEAT: Duration = Duration::from_secs(1);
/// The daemon is silent while some guest's traps have waited for longer than this.
const SERVED_WITHIN: Duration = Duration::from_secs(5);
/// Looks in a row without a byte after which the daemon is taken for stuck. Looks are counted, not time: while dom0 itself does not
/// run, neither does the guardian.
const SILENT_LOOKS: u32 = 5;

/// How the daemon failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// It has ended.
    Ended,
    /// It lives and serves nobody.
    Stuck,
}

/// Runs the guardian: blocks until the daemon is gone or stuck, then frees its guests. In place of a stuck one it becomes a daemon with the
/// arguments `daemon`, unless there are none because somebody else starts another; otherwise the exit status is 0 if all guests are free.
pub fn run(undo_dir: &Path, daemon: Option<&[OsString]>) -> std::process::ExitCode {
    let parent = nix::unistd::getppid();
    outlive_the_daemon();
    let stuck = watch(std::io::stdin()) == Failure::Stuck;
    if stuck {
        log::error!(
            "policyd (pid {parent}) has stopped serving its guests: it is killed, and another is to start"
        );
        // Its end of the pipe is open, so it lives, and is still our parent: nobody else can have its number.
        if let Err(e) = nix::sys::signal::kill(parent, Signal::SIGKILL) {
            log::error!("killing pid {parent}: {e}");
        }
        // The records are locked until it is gone.
        while watch(std::io::stdin()) != Failure::Ended {}
    }
    let free = free_all(undo_dir, PATIENCE);
    if let Some(daemon) = daemon.filter(|_| stuck) {
        // It would inherit what is ignored here, and could not be ended until it has handlers of its own.
        daemons_signals(SigHandler::SigDfl);
        let error = Command::new("/proc/self/exe")
            .args(daemon)
            .stdin(Stdio::null())
            .exec();
        log::error!("starting policyd: {error}; start it by hand");
    }
    if free {
        std::process::ExitCode::SUCCESS
    } else {
        std::process::ExitCode::FAILURE
    }
}

/// Waits until the daemon at the other end of a pipe fails.
fn watch(mut pipe: impl Read + AsFd) -> Failure {
    use nix::errno::Errno;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut bytes = [0u8; 64];
    let mut silent = 0;
    // More milliseconds than a timeout can hold would be none.
    let timeout = PollTimeout::try_from(BEAT).unwrap_or(PollTimeout::NONE);
    loop {
        match poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => {
                silent += 1;
                if silent >= SILENT_LOOKS {
                    return Failure::Stuck;
                }
                continue;
            }
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(_) => return Failure::Ended,
        }
        match pipe.read(&mut bytes) {
            Ok(0) => return Failure::Ended,
            Ok(_) => silent = 0,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return Failure::Ended,
        }
    }
}

/// Frees every guest that has an undo record in `undo_dir`, trying again until `patience` is over. Also run by a
/// daemon that starts, for the case that daemon and guardian died together. Returns whether all are free.
pub fn free_all(undo_dir: &Path, patience: Duration) -> bool {
    let domains = match UndoRecord::domains(undo_dir) {
        Ok(domains) => domains,
        Err(e) => {
            log::error!("cannot read the undo records: {e}");
            return false;
        }
    };
    if domains.is_empty() {
        return true;
    }
    let xen = match Xen::open() {
        Ok(xen) => xen,
        Err(e) => {
            log::error!("cannot free the guests: {e}");
            return false;
        }
    };
    let deadline = Instant::now() + patience;
    let mut all_free = true;
    for domid in domains {
        all_free &= free_one(&xen, undo_dir, domid, deadline);
    }
    all_free
}

fn free_one(xen: &Xen, undo_dir: &Path, domid: DomId, deadline: Instant) -> bool {
    loop {
        match try_free(xen, undo_dir, domid) {
            Ok(Undone::Freed) => {
                log::warn!("domain {domid}: probes taken out, the guest runs on");
                return true;
            }
            Ok(Undone::Nothing | Undone::Gone) => return true,
            Err(e) if Instant::now() >= deadline => {
                log::error!("domain {domid}: {e}; the guest may need `xl destroy {domid}`");
                return false;
            }
            Err(e) => {
                log::warn!("domain {domid}: {e}; trying again");
                std::thread::sleep(Duration::from_millis(200));
            }
        }
    }
}

fn try_free(xen: &Xen, undo_dir: &Path, domid: DomId) -> Result<Undone, EngineError> {
    let mut record = UndoRecord::open(undo_dir, domid)?;
    let undone = altp2m::undo(xen, &mut record)?;
    record.delete()?;
    Ok(undone)
}

/// A session of its own, no reaction to the daemon's signals, and last in line for the OOM killer.
fn outlive_the_daemon() {
    // Fails only for a process that leads a group already, and then there is nothing to leave.
    let _ = nix::unistd::setsid();
    daemons_signals(SigHandler::SigIgn);
    spare_from_oom();
}

/// Ignores what ends a daemon, or no longer does. `how` is one of those two.
fn daemons_signals(how: SigHandler) {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        // SAFETY: neither SIG_IGN nor SIG_DFL installs a handler, so no code can run in a signal context.
        let _ = unsafe { nix::sys::signal::signal(signal, how) };
    }
}

/// Whether systemd started the process `pid` as a service, by the variable that it sets for it, and would start another. Processes that are
/// started by such a one inherit the variable, with its id and not their own.
fn is_supervised(exec_pid: Option<OsString>, pid: u32) -> bool {
    exec_pid.and_then(|text| text.to_str()?.parse().ok()) == Some(pid)
}

/// Asks the kernel to kill other processes first when memory is short. Best effort: without it the guardian
/// still works until it is killed.
pub fn spare_from_oom() {
    if let Err(e) = std::fs::write("/proc/self/oom_score_adj", "-1000") {
        log::debug!("cannot lower the OOM score: {e}");
    }
}

/// The daemon's side: keeps one guardian alive.
pub struct Supervisor {
    shared: Arc<Shared>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

struct Shared {
    undo_dir: PathBuf,
    pid: AtomicU32,
    stopping: AtomicBool,
    /// The write end of the guardian's standard input: open for as long as the daemon lives.
    lifeline: Mutex<Option<ChildStdin>>,
}

impl Supervisor {
    /// Starts a guardian, a thread that starts another whenever one dies, and one that tells it that the guests are served, as long as
    /// `registry` shows that.
    pub fn start(undo_dir: &Path, registry: Arc<Registry>) -> std::io::Result<Supervisor> {
        let shared = Arc::new(Shared {
            undo_dir: undo_dir.to_path_buf(),
            pid: AtomicU32::new(0),
            stopping: AtomicBool::new(false),
            lifeline: Mutex::new(None),
        });
        let child = shared.spawn()?;
        let thread = std::thread::Builder::new().name("guardian".into()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.keep_alive(child)
        })?;
        std::thread::Builder::new().name("heartbeat".into()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.beat(&registry)
        })?;
        Ok(Supervisor {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// One without a guardian, where no guest has a trap.
    #[cfg(test)]
    pub fn none() -> Supervisor {
        Supervisor {
            shared: Arc::new(Shared {
                undo_dir: PathBuf::new(),
                pid: AtomicU32::new(0),
                stopping: AtomicBool::new(true),
                lifeline: Mutex::new(None),
            }),
            thread: Mutex::new(None),
        }
    }

    /// The guardian's process id, 0 while there is none.
    pub fn pid(&self) -> u32 {
        self.shared.pid.load(Ordering::Relaxed)
    }

    /// Lets the guardian go, once all guests are free.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared
            .lifeline
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn spawn(&self) -> std::io::Result<Child> {
        let mut child = Command::new("/proc/self/exe")
            .arg("guardian")
            .arg("--undo-dir")
            .arg(&self.undo_dir)
            .args(
                is_supervised(std::env::var_os("SYSTEMD_EXEC_PID"), std::process::id())
                    .then_some("--supervised"),
            )
            .arg("--")
            .args(std::env::args_os().skip(1))
            .stdin(Stdio::piped())
            .spawn()?;
        self.pid.store(child.id(), Ordering::Relaxed);
        let lifeline = child.stdin.take();
        if let Some(pipe) = &lifeline {
            // A guardian that is stopped, and reads nothing, must not stop the daemon when the pipe is full.
            nix::fcntl::fcntl(pipe, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        }
        *self.lifeline.lock().unwrap_or_else(PoisonError::into_inner) = lifeline;
        Ok(child)
    }

    /// Tells the guardian every second that the guests are served, until the daemon stops.
    fn beat(&self, registry: &Registry) {
        while !self.stopping.load(Ordering::SeqCst) {
            if registry.served_within(SERVED_WITHIN) {
                let mut lifeline = self.lifeline.lock().unwrap_or_else(PoisonError::into_inner);
                // A guardian that has died is replaced, and the next is told.
                let _ = lifeline.as_mut().map(|pipe| pipe.write_all(b"."));
            }
            std::thread::sleep(BEAT / 2);
        }
    }

    fn keep_alive(&self, mut child: Child) {
        loop {
            let status = child.wait();
            self.pid.store(0, Ordering::Relaxed);
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            log::warn!("the guardian died ({status:?}); starting another");
            child = loop {
                match self.spawn() {
                    Ok(child) => break child,
                    Err(e) => {
                        log::error!("cannot start a guardian: {e}; guests are not guarded, trying again")
                    }
                }
                std::thread::sleep(Duration::from_secs(1));
                if self.stopping.load(Ordering::SeqCst) {
                    return;
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_process_that_systemd_started_is_supervised() {
        let of = |text: &str| is_supervised(Some(text.into()), 41);
        assert!(of("41"));
        assert!(!of("40") && !of("") && !of("x"));
        assert!(!is_supervised(None, 41));
    }

    #[test]
    fn a_daemon_that_beats_lives_and_one_that_ends_has_ended() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let daemon = std::thread::spawn(move || {
            for _ in 0..SILENT_LOOKS + 2 {
                writer.write_all(b".").unwrap();
                std::thread::sleep(BEAT);
            }
        });
        assert_eq!(watch(reader), Failure::Ended);
        daemon.join().unwrap();
    }

    #[test]
    fn a_daemon_that_is_silent_is_stuck() {
        let (reader, writer) = std::io::pipe().unwrap();
        let begun = Instant::now();
        assert_eq!(watch(reader), Failure::Stuck);
        assert!(begun.elapsed() >= BEAT * (SILENT_LOOKS - 1));
        drop(writer);
    }
}
