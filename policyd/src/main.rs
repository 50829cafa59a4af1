// SPDX-License-Identifier: GPL-3.0-only
//! The daemon in dom0 that joins sight, policy and enforcement
fn main() {}
