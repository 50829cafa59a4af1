// SPDX-License-Identifier: GPL-3.0-only
//! `measure` and `measured`: what programs are, by their text.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use policy::Document;
use policyd_api::{Client, Measured as Word, MeasuredProcess};
use vmi_xen::linux::PageDigests;

use crate::args::measure::{Measure, Measured};
use crate::error::ToolError;
use crate::output::Output;
use crate::render::measured as render;

/// Links that are followed on one way: what the kernel follows, too.
const MAX_LINKS: usize = 40;

/// Writes the programs as a policy set, and asks no daemon.
pub fn measure(asked: &Measure, output: &mut Output) -> Result<(), ToolError> {
    if asked.at.is_some() && asked.files.len() > 1 {
        return Err(ToolError::Usage(
            "--at is where one program lies; measure one file at a time".into(),
        ));
    }
    let mut names = BTreeSet::new();
    let mut programs = Vec::new();
    for file in &asked.files {
        let (real, inside) = locate(file, asked.root.as_deref())?;
        let digests = PageDigests::of_elf(&real).map_err(|why| ToolError::Usage(why.to_string()))?;
        let exe = match &asked.at {
            Some(at) => at.clone(),
            None => inside.to_str().map(str::to_owned).ok_or_else(|| {
                ToolError::Usage(format!("{}: not in UTF-8; say --at PATH", inside.display()))
            })?,
        };
        programs.push(render::Program {
            name: unused(&mut names, &exe),
            exe,
            digests,
        });
    }
    let text = render::document(asked, &programs);
    let file = format!("{} (as written here)", asked.policy);
    Document::parse(&file, &text).map_err(|problems| ToolError::Usage(problems.to_string()))?;
    output.raw(text.as_bytes())
}

/// A name for a program that no other has: its file's, as names are.
fn unused(names: &mut BTreeSet<String>, exe: &str) -> String {
    let file = exe.rsplit('/').next().unwrap_or_default();
    let plain = |c: char| match c.to_ascii_lowercase() {
        c if c.is_ascii_alphanumeric() => c,
        _ => '-',
    };
    let mut name: String = file.chars().map(plain).take(56).collect();
    name = name.trim_matches('-').to_owned();
    if name.is_empty() {
        name = "program".into();
    }
    let numbered = (2..).map(|n| format!("{name}-{n}"));
    let free = std::iter::once(name.clone())
        .chain(numbered)
        .find(|name| !names.contains(name));
    let free = free.unwrap_or(name);
    names.insert(free.clone());
    free
}

/// The file on this host, and where it lies as the guest knows it: links followed, within `root` if there is one.
fn locate(file: &Path, root: Option<&Path>) -> Result<(PathBuf, PathBuf), ToolError> {
    let failed =
        |path: &Path, why: &dyn std::fmt::Display| ToolError::Usage(format!("{}: {why}", path.display()));
    let Some(root) = root else {
        let real = file.canonicalize().map_err(|why| failed(file, &why))?;
        return Ok((real.clone(), real));
    };
    let mut here = PathBuf::from("/");
    let mut rest: VecDeque<OsString> = parts(file);
    let mut links = 0;
    while let Some(part) = rest.pop_front() {
        if part == ".." {
            here.pop();
            continue;
        }
        here.push(&part);
        let outside = root.join(here.strip_prefix("/").unwrap_or(&here));
        let about = outside.symlink_metadata().map_err(|why| failed(&outside, &why))?;
        if !about.is_symlink() {
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(failed(&outside, &"too many links; say the file itself"));
        }
        let target = outside.read_link().map_err(|why| failed(&outside, &why))?;
        match target.is_absolute() {
            // The guest's root, not this host's.
            true => here = PathBuf::from("/"),
            false => drop(here.pop()),
        }
        for part in parts(&target).into_iter().rev() {
            rest.push_front(part);
        }
    }
    let real = root.join(here.strip_prefix("/").unwrap_or(&here));
    Ok((real, here))
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let names = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    });
    names.collect()
}

/// Ends in an error if the text of a program of the policy is not its own: a script asks by the exit status.
pub fn measured(client: &Client, asked: &Measured, output: &mut Output) -> Result<(), ToolError> {
    let mut found = client.measured(asked.domain.as_deref())?;
    let odd = |one: &MeasuredProcess| {
        one.text.measured != Word::Unregistered || !one.text.private.is_empty() || one.text.unmapped
    };
    if !asked.all {
        found.processes.retain(odd);
    }
    output.answer(&found, render::table)?;
    let changed = found
        .processes
        .iter()
        .filter(|one| one.text.measured == Word::Changed);
    match changed.count() {
        0 => Ok(()),
        changed => {
            output.finish()?;
            Err(ToolError::Changed(changed))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_within_the_guests_root() {
        let root = tempfile::tempdir().expect("a directory");
        let at = |path: &str| root.path().join(path);
        std::fs::create_dir_all(at("usr/bin")).expect("made");
        std::fs::create_dir_all(at("etc/alternatives")).expect("made");
        std::fs::write(at("usr/bin/dash"), "x").expect("written");
        symlink("usr/bin", at("bin")).expect("made");
        symlink("/etc/alternatives/sh", at("usr/bin/sh")).expect("made");
        symlink("../../bin/dash", at("etc/alternatives/sh")).expect("made");
        symlink("loop", at("loop")).expect("made");
        symlink("../../../../../usr/bin/dash", at("out")).expect("made");
        for file in ["/bin/sh", "bin/sh", "/usr/bin/../bin/sh", "/out"] {
            let (real, inside) = locate(Path::new(file), Some(root.path())).expect(file);
            assert_eq!(inside, Path::new("/usr/bin/dash"), "{file}");
            assert_eq!(real, at("usr/bin/dash"), "{file}");
        }
        let why = |file: &str| {
            locate(Path::new(file), Some(root.path()))
                .expect_err(file)
                .to_string()
        };
        assert!(why("/loop").contains("too many links"));
        assert!(why("/usr/bin/none").contains("No such file"));
    }

    #[test]
    fn programs_have_names_of_their_own() {
        let mut names = BTreeSet::new();
        let mut name = |exe: &str| unused(&mut names, exe);
        assert_eq!(name("/usr/bin/python3.11"), "python3-11");
        assert_eq!(name("/opt/bin/Python3.11"), "python3-11-2");
        assert_eq!(name("/opt/[/["), "program");
    }
}
