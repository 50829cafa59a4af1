// SPDX-License-Identifier: GPL-3.0-only
//! Bochs 3.0, from Debian's source, mended.

use crate::cache;
use crate::command::run;
use crate::error::{At, Result, RigError};
use crate::progress::Progress;
use crate::setup::Mirrors;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PATCH: &str = include_str!("../../patches/bochs-3.0.patch");
/// Debian's first release with Bochs 3.0.
const SUITE: &str = "trixie";
const CONFIGURE: &[&str] = &[
    "--enable-cpu-level=6",
    "--enable-x86-64",
    // One processor: without the others' support it is a tenth faster.
    "--disable-smp",
    "--enable-vmx=2",
    "--enable-svm",
    "--enable-avx",
    "--enable-evex",
    "--enable-all-optimizations",
    "--enable-pci",
    "--enable-e1000",
    "--enable-monitor-mwait",
    "--enable-x86-debugger",
    "--disable-docbook",
    "--disable-debugger",
    "--disable-plugins",
    // It logs from a signal handler: a signal while a line is being logged locks the emulator up.
    "--disable-show-ips",
    "--with-nogui",
    "CFLAGS=-O3",
    "CXXFLAGS=-O3",
];

/// The built program; builds it the first time.
pub(super) fn program(progress: &Progress) -> Result<PathBuf> {
    let recipe = CONFIGURE.join("\n");
    let place = cache::entry("bochs-3.0", &[PATCH.as_bytes(), recipe.as_bytes()], |place| {
        progress.say("building Bochs 3.0 from Debian's source (once; some minutes)");
        build(place)
    })?;
    Ok(place.join("bochs"))
}

fn build(place: &Path) -> Result<()> {
    let work = place.join("work");
    fs::create_dir(&work).at(&work)?;
    download(&work)?;

    let source = work.join("source");
    fs::create_dir(&source).at(&source)?;
    let archive = only_file(&work, ".orig.tar.xz")?;
    run(Command::new("tar")
        .args(["--strip-components=1", "-C"])
        .arg(&source)
        .arg("-xf")
        .arg(&archive))?;
    let patch = work.join("patch");
    fs::write(&patch, PATCH).at(&patch)?;
    run(Command::new("patch")
        .args(["-p1", "--fuzz=0", "-i"])
        .arg(&patch)
        .current_dir(&source))?;

    run(Command::new("./configure").args(CONFIGURE).current_dir(&source))?;
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    run(Command::new("make")
        .args(["-j", &jobs.to_string()])
        .current_dir(&source))?;
    let program = place.join("bochs");
    fs::copy(source.join("bochs"), &program).at(&program)?;
    run(Command::new("strip").arg(&program))?;
    fs::remove_dir_all(&work).at(&work)
}

/// Has apt fetch and check the source archive, with lists of its own: the machine's need not know
/// that suite, nor sources at all.
fn download(work: &Path) -> Result<()> {
    let file = |name: &str, text: String| {
        let path = work.join(name);
        fs::write(&path, text).at(&path).map(|()| path)
    };
    for folder in ["lists/partial", "archives/partial", "none"] {
        fs::create_dir_all(work.join(folder)).at(work)?;
    }
    let sources = file("sources.list", sources(&Mirrors::of_this_machine()?.archive))?;
    let here = work.display();
    let config = file(
        "apt.conf",
        format!(
            r#"Dir::Etc::sourcelist "{}";
Dir::Etc::sourceparts "{here}/none";
Dir::State::lists "{here}/lists";
Dir::Cache "{here}";
APT::Sandbox::User "root";
"#,
            sources.display()
        ),
    )?;
    run(Command::new("apt-get")
        .args(["-q", "update"])
        .env("APT_CONFIG", &config))?;
    run(Command::new("apt-get")
        .args([
            "-q",
            "--download-only",
            "--tar-only",
            "--only-source",
            "source",
            "bochs",
        ])
        .env("APT_CONFIG", &config)
        .current_dir(work))?;
    Ok(())
}

fn sources(archive: &str) -> String {
    format!("deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {archive} {SUITE} main\n")
}

fn only_file(folder: &Path, ending: &str) -> Result<PathBuf> {
    fs::read_dir(folder)
        .at(folder)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().ends_with(ending))
        .ok_or_else(|| RigError::Backend(format!("Debian served no {ending} of Bochs")))
}
