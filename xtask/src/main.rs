// SPDX-License-Identifier: GPL-3.0-only
//! The developer's commands
fn main() {}
