// SPDX-License-Identifier: GPL-3.0-only
//! Which flows of the past are asked for.

use std::str::FromStr;

use policy::pattern::Pattern;
use policy::{Block, Protocol};
use policyd_api::{FlowEnd, FlowName, PastQuery, Verdict};

use crate::daemon::DaemonError;
use crate::world::World;
use policyd_advice::End;

/// What is asked of an end.
enum Who {
    World,
    Address(Block),
    Guest(Pattern, Option<Pattern>),
    Service(String),
}

/// What is asked of flows.
pub struct Filter<'w> {
    world: &'w World,
    from: Option<Who>,
    to: Option<Who>,
    port: Option<u16>,
    protocol: Option<String>,
    verdict: Option<Verdict>,
    rule: Option<String>,
}

impl<'w> Filter<'w> {
    /// Reads a query.
    ///
    /// # Errors
    /// Where it means nothing.
    pub fn new(world: &'w World, query: &PastQuery) -> Result<Filter<'w>, DaemonError> {
        let who = |text: &Option<String>| text.as_deref().map(|text| Who::read(world, text)).transpose();
        let protocol = query.protocol.as_deref().map(Protocol::from_str).transpose();
        let protocol = protocol.map_err(|e| DaemonError::Invalid(e.to_string()))?;
        Ok(Filter {
            world,
            from: who(&query.from)?,
            to: who(&query.to)?,
            port: query.port,
            protocol: protocol.map(|p| p.to_string()),
            verdict: query.verdict,
            rule: query.rule.clone(),
        })
    }

    /// Whether these flows are asked for.
    pub fn matches(&self, name: &FlowName) -> bool {
        let equal = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        self.port.is_none_or(|port| name.port == Some(port))
            && self.verdict.is_none_or(|verdict| name.verdict == verdict)
            && equal(&self.protocol, &name.protocol)
            && self
                .rule
                .as_deref()
                .is_none_or(|rule| name.rule.starts_with(rule))
            && self
                .from
                .as_ref()
                .is_none_or(|who| who.is(self.world, name, Side::From))
            && self
                .to
                .as_ref()
                .is_none_or(|who| who.is(self.world, name, Side::To))
    }
}

#[derive(Clone, Copy)]
enum Side {
    From,
    To,
}

impl Who {
    fn read(world: &World, text: &str) -> Result<Who, DaemonError> {
        let pattern =
            |text: &str| Pattern::from_str(text).map_err(|e| DaemonError::Invalid(format!("`{text}`: {e}")));
        if text == "world" {
            return Ok(Who::World);
        }
        if let Ok(block) = Block::from_str(text) {
            return Ok(Who::Address(block));
        }
        let (domain, exe) = match text.split_once(':') {
            Some((domain, exe)) => (domain, Some(exe)),
            None if text.starts_with('/') => ("*", Some(text)),
            None if text.contains('/') => return Ok(Who::Service(text.to_owned())),
            None => (text, None),
        };
        let by_id = domain.parse().ok().and_then(|scope| world.vm(scope));
        Ok(Who::Guest(
            pattern(by_id.map_or(domain, |vm| &vm.id.name))?,
            exe.map(pattern).transpose()?,
        ))
    }

    fn is(&self, world: &World, name: &FlowName, side: Side) -> bool {
        let end = match side {
            Side::From => &name.from,
            Side::To => &name.to,
        };
        match self {
            Who::World => end.domain.is_none() && end.address.is_some(),
            Who::Address(block) => end.address.is_some_and(|address| block.contains(address)),
            Who::Guest(domain, exe) => {
                let matches = |pattern: &Pattern, text: &Option<String>| {
                    text.as_deref().is_some_and(|text| pattern.matches(text))
                };
                matches(domain, &end.domain) && exe.as_ref().is_none_or(|exe| matches(exe, &end.exe))
            }
            Who::Service(service) => services(world, name, side).contains(service),
        }
    }
}

/// The name with the services that its ends belong to by the policy in force.
pub fn with_services(world: &World, name: &FlowName) -> FlowName {
    let with = |end: &FlowEnd, side| FlowEnd {
        services: services(world, name, side),
        ..end.clone()
    };
    FlowName {
        from: with(&name.from, Side::From),
        to: with(&name.to, Side::To),
        ..name.clone()
    }
}

fn services(world: &World, name: &FlowName, side: Side) -> Vec<String> {
    let (end, listens) = match side {
        Side::From => (&name.from, None),
        Side::To => (&name.to, name.protocol.parse().ok().zip(name.port)),
    };
    let Some(end) = End::of(end) else {
        return Vec::new();
    };
    let end = end.known(|vm| world.known(vm));
    let identity = world.rules.identity(&end.endpoint(), listens);
    identity.services.iter().map(|s| s.to_string()).collect()
}
