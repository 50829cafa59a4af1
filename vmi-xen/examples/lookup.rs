// SPDX-License-Identifier: GPL-3.0-only
//! What it costs to find the process behind a flow: `lookup FILE…`, a memory
//! dump each. Looks every socket of the guest up, and tells microseconds and
//! reads of physical memory for one lookup: by the kernel's tables with the holder
//! remembered, with it searched for, and by a sweep over all descriptors.

use std::cell::Cell;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

use vmi_xen::linux::{Flow, Linux};
use vmi_xen::memory::{Dump, MemoryError, PhysicalMemory};
use vmi_xen::offline::Offline;

/// A memory that counts how often it is read.
struct Counted<'a> {
    dump: &'a Dump,
    reads: Cell<u64>,
}

impl PhysicalMemory for Counted<'_> {
    fn read_phys(&self, pa: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        self.reads.set(self.reads.get() + 1);
        self.dump.read_phys(pa, buf)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    for file in std::env::args().skip(1) {
        let opened = Offline::open(Path::new(&file))?;
        let counted = Counted {
            dump: opened.linux.memory(),
            reads: Cell::new(0),
        };
        let linux = Linux::new(&counted, opened.linux.kernel().clone());
        let flows: Vec<Flow> = linux
            .held_sockets()?
            .iter()
            .filter(|held| !held.holders.is_empty())
            .filter_map(|held| {
                let socket = &held.socket;
                Some(Flow {
                    protocol: socket.protocol,
                    netns: Some(socket.netns),
                    local: socket.local,
                    remote: socket.remote?,
                })
            })
            .collect();
        let processes = linux.leaders()?;
        println!("release {}", linux.kernel().release);
        println!("processes {}", processes.len());
        println!("connections {}", flows.len());
        // What makes no difference later: proof of the kernel's rules.
        for flow in &flows {
            linux.socket_owner(flow)?;
        }
        let fresh = Linux::new(&counted, opened.linux.kernel().clone());
        let ways = [
            ("by the tables, holder remembered", &linux),
            ("by the tables, holder new", &fresh),
        ];
        for (what, linux) in ways {
            measure(&counted, what, &flows, |flow| linux.socket_owner(flow).is_ok())?;
        }
        measure(&counted, "by all descriptors", &flows, |_| {
            processes.iter().all(|&task| linux.sockets_of(task).is_ok())
        })?;
    }
    Ok(())
}

fn measure(
    counted: &Counted<'_>,
    what: &str,
    flows: &[Flow],
    lookup: impl Fn(&Flow) -> bool,
) -> Result<(), Box<dyn Error>> {
    let (begun, reads) = (Instant::now(), counted.reads.get());
    if !flows.iter().all(lookup) {
        return Err("a lookup failed".into());
    }
    let count = flows.len().max(1) as u64;
    let micros = begun.elapsed().as_secs_f64() * 1e6 / count as f64;
    println!("bench: {micros:.2} us {what}");
    println!("bench: {} reads {what}", (counted.reads.get() - reads) / count);
    Ok(())
}
