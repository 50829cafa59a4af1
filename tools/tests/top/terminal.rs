// SPDX-License-Identifier: GPL-3.0-only
//! A terminal: a pty with somebody who reads it and knows what its screen shows.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::unistd::Pid;

/// Long, for machines that do other things as well; only a test that fails waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program on a terminal.
pub struct Terminal {
    child: Child,
    keys: File,
    /// Kept open, so that the state can be asked for when the program is gone.
    slave: OwnedFd,
    before: Termios,
    shown: Arc<Mutex<Shown>>,
}

/// What a terminal shows, as far as this program uses it.
#[derive(Default)]
struct Shown {
    lines: Vec<Vec<char>>,
    width: usize,
    at: (usize, usize),
    pending: Vec<u8>,
    alternate: bool,
    ever_alternate: bool,
    hidden: bool,
}

/// Waits until something holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "{what} did not come");
        thread::sleep(Duration::from_millis(20));
    }
}

impl Terminal {
    /// Starts a program on a terminal of this size.
    pub fn run(command: Command, width: u16, height: u16) -> Terminal {
        let pty = openpty(&size(width, height), None).unwrap();
        let before = tcgetattr(pty.slave.as_fd()).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        // In a session of its own: else it would ask the terminal of whoever runs these tests. It stays the same process.
        let child = Command::new("setsid")
            .arg("--ctty")
            .arg(command.get_program())
            .args(command.get_args())
            .env_remove("NO_COLOR")
            .env("TERM", "xterm")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let shown = Arc::new(Mutex::new(Shown::default()));
        shown.lock().unwrap().resize(width, height);
        let mut reader = File::from(pty.master.try_clone().unwrap());
        let screen = shown.clone();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                screen.lock().unwrap().take(&bytes[..count]);
            }
        });
        Terminal {
            child,
            keys: File::from(pty.master),
            slave: pty.slave,
            before,
            shown,
        }
    }

    /// Types.
    pub fn type_(&mut self, text: &str) {
        self.keys.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until the screen is so.
    pub fn until(&self, what: &str, holds: impl Fn(&[String]) -> bool) {
        let begin = Instant::now();
        loop {
            let screen = self.shown.lock().unwrap().text();
            if holds(&screen) {
                return;
            }
            assert!(
                begin.elapsed() < PATIENCE,
                "{what} did not come; the screen is\n{}",
                screen.join("\n")
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Gives the terminal another size; the kernel tells who runs on it.
    pub fn resize(&mut self, width: u16, height: u16) {
        self.shown.lock().unwrap().resize(width, height);
        rustix::termios::tcsetwinsize(
            &self.keys,
            rustix::termios::Winsize {
                ws_row: height,
                ws_col: width,
                ws_xpixel: 0,
                ws_ypixel: 0,
            },
        )
        .unwrap();
    }

    /// Somebody else writes all over the screen.
    pub fn scribble(&mut self) {
        for line in &mut self.shown.lock().unwrap().lines {
            line.fill('#');
        }
    }

    /// Sends it a signal.
    pub fn kill(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    /// Whether it is stopped.
    pub fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let (_, after) = stat.rsplit_once(')').unwrap();
        after.trim_start().starts_with('T')
    }

    /// Waits for its end.
    pub fn end(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("its end", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let status = status.unwrap_or_else(|| ExitStatus::from_raw(0));
        // What it wrote last is read soon.
        thread::sleep(Duration::from_millis(100));
        status
    }

    fn flags(&self) -> LocalFlags {
        tcgetattr(self.slave.as_fd()).unwrap().local_flags
    }

    /// Whether keys come one by one, unseen.
    pub fn is_raw(&self) -> bool {
        !self.flags().intersects(LocalFlags::ECHO | LocalFlags::ICANON)
    }

    /// Whether it has used a screen of its own.
    pub fn took_the_screen(&self) -> bool {
        self.shown.lock().unwrap().ever_alternate
    }

    /// Whether all is as it was: modes, screen, cursor.
    pub fn is_given_back(&self) -> bool {
        let now = tcgetattr(self.slave.as_fd()).unwrap();
        let same = (now.local_flags, now.input_flags, now.output_flags)
            == (
                self.before.local_flags,
                self.before.input_flags,
                self.before.output_flags,
            );
        let mut given = false;
        eventually("the screen as it was", || {
            let shown = self.shown.lock().unwrap();
            given = shown.ever_alternate && !shown.alternate && !shown.hidden;
            given
        });
        same && given
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A test that fails leaves nothing behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(width: u16, height: u16) -> Winsize {
    Winsize {
        ws_row: height,
        ws_col: width,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

impl Shown {
    fn resize(&mut self, width: u16, height: u16) {
        self.width = width.into();
        self.lines = vec![vec![' '; width.into()]; height.into()];
        self.at = (0, 0);
    }

    fn text(&self) -> Vec<String> {
        let line = |line: &Vec<char>| line.iter().collect::<String>().trim_end().to_owned();
        self.lines.iter().map(line).collect()
    }

    fn take(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.pending) {
            Ok(text) => text.to_owned(),
            Err(e) => String::from_utf8_lossy(&self.pending[..e.valid_up_to()]).into_owned(),
        };
        let mut rest = whole.as_str();
        while let Some(c) = rest.chars().next() {
            if c != '\x1b' {
                self.put(c);
                rest = &rest[c.len_utf8()..];
                continue;
            }
            let Some(sequence) = rest.strip_prefix("\x1b[") else {
                // Of others only the two characters that they have at least are left out.
                match rest.char_indices().nth(2) {
                    Some((next, _)) => rest = &rest[next..],
                    None => break,
                }
                continue;
            };
            let Some(end) = sequence.find(|c: char| ('@'..='~').contains(&c)) else {
                break;
            };
            let last = sequence[end..].chars().next().unwrap_or_default();
            self.obey(&sequence[..end], last);
            rest = &sequence[end + 1..];
        }
        let taken = whole.len() - rest.len();
        self.pending.drain(..taken);
    }

    fn put(&mut self, c: char) {
        match c {
            '\r' => self.at.0 = 0,
            '\n' => self.at.1 += 1,
            c => {
                let (x, y) = self.at;
                if let Some(cell) = self.lines.get_mut(y).and_then(|line| line.get_mut(x)) {
                    *cell = c;
                }
                self.at.0 += 1;
            }
        }
    }

    fn obey(&mut self, parameters: &str, command: char) {
        let number = |i: usize| -> usize {
            let part = parameters.split(';').nth(i).unwrap_or_default();
            part.parse().unwrap_or(1)
        };
        match (parameters, command) {
            (_, 'H') => self.at = (number(1) - 1, number(0) - 1),
            (_, 'J') => {
                for line in &mut self.lines {
                    line.fill(' ');
                }
            }
            ("?1049", 'h') => (self.alternate, self.ever_alternate) = (true, true),
            ("?1049", 'l') => {
                self.alternate = false;
                // What was on it is not seen any more.
                self.obey("2", 'J');
            }
            ("?25", 'l') => self.hidden = true,
            ("?25", 'h') => self.hidden = false,
            _ => {}
        }
    }
}
