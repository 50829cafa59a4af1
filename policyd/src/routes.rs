// SPDX-License-Identifier: GPL-3.0-only
//! Routes as they are now: their backends, where each is, and in what state. Pure.
//!
//! Policy says who may be a backend; the World says which guests there are and who listens in them, and [`Condition`] what
//! else is known of an address. What comes of it is published to the datapath, and the gate chooses by it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use netback_filter::{Backend, BackendState, Refuse, Service, Target};
use policy::{Endpoint, Protocol, Role, Route, RouteBackend, RouteTarget, Version, Who};

use crate::world::{Vm, World};
use instead::Diversions;

pub mod instead;

/// Backends of all routes: what the datapath has room for.
const MAX_BACKENDS: usize = 4096;

/// Why a backend gets no new flows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// dom0's own checks fail.
    Check,
    /// Guests' connects were refused or not answered.
    Connects,
    /// Nobody in the guest listens on the port.
    NobodyListens,
    /// Another program listens there than the service says.
    Another(Option<Box<str>>),
    /// The guest is paused.
    Paused,
}

/// How a backend stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It takes flows.
    Serves,
    /// Policy lets it keep what it has.
    Drains,
    /// It keeps what it has until it comes back.
    Fails(Failure),
    /// Its guest is no more: its flows end.
    Gone,
}

/// What is known of an address beside what the World knows.
pub trait Condition {
    /// What dom0's own checks say: `None`, nothing.
    fn checked(&self, protocol: Protocol, end: SocketAddr) -> Option<bool>;
    /// Whether guests' connects failed of late.
    fn is_shunned(&self, protocol: Protocol, end: SocketAddr) -> bool;
    /// Backends whose guest was destroyed a moment ago.
    fn gone(&self) -> &[Departed];
}

/// A backend whose guest was destroyed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departed {
    /// The address of the route.
    pub facade: SocketAddr,
    /// Its protocol.
    pub protocol: Protocol,
    /// The backend as it was.
    pub member: Member,
}

/// One backend of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// As it is in the table for flows that nobody chose for.
    pub table: Backend,
    /// Its weight among those of its version.
    weight: u16,
    /// Its guest; none outside of this host.
    pub scope: Option<u32>,
    /// What it runs.
    pub version: Option<Version>,
    /// What it serves.
    pub role: Role,
    /// How it stands.
    pub standing: Standing,
}

/// One address of a route with its backends.
#[derive(Debug)]
pub struct Facade {
    /// The route.
    pub route: Arc<Route>,
    /// Its address and port.
    pub end: SocketAddr,
    /// Its backends of that family.
    pub members: Vec<Member>,
}

/// All routes.
#[derive(Debug, Default)]
pub struct Routes {
    /// Where rules send what they deny.
    pub diversions: Diversions,
    facades: Vec<Facade>,
    by_end: HashMap<(Protocol, SocketAddr), usize>,
}

impl Member {
    /// Its address and port.
    pub fn end(&self) -> SocketAddr {
        SocketAddr::new(self.table.address, self.table.port)
    }

    /// Where a flow to it is sent.
    pub fn target(&self) -> Target {
        Target {
            end: self.end(),
            mac: self.table.mac,
        }
    }

    fn serves(&self) -> bool {
        self.standing == Standing::Serves
    }

    /// As a backend among those of its version.
    fn by_version(&self) -> Backend {
        Backend {
            weight: self.weight,
            state: BackendState::Serving,
            ..self.table
        }
    }
}

impl Facade {
    /// The backends that a flow may go to which `source` in guest `scope` opens, each with its weight.
    pub fn pool<'f>(
        &'f self,
        source: &Endpoint<'_>,
        scope: u32,
    ) -> impl Iterator<Item = (&'f Member, Backend)> + 'f {
        let version = self.route.canary(source);
        self.members
            .iter()
            .filter(move |member| match version {
                Some(_) => member.version == version,
                None => member.table.weight > 0,
            })
            .filter(move |member| member.serves() && member.scope != Some(scope))
            .map(move |member| match version {
                Some(_) => (member, member.by_version()),
                None => (member, member.table),
            })
    }

    /// The backend of a flow that begins. Allocates nothing.
    pub fn choose(&self, source: &Endpoint<'_>, scope: u32, client: SocketAddr) -> Option<&Member> {
        self.draw(client, || self.pool(source, scope))
    }

    /// Where a flow goes that the rules deny to the others.
    pub fn decoy(&self, scope: u32, client: SocketAddr) -> Option<&Member> {
        let version = Some(self.route.decoy()?);
        self.draw(client, || {
            let all = self.members.iter();
            all.filter(move |m| m.version == version && m.serves() && m.scope != Some(scope))
                .map(|member| (member, member.by_version()))
        })
    }

    fn draw<'f, I: Iterator<Item = (&'f Member, Backend)>>(
        &'f self,
        client: SocketAddr,
        pool: impl Fn() -> I,
    ) -> Option<&'f Member> {
        let chosen = Backend::choose(pool().map(|(_, backend)| backend), client, self.route.affinity)?;
        pool()
            .find(|(_, backend)| *backend == chosen)
            .map(|(member, _)| member)
    }

    /// The backend at this address.
    pub fn member(&self, end: SocketAddr) -> Option<&Member> {
        self.members.iter().find(|member| member.end() == end)
    }

    fn service(&self) -> Service {
        Service {
            address: self.end.ip(),
            port: self.end.port(),
            protocol: netback_filter::Protocol(self.route.protocol.0),
            backends: self.members.iter().map(|member| member.table).collect(),
            affinity: self.route.affinity,
            refuse: match self.route.refuse {
                policy::Refuse::Rst => Refuse::Reset,
                policy::Refuse::Icmp => Refuse::Prohibited,
                policy::Refuse::Drop => Refuse::Drop,
            },
        }
    }
}

impl Routes {
    /// The routes of a World's policy among its guests.
    pub fn resolve(world: &World, condition: &impl Condition) -> Routes {
        let mut facades = Vec::new();
        let mut room = MAX_BACKENDS;
        for route in world.rules.routes() {
            for address in &route.addresses {
                let mut members = members(world, route, *address, condition);
                if members.len() > room {
                    log::warn!("{route}: of {} backends {room} are left out", members.len());
                    members.truncate(room);
                }
                room -= members.len();
                facades.push(Facade {
                    route: Arc::clone(route),
                    end: SocketAddr::new(*address, route.port),
                    members,
                });
            }
        }
        bury(&mut facades, condition.gone());
        let by_end = facades
            .iter()
            .enumerate()
            .map(|(i, facade)| ((facade.route.protocol, facade.end), i))
            .collect();
        Routes {
            diversions: Diversions::resolve(world),
            facades,
            by_end,
        }
    }

    /// The route that has this address and port.
    pub fn at(&self, protocol: Protocol, end: SocketAddr) -> Option<&Facade> {
        self.by_end
            .get(&(protocol, end))
            .and_then(|i| self.facades.get(*i))
    }

    /// Every address of every route.
    pub fn iter(&self) -> impl Iterator<Item = &Facade> {
        self.facades.iter()
    }

    /// As the datapath takes them.
    pub fn services(&self) -> Vec<Service> {
        self.facades.iter().map(Facade::service).collect()
    }
}

/// The backends of a route's address, weights shared out.
fn members(world: &World, route: &Route, address: IpAddr, condition: &impl Condition) -> Vec<Member> {
    let mut members: Vec<Member> = Vec::new();
    let mut entries = Vec::new();
    let mut seen = HashSet::new();
    for entry in &route.backends {
        let first = members.len();
        for target in &entry.targets {
            let other = |a: &IpAddr| a.is_ipv4() == address.is_ipv4() && *a != address;
            for (address, vm) in places(world, &target.who, other) {
                let end = SocketAddr::new(address, target.port);
                if seen.insert(end) {
                    let standing = standing(route, entry, target, end, vm, condition);
                    members.push(member(entry, end, vm, standing));
                }
            }
        }
        entries.push((entry, first..members.len()));
    }
    let shares = |role: Role, members: &[Member]| {
        entries.iter().any(|(entry, range)| {
            entry.role == role && entry.weight > 0 && members[range.clone()].iter().any(Member::serves)
        })
    };
    let role = match shares(Role::Share, &members) {
        true => Role::Share,
        false => Role::Failover,
    };
    // The part of each backend that serves, in the order of the entries.
    let part = |weight: u16, range: &std::ops::Range<usize>, members: &[Member]| {
        let serving = members[range.clone()].iter().filter(|m| m.serves()).count();
        f64::from(weight) / serving.max(1) as f64
    };
    let parts: Vec<(f64, f64)> = entries
        .iter()
        .map(|(entry, range)| {
            let table = if entry.role == role { entry.weight } else { 0 };
            (
                part(table, range, &members),
                part(entry.weight.max(1), range, &members),
            )
        })
        .collect();
    // Whole weights stay as they are written; others are scaled so that rounding does not show.
    let scale = |parts: &[f64]| {
        let most = parts.iter().copied().fold(0.0, f64::max);
        match parts.iter().all(|part| part.fract() == 0.0) || most == 0.0 {
            true => 1.0,
            false => f64::from(u16::MAX) / most,
        }
    };
    let (tables, directs): (Vec<f64>, Vec<f64>) = parts.iter().copied().unzip();
    let (by_table, by_version) = (scale(&tables), scale(&directs));
    for ((_, range), (table, direct)) in entries.iter().zip(&parts) {
        for member in &mut members[range.clone()] {
            if member.serves() {
                member.table.weight = weight(*table * by_table);
                member.weight = weight(*direct * by_version);
            }
        }
    }
    members
}

/// A part as a weight: none only where the part is none.
fn weight(part: f64) -> u16 {
    match part > 0.0 {
        // At most the largest weight, by the scale.
        true => (part.round() as u16).max(1),
        false => 0,
    }
}

fn member(entry: &RouteBackend, end: SocketAddr, vm: Option<&Vm>, standing: Standing) -> Member {
    Member {
        table: Backend {
            address: end.ip(),
            port: end.port(),
            mac: vm.and_then(|vm| vm.mac_of(end.ip())),
            weight: 0,
            state: match standing {
                Standing::Serves => BackendState::Serving,
                Standing::Drains | Standing::Fails(_) => BackendState::Draining,
                Standing::Gone => BackendState::Dead,
            },
        },
        weight: 0,
        scope: vm.map(|vm| vm.scope),
        version: entry.version,
        role: entry.role,
        standing,
    }
}

/// Where it is: those of its addresses that are `wanted`, one a guest, with their guests.
fn places<'w>(
    world: &'w World,
    who: &Who,
    wanted: impl Fn(&IpAddr) -> bool,
) -> Vec<(IpAddr, Option<&'w Vm>)> {
    let fits = |address: &IpAddr| {
        let local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        !local && wanted(address)
    };
    // What dom0 gave it before what it says itself; one address a guest.
    let of_guests = world.vms().iter().filter_map(|vm| {
        let own = |address: &IpAddr| {
            let given = !who.is_by_address() || vm.configured.contains(address);
            given && world.vm_at(*address).is_some_and(|o| o.scope == vm.scope)
        };
        let found = vm
            .addresses()
            .filter(|a| fits(a))
            .filter(own)
            .find(|a| who.selects(&Endpoint::guest(&vm.id, *a)))?;
        Some((found, Some(vm)))
    });
    let outside = who
        .addresses()
        .filter(|a| fits(a) && !world.vm_at(*a).is_some_and(|vm| vm.configured.contains(a)))
        .map(|address| (address, None));
    of_guests.chain(outside).collect()
}

fn standing(
    route: &Route,
    entry: &RouteBackend,
    target: &RouteTarget,
    end: SocketAddr,
    vm: Option<&Vm>,
    condition: &impl Condition,
) -> Standing {
    if entry.drain {
        return Standing::Drains;
    }
    let (protocol, health) = (route.protocol, &route.health);
    let checked = condition.checked(protocol, end);
    match vm.and_then(|vm| fault(&target.who, protocol, end, vm)) {
        Some(Fault::Paused) => return Standing::Fails(Failure::Paused),
        Some(Fault::Another(exe)) => return Standing::Fails(Failure::Another(exe.map(Box::from))),
        // A port may be served without a listener: by address translation in the guest. A check that succeeds says so.
        Some(Fault::NobodyListens) if health.listener && checked != Some(true) => {
            return Standing::Fails(Failure::NobodyListens);
        }
        Some(Fault::NobodyListens) | None => {}
    }
    match checked {
        Some(false) => Standing::Fails(Failure::Check),
        _ if health.passive && condition.is_shunned(protocol, end) => Standing::Fails(Failure::Connects),
        _ => Standing::Serves,
    }
}

/// Why a guest serves nothing at an address and port of its own.
enum Fault<'w> {
    Paused,
    /// Another program listens there, as far as its executable is known.
    Another(Option<&'w str>),
    NobodyListens,
}

/// By what is known of the guest. Allocates nothing.
fn fault<'w>(who: &Who, protocol: Protocol, end: SocketAddr, vm: &'w Vm) -> Option<Fault<'w>> {
    if vm.paused {
        return Some(Fault::Paused);
    }
    let there = vm.destination(protocol, end.ip(), end.port());
    if who.contradicts(&there, protocol, end.port()) {
        return Some(Fault::Another(match there.owner {
            policy::Owner::Process(process) => process.exe,
            _ => None,
        }));
    }
    let silent = vm.listeners.owner_of(protocol, end.ip(), end.port()).is_none();
    (silent && protocol == Protocol::TCP && vm.knows_listeners()).then_some(Fault::NobodyListens)
}

/// Adds backends whose guest is gone, where nobody else has their address by now.
fn bury(facades: &mut [Facade], gone: &[Departed]) {
    let alive: BTreeSet<(Protocol, SocketAddr)> = facades
        .iter()
        .flat_map(|f| f.members.iter().map(|m| (f.route.protocol, m.end())))
        .collect();
    for departed in gone {
        let end = departed.member.end();
        if alive.contains(&(departed.protocol, end)) {
            continue;
        }
        let facade = facades
            .iter_mut()
            .find(|f| (f.route.protocol, f.end) == (departed.protocol, departed.facade));
        if let Some(facade) = facade
            && facade.member(end).is_none()
        {
            facade.members.push(departed.member.clone());
        }
    }
}

impl Departed {
    /// What is left of a backend.
    pub fn new(facade: &Facade, member: &Member) -> Departed {
        Departed {
            facade: facade.end,
            protocol: facade.route.protocol,
            member: Member {
                table: Backend {
                    weight: 0,
                    state: BackendState::Dead,
                    ..member.table
                },
                weight: 0,
                // The policy that numbered its versions may be gone as well.
                version: None,
                standing: Standing::Gone,
                ..member.clone()
            },
        }
    }
}

#[cfg(test)]
mod tests;
