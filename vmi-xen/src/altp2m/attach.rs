// SPDX-License-Identifier: GPL-3.0-only
//! Setting a domain up for probes: each step on record before it is made.

use xen_bindings::{
    DomId, Xen, altp2m,
    domain::{self, DomainInfo},
    memory,
    monitor::{self, Monitor},
    version::Version,
};

use super::{
    EngineError,
    record::{SHADOW_SLOTS, UndoRecord},
    undo,
};

/// Frames by which the shadow area is aligned: one leaf table of the EPT, which
/// then serves nothing else.
const AREA_ALIGN: u64 = 512;
/// Pages the domain may have in addition while attached: the shadows, and the
/// ring, which is taken from the domain's allowance too.
const EXTRA_PAGES: u64 = SHADOW_SLOTS as u64 + 1;

/// A domain that is set up: on our view, events enabled, no probe yet.
pub(super) struct Attached {
    pub monitor: Monitor,
    pub view: u16,
    pub vcpus: u32,
}

/// Sets the domain up. On an error, whatever was done is undone.
pub(super) fn attach(xen: &Xen, domid: DomId, record: &mut UndoRecord) -> Result<Attached, EngineError> {
    // A predecessor may have died; its remains must go first.
    undo(xen, record)?;
    let info = check(xen, domid)?;
    begin(xen, record, &info)?;
    set_up(xen, domid, record, &info).inspect_err(|_| {
        if let Err(error) = undo(xen, record) {
            log::error!("domain {domid}: undoing a failed attach: {error}");
        }
    })
}

/// A domain whose events can be watched by any engine.
pub(crate) fn watchable(xen: &Xen, domid: DomId) -> Result<DomainInfo, EngineError> {
    let info = domain::info(xen, domid)?
        .filter(|info| !info.dying && info.shutdown.is_none())
        .ok_or(EngineError::Gone(domid))?;
    if !info.hvm || !info.hap {
        return Err(EngineError::NotHvm(domid));
    }
    // With more, vCPUs could be queueing for the ring when its owner dies, and Xen then lets nobody disable it.
    if info.vcpus > monitor::SLOTS {
        return Err(EngineError::TooManyVcpus {
            domid,
            vcpus: info.vcpus,
        });
    }
    if info.paused {
        return Err(EngineError::Paused(domid));
    }
    Ok(info)
}

/// Whether the domain can be watched at all, and by us. Changes nothing but the
/// mode of a domain created without altp2m, where Xen still allows that.
fn check(xen: &Xen, domid: DomId) -> Result<DomainInfo, EngineError> {
    let info = watchable(xen, domid)?;
    let unsupported = |source| EngineError::Unsupported {
        domid,
        // Where even that is not known, do not blame the command line.
        requested: Version::query(xen).is_ok_and(|version| version.altp2m_requested()),
        source,
    };
    // Asked before the mode: on a host without altp2m the domain's mode is not to blame. What else may be the matter (a domain
    // whose mode is "disabled" is refused too) shows below.
    if let Err(error) = altp2m::active(xen, domid)
        && error.is_unsupported()
    {
        return Err(unsupported(error));
    }
    if altp2m::mode(xen, domid)? == altp2m::Mode::Disabled {
        altp2m::set_mode_external(xen, domid).map_err(|source| EngineError::ModeFixed { domid, source })?;
    }
    let active = altp2m::active(xen, domid).map_err(unsupported)?;
    if active {
        return Err(EngineError::InUse(domid));
    }
    if monitor::is_enabled(xen, domid)? {
        return Err(EngineError::Busy(domid));
    }
    Ok(info)
}

/// Starts the record of this attachment.
fn begin(xen: &Xen, record: &mut UndoRecord, info: &DomainInfo) -> Result<(), EngineError> {
    let known = record.applied();
    let shadow_base = if known.uuid == info.uuid && known.shadow_base != 0 {
        known.shadow_base
    } else {
        (memory::highest_gfn(xen, info.domid)? + 1).next_multiple_of(AREA_ALIGN)
    };
    record.update(|applied| {
        *applied = Default::default();
        applied.uuid = info.uuid;
        applied.shadow_base = shadow_base;
        applied.dirty = true;
    })?;
    Ok(())
}

fn set_up(
    xen: &Xen,
    domid: DomId,
    record: &mut UndoRecord,
    info: &DomainInfo,
) -> Result<Attached, EngineError> {
    let raised = info.max_pages + EXTRA_PAGES;
    record.update(|applied| {
        applied.max_pages_before = info.max_pages;
        applied.max_pages_raised = raised;
    })?;
    domain::set_max_pages(xen, domid, raised)?;

    let monitor = enable_events(xen, domid, record)?;
    record.update(|applied| applied.altp2m = true)?;
    altp2m::set_active(xen, domid, true)?;
    let view = altp2m::create_view(xen, domid)?;
    monitor.set_software_breakpoint(true)?;
    monitor.set_singlestep(true)?;
    altp2m::switch_to(xen, domid, view)?;
    Ok(Attached {
        monitor,
        view,
        vcpus: info.vcpus,
    })
}

/// Sets the ring up, on record.
pub(crate) fn enable_events(
    xen: &Xen,
    domid: DomId,
    record: &mut UndoRecord,
) -> Result<Monitor, EngineError> {
    // libxenctrl pauses and unpauses the domain while it sets the ring up.
    record.update(|applied| {
        applied.monitor = true;
        applied.pauses = 1;
    })?;
    let monitor = Monitor::enable(xen, domid);
    record.update(|applied| applied.pauses = 0)?;
    match monitor {
        Ok(monitor) => Ok(monitor),
        Err(error) => {
            // Not ours, then: undoing must leave the other's ring alone.
            record.update(|applied| applied.monitor = false)?;
            Err(if error.is_busy() {
                EngineError::Busy(domid)
            } else {
                error.into()
            })
        }
    }
}
