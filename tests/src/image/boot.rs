// SPDX-License-Identifier: GPL-3.0-only
//! The medium that the machine boots from: GRUB, Xen, dom0's kernel and initramfs.

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

/// Makes the medium in `folder`.
pub(crate) fn boot_iso(folder: &Path, backend: Backend, dom0: &Root, initramfs: &[u8]) -> Result<PathBuf> {
    let tree = folder.join("iso");
    let boot = tree.join("boot");
    let grub = boot.join("grub");
    fs::create_dir_all(&grub).at(&grub)?;
    let copy = |from: PathBuf, name: &str| fs::copy(&from, boot.join(name)).at(&from);
    copy(dom0.xen(), "xen")?;
    copy(dom0.kernel(), "vmlinuz")?;
    fs::write(boot.join("initramfs"), initramfs).at(&boot)?;
    fs::write(grub.join("grub.cfg"), menu(backend)).at(&grub)?;
    let iso = folder.join("boot.iso");
    run(Command::new("grub-mkrescue").arg("-o").arg(&iso).arg(&tree))?;
    fs::remove_dir_all(&tree).at(&tree)?;
    Ok(iso)
}

fn menu(backend: Backend) -> String {
    let dom0_vcpus = match backend {
        Backend::Kvm => 2,
        Backend::Bochs | Backend::BochsPackaged => 1,
    };
    format!(
        "set timeout=0
menuentry rig {{
    multiboot2 /boot/xen {XEN} dom0_max_vcpus={dom0_vcpus}
    module2 /boot/vmlinuz {DOM0}
    module2 --nounzip /boot/initramfs
}}
"
    )
}
