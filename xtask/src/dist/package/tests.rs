// SPDX-License-Identifier: GPL-3.0-only
//! Packages of stand-ins for the programs, made, read and installed by dpkg itself.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;
use tempfile::TempDir;
use xmesh_rig::{Progress, programs, setup};

/// Both packages, made of programs that every host has: `echo` says what it is asked to print.
fn made(folder: &TempDir) -> Vec<Built> {
    setup::ensure(setup::PACKAGES, &Progress::new(false)).unwrap();
    let programs_folder = folder.path().join("programs");
    fs::create_dir(&programs_folder).unwrap();
    fs::copy("/bin/true", programs_folder.join("policyd")).unwrap();
    fs::copy("/bin/echo", programs_folder.join("xmesh")).unwrap();
    let context = Context {
        release: &Release::host(),
        programs: &programs_folder,
        sources: programs::workspace(),
        version: "1.2-1~deb12".to_owned(),
        time: "1790000000".to_owned(),
        date: "Mon, 21 Sep 2026 14:13:20 +0000".to_owned(),
        compression: Compression::Fast,
    };
    PACKAGES
        .iter()
        .map(|package| context.pack(package, folder.path()).unwrap())
        .collect()
}

fn dpkg_deb(arguments: &[&str], file: &Path) -> String {
    said(Command::new("dpkg-deb").args(arguments).arg(file)).unwrap()
}

#[test]
fn packages_hold_what_they_should_and_need_what_is_linked() {
    let folder = tempfile::tempdir().unwrap();
    let made = made(&folder);
    for (package, built) in PACKAGES.iter().zip(&made) {
        let control = dpkg_deb(&["--field"], &built.file);
        for line in [
            format!("Package: {}", package.name),
            "Version: 1.2-1~deb12".to_owned(),
            "Architecture: amd64".to_owned(),
        ] {
            assert!(control.lines().any(|l| l == line), "{line} in {control}");
        }
        assert!(control.contains("Depends: libc6 (>= "), "{control}");
        assert_eq!(built.depends, ["libc6"]);
        let listed = dpkg_deb(&["--contents"], &built.file);
        for (path, _) in package.files {
            assert!(
                listed.contains("root/root") && listed.contains(&format!("./{path}")),
                "{path} in {listed}"
            );
        }
        assert!(!listed.contains("DEBIAN"), "{listed}");
    }
    // The same sources make the same package, whenever that is done.
    let again = tempfile::tempdir().unwrap();
    for (first, second) in made.iter().zip(super::tests::made(&again)) {
        assert!(
            fs::read(&first.file).unwrap() == fs::read(&second.file).unwrap(),
            "{}",
            first.file.display()
        );
    }
}

/// An empty system that dpkg can install into.
fn empty_root() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for path in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "usr/lib"] {
        fs::create_dir_all(root.path().join(path)).unwrap();
    }
    for path in ["var/lib/dpkg/status", "var/lib/dpkg/available"] {
        fs::write(root.path().join(path), "").unwrap();
    }
    // As in every system, so that the folder stays.
    fs::write(root.path().join("usr/lib/os-release"), "").unwrap();
    std::os::unix::fs::symlink("usr/lib", root.path().join("lib")).unwrap();
    root
}

fn everything(root: &Path) -> Vec<PathBuf> {
    let mut found = files(root).unwrap();
    found.retain(|path| !path.starts_with("var/lib/dpkg"));
    found
}

#[test]
fn a_purge_leaves_nothing_behind_and_a_removal_what_is_the_administrators() {
    let folder = tempfile::tempdir().unwrap();
    let root = empty_root();
    let dpkg = |arguments: &[&str]| {
        let mut command = Command::new("dpkg");
        command
            .arg(format!("--root={}", root.path().display()))
            .args(["--force-script-chrootless", "--force-depends", "--force-not-root"])
            .args(arguments);
        said(&mut command).unwrap();
    };
    let before = everything(root.path());
    for built in made(&folder) {
        dpkg(&["--install", built.file.to_str().unwrap()]);
    }
    let wants = root
        .path()
        .join("etc/systemd/system/multi-user.target.wants/policyd.service");
    assert!(fs::symlink_metadata(&wants).is_ok(), "the unit is not enabled");
    assert!(root.path().join("usr/bin/xmesh").exists());
    let store = root.path().join("var/lib/policyd/store");
    fs::create_dir_all(&store).unwrap();
    fs::write(store.join("db"), "policies").unwrap();

    dpkg(&["--remove", "xmesh", "policyd"]);
    assert!(!root.path().join("usr/sbin/policyd").exists());
    assert!(store.join("db").exists(), "a removal took the policies");
    assert!(root.path().join("etc/default/policyd").exists());

    dpkg(&["--purge", "xmesh", "policyd"]);
    assert_eq!(everything(root.path()), before);
}

/// A unit that names what no package has would not start.
#[test]
fn the_unit_starts_what_the_package_has() {
    let unit = include_str!("../../../../packaging/policyd.service");
    let policyd = &PACKAGES[0];
    let start = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart=/"))
        .unwrap();
    let program = start.split(' ').next().unwrap();
    assert_eq!(program, policyd.program);
    assert!(start.ends_with(" $POLICYD_OPTIONS"));
    let settings = unit
        .lines()
        .find_map(|line| line.strip_prefix("EnvironmentFile=-/"))
        .unwrap();
    assert!(policyd.files.iter().any(|(path, _)| *path == settings));
    // Else the guardian would be killed before the guests are free.
    assert!(unit.contains("\nKillMode=process\n"));
    let options = include_str!("../../../../packaging/policyd.default");
    let set: Vec<&str> = options.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(set, ["POLICYD_OPTIONS=\"\""]);
}
