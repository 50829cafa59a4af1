// SPDX-License-Identifier: GPL-3.0-only
//! Routes ready to be used: who may be a backend, and which version a client is for.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::document::{self, Document, Health, MAX_ROUTES, Refuse, Selector};
use crate::flow::Endpoint;
use crate::matching::{Subject, Truth};
use crate::port::Protocol;
use crate::problem::{Place, Problem, Problems};
use crate::ruleset::End;
use crate::target::Who;

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
    /// Who it is.
    pub who: Who,
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
                        let who = Who::new(target, &service)?;
                        Some(RouteTarget {
                            port: backend.port.or(who.port()).unwrap_or(written.port),
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

/// The routes of a policy that holds for some VMs first are those that there are.
pub(crate) fn check_same(before: &[&Document], after: &[&Document]) -> Result<(), Problems> {
    let routes = |documents: &[&Document]| {
        let all = documents
            .iter()
            .filter(|document| !document.routes.is_empty())
            .map(|document| (document.name.clone(), document.routes.clone()));
        all.collect::<BTreeMap<_, _>>()
    };
    let (was, will_be) = (routes(before), routes(after));
    let changed = after.iter().find(|document| {
        let is = was.get(&document.name);
        is.is_none_or(|is| *is != document.routes) && !(is.is_none() && document.routes.is_empty())
    });
    let gone = before
        .iter()
        .find(|document| was.contains_key(&document.name) && !will_be.contains_key(&document.name));
    match changed.or(gone) {
        None => Ok(()),
        Some(document) => Problems::or(vec![Problem {
            file: document.origin.file.clone(),
            line: document.origin.name.line,
            column: document.origin.name.column,
            what: format!(
                "the routes of `{}` change, and the change is for some VMs first",
                document.name
            ),
            remedy: "change routes for all VMs at once, and shift weights or name canaries there".to_owned(),
        }]),
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
