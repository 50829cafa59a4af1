// SPDX-License-Identifier: GPL-3.0-only
//! How many flows a scope may have at once: see `bpf/share.h`.
//!
//! The programs keep count by numbered turns. Here it is only said how many numbers there are, so that those of all scopes fit
//! into their map.

use aya::maps::{Array, MapData};

use crate::datapath::table;
use crate::error::Error;
use crate::layout::{CONTROL_SHARE, RawFlowKey, RawTurn};
use crate::pins::Pins;
use crate::publish::failed;
use crate::sys::{self, Position, Table};

pub(crate) struct Shares {
    turns: Table<RawTurn, RawFlowKey>,
    /// Of all scopes.
    capacity: u32,
    /// A scope's, where there is room for so many.
    wanted: u32,
}

impl Shares {
    pub(crate) fn open(pins: &Pins, wanted: u32) -> Result<Self, Error> {
        Ok(Self {
            turns: table(pins, "turns")?,
            capacity: pins.capacity("turns").unwrap_or(0),
            wanted,
        })
    }

    /// Sets each scope's share for so many scopes. Flows that are beyond a smaller one go on, uncounted, until they end or are
    /// the least recently used of all.
    pub(crate) fn set(&self, control: &mut Array<MapData, u32>, scopes: usize) -> Result<(), Error> {
        let earlier = control.get(&CONTROL_SHARE, 0).map_err(|e| failed("control", e))?;
        let share = share(self.wanted, self.capacity, scopes);
        if share == earlier {
            return Ok(());
        }
        control
            .set(CONTROL_SHARE, share, 0)
            .map_err(|e| failed("control", e))?;
        if share < earlier {
            // Nobody takes one of the numbers that are no more from here on.
            sys::wait_for_packets();
            self.remove(|turn| turn.turn > share)?;
        }
        Ok(())
    }

    /// Takes out the turns of a scope that no packet is of any more.
    pub(crate) fn forget(&self, scope: u32) -> Result<(), Error> {
        self.remove(|turn| turn.scope == scope)
    }

    fn remove(&self, goes: impl Fn(&RawTurn) -> bool) -> Result<(), Error> {
        let failed = |source: std::io::Error| Error::Map {
            map: "turns",
            source: source.into(),
        };
        let (mut position, mut batch) = (Position::default(), Vec::new());
        // Gathered first: a table that changes is not read whole.
        while !position.done {
            self.turns.batch(&mut position, &mut batch).map_err(failed)?;
            batch.retain(|(turn, _)| goes(turn));
        }
        for (turn, _) in &batch {
            self.turns.remove(turn).map_err(failed)?;
        }
        Ok(())
    }
}

/// The part of the map that is left to claims: a turn that changes hands takes a second entry meanwhile, and where there is none no
/// flow can begin.
const CLAIMS: u32 = 16;
/// More are never made at once: each CPU makes one at a time.
const MOST_CLAIMS: u32 = 1024;

/// How large the map is to be for so many turns.
pub(crate) fn with_claims(turns: u32) -> u32 {
    turns.saturating_add((turns / (CLAIMS - 1) + 1).min(MOST_CLAIMS))
}

/// Never 0, which would let nobody have a flow.
fn share(wanted: u32, capacity: u32, scopes: usize) -> u32 {
    let scopes = u32::try_from(scopes).unwrap_or(u32::MAX).max(1);
    let room = capacity - (capacity / CLAIMS).min(MOST_CLAIMS);
    wanted.min(room / scopes).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_fit_into_the_map() {
        assert_eq!(share(16, 256, 0), 16);
        assert_eq!(share(16, 256, 15), 16);
        assert_eq!(share(16, 256, 16), 15);
        assert_eq!(share(16, 256, 300), 1);
        assert_eq!(share(u32::MAX, 256, 1), 240);
        assert_eq!(share(u32::MAX, 1 << 20, 1), (1 << 20) - 1024);
        assert_eq!(share(0, 256, 1), 1);
        for turns in [2, 256, 8192, 1 << 21] {
            assert!(share(u32::MAX, with_claims(turns), 1) >= turns, "{turns}");
        }
    }
}
