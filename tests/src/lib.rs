// SPDX-License-Identifier: GPL-3.0-only
//! Nested Xen as a test rig.

pub mod agent;
