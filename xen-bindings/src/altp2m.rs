// SPDX-License-Identifier: GPL-3.0-only
//! Alternate views of a domain's physical memory.
//!
//! View 0 is the domain's own map. Plain functions, no guards: what they change
//! must be undone even when this process is killed, so the caller keeps a
//! record that another process can act on.

use xenctrl_sys as xc;

use crate::{DomId, Gfn, Xen, XenError, sys};

/// How a domain was allowed to use altp2m when it was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Not at all: the default of `xl`.
    Disabled,
    /// Both the guest and dom0 may use it.
    Mixed,
    /// Only dom0 may use it: what introspection wants.
    External,
    /// The guest may use it in part.
    Limited,
    /// A value that this version does not know.
    Other(u64),
}

/// What may be done with a page in a view without an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anything.
    ReadWriteExecute,
    /// Writing raises an event.
    ReadExecute,
    /// Reading and writing raise an event. Needs EPT execute-only pages.
    ExecuteOnly,
}

impl Access {
    fn raw(self) -> xc::xenmem_access_t {
        match self {
            Self::ReadWriteExecute => xc::xenmem_access_t::XENMEM_access_rwx,
            Self::ReadExecute => xc::xenmem_access_t::XENMEM_access_rx,
            Self::ExecuteOnly => xc::xenmem_access_t::XENMEM_access_x,
        }
    }
}

/// Asks how the domain may use altp2m.
///
/// # Errors
/// Where the domain does not exist or is not HVM or PVH.
pub fn mode(xen: &Xen, domid: DomId) -> Result<Mode, XenError> {
    let mut value = 0;
    xen.call("xc_hvm_param_get(ALTP2M)", Some(domid), |handle| {
        // SAFETY: `value` outlives the call.
        unsafe { xc::xc_hvm_param_get(handle, domid, sys::HVM_PARAM_ALTP2M, &mut value) }
    })?;
    Ok(match u32::try_from(value) {
        Ok(sys::XEN_ALTP2M_disabled) => Mode::Disabled,
        Ok(sys::XEN_ALTP2M_mixed) => Mode::Mixed,
        Ok(sys::XEN_ALTP2M_external) => Mode::External,
        Ok(sys::XEN_ALTP2M_limited) => Mode::Limited,
        _ => Mode::Other(value),
    })
}

/// Allows dom0 to use altp2m on a domain that was created without it. Cannot be
/// taken back, and changes nothing for the guest.
///
/// # Errors
/// EEXIST or EINVAL from Xen 4.19 on, where the mode is fixed at creation.
pub fn set_mode_external(xen: &Xen, domid: DomId) -> Result<(), XenError> {
    xen.call("xc_hvm_param_set(ALTP2M)", Some(domid), |handle| {
        // SAFETY: a plain hypercall on a live handle.
        unsafe {
            xc::xc_hvm_param_set(
                handle,
                domid,
                sys::HVM_PARAM_ALTP2M,
                u64::from(sys::XEN_ALTP2M_external),
            )
        }
    })?;
    Ok(())
}

/// Whether altp2m is switched on for the domain.
///
/// # Errors
/// Where the hypervisor or the domain does not support it.
pub fn active(xen: &Xen, domid: DomId) -> Result<bool, XenError> {
    let mut state = false;
    xen.call("xc_altp2m_get_domain_state", Some(domid), |handle| {
        // SAFETY: `state` outlives the call; the library writes 0 or 1.
        unsafe { xc::xc_altp2m_get_domain_state(handle, domid, &mut state) }
    })?;
    Ok(state)
}

/// Switches altp2m on or off. Off destroys all views and puts every vCPU back
/// on the domain's own map.
///
/// # Errors
/// Where the hypervisor or the domain does not support it.
pub fn set_active(xen: &Xen, domid: DomId, on: bool) -> Result<(), XenError> {
    xen.call("xc_altp2m_set_domain_state", Some(domid), |handle| {
        // SAFETY: a plain hypercall on a live handle.
        unsafe { xc::xc_altp2m_set_domain_state(handle, domid, on) }
    })?;
    Ok(())
}

/// Makes a view that shows the domain's own map, and returns its number.
///
/// # Errors
/// Where altp2m is not active, or there are too many views.
pub fn create_view(xen: &Xen, domid: DomId) -> Result<u16, XenError> {
    let mut view = 0;
    xen.call("xc_altp2m_create_view", Some(domid), |handle| {
        // SAFETY: `view` outlives the call.
        unsafe { xc::xc_altp2m_create_view(handle, domid, xc::xenmem_access_t::XENMEM_access_rwx, &mut view) }
    })?;
    Ok(view)
}

/// Destroys a view that no vCPU is on.
///
/// # Errors
/// EBUSY where a vCPU uses it or it does not exist.
pub fn destroy_view(xen: &Xen, domid: DomId, view: u16) -> Result<(), XenError> {
    xen.call("xc_altp2m_destroy_view", Some(domid), |handle| {
        // SAFETY: a plain hypercall on a live handle.
        unsafe { xc::xc_altp2m_destroy_view(handle, domid, view) }
    })?;
    Ok(())
}

/// Puts every vCPU of the domain on `view`.
///
/// # Errors
/// Where the view does not exist.
pub fn switch_to(xen: &Xen, domid: DomId, view: u16) -> Result<(), XenError> {
    xen.call("xc_altp2m_switch_to_view", Some(domid), |handle| {
        // SAFETY: a plain hypercall on a live handle.
        unsafe { xc::xc_altp2m_switch_to_view(handle, domid, view) }
    })?;
    Ok(())
}

/// Shows the page of `shadow` at `gfn` in `view`; `None` shows the domain's own
/// page again. Resets the access of the page to that of `shadow`.
///
/// # Errors
/// Where the view or a page does not exist.
pub fn remap(xen: &Xen, domid: DomId, view: u16, gfn: Gfn, shadow: Option<Gfn>) -> Result<(), XenError> {
    /// Asks Xen to drop the remapping.
    const INVALID_GFN: Gfn = Gfn::MAX;
    xen.call("xc_altp2m_change_gfn", Some(domid), |handle| {
        // SAFETY: a plain hypercall on a live handle.
        unsafe { xc::xc_altp2m_change_gfn(handle, domid, view, gfn, shadow.unwrap_or(INVALID_GFN)) }
    })?;
    Ok(())
}

/// Sets the access of one page of a view. Must follow [`remap`], not precede it.
///
/// # Errors
/// Where the view does not exist.
pub fn set_access(xen: &Xen, domid: DomId, view: u16, gfn: Gfn, access: Access) -> Result<(), XenError> {
    xen.call("xc_altp2m_set_mem_access", Some(domid), |handle| {
        // SAFETY: a plain hypercall on a live handle.
        unsafe { xc::xc_altp2m_set_mem_access(handle, domid, view, gfn, access.raw()) }
    })?;
    Ok(())
}

/// Sets the access of many pages of a view in one hypercall.
///
/// # Errors
/// Where the view does not exist; some pages may be set by then.
pub fn set_access_multi(
    xen: &Xen,
    domid: DomId,
    view: u16,
    gfns: &[Gfn],
    access: Access,
) -> Result<(), XenError> {
    let count = u32::try_from(gfns.len())
        .map_err(|_| XenError::from_errno("xc_altp2m_set_mem_access_multi", Some(domid), libc::E2BIG))?;
    let mut gfns = gfns.to_vec();
    // The values of the enumeration fit a byte.
    let mut accesses = vec![access.raw() as u8; gfns.len()];
    xen.call("xc_altp2m_set_mem_access_multi", Some(domid), |handle| {
        // SAFETY: both arrays have `count` elements.
        unsafe {
            xc::xc_altp2m_set_mem_access_multi(
                handle,
                domid,
                view,
                accesses.as_mut_ptr(),
                gfns.as_mut_ptr(),
                count,
            )
        }
    })?;
    Ok(())
}

/// Whether `gfn` has exactly this access in `view`. Tells a remapping that Xen
/// dropped (after ballooning or log-dirty mode) from one that is in force.
///
/// # Errors
/// Where the view does not exist.
pub fn has_access(xen: &Xen, domid: DomId, view: u16, gfn: Gfn, access: Access) -> Result<bool, XenError> {
    // Not read as the generated Rust enum: a value outside of it would be
    // undefined behaviour.
    let mut value = std::mem::MaybeUninit::<xc::xenmem_access_t>::zeroed();
    let result = xen.call("xc_altp2m_get_mem_access", Some(domid), |handle| {
        // SAFETY: the pointer is valid for a write of this type.
        unsafe { xc::xc_altp2m_get_mem_access(handle, domid, view, gfn, value.as_mut_ptr()) }
    });
    match result {
        Ok(_) => {}
        // The view has no entry of its own for the page.
        Err(error) if error.errno() == libc::ESRCH => return Ok(false),
        Err(error) => return Err(error),
    }
    // SAFETY: initialised by `zeroed`; a C enum is as large as u32.
    let raw = unsafe { value.as_ptr().cast::<u32>().read() };
    Ok(raw == access.raw() as u32)
}
