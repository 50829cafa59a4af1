// SPDX-License-Identifier: GPL-3.0-only
//! The short way between two guests of one bridge: from vif to vif, past the bridge, where that would do no more than hand the
//! packet on.
//!
//! What a bridge would do is looked up with each [`Datapath::renew_direct`] and holds for [`LEASE`] or until the next look: when
//! nobody looks any more, all goes by the bridge.

mod bridges;
mod hooks;
mod plan;
mod watch;

use std::collections::BTreeSet;
use std::time::Duration;

use log::debug;

use self::bridges::Bridges;
use self::plan::Candidate;
pub use self::plan::Detour;
pub use self::watch::BridgeWatch;
use crate::datapath::{ConfiguredVif, Datapath};
use crate::error::Error;
use crate::layout::{CONTROL_DIRECT, LEASE_SHIFT, RawVif};
use crate::publish::{failed, full_or_failed, keys, removed};
use crate::sys;

/// For how long one look holds, at least; at most a second longer.
pub const LEASE: Duration = Duration::from_secs(10);

/// How what one vif's guest sends to other guests of its bridge goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectVif {
    /// The interface's name.
    pub name: String,
    /// Straight to their vifs, or why by the bridge.
    pub way: Result<(), Detour>,
}

impl Datapath {
    /// Looks at the bridges of this host, and has allowed packets between guests of one bridge go straight from vif to vif wherever
    /// the bridge would do nothing but forward them: for [`LEASE`], in which the caller looks again, and at once when
    /// [`BridgeWatch`] tells of a change. Only unicast of IP flows goes so, without tags, from the guest's own MAC address, to where
    /// the bridge itself last saw the receiver; one frame of a vif in a second goes by the bridge, so that it forgets nobody. The
    /// receiver's program and qdisc meet all of it.
    ///
    /// # Errors
    /// When the bridges or maps cannot be read or written; all goes by the bridges then.
    pub fn renew_direct(&mut self) -> Result<Vec<DirectVif>, Error> {
        let renewed = self.try_renew();
        if renewed.is_err() {
            self.lease(0)?;
        }
        renewed
    }

    fn try_renew(&mut self) -> Result<Vec<DirectVif>, Error> {
        let vifs = self.configured()?;
        let candidates: Vec<Candidate> = vifs.iter().map(|vif| self.candidate(vif)).collect();
        let host = Bridges::read().map_err(|source| Error::Netlink { source })?;
        let plan = plan::plan(&candidates, &host, hooks::are_there());
        // What is no longer so goes first.
        for key in keys(&self.stations, "stations")? {
            if !plan.stations.contains_key(&key) {
                removed("stations", self.stations.remove(&key))?;
            }
        }
        let mut list = Vec::with_capacity(vifs.len());
        for vif in vifs {
            let way = plan.from.get(&vif.ifindex).copied().unwrap_or(Err(Detour::Off));
            self.set_bridge(vif.ifindex, way.unwrap_or(0))?;
            list.push(DirectVif {
                name: vif.name,
                way: way.map(|_| ()),
            });
        }
        let room = self.capacity("stations");
        for (key, station) in &plan.stations {
            if self.stations.get(key, 0).ok() != Some(*station) {
                self.stations
                    .insert(key, station, 0)
                    .map_err(|e| full_or_failed("stations", room, e))?;
            }
        }
        let until = sys::monotonic_ns().saturating_add(LEASE.as_nanos() as u64);
        // Rounded up; some 139 years from boot fit.
        self.lease(u32::try_from((until >> LEASE_SHIFT) + 1).unwrap_or(u32::MAX))?;
        Ok(list)
    }

    /// Has all packets go by the bridges again.
    ///
    /// # Errors
    /// When maps cannot be written.
    pub fn stop_direct(&mut self) -> Result<(), Error> {
        self.lease(0)?;
        for ifindex in keys(&self.vifs, "vifs")? {
            self.set_bridge(ifindex, 0)?;
        }
        let there: BTreeSet<_> = keys(&self.stations, "stations")?.into_iter().collect();
        for key in there {
            removed("stations", self.stations.remove(&key))?;
        }
        Ok(())
    }

    fn candidate(&self, vif: &ConfiguredVif) -> Candidate {
        let filtered = self.place(vif.ifindex, &vif.name).has_others_at_ingress();
        Candidate {
            ifindex: vif.ifindex,
            mac: (vif.raw.mac != [0; 6]).then_some(vif.raw.mac),
            // What cannot be read may be a filter, or the vif is just gone.
            filtered: filtered.unwrap_or_else(|error| {
                debug!("{error}");
                true
            }),
        }
    }

    /// `bridge`: that which frames of this vif may go past; 0: none.
    pub(crate) fn set_bridge(&mut self, ifindex: u32, bridge: u32) -> Result<(), Error> {
        let Ok(vif) = self.vifs.get(&ifindex, 0) else {
            return Ok(());
        };
        if vif.bridge == bridge {
            return Ok(());
        }
        self.vifs
            .insert(ifindex, RawVif { bridge, ..vif }, 0)
            .map_err(|e| failed("vifs", e))
    }

    fn lease(&mut self, until: u32) -> Result<(), Error> {
        self.rules
            .control()
            .set(CONTROL_DIRECT, until, 0)
            .map_err(|e| failed("control", e))
    }
}
