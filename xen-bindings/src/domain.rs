// SPDX-License-Identifier: GPL-3.0-only
//! Domains: what exists, in which state, and pausing.

use xenctrl_sys::{self as xc, xc_domaininfo_t};

use crate::{DomId, Xen, XenError, sys};

/// Domains asked for in one hypercall by [`list`].
const LIST_BATCH: usize = 256;

/// Why a domain shut down, as the toolstack acts on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownReason {
    /// Powered off in an orderly way.
    Poweroff,
    /// Asked to be rebooted: the toolstack builds a new domain.
    Reboot,
    /// Suspended, for saving or migration.
    Suspend,
    /// The guest crashed.
    Crash,
    /// A watchdog expired.
    Watchdog,
    /// Soft reset: the same domain starts again.
    SoftReset,
    /// A reason that this version does not know.
    Other(u8),
}

impl ShutdownReason {
    fn from_code(code: u32) -> Self {
        match code {
            xc::SHUTDOWN_poweroff => Self::Poweroff,
            xc::SHUTDOWN_reboot => Self::Reboot,
            xc::SHUTDOWN_suspend => Self::Suspend,
            xc::SHUTDOWN_crash => Self::Crash,
            xc::SHUTDOWN_watchdog => Self::Watchdog,
            xc::SHUTDOWN_soft_reset => Self::SoftReset,
            // The field is eight bits wide.
            other => Self::Other((other & 0xff) as u8),
        }
    }
}

/// How a domain is virtualised, in the words of `type=` in xl.cfg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DomainType {
    /// Paravirtualised.
    Pv,
    /// With hardware virtualisation and no emulated devices.
    Pvh,
    /// With hardware virtualisation and the devices of a PC.
    Hvm,
}

/// State of one domain at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainInfo {
    /// Its number.
    pub domid: DomId,
    /// Its UUID, which tells apart two domains that had the same number.
    pub uuid: [u8; 16],
    /// HVM or PVH: has hardware virtualisation, so it can be watched.
    pub hvm: bool,
    /// Which of the two, or neither.
    pub domain_type: DomainType,
    /// Number of its pool of processors; `None`: it is in none.
    pub pool: Option<u32>,
    /// Uses hardware-assisted paging.
    pub hap: bool,
    /// Paused by a toolstack.
    pub paused: bool,
    /// Being destroyed.
    pub dying: bool,
    /// Shut down but not destroyed yet, and why.
    pub shutdown: Option<ShutdownReason>,
    /// Number of its vCPUs, online or not.
    pub vcpus: u32,
    /// Pages it has now.
    pub tot_pages: u64,
    /// Pages it may have at most.
    pub max_pages: u64,
}

impl DomainInfo {
    fn from_raw(raw: &xc_domaininfo_t) -> Self {
        let flag = |bit: u32| raw.flags & bit != 0;
        let code = (raw.flags >> xc::XEN_DOMINF_shutdownshift) & xc::XEN_DOMINF_shutdownmask;
        Self {
            domid: DomId::from(raw.domain),
            uuid: raw.handle,
            hvm: flag(xc::XEN_DOMINF_hvm_guest),
            domain_type: match (flag(xc::XEN_DOMINF_hvm_guest), raw.arch_config.emulation_flags) {
                (false, _) => DomainType::Pv,
                // libxl asks for no more than this for PVH, and for all that a PC has for HVM.
                (true, flags) if flags & !sys::XEN_X86_EMU_LAPIC == 0 => DomainType::Pvh,
                (true, _) => DomainType::Hvm,
            },
            // XEN_DOMCTL's word for none is all ones.
            pool: Some(raw.cpupool).filter(|pool| *pool != u32::MAX),
            hap: flag(xc::XEN_DOMINF_hap),
            paused: flag(xc::XEN_DOMINF_paused),
            dying: flag(xc::XEN_DOMINF_dying),
            shutdown: flag(xc::XEN_DOMINF_shutdown).then(|| ShutdownReason::from_code(code)),
            // A domain without vCPUs reports an all-ones highest id.
            vcpus: raw.max_vcpu_id.wrapping_add(1),
            tot_pages: raw.tot_pages,
            max_pages: raw.max_pages,
        }
    }
}

/// Up to `batch.len()` domains with numbers from `first` on.
fn list_from(xen: &Xen, first: DomId, batch: &mut [xc_domaininfo_t]) -> Result<usize, XenError> {
    // `batch` is far smaller than u32::MAX.
    let wanted = batch.len() as u32;
    let count = xen.call("xc_domain_getinfolist", None, |handle| {
        // SAFETY: the library writes at most `wanted` records into `batch`.
        unsafe { xc::xc_domain_getinfolist(handle, first, wanted, batch.as_mut_ptr()) }
    })?;
    Ok(usize::try_from(count).unwrap_or(0).min(batch.len()))
}

/// All domains, dom0 included, in the order of their numbers.
///
/// # Errors
/// Where the hypercall is refused.
pub fn list(xen: &Xen) -> Result<Vec<DomainInfo>, XenError> {
    let mut all = Vec::new();
    let mut batch = vec![xc_domaininfo_t::default(); LIST_BATCH];
    let mut first = 0;
    loop {
        let count = list_from(xen, first, &mut batch)?;
        all.extend(batch[..count].iter().map(DomainInfo::from_raw));
        match batch[..count].last() {
            Some(last) if count == batch.len() => first = DomId::from(last.domain) + 1,
            _ => return Ok(all),
        }
    }
}

/// One domain; `None` where it does not exist.
///
/// # Errors
/// Where the hypercall is refused.
pub fn info(xen: &Xen, domid: DomId) -> Result<Option<DomainInfo>, XenError> {
    let mut one = [xc_domaininfo_t::default()];
    let count = list_from(xen, domid, &mut one)?;
    // The call answers with the next domain where this one is missing.
    Ok((count == 1 && DomId::from(one[0].domain) == domid).then(|| DomainInfo::from_raw(&one[0])))
}

/// Adds one to the domain's toolstack pause count. Returns when no vCPU runs.
///
/// # Errors
/// Where the domain does not exist.
pub fn pause(xen: &Xen, domid: DomId) -> Result<(), XenError> {
    xen.call("xc_domain_pause", Some(domid), |handle| {
        // SAFETY: a plain hypercall on a live handle.
        unsafe { xc::xc_domain_pause(handle, domid) }
    })?;
    Ok(())
}

/// Takes one from the domain's toolstack pause count.
///
/// # Errors
/// Where the domain does not exist or its count is zero.
pub fn unpause(xen: &Xen, domid: DomId) -> Result<(), XenError> {
    xen.call("xc_domain_unpause", Some(domid), |handle| {
        // SAFETY: a plain hypercall on a live handle.
        unsafe { xc::xc_domain_unpause(handle, domid) }
    })?;
    Ok(())
}

/// Keeps a domain paused as long as it lives.
///
/// Pauses count: the domain runs again when this guard and all other pauses
/// (an administrator's `xl pause` too) are gone.
#[must_use = "the domain runs on as soon as the guard is dropped"]
pub struct PauseGuard {
    xen: Xen,
    domid: DomId,
}

impl PauseGuard {
    /// Pauses the domain.
    ///
    /// # Errors
    /// Where the domain does not exist.
    pub fn new(xen: &Xen, domid: DomId) -> Result<Self, XenError> {
        pause(xen, domid)?;
        Ok(Self {
            xen: xen.clone(),
            domid,
        })
    }
}

impl Drop for PauseGuard {
    fn drop(&mut self) {
        // Fails only for a domain that is gone, which needs no unpausing.
        let _ = unpause(&self.xen, self.domid);
    }
}

/// Sets the most memory the domain may have, in pages.
///
/// # Errors
/// Where the domain does not exist.
pub fn set_max_pages(xen: &Xen, domid: DomId, pages: u64) -> Result<(), XenError> {
    const KIB_PER_PAGE: u64 = (crate::PAGE_SIZE / 1024) as u64;
    xen.call("xc_domain_setmaxmem", Some(domid), |handle| {
        // SAFETY: a plain hypercall on a live handle.
        unsafe { xc::xc_domain_setmaxmem(handle, domid, pages.saturating_mul(KIB_PER_PAGE)) }
    })?;
    Ok(())
}

/// Ends single-stepping of one vCPU, also one that a dead monitor left on.
///
/// # Errors
/// Where the vCPU does not exist.
pub fn stop_singlestep(xen: &Xen, domid: DomId, vcpu: u32) -> Result<(), XenError> {
    xen.call("xc_domain_debug_control", Some(domid), |handle| {
        // SAFETY: a plain hypercall on a live handle.
        unsafe { xc::xc_domain_debug_control(handle, domid, xc::XEN_DOMCTL_DEBUG_OP_SINGLE_STEP_OFF, vcpu) }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_decoded() {
        let raw = xc_domaininfo_t {
            domain: 5,
            flags: xc::XEN_DOMINF_hvm_guest
                | xc::XEN_DOMINF_shutdown
                | (xc::SHUTDOWN_crash << xc::XEN_DOMINF_shutdownshift),
            max_vcpu_id: 3,
            ..xc_domaininfo_t::default()
        };
        let info = DomainInfo::from_raw(&raw);
        assert!(info.hvm && !info.paused && !info.dying);
        assert_eq!(info.shutdown, Some(ShutdownReason::Crash));
        assert_eq!((info.domid, info.vcpus), (5, 4));
    }

    #[test]
    fn the_type_is_what_is_emulated() {
        let of = |flags, emulation_flags| {
            let mut raw = xc_domaininfo_t {
                flags,
                ..xc_domaininfo_t::default()
            };
            raw.arch_config.emulation_flags = emulation_flags;
            DomainInfo::from_raw(&raw).domain_type
        };
        assert_eq!(of(0, 0), DomainType::Pv);
        assert_eq!(
            of(xc::XEN_DOMINF_hvm_guest, sys::XEN_X86_EMU_LAPIC),
            DomainType::Pvh
        );
        let pc = sys::XEN_X86_EMU_LAPIC | sys::XEN_X86_EMU_HPET | sys::XEN_X86_EMU_PM;
        assert_eq!(of(xc::XEN_DOMINF_hvm_guest, pc), DomainType::Hvm);
    }

    #[test]
    fn a_domain_without_vcpus_has_none() {
        let raw = xc_domaininfo_t {
            max_vcpu_id: u32::MAX,
            ..xc_domaininfo_t::default()
        };
        assert_eq!(DomainInfo::from_raw(&raw).vcpus, 0);
    }
}
