// SPDX-License-Identifier: GPL-3.0-only
//! A GRUB for a PVH domU: one file that xl boots as a kernel, with its configuration and the initramfs
//! inside, and that takes the real kernel from the domU's disk.

use crate::command::run;
use crate::error::{At, Result};
use std::fs;
use std::path::Path;
use std::process::Command;

const KERNEL: &str = "(xen/xvda)/boot/kernel";

/// Makes it, with `folder` for what lies between.
pub(crate) fn grub_image(folder: &Path, initramfs: &Path, cmdline: &str) -> Result<Vec<u8>> {
    let config = folder.join("grub.cfg");
    fs::write(
        &config,
        format!("linux {KERNEL} {cmdline}\ninitrd (memdisk)/initramfs\nboot\n"),
    )
    .at(&config)?;
    fs::copy(initramfs, folder.join("initramfs")).at(initramfs)?;
    let memdisk = folder.join("memdisk.tar");
    run(Command::new("tar")
        .arg("-C")
        .arg(folder)
        .arg("-cf")
        .arg(&memdisk)
        .arg("initramfs"))?;
    let image = folder.join("grub.bin");
    run(Command::new("grub-mkimage")
        .args(["-O", "i386-xen_pvh", "-p", "/", "-c"])
        .arg(&config)
        .arg("-m")
        .arg(&memdisk)
        .arg("-o")
        .arg(&image)
        .args(["ext2", "linux", "memdisk", "tar"]))?;
    fs::read(&image).at(&image)
}
