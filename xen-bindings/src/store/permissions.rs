// SPDX-License-Identifier: GPL-3.0-only
//! Who may read and write a node of xenstore.

use std::{
    ffi::c_uint,
    io,
    ptr::NonNull,
    sync::{Mutex, PoisonError},
};

use super::{
    StoreError,
    watch::{c_path, last_os},
};
use crate::{DomId, sys};

/// Domain id of dom0.
const DOM0: DomId = 0;

/// What one domain may do with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permission {
    /// The domain; of the first of a node its owner, who may do everything.
    pub domid: DomId,
    /// It may read; of the first: all others may.
    pub read: bool,
    /// It may write; of the first: all others may.
    pub write: bool,
}

/// Who may do what with a node: its owner, with what all others may, then who may do other things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permissions(Vec<Permission>);

impl Permissions {
    /// As xenstored lists them.
    pub fn new(list: Vec<Permission>) -> Self {
        Self(list)
    }

    /// Whether nobody but dom0 may write the node. One without an owner is taken as anybody's.
    pub fn is_dom0_alone(&self) -> bool {
        let Some((owner, others)) = self.0.split_first() else {
            return false;
        };
        owner.domid == DOM0 && !owner.write && others.iter().all(|other| other.domid == DOM0 || !other.write)
    }
}

/// A connection of its own for asking: the crate that reads nodes does not ask for this.
pub(super) struct Handle(Mutex<NonNull<sys::xs_handle>>);

// SAFETY: the library keeps no thread-local state, and the mutex lets one call at a time use the handle.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    pub(super) fn open() -> Result<Self, StoreError> {
        // SAFETY: opens a connection; the handle is checked.
        let handle =
            NonNull::new(unsafe { sys::xs_open(0) }).ok_or_else(|| last_os("connect to", "xenstored"))?;
        Ok(Self(Mutex::new(handle)))
    }

    /// `None` where there is no such node.
    pub(super) fn permissions(&self, path: &str) -> Result<Option<Permissions>, StoreError> {
        let text = c_path("read the permissions of", path)?;
        // The handle stays valid whatever a panicking holder did.
        let handle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count: c_uint = 0;
        // SAFETY: the handle is live, the text ends in NUL, transaction 0 is none, and `count` outlives the call.
        let list = unsafe { sys::xs_get_permissions(handle.as_ptr(), 0, text.as_ptr(), &raw mut count) };
        let Some(list) = NonNull::new(list) else {
            let error = last_os("read the permissions of", path);
            return match error.source.kind() {
                io::ErrorKind::NotFound => Ok(None),
                _ => Err(error),
            };
        };
        let len = usize::try_from(count).unwrap_or(0);
        // SAFETY: the library returns `count` entries in one allocation, which is the caller's to free.
        let permissions = unsafe {
            let entries = std::slice::from_raw_parts(list.as_ptr(), len);
            let permissions = entries.iter().map(Permission::from_raw).collect();
            libc::free(list.as_ptr().cast());
            permissions
        };
        Ok(Some(Permissions(permissions)))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let handle = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: opened in `open`, not used after.
        unsafe { sys::xs_close(handle.as_ptr()) };
    }
}

impl Permission {
    fn from_raw(raw: &sys::xs_permissions) -> Self {
        Self {
            domid: raw.id,
            read: raw.perms & sys::XS_PERM_READ != 0,
            write: raw.perms & sys::XS_PERM_WRITE != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permissions(list: &[(DomId, bool)]) -> Permissions {
        let one = |(domid, write): &(DomId, bool)| Permission {
            domid: *domid,
            read: true,
            write: *write,
        };
        Permissions::new(list.iter().map(one).collect())
    }

    #[test]
    fn what_a_guest_owns_or_may_write_is_not_dom0s_alone() {
        // As libxl makes /local/domain/5 and /vm/UUID: dom0's, and the guest reads.
        assert!(permissions(&[(0, false), (5, false)]).is_dom0_alone());
        assert!(permissions(&[(0, false), (0, true)]).is_dom0_alone());
        // As it makes /local/domain/5/data: the guest's.
        assert!(!permissions(&[(5, false)]).is_dom0_alone());
        assert!(!permissions(&[(0, false), (5, true)]).is_dom0_alone());
        assert!(!permissions(&[(0, true)]).is_dom0_alone());
        assert!(!permissions(&[]).is_dom0_alone());
    }
}
