// SPDX-License-Identifier: GPL-3.0-only
//! QEMU with KVM and nested VMX or SVM.

use super::{Cpu, MEMORY, Machine};
use crate::agent::{DOM0_ADDRESS, DOM0_PORT};
use crate::command::run;
use crate::error::{Result, RigError};
use std::fs;
use std::process::Command;

pub(super) const PROGRAM: &str = "qemu-system-x86_64";

/// What can be known before QEMU is installed.
pub(super) fn cheap_probe(cpu: Cpu) -> Result<()> {
    let (flag, module) = (cpu.flag(), cpu.kvm_module());
    let has_flag = fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| {
        text.lines()
            .find(|line| line.starts_with("flags"))
            .is_some_and(|flags| flags.split_whitespace().any(|word| word == flag))
    });
    if !has_flag {
        return refuse(format!(
            "this machine's processor shows no {flag} (/proc/cpuinfo)"
        ));
    }
    let nested = fs::read_to_string(format!("/sys/module/{module}/parameters/nested"));
    if !nested.is_ok_and(|value| matches!(value.trim(), "Y" | "1")) {
        return refuse(format!(
            "{module} is not there or not nested (modprobe {module} nested=1)"
        ));
    }
    Ok(())
}

/// Whether KVM really gives a guest VMX or SVM: QEMU refuses to start if not, by `enforce`.
pub(super) fn probe(cpu: Cpu) -> Result<()> {
    let mut command = Command::new(PROGRAM);
    command.args(["-accel", "kvm", "-machine", "q35", "-m", "64"]);
    command.args(["-cpu", &format!("host,+{},enforce", cpu.flag())]);
    command.args(["-nodefaults", "-display", "none", "-no-reboot"]);
    // No disk and no network: the BIOS finds nothing to boot and, so asked, restarts, which ends it.
    command.args(["-boot", "reboot-timeout=0"]);
    let mut limited = Command::new("timeout");
    limited.arg("20").arg(PROGRAM).args(command.get_args());
    run(&mut limited)
        .map(drop)
        .map_err(|error| RigError::Backend(error.to_string()))
}

fn refuse(why: String) -> Result<()> {
    Err(RigError::Backend(why))
}

pub(super) fn configure(command: &mut Command, cpu: Cpu, machine: &Machine) {
    let disk = |path: &std::path::Path, index: u8| {
        format!(
            "file={},format=raw,if=ide,index={index},snapshot=on",
            path.display()
        )
    };
    command
        .args(["-accel", "kvm", "-machine", "pc", "-smp", "2"])
        .args(["-cpu", &format!("host,+{}", cpu.flag())])
        .args(["-m", &MEMORY.to_string()])
        .args(["-nodefaults", "-display", "none"])
        .args(["-serial", "file:xen.log"])
        .args(["-drive", &disk(&machine.dom0_root, 0)])
        .args(["-drive", &disk(&machine.domu_root, 1)])
        .args([
            "-drive",
            &format!("file={},if=ide,index=2,media=cdrom", machine.iso.display()),
        ])
        .args(["-boot", "d"])
        .arg("-netdev")
        .arg(format!(
            "user,id=host,restrict=on,hostfwd=tcp:127.0.0.1:{}-{DOM0_ADDRESS}:{DOM0_PORT}",
            machine.port
        ))
        .args(["-device", "e1000,netdev=host"]);
}
