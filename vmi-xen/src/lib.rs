// SPDX-License-Identifier: GPL-3.0-only
//! Introspection of Linux guests from dom0, with no profile and no agent

pub mod altp2m;
pub mod integrity;
pub mod kernel;
pub mod linux;
pub mod live;
pub mod memory;
pub mod observe;
pub mod session;
pub mod syscall;
pub mod tap;
pub mod traps;
