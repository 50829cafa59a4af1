// SPDX-License-Identifier: GPL-3.0-only
//! One package: its files staged in a folder, its control files, and dpkg-deb.

use anyhow::{Context as _, bail};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use xmesh_rig::chroot::Release;

/// How hard packages are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// To be tried: quickly.
    Fast,
    /// To be given away.
    Small,
}

/// Where a file of a package comes from.
#[derive(Debug, Clone, Copy)]
enum From {
    /// A program that was built.
    Program(&'static str),
    /// A file of the checkout.
    Source(&'static str),
    /// The same, to be compressed: manuals.
    Manual(&'static str),
    /// What the tool prints.
    Printed(&'static [&'static str]),
}

/// A package.
pub struct Package {
    name: &'static str,
    summary: &'static str,
    description: &'static str,
    /// More fields of its control file, whole lines.
    fields: &'static str,
    program: &'static str,
    /// Where each file goes, without the first slash.
    files: &'static [(&'static str, From)],
    /// In `packaging/`, as `policyd.postinst`.
    scripts: &'static [&'static str],
    /// Files that an administrator may change.
    conffiles: &'static [&'static str],
}

/// All of them. They are apart: the tool reads dumps on machines that have no Xen.
pub const PACKAGES: [Package; 2] = [
    Package {
        name: "policyd",
        summary: "agentless service mesh for Xen: the daemon in dom0",
        description: "It watches Linux guests from dom0 through altp2m and vm_event, knows which process\n\
             owns which connection, and has an eBPF program on each vif enforce policy before the\n\
             first packet leaves. Nothing is installed in a guest. Without a policy no traffic\n\
             changes.",
        fields: "Recommends: xmesh, xen-system-amd64\n",
        program: "usr/sbin/policyd",
        files: &[
            ("usr/sbin/policyd", From::Program("policyd")),
            (
                "usr/lib/systemd/system/policyd.service",
                From::Source("packaging/policyd.service"),
            ),
            ("etc/default/policyd", From::Source("packaging/policyd.default")),
            (
                "usr/share/man/man8/policyd.8.gz",
                From::Manual("policyd/man/policyd.8"),
            ),
        ],
        scripts: &["postinst", "prerm", "postrm"],
        conffiles: &["/etc/default/policyd"],
    },
    Package {
        name: "xmesh",
        summary: "agentless service mesh for Xen: the command",
        description: "It asks policyd what the guests of a Xen host do and who may connect to whom, in the\n\
             manner of xl; and lists the processes and sockets of a guest from a memory dump,\n\
             which needs neither policyd nor Xen.",
        fields: "Recommends: policyd\nSuggests: graphviz\n",
        program: "usr/bin/xmesh",
        files: &[
            ("usr/bin/xmesh", From::Program("xmesh")),
            ("usr/share/man/man1/xmesh.1.gz", From::Manual("tools/man/xmesh.1")),
            (
                "usr/share/man/man5/xmesh-policy.5.gz",
                From::Manual("tools/man/xmesh-policy.5"),
            ),
            (
                "usr/share/bash-completion/completions/xmesh",
                From::Printed(&["completions", "bash"]),
            ),
            (
                "usr/share/zsh/vendor-completions/_xmesh",
                From::Printed(&["completions", "zsh"]),
            ),
            (
                "usr/share/fish/vendor_completions.d/xmesh.fish",
                From::Printed(&["completions", "fish"]),
            ),
            (
                "usr/share/doc/xmesh/policy.schema.json",
                From::Printed(&["policy-schema"]),
            ),
        ],
        scripts: &[],
        conffiles: &[],
    },
];

/// A package that was made.
pub struct Built {
    /// The `.deb`.
    pub file: PathBuf,
    /// Packages that it depends on, without versions.
    pub depends: Vec<String>,
}

/// What packages are made from.
pub struct Context<'a> {
    /// Where programs were built, and their libraries are known.
    pub release: &'a Release,
    /// The folder of the programs.
    pub programs: &'a Path,
    /// The checkout.
    pub sources: &'a Path,
    /// Debian's version.
    pub version: String,
    /// Seconds since 1970 that all files bear.
    pub time: String,
    /// The same, as a changelog has it.
    pub date: String,
    /// How hard to compress.
    pub compression: Compression,
}

impl Context<'_> {
    /// Makes one package in `folder`.
    ///
    /// # Errors
    /// If a file is missing, or a program of Debian's fails.
    pub fn pack(&self, package: &Package, folder: &Path) -> anyhow::Result<Built> {
        // Beside the packages, so that a root sees it that is shown this folder.
        let staging = tempfile::tempdir_in(folder).context("a folder to stage in")?;
        let root = staging.path().join("root");
        for (path, from) in package.files {
            let bytes = self
                .bytes(*from)
                .with_context(|| format!("{}: {path}", package.name))?;
            let executable = matches!(from, From::Program(_));
            put(&root.join(path), &bytes, if executable { 0o755 } else { 0o644 })?;
        }
        // What only debuggers read is four fifths of it. The names of functions stay, for backtraces.
        said(
            Command::new("strip")
                .arg("--strip-debug")
                .arg(root.join(package.program)),
        )?;
        let documents = root.join("usr/share/doc").join(package.name);
        let copyright = self.bytes(From::Source("packaging/copyright"))?;
        put(&documents.join("copyright"), &copyright, 0o644)?;
        let changelog = gzip(self.changelog(package).as_bytes())?;
        put(&documents.join("changelog.Debian.gz"), &changelog, 0o644)?;

        let depends = self.depends(package, staging.path())?;
        let control = root.join("DEBIAN");
        put(
            &control.join("control"),
            self.control(package, &depends, &root)?.as_bytes(),
            0o644,
        )?;
        put(&control.join("md5sums"), sums(&root)?.as_bytes(), 0o644)?;
        if !package.conffiles.is_empty() {
            let text = package
                .conffiles
                .iter()
                .map(|path| format!("{path}\n"))
                .collect::<String>();
            put(&control.join("conffiles"), text.as_bytes(), 0o644)?;
        }
        for script in package.scripts {
            let source = self.sources.join(format!("packaging/{}.{script}", package.name));
            let bytes = fs::read(&source).with_context(|| source.display().to_string())?;
            put(&control.join(script), &bytes, 0o755)?;
        }

        let file = folder.join(format!("{}_{}_{ARCHITECTURE}.deb", package.name, self.version));
        let compression: &[&str] = match self.compression {
            Compression::Fast => &["-Zgzip", "-z1"],
            Compression::Small => &["-Zxz"],
        };
        let mut command = Command::new("dpkg-deb");
        command
            .args(["--root-owner-group"])
            .args(compression)
            .arg("--build")
            .args([&root, &file])
            .env("SOURCE_DATE_EPOCH", &self.time);
        said(&mut command)?;
        let depends = depends.split(',').filter_map(|one| one.split_whitespace().next());
        Ok(Built {
            file,
            depends: depends.map(str::to_owned).collect(),
        })
    }

    fn bytes(&self, from: From) -> anyhow::Result<Vec<u8>> {
        let source = |path: &str| {
            let path = self.sources.join(path);
            fs::read(&path).with_context(|| path.display().to_string())
        };
        match from {
            From::Program(name) => {
                let path = self.programs.join(name);
                fs::read(&path).with_context(|| path.display().to_string())
            }
            From::Source(path) => source(path),
            From::Manual(path) => gzip(&source(path)?),
            // Built for another release, it may not run on this one.
            From::Printed(arguments) => {
                let tool = self.programs.join("xmesh");
                let text = self
                    .release
                    .run(&tool.display().to_string(), arguments, self.programs)?;
                Ok(text.into_bytes())
            }
        }
    }

    /// What the program needs, by the libraries that it is linked with.
    fn depends(&self, package: &Package, staging: &Path) -> anyhow::Result<String> {
        // dpkg-shlibdeps wants to see the source package that it works for.
        let source = format!("Source: xmesh\n\nPackage: {}\nArchitecture: any\n", package.name);
        put(&staging.join("debian/control"), source.as_bytes(), 0o644)?;
        let program = format!("root/{}", package.program);
        let output = self
            .release
            .run("dpkg-shlibdeps", ["-O", program.as_str()], staging)?;
        match output
            .lines()
            .find_map(|line| line.strip_prefix("shlibs:Depends="))
        {
            Some(depends) => Ok(depends.to_owned()),
            None => bail!(
                "dpkg-shlibdeps does not say what {} needs: {output}",
                package.program
            ),
        }
    }

    fn control(&self, package: &Package, depends: &str, root: &Path) -> anyhow::Result<String> {
        let mut description = package.summary.to_owned();
        for line in package.description.lines() {
            let _ = write!(description, "\n {line}");
        }
        Ok(format!(
            "Package: {}\nVersion: {}\nSource: xmesh\nArchitecture: {ARCHITECTURE}\nMaintainer: {MAINTAINER}\n\
             Installed-Size: {}\nDepends: {depends}\n{}Section: admin\nPriority: optional\nDescription: {description}\n",
            package.name,
            self.version,
            kib(root)?,
            package.fields,
        ))
    }

    fn changelog(&self, package: &Package) -> String {
        format!(
            "xmesh ({}) unstable; urgency=medium\n\n  * {} of this version.\n\n -- {MAINTAINER}  {}\n",
            self.version, package.name, self.date
        )
    }
}

/// The only one on which guests can be watched.
const ARCHITECTURE: &str = "amd64";
/// Packages of one's own have no address to write to.
const MAINTAINER: &str = "xmesh maintainers <root@localhost>";

fn put(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let place = || path.display().to_string();
    let folder = path.parent().with_context(place)?;
    fs::create_dir_all(folder).with_context(place)?;
    fs::write(path, bytes).with_context(place)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(place)
}

/// As `gzip -9n`: with neither name nor time, so that the same text is the same file.
fn gzip(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut child = Command::new("gzip")
        .arg("-9nc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("gzip could not be started")?;
    let mut input = child.stdin.take().context("gzip has no standard input")?;
    // Texts of a few KiB: gzip reads all before it writes, so that neither waits for the other.
    input.write_all(bytes).context("gzip")?;
    drop(input);
    let output = child.wait_with_output().context("gzip")?;
    if !output.status.success() {
        bail!("gzip failed");
    }
    Ok(output.stdout)
}

/// Every file below a folder but DEBIAN, by its path from there, in order.
fn files(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut folders = vec![root.to_owned()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(root)?.to_owned());
            }
        }
    }
    found.retain(|path| !path.starts_with("DEBIAN"));
    found.sort();
    Ok(found)
}

fn sums(root: &Path) -> anyhow::Result<String> {
    let mut command = Command::new("md5sum");
    command.arg("--").args(files(root)?).current_dir(root);
    said(&mut command)
}

fn kib(root: &Path) -> anyhow::Result<u64> {
    let size = |path: &PathBuf| fs::metadata(root.join(path)).map_or(0, |m| m.len().div_ceil(1024));
    Ok(files(root)?.iter().map(size).sum())
}

fn said(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?} failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests;
