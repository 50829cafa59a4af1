// SPDX-License-Identifier: GPL-3.0-only
//! The host that is looked at: files below a root, and what its programs say.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Most of a file that is read as text. /proc and /sys have no larger ones that matter, modules.dep is some 700 KiB.
const MOST: u64 = 8 << 20;

/// What a check may ask. Paths are absolute, as on the host itself.
pub trait Host {
    /// A file as text; none if it is not there or may not be read.
    fn read(&self, path: &str) -> Option<String>;
    /// Whether there is such a file, folder or device.
    fn exists(&self, path: &str) -> bool;
    /// Each word in a binary that begins so, with what letters, digits and dots follow; none if it cannot be read.
    fn strings(&self, path: &str, prefix: &str) -> Option<Vec<String>>;
    /// What a program writes to its standard output; else why it does not, a sentence.
    fn run(&self, program: &str, arguments: &[&str]) -> Result<String, String>;
}

/// A real host, or its files below another root.
pub struct Live {
    root: PathBuf,
}

impl Live {
    /// The host whose files are below `root`.
    pub fn below(root: impl Into<PathBuf>) -> Live {
        Live { root: root.into() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

impl Host for Live {
    fn read(&self, path: &str) -> Option<String> {
        let mut bytes = Vec::new();
        let file = File::open(self.path(path)).ok()?;
        file.take(MOST).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn exists(&self, path: &str) -> bool {
        fs::symlink_metadata(self.path(path)).is_ok()
    }

    fn strings(&self, path: &str, prefix: &str) -> Option<Vec<String>> {
        strings(&self.path(path), prefix.as_bytes())
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        let said = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("{program} could not be started: {error}"))?;
        if said.status.success() {
            return Ok(String::from_utf8_lossy(&said.stdout).into_owned());
        }
        let errors = String::from_utf8_lossy(&said.stderr);
        let last = errors.lines().rfind(|line| !line.trim().is_empty());
        Err(format!(
            "`{program} {}` failed: {}",
            arguments.join(" "),
            last.unwrap_or("it does not say why")
        ))
    }
}

fn strings(path: &Path, prefix: &[u8]) -> Option<Vec<String>> {
    let (mut found, mut word) = (Vec::new(), Vec::new());
    let mut keep = |word: &mut Vec<u8>| {
        if word.len() > prefix.len() && word.starts_with(prefix) {
            found.push(String::from_utf8_lossy(word).into_owned());
        }
        word.clear();
    };
    for byte in BufReader::with_capacity(1 << 16, File::open(path).ok()?).bytes() {
        let byte = byte.ok()?;
        if byte.is_ascii_alphanumeric() || byte == b'.' {
            // A word that begins otherwise is of no interest, however long.
            if word.len() < prefix.len() + 32 {
                word.push(byte);
            }
        } else {
            keep(&mut word);
        }
    }
    keep(&mut word);
    found.sort();
    found.dedup();
    Some(found)
}
