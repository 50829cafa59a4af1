// SPDX-License-Identifier: GPL-3.0-only
//! Which kernels are tried, and the dump of each: made once, then cached under
//! a key of everything that goes into it.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};

use crate::initramfs::Initramfs;
use crate::machine::Machine;
use crate::truth::Truth;
use vmi_xen::memory::Dump;
use xmesh_rig::debian::{Apt, find_file};

/// One kernel to try, with the machine it runs on.
#[derive(Debug, Clone, Copy)]
pub struct Kernel {
    /// Series, such as "6.1."; the newest package of it is taken.
    pub series: &'static str,
    /// QEMU's machine type and its options.
    pub machine: &'static str,
    /// QEMU's CPU model.
    pub cpu: &'static str,
    /// Further kernel parameters.
    pub cmdline: &'static str,
    /// Number of vCPUs.
    pub vcpus: u32,
}

/// Tried by default: what the test rig's guests run, and a kernel whose tables
/// lie in another order and whose current task is told in another way.
const DEFAULT: &[Kernel] = &[
    Kernel {
        series: "6.1.",
        machine: "q35",
        cpu: "qemu64",
        cmdline: "pti=on",
        vcpus: 2,
    },
    Kernel {
        series: "6.12.",
        machine: "q35",
        cpu: "max",
        cmdline: "pti=off",
        vcpus: 2,
    },
];

/// Tried with XMESH_ALL_KERNELS=1: the other ways to store kallsyms, four and
/// five levels of page tables, KPTI and not, KASLR and not.
const ALL: &[Kernel] = &[
    DEFAULT[0],
    DEFAULT[1],
    Kernel {
        series: "5.10.",
        machine: "q35",
        cpu: "qemu64",
        cmdline: "nokaslr pti=off",
        vcpus: 1,
    },
    Kernel {
        series: "6.1.",
        // Most of its memory above 4 GiB.
        machine: "q35,max-ram-below-4g=128M",
        cpu: "max",
        cmdline: "pti=on rodata=off",
        vcpus: 1,
    },
    Kernel {
        series: "6.16.",
        machine: "q35",
        cpu: "max",
        cmdline: "pti=on",
        vcpus: 2,
    },
    Kernel {
        series: "6.18.",
        machine: "q35",
        cpu: "qemu64",
        cmdline: "pti=on",
        vcpus: 2,
    },
    Kernel {
        series: "7.2.",
        machine: "q35",
        cpu: "qemu64",
        cmdline: "pti=off",
        vcpus: 2,
    },
    Kernel {
        series: "7.3.",
        machine: "q35",
        cpu: "max",
        cmdline: "pti=on",
        vcpus: 2,
    },
];

/// The kernels that this run is to try.
pub fn selected() -> &'static [Kernel] {
    let set = |name| std::env::var_os(name).is_some_and(|value| value == "1");
    if set("XMESH_QUICK") {
        eprintln!("XMESH_QUICK=1: no kernel is tried");
        &[]
    } else if set("XMESH_ALL_KERNELS") {
        ALL
    } else {
        DEFAULT
    }
}

/// The newest kernel there is, on a machine whose page tables other programs can follow too.
pub const NEWEST: Kernel = Kernel {
    series: "7.3.",
    machine: "q35",
    cpu: "qemu64",
    cmdline: "pti=on",
    vcpus: 2,
};

/// A dump and what its guest's own /proc said.
pub struct Loaded {
    pub path: PathBuf,
    pub dump: Dump,
    pub truth: Truth,
}

/// Memory of the tests' guests.
const MEMORY_MIB: u32 = 320;
/// Memory of the guest whose bring-up is measured.
pub const MEASURED_MIB: u32 = 512;

/// Two dumps at once would only slow each other down.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const INIT: &str = include_str!("init.sh");
const WORKLOAD: [&str; 5] = [
    include_str!("workload/src/main.rs"),
    include_str!("workload/src/identity.rs"),
    include_str!("workload/src/local.rs"),
    include_str!("workload/src/sockets.rs"),
    include_str!("workload/src/states.rs"),
];
/// Loaded by init in this order of their file names.
const MODULES: [&str; 2] = ["dummy", "overlay"];

impl Kernel {
    /// The dump of this kernel, from the cache or made now.
    ///
    /// # Panics
    /// Where no dump can be made: the test that wants it has failed.
    pub fn load(&self) -> Loaded {
        let (memory, told) = self
            .files(MEMORY_MIB)
            .unwrap_or_else(|error| panic!("no dump of a {} kernel: {error:?}", self.series));
        let told = fs::read(&told).expect("what the guest told");
        Loaded {
            dump: Dump::open(&memory).expect("a dump"),
            path: memory,
            truth: Truth::parse(&String::from_utf8_lossy(&told)),
        }
    }

    /// The file of a dump with more memory than the tests' guests have, for `cargo xtask bench`.
    ///
    /// # Errors
    /// Where no dump can be made.
    pub fn dump_of(&self, memory_mib: u32) -> Result<PathBuf> {
        Ok(self.files(memory_mib)?.0)
    }

    fn files(&self, memory_mib: u32) -> Result<(PathBuf, PathBuf)> {
        let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(|broken| broken.into_inner());
        let cache = cache_dir()?;
        let apt = Apt::open()?;
        self.files_from(&cache, &apt, memory_mib).or_else(|error| {
            apt.update().with_context(|| format!("{error:?}"))?;
            self.files_from(&cache, &apt, memory_mib)
        })
    }

    fn files_from(&self, cache: &Path, apt: &Apt, memory_mib: u32) -> Result<(PathBuf, PathBuf)> {
        let image = apt.kernel_package(self.series)?;
        let mut hasher = DefaultHasher::new();
        (
            &image,
            self.machine,
            self.cpu,
            self.cmdline,
            self.vcpus,
            INIT,
            WORKLOAD,
        )
            .hash(&mut hasher);
        if memory_mib != MEMORY_MIB {
            memory_mib.hash(&mut hasher);
        }
        let name = format!("{}{:016x}", self.series, hasher.finish());
        let memory = cache.join(format!("{name}.elf"));
        let truth = cache.join(format!("{name}.truth"));
        if !memory.exists() || !truth.exists() {
            let work = tempfile::tempdir_in(cache)?;
            let kernel = apt.kernel(&image)?;
            let initramfs = work.path().join("initramfs");
            fs::write(&initramfs, build_initramfs(apt, &kernel.modules, work.path())?)?;
            Machine {
                vmlinuz: &kernel.vmlinuz,
                initramfs: &initramfs,
                machine: self.machine,
                cpu: self.cpu,
                cmdline: self.cmdline,
                memory_mib,
                vcpus: self.vcpus,
            }
            .dump(work.path(), &memory, &truth)
            .with_context(|| format!("making a dump of {image}"))?;
        }
        Ok((memory, truth))
    }
}

/// Where dumps are kept between runs.
fn cache_dir() -> Result<PathBuf> {
    let dir = xmesh_rig::cache_folder().join("dumps");
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    Ok(dir)
}

/// Runs a command, or gives an error with what it printed.
fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// The program that most of a guest's processes run.
///
/// # Panics
/// Where it cannot be had.
pub fn busybox() -> PathBuf {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(|broken| broken.into_inner());
    busybox_of(&Apt::open().expect("apt")).expect("busybox")
}

fn busybox_of(apt: &Apt) -> Result<PathBuf> {
    find_file(&apt.unpacked("busybox-static")?, &|name| name == "busybox")
        .context("busybox-static holds no busybox")
}

fn build_initramfs(apt: &Apt, modules: &Path, work: &Path) -> Result<Vec<u8>> {
    let busybox = busybox_of(apt)?;
    let mut archive = Initramfs::default();
    archive.directory("bin").directory("modules").directory("dev");
    archive.file("bin/busybox", &fs::read(busybox)?);
    archive.file("init", INIT.as_bytes());
    archive.file("workload", &build_workload(work)?);
    for name in MODULES {
        let file = find_file(modules, &|file| file.starts_with(&format!("{name}.ko")))
            .with_context(|| format!("no module {name} in {}", modules.display()))?;
        let content = if file.extension().is_some_and(|e| e == "xz") {
            Command::new("xz").arg("-dc").arg(&file).output()?.stdout
        } else {
            fs::read(&file)?
        };
        ensure!(!content.is_empty(), "{} is empty", file.display());
        archive.file(&format!("modules/{name}.ko"), &content);
    }
    Ok(archive.finish())
}

/// Builds the guest's own program, with no library beside it.
fn build_workload(work: &Path) -> Result<Vec<u8>> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    run(Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--locked",
            "--release",
            "--package",
            "dump-workload",
        ])
        // Named, so that the flags are not for build scripts too.
        .args(["--target", TARGET, "--target-dir"])
        .arg(work)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols")
        .env_remove("CARGO_ENCODED_RUSTFLAGS"))?;
    Ok(fs::read(work.join(TARGET).join("release/dump-workload"))?)
}
