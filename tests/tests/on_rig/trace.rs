// SPDX-License-Identifier: GPL-3.0-only
//! `xmesh trace` on a real Xen, measured by strace in the guest itself.

#[path = "../../../vmi-xen/tests/strace/normal.rs"]
mod normal;
use std::collections::BTreeSet;

use crate::support::{Mesh, Outcome};
use normal::normal;
use serde_json::Value;
use xmesh_rig::{Discard, Job, programs};

/// The program in web1.
const PROGRAM: &str = "/root/syscalls";
/// A program whose calls nothing else in web1 makes so often.
const LOAD: &str = "for i in $(seq 200); do /bin/echo > /dev/null; done";

/// Calls whose entries and returns are few enough for breakpoints in the guest's own memory.
const FEW: [&str; 6] = ["close", "execve", "exit_group", "getpid", "openat", "read"];

/// policyd runs, and the program is in web1.
fn up() -> Result<Mesh, Box<dyn std::error::Error>> {
    let mesh = Mesh::up()?;
    let folder = tempfile::tempdir()?;
    let program = programs::syscalls(folder.path())?;
    mesh.0.push(&program, "web1", PROGRAM)?;
    mesh.0.check("web1", &["chmod", "755", PROGRAM])?;
    Ok(mesh)
}

/// A trace that runs in dom0 and writes into a file. Dropping it ends the trace.
struct Trace<'m> {
    mesh: &'m Mesh,
    file: String,
    job: Option<Job>,
}

impl<'m> Trace<'m> {
    /// Starts it, and waits until its probes are armed.
    fn begin(mesh: &'m Mesh, name: &str, options: &str) -> Result<Trace<'m>, Box<dyn std::error::Error>> {
        let file = format!("/tmp/trace-{name}");
        let command = format!("exec xmesh --json trace web1 {options} > {file}");
        mesh.0.check("dom0", &["rm", "-f", &file])?;
        let job = mesh.0.spawn("dom0", &["sh", "-c", &command], Discard)?;
        let trace = Trace {
            mesh,
            file,
            job: Some(job),
        };
        mesh.wait("the trace begins", |_| Ok(!trace.of_kind("begin")?.is_empty()))?;
        Ok(trace)
    }

    fn items(&self) -> Result<Vec<Value>, Box<dyn std::error::Error>> {
        let text = self.mesh.0.read("dom0", &self.file)?;
        let text = String::from_utf8(text)?;
        // The last line may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        Ok(whole
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?)
    }

    fn of_kind(&self, kind: &str) -> Result<Vec<Value>, Box<dyn std::error::Error>> {
        Ok(self
            .items()?
            .into_iter()
            .filter(|item| item["kind"] == kind)
            .collect())
    }

    /// Waits for it to end by itself; gives its exit status.
    fn wait(&mut self) -> Result<i32, Box<dyn std::error::Error>> {
        Ok(self.job.take().ok_or("it has ended")?.wait()?)
    }
}

fn text(item: &Value) -> &str {
    item["text"].as_str().unwrap_or_default()
}

/// The calls of the process that ran [`PROGRAM`], from its exec on.
fn calls_of_program(items: &[Value]) -> Vec<String> {
    let start = format!("execve(\"{PROGRAM}\"");
    let Some(exec) = items.iter().position(|item| text(item).starts_with(&start)) else {
        return Vec::new();
    };
    let pid = &items[exec]["pid"];
    items[exec..]
        .iter()
        .filter(|item| item["pid"] == *pid)
        .filter_map(|item| normal(text(item)))
        .collect()
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn every_call_is_told_as_strace_tells_it_in_the_guest() -> Outcome {
    let mesh = up()?;
    mesh.0
        .check("web1", &["strace", "-o", "/root/told", PROGRAM, "narrow"])?;
    let told = String::from_utf8(mesh.0.read("web1", "/root/told")?)?;
    let theirs: Vec<String> = told.lines().filter_map(normal).collect();
    assert!(theirs.len() > 100, "{told}");
    // Whatever strace saw is asked of the other too.
    let mut names: BTreeSet<&str> = theirs
        .iter()
        .filter_map(|line| line.split('(').next())
        .filter(|name| !name.starts_with("syscall_"))
        .collect();
    if !mesh.0.cpu().has_altp2m() {
        println!(
            "left out: all calls but {FEW:?}, since a guest can have 124 breakpoints in its own memory at most"
        );
        names.retain(|name| FEW.contains(name));
    }
    // A number that no kernel has leads to no function, so there is nothing to probe.
    let theirs: Vec<&String> = theirs
        .iter()
        .filter(|line| line.split('(').next().is_some_and(|name| names.contains(name)))
        .collect();
    let names = Vec::from_iter(names.iter().copied()).join(",");

    let before = kernel_text(&mesh)?;
    let trace = Trace::begin(&mesh, "all", &format!("--limit 100000 --syscall {names}"))?;
    let begin = trace.of_kind("begin")?;
    assert_eq!(begin[0]["gaps"].to_string(), "[]");
    if mesh.0.cpu().has_altp2m() {
        assert_eq!(kernel_text(&mesh)?, before, "the guest sees its own text");
    } else {
        println!("left out: breakpoints in the guest's own text are there for it to see");
    }
    mesh.0.check("web1", &[PROGRAM, "narrow"])?;
    let last = |trace: &Trace<'_>| -> Result<Vec<String>, Box<dyn std::error::Error>> {
        Ok(calls_of_program(&trace.of_kind("call")?))
    };
    mesh.wait("the end of the program", |_| {
        Ok(last(&trace)?
            .last()
            .is_some_and(|line| line.starts_with("exit_group")))
    })?;
    let ours = last(&trace)?;
    assert!(trace.of_kind("lost")?.is_empty() && trace.of_kind("left_out")?.is_empty());

    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, *theirs);
    }
    assert_eq!(ours.len(), theirs.len());
    let narrow = trace
        .of_kind("call")?
        .iter()
        .filter(|item| item["abi"] == "i386")
        .count();
    if mesh.0.cpu().has_altp2m() {
        assert_eq!(narrow, 7, "calls by int 0x80");
    }

    drop(trace);
    no_probe_is_left(&mesh)?;
    assert_eq!(kernel_text(&mesh)?, before);
    Ok(())
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn two_traces_share_a_probe_and_end_by_themselves() -> Outcome {
    let mesh = up()?;
    let options = format!("--exe {PROGRAM} --syscall getpid,openat");
    let mut short = Trace::begin(&mesh, "short", &format!("{options} --count 3"))?;
    let long = Trace::begin(&mesh, "long", &options)?;
    mesh.0.check("web1", &[PROGRAM])?;
    assert_eq!(short.wait()?, 0);
    assert_eq!(short.of_kind("call")?.len(), 3);
    mesh.wait("the rest", |_| Ok(long.of_kind("call")?.len() == 7))?;
    // The other's end has not taken the probe away.
    mesh.0.check("web1", &[PROGRAM])?;
    mesh.wait("the second run", |_| Ok(long.of_kind("call")?.len() == 14))?;
    one_process_alone(&mesh)?;
    let mut timed = Trace::begin(&mesh, "timed", "--syscall getpid --duration 2")?;
    assert_eq!(timed.wait()?, 0);
    drop(long);
    no_probe_is_left(&mesh)
}

/// Of a process that was there before, and of no other that makes the same calls.
fn one_process_alone(mesh: &Mesh) -> Outcome {
    let reader = "echo $$ > /run/reader; while :; do read up < /proc/uptime; sleep 0.5; done";
    let job = mesh.0.spawn("web1", &["sh", "-c", reader], Discard)?;
    mesh.wait("the reader", |mesh| {
        Ok(mesh.0.exec("web1", &["test", "-s", "/run/reader"])?.success())
    })?;
    let pid = mesh.0.check("web1", &["cat", "/run/reader"])?;
    let trace = Trace::begin(mesh, "one", &format!("--pid {} --syscall openat", pid.trim()))?;
    mesh.0.check("web1", &[PROGRAM])?;
    mesh.wait("calls of the reader", |_| Ok(trace.of_kind("call")?.len() >= 3))?;
    for call in trace.of_kind("call")? {
        assert_eq!(call["pid"].to_string(), pid.trim(), "{call}");
        assert!(text(&call).contains("/proc/uptime"), "{call}");
    }
    drop(job);
    mesh.0.check("web1", &["rm", "/run/reader"])?;
    Ok(())
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_trace_over_its_limit_says_so_and_leaves_the_mesh_alone() -> Outcome {
    let mesh = up()?;
    let before = mesh.probe_hits("web1", "finalize_exec")?;
    let trace = Trace::begin(&mesh, "limited", "--limit 5 --syscall openat,read,close")?;
    mesh.0.check("web1", &["sh", "-c", LOAD])?;
    mesh.wait("to be told", |_| Ok(!trace.of_kind("left_out")?.is_empty()))?;
    // Counts are shown once a second.
    mesh.wait("200 programs, each told", |mesh| {
        Ok(mesh.probe_hits("web1", "finalize_exec")? >= before + 200)
    })?;
    assert_eq!(mesh.mode("web1")?, mesh.trapped());
    let begun = mesh
        .0
        .exec("dom0", &["xmesh", "trace", "web1", "--syscall", "no_such_call"])?;
    assert_eq!(begun.status, 1, "{begun:?}");
    assert!(begun.error_text().contains("no such call"), "{begun:?}");
    drop(trace);
    no_probe_is_left(&mesh)
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn traces_over_the_budget_rest_before_all_else_and_come_back() -> Outcome {
    let mesh = up()?;
    mesh.end()?;
    // An emulated processor takes long for a trap.
    mesh.start_with("5")?;
    let trace = Trace::begin(&mesh, "costly", "--limit 100000 --syscall openat,read,close")?;
    let row = |mesh: &Mesh| -> Result<Option<Value>, Box<dyn std::error::Error>> {
        let domain = mesh.domain("web1")?;
        let mut probes = domain["probes"].as_array().ok_or("probes")?.iter();
        Ok(probes.find(|p| p["function"] == "(traces)").cloned())
    };
    mesh.wait("the trace's probes are listed", |mesh| {
        let row = row(mesh)?;
        Ok(row.is_some_and(|row| row["resume"].to_string().ends_with(" probes\"")))
    })?;
    let load = mesh.0.spawn("web1", &["sh", "-c", LOAD], Discard)?;
    mesh.wait("its reader is told that it rests", |_| {
        Ok(!trace.of_kind("rest")?.is_empty())
    })?;
    let why = trace.of_kind("rest")?[0]["why"].to_string();
    assert!(why.contains("the budget is 5.0 %"), "{why}");
    mesh.wait("`xmesh list -v` says so too", |mesh| {
        let problems = mesh.domain("web1")?["problems"].to_string();
        Ok(problems.contains("no traced call is told") && row(mesh)?.is_some())
    })?;
    assert_eq!(mesh.mode("web1")?, mesh.trapped());
    mesh.wait("another is refused meanwhile", |mesh| {
        let options = ["--syscall", "getpid", "--duration", "1"];
        let refused = mesh
            .0
            .exec("dom0", &[&["xmesh", "trace", "web1"][..], &options].concat())?;
        Ok(refused.status == 1 && refused.error_text().contains("try again in"))
    })?;
    load.wait()?;
    mesh.wait("it goes on", |_| Ok(!trace.of_kind("resumed")?.is_empty()))?;
    mesh.0.check("web1", &[PROGRAM])?;
    mesh.wait("and tells calls", |_| {
        let items = trace.items()?;
        let resumed = items.iter().rposition(|item| item["kind"] == "resumed");
        Ok(resumed.is_some_and(|at| items[at..].iter().any(|item| item["kind"] == "call")))
    })?;
    drop(trace);
    mesh.wait("nothing is listed once it is over", |mesh| {
        Ok(row(mesh)?.is_none())
    })?;
    mesh.end()?;
    mesh.start_with("100")
}

/// A call that was traced costs no trap any more.
fn no_probe_is_left(mesh: &Mesh) -> Outcome {
    let traps = || -> Result<u64, Box<dyn std::error::Error>> {
        Ok(mesh.domain("web1")?["traps"].as_u64().ok_or("traps")?)
    };
    mesh.wait("the probes go", |mesh| {
        let before = traps()?;
        // More than a hundred calls, one exec.
        mesh.0.check("web1", &[PROGRAM])?;
        std::thread::sleep(std::time::Duration::from_secs(3));
        Ok(traps()? - before < 30)
    })
}

/// First bytes of functions that are traced, as the guest itself reads them.
fn kernel_text(mesh: &Mesh) -> Result<String, Box<dyn std::error::Error>> {
    const SCRIPT: &str = "
import struct
want = ('__x64_sys_openat', '__x64_sys_read', '__x64_sys_getpid', '__x64_sys_execve', '__ia32_sys_access')
at = {}
for line in open('/proc/kallsyms'):
    address, _, name = line.split()[:3]
    if name in want: at[name] = int(address, 16)
core = open('/proc/kcore', 'rb')
header = core.read(64)
offset, = struct.unpack_from('<Q', header, 32)
size, count = struct.unpack_from('<HH', header, 54)
core.seek(offset)
table = core.read(size * count)
for name in want:
    for i in range(count):
        _, _, start, virtual, _, length, _, _ = struct.unpack_from('<IIQQQQQQ', table, i * size)
        if virtual <= at[name] < virtual + length:
            core.seek(start + at[name] - virtual)
            print(name, core.read(48).hex())
            break
";
    let text = mesh.0.check("web1", &["python3", "-c", SCRIPT])?;
    assert_eq!(text.lines().count(), 5, "{text}");
    Ok(text)
}
