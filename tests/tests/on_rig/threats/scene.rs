// SPDX-License-Identifier: GPL-3.0-only
//! What tests of threats share: programs in web1, and what is told of them from some moment on.

use std::time::Duration;

use serde_json::Value;
use xmesh_rig::{Discard, Job};

use crate::support::{Mesh, Outcome};

pub type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// Where programs lie that do what is like an attack, and is none: nothing may be told of them.
pub const HONEST: &str = "/usr/local/honest";
/// Where the others lie.
pub const ATTACKS: &str = "/usr/local/attacks";

/// A guest with policyd, from a moment on: what was found is kept, so that of earlier tests is there, too.
pub struct Scene {
    pub mesh: Mesh,
    since_ns: u64,
}

impl Scene {
    /// From now on.
    pub fn begin() -> Fallible<Scene> {
        let mesh = Mesh::up()?;
        // What earlier tests copied: there is little room in a guest.
        mesh.0.check("web1", &["rm", "-rf", HONEST, ATTACKS])?;
        Scene::with(mesh)
    }

    /// The same with a daemon that runs already.
    pub fn with(mesh: Mesh) -> Fallible<Scene> {
        let since_ns = mesh.0.check("dom0", &["date", "+%s%N"])?.trim().parse()?;
        let folders = ["mkdir", "-p", HONEST, ATTACKS];
        mesh.0.check("web1", &folders)?;
        Ok(Scene { mesh, since_ns })
    }

    /// What was found in a guest since.
    pub fn threats(&self, guest: &str) -> Fallible<Vec<Value>> {
        // Its exit status says whether there are alerts.
        let output = self.mesh.0.exec("dom0", &["xmesh", "--json", "threats", guest])?;
        let list: Value = serde_json::from_slice(&output.stdout)?;
        let all = list["threats"].as_array().cloned().unwrap_or_default();
        let new = |threat: &Value| threat["last_ns"].as_u64() >= Some(self.since_ns);
        Ok(all.into_iter().filter(new).collect())
    }

    /// What a rule found in web1 of which this is the executable, or which has this word in its title.
    pub fn found(&self, rule: &str, word: &str) -> Fallible<Vec<Value>> {
        let is = |threat: &Value| {
            let title = threat["title"].as_str().unwrap_or_default();
            threat["rule"] == rule && (threat["process"]["exe"] == word || title.contains(word))
        };
        Ok(self.threats("web1")?.into_iter().filter(is).collect())
    }

    /// Waits until a rule has found it.
    pub fn is_told(&self, rule: &str, word: &str) -> Outcome {
        // Some rules look once in a minute of the guest's time, of which an emulated one may take several of ours.
        let time = Duration::from_secs(900);
        self.mesh
            .wait_within(time, &format!("{rule} by {word} is told"), |_| {
                Ok(!self.found(rule, word)?.is_empty())
            })
    }

    /// Nothing was told of honest programs, nor of any of these words.
    pub fn honest_work_is_not(&self, words: &[&str]) -> Outcome {
        let loud: Vec<Value> = self
            .threats("web1")?
            .into_iter()
            .filter(|threat| {
                let text = threat.to_string();
                text.contains(HONEST) || words.iter().any(|word| text.contains(word))
            })
            .collect();
        assert!(loud.is_empty(), "{loud:#?}");
        Ok(())
    }

    /// Runs a script in web1; whether it succeeds.
    pub fn run(&self, script: &str) -> Fallible<bool> {
        let argv = ["bash", "-c", script];
        let output = self
            .mesh
            .0
            .exec_timeout("web1", &argv, Duration::from_secs(300))?;
        Ok(output.success())
    }

    /// Runs one that must succeed.
    pub fn must(&self, script: &str) -> Outcome {
        let argv = ["bash", "-c", script];
        let output = self
            .mesh
            .0
            .exec_timeout("web1", &argv, Duration::from_secs(300))?;
        assert!(output.success(), "{script}: {output:?}");
        Ok(())
    }

    /// A program of web1 under a path of its own.
    pub fn copy(&self, program: &str, path: &str) -> Outcome {
        // It may be running still from an earlier test: a new file in its place.
        self.must(&format!(
            "mkdir -p $(dirname {path}) && cp $(readlink -f {program}) {path}.new && mv -f {path}.new {path}"
        ))
    }

    /// Python under a path of its own. It is large, so there is one copy, by many names.
    pub fn link_python(&self, path: &str) -> Outcome {
        self.must(&format!(
            "one=/usr/local/python; [ -e $one ] || cp $(readlink -f /usr/bin/python3) $one; ln -f $one {path}"
        ))
    }

    /// Runs a Python program in web1 until the job is dropped, by an interpreter of this path.
    pub fn python(&self, interpreter: &str, code: &str, arguments: &[&str]) -> Fallible<Job> {
        self.link_python(interpreter)?;
        let argv = [&[interpreter, "-c", code], arguments].concat();
        Ok(self.mesh.0.spawn("web1", &argv, Discard)?)
    }

    /// Waits until somebody in web1 listens on a TCP port of IPv4.
    pub fn serves(&self, port: u16) -> Outcome {
        let listens = format!("grep -q ':{port:04X} 00000000:0000 0A' /proc/net/tcp");
        self.mesh
            .wait(&format!("{port} is served"), |_| self.run(&listens))
    }

    /// Events of a kind in web1, of this daemon.
    pub fn events(&self, kind: &str) -> Fallible<Vec<Value>> {
        let argv = ["xmesh", "--json", "events", "--domain", "web1", "--kind", kind];
        let text = self.mesh.0.check("dom0", &argv)?;
        Ok(text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect())
    }
}
