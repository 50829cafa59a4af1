// SPDX-License-Identifier: GPL-3.0-only
//! Setting a domain up for breakpoints: each step on record before it is made.

use xen_bindings::{
    DomId, Xen,
    domain::{self, DomainInfo},
    monitor::{self, Monitor},
};

use crate::altp2m::{EngineError, UndoRecord, undo};

/// Sets the domain up: its int3s are events from then on. On an error, whatever was done is undone.
pub(super) fn attach(xen: &Xen, domid: DomId, record: &mut UndoRecord) -> Result<Monitor, EngineError> {
    // A predecessor may have died; its remains must go first.
    undo(xen, record)?;
    let info = check(xen, domid)?;
    record.update(|applied| {
        // Where the shadow area is stays known: an engine with altp2m may follow.
        let shadow_base = if applied.uuid == info.uuid {
            applied.shadow_base
        } else {
            0
        };
        *applied = Default::default();
        applied.shadow_base = shadow_base;
        applied.uuid = info.uuid;
        applied.dirty = true;
    })?;
    set_up(xen, domid, record).inspect_err(|_| {
        if let Err(error) = undo(xen, record) {
            log::error!("domain {domid}: undoing a failed attach: {error}");
        }
    })
}

/// Whether the domain can be watched at all, and by us.
fn check(xen: &Xen, domid: DomId) -> Result<DomainInfo, EngineError> {
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
    if monitor::is_enabled(xen, domid)? {
        return Err(EngineError::Busy(domid));
    }
    Ok(info)
}

fn set_up(xen: &Xen, domid: DomId, record: &mut UndoRecord) -> Result<Monitor, EngineError> {
    // libxenctrl pauses and unpauses the domain while it sets the ring up.
    record.update(|applied| {
        applied.monitor = true;
        applied.pauses = 1;
    })?;
    let monitor = Monitor::enable(xen, domid);
    record.update(|applied| applied.pauses = 0)?;
    let monitor = match monitor {
        Ok(monitor) => monitor,
        Err(error) => {
            // Not ours, then: undoing must leave the other's ring alone.
            record.update(|applied| applied.monitor = false)?;
            return Err(if error.is_busy() {
                EngineError::Busy(domid)
            } else {
                error.into()
            });
        }
    };
    monitor.set_software_breakpoint(true)?;
    Ok(monitor)
}
