// SPDX-License-Identifier: GPL-3.0-only
//! The exchange of one rule set for the next.
//!
//! Two slots: packets read the active one, the next set is written into the other, and one write of one cell makes the
//! other the active one. Only when no packet can be reading the old slot any more is it emptied.

use std::hash::Hash;

use aya::Pod;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData, MapError};

use crate::error::Error;
use crate::layout::{CONTROL_GENERATION, CONTROL_SLOT, RawPeer, RawRule, RawRuleKey};
use crate::pins::Pins;
use crate::rules::{RuleSet, Tables};
use crate::sys;

pub(crate) struct RuleTables {
    control: Array<MapData, u32>,
    peers: LpmTrie<MapData, RawPeer, u32>,
    rules: HashMap<MapData, RawRuleKey, RawRule>,
    capacities: [u32; 2],
}

impl RuleTables {
    pub(crate) fn open(pins: &Pins) -> Result<Self, Error> {
        Ok(Self {
            control: pins.map("control")?,
            peers: pins.map("peers")?,
            rules: pins.map("rules")?,
            capacities: ["peers", "rules"].map(|name| pins.capacity(name).unwrap_or(0)),
        })
    }

    pub(crate) fn control(&mut self) -> &mut Array<MapData, u32> {
        &mut self.control
    }

    fn cell(&self, cell: u32) -> Result<u32, Error> {
        self.control.get(&cell, 0).map_err(|e| failed("control", e))
    }

    fn set_cell(&mut self, cell: u32, value: u32) -> Result<(), Error> {
        self.control.set(cell, value, 0).map_err(|e| failed("control", e))
    }

    /// The generation in force; 0 before the first.
    pub(crate) fn generation(&self) -> Result<u32, Error> {
        self.cell(CONTROL_GENERATION + (self.cell(CONTROL_SLOT)? & 1))
    }

    pub(crate) fn publish(&mut self, set: &RuleSet, generation: u32) -> Result<(), Error> {
        let old = self.cell(CONTROL_SLOT)? & 1;
        let new = 1 - old;
        let tables = set
            .tables(new)
            .map_err(|source| Error::Rules { generation, source })?;
        // What a publisher that died half-way left there.
        self.clear(new)?;
        if let Err(error) = self.fill(&tables) {
            self.clear(new)?;
            return Err(error);
        }
        self.set_cell(CONTROL_GENERATION + new, generation)?;
        self.set_cell(CONTROL_SLOT, new)?;
        sys::wait_for_packets();
        self.clear(old)
    }

    fn fill(&mut self, tables: &Tables) -> Result<(), Error> {
        let [peers, rules] = self.capacities;
        for (bits, peer, class) in &tables.peers {
            self.peers
                .insert(&Key::new(*bits, *peer), class, 0)
                .map_err(|e| full_or_failed("peers", peers, e))?;
        }
        for (key, rule) in &tables.rules {
            self.rules
                .insert(key, rule, 0)
                .map_err(|e| full_or_failed("rules", rules, e))?;
        }
        Ok(())
    }

    fn clear(&mut self, slot: u32) -> Result<(), Error> {
        // Gathered first: taking keys out under an iteration starts it over.
        let peers: Vec<_> = self
            .peers
            .keys()
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| failed("peers", e))?;
        for key in peers.iter().filter(|key| key.data().slot == slot) {
            self.peers.remove(key).map_err(|e| failed("peers", e))?;
        }
        for key in keys(&self.rules, "rules")?.iter().filter(|key| key.slot == slot) {
            self.rules.remove(key).map_err(|e| failed("rules", e))?;
        }
        Ok(())
    }
}

/// All keys of a map that only this process changes.
pub(crate) fn keys<K: Pod + Eq + Hash, V: Pod>(
    map: &HashMap<MapData, K, V>,
    name: &'static str,
) -> Result<Vec<K>, Error> {
    map.keys().collect::<Result<_, _>>().map_err(|e| failed(name, e))
}

pub(crate) fn failed(map: &'static str, error: MapError) -> Error {
    Error::Map {
        map,
        source: error.into(),
    }
}

fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(e) => e.io_error.raw_os_error(),
        _ => None,
    }
}

/// The trie reports a full map as ENOSPC, the hash as E2BIG.
pub(crate) fn full_or_failed(map: &'static str, entries: u32, error: MapError) -> Error {
    match errno(&error) {
        Some(libc::E2BIG | libc::ENOSPC) => Error::Full { map, entries },
        _ => failed(map, error),
    }
}

/// Taking out what is not there is no error.
pub(crate) fn removed(map: &'static str, result: Result<(), MapError>) -> Result<(), Error> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(error) if errno(&error) == Some(libc::ENOENT) => Ok(()),
        other => other.map_err(|e| failed(map, e)),
    }
}
