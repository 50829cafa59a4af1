// SPDX-License-Identifier: GPL-3.0-only
//! What can go wrong with a rig, and what to do about it.

use crate::agent::client::SessionError;
use std::io;
use std::path::{Path, PathBuf};

/// Why the rig could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RigError {
    /// A file could not be read, written or made.
    #[error("{path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A program of this machine could not be started.
    #[error("{program} could not be started: {source}")]
    Start {
        /// Its name.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program of this machine failed.
    #[error("{command} failed ({status}); its output ends:\n{tail}")]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
        /// The end of what it said.
        tail: String,
    },
    /// The machine lacks packages, and we may not install them.
    #[error("missing Debian packages: {0}; install them, or run this as root, which does so")]
    Packages(String),
    /// No source of Debian's packages.
    #[error(
        "no package source of this machine is Debian's archive; add one to /etc/apt and run `apt-get update`"
    )]
    NoMirror,
    /// Debian's archive lacks a package that is needed, or the package lacks what is in it elsewhere.
    #[error("package {0}")]
    NoPackage(String),
    /// No back end works, or the one asked for does not.
    #[error("{0}")]
    Backend(String),
    /// There is no such rig.
    #[error("no rig {0:?} is up; start it with `cargo xtask rig up --name {0}`")]
    NoRig(String),
    /// A name that cannot be used.
    #[error("{0:?} is no name for a rig or a domain: use letters, digits, '-' and '_'")]
    Name(String),
    /// The emulator ended while its rig was wanted.
    #[error("the emulator of the rig ended; its log is {0}")]
    EmulatorEnded(PathBuf),
    /// The rig did not come up in time.
    #[error("{what} was not there after {seconds} s; see {log}")]
    Slow {
        /// What was awaited.
        what: String,
        /// How long, seconds.
        seconds: u64,
        /// Where to look.
        log: String,
    },
    /// A session with an agent failed.
    #[error("{target}: {source}")]
    Session {
        /// dom0 or a domain.
        target: String,
        /// Why.
        source: SessionError,
    },
    /// A program in the rig ended with a status other than 0, where that is an error.
    #[error("{target}: `{command}` ended with status {status}: {stderr}")]
    Status {
        /// dom0 or a domain.
        target: String,
        /// The command line.
        command: String,
        /// Its exit status.
        status: i32,
        /// The end of its standard error.
        stderr: String,
    },
}

/// The result of most of this crate's functions.
pub type Result<T> = std::result::Result<T, RigError>;

/// Names the file in an I/O error.
pub(crate) trait At<T> {
    fn at(self, path: impl AsRef<Path>) -> Result<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|source| RigError::File {
            path: path.as_ref().to_owned(),
            source,
        })
    }
}
