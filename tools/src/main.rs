// SPDX-License-Identifier: GPL-3.0-only
//! xmesh: the xl-style tool of the mesh
fn main() {}
