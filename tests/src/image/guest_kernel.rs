// SPDX-License-Identifier: GPL-3.0-only
//! Kernels for domUs beside the one of their own disk.

use super::root::{DOMU_MODULES, Root};
use crate::cache;
use crate::command::run;
use crate::debian::{Apt, find_file};
use crate::error::{At, Result, RigError};
use crate::progress::Progress;
use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Debian's newest cloud kernel of a series such as `6.12.`, laid out as a [`Root`] without a file system: its kernel and
/// the modules to load.
pub(crate) fn guest_kernel(series: &str, progress: &Progress) -> Result<Root> {
    let apt = Apt::open()?;
    let package = apt.kernel_package(series)?;
    let inputs = [package.as_bytes(), DOMU_MODULES.as_bytes()];
    let folder = cache::entry(&format!("kernel-{series}"), &inputs, |place| {
        progress.say(format!("unpacking {package} (once)"));
        // Its mirror may have replaced it since the indexes were fetched; then the next run finds the newer one.
        make(place, &apt, &package).inspect_err(|_| drop(apt.update()))
    })?;
    Ok(Root::at(folder))
}

fn make(place: &Path, apt: &Apt, package: &str) -> Result<()> {
    let files = apt.kernel(package)?;
    let kernel = place.join("kernel");
    fs::copy(&files.vmlinuz, &kernel).at(&kernel)?;
    let lacks = |what: &str| RigError::NoPackage(format!("{package}: holds no {what}"));
    let version = fs::read_dir(&files.modules)
        .at(&files.modules)?
        .flatten()
        .find(|entry| entry.path().join("kernel").is_dir())
        .ok_or_else(|| lacks("modules"))?
        .file_name();
    // Above lib/modules.
    let base = files.modules.ancestors().nth(2).ok_or_else(|| lacks("modules"))?;
    run(Command::new("depmod").arg("-b").arg(base).arg(&version))?;

    let target = place.join("modules");
    fs::create_dir(&target).at(&target)?;
    let mut order = String::new();
    let mut seen = HashSet::new();
    for module in DOMU_MODULES.split(' ') {
        // What is no file is built in: every cloud kernel has all of them.
        if find_file(&files.modules, &|name| name.starts_with(&format!("{module}.ko"))).is_none() {
            continue;
        }
        let needed = run(Command::new("modprobe")
            .arg("-d")
            .arg(base)
            .arg("-S")
            .arg(&version)
            .args(["--show-depends", module]))?;
        // "insmod /path/name.ko.xz", dependencies first; what is built in is told by another word.
        for path in needed.lines().filter_map(|line| line.strip_prefix("insmod ")) {
            let path = Path::new(path.trim());
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let name = name.strip_suffix(".xz").unwrap_or(&name).to_owned();
            if seen.insert(name.clone()) {
                let content = module_content(path)?;
                fs::write(target.join(&name), content).at(&target)?;
                order += &format!("{name}\n");
            }
        }
    }
    fs::write(target.join("order"), order).at(&target)
}

/// A module's bytes, uncompressed: the first program cannot do that.
fn module_content(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_none_or(|extension| extension != "xz") {
        return fs::read(path).at(path);
    }
    let output = Command::new("xz")
        .arg("-dc")
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| RigError::Start {
            program: "xz".to_owned(),
            source,
        })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(RigError::Failed {
        command: format!("xz -dc {}", path.display()),
        status: output.status.to_string(),
        tail: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
