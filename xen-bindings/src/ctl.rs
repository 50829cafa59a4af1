// SPDX-License-Identifier: GPL-3.0-only
//! The connection to the hypervisor: libxenctrl and its helpers, opened once
//! and shared by all handles that are made from it.
//!
//! **Invariant:** only this module and its callers in this crate touch
//! libxenctrl, the one library whose soname follows the Xen release.

use std::{
    os::raw::c_int,
    ptr::{self, NonNull},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use xenctrl_sys::xc_interface;

use crate::{DomId, XenError, sys};

/// A connection to the hypervisor. Cheap to clone; clones share the connection.
///
/// Calls on clones take turns. A thread that must not wait for others (the
/// trap path) opens its own.
#[derive(Clone)]
pub struct Xen {
    inner: Arc<Inner>,
}

struct Inner {
    handles: Mutex<Handles>,
}

struct Handles {
    xc: NonNull<xc_interface>,
    foreign: NonNull<sys::xenforeignmemory_handle>,
    /// Last, so that it outlives the two libraries that log to it.
    _logger: Logger,
}

// SAFETY: the libraries keep no thread-local state for a handle; using one from
// another thread than the one that opened it is what their manuals allow. That
// calls do not overlap is ensured by the mutex around.
unsafe impl Send for Handles {}

impl Xen {
    /// Opens `/dev/xen/privcmd` and what else libxenctrl needs.
    ///
    /// # Errors
    /// Where this is not dom0, the caller is not root, or xen-privcmd is absent.
    pub fn open() -> Result<Self, XenError> {
        let logger = Logger::quiet();
        // SAFETY: a null or a live logger are both valid; the returned handle is
        // checked for null.
        let xc = unsafe {
            xenctrl_sys::xc_interface_open(
                logger.logger.cast::<xenctrl_sys::xentoollog_logger>(),
                ptr::null_mut(),
                0,
            )
        };
        let Some(xc) = NonNull::new(xc) else {
            return Err(XenError::last_os("xc_interface_open", None));
        };
        // SAFETY: as above.
        let foreign = unsafe { sys::xenforeignmemory_open(logger.logger, 0) };
        let Some(foreign) = NonNull::new(foreign) else {
            let error = XenError::last_os("xenforeignmemory_open", None);
            // SAFETY: opened above and not used after.
            unsafe { xenctrl_sys::xc_interface_close(xc.as_ptr()) };
            return Err(error);
        };
        Ok(Self {
            inner: Arc::new(Inner {
                handles: Mutex::new(Handles {
                    xc,
                    foreign,
                    _logger: logger,
                }),
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Handles> {
        // The handles stay valid whatever a panicking holder did.
        self.inner.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one libxenctrl call; a negative result becomes an error from errno.
    pub(crate) fn call(
        &self,
        call: &'static str,
        domid: Option<DomId>,
        f: impl FnOnce(*mut xc_interface) -> c_int,
    ) -> Result<c_int, XenError> {
        let handles = self.lock();
        let result = f(handles.xc.as_ptr());
        if result < 0 {
            return Err(XenError::last_os(call, domid));
        }
        Ok(result)
    }

    /// Runs one libxenctrl call that returns a pointer, null on failure.
    pub(crate) fn call_ptr<T>(
        &self,
        call: &'static str,
        domid: Option<DomId>,
        f: impl FnOnce(*mut xc_interface) -> *mut T,
    ) -> Result<NonNull<T>, XenError> {
        let handles = self.lock();
        NonNull::new(f(handles.xc.as_ptr())).ok_or_else(|| XenError::last_os(call, domid))
    }

    /// Runs `f` with the handle of libxenforeignmemory.
    pub(crate) fn with_foreign<R>(&self, f: impl FnOnce(*mut sys::xenforeignmemory_handle) -> R) -> R {
        f(self.lock().foreign.as_ptr())
    }
}

impl Drop for Handles {
    fn drop(&mut self) {
        // SAFETY: opened in `Xen::open`, and this is the last owner.
        unsafe {
            sys::xenforeignmemory_close(self.foreign.as_ptr());
            xenctrl_sys::xc_interface_close(self.xc.as_ptr());
        }
    }
}

/// A logger for the libraries that stays silent below "critical": a failed call
/// is reported once, by the caller, through [`XenError`].
struct Logger {
    /// Null makes the libraries use their own logger, on stderr.
    logger: *mut sys::xentoollog_logger,
    stream: *mut libc::FILE,
}

impl Logger {
    const LOUD: Self = Self {
        logger: ptr::null_mut(),
        stream: ptr::null_mut(),
    };

    /// The quiet logger, or the libraries' own where that cannot be made.
    fn quiet() -> Self {
        // SAFETY: plain calls, each result is checked before it is used; the
        // stream stays open until after the logger is destroyed.
        unsafe {
            let fd = libc::fcntl(libc::STDERR_FILENO, libc::F_DUPFD_CLOEXEC, 3);
            if fd < 0 {
                return Self::LOUD;
            }
            let stream = libc::fdopen(fd, c"w".as_ptr());
            if stream.is_null() {
                libc::close(fd);
                return Self::LOUD;
            }
            let logger = sys::xtl_createlogger_stdiostream(
                stream.cast::<sys::FILE>(),
                sys::xentoollog_level_XTL_CRITICAL,
                0,
            );
            Self {
                logger: logger.cast::<sys::xentoollog_logger>(),
                stream,
            }
        }
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        // SAFETY: both were made by `quiet` and are owned by this value alone.
        unsafe {
            if !self.logger.is_null() {
                sys::xtl_logger_destroy(self.logger);
            }
            if !self.stream.is_null() {
                libc::fclose(self.stream);
            }
        }
    }
}
