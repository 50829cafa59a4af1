// SPDX-License-Identifier: GPL-3.0-only
//! vm_event: a domain's events, one ring per domain and one monitor per ring.
//!
//! **Invariant:** a vCPU that waits runs again only when its event is answered.
//! Disabling the ring does not release it; [`release_vcpus`] does.

mod channel;
mod event;
mod ring;

use std::{
    os::{fd::BorrowedFd, raw::c_int},
    ptr::NonNull,
};

use xenctrl_sys::{self as xc, xc_interface};

use crate::{DomId, PAGE_SIZE, Xen, XenError, sys};
use channel::Channel;
pub use event::{INSN_ROOM, Reason, Request, Response};
use ring::BackRing;
pub use ring::{RingError, SLOTS};

/// The monitor of a domain: its ring and its event channel. Dropping it
/// disables the ring; answer what is on it before.
pub struct Monitor {
    // Fields drop in this order, after `drop` below: the channel first, then the
    // page, which nothing writes to any more.
    channel: Option<Channel>,
    ring: BackRing,
    _page: RingPage,
    xen: Xen,
    domid: DomId,
}

/// The ring's page, mapped by libxenctrl.
struct RingPage(NonNull<u8>);

// SAFETY: owned memory of the process.
unsafe impl Send for RingPage {}

impl Drop for RingPage {
    fn drop(&mut self) {
        // SAFETY: one page, mapped by xc_monitor_enable, unused after.
        unsafe { libc::munmap(self.0.as_ptr().cast(), PAGE_SIZE) };
    }
}

impl Monitor {
    /// Becomes the monitor of the domain. The domain is paused meanwhile.
    ///
    /// # Errors
    /// EBUSY where another monitor is attached or died without detaching;
    /// ENODEV or EOPNOTSUPP where the hardware or Xen cannot do it.
    pub fn enable(xen: &Xen, domid: DomId) -> Result<Self, XenError> {
        let (page, ring, port) = enable_ring(xen, domid)?;
        let mut monitor = Self {
            channel: None,
            ring,
            _page: page,
            xen: xen.clone(),
            domid,
        };
        // On failure the drop of `monitor` disables the ring.
        monitor.channel = Some(Channel::bind(domid, port)?);
        Ok(monitor)
    }

    /// The domain that is watched.
    pub fn domid(&self) -> DomId {
        self.domid
    }

    /// The descriptor to wait on: readable when Xen has notified.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(Channel::fd)
    }

    /// Takes the notification that made the descriptor readable. Blocks where it
    /// is not readable.
    ///
    /// # Errors
    /// Where the event channel is broken.
    pub fn acknowledge(&self) -> Result<(), XenError> {
        self.channel.as_ref().map_or(Ok(()), Channel::acknowledge)
    }

    /// Number of events that wait.
    ///
    /// # Errors
    /// Where the ring is out of order.
    pub fn waiting(&self) -> Result<u32, RingError> {
        self.ring.waiting()
    }

    /// Takes the oldest event. It must be answered by [`Self::answer`].
    ///
    /// # Errors
    /// Where the ring is out of order.
    pub fn next_event(&mut self) -> Result<Option<Request>, RingError> {
        Ok(self.ring.take()?.map(|raw| Request { raw }))
    }

    /// Answers one event and tells Xen at once: answers kept back make vCPUs
    /// wait for each other.
    ///
    /// # Errors
    /// Where Xen cannot be notified: the answer is on the ring then, and the
    /// next notification carries it.
    pub fn answer(&mut self, response: &Response) -> Result<(), XenError> {
        self.ring.put(&response.raw);
        match &self.channel {
            Some(channel) => channel.notify(),
            None => process_answers(&self.xen, self.domid),
        }
    }

    /// Whether `int3` raises an event.
    ///
    /// # Errors
    /// EEXIST where it is so already.
    pub fn set_software_breakpoint(&self, on: bool) -> Result<(), XenError> {
        self.set("xc_monitor_software_breakpoint", |handle, domid| {
            // SAFETY: a plain hypercall on a live handle.
            unsafe { xc::xc_monitor_software_breakpoint(handle, domid, on) }
        })
    }

    /// Whether a single step raises an event.
    ///
    /// # Errors
    /// EEXIST where it is so already.
    pub fn set_singlestep(&self, on: bool) -> Result<(), XenError> {
        self.set("xc_monitor_singlestep", |handle, domid| {
            // SAFETY: a plain hypercall on a live handle.
            unsafe { xc::xc_monitor_singlestep(handle, domid, on) }
        })
    }

    fn set(
        &self,
        call: &'static str,
        f: impl FnOnce(*mut xc_interface, DomId) -> c_int,
    ) -> Result<(), XenError> {
        self.xen
            .call(call, Some(self.domid), |handle| f(handle, self.domid))?;
        Ok(())
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // Also turns off what was asked for. Fails only where the domain is gone
        // or vCPUs still queue for the ring; the undo record covers the latter.
        let _ = disable(&self.xen, self.domid);
    }
}

/// Enables the ring: its page, our end of it, and the port Xen notifies through.
fn enable_ring(xen: &Xen, domid: DomId) -> Result<(RingPage, BackRing, u32), XenError> {
    let mut port = 0;
    let page = xen.call_ptr("xc_monitor_enable", Some(domid), |handle| {
        // SAFETY: `port` outlives the call.
        unsafe { xc::xc_monitor_enable(handle, domid, &mut port) }
    })?;
    let page = RingPage(page.cast());
    // SAFETY: a fresh page that libxenctrl mapped writable; `RingPage` keeps it
    // mapped, and each caller drops the ring before it.
    let ring = unsafe { BackRing::start(page.0) };
    Ok((page, ring, port))
}

/// Disables the ring of a domain, and all monitoring with it, whoever enabled
/// it. Where there is none, nothing happens.
///
/// # Errors
/// EBUSY where vCPUs queue for a place on the ring: see [`release_vcpus`].
pub fn disable(xen: &Xen, domid: DomId) -> Result<(), XenError> {
    let result = xen.call("xc_monitor_disable", Some(domid), |handle| {
        // SAFETY: a plain hypercall on a live handle.
        unsafe { xc::xc_monitor_disable(handle, domid) }
    });
    match result {
        Err(error) if error.errno() == libc::EINVAL => Ok(()),
        other => other.map(drop),
    }
}

/// Whether the domain has a monitor, or the ring of one that died.
///
/// # Errors
/// Where the domain does not exist.
pub fn is_enabled(xen: &Xen, domid: DomId) -> Result<bool, XenError> {
    match process_answers(xen, domid) {
        Ok(()) => Ok(true),
        // What Xen answers where there is no ring to read answers from.
        Err(error) if error.errno() == libc::ENODEV => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes Xen read the answers on the ring, without an event channel.
fn process_answers(xen: &Xen, domid: DomId) -> Result<(), XenError> {
    xen.call("xc_monitor_resume", Some(domid), |handle| {
        // SAFETY: a plain hypercall on a live handle.
        unsafe { xc::xc_monitor_resume(handle, domid) }
    })?;
    Ok(())
}

/// Releases vCPUs that wait for answers to events that died with a monitor.
///
/// The ring must be disabled before ([`disable`]). A fresh ring is enabled for
/// the length of the call, and an answer is put for each vCPU; Xen
/// (`vm_event_resume`) ignores those for vCPUs that do not wait.
///
/// # Errors
/// Where the ring cannot be enabled; some vCPUs may still wait then.
pub fn release_vcpus(xen: &Xen, domid: DomId, vcpus: u32) -> Result<(), XenError> {
    let (page, ring, _port) = enable_ring(xen, domid)?;
    let mut monitor = Monitor {
        channel: None,
        ring,
        _page: page,
        xen: xen.clone(),
        domid,
    };
    for vcpu in 0..vcpus {
        // Without a channel each answer is processed by Xen before the next.
        monitor.answer(&Response::release(vcpu))?;
    }
    Ok(())
}

/// Raises `int3` in the guest, as if the vCPU had executed one of its own. For
/// an event that is not the monitor's; answer the event after.
///
/// # Errors
/// Where the vCPU has another exception pending.
pub fn inject_breakpoint(xen: &Xen, domid: DomId, vcpu: u32, kind: u8, length: u32) -> Result<(), XenError> {
    /// The vector of #BP.
    const BREAKPOINT: u8 = 3;
    /// The exception has no error code.
    const NO_ERROR_CODE: u32 = u32::MAX;
    xen.call("xendevicemodel_inject_event", Some(domid), |handle| {
        // Numbers of domains are 16 bits wide, those of vCPUs far below
        // i32::MAX, and an instruction is at most 15 bytes long.
        let (domid, vcpu, length) = (domid as u16, vcpu as c_int, length.min(15) as u8);
        // SAFETY: plain calls on a live handle; the second handle belongs to it.
        unsafe {
            sys::xendevicemodel_inject_event(
                xc::xc_interface_dmod_handle(handle).cast(),
                domid,
                vcpu,
                BREAKPOINT,
                kind,
                NO_ERROR_CODE,
                length,
                0,
            )
        }
    })?;
    Ok(())
}
