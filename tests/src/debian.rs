// SPDX-License-Identifier: GPL-3.0-only
//! Debian packages of several releases through the machine's own mirror, above all kernels: without
//! installing them and without touching the machine's own apt configuration.

use crate::cache;
use crate::command::run;
use crate::error::{At, Result, RigError};
use crate::setup::Mirrors;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

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

/// Names the address of a mirror of Ubuntu's, for kernels older than any that Debian's mirrors still have.
const UBUNTU: &str = "XMESH_UBUNTU";
const UBUNTU_SUITES: [&str; 2] = ["bionic-updates", "focal"];

/// An apt of our own: same mirror, other suites, own state.
pub struct Apt {
    dir: PathBuf,
    distribution: Distribution,
}

#[derive(Debug, Clone)]
enum Distribution {
    Debian,
    /// Its keyring comes as a package of Debian's.
    Ubuntu {
        mirror: String,
        keyring: PathBuf,
    },
}

/// What is booted of a kernel package.
#[derive(Debug, Clone)]
pub struct KernelFiles {
    /// The compressed kernel.
    pub vmlinuz: PathBuf,
    /// The folder `lib/modules` of its packages.
    pub modules: PathBuf,
}

impl Apt {
    /// The private apt, in the cache; fetches the package indexes if they are not there yet.
    ///
    /// # Errors
    /// If the cache cannot be written or the mirror not be reached.
    pub fn open() -> Result<Self> {
        Self::open_in("apt", Distribution::Debian)
    }

    /// The same for old kernels of Ubuntu's; none unless the environment's `XMESH_UBUNTU` names a mirror.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_ubuntu() -> Result<Option<Self>> {
        let Ok(mirror) = std::env::var(UBUNTU) else {
            return Ok(None);
        };
        let package = "ubuntu-keyring";
        let root = Self::open()?.unpacked(package)?;
        let keyring = find_file(&root, &|name| name == "ubuntu-archive-keyring.gpg")
            .ok_or_else(|| RigError::NoPackage(format!("{package}: holds no keyring")))?;
        Self::open_in("apt-ubuntu", Distribution::Ubuntu { mirror, keyring }).map(Some)
    }

    fn open_in(name: &str, distribution: Distribution) -> Result<Self> {
        let dir = cache::folder().join(name);
        fs::create_dir_all(&dir).at(&dir)?;
        let apt = Self { dir, distribution };
        let lock = apt.lock()?;
        if !apt.dir.join("updated").exists() {
            apt.fetch_indexes()?;
        }
        drop(lock);
        Ok(apt)
    }

    /// One process at a time changes what is there.
    fn lock(&self) -> Result<Flock<File>> {
        let path = self.dir.join("lock");
        Flock::lock(File::create(&path).at(&path)?, FlockArg::LockExclusive)
            .map_err(|(_, errno)| io::Error::from(errno))
            .at(&path)
    }

    /// Fetches the package indexes afresh: a mirror drops packages that newer
    /// ones replace.
    ///
    /// # Errors
    /// If the mirror cannot be reached.
    pub fn update(&self) -> Result<()> {
        let _lock = self.lock()?;
        self.fetch_indexes()
    }

    fn fetch_indexes(&self) -> Result<()> {
        for folder in ["lists/partial", "archives/partial"] {
            let folder = self.dir.join(folder);
            fs::create_dir_all(&folder).at(&folder)?;
        }
        let (mirror, keyring, suites) = match &self.distribution {
            Distribution::Debian => (
                Mirrors::of_this_machine()?.archive,
                Path::new("/usr/share/keyrings/debian-archive-keyring.gpg"),
                SUITES.as_slice(),
            ),
            Distribution::Ubuntu { mirror, keyring } => {
                (mirror.clone(), keyring.as_path(), UBUNTU_SUITES.as_slice())
            }
        };
        let mut list = String::new();
        for suite in suites {
            list += &format!("deb [signed-by={}] {mirror} {suite} main\n", keyring.display());
        }
        let sources = self.dir.join("sources.list");
        fs::write(&sources, list).at(&sources)?;
        run(self.command("apt-get").arg("update"))?;
        let mark = self.dir.join("updated");
        fs::write(&mark, "").at(&mark)
    }

    fn command(&self, program: &str) -> Command {
        let dir = self.dir.display();
        let mut command = Command::new(program);
        for option in [
            format!("Dir::Etc::sourcelist={dir}/sources.list"),
            "Dir::Etc::sourceparts=-".to_owned(),
            format!("Dir::State::lists={dir}/lists"),
            format!("Dir::Cache={dir}"),
            // Some machines are set up to throw these away; making them anew takes seconds.
            "Dir::Cache::pkgcache=pkgcache.bin".to_owned(),
            "Dir::Cache::srcpkgcache=srcpkgcache.bin".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "Acquire::IndexTargets::deb::CNF::DefaultEnabled=false".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }

    /// The newest package whose name is `prefix`, a version, and `suffix`:
    /// kernels carry their version in their name.
    ///
    /// # Errors
    /// If the suites have none.
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
        let newest = versions.last().map(|(_, name)| (*name).to_owned());
        newest.ok_or_else(|| {
            let suites = match self.distribution {
                Distribution::Debian => SUITES.join(", "),
                Distribution::Ubuntu { .. } => UBUNTU_SUITES.join(", "),
            };
            RigError::NoPackage(format!("{prefix}*{suffix}, in none of {suites}"))
        })
    }

    /// Downloads package `name` unless it is there, unpacks it, and returns the
    /// directory it is unpacked in.
    ///
    /// # Errors
    /// If the mirror does not have it (any more), or the cache cannot be written.
    pub fn unpacked(&self, name: &str) -> Result<PathBuf> {
        let _lock = self.lock()?;
        let root = self.dir.join("unpacked").join(name);
        if root.exists() {
            return Ok(root);
        }
        let download = self.dir.join("download").join(name);
        fs::create_dir_all(&download).at(&download)?;
        run(self
            .command("apt-get")
            .args(["download", name])
            .current_dir(&download))?;
        let deb = fs::read_dir(&download)
            .at(&download)?
            .filter_map(std::result::Result::ok)
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|e| e == "deb"))
            .ok_or_else(|| RigError::NoPackage(format!("{name}: its download left no file")))?;
        let partial = root.with_extension("partial");
        fs::create_dir_all(&partial).at(&partial)?;
        run(Command::new("dpkg").arg("-x").arg(&deb).arg(&partial))?;
        fs::rename(&partial, &root).at(&root)?;
        fs::remove_dir_all(&download).at(&download)?;
        Ok(root)
    }

    /// The newest kernel of a series such as `6.1.`, of Debian's those for clouds: the name of its package.
    ///
    /// # Errors
    /// If the suites have none.
    pub fn kernel_package(&self, series: &str) -> Result<String> {
        match self.distribution {
            Distribution::Debian => self.newest(&format!("linux-image-{series}"), "-cloud-amd64"),
            Distribution::Ubuntu { .. } => self.newest(&format!("linux-image-unsigned-{series}"), "-generic"),
        }
    }

    /// Unpacks a kernel. From 6.19 on Debian splits it and its modules out of the image package; Ubuntu always had its modules
    /// apart.
    ///
    /// # Errors
    /// As [`Self::unpacked`], and if the packages hold no kernel or no modules.
    pub fn kernel(&self, package: &str) -> Result<KernelFiles> {
        let mut vmlinuz = None;
        let mut modules = None;
        let (image, others) = match self.distribution {
            Distribution::Debian => ("linux-image-", ["linux-binary-", "linux-modules-"].as_slice()),
            Distribution::Ubuntu { .. } => ("linux-image-unsigned-", ["linux-modules-"].as_slice()),
        };
        for prefix in std::iter::once(&image).chain(others) {
            if vmlinuz.is_some() && modules.is_some() {
                break;
            }
            let root = self.unpacked(&package.replacen(image, prefix, 1))?;
            for dir in [root.clone(), root.join("usr")] {
                let boot = || find_file(&dir.join("boot"), &|name| name.starts_with("vmlinuz"));
                let beside = || find_file(&dir.join("lib/modules"), &|name| name == "vmlinuz");
                vmlinuz = vmlinuz.or_else(boot).or_else(beside);
                let candidate = dir.join("lib/modules");
                if find_file(&candidate, &|name| name.starts_with("overlay.ko")).is_some() {
                    modules = Some(candidate);
                }
            }
        }
        let missing = |what| RigError::NoPackage(format!("{package}: holds no {what}"));
        Ok(KernelFiles {
            vmlinuz: vmlinuz.ok_or_else(|| missing("vmlinuz"))?,
            modules: modules.ok_or_else(|| missing("overlay module"))?,
        })
    }
}

/// First file under `dir` whose name pleases.
pub fn find_file(dir: &Path, pleases: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    let mut directories = vec![dir.to_owned()];
    while let Some(dir) = directories.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                directories.push(path);
            } else if entry.file_name().to_str().is_some_and(pleases) {
                return Some(path);
            }
        }
    }
    None
}
