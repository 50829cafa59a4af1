// SPDX-License-Identifier: GPL-3.0-only
//! Debian packages that this machine needs, and where it gets them from.

use crate::command::{command, run};
use crate::error::{Result, RigError};
use crate::progress::Progress;
use std::process::Command;

/// To make the rig's images.
pub const IMAGES: &[&str] = &[
    "e2fsprogs",
    "busybox-static",
    "grub-common",
    "grub-xen-bin",
    "isolinux",
    "kmod",
    "mmdebstrap",
    "syslinux-common",
    "xorriso",
    "xz-utils",
];
/// To build Bochs from Debian's source, and to run it.
pub const BOCHS_BUILT: &[&str] = &[
    "bochsbios",
    "g++",
    "libc6-dev",
    "make",
    "patch",
    "pkgconf",
    "vgabios",
    "xz-utils",
];
/// To run Debian's own Bochs.
pub const BOCHS_PACKAGED: &[&str] = &["bochs", "bochsbios", "vgabios"];
/// To run QEMU with KVM.
pub const QEMU: &[&str] = &["qemu-system-x86", "seabios"];
/// To build the programs for dom0 on a Debian of dom0's own release.
pub const PROGRAMS: &[&str] = &[
    "clang",
    "gcc",
    "libc6-dev",
    "libclang-dev",
    "libelf-dev",
    "libxen-dev",
    "linux-libc-dev",
];

/// To make packages of programs, beside [`PROGRAMS`].
pub const PACKAGES: &[&str] = &["dpkg-dev"];

/// What the tests need beside [`PROGRAMS`]: network namespaces, an emulator that makes dumps of real kernels, and
/// strace as the measure of traces.
pub const TESTS: &[&str] = &["ethtool", "iproute2", "qemu-system-x86", "strace", "xz-utils"];

/// To fetch what the web page has from npm.
pub const NPM: &[&str] = &["nodejs", "npm"];

/// What the web page is tried in, and the letters that its pictures have.
pub const BROWSER: &[&str] = &["chromium", "fontconfig", "fonts-dejavu-core"];

/// What the datapath is measured against, on this host.
pub const NETBACK: &[&str] = &["clang", "ethtool", "iproute2", "linux-libc-dev", "nftables"];

/// Installs what is missing of `packages`, as root; else says what is missing.
pub fn ensure(packages: &[&str], progress: &Progress) -> Result<()> {
    let missing: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|name| !is_installed(name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !nix::unistd::geteuid().is_root() {
        return Err(RigError::Packages(list));
    }
    progress.say(format!("installing {list}"));
    let install = || {
        run(Command::new("apt-get")
            .args(["-y", "-q", "--no-install-recommends", "install"])
            .args(&missing)
            .env("DEBIAN_FRONTEND", "noninteractive"))
    };
    // A machine's package lists may be old or not there at all: fetch them if the first try fails.
    if install().is_err() {
        run(&mut command("apt-get", ["-q", "update"]))?;
        install()?;
    }
    Ok(())
}

fn is_installed(package: &str) -> bool {
    run(&mut command(
        "dpkg-query",
        ["-W", "-f", "${db:Status-Abbrev}", package],
    ))
    .is_ok_and(|status| status.starts_with("ii"))
}

/// Where this machine gets Debian from.
pub(crate) struct Mirrors {
    /// The archive, without suite.
    pub(crate) archive: String,
    /// The security archive, without suite, if the machine uses one.
    security: Option<String>,
}

impl Mirrors {
    /// The lines of a sources.list for a release and its updates.
    pub(crate) fn sources(&self, suite: &str) -> Vec<String> {
        let Mirrors { archive, security } = self;
        let mut lines = vec![
            format!("deb {archive} {suite} main"),
            format!("deb {archive} {suite}-updates main"),
        ];
        lines.extend(
            security
                .iter()
                .map(|security| format!("deb {security} {suite}-security main")),
        );
        lines
    }

    /// As the machine's own package sources say.
    pub(crate) fn of_this_machine() -> Result<Mirrors> {
        if let Some(mirrors) = Mirrors::configured() {
            return Ok(mirrors);
        }
        // Who a source is becomes known with its first package list.
        run(&mut command("apt-get", ["-q", "update"]))?;
        Mirrors::configured().ok_or(RigError::NoMirror)
    }

    fn configured() -> Option<Mirrors> {
        let format = "$(ORIGIN)|$(LABEL)|$(REPO_URI)";
        let targets = run(&mut command("apt-get", ["indextargets", "--format", format])).unwrap_or_default();
        let find = |label: &str| {
            let prefix = format!("Debian|{label}|");
            let address = targets.lines().find_map(|line| line.strip_prefix(&prefix))?;
            Some(address.trim_end_matches('/').to_owned())
        };
        Some(Mirrors {
            archive: find("Debian")?,
            security: find("Debian-Security"),
        })
    }
}
