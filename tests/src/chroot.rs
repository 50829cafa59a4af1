// SPDX-License-Identifier: GPL-3.0-only
//! Building on a Debian release that need not be the host's: a root with that release's compiler
//! and Xen libraries, this host's Rust, and the checkout at the very path it has here.

use crate::cache;
use crate::command::{command, run};
use crate::error::{At, Result};
use crate::programs::TARGET;
use crate::progress::Progress;
use crate::setup::{self, Mirrors};
use crate::xen::Xen;
use std::ffi::OsStr;
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

/// A Debian release that programs are run on: this host where it runs that release, else a root made for it.
pub struct Release {
    /// None where that is the host.
    root: Option<Root>,
}

struct Root {
    suite: String,
    folder: PathBuf,
}

impl Release {
    /// The release with this Xen, and all that our programs and their packages are built with. Making a root takes minutes; it is
    /// kept in the cache.
    ///
    /// # Errors
    /// If packages are missing here and may not be installed, or the mirror cannot be reached.
    pub fn to_build_on(xen: Xen, progress: &Progress) -> Result<Release> {
        if is_host_release(xen.suite()) {
            setup::ensure(setup::PROGRAMS, progress)?;
            return Ok(Release::host());
        }
        let packages = [setup::PROGRAMS, setup::PACKAGES].concat();
        Release::bare(xen.suite(), &packages, progress)
    }

    /// The host, whatever it runs.
    pub fn host() -> Release {
        Release { root: None }
    }

    /// The release `suite` in a root of its own even where the host runs it: with nothing but `packages` and what is essential.
    ///
    /// # Errors
    /// If the mirror cannot be reached, or this is not run as root.
    pub fn bare(suite: &str, packages: &[&str], progress: &Progress) -> Result<Release> {
        setup::ensure(&["mmdebstrap"], progress)?;
        let root = Root {
            suite: suite.to_owned(),
            folder: build_root(suite, packages, progress)?,
        };
        Ok(Release { root: Some(root) })
    }

    /// Its root folder; of the host `/`.
    pub fn root(&self) -> &Path {
        self.root.as_ref().map_or(Path::new("/"), |root| &root.folder)
    }

    /// Whether that is the host itself.
    pub fn is_host(&self) -> bool {
        self.root.is_none()
    }

    /// Where cargo puts what it builds on this release.
    pub fn target_folder(&self) -> PathBuf {
        let folder = crate::programs::target_folder();
        match &self.root {
            None => folder,
            Some(root) => folder.join(&root.suite),
        }
    }

    /// Runs cargo in the checkout; what it builds goes to [`Self::target_folder`].
    ///
    /// # Errors
    /// If it cannot be started, or fails; the error has the end of its output.
    pub fn cargo(&self, arguments: &[&str], workspace: &Path) -> Result<()> {
        let target = &self.target_folder();
        fs::create_dir_all(target).at(target)?;
        if self.is_host() {
            run(crate::programs::cargo()
                .args(arguments)
                .current_dir(workspace)
                .env("CARGO_TARGET_DIR", target))?;
            return Ok(());
        }
        // What is to be downloaded this host downloads: its proxies and certificates are not in there. What cannot be, and is needed,
        // the build will tell.
        let _ = run(crate::programs::cargo()
            .args(["fetch", "--quiet", "--locked", "--target", TARGET])
            .current_dir(workspace));
        // A toolchain of rustup runs on any release; it is found through rustc, wherever it lies.
        let sysroot =
            PathBuf::from(run(command("rustc", ["--print", "sysroot"]).current_dir(workspace))?.trim());
        let cargo_home = cargo_home();
        let shown = [workspace, target, &sysroot, &cargo_home];
        let path = format!("PATH={}/bin:/usr/sbin:/usr/bin:/sbin:/bin", sysroot.display());
        run(crate::programs::without_package(self.entered(&shown, workspace))
            .args([&path, "cargo"])
            .args(arguments)
            .env("CARGO_HOME", &cargo_home)
            .env("CARGO_TARGET_DIR", target)
            .env_remove("RUSTUP_TOOLCHAIN"))?;
        Ok(())
    }

    /// Runs a program of that release in `folder`, and gives its standard output.
    ///
    /// # Errors
    /// As [`Self::cargo`].
    pub fn run(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        folder: &Path,
    ) -> Result<String> {
        if self.is_host() {
            return run(Command::new(program).args(arguments).current_dir(folder));
        }
        run(self
            .entered(&[folder], folder)
            .args(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", program])
            .args(arguments))
    }

    /// A command that enters the root; to follow are settings of the environment, the program and its arguments.
    fn entered(&self, shown: &[&Path], folder: &Path) -> Command {
        let shown: Vec<&Path> = shown
            .iter()
            .copied()
            .chain(["/proc", "/dev"].map(Path::new))
            .collect();
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", ENTER, "sh"])
            .arg(self.root())
            .arg(shown.len().to_string())
            .args(shown)
            .args(["env", "-C"])
            .arg(folder);
        command
    }
}

/// Whether this host runs that Debian release.
pub(crate) fn is_host_release(suite: &str) -> bool {
    fs::read_to_string("/etc/os-release").is_ok_and(|text| release_is(&text, suite))
}

fn release_is(os_release: &str, suite: &str) -> bool {
    let wanted = format!("VERSION_CODENAME={suite}");
    os_release.lines().any(|line| line.replace('"', "") == wanted)
}

fn build_root(suite: &str, packages: &[&str], progress: &Progress) -> Result<PathBuf> {
    let include = format!("--include=ca-certificates,{}", packages.join(","));
    let folder = cache::entry("root-build", &[suite.as_bytes(), include.as_bytes()], |place| {
        progress.say(format!("making a Debian {suite} to build on (once)"));
        let mirrors = Mirrors::of_this_machine()?;
        run(Command::new("mmdebstrap")
            .args(["--mode=root", "--variant=minbase", "--format=directory", &include])
            .arg("--aptopt=Apt::Install-Recommends \"false\"")
            .arg(suite)
            .arg(place.join("root"))
            .args(mirrors.sources(suite)))?;
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
