// SPDX-License-Identifier: GPL-3.0-only
//! What is on disk about a rig that is up: enough for another process to use and to end it.

use crate::backend::{Backend, Cpu};
use crate::cache;
use crate::domain::check_name;
use crate::error::{At, Result, RigError};
use crate::xen::Xen;
use std::fs;
use std::path::PathBuf;

/// A rig as its `state` file tells.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) name: String,
    pub(crate) backend: Backend,
    pub(crate) cpu: Cpu,
    pub(crate) xen: Xen,
    /// vCPUs that a domU of this rig may have at most.
    pub(crate) vcpus: u32,
    /// The emulator's process.
    pub(crate) pid: u32,
    /// When that process began, in clock ticks since the host's boot: its id may have been given to
    /// another since.
    pub(crate) began: u64,
    /// The port of this host's loopback that leads to dom0's agent.
    pub(crate) port: u16,
}

impl State {
    /// The folder of a rig of that name.
    pub(crate) fn folder_of(name: &str) -> PathBuf {
        cache::folder().join("rigs").join(name)
    }

    pub(crate) fn folder(&self) -> PathBuf {
        State::folder_of(&self.name)
    }

    pub(crate) fn write(&self) -> Result<()> {
        let path = self.folder().join("state");
        let State {
            backend,
            cpu,
            xen,
            vcpus,
            pid,
            began,
            port,
            ..
        } = self;
        fs::write(
            &path,
            format!("{backend} {vcpus} {pid} {began} {port} {cpu} {xen}\n"),
        )
        .at(&path)
    }

    /// The rig of that name, if its emulator runs.
    pub(crate) fn read(name: &str) -> Result<State> {
        check_name(name)?;
        let missing = || RigError::NoRig(name.to_owned());
        let text = fs::read_to_string(State::folder_of(name).join("state")).map_err(|_| missing())?;
        let state = State::parse(name, &text).ok_or_else(missing)?;
        if state.is_running() {
            Ok(state)
        } else {
            Err(missing())
        }
    }

    /// Every rig that is up.
    pub(crate) fn all() -> Vec<State> {
        let folders = fs::read_dir(cache::folder().join("rigs"))
            .into_iter()
            .flatten()
            .flatten();
        let mut names: Vec<String> = folders
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names.iter().filter_map(|name| State::read(name).ok()).collect()
    }

    pub(crate) fn is_running(&self) -> bool {
        process_start(self.pid) == Some(self.began)
    }

    fn parse(name: &str, text: &str) -> Option<State> {
        let mut words = text.split_whitespace();
        Some(State {
            name: name.to_owned(),
            backend: words.next()?.parse().ok()?,
            vcpus: words.next()?.parse().ok()?,
            pid: words.next()?.parse().ok()?,
            began: words.next()?.parse().ok()?,
            port: words.next()?.parse().ok()?,
            // Rigs brought up before there was a choice do not say.
            cpu: words.next().map_or(Some(Cpu::Intel), |word| word.parse().ok())?,
            xen: words.next().map_or(Some(Xen::V4_17), |word| word.parse().ok())?,
        })
    }
}

/// When a process began, in clock ticks since boot; nothing if it has ended.
pub(crate) fn process_start(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the program's name, which may hold spaces and brackets itself: state is field 3.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_is_cut_off_is_no_rig() {
        assert!(State::parse("x", "bochs 2 17 4711 7700 amd\n").is_some_and(|state| state.cpu == Cpu::Amd));
        assert!(
            State::parse("x", "bochs 2 17 4711 7700 amd 4.20\n").is_some_and(|state| state.xen == Xen::V4_20)
        );
        assert!(State::parse("x", "bochs 2 17 4711 7700 zilog\n").is_none());
        assert!(State::parse("x", "bochs 2 17 4711").is_none());
        assert!(State::parse("x", "abacus 2 17 4711 7700").is_none());
    }

    #[test]
    fn this_process_has_begun_and_none_has_id_0() {
        assert!(process_start(std::process::id()).is_some());
        assert!(process_start(0).is_none());
    }
}
