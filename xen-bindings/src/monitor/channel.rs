// SPDX-License-Identifier: GPL-3.0-only
//! The event channel that tells of new requests and carries "answered" back.

use std::{
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    ptr::{self, NonNull},
};

use crate::{DomId, XenError, sys};

/// A bound event channel, unbound when dropped.
pub(super) struct Channel {
    handle: NonNull<sys::xenevtchn_handle>,
    domid: DomId,
    port: u32,
}

// SAFETY: the library keeps no thread-local state for a handle.
unsafe impl Send for Channel {}

impl Channel {
    /// Binds to `remote_port` of the domain.
    pub(super) fn bind(domid: DomId, remote_port: u32) -> Result<Self, XenError> {
        // SAFETY: no logger, no flags; the handle is checked.
        let handle = NonNull::new(unsafe { sys::xenevtchn_open(ptr::null_mut(), 0) })
            .ok_or_else(|| XenError::last_os("xenevtchn_open", None))?;
        // SAFETY: the handle is live.
        let port = unsafe { sys::xenevtchn_bind_interdomain(handle.as_ptr(), domid, remote_port) };
        let Ok(port) = u32::try_from(port) else {
            let error = XenError::last_os("xenevtchn_bind_interdomain", Some(domid));
            // SAFETY: opened above, not used after.
            unsafe { sys::xenevtchn_close(handle.as_ptr()) };
            return Err(error);
        };
        Ok(Self { handle, domid, port })
    }

    /// Tells Xen that an answer is on the ring.
    pub(super) fn notify(&self) -> Result<(), XenError> {
        // SAFETY: the handle is live and the port is bound to it.
        match unsafe { sys::xenevtchn_notify(self.handle.as_ptr(), self.port) } {
            0 => Ok(()),
            _ => Err(XenError::last_os("xenevtchn_notify", Some(self.domid))),
        }
    }

    /// Takes the pending state, so that the descriptor becomes unreadable until
    /// the next notification. Call it only when the descriptor is readable: it
    /// blocks otherwise.
    pub(super) fn acknowledge(&self) -> Result<(), XenError> {
        // SAFETY: the handle is live.
        let port = unsafe { sys::xenevtchn_pending(self.handle.as_ptr()) };
        let port =
            u32::try_from(port).map_err(|_| XenError::last_os("xenevtchn_pending", Some(self.domid)))?;
        // SAFETY: as above; the port came from the library.
        match unsafe { sys::xenevtchn_unmask(self.handle.as_ptr(), port) } {
            0 => Ok(()),
            _ => Err(XenError::last_os("xenevtchn_unmask", Some(self.domid))),
        }
    }

    /// The descriptor to wait on.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the library keeps the descriptor open as long as the handle.
        unsafe { BorrowedFd::borrow_raw(self.as_raw_fd()) }
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        // SAFETY: the handle is live.
        unsafe { sys::xenevtchn_fd(self.handle.as_ptr()) }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: opened and bound in `bind`; not used after.
        unsafe {
            sys::xenevtchn_unbind(self.handle.as_ptr(), self.port);
            sys::xenevtchn_close(self.handle.as_ptr());
        }
    }
}
