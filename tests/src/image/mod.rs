// SPDX-License-Identifier: GPL-3.0-only
//! What the rig boots: the roots of dom0 and domUs, their initramfs, the boot medium.

mod bios;
mod boot;
mod cpio;
mod grub;
mod guest_kernel;
mod initramfs;
mod root;

pub(crate) use bios::bios_disk;
pub(crate) use boot::boot_iso;
pub use cpio::Archive;
pub(crate) use grub::grub_image;
pub(crate) use guest_kernel::guest_kernel;
pub(crate) use initramfs::{dom0_initramfs, domu_initramfs};
pub(crate) use root::{dom0_root, domu_root};
