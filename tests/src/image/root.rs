// SPDX-License-Identifier: GPL-3.0-only
//! The root file systems, of Debian's packages alone; what is the rig's own comes with the initramfs.

use crate::cache;
use crate::command::run;
use crate::error::{At, Result};
use crate::progress::Progress;
use crate::setup::Mirrors;
use crate::xen::Xen;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian's release that domUs are of, whatever Xen they run on.
const DOMU_SUITE: &str = "bookworm";
const HOOK: &str = include_str!("../../guest/root-hook");
/// A multiple of this is a disk that every BIOS can address: 16 heads of 63 sectors.
const CYLINDER: u64 = 16 * 63 * 512;
/// Room in a root for what its packages need besides their files, and no more: nobody writes to it.
const SPARE: u64 = 48 << 20;

const BOTH: &[&str] = &[
    "bash",
    "busybox-static",
    "curl",
    "ethtool",
    "iproute2",
    "iputils-ping",
    "kmod",
    "netcat-openbsd",
    "procps",
    "socat",
    "strace",
    "util-linux",
];
/// Beside the tools of its Xen.
const DOM0: &[&str] = &["bpftool", "systemd", "tcpdump", "xenstore-utils"];
/// What dom0 can do without: a mirror may lack it, and tests that need it then say so.
const DOM0_MORE: &[&str] = &["openvswitch-switch", "qemu-system-xen"];
const DOMU: &[&str] = &[
    "ncat",
    "nginx-light",
    "python3-minimal",
    "redis-server",
    "redis-tools",
    "stress",
    "wget",
];

/// The same of a domU.
const DOMU_MORE: &[&str] = &["nftables"];

/// What a domU's first program loads.
pub(super) const DOMU_MODULES: &str = "xen-blkfront ext4 overlay xen-netfront";

/// A root file system and what is booted with it.
pub(crate) struct Root {
    folder: PathBuf,
}

impl Root {
    /// What lies in a folder.
    pub(super) fn at(folder: PathBuf) -> Root {
        Root { folder }
    }

    /// The file system's image.
    pub(crate) fn image(&self) -> PathBuf {
        self.folder.join("root.img")
    }

    /// Its kernel.
    pub(crate) fn kernel(&self) -> PathBuf {
        self.folder.join("kernel")
    }

    /// The modules to load before the root is there, and in `order` their names in order.
    pub(crate) fn modules(&self) -> PathBuf {
        self.folder.join("modules")
    }

    /// The hypervisor; dom0's root only.
    pub(crate) fn xen(&self) -> PathBuf {
        self.folder.join("xen")
    }
}

/// dom0: Xen's tools, and Debian's kernel for servers (the cloud kernel cannot be a dom0).
pub(crate) fn dom0_root(xen: Xen, progress: &Progress) -> Result<Root> {
    let kernel = [
        "linux-image-amd64",
        "ata_piix sd_mod ext4 overlay",
        xen.hypervisor(),
    ];
    let packages = [DOM0, &[xen.tools()]].concat();
    let more = [&packages, DOM0_MORE].concat();
    root("dom0", xen.suite(), &more, &[], kernel, progress).or_else(|error| {
        progress.say(format!("without {}: {error}", DOM0_MORE.join(" ")));
        root("dom0", xen.suite(), &packages, &[], kernel, progress)
    })
}

/// Every domU: the programs whose connections tests look at, and Debian's cloud kernel.
pub(crate) fn domu_root(progress: &Progress) -> Result<Root> {
    let kernel = ["linux-image-cloud-amd64", DOMU_MODULES, ""];
    let user = ["--customize-hook=chroot \"$1\" useradd --create-home --uid 1000 app"];
    root(
        "domu",
        DOMU_SUITE,
        &[DOMU, DOMU_MORE].concat(),
        &user,
        kernel,
        progress,
    )
    .or_else(|error| {
        progress.say(format!("without {}: {error}", DOMU_MORE.join(" ")));
        root("domu", DOMU_SUITE, DOMU, &user, kernel, progress)
    })
}

fn root(
    name: &str,
    suite: &str,
    packages: &[&str],
    options: &[&str],
    kernel: [&str; 3],
    progress: &Progress,
) -> Result<Root> {
    let include = format!("--include={}", [BOTH, packages].concat().join(","));
    let inputs = [
        suite.as_bytes(),
        include.as_bytes(),
        HOOK.as_bytes(),
        &options.concat().into_bytes(),
        &kernel.concat().into_bytes(),
    ];
    let folder = cache::entry(&format!("root-{name}"), &inputs, |place| {
        progress.say(format!("making the root of {name} from Debian's packages (once)"));
        make(place, suite, &include, options, kernel)
    })?;
    Ok(Root { folder })
}

fn make(place: &Path, suite: &str, include: &str, options: &[&str], kernel: [&str; 3]) -> Result<()> {
    let hook = place.join("hook");
    fs::write(&hook, HOOK).at(&hook)?;
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).at(&hook)?;
    let [package, modules, extra] = kernel;
    let tree = place.join("tree");
    let mirrors = Mirrors::of_this_machine()?;
    run(Command::new("mmdebstrap")
        .args(["--mode=root", "--variant=minbase", "--format=directory", include])
        .arg("--aptopt=Apt::Install-Recommends \"false\"")
        .args(options)
        .arg(format!(
            "--customize-hook='{}' \"$1\" '{}' '{package}' '{modules}' '{extra}'",
            hook.display(),
            place.display()
        ))
        .arg(suite)
        .arg(&tree)
        .args(mirrors.sources(suite)))?;

    let used = run(Command::new("du").args(["-s", "-B1"]).arg(&tree))?;
    let used: u64 = used
        .split_whitespace()
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1 << 30);
    let image = place.join("root.img");
    let file = fs::File::create(&image).at(&image)?;
    file.set_len((used + used / 16 + SPARE).next_multiple_of(CYLINDER))
        .at(&image)?;
    // No journal: it is only ever mounted to be read.
    run(Command::new("mkfs.ext4")
        .args(["-q", "-O", "^has_journal", "-d"])
        .arg(&tree)
        .arg(&image))?;
    fs::remove_dir_all(&tree).at(&tree)?;
    fs::remove_file(&hook).at(&hook)
}
