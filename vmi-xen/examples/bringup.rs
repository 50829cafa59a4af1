// SPDX-License-Identifier: GPL-3.0-only
//! What it costs to understand a guest of which nothing is known.
//!
//! ```text
//! bringup dump FILE        CPU time of this process, system calls included, from opening the dump on
//! bringup domain DOMID     instructions, where the rig's emulator counts, from connecting to Xen on
//! bringup raw FILE IMAGE   writes the dump's memory as a raw image, for programs that read nothing else
//! ```

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use nix::time::{ClockId, clock_gettime};
use vmi_xen::kernel::Kernel;
use vmi_xen::linux::Linux;
use vmi_xen::live::{LiveMemory, cpu_states};
use vmi_xen::memory::{Dump, PAGE_SIZE, PhysicalMemory};
use xen_bindings::Xen;

#[path = "support/counters.rs"]
mod counters;

use counters::Counters;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["dump", file] => dump(Path::new(file)),
        ["domain", domid] => domain(domid.parse()?),
        ["raw", file, image] => raw(Path::new(file), Path::new(image)),
        _ => bail!("usage: bringup dump FILE | bringup domain DOMID | bringup raw FILE IMAGE"),
    }
}

fn dump(path: &Path) -> anyhow::Result<()> {
    let begin = cpu_time()?;
    let dump = Dump::open(path)?;
    let kernel = Kernel::find(&dump, dump.cpus())?;
    let found = cpu_time()?;
    let linux = Linux::new(&dump, kernel);
    let processes = linux.processes()?;
    let listed = cpu_time()?;
    ensure!(!processes.is_empty(), "a guest without processes");
    println!("release {}", linux.kernel().release);
    println!("processes {}", processes.len());
    println!("bench: {:.6} s finding the kernel", found - begin);
    println!("bench: {:.6} s the first list of processes", listed - found);
    println!("bench: {:.6} s both", listed - begin);
    Ok(())
}

/// CPU time of this process, in seconds.
fn cpu_time() -> anyhow::Result<f64> {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
    Ok(std::time::Duration::from(time).as_secs_f64())
}

fn domain(domid: u32) -> anyhow::Result<()> {
    let counters = Counters::find().context("no emulator of the rig counts here")?;
    let begin = counters.instructions();
    let xen = Xen::open()?;
    let memory = LiveMemory::new(&xen, domid);
    let kernel = Kernel::find(&memory, &cpu_states(&xen, domid)?)?;
    let found = counters.instructions();
    let linux = Linux::new(&memory, kernel);
    let processes = linux.processes()?;
    let listed = counters.instructions();
    println!("release {}", linux.kernel().release);
    println!("processes {}", processes.len());
    println!("bench: {} instructions finding the kernel", found - begin);
    println!(
        "bench: {} instructions the first list of processes",
        listed - found
    );
    println!("bench: {} instructions both", listed - begin);
    Ok(())
}

/// Where no memory is, the image has a hole, which reads as zeros.
fn raw(path: &Path, image: &Path) -> anyhow::Result<()> {
    let dump = Dump::open(path)?;
    let image = File::create(image)?;
    let mut page = [0; PAGE_SIZE as usize];
    // The image ends with the last page of RAM: what the firmware has higher up would be a hole of gigabytes before it.
    let (mut at, mut left, mut last) = (0, dump.memory_len(), 0);
    // Memory of such a guest ends below twice its size, or a hole of another size is in it.
    let end = 2 * left;
    while left > 0 && at < end {
        if dump.read_phys(at, &mut page).is_ok() {
            left -= PAGE_SIZE.min(left);
            last = at + PAGE_SIZE;
            if page.iter().any(|&byte| byte != 0) {
                image.write_all_at(&page, at)?;
            }
        }
        at += PAGE_SIZE;
    }
    image.set_len(last)?;
    Ok(())
}
