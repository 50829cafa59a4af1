// SPDX-License-Identifier: GPL-3.0-only
//! What a process may do: users, groups, capabilities.

use super::{Linux, LinuxError, group};
use crate::memory::PhysicalMemory;

/// Supplementary groups that are told; the kernel allows 65536, nobody has.
const MAX_GROUPS: usize = 1024;

/// Real, effective, saved and file-system ID, of users or of groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "as named in credentials(7)")]
pub struct Ids {
    pub real: u32,
    pub effective: u32,
    pub saved: u32,
    pub fs: u32,
}

/// Sets of capabilities, a bit each, numbered as in linux/capability.h. They
/// count in the process's user namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "as named in capabilities(7)")]
pub struct Capabilities {
    pub inheritable: u64,
    pub permitted: u64,
    pub effective: u64,
    pub bounding: u64,
    pub ambient: u64,
}

/// A process's credentials. Numbers are those of the initial user namespace;
/// what this kernel does not tell is zero or empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Users.
    pub uid: Ids,
    /// Groups.
    pub gid: Ids,
    /// Supplementary groups, ascending; at most 1024 of them.
    pub groups: Vec<u32>,
    /// Capabilities.
    pub capabilities: Capabilities,
    /// Inode number of the user namespace; 0 where not known.
    pub userns: u32,
}

impl<M: PhysicalMemory> Linux<M> {
    /// Reads the `struct cred` at `cred`.
    ///
    /// # Errors
    /// If its users and groups cannot be read.
    pub fn credentials(&self, cred: u64) -> Result<Credentials, LinuxError> {
        let layout = &self.kernel.layout;
        let offsets = group(&layout.cred)?;
        let id = |offset: u64| self.u32(cred.wrapping_add(offset));
        Ok(Credentials {
            uid: Ids {
                real: id(offsets.uid)?,
                effective: id(offsets.euid)?,
                saved: id(offsets.suid)?,
                fs: id(offsets.fsuid)?,
            },
            gid: Ids {
                real: id(offsets.gid)?,
                effective: id(offsets.egid)?,
                saved: id(offsets.sgid)?,
                fs: id(offsets.fsgid)?,
            },
            groups: self.groups(cred).unwrap_or_default(),
            capabilities: self.capabilities(cred).unwrap_or_default(),
            userns: self.user_namespace(cred).unwrap_or(0),
        })
    }

    fn groups(&self, cred: u64) -> Result<Vec<u32>, LinuxError> {
        let offsets = group(&self.kernel.layout.groups)?;
        let info = self.u64(cred.wrapping_add(offsets.group_info))?;
        let count = self.u32(info.wrapping_add(offsets.count))? as usize;
        let mut raw = vec![0; count.min(MAX_GROUPS) * 4];
        self.read(info.wrapping_add(offsets.ids), &mut raw)?;
        Ok(raw
            .chunks_exact(4)
            .map(|id| id.try_into().map_or(0, u32::from_le_bytes))
            .collect())
    }

    fn capabilities(&self, cred: u64) -> Result<Capabilities, LinuxError> {
        let offsets = group(&self.kernel.layout.capability)?;
        // Two words of 32 bits before 6.3, one of 64 since: the same bytes.
        let set = |offset: u64| self.u64(cred.wrapping_add(offset));
        Ok(Capabilities {
            inheritable: set(offsets.inheritable)?,
            permitted: set(offsets.permitted)?,
            effective: set(offsets.effective)?,
            bounding: set(offsets.bounding)?,
            ambient: set(offsets.ambient)?,
        })
    }

    fn user_namespace(&self, cred: u64) -> Result<u32, LinuxError> {
        let offsets = group(&self.kernel.layout.user_namespace)?;
        let namespace = self.u64(cred.wrapping_add(offsets.user_ns))?;
        Ok(self.u32(namespace.wrapping_add(offsets.inum))?)
    }
}
