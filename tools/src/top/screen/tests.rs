// SPDX-License-Identifier: GPL-3.0-only
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::thread;

use nix::pty::openpty;
use nix::sys::termios::{LocalFlags, tcgetattr};

use super::*;

/// Set for the process that is to panic.
const CHILD: &str = "XMESH_TEST_PANIC";

/// Takes the terminal and panics, in a process of its own; does nothing in an ordinary run of the tests.
#[test]
fn child_that_panics() {
    let Ok(thread_too) = std::env::var(CHILD) else {
        return;
    };
    let _screen = Screen::take().expect("a terminal");
    if thread_too == "thread" {
        let _ = thread::spawn(|| panic!("on purpose")).join();
        panic!("went on without its thread");
    }
    panic!("on purpose");
}

#[test]
fn a_panic_gives_the_terminal_back_before_its_message() {
    for which in ["main", "thread"] {
        let pty = openpty(None, None).expect("a pty");
        let before = tcgetattr(pty.slave.as_fd()).expect("its state");
        let end = |fd: &std::os::fd::OwnedFd| Stdio::from(fd.try_clone().expect("another descriptor"));
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "top::screen::tests::child_that_panics", "--nocapture"])
            .env(CHILD, which)
            .stdin(end(&pty.slave))
            .stdout(end(&pty.slave))
            .stderr(end(&pty.slave))
            .spawn()
            .expect("it starts");
        assert_eq!(child.wait().expect("it ends").code(), Some(PANICKED), "{which}");
        let after = tcgetattr(pty.slave.as_fd()).expect("its state");
        assert_eq!(after.local_flags, before.local_flags, "{which}");
        assert!(after.local_flags.contains(LocalFlags::ECHO | LocalFlags::ICANON));
        drop(pty.slave);
        let mut bytes = Vec::new();
        // The terminal ends when nobody has it open any more, which is an error of reading.
        let _ = File::from(pty.master).read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        let left = text
            .find("\x1b[?1049l")
            .unwrap_or_else(|| panic!("{which}: {text}"));
        assert!(text[left..].contains("on purpose"), "{which}: {text}");
        assert!(text.contains("\x1b[?1049h"), "it never took it: {text}");
        assert!(!text.contains("went on"), "{which}: {text}");
    }
}
