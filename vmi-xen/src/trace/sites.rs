// SPDX-License-Identifier: GPL-3.0-only
//! Where a kernel is probed to trace its calls.

use std::collections::{BTreeMap, BTreeSet};

use crate::kernel::{Kernel, exits};
use crate::memory::PhysicalMemory;
use crate::syscall::Entries;

/// Functions that one call's own may hand over to, one after the other.
const MAX_TAIL_CALLS: usize = 32;

/// A call that is to be traced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Nothing is to be said where a kernel does not have it: it was named by a word for many.
    pub optional: bool,
}

/// One place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// The first instruction of a call's function. One without arguments is often shared by calls of both ABIs.
    Entry,
    /// An instruction by which it returns.
    Return,
}

/// The places for some calls, by address.
#[derive(Debug, Default)]
pub struct Sites {
    /// Where to probe, and what that is.
    pub places: BTreeMap<u64, Site>,
    /// Names of the calls that this kernel has.
    pub found: Vec<String>,
    /// What cannot be traced in full, a sentence each.
    pub gaps: Vec<String>,
}

/// Finds the places for some calls, in both ABIs.
pub fn find<M: PhysicalMemory>(mem: &M, kernel: &Kernel, wanted: &[Wanted]) -> Sites {
    let entries = Entries::new(kernel);
    let mut sites = Sites::default();
    for Wanted { name, optional } in wanted {
        let found = entries.of(mem, name);
        if found.is_empty() {
            if !optional {
                sites.gaps.push(format!("{name}: this kernel has no such call"));
            }
            continue;
        }
        for entry in found {
            sites.places.insert(entry.va, Site::Entry);
            if let Err(why) = returns(mem, kernel, entry.va, &mut sites.places) {
                sites
                    .gaps
                    .push(format!("{name}: what it returns is not seen: {why}"));
            }
        }
        sites.found.push(name.clone());
    }
    sites
}

/// Adds the returns of the function at `va`, and of those that it jumps to at its
/// end.
fn returns<M: PhysicalMemory>(
    mem: &M,
    kernel: &Kernel,
    va: u64,
    places: &mut BTreeMap<u64, Site>,
) -> Result<(), String> {
    let (mut seen, mut waiting) = (BTreeSet::new(), vec![va]);
    while let Some(va) = waiting.pop() {
        if !seen.insert(va) {
            continue;
        }
        if seen.len() > MAX_TAIL_CALLS {
            return Err("it hands over to too many functions".into());
        }
        let exits = exits(mem, kernel, va).map_err(|why| why.to_string())?;
        for at in exits.returns {
            places.insert(at, Site::Return);
        }
        waiting.extend(exits.tail_calls);
    }
    Ok(())
}
