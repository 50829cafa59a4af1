// SPDX-License-Identifier: GPL-3.0-only
//! Safe, owned handles over Xen's toolstack libraries.
//!
//! The only crate of the workspace where hypercall FFI lives. One module per
//! thing that Xen has: [`domain`], [`memory`], [`vcpu`], [`monitor`] (the
//! vm_event ring), [`altp2m`], [`store`] (xenstore), [`version`].
//!
//! **Invariants**
//! - A handle that changed something on a domain for the length of its own life
//!   ([`domain::PauseGuard`], [`monitor::Monitor`], [`memory::ForeignPages`])
//!   undoes it when dropped. Changes that must be undone even after a `kill -9`
//!   are plain functions here; the record of them is kept one layer up.
//! - Nothing read from a shared page is trusted: indices are checked, values
//!   are copied out before use.
//! - libxenctrl must match the running hypervisor (its soname changes with each
//!   release); build this crate against the `libxen-dev` of the host. Only
//!   [`ctl`], and what goes through it, depends on that.

pub mod altp2m;
pub mod ctl;
pub mod domain;
pub mod error;
pub mod memory;
pub mod monitor;
pub mod store;
pub mod vcpu;
pub mod version;

mod sys;

pub use ctl::Xen;
pub use error::XenError;
pub use sys::vm_event_regs_x86;

/// A domain's number, as `xl list` shows it.
pub type DomId = u32;
/// Guest frame number: a guest-physical address shifted right by 12.
pub type Gfn = u64;

/// Size of a page in bytes.
pub const PAGE_SIZE: usize = 4096;
