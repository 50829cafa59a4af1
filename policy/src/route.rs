// SPDX-License-Identifier: GPL-3.0-only
//! Routes ready to be used: who may be a backend, and which version a client is for.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::document::{self, Document, Health, MAX_ROUTES, Refuse, Selector, Target, single_port};
use crate::flow::Endpoint;
use crate::matching::{Condition, Subject, Truth};
use crate::port::Protocol;
use crate::problem::{Place, Problem};
use crate::ruleset::End;

/// An address that guests open flows to, and who serves them.
#[derive(Debug)]
pub struct Route {
    /// The set it is written in.
    pub set: Arc<str>,
    /// Its name within the set.
    pub name: Box<str>,
    /// Its address: one, or one of each family.
    pub addresses: Box<[IpAddr]>,
    /// Its port.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// All flows from one address go to one backend, as long as the backends stay the same.
    pub affinity: bool,
    /// How a flow is refused that no backend is there for.
    pub refuse: Refuse,
    /// How it shows whether a backend serves.
    pub health: Health,
    /// Its backends, as written.
    pub backends: Box<[RouteBackend]>,
    /// Names of versions, by [`Version`].
    versions: Box<[Box<str>]>,
    canary: Box<[(Box<[End]>, Version)]>,
    denied: Option<Version>,
}

/// A version of one route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version(u16);

/// What a backend serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Flows, by weight.
    Share,
    /// Flows by weight, while nobody has a share.
    Failover,
    /// Only what the rules deny to the others.
    Decoy,
}

/// Backends that share a weight: one entry of `backends`.
#[derive(Debug)]
pub struct RouteBackend {
    /// What they run.
    pub version: Option<Version>,
    /// What they serve.
    pub role: Role,
    /// Their share of new flows, together, is this by the sum of all weights.
    pub weight: u16,
    /// They take no new flows.
    pub drain: bool,
    /// Who they are.
    pub targets: Box<[RouteTarget]>,
}

/// One of who they are.
#[derive(Debug)]
pub struct RouteTarget {
    /// The port that it serves on.
    pub port: u16,
    who: Who,
}

#[derive(Debug)]
enum Who {
    Address(IpAddr),
    Selector(Arc<Selector>),
}

impl RouteTarget {
    /// Addresses that are it whether they are a guest's or not.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let (one, blocks) = match &self.who {
            Who::Address(address) => (Some(*address), &[][..]),
            Who::Selector(selector) if selector.vm.is_empty() => (None, selector.address.as_slice()),
            Who::Selector(_) => (None, &[][..]),
        };
        let hosts = blocks.iter().filter(|block| block.address() == block.last());
        one.into_iter().chain(hosts.map(|block| block.address()))
    }

    /// Whether it is known by its address alone. A guest is then no such backend because it says that it has the address.
    pub fn is_by_address(&self) -> bool {
        match &self.who {
            Who::Address(_) => true,
            Who::Selector(selector) => selector.vm.is_empty(),
        }
    }

    /// Whether a guest at this address is it, whatever runs in it.
    pub fn selects(&self, guest: &Endpoint<'_>) -> bool {
        match &self.who {
            Who::Address(address) => *address == guest.address,
            Who::Selector(selector) => {
                let subject = Subject::new(guest, None);
                [Condition::Vm, Condition::Address].into_iter().all(|c| {
                    selector
                        .check(c, &subject)
                        .is_none_or(|holds| holds == Truth::Yes)
                })
            }
        }
    }

    /// Whether what is known of who listens there contradicts it.
    pub fn contradicts(&self, guest: &Endpoint<'_>, protocol: Protocol) -> bool {
        match &self.who {
            Who::Address(_) => false,
            Who::Selector(selector) => {
                selector.matches(&Subject::new(guest, Some((protocol, self.port)))) == Truth::No
            }
        }
    }
}

impl Route {
    /// `ends`: what the peers of this set are, ready to be tried.
    pub(crate) fn new(
        set: &Arc<str>,
        name: &str,
        written: &document::Route,
        service: impl Fn(&str) -> Option<Arc<Selector>>,
        ends: impl Fn(&[document::Peer]) -> Box<[End]>,
    ) -> Route {
        let mut versions: Vec<Box<str>> = Vec::new();
        for version in written.backends.iter().filter_map(|b| b.version.as_deref()) {
            if !versions.iter().any(|v| **v == *version) {
                versions.push(version.into());
            }
        }
        let number = |name: &str| {
            let at = versions.iter().position(|v| **v == *name)?;
            // A list of backends is shorter than that.
            u16::try_from(at).ok().map(Version)
        };
        let backends = written
            .backends
            .iter()
            .map(|backend| RouteBackend {
                version: backend.version.as_deref().and_then(number),
                role: match &backend.version {
                    Some(v) if written.denied.as_ref() == Some(v) => Role::Decoy,
                    Some(v) if written.failover.contains(v) => Role::Failover,
                    _ => Role::Share,
                },
                weight: backend.weight,
                drain: backend.drain,
                targets: backend
                    .to
                    .iter()
                    .filter_map(|target| {
                        let who = match target {
                            Target::Address(address) => Who::Address(*address),
                            Target::Inline(selector) => Who::Selector(Arc::new((**selector).clone())),
                            // A document's own services hold every name its routes use.
                            Target::Service(name) => Who::Selector(service(name)?),
                        };
                        let theirs = match &who {
                            Who::Selector(selector) => single_port(selector),
                            Who::Address(_) => None,
                        };
                        Some(RouteTarget {
                            port: backend.port.or(theirs).unwrap_or(written.port),
                            who,
                        })
                    })
                    .collect(),
            })
            .collect();
        Route {
            set: set.clone(),
            name: name.into(),
            addresses: written.address.as_slice().into(),
            port: written.port,
            protocol: written.protocol,
            affinity: written.affinity,
            refuse: written.refuse,
            health: written.health,
            backends,
            canary: written
                .canary
                .iter()
                .filter_map(|canary| Some((ends(&canary.from), number(&canary.to)?)))
                .collect(),
            denied: written.denied.as_deref().and_then(number),
            versions: versions.into(),
        }
    }

    /// The version that this client is for, whatever the weights say: that of the first canary that matches. One that asks for
    /// a process does not match a client whose process is not known. Allocates nothing.
    pub fn canary(&self, source: &Endpoint<'_>) -> Option<Version> {
        let subject = Subject::new(source, None);
        let found = self
            .canary
            .iter()
            .find(|(from, _)| from.iter().any(|end| end.matches(&subject) == Truth::Yes));
        found.map(|(_, version)| *version)
    }

    /// Whether somebody is for one version.
    pub fn has_canary(&self) -> bool {
        !self.canary.is_empty()
    }

    /// The version that a flow goes to which the rules deny to the others.
    pub fn decoy(&self) -> Option<Version> {
        self.denied
    }

    /// What people call a version.
    pub fn version_name(&self, version: Version) -> &str {
        self.versions.get(usize::from(version.0)).map_or("?", |name| name)
    }
}

impl std::fmt::Display for Route {
    /// `set/name`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.set, self.name)
    }
}

/// Two routes cannot have one address, and there is room for so many only.
pub(crate) fn check(documents: &[&Document], problems: &mut Vec<Problem>) {
    let mut taken = BTreeMap::new();
    let mut count = 0;
    for document in documents {
        for (name, route) in &document.routes {
            count += 1;
            let place = document.origin.routes.get(name).copied().unwrap_or(Place::START);
            let problem = |what: String, remedy: String| Problem {
                file: document.origin.file.clone(),
                line: place.line,
                column: place.column,
                what,
                remedy,
            };
            if count == MAX_ROUTES + 1 {
                problems.push(problem(
                    format!("more than {MAX_ROUTES} routes in all sets together"),
                    "join routes: a route may have any number of backends".to_owned(),
                ));
            }
            for address in &route.address {
                let key = (*address, route.port, route.protocol);
                if let Some((set, first)) = taken.insert(key, (&document.name, name)) {
                    let end = SocketAddr::new(*address, route.port);
                    problems.push(problem(
                        format!(
                            "route `{name}` has the address of another, {end} over {}",
                            route.protocol
                        ),
                        format!("give it another address or port; the other is {set}/{first}"),
                    ));
                }
            }
        }
    }
}
