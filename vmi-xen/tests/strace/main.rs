// SPDX-License-Identifier: GPL-3.0-only
//! System calls as this library tells them against strace's own words, on this machine: a program that makes a known
//! mix of calls runs once under strace, and once under a tracer that hands registers and memory to the library.
//!
//! Needs rustc and strace, which is installed if it is missing.

#![allow(clippy::expect_used, reason = "all of it is test code")]

mod normal;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use vmi_xen::syscall::{Abi, Arguments, Call, UserMemory};

use normal::normal;

/// A process's memory, by the kernel's own file.
struct Memory(File);

impl UserMemory for Memory {
    fn read(&self, va: u64, buf: &mut [u8]) -> usize {
        let mut done = 0;
        // Page by page: one that is not there must not hide those before it.
        while done < buf.len() {
            let at = va.wrapping_add(done as u64);
            let take = ((4096 - at % 4096) as usize).min(buf.len() - done);
            match self.0.read_at(&mut buf[done..done + take], at) {
                Ok(got) if got > 0 => done += got,
                _ => break,
            }
        }
        done
    }
}

/// Runs a program and tells its calls, from its exec on.
fn trace(program: &Path, narrow: bool) -> Vec<String> {
    // Stops itself, so that it can be seized before it runs the program.
    let mut command = Command::new("sh");
    command
        .args(["-c", "kill -STOP $$; exec \"$@\"", "sh"])
        .arg(program);
    if narrow {
        command.arg("narrow");
    }
    let mut child = command.stdout(Stdio::null()).spawn().expect("sh");
    let pid = Pid::from_raw(child.id() as i32);
    waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("a stop");
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACEEXEC | Options::PTRACE_O_EXITKILL;
    ptrace::seize(pid, options).expect("to be its tracer");
    nix::sys::signal::kill(pid, Signal::SIGCONT).expect("a signal");

    let mut lines = Vec::new();
    let mut pending: Option<(Call, Arguments)> = None;
    let mut seen_exec = false;
    loop {
        let mut deliver = None;
        match waitpid(pid, None).expect("a status") {
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => break,
            WaitStatus::PtraceSyscall(_) => {
                let memory = Memory(File::open(format!("/proc/{pid}/mem")).expect("its memory"));
                let registers = ptrace::getregs(pid).expect("registers");
                if registers.rax as i64 == -i64::from(libc::ENOSYS) && pending.is_none() {
                    let call = entry(&memory, &registers);
                    let arguments = call.enter(&memory);
                    if call.signature.is_some_and(|signature| !signature.returns()) {
                        lines.push(line(&call, &arguments, 0));
                    }
                    pending = Some((call, arguments));
                } else if let Some((call, mut arguments)) = pending.take() {
                    call.leave(&memory, registers.rax, &mut arguments);
                    if seen_exec {
                        lines.push(line(&call, &arguments, registers.rax));
                    }
                }
            }
            // What comes before it is the shell's.
            WaitStatus::PtraceEvent(_, _, event) => seen_exec |= event == libc::PTRACE_EVENT_EXEC,
            WaitStatus::Stopped(_, signal) if signal != Signal::SIGCONT && signal != Signal::SIGTRAP => {
                deliver = Some(signal);
            }
            _ => {}
        }
        let _ = ptrace::syscall(pid, deliver);
    }
    let _ = child.wait();
    lines
}

/// The call of a process that has just made it. Which ABI it is of is told by the instruction behind it.
fn entry(memory: &Memory, registers: &libc::user_regs_struct) -> Call {
    const INT_0X80: [u8; 2] = [0xcd, 0x80];
    let r = registers;
    let mut instruction = [0; 2];
    memory.read(r.rip.wrapping_sub(2), &mut instruction);
    if instruction == INT_0X80 {
        return Call::new(Abi::Ia32, r.orig_rax, [r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp]);
    }
    Call::new(Abi::X64, r.orig_rax, [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9])
}

fn line(call: &Call, arguments: &Arguments, result: u64) -> String {
    let shown = arguments.texts(call).join(", ");
    format!("{}({shown}) = {}", call.name(), call.result(result, arguments))
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn every_call_is_told_as_strace_tells_it() {
    xmesh_rig::setup::ensure(&["strace"], &xmesh_rig::Progress::new(true)).expect("strace");
    let work = tempfile::tempdir().expect("a folder");
    let program = xmesh_rig::programs::syscalls(work.path()).expect("the program");

    // Not every kernel has the 32-bit ABI.
    let narrow = std::fs::read_to_string("/proc/kallsyms").is_ok_and(|all| all.contains("__ia32_sys_openat"));
    let told = work.path().join("told");
    let mut command = Command::new("strace");
    command.arg("-o").arg(&told).arg(&program);
    if narrow {
        command.arg("narrow");
    }
    run(&mut command);
    let told = std::fs::read_to_string(&told).expect("what strace told");
    // The first is the exec of the program itself, which the other tracer has in the shell.
    let theirs: Vec<String> = told.lines().filter_map(normal).skip(1).collect();
    let ours: Vec<String> = trace(&program, narrow)
        .iter()
        .filter_map(|line| normal(line))
        .skip(1)
        .collect();
    assert!(theirs.len() > 100, "{theirs:#?}");
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(ours.len(), theirs.len());
}
