// SPDX-License-Identifier: GPL-3.0-only
//! The exchange of one set of services for the next: two slots, as for rules, and one write of the cell that names the
//! slot is the instant.

use std::io;
use std::net::SocketAddr;

use aya::maps::{Array, HashMap, MapData};

use crate::error::Error;
use crate::layout::{
    BACKENDS, CONTROL_SERVICES, RawDead, RawEndpoint, RawService, RawServiceKey, RawSpread, SERVICES,
};
use crate::pins::Pins;
use crate::publish::{failed, full_or_failed, keys, removed};
use crate::services::{Service, ServiceTables, is_station};
use crate::sys;
use crate::types::{FlowKey, Protocol};

/// An end that a flow is sent to in place of the one it is addressed to: see [`crate::FlowWriter::redirect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Of the flow's family; the port is not 0.
    pub end: SocketAddr,
    /// Its MAC address on the guest's own bridge; `None`: the frame goes where the guest sent it.
    pub mac: Option<[u8; 6]>,
}

impl Target {
    pub(crate) fn check(&self, key: &FlowKey) -> io::Result<()> {
        let wrong = |what: String| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        if !matches!(key.protocol, Protocol::TCP | Protocol::UDP) {
            return wrong(format!("{key}: only TCP and UDP can be redirected"));
        }
        if key.remote.is_ipv4() != self.end.is_ipv4() || self.end.port() == 0 {
            return wrong(format!(
                "{key}: {} is of another family, or has no port",
                self.end
            ));
        }
        if self.mac.is_some_and(|mac| !is_station(mac)) {
            return wrong(format!("{key}: the MAC address of {} is no station's", self.end));
        }
        Ok(())
    }
}

/// The maps of services.
pub(crate) struct ServiceMaps {
    control: Array<MapData, u32>,
    services: HashMap<MapData, RawServiceKey, RawService>,
    spreads: Array<MapData, RawSpread>,
    backends: Array<MapData, RawEndpoint>,
    dead: HashMap<MapData, RawDead, u8>,
}

impl ServiceMaps {
    pub(crate) fn open(pins: &Pins) -> Result<Self, Error> {
        Ok(Self {
            control: pins.map("control")?,
            services: pins.map("services")?,
            spreads: pins.map("spreads")?,
            backends: pins.map("backends")?,
            dead: pins.map("dead")?,
        })
    }

    pub(crate) fn publish(&mut self, services: &[Service]) -> Result<(), Error> {
        let generation = self
            .control
            .get(&CONTROL_SERVICES, 0)
            .map_err(|e| failed("control", e))?;
        let (old, new) = (generation & 1, 1 - (generation & 1));
        let tables = ServiceTables::new(services, new).map_err(|source| Error::Services { source })?;
        // What a publisher that died half-way left there.
        self.clear(new)?;
        let earlier = keys(&self.dead, "dead")?;
        if let Err(error) = self.fill(&tables, new) {
            self.clear(new)?;
            self.revive(|key| !earlier.contains(key))?;
            return Err(error);
        }
        self.control
            .set(CONTROL_SERVICES, generation.wrapping_add(1), 0)
            .map_err(|e| failed("control", e))?;
        self.revive(|key| !tables.dead.contains(key))?;
        sys::wait_for_packets();
        self.clear(old)
    }

    fn fill(&mut self, tables: &ServiceTables, slot: u32) -> Result<(), Error> {
        for (cell, spread) in (slot * SERVICES..).zip(&tables.spreads) {
            self.spreads
                .set(cell, spread, 0)
                .map_err(|e| failed("spreads", e))?;
        }
        for (cell, backend) in (slot * BACKENDS..).zip(&tables.backends) {
            self.backends
                .set(cell, backend, 0)
                .map_err(|e| failed("backends", e))?;
        }
        for (key, service) in &tables.services {
            self.services
                .insert(key, service, 0)
                .map_err(|e| full_or_failed("services", 4 * SERVICES, e))?;
        }
        for key in &tables.dead {
            self.dead
                .insert(key, 1, 0)
                .map_err(|e| full_or_failed("dead", BACKENDS, e))?;
        }
        Ok(())
    }

    fn revive(&mut self, lives: impl Fn(&RawDead) -> bool) -> Result<(), Error> {
        for key in keys(&self.dead, "dead")?.iter().filter(|key| lives(key)) {
            removed("dead", self.dead.remove(key))?;
        }
        Ok(())
    }

    fn clear(&mut self, slot: u32) -> Result<(), Error> {
        for key in keys(&self.services, "services")?
            .iter()
            .filter(|key| key.slot == slot)
        {
            removed("services", self.services.remove(key))?;
        }
        Ok(())
    }
}
