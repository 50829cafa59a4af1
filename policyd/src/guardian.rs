// SPDX-License-Identifier: GPL-3.0-only
//! The guardian: a process that outlives the daemon to free the guests.
//!
//! The daemon holds the write end of a pipe whose read end is the guardian's standard input. However the daemon
//! ends, the kernel closes that end; the guardian wakes, undoes what the undo records say is applied to
//! each guest, and ends. It holds no other state, so a guardian that dies is simply started again.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use vmi_xen::altp2m::{self, EngineError, UndoRecord, Undone};
use xen_bindings::{DomId, Xen};

/// How long the guardian tries to free a guest before it gives up, loudly.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the guardian: blocks until the daemon is gone, then frees its guests. Exit status 0 if all are free.
pub fn run(undo_dir: &Path) -> std::process::ExitCode {
    outlive_the_daemon();
    let mut byte = [0u8; 1];
    loop {
        match std::io::stdin().read(&mut byte) {
            Ok(0) => break,
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    if free_all(undo_dir, PATIENCE) {
        std::process::ExitCode::SUCCESS
    } else {
        std::process::ExitCode::FAILURE
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
    for signal in [
        nix::sys::signal::SIGTERM,
        nix::sys::signal::SIGINT,
        nix::sys::signal::SIGHUP,
    ] {
        // SAFETY: SIG_IGN installs no handler, so no code can run in a signal context.
        let _ = unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigIgn) };
    }
    spare_from_oom();
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
    /// Starts a guardian and a thread that starts another whenever one dies.
    pub fn start(undo_dir: &Path) -> std::io::Result<Supervisor> {
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
        Ok(Supervisor {
            shared,
            thread: Mutex::new(Some(thread)),
        })
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
            .stdin(Stdio::piped())
            .spawn()?;
        self.pid.store(child.id(), Ordering::Relaxed);
        *self.lifeline.lock().unwrap_or_else(PoisonError::into_inner) = child.stdin.take();
        Ok(child)
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
