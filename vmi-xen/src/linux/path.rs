// SPDX-License-Identifier: GPL-3.0-only
//! Paths of open files, as the kernel's `d_path` puts them together.

use super::{Linux, LinuxError, group};
use crate::kernel::layout::PathOffsets;
use crate::memory::{MemoryError, PhysicalMemory};

/// Directories and mounts on the way up together.
const MAX_STEPS: usize = 1024;
/// PATH_MAX of Linux.
const MAX_PATH: usize = 4096;
/// NAME_MAX of Linux.
const MAX_NAME: usize = 255;

/// A place in the tree of files: what `struct path` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Address of a `struct vfsmount`.
    mount: u64,
    /// Address of a `struct dentry`.
    dentry: u64,
}

/// A path in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ResolvedPath {
    pub text: String,
    /// The file has no name any more (or never had: an anonymous file).
    pub deleted: bool,
}

impl<M: PhysicalMemory> Linux<M> {
    /// Reads a `struct path`.
    pub(super) fn place(&self, path: u64) -> Result<Place, LinuxError> {
        let offsets = group(&self.kernel.layout.path)?;
        Ok(Place {
            mount: self.u64(path.wrapping_add(offsets.path_mnt))?,
            dentry: self.u64(path.wrapping_add(offsets.path_dentry))?,
        })
    }

    /// The path from `root` (or, without one or outside of it, from the root of
    /// the mount namespace) to `place`, across mounts.
    pub(super) fn resolve(&self, place: Place, root: Option<Place>) -> Result<ResolvedPath, LinuxError> {
        let offsets = group(&self.kernel.layout.path)?;
        let mut deleted = self.is_unhashed(&offsets, place.dentry)?;
        // Put together from the end, each name reversed, and turned at last.
        let mut reversed = Vec::new();
        let mut here = place;
        for _ in 0..MAX_STEPS {
            if Some(here) == root || reversed.len() > MAX_PATH {
                break;
            }
            if here.dentry == self.u64(here.mount.wrapping_add(offsets.mnt_root))? {
                let mount = here.mount.wrapping_sub(offsets.mnt);
                let parent = self.u64(mount.wrapping_add(offsets.mnt_parent))?;
                if parent == mount {
                    break;
                }
                here = Place {
                    mount: parent.wrapping_add(offsets.mnt),
                    dentry: self.u64(mount.wrapping_add(offsets.mnt_mountpoint))?,
                };
                continue;
            }
            let parent = self.u64(here.dentry.wrapping_add(offsets.d_parent))?;
            let at_top = parent == here.dentry;
            let name = self.name(&offsets, here.dentry)?;
            if name != b"/" {
                reversed.extend(name.iter().rev());
                reversed.push(b'/');
            }
            if at_top {
                // A file of no directory, such as a memfd, is its own parent.
                deleted |= here == place;
                break;
            }
            here.dentry = parent;
        }
        if reversed.is_empty() {
            reversed.push(b'/');
        }
        reversed.reverse();
        Ok(ResolvedPath {
            text: String::from_utf8_lossy(&reversed).into_owned(),
            deleted,
        })
    }

    /// Deleted entries leave the hash of names; a root was never in it.
    fn is_unhashed(&self, offsets: &PathOffsets, dentry: u64) -> Result<bool, MemoryError> {
        let unhashed = self.u64(dentry.wrapping_add(offsets.hash_pprev))? == 0;
        let is_root = self.u64(dentry.wrapping_add(offsets.d_parent))? == dentry;
        Ok(unhashed && !is_root)
    }

    fn name(&self, offsets: &PathOffsets, dentry: u64) -> Result<Vec<u8>, MemoryError> {
        let len = self.u32(dentry.wrapping_add(offsets.name_len))? as usize;
        let text = self.u64(dentry.wrapping_add(offsets.name))?;
        let mut name = vec![0; len.min(MAX_NAME)];
        self.read(text, &mut name)?;
        Ok(name)
    }
}
