// SPDX-License-Identifier: GPL-3.0-only
//! Scopes: their settings and counters. Each is in cells of arrays, which packets reach without a hash; which cells, the entry of
//! the packet's vif says.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{Array, MapData, PerCpuArray, PerCpuValues};

use crate::error::Error;
use crate::layout::{RawCounters, RawScope};
use crate::pins::Pins;
use crate::publish::failed;
use crate::sys;
use crate::types::{Counters, Direction, ScopeStats};

pub(crate) struct Scopes {
    configs: Array<MapData, RawScope>,
    counters: PerCpuArray<MapData, RawCounters>,
    /// By scope.
    slots: BTreeMap<u32, u32>,
}

impl Scopes {
    pub(crate) fn open(pins: &Pins) -> Result<Self, Error> {
        let configs: Array<MapData, RawScope> = pins.map("scopes")?;
        let mut slots = BTreeMap::new();
        for slot in 0..configs.len() {
            let config = configs.get(&slot, 0).map_err(|e| failed("scopes", e))?;
            if config.in_use != 0 {
                slots.insert(config.scope, slot);
            }
        }
        Ok(Self {
            configs,
            counters: pins.map("counters")?,
            slots,
        })
    }

    /// The scope's cell of `scopes`; `None`: it has no settings.
    pub(crate) fn slot(&self, scope: u32) -> Option<u32> {
        self.slots.get(&scope).copied()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Packets see a setting as it was or as it is to be. The counters of a scope that is new begin at 0.
    pub(crate) fn set(&mut self, scope: u32, config: RawScope) -> Result<(), Error> {
        let slot = match self.slot(scope) {
            Some(slot) => slot,
            None => self.take_slot()?,
        };
        let config = RawScope {
            scope,
            in_use: 1,
            ..config
        };
        self.configs
            .set(slot, config, 0)
            .map_err(|e| failed("scopes", e))?;
        self.slots.insert(scope, slot);
        Ok(())
    }

    /// A cell that no scope has, its counters at 0.
    fn take_slot(&mut self) -> Result<u32, Error> {
        let taken: BTreeSet<u32> = self.slots.values().copied().collect();
        let entries = self.configs.len();
        let slot = (0..entries)
            .find(|slot| !taken.contains(slot))
            .ok_or(Error::Full {
                map: "scopes",
                entries,
            })?;
        let cpus = aya::util::nr_cpus().map_err(|(file, e)| Error::Map {
            map: "counters",
            source: format!("{file}: {e}").into(),
        })?;
        for direction in Direction::BOTH {
            let zeros =
                PerCpuValues::try_from(vec![RawCounters::default(); cpus]).map_err(|e| Error::Map {
                    map: "counters",
                    source: e.into(),
                })?;
            self.counters
                .set(cell(slot, direction), zeros, 0)
                .map_err(|e| failed("counters", e))?;
        }
        Ok(slot)
    }

    /// Forgets a scope that no vif is of.
    pub(crate) fn remove(&mut self, scope: u32) -> Result<(), Error> {
        let Some(slot) = self.slot(scope) else {
            return Ok(());
        };
        self.configs
            .set(slot, RawScope::default(), 0)
            .map_err(|e| failed("scopes", e))?;
        // The last packets of its vifs are none of whoever gets the cell.
        sys::wait_for_packets();
        self.slots.remove(&scope);
        Ok(())
    }

    /// By scope and direction.
    pub(crate) fn stats(&self) -> Result<Vec<ScopeStats>, Error> {
        let mut list = Vec::new();
        for (&scope, &slot) in &self.slots {
            for direction in Direction::BOTH {
                let cpus = self
                    .counters
                    .get(&cell(slot, direction), 0)
                    .map_err(|e| failed("counters", e))?;
                let mut counters = Counters::default();
                cpus.iter().for_each(|cpu| counters.add(cpu));
                list.push(ScopeStats {
                    scope,
                    direction,
                    counters,
                });
            }
        }
        Ok(list)
    }
}

/// Of `counters`.
fn cell(slot: u32, direction: Direction) -> u32 {
    2 * slot + u32::from(direction.raw())
}
