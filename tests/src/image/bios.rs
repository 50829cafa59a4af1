// SPDX-License-Identifier: GPL-3.0-only
//! The disk that an HVM domU boots from: ISOLINUX, its kernel and initramfs.
//!
//! Not by xl's `kernel =`: what QEMU then puts before the kernel loses its way in Bochs.

use crate::command::run;
use crate::error::{At, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const ISOLINUX: &str = "/usr/lib/ISOLINUX";
const LOADER: [&str; 2] = [
    "/usr/lib/ISOLINUX/isolinux.bin",
    "/usr/lib/syslinux/modules/bios/ldlinux.c32",
];

/// Makes it in `folder`. It is a disk with a boot record, and inside an ISO 9660.
pub(crate) fn bios_disk(folder: &Path, kernel: &Path, initramfs: &Path, cmdline: &str) -> Result<PathBuf> {
    let tree = folder.join("tree");
    fs::create_dir_all(&tree).at(&tree)?;
    let copy = |from: &Path, name: &str| fs::copy(from, tree.join(name)).at(from);
    for file in LOADER.map(Path::new) {
        // Each path above ends in a name.
        copy(file, &file.file_name().unwrap_or_default().to_string_lossy())?;
    }
    copy(kernel, "vmlinuz")?;
    copy(initramfs, "initramfs")?;
    let menu = format!(
        "PROMPT 0\nDEFAULT rig\nLABEL rig\n    KERNEL vmlinuz\n    APPEND initrd=initramfs {cmdline}\n"
    );
    fs::write(tree.join("isolinux.cfg"), menu).at(&tree)?;
    let disk = folder.join("boot.img");
    run(Command::new("xorriso")
        .args(["-as", "mkisofs", "-quiet", "-o"])
        .arg(&disk)
        .args(["-isohybrid-mbr", &format!("{ISOLINUX}/isohdpfx.bin")])
        .args(["-b", "isolinux.bin", "-c", "boot.cat", "-no-emul-boot"])
        .args(["-boot-load-size", "4", "-boot-info-table"])
        .arg(&tree))?;
    fs::remove_dir_all(&tree).at(&tree)?;
    Ok(disk)
}
