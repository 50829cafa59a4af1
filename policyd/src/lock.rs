// SPDX-License-Identifier: GPL-3.0-only
//! One policyd a host: two would fight over the same rings and vifs.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// Why the lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another daemon runs.
    #[error("another policyd runs here (pid {pid}, lock {}); stop it first: kill {pid}", path.display())]
    Held {
        /// Its process id, or `?`.
        pid: String,
        /// The lock file.
        path: PathBuf,
    },
    /// The file could not be made.
    #[error("cannot make the lock file {}: {source}; is policyd run as root, and is /run writable?", path.display())]
    File {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Held for as long as the daemon lives; the kernel lets go of it however the daemon ends.
pub struct InstanceLock {
    _file: Flock<File>,
}

impl InstanceLock {
    /// Takes the lock and writes this process's id into it.
    pub fn take(path: &Path) -> Result<InstanceLock, LockError> {
        let file_error = |source| LockError::File {
            path: path.to_path_buf(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(file_error)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                file.set_len(0).map_err(file_error)?;
                file.rewind().map_err(file_error)?;
                writeln!(file, "{}", std::process::id()).map_err(file_error)?;
                Ok(InstanceLock { _file: file })
            }
            Err((mut file, _)) => {
                let mut pid = String::new();
                // The holder's id only helps the message; without it the refusal stands all the same.
                let _ = file.read_to_string(&mut pid);
                let pid = pid.trim();
                let pid = if pid.is_empty() { "?" } else { pid }.to_owned();
                Err(LockError::Held {
                    pid,
                    path: path.to_path_buf(),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_and_told_who_holds_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("lock");
        let first = InstanceLock::take(&path).expect("free");
        let text = InstanceLock::take(&path).err().expect("held").to_string();
        assert!(text.contains(&format!("kill {}", std::process::id())), "{text}");
        drop(first);
        InstanceLock::take(&path).expect("free again");
    }
}
