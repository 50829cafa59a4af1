// SPDX-License-Identifier: GPL-3.0-only
//! Setting a domain up for breakpoints: each step on record before it is made.

use xen_bindings::{
    DomId, Xen,
    domain::DomainInfo,
    monitor::{self, Monitor},
};

use crate::altp2m::{EngineError, UndoRecord, enable_events, undo, watchable};

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
    let mut set_up = || -> Result<Monitor, EngineError> {
        let monitor = enable_events(xen, domid, record)?;
        monitor.set_software_breakpoint(true)?;
        Ok(monitor)
    };
    set_up().inspect_err(|_| {
        if let Err(error) = undo(xen, record) {
            log::error!("domain {domid}: undoing a failed attach: {error}");
        }
    })
}

/// Whether the domain can be watched at all, and by us.
fn check(xen: &Xen, domid: DomId) -> Result<DomainInfo, EngineError> {
    let info = watchable(xen, domid)?;
    if monitor::is_enabled(xen, domid)? {
        return Err(EngineError::Busy(domid));
    }
    Ok(info)
}
