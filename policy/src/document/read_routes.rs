// SPDX-License-Identifier: GPL-3.0-only
//! From nodes to routes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::Peer;
use super::fields::{Fields, Reader};
use super::node::{Node, Value};
use super::read::{Services, refusal, source};
use super::routes::{Backend, Canary, Check, Health, MAX_ROUTES, Route, Target};
use super::targets::{carried, host, selector_of, several, single, target};
use super::values::{boolean, name, plain_name, protocol, shorten, time, whole};
use crate::port::Protocol;
use crate::problem::{Place, nearest};

pub(super) const ROUTE: [&str; 10] = [
    "address", "port", "protocol", "affinity", "refuse", "backends", "canary", "failover", "denied", "health",
];
pub(super) const BACKEND: [&str; 5] = ["to", "port", "version", "weight", "drain"];
pub(super) const HEALTH: [&str; 7] = [
    "check", "interval", "timeout", "rise", "fall", "passive", "listener",
];

/// Routes by name, each with its place.
pub(super) fn routes(
    reader: &Reader<'_>,
    node: &Node,
    services: &Services,
) -> (BTreeMap<String, Route>, BTreeMap<String, Place>) {
    let (mut routes, mut places) = (BTreeMap::new(), BTreeMap::new());
    let entries = reader.entries(node, "`routes`");
    if entries.len() > MAX_ROUTES {
        reader.problem(
            node.place,
            format_args!("{} routes, the limit is {MAX_ROUTES}", entries.len()),
            "join routes: a route may have any number of backends",
        );
        return (routes, places);
    }
    let mut taken: BTreeMap<(IpAddr, u16, Protocol), &str> = BTreeMap::new();
    for (key, value) in entries {
        let route = route(reader, value, services);
        let name = plain_name(reader, key.place, &key.text, "the name of a route");
        for address in route.iter().flat_map(|route| &route.address) {
            let of = route.as_ref().map(|r| (*address, r.port, r.protocol));
            if let Some(first) = of.and_then(|of| taken.insert(of, &key.text)) {
                reader.problem(
                    key.place,
                    format_args!("route `{}` has an address and port of `{first}`", key.text),
                    "give it another address or port",
                );
            }
        }
        if let (Some(name), Some(route)) = (name, route) {
            places.insert(name.clone(), key.place);
            routes.insert(name, route);
        }
    }
    (routes, places)
}

fn route(reader: &Reader<'_>, node: &Node, services: &Services) -> Option<Route> {
    if !is_map(reader, node, "a route", "write `address`, `port` and `backends`") {
        return None;
    }
    let fields = reader.fields(node, "a route", &ROUTE);
    let address = fields
        .require(reader, "address", "a route", "10.0.0.100")
        .map(|n| addresses(reader, n));
    let port = fields
        .require(reader, "port", "a route", "80")
        .and_then(|n| whole(reader, n, "a port", 1, u16::MAX));
    let of = fields.get("protocol");
    let protocol = of.map_or(Some(Protocol::TCP), |n| protocol(reader, n));
    if let (Some(node), Some(wrong)) = (of, protocol.filter(|p| !carried(*p))) {
        reader.problem(
            node.place,
            format_args!("a route of {wrong}, which cannot be redirected"),
            "write tcp or udp",
        );
    }
    let backends_node = fields.require(reader, "backends", "a route", "[{ to: 10.0.0.11, version: v1 }]");
    let backends = backends_node.map(|n| {
        reader.list(n, "`backends`", |one| {
            let backend = backend(reader, one, services)?;
            fits(
                reader,
                one,
                &backend,
                services,
                address.as_deref().unwrap_or_default(),
                protocol,
            );
            Some(backend)
        })
    });
    // A part that is wrong has been noted, and no document comes of it: reading on finds the other problems.
    let protocol = protocol.unwrap_or(Protocol::TCP);
    let route = Route {
        address: address.unwrap_or_default(),
        port: port.unwrap_or_default(),
        protocol,
        affinity: fields
            .get("affinity")
            .and_then(|n| boolean(reader, n, "`affinity`"))
            .unwrap_or(false),
        refuse: fields
            .get("refuse")
            .and_then(|n| refusal(reader, n))
            .unwrap_or_default(),
        canary: fields
            .get("canary")
            .map(|n| reader.list(n, "`canary`", |one| canary(reader, one, services)))
            .unwrap_or_default(),
        failover: fields
            .get("failover")
            .map(|n| reader.list(n, "`failover`", |one| name(reader, one, "the name of a version")))
            .unwrap_or_default(),
        denied: fields
            .get("denied")
            .and_then(|n| name(reader, n, "the name of a version")),
        health: fields
            .get("health")
            .and_then(|n| health(reader, n, protocol))
            .unwrap_or_default(),
        backends: backends.unwrap_or_default(),
    };
    versions(reader, &fields, &route);
    distinct(reader, backends_node?.place, &route);
    Some(route)
}

fn is_map(reader: &Reader<'_>, node: &Node, of: &str, remedy: &str) -> bool {
    let is = matches!(node.value, Value::Map(_));
    if !is {
        reader.problem(
            node.place,
            format_args!("{of} is {}, not a mapping", node.value.kind()),
            remedy,
        );
    }
    is
}

/// One address, or one of each family.
fn addresses(reader: &Reader<'_>, node: &Node) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    reader.list(node, "`address`", |one| {
        let address = host(reader, one, reader.text(one, "`address`")?)?;
        if found.iter().any(|a| a.is_ipv4() == address.is_ipv4()) {
            reader.problem(
                one.place,
                format_args!("{address} is a second address of its family"),
                "a route has one IPv4 address, one IPv6 address, or one of each; write another route",
            );
            return None;
        }
        found.push(address);
        Some(())
    });
    found
}

fn backend(reader: &Reader<'_>, node: &Node, services: &Services) -> Option<Backend> {
    if !is_map(
        reader,
        node,
        "a backend",
        "write `to`, as in `{ to: web-v1, version: v1 }`",
    ) {
        return None;
    }
    let fields = reader.fields(node, "a backend", &BACKEND);
    let to = fields
        .require(reader, "to", "a backend", "10.0.0.11")
        .map(|n| reader.list(n, "`to`", |one| target(reader, one, "`to`", services)))?;
    Some(Backend {
        to,
        port: fields
            .get("port")
            .and_then(|n| whole(reader, n, "a port", 1, u16::MAX)),
        version: fields
            .get("version")
            .and_then(|n| name(reader, n, "the name of a version")),
        weight: fields
            .get("weight")
            .and_then(|n| whole(reader, n, "a weight", 0, u16::MAX))
            .unwrap_or(1),
        drain: fields
            .get("drain")
            .and_then(|n| boolean(reader, n, "`drain`"))
            .unwrap_or(false),
    })
}

/// Whether a backend's port, protocol and family are the route's.
fn fits(
    reader: &Reader<'_>,
    node: &Node,
    backend: &Backend,
    services: &Services,
    addresses: &[IpAddr],
    protocol: Option<Protocol>,
) {
    for target in &backend.to {
        let selector = match target {
            Target::Address(address) => {
                if addresses.contains(address) {
                    reader.problem(
                        node.place,
                        format_args!("the backend {address} is the route itself"),
                        "write the address of the host that serves it",
                    );
                } else if !addresses.is_empty() && !addresses.iter().any(|a| a.is_ipv4() == address.is_ipv4())
                {
                    reader.problem(
                        node.place,
                        format_args!("the backend {address} is of another family than the route's address"),
                        "give the route an address of that family too, or remove the backend",
                    );
                }
                continue;
            }
            target => selector_of(target, services),
        };
        let Some(selector) = selector else { continue };
        if let (Some(theirs), Some(ours)) = (selector.protocol, protocol)
            && theirs != ours
        {
            reader.problem(
                node.place,
                format_args!("a backend that speaks {theirs} for a route of {ours}"),
                format_args!("write `protocol: {theirs}` in the route, or another backend"),
            );
        }
        match (backend.port, selector.port.as_slice()) {
            (Some(port), ranges @ [_, ..]) if !ranges.iter().any(|r| r.contains(port)) => reader.problem(
                node.place,
                format_args!("port {port} is none of those that the backend listens on"),
                "write one of the service's ports, or leave `port` out",
            ),
            (None, ranges @ [_, ..]) if single(selector).is_none() => reader.problem(
                node.place,
                format_args!("the backend listens on several ports ({})", several(ranges)),
                "write which, as in `port: 80`",
            ),
            _ => {}
        }
    }
}

fn canary(reader: &Reader<'_>, node: &Node, services: &Services) -> Option<Canary> {
    if !is_map(
        reader,
        node,
        "a canary",
        "write `from` and `to`, as in `{ from: testers, to: v2 }`",
    ) {
        return None;
    }
    let fields = reader.fields(node, "a canary", &["from", "to"]);
    let from = fields.require(reader, "from", "a canary", "any").map(|n| {
        reader.list(n, "`from`", |one| {
            let peer = source(reader, one, services)?;
            if peer == Peer::World {
                reader.problem(
                    one.place,
                    "`world` opens no flow that is redirected: only guests of this host do",
                    "write who in a guest, such as `{ vm: web1 }`",
                );
            }
            Some(peer)
        })
    });
    let to = fields
        .require(reader, "to", "a canary", "v2")
        .and_then(|n| name(reader, n, "the name of a version"));
    Some(Canary { from: from?, to: to? })
}

/// Every version that is spoken of must be some backend's.
fn versions(reader: &Reader<'_>, fields: &Fields<'_>, route: &Route) {
    let known: BTreeSet<&str> = route
        .backends
        .iter()
        .filter_map(|b| b.version.as_deref())
        .collect();
    let unknown = |place: Place, version: &str| {
        if known.contains(version) {
            return;
        }
        let remedy = match nearest(version, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => format!("write `version: {version}` at a backend"),
            None => format!(
                "the versions are {}",
                known.iter().copied().collect::<Vec<_>>().join(", ")
            ),
        };
        reader.problem(
            place,
            format_args!("no backend is of version `{version}`"),
            remedy,
        );
    };
    let at = |field: &str| fields.get(field).map_or(fields.place, |n| n.place);
    for canary in &route.canary {
        unknown(at("canary"), &canary.to);
    }
    for version in &route.failover {
        unknown(at("failover"), version);
    }
    if let Some(version) = &route.denied {
        unknown(at("denied"), version);
        if route.failover.contains(version) {
            reader.problem(
                at("denied"),
                format_args!("version `{version}` is for what is denied and for failover"),
                "what is denied must not be served like the rest: use another version",
            );
        }
    }
    let apart = |b: &Backend| {
        let version = b.version.as_ref();
        version.is_some_and(|v| route.failover.contains(v) || route.denied.as_ref() == Some(v))
    };
    if !route.backends.is_empty() && route.backends.iter().all(apart) {
        reader.problem(
            at("backends"),
            "every version is for failover or for what is denied, so none serves",
            "leave a version out of `failover` and `denied`",
        );
    }
}

/// An address with its port is one backend.
fn distinct(reader: &Reader<'_>, place: Place, route: &Route) {
    let mut seen = BTreeSet::new();
    for backend in &route.backends {
        for target in &backend.to {
            if let Target::Address(address) = target
                && !seen.insert((*address, backend.port.unwrap_or(route.port)))
            {
                reader.problem(
                    place,
                    format_args!("the backend {address} is there twice"),
                    "write it once, with the sum of its weights",
                );
            }
        }
    }
}

fn health(reader: &Reader<'_>, node: &Node, protocol: Protocol) -> Option<Health> {
    if !is_map(
        reader,
        node,
        "`health`",
        "write it as in `health: { check: tcp }`",
    ) {
        return None;
    }
    let fields = reader.fields(node, "`health`", &HEALTH);
    let usual = Health::default();
    let check = fields.get("check").map_or(Some(usual.check), |n| {
        match (reader.text(n, "`check`")?, protocol) {
            ("none", _) => Some(Check::None),
            ("tcp", Protocol::TCP) => Some(Check::Tcp),
            ("tcp", _) => {
                reader.problem(
                    n.place,
                    format_args!("a check by tcp of a route of {protocol}"),
                    "leave it out: a datagram's server cannot be asked without knowing its language",
                );
                None
            }
            (other, _) => {
                reader.problem(
                    n.place,
                    format_args!("`{}` is not a check", shorten(other)),
                    "write tcp or none",
                );
                None
            }
        }
    });
    let flag = |field: &str, usual: bool| {
        let node = fields.get(field);
        node.and_then(|n| boolean(reader, n, format_args!("`{field}`")))
            .unwrap_or(usual)
    };
    let count = |field: &str, usual: u32| {
        let node = fields.get(field);
        node.and_then(|n| whole(reader, n, format_args!("`{field}`"), 1, 100))
            .unwrap_or(usual)
    };
    let span = |field: &str, usual: Duration, least: u64, most: u64| {
        let node = fields.get(field);
        node.and_then(|n| time(reader, n, field, least, most))
            .unwrap_or(usual)
    };
    Some(Health {
        check: check.unwrap_or(usual.check),
        interval: span("interval", usual.interval, 100, 3_600_000),
        timeout: span("timeout", usual.timeout, 10, 60_000),
        rise: count("rise", usual.rise),
        fall: count("fall", usual.fall),
        passive: flag("passive", usual.passive),
        listener: flag("listener", usual.listener),
    })
}
