// SPDX-License-Identifier: GPL-3.0-only
//! Freeing a guest: from the engine on detach, or from any other process after
//! the engine's died.
//!
//! Every step may have been done already, or never been done: the record says
//! what *may* be applied, and each step tolerates finding nothing. So a process
//! that dies in the midst of undoing can be followed by another that starts over.

use xen_bindings::{DomId, Xen, XenError, altp2m, domain, memory, monitor};

use super::{
    EngineError,
    record::{Applied, UndoRecord},
};
use crate::breakpoint;

/// How often to ask again for a ring that vCPUs still queue for.
const BUSY_TRIES: u32 = 50;
/// Pause between two such attempts.
const BUSY_REST: std::time::Duration = std::time::Duration::from_millis(2);

/// What undoing found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undone {
    /// Nothing was applied.
    Nothing,
    /// The guest is as it was before.
    Freed,
    /// The domain is gone, and what was applied with it.
    Gone,
}

/// Frees the guest from all that `record` says may be applied to it.
///
/// Whoever owns the record may do this, also where the process that applied it
/// was killed at any instant. Afterwards the record is clean.
///
/// # Errors
/// Where Xen refuses a step. The record still says what is left, so it can be
/// tried again; the guest is left running where that was possible.
///
/// Xen refuses to disable the ring while vCPUs queue for a place on it, and
/// nobody but its dead owner could have made room. Therefore a guest with more
/// vCPUs than the ring has places is never attached to
/// ([`EngineError::TooManyVcpus`]).
pub fn undo(xen: &Xen, record: &mut UndoRecord) -> Result<Undone, EngineError> {
    if !record.needs_undo() {
        return Ok(Undone::Nothing);
    }
    let domid = record.domid();
    let Some(info) =
        domain::info(xen, domid)?.filter(|info| info.uuid == record.applied().uuid && !info.dying)
    else {
        record.update(|applied| *applied = Default::default())?;
        return Ok(Undone::Gone);
    };

    hold(xen, record)?;
    let freed = free(xen, record, domid, info.vcpus);
    let released = let_go(xen, record);
    match freed.and(released) {
        Ok(()) => {
            record.update(|applied| applied.dirty = false)?;
            Ok(Undone::Freed)
        }
        // It may have been destroyed meanwhile.
        Err(EngineError::Xen(error)) if error.is_gone() => {
            record.update(|applied| *applied = Default::default())?;
            Ok(Undone::Gone)
        }
        Err(error) => Err(error),
    }
}

/// Pauses the domain once more, on record.
pub(crate) fn hold(xen: &Xen, record: &mut UndoRecord) -> Result<(), EngineError> {
    record.update(|applied| applied.pauses += 1)?;
    domain::pause(xen, record.domid())?;
    Ok(())
}

/// Takes back one pause made by [`hold`].
pub(crate) fn let_one_go(xen: &Xen, record: &mut UndoRecord) -> Result<(), EngineError> {
    domain::unpause(xen, record.domid())?;
    record.update(|applied| applied.pauses = applied.pauses.saturating_sub(1))?;
    Ok(())
}

/// Takes back all pauses on record.
///
/// Death between writing "one more" and pausing leaves one too many on record.
/// A domain that runs has none left, so that is where to stop. Only where an
/// administrator paused the domain in that same instant is his pause taken for
/// ours: the error is made towards a guest that runs.
fn let_go(xen: &Xen, record: &mut UndoRecord) -> Result<(), EngineError> {
    while record.applied().pauses > 0 {
        match domain::info(xen, record.domid())? {
            Some(info) if info.paused => let_one_go(xen, record)?,
            _ => record.update(|applied| applied.pauses = 0)?,
        }
    }
    Ok(())
}

/// The steps of freeing, on a paused domain.
fn free(xen: &Xen, record: &mut UndoRecord, domid: DomId, vcpus: u32) -> Result<(), EngineError> {
    // First of all no vCPU may meet an int3 again: back to the domain's own map.
    if record.applied().altp2m && altp2m::active(xen, domid)? {
        altp2m::switch_to(xen, domid, 0)?;
    }
    breakpoint::restore_all(xen, record)?;
    if record.applied().monitor {
        for vcpu in 0..vcpus {
            // Tolerated: a vCPU that was never brought up has no such state.
            let _ = domain::stop_singlestep(xen, domid, vcpu);
        }
        disable_ring(xen, domid)?;
        // Xen keeps vCPUs paused whose events were never answered. RIP still is
        // at the int3, where view 0 has the guest's own instruction.
        monitor::release_vcpus(xen, domid, vcpus)?;
        record.update(|applied| applied.monitor = false)?;
    }
    if record.applied().altp2m {
        altp2m::set_active(xen, domid, false)?;
        record.update(|applied| applied.altp2m = false)?;
    }
    // Only now: dropping a frame that a view shows resets the view.
    give_back_shadows(xen, record, domid)?;
    restore_max_pages(xen, record, domid)
}

fn disable_ring(xen: &Xen, domid: DomId) -> Result<(), XenError> {
    let mut tries = 0;
    loop {
        match monitor::disable(xen, domid) {
            Err(error) if error.is_busy() && tries < BUSY_TRIES => {
                tries += 1;
                std::thread::sleep(BUSY_REST);
            }
            other => return other,
        }
    }
}

fn give_back_shadows(xen: &Xen, record: &mut UndoRecord, domid: DomId) -> Result<(), EngineError> {
    let Applied {
        shadow_base,
        shadow_slots,
        ..
    } = *record.applied();
    for slot in 0..u64::BITS {
        if shadow_slots & (1 << slot) != 0 {
            // "No page there" is what an interrupted populating left.
            memory::release(xen, domid, shadow_base + u64::from(slot))?;
            record.update(|applied| applied.shadow_slots &= !(1 << slot))?;
        }
    }
    Ok(())
}

/// Lowers the domain's most pages again, unless someone else set it since.
fn restore_max_pages(xen: &Xen, record: &mut UndoRecord, domid: DomId) -> Result<(), EngineError> {
    let (before, raised) = (
        record.applied().max_pages_before,
        record.applied().max_pages_raised,
    );
    if raised == 0 {
        return Ok(());
    }
    if domain::info(xen, domid)?.is_some_and(|info| info.max_pages == raised) {
        domain::set_max_pages(xen, domid, before)?;
    }
    record.update(|applied| {
        applied.max_pages_before = 0;
        applied.max_pages_raised = 0;
    })?;
    Ok(())
}
