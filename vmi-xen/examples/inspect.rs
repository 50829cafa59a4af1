// SPDX-License-Identifier: GPL-3.0-only
//! Shows what the engine sees in a memory dump of a guest.
use std::path::Path;
use std::time::Instant;

use vmi_xen::kernel::Kernel;
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
    Ok(())
}
