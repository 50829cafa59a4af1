// SPDX-License-Identifier: GPL-3.0-only
//! Debian packages through the machine's own mirror: kernels of several
//! releases and a static busybox, without installing them and without touching
//! the machine's own apt configuration.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Suites whose kernels are used. Listed together, so one index serves all.
const SUITES: [&str; 7] = [
    "bullseye",
    "bookworm",
    "bookworm-backports",
    "trixie",
    "trixie-backports",
    "forky",
    "sid",
];

/// Where dumps and packages are kept between runs.
pub fn cache_dir() -> Result<PathBuf> {
    let dir = match std::env::var_os("XMESH_CACHE") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME").context("neither XMESH_CACHE nor HOME")?)
            .join(".cache/xmesh"),
    }
    .join("dumps");
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    Ok(dir)
}

/// Runs a command and returns its output, or an error with what it printed.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// An apt of our own: same mirror, other suites, own state.
pub struct Apt {
    dir: PathBuf,
}

impl Apt {
    /// Sets the private apt up under `cache` and fetches the package indexes
    /// if they are not there yet.
    pub fn new(cache: &Path) -> Result<Self> {
        let apt = Self {
            dir: cache.join("apt"),
        };
        if !apt.dir.join("updated").exists() {
            apt.update()?;
        }
        Ok(apt)
    }

    /// Fetches the package indexes afresh: a mirror drops packages that newer
    /// ones replace.
    pub fn update(&self) -> Result<()> {
        fs::create_dir_all(self.dir.join("lists/partial"))?;
        fs::create_dir_all(self.dir.join("archives/partial"))?;
        let mirror = mirror()?;
        let mut list = String::new();
        for suite in SUITES {
            list += &format!(
                "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] \
                 {mirror} {suite} main\n"
            );
        }
        fs::write(self.dir.join("sources.list"), list)?;
        run(self.command("apt-get").arg("update"))?;
        fs::write(self.dir.join("updated"), "")?;
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        let dir = self.dir.display();
        let mut command = Command::new(program);
        for option in [
            format!("Dir::Etc::sourcelist={dir}/sources.list"),
            "Dir::Etc::sourceparts=-".to_owned(),
            format!("Dir::State::lists={dir}/lists"),
            format!("Dir::Cache={dir}"),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }

    /// The newest package whose name is `prefix`, a version, and `suffix`:
    /// kernels carry their version in their name.
    pub fn newest(&self, prefix: &str, suffix: &str) -> Result<String> {
        let names = run(self.command("apt-cache").args(["pkgnames", prefix]))?;
        let mut versions: Vec<(Vec<u32>, &str)> = names
            .lines()
            .filter(|name| name.ends_with(suffix))
            .map(|name| {
                let numbers = name
                    .split(|c: char| !c.is_ascii_digit())
                    .filter_map(|part| part.parse().ok())
                    .collect();
                (numbers, name)
            })
            .collect();
        versions.sort();
        match versions.last() {
            Some((_, name)) => Ok((*name).to_owned()),
            None => bail!("no package {prefix}*{suffix} in the suites {SUITES:?}"),
        }
    }

    /// Downloads package `name` unless it is there, unpacks it, and returns the
    /// directory it is unpacked in.
    pub fn unpacked(&self, name: &str) -> Result<PathBuf> {
        let root = self.dir.join("unpacked").join(name);
        if root.exists() {
            return Ok(root);
        }
        let download = self.dir.join("download").join(name);
        fs::create_dir_all(&download)?;
        run(self
            .command("apt-get")
            .args(["download", name])
            .current_dir(&download))?;
        let deb = fs::read_dir(&download)?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|e| e == "deb"))
            .with_context(|| format!("apt-get download {name} left no .deb"))?;
        let partial = root.with_extension("partial");
        fs::create_dir_all(&partial)?;
        run(Command::new("dpkg").arg("-x").arg(&deb).arg(&partial))?;
        fs::rename(&partial, &root)?;
        fs::remove_dir_all(&download)?;
        Ok(root)
    }
}

/// The Debian mirror this machine uses, from its own apt configuration.
fn mirror() -> Result<String> {
    let listed = run(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(SITE) $(BASE_URI) $(ORIGIN) $(LABEL)",
    ]))?;
    for line in listed.lines() {
        let mut words = line.split_whitespace();
        if let (Some(site), Some(_), Some("Debian"), Some("Debian")) =
            (words.next(), words.next(), words.next(), words.next())
        {
            return Ok(site.to_owned());
        }
    }
    bail!("no Debian mirror in this machine's apt configuration; run apt-get update once")
}
