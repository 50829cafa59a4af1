// SPDX-License-Identifier: GPL-3.0-only
//! Being told of changes in xenstore instead of asking for them.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsFd, BorrowedFd},
    ptr::NonNull,
};

use super::StoreError;
use crate::sys;

/// xenstored fires this path when a domain was made known to it.
pub const INTRODUCE_DOMAIN: &str = "@introduceDomain";
/// xenstored fires this path when a domain shut down or was destroyed.
pub const RELEASE_DOMAIN: &str = "@releaseDomain";

/// Watches on xenstore paths, over a connection of their own.
pub struct Watch {
    handle: NonNull<sys::xs_handle>,
}

// SAFETY: the library locks its handle itself and keeps no thread-local state.
unsafe impl Send for Watch {}

impl Watch {
    /// Watches `paths` and all below them. Each fires once at the start, as
    /// xenstored does it for every new watch.
    ///
    /// # Errors
    /// Where xenstored cannot be reached or a path is refused.
    pub fn new(paths: &[&str]) -> Result<Self, StoreError> {
        // SAFETY: opens a connection; the handle is checked.
        let handle =
            NonNull::new(unsafe { sys::xs_open(0) }).ok_or_else(|| last_os("connect to", "xenstored"))?;
        let watch = Self { handle };
        for path in paths {
            watch.add(path)?;
        }
        Ok(watch)
    }

    /// Watches one more path and all below it, which need not exist. It fires once at the start.
    ///
    /// # Errors
    /// Where the path is refused, or watched already.
    pub fn add(&self, path: &str) -> Result<(), StoreError> {
        let text = c_path("watch", path)?;
        // SAFETY: the handle is live and both texts end in NUL.
        if unsafe { sys::xs_watch(self.handle.as_ptr(), text.as_ptr(), c"xmesh".as_ptr()) } {
            Ok(())
        } else {
            Err(last_os("watch", path))
        }
    }

    /// Watches a path no more. What it fired before may still come.
    ///
    /// # Errors
    /// Where it was not watched.
    pub fn remove(&self, path: &str) -> Result<(), StoreError> {
        let text = c_path("unwatch", path)?;
        // SAFETY: the handle is live and both texts end in NUL.
        match unsafe { sys::xs_unwatch(self.handle.as_ptr(), text.as_ptr(), c"xmesh".as_ptr()) } {
            true => Ok(()),
            false => Err(last_os("unwatch", path)),
        }
    }

    /// The path of the next change, `None` when all are taken. Does not block.
    ///
    /// # Errors
    /// Where the connection broke.
    pub fn next_change(&self) -> Result<Option<String>, StoreError> {
        // SAFETY: the handle is live.
        let Some(pair) = NonNull::new(unsafe { sys::xs_check_watch(self.handle.as_ptr()) }) else {
            let error = last_os("read watches of", "xenstored");
            return match error.source.kind() {
                io::ErrorKind::WouldBlock => Ok(None),
                _ => Err(error),
            };
        };
        // SAFETY: the library returns two valid C strings in one allocation,
        // which is the caller's to free.
        unsafe {
            let path = CStr::from_ptr(*pair.as_ptr()).to_string_lossy().into_owned();
            libc::free(pair.as_ptr().cast());
            Ok(Some(path))
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the library keeps the descriptor open as long as the handle.
        unsafe { BorrowedFd::borrow_raw(sys::xs_fileno(self.handle.as_ptr())) }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: opened in `new`, not used after.
        unsafe { sys::xs_close(self.handle.as_ptr()) };
    }
}

pub(super) fn c_path(action: &'static str, path: &str) -> Result<CString, StoreError> {
    CString::new(path).map_err(|source| StoreError {
        action,
        path: path.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidInput, source),
    })
}

pub(super) fn last_os(action: &'static str, path: &str) -> StoreError {
    StoreError {
        action,
        path: path.to_owned(),
        source: io::Error::last_os_error(),
    }
}
