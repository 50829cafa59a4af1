// SPDX-License-Identifier: GPL-3.0-only
//! Where rules send what they deny, among the guests that there are.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use netback_filter::{Backend, BackendState, Target};
use policy::{Decider, Instead, RuleId};

use super::{fault, places};
use crate::gate::Way;
use crate::world::{Mac, World};

/// All of them. Equal: every rule sends to where it did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Diversions {
    by_rule: HashMap<RuleId, Vec<Place>>,
}

/// One address where a rule's target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    address: IpAddr,
    mac: Option<Mac>,
    /// Its guest; none outside of this host.
    scope: Option<u32>,
}

/// A flow that is denied.
#[derive(Clone, Copy)]
pub struct Denied<'f> {
    /// As its guest has it.
    pub way: &'f Way,
    /// What denies it.
    pub by: Decider,
    /// Where it would have gone: the remote end, or a backend of a route.
    pub to: SocketAddr,
}

impl Diversions {
    /// Those of a World's policy.
    pub fn resolve(world: &World) -> Diversions {
        let of = |instead: &Instead| {
            // One address of each family of a guest.
            let families =
                [true, false].map(|v4| places(world, &instead.who, |a: &IpAddr| a.is_ipv4() == v4));
            let place = |(address, vm): (IpAddr, Option<&crate::world::Vm>)| Place {
                address,
                mac: vm.and_then(|vm| vm.mac_of(address)),
                scope: vm.map(|vm| vm.scope),
            };
            families.into_iter().flatten().map(place).collect()
        };
        Diversions {
            by_rule: world
                .rules
                .diverting()
                .map(|(id, instead)| (id, of(instead)))
                .collect(),
        }
    }

    /// Whether no rule sends anything elsewhere.
    pub fn is_empty(&self) -> bool {
        self.by_rule.is_empty()
    }

    /// Where a flow that begins goes instead: of several places one client always has the same. `None`: nowhere, for its rule
    /// does not say so or nobody is there. Allocates nothing.
    pub fn choose(&self, world: &World, denied: Denied<'_>) -> Option<Target> {
        let all = || {
            self.ends(world, denied)
                .filter(|(place, end)| place.serves(world, denied, *end))
        };
        let seat = |place: &Place, end: SocketAddr| Backend {
            address: place.address,
            port: end.port(),
            mac: place.mac,
            weight: 1,
            state: BackendState::Serving,
        };
        let chosen = Backend::choose(all().map(|(place, end)| seat(place, end)), denied.way.local, true)?;
        Some(Target {
            end: SocketAddr::new(chosen.address, chosen.port),
            mac: chosen.mac,
        })
    }

    /// Whether what denies a flow says that it goes to `end`, where it went when it began.
    pub fn keeps(&self, world: &World, denied: Denied<'_>, end: SocketAddr) -> bool {
        self.ends(world, denied).any(|(_, there)| there == end)
    }

    /// Where its rule may send a flow. A flow is not sent to where it was denied to go, nor back to its guest. Outside of this host
    /// it goes by the way that it was to take: not by a guest.
    fn ends<'d>(
        &'d self,
        world: &'d World,
        denied: Denied<'d>,
    ) -> impl Iterator<Item = (&'d Place, SocketAddr)> + use<'d> {
        let Denied { way, by, to } = denied;
        let port = world
            .rules
            .instead(by)
            .map(|instead| instead.who.port().unwrap_or(way.remote.port()));
        let places = match by {
            Decider::Rule(id) => self.by_rule.get(&id),
            Decider::Default(_) | Decider::Nothing | Decider::Unserved => None,
        };
        places
            .into_iter()
            .flatten()
            .filter_map(move |place| Some((place, SocketAddr::new(place.address, port?))))
            .filter(move |(place, end)| {
                place.address.is_ipv4() == way.remote.is_ipv4()
                    && ![to, way.remote].contains(end)
                    && match place.scope {
                        Some(scope) => scope != way.scope,
                        None => world.vm_at(way.remote.ip()).is_none(),
                    }
            })
    }
}

impl Place {
    fn serves(&self, world: &World, denied: Denied<'_>, end: SocketAddr) -> bool {
        let vm = self.scope.and_then(|scope| world.vm(scope));
        let fault = |(vm, instead): (&crate::world::Vm, &Instead)| {
            fault(&instead.who, denied.way.protocol, end, vm).is_some()
        };
        !vm.zip(world.rules.instead(denied.by))
            .is_some_and(|(vm, instead)| fault((vm, instead)))
    }
}
