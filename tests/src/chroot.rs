// SPDX-License-Identifier: GPL-3.0-only
//! Building on dom0's Debian release where the host runs another: a root with that release's compiler
//! and Xen libraries, this host's Rust, and the checkout at the very path it has here.

use crate::cache;
use crate::command::{command, run};
use crate::error::{At, Result};
use crate::image::SUITE;
use crate::progress::Progress;
use crate::setup::{self, Mirrors};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs in a mount namespace of its own, so that nothing stays mounted whatever happens.
/// Arguments: the root, the number of folders to show in it, those folders, then the command.
const ENTER: &str = r#"set -eu
root=$1 count=$2
shift 2
while [ "$count" -gt 0 ]; do
    mkdir -p "$root$1"
    mount --rbind "$1" "$root$1"
    shift
    count=$((count - 1))
done
exec chroot "$root" "$@"
"#;

/// Whether this host runs dom0's Debian release.
pub(crate) fn is_host_release() -> bool {
    fs::read_to_string("/etc/os-release").is_ok_and(|text| release_is(&text, SUITE))
}

fn release_is(os_release: &str, suite: &str) -> bool {
    let wanted = format!("VERSION_CODENAME={suite}");
    os_release.lines().any(|line| line.replace('"', "") == wanted)
}

/// Runs cargo on dom0's release.
pub(crate) fn cargo(arguments: &[&str], workspace: &Path, target: &Path, progress: &Progress) -> Result<()> {
    setup::ensure(&["mmdebstrap"], progress)?;
    let root = build_root(progress)?;
    fs::create_dir_all(target).at(target)?;
    // A toolchain of rustup runs on any release; it is found through rustc, wherever it lies.
    let sysroot = PathBuf::from(run(command("rustc", ["--print", "sysroot"]).current_dir(workspace))?.trim());
    let cargo_home = cargo_home();
    let shown = [
        workspace,
        target,
        &sysroot,
        &cargo_home,
        Path::new("/proc"),
        Path::new("/dev"),
    ];

    progress.say(format!("building policyd and xmesh on Debian {SUITE}"));
    let path = format!("{}/bin:/usr/sbin:/usr/bin:/sbin:/bin", sysroot.display());
    run(Command::new("unshare")
        .args(["--mount", "sh", "-c", ENTER, "sh"])
        .arg(&root)
        .arg(shown.len().to_string())
        .args(shown)
        .args(["env", "-C"])
        .arg(workspace)
        .arg(format!("PATH={path}"))
        .arg("cargo")
        .args(arguments)
        .env("CARGO_HOME", &cargo_home)
        .env("CARGO_TARGET_DIR", target)
        .env_remove("RUSTUP_TOOLCHAIN"))?;
    Ok(())
}

fn build_root(progress: &Progress) -> Result<PathBuf> {
    let include = format!("--include=ca-certificates,{}", setup::PROGRAMS.join(","));
    let folder = cache::entry("root-build", &[SUITE.as_bytes(), include.as_bytes()], |place| {
        progress.say(format!("making a Debian {SUITE} to build on (once)"));
        let mirrors = Mirrors::of_this_machine()?;
        run(Command::new("mmdebstrap")
            .args(["--mode=root", "--variant=minbase", "--format=directory", &include])
            .arg("--aptopt=Apt::Install-Recommends \"false\"")
            .arg(SUITE)
            .arg(place.join("root"))
            .args(mirrors.sources(SUITE)))?;
        Ok(())
    })?;
    Ok(folder.join("root"))
}

fn cargo_home() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into()));
    std::env::var_os("CARGO_HOME").map_or_else(|| home().join(".cargo"), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_read_with_and_without_quotes() {
        assert!(release_is("NAME=x\nVERSION_CODENAME=bookworm\n", "bookworm"));
        assert!(release_is("VERSION_CODENAME=\"bookworm\"\n", "bookworm"));
        assert!(!release_is("VERSION_CODENAME=trixie\n", "bookworm"));
    }
}
