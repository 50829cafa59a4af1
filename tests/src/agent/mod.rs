// SPDX-License-Identifier: GPL-3.0-only
//! The agent inside the rig, and what it says to the host.
//!
//! ```text
//! host ── TCP (emulator's user network) ── dom0's agent ── console of the domU ── the domU's agent
//! ```
//! A connection of the host is one session: one program, or one file. dom0's agent either serves it or
//! passes its frames on to the domain's agent. No domU's vif is involved: what the mesh does to a
//! vif's packets must not keep a test from looking.

pub mod client;
pub mod credit;
pub mod dom0;
pub mod domu;
pub mod frame;
pub mod request;
pub mod session;
pub mod stuffing;
mod xenstore;

/// The address of dom0's end of the emulator's user network.
pub const DOM0_ADDRESS: &str = "10.0.2.15";
/// Where dom0's agent listens there, TCP.
pub const DOM0_PORT: u16 = 7700;
/// Where dom0's agent keeps what the consoles of domains said, one file a domain name.
pub const CONSOLE_LOGS: &str = "/run/rig/console";
