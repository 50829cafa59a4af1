// SPDX-License-Identifier: GPL-3.0-only
//! Shows what the engine sees in a memory dump of a guest.
use std::path::Path;
use std::time::Instant;

use vmi_xen::kernel::Kernel;
use vmi_xen::linux::Linux;
use vmi_xen::memory::Dump;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args().nth(1).ok_or("usage: inspect DUMP")?;
    let dump = Dump::open(Path::new(&file))?;
    let begun = Instant::now();
    let kernel = Kernel::find(&dump, dump.cpus())?;
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
    let linux = Linux::new(&dump, kernel);
    for cpu in dump.cpus() {
        match linux.prove_current(cpu).and_then(|task| linux.process(task)) {
            Ok(task) => println!("current  {} {}", task.pid, task.comm),
            Err(error) => println!("current  {error}"),
        }
    }
    let begun = Instant::now();
    let processes = linux.processes()?;
    println!("{} processes in {:?}", processes.len(), begun.elapsed());
    for process in processes.iter().filter(|process| !process.kthread) {
        println!(
            "process  {} < {} uid {}/{} login {} {:?}{} chroot {:?} {:.60?} net {} pid {} mnt {} {:?} {:?}",
            process.pid,
            process.ppid,
            process.uid,
            process.euid,
            process.loginuid as i32,
            process.exe,
            if process.exe_deleted { " (deleted)" } else { "" },
            process.chroot,
            process.args,
            process.netns,
            process.pidns,
            process.mntns,
            process.cgroup,
            process.container,
        );
        for (fd, socket) in linux.sockets_of(process.task)? {
            println!("  {fd} {socket:x?}");
        }
    }
    for address in linux.addresses()? {
        println!("address  {address:?}");
    }
    Ok(())
}
