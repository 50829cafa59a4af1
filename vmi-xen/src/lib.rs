// SPDX-License-Identifier: GPL-3.0-only
//! Introspection of Linux guests from dom0, with no profile and no agent
//!
//! Without the feature `live` (on by default) only guests in files are read,
//! and none of Xen's libraries is needed.

#[cfg(feature = "live")]
pub mod altp2m;
#[cfg(feature = "live")]
pub mod breakpoint;
pub mod integrity;
pub mod kernel;
pub mod linux;
#[cfg(feature = "live")]
pub mod live;
pub mod memory;
pub mod meter;
pub mod observe;
pub mod offline;
#[cfg(feature = "live")]
mod ring;
#[cfg(feature = "live")]
pub mod session;
pub mod syscall;
#[cfg(feature = "live")]
pub mod tap;
#[cfg(feature = "live")]
pub mod trace;
#[cfg(feature = "live")]
pub mod traps;
