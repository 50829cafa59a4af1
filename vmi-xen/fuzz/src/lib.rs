// SPDX-License-Identifier: GPL-3.0-only
//! What is fuzzed: functions from any bytes to nothing, which must not panic and must end within bounds.
//!
//! libFuzzer runs them from `fuzz_targets/`, and `cargo test` from `vmi-xen/tests/dumps/hostile.rs`, which includes this file.

mod bytes;
mod edits;
mod guest;
mod memory;
mod real;

pub use bytes::{btf, dump, kallsyms, paging};
pub use guest::Guest;
pub use real::Real;

use std::path::PathBuf;

use vmi_xen::memory::Dump;

/// Walks over tasks of a real guest whose memory lies.
pub fn tasks(data: &[u8]) {
    with_guest(|guest| guest.tasks(data));
}

/// Walks over sockets, descriptors and addresses, as [`tasks`].
pub fn sockets(data: &[u8]) {
    with_guest(|guest| guest.sockets(data));
}

/// Traps at every probe, as [`tasks`].
pub fn trap(data: &[u8]) {
    with_guest(|guest| guest.traps(data));
}

/// Page tables, kallsyms or BTF of a real kernel, changed.
pub fn real(data: &[u8]) {
    thread_local! {
        static REAL: Real = {
            let path = dump_path();
            let dump = Dump::open(&path).unwrap_or_else(|error| panic!("{error}"));
            Real::cut(&dump, dump.cpus())
        };
    }
    let (kind, data) = data.split_first().unwrap_or((&0, &[]));
    REAL.with(|real| match kind % 3 {
        0 => real.paging(data),
        1 => real.kallsyms(data),
        _ => real.btf(data),
    });
}

/// The guest is read once for all inputs.
fn with_guest(run: impl FnOnce(&Guest)) {
    thread_local! {
        static GUEST: Guest = {
            let path = dump_path();
            let dump = Dump::open(&path).unwrap_or_else(|error| panic!("{error}"));
            Guest::record(&dump, dump.cpus())
        };
    }
    GUEST.with(run);
}

/// The dump that `XMESH_FUZZ_DUMP` names, else the first of the tests' cache.
fn dump_path() -> PathBuf {
    if let Some(path) = std::env::var_os("XMESH_FUZZ_DUMP") {
        return path.into();
    }
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cache = std::env::var_os("XMESH_CACHE").map_or(home.join(".cache/xmesh"), PathBuf::from);
    let mut dumps: Vec<PathBuf> = std::fs::read_dir(cache.join("dumps"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "elf"))
        .collect();
    dumps.sort();
    dumps
        .into_iter()
        .next()
        .expect("no dump: set XMESH_FUZZ_DUMP, or run `cargo test -p vmi-xen --test dumps` once")
}
