// SPDX-License-Identifier: GPL-3.0-only
//! The medium that the machine boots from: ISOLINUX, Xen, dom0's kernel and initramfs.

use super::root::Root;
use crate::backend::Backend;
use crate::command::run;
use crate::error::{At, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Xen's command line. `apicv=0`: a Bochs that is not mended fails VM entries with it. The rest
/// saves an emulated processor work that tells nothing about the mesh.
const XEN: &str = "console=com1 com1=115200,8n1 dom0_mem=768M,max:768M altp2m=1 apicv=0 bootscrub=0 \
                   spec-ctrl=no xpti=no watchdog=0 iommu=no cpufreq=none ucode=no loglvl=warning \
                   guest_loglvl=warning";
const DOM0: &str = "console=hvc0 mitigations=off cryptomgr.notests rig.root=/dev/sda panic=5";

/// ISOLINUX and what it needs to start Xen. Not GRUB: in Bochs 2.7, which Debian 12 packages, that loses its way.
const LOADER: [&str; 4] = [
    "/usr/lib/ISOLINUX/isolinux.bin",
    "/usr/lib/syslinux/modules/bios/ldlinux.c32",
    "/usr/lib/syslinux/modules/bios/libcom32.c32",
    "/usr/lib/syslinux/modules/bios/mboot.c32",
];

/// Makes the medium in `folder`.
pub(crate) fn boot_iso(folder: &Path, backend: Backend, dom0: &Root, initramfs: &[u8]) -> Result<PathBuf> {
    let tree = folder.join("iso");
    fs::create_dir_all(&tree).at(&tree)?;
    let copy = |from: &Path, name: &str| fs::copy(from, tree.join(name)).at(from);
    for file in LOADER.map(Path::new) {
        // Each path above ends in a name.
        copy(file, &file.file_name().unwrap_or_default().to_string_lossy())?;
    }
    copy(&dom0.xen(), "xen")?;
    copy(&dom0.kernel(), "vmlinuz")?;
    fs::write(tree.join("initramfs"), initramfs).at(&tree)?;
    fs::write(tree.join("isolinux.cfg"), menu(backend)).at(&tree)?;
    let iso = folder.join("boot.iso");
    run(Command::new("xorriso")
        .args(["-as", "mkisofs", "-quiet", "-o"])
        .arg(&iso)
        .args(["-b", "isolinux.bin", "-c", "boot.cat", "-no-emul-boot"])
        .args(["-boot-load-size", "4", "-boot-info-table"])
        .arg(&tree))?;
    fs::remove_dir_all(&tree).at(&tree)?;
    Ok(iso)
}

fn menu(backend: Backend) -> String {
    let dom0_vcpus = match backend {
        Backend::Kvm => 2,
        Backend::Bochs | Backend::BochsPackaged => 1,
    };
    format!(
        "PROMPT 0
DEFAULT rig
LABEL rig
    KERNEL mboot.c32
    APPEND xen {XEN} dom0_max_vcpus={dom0_vcpus} --- vmlinuz {DOM0} --- initramfs
"
    )
}
