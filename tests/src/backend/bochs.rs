// SPDX-License-Identifier: GPL-3.0-only
//! The configuration of Bochs.

use super::{Backend, Cpu, MEMORY, Machine};
use crate::agent::{DOM0_ADDRESS, DOM0_PORT};
use crate::error::{At, Result};
use std::fs;
use std::process::Command;

/// Emulated instructions a second of emulated time. At most what a usual machine emulates: with
/// `sync=slowdown` a faster one waits, so that `sleep` and TCP's timers in the rig are as long as on
/// the host; a slower one lags. The other choice, `sync=none`, lets idle time pass at once: a
/// `sleep 10` in an idle rig is over before the host's packet has arrived.
const INSTRUCTIONS_PER_SECOND: u64 = 200_000_000;

pub(super) fn configure(command: &mut Command, backend: Backend, cpu: Cpu, machine: &Machine) -> Result<()> {
    let write = |name: &str, text: String| {
        let path = machine.folder.join(name);
        fs::write(&path, text).at(&path)
    };
    write("bochsrc", bochsrc(backend, cpu, machine))?;
    write("slirp.conf", slirp(machine.port))?;
    command.args(["-q", "-f", "bochsrc"]);
    if backend == Backend::BochsPackaged {
        // Debian's Bochs is built with its debugger, which waits for a command to begin.
        write("debugger", "c\n".to_owned())?;
        command.args(["-rc", "debugger"]);
    }
    Ok(())
}

fn bochsrc(backend: Backend, cpu: Cpu, machine: &Machine) -> String {
    let display = match backend {
        // The only display of Debian's Bochs that needs no screen; it is not to wait for a viewer.
        Backend::BochsPackaged => "display_library: rfb, options=\"timeout=0\"",
        _ => "display_library: nogui",
    };
    let sound = match backend {
        // Its sound mixer, which the speaker starts, is stopped by glibc for a buffer overflow.
        Backend::BochsPackaged => "sound: driver=dummy\nspeaker: enabled=1, mode=none",
        _ => "",
    };
    let Machine {
        iso,
        dom0_root,
        domu_root,
        ..
    } = machine;
    format!(
        r#"{display}
cpu: model={model}, count=1, ips={INSTRUCTIONS_PER_SECOND}, reset_on_triple_fault=0, ignore_bad_msrs=1
memory: guest={MEMORY}, host={MEMORY}
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/vgabios/vgabios.bin
pci: enabled=1, chipset=i440fx
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15
ata0-master: type=disk, path="{dom0}", mode=volatile, journal=dom0.redolog
ata0-slave: type=disk, path="{domu}", mode=volatile, journal=domu.redolog
ata1-master: type=cdrom, path="{iso}", status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=xen.log
e1000: enabled=1, mac=52:54:00:00:00:01, ethmod=slirp, script=slirp.conf
clock: sync=slowdown, time0=utc
{sound}
log: bochs.log
debug: action=ignore
info: action=ignore
error: action=ignore
panic: action=fatal
"#,
        model = cpu.bochs_model(),
        dom0 = dom0_root.display(),
        domu = domu_root.display(),
        iso = iso.display(),
    )
}

fn slirp(port: u16) -> String {
    format!("# slirp config\nrestricted = 1\nhostfwd = tcp:127.0.0.1:{port}-{DOM0_ADDRESS}:{DOM0_PORT}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_leads_into_the_rig() {
        assert!(slirp(7701).contains("tcp:127.0.0.1:7701-10.0.2.15:7700\n"));
    }

    #[test]
    fn slirp_config_begins_with_the_line_bochs_asks_for() {
        assert!(slirp(1).starts_with("# slirp config\n"));
    }
}
