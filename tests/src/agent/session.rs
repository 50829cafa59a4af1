// SPDX-License-Identifier: GPL-3.0-only
//! One session on the machine it is meant for: a program run, a file written or read.

use super::credit::Credit;
use super::frame::{Frame, Kind};
use super::request::{Action, Request};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes read from a program's pipe at once. A domU's console ring holds 2 KiB, so more would only
/// keep the frames of other sessions waiting longer.
const CHUNK: usize = 4 * 1024;
/// After a program's end, how long its output pipes may be silent and yet held open by a child left
/// behind in the background.
const LINGER: Duration = Duration::from_millis(300);

/// Where a session's frames go. An error means that the other side is gone.
pub type Sink = Arc<dyn Fn(Frame) -> io::Result<()> + Send + Sync>;

/// A running session, as the link that feeds it sees it.
pub struct Session {
    input: Sender<Vec<u8>>,
    output: Arc<Credit>,
    error: Arc<Credit>,
    program: Arc<Mutex<Program>>,
}

/// How far a session's program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Program {
    /// It is still to be started.
    Waiting,
    /// It runs, and this is its process group.
    Running(Pid),
    /// It has ended, or is not to run: whoever asked is gone.
    Over,
}

impl Session {
    /// Starts what a request asks for; frames go to `sink`, the last is `Exit` or `Refused`.
    pub fn start(id: u32, request: Request, sink: Sink) -> Session {
        let (input, received) = channel();
        let session = Session {
            input,
            output: Arc::default(),
            error: Arc::default(),
            program: Arc::new(Mutex::new(Program::Waiting)),
        };
        let worker = Worker {
            id,
            sink,
            output: Arc::clone(&session.output),
            error: Arc::clone(&session.error),
            program: Arc::clone(&session.program),
        };
        thread::spawn(move || worker.run(request.action, received));
        session
    }

    /// Hands a frame of this session in. Never waits.
    pub fn accept(&self, frame: Frame) {
        match frame.kind {
            // A session that no longer reads has ended: nothing is lost.
            Kind::Input => drop(self.input.send(frame.payload)),
            Kind::Ack => match parse_ack(&frame.payload) {
                Some((Kind::Output, bytes)) => self.output.give(bytes),
                Some((Kind::Error, bytes)) => self.error.give(bytes),
                _ => {}
            },
            Kind::Hangup => self.hang_up(),
            _ => {}
        }
    }

    /// Ends the program: whoever asked is gone.
    pub fn hang_up(&self) {
        self.output.close();
        self.error.close();
        // It may not have been started yet, where the machine is busy: then it ends as soon as it is.
        if let Program::Running(group) = swap(&self.program, Program::Over) {
            end(group);
        }
    }
}

fn swap(program: &Mutex<Program>, now: Program) -> Program {
    std::mem::replace(&mut program.lock().unwrap_or_else(PoisonError::into_inner), now)
}

fn end(group: Pid) {
    // It may have ended by itself just now.
    let _ = killpg(group, Signal::SIGKILL);
}

/// The payload of an `Ack`.
pub fn ack(kind: Kind, bytes: usize) -> Vec<u8> {
    let mut payload = vec![kind as u8];
    payload.extend((bytes as u32).to_le_bytes());
    payload
}

/// The inverse of [`ack`].
pub fn parse_ack(payload: &[u8]) -> Option<(Kind, usize)> {
    let (kind, bytes) = payload.split_first()?;
    Some((
        Kind::from_byte(*kind)?,
        u32::from_le_bytes(bytes.try_into().ok()?) as usize,
    ))
}

struct Worker {
    id: u32,
    sink: Sink,
    output: Arc<Credit>,
    error: Arc<Credit>,
    program: Arc<Mutex<Program>>,
}

impl Worker {
    fn run(self, action: Action, input: Receiver<Vec<u8>>) {
        let outcome = match action {
            Action::Exec(argv) => self.exec(&argv, input),
            Action::Write { path, mode } => self.write(&path, mode, &input).map(|()| 0),
            Action::Read { path } => self.read(&path).map(|()| 0),
        };
        let last = match outcome {
            Ok(status) => Frame::new(self.id, Kind::Exit, status.to_le_bytes()),
            Err(reason) => Frame::new(self.id, Kind::Refused, reason),
        };
        // If the other side is gone there is nobody left to tell.
        let _ = (self.sink)(last);
    }

    fn exec(&self, argv: &[String], input: Receiver<Vec<u8>>) -> Result<i32, String> {
        let (program, arguments) = argv.split_first().ok_or("no program given")?;
        let mut child = Command::new(program)
            .args(arguments)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{program}: {error}"))?;
        self.running(Pid::from_raw(child.id().cast_signed()));

        self.feed(&mut child, input);
        let activity = Arc::new(Activity::new());
        let mut pipes = Vec::new();
        if let Some(pipe) = child.stdout.take() {
            pipes.push(self.forward(Kind::Output, pipe, &activity));
        }
        if let Some(pipe) = child.stderr.take() {
            pipes.push(self.forward(Kind::Error, pipe, &activity));
        }
        let status = child
            .wait()
            .map_err(|error| format!("waiting for {program}: {error}"))?;
        swap(&self.program, Program::Over);

        activity.touch();
        while !pipes.iter().all(thread::JoinHandle::is_finished) && activity.age() < LINGER {
            thread::sleep(Duration::from_millis(2));
        }
        // As a shell says it: 128 and the signal's number.
        Ok(status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or_default()))
    }

    fn running(&self, group: Pid) {
        if swap(&self.program, Program::Running(group)) == Program::Over {
            swap(&self.program, Program::Over);
            end(group);
        }
    }

    /// Passes the session's input to the program, in a thread of its own: a program need not read it.
    fn feed(&self, child: &mut Child, input: Receiver<Vec<u8>>) {
        let Some(mut pipe) = child.stdin.take() else {
            return;
        };
        let (id, sink) = (self.id, Arc::clone(&self.sink));
        thread::spawn(move || {
            for bytes in input {
                if bytes.is_empty() || pipe.write_all(&bytes).is_err() {
                    return;
                }
                if sink(Frame::new(id, Kind::Ack, ack(Kind::Input, bytes.len()))).is_err() {
                    return;
                }
            }
        });
    }

    fn forward(
        &self,
        kind: Kind,
        mut pipe: impl Read + Send + 'static,
        activity: &Arc<Activity>,
    ) -> thread::JoinHandle<()> {
        let credit = Arc::clone(if kind == Kind::Output {
            &self.output
        } else {
            &self.error
        });
        let (id, sink, activity) = (self.id, Arc::clone(&self.sink), Arc::clone(activity));
        thread::spawn(move || {
            let mut buffer = [0; CHUNK];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                let _busy = activity.begin();
                let sent = credit.take(count)
                    && sink(Frame::new(id, kind, buffer.get(..count).unwrap_or_default())).is_ok();
                if !sent {
                    return;
                }
            }
        })
    }

    fn write(&self, path: &str, mode: u32, input: &Receiver<Vec<u8>>) -> Result<(), String> {
        let explain = |error: io::Error| format!("{path}: {error}");
        // Beside the target and renamed: the program being replaced may be running.
        let partial = PathBuf::from(format!("{path}.rig-partial"));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&partial)
            .map_err(explain)?;
        loop {
            let bytes = input.recv().map_err(|_| format!("{path}: cut off"))?;
            if bytes.is_empty() {
                break;
            }
            file.write_all(&bytes).map_err(explain)?;
            (self.sink)(Frame::new(self.id, Kind::Ack, ack(Kind::Input, bytes.len()))).map_err(explain)?;
        }
        file.set_permissions(Permissions::from_mode(mode))
            .map_err(explain)?;
        std::fs::rename(&partial, path).map_err(explain)
    }

    fn read(&self, path: &str) -> Result<(), String> {
        let explain = |error: io::Error| format!("{path}: {error}");
        let mut file = File::open(path).map_err(explain)?;
        let mut buffer = [0; 4 * CHUNK];
        loop {
            let count = file.read(&mut buffer).map_err(explain)?;
            if count == 0 {
                return Ok(());
            }
            if !self.output.take(count) {
                return Err(format!("{path}: cut off"));
            }
            let bytes = buffer.get(..count).unwrap_or_default();
            (self.sink)(Frame::new(self.id, Kind::Output, bytes)).map_err(explain)?;
        }
    }
}

/// When output was last seen, for [`LINGER`]; output still being sent counts as seen now.
struct Activity {
    begun: Instant,
    /// Milliseconds after `begun`.
    last: AtomicU64,
    sending: AtomicU64,
}

impl Activity {
    fn new() -> Activity {
        Activity {
            begun: Instant::now(),
            last: AtomicU64::new(0),
            sending: AtomicU64::new(0),
        }
    }

    fn touch(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    fn begin(&self) -> Busy<'_> {
        self.sending.fetch_add(1, Ordering::Relaxed);
        Busy(self)
    }

    fn age(&self) -> Duration {
        if self.sending.load(Ordering::Relaxed) > 0 {
            return Duration::ZERO;
        }
        self.begun
            .elapsed()
            .saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}

struct Busy<'a>(&'a Activity);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.touch();
        self.0.sending.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Whoever asks may be gone before the program was started.
    #[test]
    fn a_program_ends_however_early_its_asker_goes() {
        for _ in 0..50 {
            let (ended, end) = mpsc::channel();
            let ended = Mutex::new(ended);
            let sink: Sink = Arc::new(move |frame| {
                let sent = ended.lock().unwrap().send(frame.kind);
                sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
            });
            let request = Request {
                target: "dom0".into(),
                patience: Duration::ZERO,
                action: Action::Exec(vec!["sleep".into(), "60".into()]),
            };
            Session::start(1, request, sink).hang_up();
            assert_eq!(end.recv_timeout(Duration::from_secs(20)), Ok(Kind::Exit));
        }
    }
}
