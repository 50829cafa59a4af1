// SPDX-License-Identifier: GPL-3.0-only
//! Builds what runs inside the rig.

use crate::chroot::Release;
use crate::command::run;
use crate::error::{At, Result};
use crate::progress::Progress;
use crate::xen::Xen;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What programs are built for.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The root of this workspace.
pub fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// Where cargo puts what it builds for this workspace.
pub fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace().join("target"), |folder| workspace().join(folder))
}

/// cargo, without what another cargo that runs this program said of its package: build scripts that look at it, ring's for one, would
/// make all that depends on them be built anew, to and fro.
pub fn cargo() -> Command {
    without_package(Command::new("cargo"))
}

/// Takes what cargo says of a package out of a command's environment.
pub(crate) fn without_package(mut command: Command) -> Command {
    let of_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(of_package) {
            command.env_remove(name);
        }
    }
    command
}

/// Builds policyd and xmesh for dom0; gives their paths. They link to libxenctrl of the very Xen they
/// talk to, so they are built on dom0's own release: here if this is one, else in a root made for it.
pub fn build(xen: Xen, progress: &Progress) -> Result<Vec<PathBuf>> {
    let folder = for_dom0(
        xen,
        "policyd and xmesh",
        &["--package", "policyd", "--package", "xmesh"],
        progress,
    )?;
    ["policyd", "xmesh"]
        .iter()
        .map(|name| lean(xen, &folder.join(name)))
        .collect()
}

/// Makes the Debian packages of policyd and xmesh for dom0; gives their paths.
pub fn packages(xen: Xen, progress: &Progress) -> Result<Vec<PathBuf>> {
    // What they are made of is built with what everybody sees said.
    build(xen, progress)?;
    progress.say("making the packages");
    let output = run(cargo()
        .args(["run", "--quiet", "--package", "xtask", "--", "dist", "--no-trial"])
        .args(["--debian", &xen.debian().to_string()])
        .current_dir(workspace()))?;
    Ok(output.lines().map(PathBuf::from).collect())
}

/// Builds an example of a package for dom0, as [`build`] does; gives its path.
pub fn example(xen: Xen, package: &str, name: &str, progress: &Progress) -> Result<PathBuf> {
    let folder = for_dom0(xen, name, &["--package", package, "--example", name], progress)?;
    lean(xen, &folder.join("examples").join(name))
}

/// A copy of a program without what only debuggers read: four fifths of it, and the way into a rig is slow.
fn lean(xen: Xen, program: &Path) -> Result<PathBuf> {
    let folder = target_folder().join(format!("rig-lean-{xen}"));
    fs::create_dir_all(&folder).at(&folder)?;
    let lean = folder.join(program.file_name().unwrap_or_default());
    // Tests of another rig may be reading it.
    let new = lean.with_extension(std::process::id().to_string());
    run(Command::new("strip")
        .args(["--strip-debug", "-o"])
        .arg(&new)
        .arg(program))?;
    fs::rename(&new, &lean).at(&lean)?;
    Ok(lean)
}

/// Builds what cargo's arguments select; gives the folder it is in.
fn for_dom0(xen: Xen, what: &str, selection: &[&str], progress: &Progress) -> Result<PathBuf> {
    let arguments = [&["build", "--quiet", "--release"], selection].concat();
    let release = Release::to_build_on(xen, progress)?;
    progress.say(format!("building {what}"));
    release.cargo(&arguments, workspace())?;
    Ok(release.target_folder().join("release"))
}

/// Compiles a program of one file for domUs, `tests/guest/NAME.rs`, with no library beside it; gives its path.
pub fn guest(name: &str) -> Result<PathBuf> {
    let folder = target_folder().join("rig-guest");
    fs::create_dir_all(&folder).at(&folder)?;
    let program = folder.join(name);
    // Tests of another rig may be reading it.
    let new = folder.join(format!("{name}.{}", std::process::id()));
    run(Command::new("rustc")
        .args(["--edition", "2024", "-C", "opt-level=2", "-C", "strip=symbols"])
        .args(["-C", "target-feature=+crt-static", "-o"])
        .arg(&new)
        .arg(workspace().join(format!("tests/guest/{name}.rs"))))?;
    fs::rename(&new, &program).at(&program)?;
    Ok(program)
}

/// Compiles the program that makes a known mix of system calls, `guest/syscalls.rs`, into `folder`. It needs no library and
/// no kernel in particular.
pub fn syscalls(folder: &Path) -> Result<PathBuf> {
    let program = folder.join("syscalls");
    run(Command::new("rustc")
        .args(["--edition", "2024", "--target", TARGET])
        .args(["opt-level=s", "panic=abort", "relocation-model=static"].map(|option| format!("-C{option}")))
        .args(["-nostartfiles", "-static", "-no-pie", "-nostdlib"].map(|flag| format!("-Clink-arg={flag}")))
        .arg("-o")
        .arg(&program)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/syscalls.rs")))?;
    Ok(program)
}

/// Builds the agent, linked statically: it runs in dom0 and domUs of any release.
pub(crate) fn agent(progress: &Progress) -> Result<PathBuf> {
    progress.say("building the agent");
    // A folder of its own: other flags would make cargo build everything anew, to and fro.
    let folder = target_folder().join("rig-agent");
    run(cargo()
        .args([
            "build",
            "--quiet",
            "--release",
            "--package",
            "xmesh-rig",
            "--bin",
            "rig-agent",
        ])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&folder)
        .current_dir(workspace())
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols"))?;
    Ok(folder.join(TARGET).join("release/rig-agent"))
}
