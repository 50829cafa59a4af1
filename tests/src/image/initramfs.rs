// SPDX-License-Identifier: GPL-3.0-only
//! The initramfs of dom0 and domUs: modules for the root disk, and the rig's own files to lay over the
//! root.

use super::cpio::Archive;
use super::root::Root;
use crate::error::{At, Result};
use std::fs;
use std::path::Path;

const BUSYBOX: &str = "/bin/busybox";
const FIRST: &[u8] = include_bytes!("../../guest/initrd-init");
const DOM0: &[u8] = include_bytes!("../../guest/dom0-init");
const DOMU: &[u8] = include_bytes!("../../guest/domu-init");
const POWER: &[u8] = include_bytes!("../../guest/power");
const BLOCK_SCRIPT: &[u8] = include_bytes!("../../guest/block-rig");
const VIF_SCRIPT: &[u8] = include_bytes!("../../guest/vif-rig");

/// A domU's.
pub(crate) fn domu_initramfs(root: &Root, agent: &[u8]) -> Result<Vec<u8>> {
    let mut archive = common(root, DOMU, agent)?;
    for folder in ["overlay/usr", "overlay/usr/sbin"] {
        archive.folder(folder);
    }
    for name in ["poweroff", "reboot", "halt"] {
        archive.program(&format!("overlay/usr/sbin/{name}"), POWER);
    }
    Ok(archive.finish())
}

/// dom0's; it brings along the domUs'.
pub(crate) fn dom0_initramfs(root: &Root, agent: &[u8], domu: &[u8]) -> Result<Vec<u8>> {
    let mut archive = common(root, DOM0, agent)?;
    archive.program("overlay/rig/domu-initramfs", domu);
    for folder in ["overlay/etc", "overlay/etc/xen", "overlay/etc/xen/scripts"] {
        archive.folder(folder);
    }
    archive.program("overlay/etc/xen/scripts/block-rig", BLOCK_SCRIPT);
    archive.program("overlay/etc/xen/scripts/vif-rig", VIF_SCRIPT);
    Ok(archive.finish())
}

fn common(root: &Root, init: &[u8], agent: &[u8]) -> Result<Archive> {
    let mut archive = Archive::default();
    archive.program("init", FIRST);
    for folder in ["bin", "modules", "overlay", "overlay/rig"] {
        archive.folder(folder);
    }
    archive.program("bin/busybox", &fs::read(BUSYBOX).at(BUSYBOX)?);
    for entry in fs::read_dir(root.modules()).at(root.modules())?.flatten() {
        let path = entry.path();
        let name = Path::new("modules").join(entry.file_name());
        archive.program(&name.to_string_lossy(), &fs::read(&path).at(&path)?);
    }
    archive.program("overlay/rig/init", init);
    archive.program("overlay/rig/agent", agent);
    Ok(archive)
}
