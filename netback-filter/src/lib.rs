// SPDX-License-Identifier: GPL-3.0-only
//! The eBPF datapath on vifs and its loader
