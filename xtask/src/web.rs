// SPDX-License-Identifier: GPL-3.0-only
//! `cargo xtask web`: the library that draws the map, from npm. What is built after it has the map; what is built without it, all else.

use std::process::{Command, ExitCode, Stdio};
use std::{fs, io};

use anyhow::{Context, bail};
use serde_json::Value;
use xmesh_rig::{Progress, programs, setup};

/// Where the page is.
const ROOM: &str = "policyd/web";

/// Fetches it; the output is a line that says what is there.
pub fn run() -> anyhow::Result<ExitCode> {
    let version = fetch(&Progress::new(false))?;
    println!("cytoscape {version} is in {ROOM}/node_modules; the next build of policyd has the map");
    Ok(ExitCode::SUCCESS)
}

/// Fetches it if it can be had, for what is built next; says so if not. Nothing else depends on it.
pub fn try_fetch(progress: &Progress) {
    if let Err(error) = fetch(progress) {
        eprintln!("note: the web page is built without its map: {error:#}");
    }
}

/// Has the version that the lock file names in place, and gives it.
fn fetch(progress: &Progress) -> anyhow::Result<String> {
    let version = version("package-lock.json", "/packages/node_modules~1cytoscape/version")?;
    let there = version_of_installed();
    if there.as_deref() == Some(version.as_str()) {
        return Ok(version);
    }
    ensure_npm(progress)?;
    progress.say(format!("fetching cytoscape {version}"));
    let status = Command::new("npm")
        // Scripts of packages are not run: nothing here needs any.
        .args([
            "ci",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
        ])
        .args(["--fetch-retries=1", "--fetch-timeout=60000"])
        .current_dir(programs::workspace().join(ROOM))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("npm could not be started")?;
    if !status.success() {
        bail!("npm ci failed in {ROOM}; is a registry of npm packages within reach?");
    }
    Ok(version)
}

/// npm, as whoever has installed it; else Debian's.
pub fn ensure_npm(progress: &Progress) -> anyhow::Result<()> {
    let runs = |program: &str| {
        let mut command = Command::new(program);
        command
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    // Another Node.js than Debian's brings its own npm, and Debian's cannot be installed beside it.
    if runs("node") && runs("npm") {
        return Ok(());
    }
    Ok(setup::ensure(setup::NPM, progress)?)
}

fn version_of_installed() -> Option<String> {
    version("node_modules/cytoscape/package.json", "/version").ok()
}

fn version(file: &str, pointer: &str) -> anyhow::Result<String> {
    let path = programs::workspace().join(ROOM).join(file);
    let place = || path.display().to_string();
    let text = fs::read_to_string(&path).with_context(place)?;
    let value: Value = serde_json::from_str(&text).with_context(place)?;
    let version = value.pointer(pointer).and_then(Value::as_str);
    let version = version.ok_or_else(|| io::Error::other(format!("there is no {pointer}")));
    Ok(version.with_context(place)?.to_owned())
}
