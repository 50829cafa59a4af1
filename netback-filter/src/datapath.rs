// SPDX-License-Identifier: GPL-3.0-only
//! The datapath of this host: its maps, its programs and the vifs they are on.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use aya::Pod;
use aya::maps::{HashMap, MapData, MapType};
use log::{info, warn};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use crate::attach::{Attach, Hooks, Place};
use crate::error::Error;
use crate::events::{EventChannel, Events};
use crate::flows::{FlowTables, FlowWriter, Flows, ScopesWithVerdicts};
use crate::histograms::{ConnectionHistograms, HistogramMap};
use crate::layout::{
    CONTROL_LAYOUT, LAYOUT_VERSION, RawAddress, RawHoldWindow, RawSource, RawStation, RawStationKey, RawVif,
    raw_address,
};
use crate::link;
use crate::mirror::{self, MirrorMap, MirrorStats};
use crate::pins::{Found, Pins};
use crate::programs::Programs;
use crate::publish::{RuleTables, failed, full_or_failed, keys, removed};
use crate::rules::RuleSet;
use crate::scopes::Scopes;
use crate::serve::ServiceMaps;
use crate::services::Service;
use crate::shape::Shaper;
use crate::shaping;
use crate::shares::Shares;
use crate::sys::{self, Table};
use crate::tcx;
use crate::types::{ScopeConfig, ScopeStats, VifConfig};

/// Where the datapath keeps its maps, and how large they are. Sizes hold when the maps are made; maps that are taken
/// over keep theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// A directory on a BPF file system; made if need be.
    pub pin_dir: PathBuf,
    /// Flows opened under the rules, of all scopes; about 240 bytes of kernel memory each.
    pub flow_capacity: u32,
    /// Verdicts of userspace, of all scopes; about 240 bytes each.
    pub verdict_capacity: u32,
    /// Flows of one scope at once, those with verdicts included; about 110 bytes each beside the above. Fewer where all scopes
    /// together would have more than twice [`Config::flow_capacity`]. This one holds for maps that are taken over, too.
    pub scope_flows: u32,
    /// Flows that go to a backend, of all scopes; about 280 bytes each. TCP connections that are pushed out are reset.
    pub redirect_capacity: u32,
    /// Peers of two rule sets, since both are there during an exchange.
    pub peer_capacity: u32,
    /// Rules of two rule sets.
    pub rule_capacity: u32,
    /// Histograms, one for each guest, class of peers, rule and direction that meet; about 1000 bytes each, for each CPU.
    pub histogram_capacity: u32,
    /// Bytes of the ring of events, or of all CPUs' buffers of them: a power of two, and at least one page.
    pub event_bytes: u32,
    /// What carries events from the kernel.
    pub events: EventChannel,
    /// Of our filters among others on the vif, where those are clsact's; lower ones run first. Not 0.
    pub priority: u16,
    /// The hooks that programs are put on. Vifs that are on others move, without a gap.
    pub attach: Attach,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pin_dir: "/sys/fs/bpf/xmesh".into(),
            flow_capacity: 128 * 1024,
            verdict_capacity: 128 * 1024,
            scope_flows: 16 * 1024,
            redirect_capacity: 64 * 1024,
            peer_capacity: 64 * 1024,
            rule_capacity: 256 * 1024,
            histogram_capacity: 512,
            event_bytes: 1024 * 1024,
            events: EventChannel::Auto,
            priority: 1,
            attach: Attach::Auto,
        }
    }
}

impl Config {
    fn check(&self) -> Result<(), Error> {
        // The kernel would choose one, another with each attach.
        if self.priority == 0 {
            return Err(Error::Config {
                what: "priority is 0: lower ones run first, from 1",
            });
        }
        if !self.event_bytes.is_power_of_two() || self.event_bytes < 4096 {
            return Err(Error::Config {
                what: "event_bytes is not a power of two from 4096",
            });
        }
        Ok(())
    }
}

/// What [`Datapath::open`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// Nothing: everything is new and empty.
    Fresh,
    /// The maps of an earlier process, with all that was in force; its vifs now run this build's programs.
    Adopted,
    /// Maps of another layout, which are gone. Vifs attached then stay under their old filters, and out of
    /// [`Datapath::attached`], until [`Datapath::attach`] exchanges them.
    Replaced,
}

/// A vif with our filters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedVif {
    /// The interface's index, never used again while the host is up.
    pub ifindex: u32,
    /// The interface's name.
    pub name: String,
    /// How it was attached.
    pub config: VifConfig,
    /// Where the programs are.
    pub hooks: Hooks,
}

/// A vif that should have our filters.
pub(crate) struct ConfiguredVif {
    pub(crate) ifindex: u32,
    pub(crate) name: String,
    pub(crate) raw: RawVif,
}

/// The datapath of this host. Dropping it changes nothing in the kernel: what was set stays in force, and
/// [`Datapath::detach_all`] takes it down.
///
/// Interfaces are those of the calling thread's network namespace; use one datapath from one namespace.
pub struct Datapath {
    pins: Pins,
    priority: u16,
    attach: Attach,
    event_bytes: u32,
    opened: Opened,
    programs: Programs,
    /// Once it was asked for.
    pub(crate) shaper: Option<Shaper>,
    pub(crate) vifs: HashMap<MapData, u32, RawVif>,
    pub(crate) stations: HashMap<MapData, RawStationKey, RawStation>,
    scopes: Scopes,
    shares: Shares,
    sources: HashMap<MapData, RawSource, u8>,
    mirrors: MirrorMap,
    holds: HashMap<MapData, u32, RawHoldWindow>,
    histograms: HistogramMap,
    pub(crate) rules: RuleTables,
    services: ServiceMaps,
    flows: FlowTables,
}

impl Datapath {
    /// Loads the programs, and makes the maps or takes over those that an earlier process left; and so its programs, if they
    /// are those that this build would load. Vifs that it had
    /// attached get the programs of this build, without a gap; those that are gone are forgotten. A vif that does not
    /// take them is warned of and left as it is.
    ///
    /// # Errors
    /// Without root, BPF file system, or a kernel of 5.2 or newer, and for sizes that cannot be.
    pub fn open(config: Config) -> Result<Self, Error> {
        config.check()?;
        // Before 5.11 maps count as locked memory. Later kernels need no such limit, so a refusal is none here.
        if let Err(errno) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
            info!("cannot lift the limit of locked memory: {errno}");
        }
        let pins = Pins::open(&config.pin_dir)?;
        let opened = match pins.adopt_or_clear()? {
            Found::Nothing => Opened::Fresh,
            Found::Current => Opened::Adopted,
            Found::Foreign => Opened::Replaced,
        };
        let programs = Programs::open(&config, &pins)?;
        let mut datapath = Self {
            priority: config.priority,
            attach: config.attach,
            event_bytes: config.event_bytes,
            opened,
            programs,
            shaper: None,
            vifs: pins.map("vifs")?,
            stations: pins.map("stations")?,
            scopes: Scopes::open(&pins)?,
            shares: Shares::open(&pins, config.scope_flows)?,
            sources: pins.map("sources")?,
            mirrors: pins.map("mirrors")?,
            holds: pins.map("holds")?,
            histograms: HistogramMap::open(&pins)?,
            rules: RuleTables::open(&pins)?,
            services: ServiceMaps::open(&pins)?,
            flows: FlowTables {
                verdicts: table(&pins, "verdicts")?,
                flows: table(&pins, "flows")?,
                choices: table(&pins, "choices")?,
                redirects: table(&pins, "redirects")?,
                returns: table(&pins, "returns")?,
                with_verdicts: ScopesWithVerdicts::new(table(&pins, "with_verdicts")?),
            },
            pins,
        };
        datapath.renew_shares()?;
        // Last of all: maps without it are not complete, and the next open would replace them.
        datapath
            .rules
            .control()
            .set(CONTROL_LAYOUT, LAYOUT_VERSION, 0)
            .map_err(|e| failed("control", e))?;
        datapath.prune()?;
        datapath.renew_mirrors()?;
        for vif in datapath.configured()? {
            // One vif's trouble must not keep the others without a daemon; attached() leaves it out.
            if let Err(error) = datapath.put(vif.ifindex, &vif.name, vif.raw) {
                warn!("{error}");
            }
        }
        Ok(datapath)
    }

    /// What was found when this was opened.
    pub fn opened(&self) -> Opened {
        self.opened
    }

    /// Whether the programs, too, are those of an earlier process, so that the kernel's verifier had nothing to do.
    pub fn took_over_programs(&self) -> bool {
        self.programs.taken_over()
    }

    /// Puts a vif under its scope's settings and the rules; it need not be up. A vif that is attached already is
    /// attached anew, without a gap.
    ///
    /// # Errors
    /// When the scope has no settings yet, or the interface or kernel does not take the filters; it is then as before.
    pub fn attach(&mut self, interface: &str, config: VifConfig) -> Result<(), Error> {
        let ifindex = ifindex(interface)?;
        let slot = self.scopes.slot(config.scope).ok_or(Error::UnknownScope {
            scope: config.scope,
            interface: interface.to_owned(),
        })?;
        let room = self.capacity("vifs");
        let earlier = self.vifs.get(&ifindex, 0).ok();
        let raw = RawVif {
            slot,
            shaped: earlier.map_or(0, |vif| vif.shaped),
            bridge: earlier.map_or(0, |vif| vif.bridge),
            ..config.raw()
        };
        // Before the filters: they pass what has no entry.
        self.vifs
            .insert(ifindex, raw, 0)
            .map_err(|e| full_or_failed("vifs", room, e))?;
        let attached = self.put(ifindex, interface, raw);
        if attached.is_err() {
            match earlier {
                Some(raw) => self.vifs.insert(ifindex, raw, 0).map_err(|e| failed("vifs", e))?,
                None => removed("vifs", self.vifs.remove(&ifindex))?,
            }
        }
        attached.and_then(|()| self.renew_mirrors())
    }

    fn renew_mirrors(&mut self) -> Result<(), Error> {
        let room = self.capacity("mirrors");
        mirror::renew(&mut self.mirrors, &self.vifs, room)
    }

    pub(crate) fn place<'a>(&'a self, ifindex: u32, name: &'a str) -> Place<'a> {
        Place::new(self.pins.dir(), ifindex, name)
    }

    fn put(&mut self, ifindex: u32, name: &str, raw: RawVif) -> Result<(), Error> {
        let vifs = &mut self.vifs;
        Place::new(self.pins.dir(), ifindex, name).attach(
            &mut self.programs,
            self.priority,
            self.attach,
            |moving| {
                vifs.insert(ifindex, RawVif { moving, ..raw }, 0)
                    .map_err(|e| failed("vifs", e))
            },
        )
    }

    /// Takes our filters off a vif, and its shaping. Returns whether there were any.
    ///
    /// # Errors
    /// When there is no such interface, or the kernel refuses.
    pub fn detach(&mut self, interface: &str) -> Result<bool, Error> {
        let ifindex = ifindex(interface)?;
        shaping::remove(ifindex, interface)?;
        let found = Place::new(self.pins.dir(), ifindex, interface).detach()?;
        removed("vifs", self.vifs.remove(&ifindex))?;
        self.renew_mirrors()?;
        Ok(found)
    }

    /// The attached vifs, by index. One that lost its filters to somebody else is left out, with a warning.
    ///
    /// # Errors
    /// When maps or interfaces cannot be read.
    pub fn attached(&self) -> Result<Vec<AttachedVif>, Error> {
        let mut list = Vec::new();
        for vif in self.configured()? {
            match Place::new(self.pins.dir(), vif.ifindex, &vif.name).hooks() {
                Ok(Some(hooks)) => list.push(AttachedVif {
                    ifindex: vif.ifindex,
                    config: VifConfig::from_raw(&vif.raw),
                    name: vif.name,
                    hooks,
                }),
                Ok(None) => warn!("{}: our filters were removed by somebody else", vif.name),
                Err(Error::NoInterface { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(list)
    }

    /// The vifs that should be attached and exist, by index.
    pub(crate) fn configured(&self) -> Result<Vec<ConfiguredVif>, Error> {
        let interfaces = link::interfaces()?;
        let mut list = Vec::new();
        for ifindex in keys(&self.vifs, "vifs")? {
            let Some((_, name)) = interfaces.iter().find(|(index, _)| *index == ifindex) else {
                continue;
            };
            let Ok(raw) = self.vifs.get(&ifindex, 0) else {
                continue;
            };
            list.push(ConfiguredVif {
                ifindex,
                name: name.clone(),
                raw,
            });
        }
        list.sort_by_key(|vif| vif.ifindex);
        Ok(list)
    }

    /// Forgets vifs that are gone; returns how many.
    ///
    /// # Errors
    /// When maps or interfaces cannot be read.
    pub fn prune(&mut self) -> Result<usize, Error> {
        let interfaces = link::interfaces()?;
        let gone: Vec<u32> = keys(&self.vifs, "vifs")?
            .into_iter()
            .filter(|index| !interfaces.iter().any(|(i, _)| i == index))
            .collect();
        for ifindex in &gone {
            removed("vifs", self.vifs.remove(ifindex))?;
        }
        if !gone.is_empty() {
            self.renew_mirrors()?;
        }
        let is_there = |index| interfaces.iter().any(|(i, _)| *i == index);
        tcx::prune(self.pins.dir(), is_there).map_err(|source| Error::PinDir {
            path: self.pins.dir().to_owned(),
            source,
        })?;
        shaping::prune()?;
        Ok(gone.len())
    }

    /// Takes everything down: shaping, filters, also those left under older maps, then pins. Traffic then flows as without us.
    ///
    /// # Errors
    /// Of the first thing that could not be removed, after trying all of them.
    pub fn detach_all(self) -> Result<(), Error> {
        let mut first_error = None;
        for (ifindex, name) in link::interfaces()? {
            match shaping::remove(ifindex, &name)
                .and_then(|()| Place::new(self.pins.dir(), ifindex, &name).detach())
            {
                Ok(_) | Err(Error::NoInterface { .. }) => {}
                Err(error) => {
                    warn!("{error}");
                    first_error.get_or_insert(error);
                }
            }
        }
        self.pins.remove()?;
        first_error.map_or(Ok(()), Err)
    }

    /// Sets the addresses that a scope may send from where [`Lock::Address`] holds, in place of those it had. One that stays is
    /// never missing meanwhile.
    ///
    /// # Errors
    /// When there is no room for another address.
    ///
    /// [`Lock::Address`]: crate::Lock::Address
    pub fn set_addresses(&mut self, scope: u32, addresses: &[IpAddr]) -> Result<(), Error> {
        let wanted: BTreeSet<RawAddress> = addresses.iter().map(|a| raw_address(*a)).collect();
        let there: Vec<RawSource> = keys(&self.sources, "sources")?
            .into_iter()
            .filter(|key| key.scope == scope)
            .collect();
        let room = self.capacity("sources");
        for &address in &wanted {
            self.sources
                .insert(RawSource { scope, address }, 1, 0)
                .map_err(|e| full_or_failed("sources", room, e))?;
        }
        for key in there.iter().filter(|key| !wanted.contains(&key.address)) {
            removed("sources", self.sources.remove(key))?;
        }
        Ok(())
    }

    /// Sets what holds for a scope beside the rules; packets see each setting as it was or as it is to be. Its counters start
    /// with the first call.
    ///
    /// # Errors
    /// When there is no room for another scope.
    pub fn set_scope(&mut self, scope: u32, config: ScopeConfig) -> Result<(), Error> {
        self.scopes.set(scope, config.raw(sys::monotonic_ns()))?;
        self.renew_shares()
    }

    fn renew_shares(&mut self) -> Result<(), Error> {
        self.shares.set(self.rules.control(), self.scopes.len())
    }

    /// Forgets a scope: its settings, counters, verdicts and flows. Its rules go with the next rule set.
    ///
    /// # Errors
    /// When a vif of it is still attached.
    pub fn remove_scope(&mut self, scope: u32) -> Result<(), Error> {
        if let Some(vif) = self.configured()?.into_iter().find(|vif| vif.raw.scope == scope) {
            return Err(Error::ScopeInUse {
                scope,
                interface: vif.name,
            });
        }
        self.scopes.remove(scope)?;
        self.shares.forget(scope)?;
        self.renew_shares()?;
        removed("holds", self.holds.remove(&scope))?;
        self.set_addresses(scope, &[])?;
        self.histograms.forget(scope)?;
        let writer = self.flow_writer();
        for flow in self.flows(Some(scope)) {
            let key = flow?.key;
            self.flows
                .forget_backend(&key)
                .and_then(|()| writer.remove(&key))
                .map_err(|e| Error::Map {
                    map: "flows",
                    source: e.into(),
                })?;
        }
        Ok(())
    }

    /// Exchanges the rule set: each packet is decided by the old one or the new one. Flows that the rules allowed
    /// are asked about again with their next packet; verdicts of userspace stay as they are.
    ///
    /// The old set stays in force when this fails. `generation` is the caller's number for the set; any that differs
    /// from the one before.
    ///
    /// # Errors
    /// When the set contradicts itself, or has no room beside the one in force.
    pub fn publish(&mut self, set: &RuleSet, generation: u32) -> Result<(), Error> {
        self.rules.publish(set, generation)
    }

    /// The generation in force; 0 before the first.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn generation(&self) -> Result<u32, Error> {
        self.rules.generation()
    }

    /// Exchanges the services, of all scopes: each flow that begins finds the old ones or the new ones. Flows under way keep
    /// their backend unless that is dead.
    ///
    /// # Errors
    /// When they contradict themselves, or are too many; the old ones then stay in force.
    pub fn publish_services(&mut self, services: &[Service]) -> Result<(), Error> {
        self.services.publish(services)
    }

    /// A handle that writes verdicts, for any number of threads.
    pub fn flow_writer(&self) -> FlowWriter {
        FlowWriter::new(self.flows.clone())
    }

    /// The flows of one scope, or of all.
    pub fn flows(&self, scope: Option<u32>) -> Flows {
        Flows::new(&self.flows, scope)
    }

    /// The events. They go to one reader: of several, each gets some, or only the last.
    ///
    /// # Errors
    /// When the ring or the buffers cannot be mapped.
    pub fn events(&self) -> Result<Events, Error> {
        match self.pins.map_type("events") {
            Some(MapType::PerfEventArray) => Events::of_cpus(self.pins.map("events")?, self.event_bytes),
            _ => Ok(Events::of_ring(self.pins.map("events")?)),
        }
    }

    /// The counters of every scope, by scope and direction.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn stats(&self) -> Result<Vec<ScopeStats>, Error> {
        self.scopes.stats()
    }

    /// What was measured of TCP connections since the datapath is there, or since the history was pushed out by another.
    /// Reading it hinders no packet.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn histograms(&self) -> Result<Vec<ConnectionHistograms>, Error> {
        self.histograms.read()
    }

    /// The copies that went to guests, by guest.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn mirrored(&self) -> Result<Vec<MirrorStats>, Error> {
        mirror::stats(&self.mirrors)
    }

    pub(crate) fn capacity(&self, map: &str) -> u32 {
        self.pins.capacity(map).unwrap_or(0)
    }
}

pub(crate) fn table<K: Pod, V: Pod>(pins: &Pins, name: &'static str) -> Result<Table<K, V>, Error> {
    Table::new(&pins.map_data(name)?).map_err(|e| Error::Map {
        map: name,
        source: e.into(),
    })
}

pub(crate) fn ifindex(interface: &str) -> Result<u32, Error> {
    nix::net::if_::if_nametoindex(interface).map_err(|_| Error::NoInterface {
        interface: interface.to_owned(),
    })
}
