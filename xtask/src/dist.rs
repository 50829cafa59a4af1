// SPDX-License-Identifier: GPL-3.0-only
//! `cargo xtask dist`: Debian packages of the daemon and of the tool.

mod package;

use crate::web;
use anyhow::{Context, bail};
use clap::Args;
use package::{Built, Compression};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use xmesh_rig::chroot::Release;
use xmesh_rig::{Progress, Xen, packages, programs, setup};

/// Which packages.
#[derive(Args)]
pub struct Options {
    /// Only for this Debian release: 12 or 13 [default: both]
    #[arg(long)]
    debian: Option<u32>,
    /// Build unoptimized programs, to try the packaging
    #[arg(long)]
    debug: bool,
    /// Where the packages go
    #[arg(long, default_value = "target/dist")]
    folder: PathBuf,
    /// Do not install and purge them in a root of their release
    #[arg(long)]
    no_trial: bool,
}

/// Makes them; the output is a line for each.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let progress = Progress::new(false);
    // libxenctrl must be that of the Xen that runs, so each release has packages of its own.
    let targets: Vec<Xen> = Xen::ALL
        .into_iter()
        .filter(|xen| options.debian.is_none_or(|number| number == xen.debian()))
        .collect();
    if targets.is_empty() {
        bail!("there are packages for Debian 12 and 13; write --debian 12 or --debian 13");
    }
    let folder = programs::workspace().join(&options.folder);
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    web::try_fetch(&progress);
    for target in targets {
        let made = make(target, options, &folder, &progress)?;
        if !options.no_trial {
            trial(target, &folder, &made, &progress)?;
        }
        for built in made {
            println!("{}", built.file.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the programs on a release, and the packages of them.
fn make(target: Xen, options: &Options, folder: &Path, progress: &Progress) -> anyhow::Result<Vec<Built>> {
    let release = Release::to_build_on(target, progress)?;
    if release.is_host() {
        setup::ensure(setup::PACKAGES, progress)?;
    }
    let mut arguments = vec!["build", "--quiet", "--package", "policyd", "--package", "xmesh"];
    if !options.debug {
        arguments.push("--release");
    }
    progress.say(format!(
        "building policyd and xmesh on Debian {}",
        target.debian()
    ));
    release.cargo(&arguments, programs::workspace())?;
    let programs = release
        .target_folder()
        .join(if options.debug { "debug" } else { "release" });
    // A snapshot of what was committed last, whenever it is made.
    let time = git(&["log", "-1", "--format=%ct"])?;
    let date = git(&["log", "-1", "--format=%cD"])?;
    let context = package::Context {
        release: &release,
        programs: &programs,
        sources: programs::workspace(),
        version: format!("{}-1~deb{}", env!("CARGO_PKG_VERSION"), target.debian()),
        time,
        date,
        compression: match options.debug {
            true => Compression::Fast,
            false => Compression::Small,
        },
    };
    progress.say(format!("packing for Debian {}", target.debian()));
    package::PACKAGES
        .iter()
        .map(|package| context.pack(package, folder))
        .collect()
}

/// Installs and purges packages in a root of their release that has nothing but what they depend on.
fn trial(target: Xen, folder: &Path, made: &[Built], progress: &Progress) -> anyhow::Result<()> {
    let mut depends: Vec<&str> = made
        .iter()
        .flat_map(|built| built.depends.iter().map(String::as_str))
        .collect();
    depends.sort_unstable();
    depends.dedup();
    let bare = Release::bare(target.suite(), &depends, progress)?;
    progress.say(format!(
        "installing, running and purging them on a bare Debian {}",
        target.debian()
    ));
    let files: Vec<PathBuf> = made.iter().map(|built| built.file.clone()).collect();
    let trial = packages::trial(&bare, folder, &files)?;
    let version = env!("CARGO_PKG_VERSION");
    let expected = [
        format!("policyd {version}"),
        format!("xmesh {version}"),
        "enabled".to_owned(),
        "policyd ii".to_owned(),
        "xmesh ii".to_owned(),
    ];
    let said: Vec<&str> = trial.said.iter().map(|line| line.trim_end()).collect();
    if said != expected {
        bail!(
            "installed on Debian {}, they say {said:?}, not {expected:?}",
            target.debian()
        );
    }
    if !trial.left.is_empty() {
        bail!("purged, they leave behind: {}", trial.left.join(" "));
    }
    progress.say(format!(
        "Debian {}: installed, ran, purged, nothing left behind",
        target.debian()
    ));
    Ok(())
}

fn git(arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("git")
        .args(arguments)
        .current_dir(programs::workspace())
        .output()
        .context("git could not be started")?;
    if !output.status.success() {
        bail!(
            "git {} failed: packages are made from a checkout",
            arguments.join(" ")
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
