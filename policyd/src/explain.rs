// SPDX-License-Identifier: GPL-3.0-only
//! What would become of a flow, and why.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use netback_filter::Vlan;
use policy::{Decision, Endpoint, Flow, Owner, Protocol, Verdict};
use policyd_api as api;
use vmi_xen::observe::Subject;

use crate::daemon::{Daemon, DaemonError};
use crate::gate::Way;
use crate::present;
use crate::registry::lock;
use crate::routes::instead::Denied;
use crate::routes::{Facade, Member};
use crate::world::{World, policy_process};

impl Daemon {
    /// `POST /v1/explain`.
    pub fn explain(&self, request: &api::ExplainRequest) -> Result<api::Explained, DaemonError> {
        let protocol: Protocol = request
            .protocol
            .parse()
            .map_err(|e| DaemonError::Invalid(format!("{e}")))?;
        let world = self.world.load();
        let from = self.place(&world, &request.from)?;
        let (to, port) = match self.route(&world, protocol, &request.to, request.port)? {
            Some(end) => (world_place(&world, end.ip()), end.port()),
            None => {
                let port = match request.port {
                    _ if !protocol.has_ports() => 0,
                    Some(port) => port,
                    None => {
                        let what = "which port? only a route has one of its own; add --port N";
                        return Err(DaemonError::Invalid(what.into()));
                    }
                };
                (self.place(&world, &request.to)?, port)
            }
        };
        let mut source = match from.scope {
            Some(scope) => world.source(scope, from.address, None),
            None => Endpoint::world(from.address),
        };
        let mut who: Option<Arc<Subject>> = None;
        if let (Some(exe), Some(_)) = (&request.exe, from.vm) {
            who = self.running(&request.from, exe, request.uid);
            source.owner = Owner::Process(match &who {
                Some(subject) => match from.scope.and_then(|scope| world.vm(scope)) {
                    Some(vm) => vm.process(subject),
                    None => policy_process(subject, policy::Measured::Unknown),
                },
                None => policy::Process {
                    exe: Some(exe),
                    uid: request.uid.unwrap_or(0),
                    ..Default::default()
                },
            });
        }
        let scope = from.scope.or(to.scope).unwrap_or(u32::MAX);
        let asked = Asked {
            world: &world,
            protocol,
            source,
            who: who.as_ref(),
            scope,
        };
        match world.routes.at(protocol, SocketAddr::new(to.address, port)) {
            // What comes from outside meets no vif that would redirect it.
            Some(facade) if from.scope.is_some() => Ok(asked.through(facade)),
            _ => Ok(asked.directly(SocketAddr::new(to.address, port))),
        }
    }

    /// A process of the domain that runs `exe` (as `uid`, if given).
    fn running(&self, domain: &str, exe: &str, uid: Option<u32>) -> Option<Arc<Subject>> {
        let entry = self.registry.find(domain)?;
        let inspector = lock(&entry.inspector);
        let all = inspector.as_ref()?.processes().ok()?;
        all.into_iter()
            .find(|s| s.process.exe.as_deref() == Some(exe) && uid.is_none_or(|uid| uid == s.process.euid))
    }

    /// The address of a route that is named by `ROUTE` or `SET/ROUTE`; a domain of the same name counts before it.
    fn route(
        &self,
        world: &World,
        protocol: Protocol,
        text: &str,
        port: Option<u16>,
    ) -> Result<Option<SocketAddr>, DaemonError> {
        if text.parse::<IpAddr>().is_ok() || self.find(text).is_ok() {
            return Ok(None);
        }
        let is_named = |facade: &&Facade| *facade.route.name == *text || facade.route.to_string() == text;
        let named: Vec<&Facade> = world.routes.iter().filter(is_named).collect();
        let Some(first) = named.first() else {
            return Ok(None);
        };
        if named.iter().any(|f| f.route.set != first.route.set) {
            return Err(DaemonError::Invalid(format!(
                "several sets have a route {text}; write {} for one of them",
                first.route
            )));
        }
        if first.route.protocol != protocol {
            let of = first.route.protocol;
            return Err(DaemonError::Invalid(format!(
                "route {text} is of {of}; add --protocol {of}"
            )));
        }
        // Of two addresses the first that is written.
        Ok(Some(SocketAddr::new(
            first.end.ip(),
            port.unwrap_or(first.end.port()),
        )))
    }

    /// A domain by name or id, or an address.
    fn place<'w>(&self, world: &'w World, text: &str) -> Result<Place<'w>, DaemonError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(world_place(world, address.to_canonical()));
        }
        let entry = self.find(text)?;
        let vm = world
            .vm(entry.scope())
            .ok_or_else(|| DaemonError::NoSuchDomain(text.to_owned()))?;
        let address = vm.addresses().next().ok_or_else(|| {
            DaemonError::Unavailable(format!(
                "no address of {text} is known yet; name an address, or give its vif an `ip=` in the domain's xl.cfg"
            ))
        })?;
        Ok(Place {
            vm: Some(&vm.id),
            scope: Some(vm.scope),
            address,
        })
    }
}

/// An end of a flow that somebody asks about.
struct Place<'w> {
    vm: Option<&'w policy::VmId>,
    scope: Option<u32>,
    address: IpAddr,
}

fn world_place(world: &World, address: IpAddr) -> Place<'_> {
    let vm = world.vm_at(address);
    Place {
        vm: vm.map(|vm| &vm.id),
        scope: vm.map(|vm| vm.scope),
        address,
    }
}

/// A flow that somebody asks about, but for where it goes.
struct Asked<'w> {
    world: &'w World,
    protocol: Protocol,
    source: Endpoint<'w>,
    who: Option<&'w Arc<Subject>>,
    /// The guest that is asked about.
    scope: u32,
}

impl Asked<'_> {
    /// To where it is addressed.
    fn directly(&self, end: SocketAddr) -> api::Explained {
        let (protocol, world) = (self.protocol, self.world);
        let flow = self.flow(end);
        let decision = world.decide(&flow);
        let explanation = world.rules.explain(&flow);
        let mut why: Vec<String> = explanation.to_string().lines().map(str::to_owned).collect();
        if decision.verdict != explanation.decision.verdict {
            why.push("denied all the same: it depends on a process that is not known".into());
        }
        why.extend(self.instead(end, &decision));
        let listener = world
            .vm_at(end.ip())
            .and_then(|vm| vm.listeners.owner_of(protocol, end.ip(), end.port()));
        api::Explained {
            decision: present::decision(world, self.scope, &decision),
            from: present::party(world, &self.source, None, self.who),
            to: present::party(world, &flow.destination, Some((protocol, end.port())), listener),
            why,
        }
    }

    /// Where the rule that denies the flow sends it, or why it does not.
    fn instead(&self, end: SocketAddr, decision: &Decision) -> Option<String> {
        let world = self.world;
        let instead = world.rules.instead(decision.by)?;
        let source = self.source.vm.and(world.vm_at(self.source.address));
        let Some(vm) = source.filter(|vm| vm.trapped) else {
            return Some("not sent elsewhere: no trap shows the flow before its first packet".into());
        };
        let way = Way {
            scope: vm.scope,
            protocol: self.protocol,
            local: SocketAddr::new(self.source.address, 0),
            remote: end,
            vlan: Vlan::NONE,
        };
        let denied = Denied {
            way: &way,
            by: decision.by,
            to: end,
        };
        Some(match world.routes.diversions.choose(world, denied) {
            Some(target) => format!("it goes to {} instead", target.end),
            None => format!(
                "not sent elsewhere: there is no {} that could serve it",
                instead.name
            ),
        })
    }

    /// To a backend of a route: which, its port will say. The verdict is deny if the flow to one of them would be denied.
    fn through(&self, facade: &Facade) -> api::Explained {
        let (world, route) = (self.world, &facade.route);
        let mut pool: Vec<(&Member, u16)> = facade
            .pool(&self.source, self.scope)
            .map(|(member, backend)| (member, backend.weight))
            .collect();
        let mut why = vec![match route.canary(&self.source) {
            Some(version) => format!(
                "route {route}: a canary, for version {}",
                route.version_name(version)
            ),
            None => format!("route {route}: by weight"),
        }];
        if pool.is_empty() {
            let decision = world.unserved(route);
            why.push("no backend serves it".into());
            why.extend(facade.members.iter().filter_map(|member| {
                let reason = present::why_of(member)?;
                Some(format!("backend {}: {reason}", member.end()))
            }));
            return api::Explained {
                decision: api::Decision {
                    rule: format!("no backend of {route}"),
                    ..present::decision(world, self.scope, &decision)
                },
                ..self.explained(facade.end, why)
            };
        }
        let all: f64 = pool.iter().map(|(_, weight)| f64::from(*weight)).sum();
        // The heaviest first: it is the one to be told of in full.
        pool.sort_by_key(|(member, weight)| (std::cmp::Reverse(*weight), member.end()));
        let mut told: Option<(SocketAddr, Decision)> = None;
        for (member, weight) in pool {
            let decision = world.decide(&self.flow(member.end()));
            let shown = present::decision(world, self.scope, &decision);
            why.push(format!(
                "{:.0} % to {}{}: {} by {}",
                f64::from(weight) * 100.0 / all,
                present::version_of(facade, member).map_or(String::new(), |v| format!("version {v}, ")),
                member.end(),
                if decision.verdict == Verdict::Allow {
                    "allow"
                } else {
                    "deny"
                },
                shown.rule
            ));
            let worse = |(_, told): (SocketAddr, Decision)| {
                told.verdict == Verdict::Allow && decision.verdict == Verdict::Deny
            };
            if told.is_none_or(worse) {
                told = Some((member.end(), decision));
            }
        }
        // The pool has at least one.
        let end = told.map_or(facade.end, |(end, _)| end);
        if let (
            Some((
                _,
                Decision {
                    verdict: Verdict::Deny,
                    ..
                },
            )),
            Some(version),
        ) = (told, route.decoy())
        {
            why.push(format!(
                "what is denied goes to version {}, if that is allowed",
                route.version_name(version)
            ));
        }
        why.push(format!("to {end}:"));
        self.explained(end, why)
    }

    fn explained(&self, end: SocketAddr, mut why: Vec<String>) -> api::Explained {
        let explained = self.directly(end);
        why.extend(explained.why);
        api::Explained { why, ..explained }
    }

    fn flow(&self, end: SocketAddr) -> Flow<'_> {
        Flow {
            protocol: self.protocol,
            source: self.source,
            destination: self.world.destination(self.protocol, end.ip(), end.port()),
            port: end.port(),
        }
    }
}
