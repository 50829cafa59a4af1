// SPDX-License-Identifier: GPL-3.0-only
//! Boots a kernel under QEMU's own emulator (no KVM needed), with an initramfs whose init tells on the console what it found.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use xmesh_rig::Initramfs;
use xmesh_rig::debian::{Apt, KernelFiles, find_file};

/// An emulated boot takes 15 to 40 s, and the verifier some more; on a machine that is busy, several times that.
const LIMIT: Duration = Duration::from_secs(600);

const INIT: &str = include_str!("init.sh");
/// Loaded by init in this order.
const MODULES: [&str; 3] = ["veth", "sch_ingress", "cls_bpf"];

struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// All that was on the console of a machine with this kernel.
pub fn told(apt: &Apt, kernel: &KernelFiles) -> Result<String> {
    let work = tempfile::tempdir()?;
    let initramfs = work.path().join("initramfs");
    fs::write(&initramfs, build_initramfs(apt, &kernel.modules, work.path())?)?;
    let console = work.path().join("console");
    let guest = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg", "-machine", "q35", "-cpu", "max"])
        .args(["-nodefaults", "-display", "none", "-no-reboot"])
        .args(["-m", "512", "-smp", "1"])
        .args(["-serial", &format!("file:{}", console.display())])
        .arg("-kernel")
        .arg(&kernel.vmlinuz)
        .arg("-initrd")
        .arg(&initramfs)
        .args(["-append", "console=ttyS0 panic=-1 quiet"])
        .stdin(Stdio::null())
        .spawn()
        .context("starting qemu-system-x86_64 (apt-get install qemu-system-x86)")?;
    let mut guest = Guest(guest);
    let deadline = Instant::now() + LIMIT;
    while guest.0.try_wait()?.is_none() {
        if Instant::now() > deadline {
            bail!("not done in {LIMIT:?}; its console: {}", read(&console));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let said = read(&console);
    ensure!(said.contains("@end"), "it ended early; its console: {said}");
    Ok(said)
}

fn read(console: &Path) -> String {
    String::from_utf8_lossy(&fs::read(console).unwrap_or_default()).replace('\r', "")
}

fn build_initramfs(apt: &Apt, modules: &Path, work: &Path) -> Result<Vec<u8>> {
    let busybox = find_file(&apt.unpacked("busybox-static")?, &|name| name == "busybox")
        .context("busybox-static holds no busybox")?;
    let mut archive = Initramfs::default();
    for folder in ["bin", "dev", "lib", "lib64", "modules"] {
        archive.folder(folder);
    }
    archive.program("init", INIT.as_bytes());
    archive.program("bin/busybox", &fs::read(busybox)?);
    add_program(&mut archive, work)?;
    for (number, name) in MODULES.into_iter().enumerate() {
        let file = find_file(modules, &|file| file.starts_with(&format!("{name}.ko")))
            .with_context(|| format!("no module {name} in {}", modules.display()))?;
        let content = match file.extension().and_then(|e| e.to_str()) {
            Some("xz") => Command::new("xz").arg("-dc").arg(&file).output()?.stdout,
            _ => fs::read(&file)?,
        };
        ensure!(!content.is_empty(), "{} is empty", file.display());
        archive.program(&format!("modules/{number}-{name}.ko"), &content);
    }
    Ok(archive.finish())
}

/// The example `attach`, as it was built with this test, and the libraries that it is linked with.
fn add_program(archive: &mut Initramfs, work: &Path) -> Result<()> {
    let built = std::env::current_exe()?.with_file_name("../examples/attach");
    let attach = work.join("attach");
    let status = Command::new("strip")
        .arg("-o")
        .arg(&attach)
        .arg(&built)
        .status()?;
    ensure!(
        status.success(),
        "{}: cannot strip it ({status})",
        built.display()
    );
    archive.program("attach", &fs::read(&attach)?);
    let listed = Command::new("ldd").arg(&attach).output()?.stdout;
    for library in String::from_utf8_lossy(&listed)
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        let library = PathBuf::from(library);
        let name = library.file_name().and_then(|name| name.to_str());
        let name = name.context("a library without a name")?;
        // The loader has its place in the program itself.
        let folder = match library.starts_with("/lib64") {
            true => "lib64",
            false => "lib",
        };
        archive.program(&format!("{folder}/{name}"), &fs::read(&library)?);
    }
    Ok(())
}
