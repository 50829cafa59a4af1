// SPDX-License-Identifier: GPL-3.0-only
//! The tests that need a rig, in one program: policyd is brought into dom0 once for all of them. `cargo xtask test` runs them; to run
//! some, `XMESH_RIG_NAME=NAME cargo test -p xmesh-rig --test on_rig -- --ignored --test-threads=1 FILTER`.

mod breakpoint;
mod containers;
mod facts;
mod kernels;
mod life;
mod lookup;
mod measured;
mod mesh;
mod package;
mod patching;
mod qos;
mod rig;
mod rollout;
mod routes;
mod sight;
mod suggest;
mod support;
mod threats;
mod trace;
mod vifs;
