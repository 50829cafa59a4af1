// SPDX-License-Identifier: GPL-3.0-only
//! Does to a running guest what a rootkit does, from outside: for tests of what finds rootkits.
//!
//! ```text
//! tamper hide DOMID PID      takes a process off the task list, as DKOM rootkits do
//! tamper show DOMID TASK     puts it back; TASK is the address that `hide` printed
//! tamper hook DOMID NUMBER   sends a system call of the guest to the one that does nothing
//! tamper heal DOMID NUMBER ADDRESS   sends it where it went; ADDRESS is what `hook` printed
//! tamper put DOMID SYMBOL VALUE      writes 8 bytes at a symbol of the kernel, and prints what was there
//! tamper root DOMID PID      makes a process root where its credentials lie, as exploits do that can write to the kernel's memory
//! ```
//!
//! A hidden process must be shown again before it ends: its neighbours do not know it any more.

use anyhow::{Context, bail};
use vmi_xen::kernel::Kernel;
use vmi_xen::linux::Linux;
use vmi_xen::live::{LiveMemory, cpu_states};
use xen_bindings::domain::PauseGuard;
use xen_bindings::memory::ForeignPages;
use xen_bindings::{DomId, PAGE_SIZE, Xen};

struct Guest {
    xen: Xen,
    domid: DomId,
    linux: Linux<LiveMemory>,
}

impl Guest {
    fn open(domid: DomId) -> anyhow::Result<Guest> {
        let xen = Xen::open()?;
        let memory = LiveMemory::new(&xen, domid);
        let kernel = Kernel::find(&memory, &cpu_states(&xen, domid)?)?;
        let linux = Linux::new(memory, kernel);
        Ok(Guest { xen, domid, linux })
    }

    fn read(&self, va: u64) -> anyhow::Result<u64> {
        let space = &self.linux.kernel().space;
        Ok(space.read_u64(self.linux.memory(), va)?)
    }

    fn write(&self, va: u64, value: u64) -> anyhow::Result<()> {
        self.write_bytes(va, &value.to_le_bytes())
    }

    /// Within a page.
    fn write_bytes(&self, va: u64, bytes: &[u8]) -> anyhow::Result<()> {
        let space = &self.linux.kernel().space;
        let pa = space.translate(self.linux.memory(), va)?;
        let (gfn, offset) = (pa / PAGE_SIZE as u64, (pa % PAGE_SIZE as u64) as usize);
        let page = ForeignPages::map_one(&self.xen, self.domid, gfn, true)?;
        Ok(page.write(offset, bytes)?)
    }

    fn process(&self, pid: &str) -> anyhow::Result<u64> {
        let pid: u32 = pid.parse()?;
        let processes = self.linux.processes()?;
        let process = processes.iter().find(|p| p.pid == pid);
        Ok(process.context("no such process")?.task.0)
    }

    fn link(&self, task: u64) -> anyhow::Result<u64> {
        let offsets = self.linux.kernel().layout.task.as_ref();
        let offsets = offsets.map_err(|why| anyhow::anyhow!("{why}"))?;
        Ok(task + offsets.tasks)
    }

    fn call(&self, number: u64) -> anyhow::Result<u64> {
        let table = self.linux.kernel().symbols.address("sys_call_table");
        Ok(table.context("no system-call table")? + number * 8)
    }
}

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let [what, domid, rest @ ..] = args.as_slice() else {
        bail!("usage: tamper hide|show|hook|heal|put|root DOMID …");
    };
    let guest = Guest::open(domid.parse()?)?;
    let _held = PauseGuard::new(&guest.xen, guest.domid)?;
    match (*what, rest) {
        ("hide", [pid]) => {
            let task = guest.process(pid)?;
            let link = guest.link(task)?;
            let (next, prev) = (guest.read(link)?, guest.read(link + 8)?);
            guest.write(prev, next)?;
            guest.write(next + 8, prev)?;
            println!("{task:#x}");
        }
        ("show", [task]) => {
            let link = guest.link(address(task)?)?;
            let (next, prev) = (guest.read(link)?, guest.read(link + 8)?);
            guest.write(prev, link)?;
            guest.write(next + 8, link)?;
        }
        ("hook", [number]) => {
            let entry = guest.call(number.parse()?)?;
            println!("{:#x}", guest.read(entry)?);
            let nothing = guest.linux.kernel().symbols.address("do_no_restart_syscall");
            guest.write(entry, nothing.context("no do_no_restart_syscall")?)?;
        }
        ("heal", [number, target]) => guest.write(guest.call(number.parse()?)?, address(target)?)?,
        ("put", [symbol, value]) => {
            let at = guest.linux.kernel().symbols.address(symbol);
            let at = at.with_context(|| format!("no {symbol}"))?;
            println!("{:#x}", guest.read(at)?);
            guest.write(at, address(value)?)?;
        }
        ("root", [pid]) => {
            let layout = &guest.linux.kernel().layout;
            let offsets = (layout.task.as_ref(), layout.cred.as_ref());
            let (Ok(task), Ok(cred)) = offsets else {
                bail!("its credentials are not known");
            };
            let at = guest.read(guest.process(pid)? + task.real_cred)?;
            for field in [cred.uid, cred.euid] {
                guest.write_bytes(at + field, &0u32.to_le_bytes())?;
            }
        }
        _ => bail!("usage: tamper hide|show|hook|heal|put|root DOMID …"),
    }
    Ok(())
}

/// Of hexadecimal digits.
fn address(text: &str) -> anyhow::Result<u64> {
    Ok(u64::from_str_radix(text.trim_start_matches("0x"), 16)?)
}
