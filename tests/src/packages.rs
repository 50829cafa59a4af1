// SPDX-License-Identifier: GPL-3.0-only
//! Debian packages: that they install into a bare system, run there, and leave nothing behind.

use crate::chroot::Release;
use crate::command::run;
use crate::error::Result;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs in a mount namespace of its own, on a copy of the root that is in memory and ends with it. Arguments: the root, the folder
/// of the packages, then these by file name. Prints what the programs say of their versions, and after `--` each path that is there
/// after the purge and was not before.
const CHECK: &str = r#"set -eu
root=$1 packages=$2
shift 2
memory=$(mktemp -d)
mount -t tmpfs tmpfs "$memory"
mkdir "$memory/upper" "$memory/work" "$memory/root"
mount -t overlay overlay -o "lowerdir=$root,upperdir=$memory/upper,workdir=$memory/work" "$memory/root"
mkdir -p "$memory/root/mnt"
mount --rbind "$packages" "$memory/root/mnt"
mount --rbind /proc "$memory/root/proc"
mount --rbind /dev "$memory/root/dev"
export DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
inside() { chroot "$memory/root" "$@"; }
list() {
    (cd "$memory/root" && find . -xdev \( -path ./mnt -o -path ./proc -o -path ./dev -o -path ./var/lib/dpkg \
        -o -path ./var/cache -o -path ./var/log \) -prune -o -print | sort)
}
list > "$memory/before"
(cd "$packages" && printf 'mnt/%s\n' "$@") | (cd "$memory/root" && xargs chroot . dpkg --install) >&2
inside dpkg --audit
inside policyd --version
inside xmesh --version
inside xmesh policy-template audit-only | inside xmesh policy-check - >&2
test -L "$memory/root/etc/systemd/system/multi-user.target.wants/policyd.service" && echo enabled
inside dpkg-query --showformat '${Package} ${db:Status-Abbrev}\n' --show policyd xmesh
mkdir -p "$memory/root/var/lib/policyd/store" "$memory/root/run/policyd"
inside dpkg --remove xmesh policyd >&2
test -e "$memory/root/etc/default/policyd" # A removal keeps what an administrator wrote,
test -d "$memory/root/var/lib/policyd/store" # and the policies.
inside dpkg --purge xmesh policyd >&2
list > "$memory/after"
echo --
comm -13 "$memory/before" "$memory/after"
"#;

/// What became of packages that were installed and purged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// What was said between: versions, and how the packages stand.
    pub said: Vec<String>,
    /// Paths that a purge left behind.
    pub left: Vec<String>,
}

/// Installs packages into a copy of `release`, which must be a root of its own, has their programs say their versions, removes and purges
/// them. Nothing of the root is changed.
///
/// # Errors
/// If any of these steps fails; the error has the end of what dpkg said.
pub fn trial(release: &Release, folder: &Path, packages: &[PathBuf]) -> Result<Trial> {
    let names = packages.iter().filter_map(|package| package.file_name());
    let output = run(Command::new("unshare")
        .args(["--mount", "sh", "-c", CHECK, "sh"])
        .arg(release.root())
        .arg(folder)
        .args(names))?;
    let mut lines = output.lines().map(str::to_owned);
    let said = lines.by_ref().take_while(|line| line != "--").collect();
    Ok(Trial {
        said,
        left: lines.collect(),
    })
}
