// SPDX-License-Identifier: GPL-3.0-only
//! One error type for all calls into Xen's libraries.

use std::{fmt, io};

use thiserror::Error;

use crate::DomId;

/// A call into Xen's libraries failed. The text names the call, the domain,
/// what the hypervisor said and, where it is known, what to do about it.
#[derive(Debug, Error)]
#[error("{call}{}: {source}{}", OnDomain(*domid), Remedy { call, source })]
pub struct XenError {
    /// The library function or the step of it.
    pub call: &'static str,
    /// The domain that it was about.
    pub domid: Option<DomId>,
    /// What the hypervisor or the kernel answered.
    #[source]
    pub source: io::Error,
}

impl XenError {
    /// An error of `call` from the calling thread's errno.
    pub(crate) fn last_os(call: &'static str, domid: Option<DomId>) -> Self {
        Self {
            call,
            domid,
            source: io::Error::last_os_error(),
        }
    }

    /// An error of `call` with a given errno.
    pub(crate) fn from_errno(call: &'static str, domid: Option<DomId>, errno: i32) -> Self {
        Self {
            call,
            domid,
            source: io::Error::from_raw_os_error(errno),
        }
    }

    /// The errno that was answered, or 0 where there was none.
    pub fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(0)
    }

    /// Whether the domain does not exist (any more).
    pub fn is_gone(&self) -> bool {
        self.errno() == libc::ESRCH
    }

    /// Whether host and hypervisor cannot do this at all.
    pub fn is_unsupported(&self) -> bool {
        matches!(self.errno(), libc::EOPNOTSUPP | libc::ENODEV)
    }

    /// Whether another monitor holds the domain's event ring, or vCPUs are
    /// still queued on it.
    pub fn is_busy(&self) -> bool {
        self.errno() == libc::EBUSY
    }
}

struct OnDomain(Option<DomId>);

impl fmt::Display for OnDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(domid) => write!(f, " on domain {domid}"),
            None => Ok(()),
        }
    }
}

struct Remedy<'a> {
    call: &'a str,
    source: &'a io::Error,
}

impl fmt::Display for Remedy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = remedy(self.call, self.source.raw_os_error().unwrap_or(0));
        if text.is_empty() {
            return Ok(());
        }
        write!(f, " ({text})")
    }
}

/// What the user can do about `errno` from `call`; empty where nothing is known.
fn remedy(call: &str, errno: i32) -> &'static str {
    let altp2m = call.starts_with("xc_altp2m");
    let monitor = call.starts_with("xc_monitor");
    match errno {
        libc::EPERM | libc::EACCES => "only root in dom0 may do this, and an XSM policy must not forbid it",
        libc::ENOENT if call.ends_with("_open") => {
            "is this dom0 of a running Xen, with xen-privcmd and xen-evtchn loaded?"
        }
        libc::ESRCH => "the domain does not exist",
        libc::ENODEV | libc::EOPNOTSUPP if altp2m || monitor => {
            "needs Intel VMX with EPT, `altp2m=1` on Xen's command line and an HVM or PVH domain \
             with hap=1; AMD has no altp2m"
        }
        libc::EINVAL if altp2m => {
            "the domain needs altp2m=\"external\" in its xl configuration and no nested \
             virtualisation"
        }
        libc::EBUSY if monitor => "another monitor is attached to the domain, or one died without detaching",
        libc::ENOMEM => "out of memory: raise the domain's shadow_memory, or free memory of Xen's heap",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_names_call_domain_cause_and_remedy() {
        let error = XenError::from_errno("xc_monitor_enable", Some(7), libc::EBUSY);
        let text = error.to_string();
        assert!(text.starts_with("xc_monitor_enable on domain 7: "), "{text}");
        assert!(text.contains("another monitor"), "{text}");
        assert!(error.is_busy() && !error.is_gone());
    }

    #[test]
    fn no_empty_parentheses_where_no_remedy_is_known() {
        let error = XenError::from_errno("xc_version", None, libc::EIO);
        assert!(!error.to_string().contains("()"));
    }
}
