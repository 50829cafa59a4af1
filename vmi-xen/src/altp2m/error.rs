// SPDX-License-Identifier: GPL-3.0-only
//! What can go wrong with an engine.

use thiserror::Error;
use xen_bindings::{DomId, Gfn, XenError, monitor::RingError};

use super::{ProbeId, RecordError};

/// Why an engine could not attach, arm, or go on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A call into Xen failed.
    #[error(transparent)]
    Xen(#[from] XenError),
    /// The undo record could not be used; nothing was changed without it.
    #[error("undo record: {0}")]
    Record(#[from] RecordError),
    /// The ring holds what no honest Xen writes.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The descriptors could not be waited on.
    #[error("waiting for events: {0}")]
    Wait(#[source] std::io::Error),
    /// The domain does not exist, or is being destroyed.
    #[error("domain {0} is gone")]
    Gone(DomId),
    /// Nothing can be seen in a paused domain, and its pauses are not ours.
    #[error("domain {0} is paused; attach when it runs (`xl unpause {0}`)")]
    Paused(DomId),
    /// A PV domain has no second-stage page tables to make a view of.
    #[error("domain {0} is neither HVM nor PVH with hap=1; altp2m cannot watch it")]
    NotHvm(DomId),
    /// More vCPUs than the ring has places: after a kill -9 the guest could not be freed for certain.
    #[error(
        "domain {domid} has {vcpus} vCPUs; a guest with more than {} is not trapped, since it could not be freed for certain \
         if the daemon were killed",
        xen_bindings::monitor::SLOTS
    )]
    TooManyVcpus {
        /// The domain.
        domid: DomId,
        /// Its vCPUs, online or not.
        vcpus: u32,
    },
    /// The domain was created without altp2m and this Xen cannot change that.
    #[error(
        "domain {domid} was created without altp2m: set altp2m=\"external\" in its xl \
         configuration and create it again ({source})"
    )]
    ModeFixed {
        /// The domain.
        domid: DomId,
        /// What Xen said.
        #[source]
        source: XenError,
    },
    /// Xen does not offer altp2m.
    #[error(
        "this host has no altp2m for domain {domid}: {}{source}",
        if *.requested { "needs Intel VMX with EPT; " } else { "add altp2m=1 to Xen's command line; " }
    )]
    Unsupported {
        /// The domain.
        domid: DomId,
        /// Xen's command line asks for altp2m.
        requested: bool,
        /// What Xen said.
        #[source]
        source: XenError,
    },
    /// Another tool, or the guest itself, uses altp2m on the domain.
    #[error("altp2m of domain {0} is used by something else (the guest, or another tool)")]
    InUse(DomId),
    /// Another monitor is attached.
    #[error("another monitor is attached to domain {0}; detach it first")]
    Busy(DomId),
    /// More probed pages than the undo record has room for.
    #[error("no shadow page is free: at most {0} pages of a guest can hold probes")]
    NoShadowPage(u32),
    /// A probe is there already.
    #[error("probe {0:?} or its address is armed already")]
    AlreadyArmed(ProbeId),
    /// No memory is at the address.
    #[error("guest frame {gfn:#x} cannot hold a probe: {source}")]
    NoPage {
        /// The frame.
        gfn: Gfn,
        /// Why it could not be mapped.
        #[source]
        source: XenError,
    },
    /// The kernel has no memory mapped at the address.
    #[error("nothing is mapped at {0:#x}")]
    NotMapped(u64),
    /// The guest's kernel changes its text, and cannot be asked when.
    #[error(
        "this guest's kernel may patch its text at any time, and has no {0} to tell of it: breakpoints would upset it"
    )]
    NoGuard(&'static str),
    /// The instruction is none that can be carried out elsewhere.
    #[error("the instruction at {0:#x} cannot hold a breakpoint")]
    Unfit(u64),
    /// No room for another breakpoint on record.
    #[error("a guest can have {0} breakpoints at most")]
    TooManyBreakpoints(usize),
    /// The instruction to be probed lies over the end of the page.
    #[error("the function at {0:#x} starts too near the end of its page")]
    PageEnd(u64),
}
