// SPDX-License-Identifier: GPL-3.0-only
//! Shows what the engine sees in a guest: `inspect FILE` reads a memory dump,
//! `inspect DOMID` a running domain. Only reads; arms no probe.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use vmi_xen::kernel::Kernel;
use vmi_xen::linux::{Linux, Process};
use vmi_xen::live::{LiveMemory, cpu_states};
use vmi_xen::memory::{CpuState, Dump, PhysicalMemory};
use xen_bindings::Xen;

fn main() -> Result<(), Box<dyn Error>> {
    let what = std::env::args().nth(1).ok_or("usage: inspect FILE|DOMID")?;
    match what.parse() {
        Ok(domid) => {
            let xen = Xen::open()?;
            let cpus = cpu_states(&xen, domid)?;
            show(LiveMemory::new(&xen, domid), &cpus)
        }
        Err(_) => {
            let dump = Dump::open(Path::new(&what))?;
            show(&dump, dump.cpus())
        }
    }
}

fn show<M: PhysicalMemory>(mem: M, cpus: &[CpuState]) -> Result<(), Box<dyn Error>> {
    let begun = Instant::now();
    let kernel = Kernel::find(&mem, cpus)?;
    println!(
        "kernel   {} ({} symbols, slide {:#x}) in {:?}",
        kernel.release,
        kernel.symbols.len(),
        kernel.slide,
        begun.elapsed()
    );
    for (what, why) in kernel.layout.gaps() {
        println!("gap      {what}: {why}");
    }
    if kernel.syscall_entry_intact == Some(false) {
        println!("warning  a vCPU's system-call entry is not the kernel's own");
    }
    let linux = Linux::new(mem, kernel);
    for (vcpu, cpu) in cpus.iter().enumerate() {
        match linux.prove_current(cpu).and_then(|task| linux.process(task)) {
            Ok(task) => println!("vcpu {vcpu}   runs {} {}", task.pid, task.comm),
            Err(error) => println!("vcpu {vcpu}   {error}"),
        }
    }
    let begun = Instant::now();
    let processes = linux.processes()?;
    println!("{} processes in {:?}", processes.len(), begun.elapsed());
    for process in processes.iter().filter(|process| !process.kthread) {
        println!("{}", line(process));
        for (fd, socket) in linux.sockets_of(process.task)? {
            let remote = socket
                .remote
                .map_or_else(|| "*".to_owned(), |remote| remote.to_string());
            println!(
                "         fd {fd}: {:?} {:?} {} {remote}",
                socket.protocol, socket.state, socket.local
            );
        }
    }
    for address in linux.addresses()? {
        println!(
            "address  {}/{} on {} in {}",
            address.addr, address.prefix_len, address.ifname, address.netns
        );
    }
    Ok(())
}

fn line(process: &Process) -> String {
    let mut line = format!(
        "process  {} < {} uid {} net {} {}",
        process.pid,
        process.ppid,
        process.euid,
        process.netns,
        process.exe.as_deref().unwrap_or("-"),
    );
    if process.exe_deleted {
        line += " (deleted)";
    }
    for (what, value) in [
        ("chroot", process.chroot.as_deref()),
        ("container", process.container.as_deref()),
    ] {
        if let Some(value) = value {
            line += &format!(" {what} {value}");
        }
    }
    line += &format!(" {:.200?}", process.args);
    line
}
