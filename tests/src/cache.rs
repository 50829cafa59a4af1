// SPDX-License-Identifier: GPL-3.0-only
//! What is costly to make and the same for every rig: made once, found by what it was made from.

use crate::error::{At, Result};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The folder for everything the rig keeps outside the checkout: `$XMESH_CACHE`, else
/// `$XDG_CACHE_HOME/xmesh`, else `~/.cache/xmesh`.
pub fn folder() -> PathBuf {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    from("XMESH_CACHE")
        .map(PathBuf::from)
        .or_else(|| from("XDG_CACHE_HOME").map(|cache| Path::new(&cache).join("xmesh")))
        .or_else(|| from("HOME").map(|home| Path::new(&home).join(".cache/xmesh")))
        .unwrap_or_else(|| PathBuf::from("/var/cache/xmesh"))
}

/// The folder of the thing `name` made from `inputs`; made by `make`, in a folder that only takes its
/// place once whole. Two processes that want the same thing do not make it twice.
pub(crate) fn entry(name: &str, inputs: &[&[u8]], make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let parent = folder();
    let stem = format!("{name}-{:016x}", digest(inputs));
    let place = parent.join(&stem);
    fs::create_dir_all(&parent).at(&parent)?;
    let lock_path = parent.join(format!("{stem}.lock"));
    let lock = File::create(&lock_path).at(&lock_path)?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, errno)| io::Error::from(errno))
        .at(&lock_path)?;
    if place.is_dir() {
        return Ok(place);
    }
    let partial = parent.join(format!("{stem}.partial"));
    if partial.exists() {
        fs::remove_dir_all(&partial).at(&partial)?;
    }
    fs::create_dir(&partial).at(&partial)?;
    make(&partial)?;
    fs::rename(&partial, &place).at(&place)?;
    Ok(place)
}

/// FNV-1a over the inputs and their lengths. The cache is ours alone: chance is the only enemy.
fn digest(inputs: &[&[u8]]) -> u64 {
    let byte = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    inputs.iter().fold(0xcbf2_9ce4_8422_2325, |sum, input| {
        let length = input.len().to_le_bytes();
        length.into_iter().chain(input.iter().copied()).fold(sum, byte)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_inputs_are_cut_matters() {
        assert_ne!(digest(&[b"ab", b"c"]), digest(&[b"a", b"bc"]));
        assert_ne!(digest(&[b"ab"]), digest(&[b"ac"]));
    }
}
