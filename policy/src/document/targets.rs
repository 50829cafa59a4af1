// SPDX-License-Identifier: GPL-3.0-only
//! Where flows are sent: by a route, or by a rule instead of where it denies them to go.

use std::fmt::Display;
use std::net::IpAddr;

use super::fields::{Fields, Reader};
use super::node::{Node, Value};
use super::read::{Services, selector};
use super::values::shorten;
use super::{Action, Selector, Target};
use crate::port::{PortRange, Protocol};
use crate::problem::{Place, nearest};

/// A service, a selector in place, or an address. `of`: the field.
pub(super) fn target(reader: &Reader<'_>, node: &Node, of: &str, services: &Services) -> Option<Target> {
    if let Value::Map(_) = node.value {
        let selector = selector(reader, node, "a selector", services)?;
        return stands_somewhere(reader, node.place, &selector, "the selector")
            .then(|| Target::Inline(Box::new(selector)));
    }
    let text = reader.text(node, of)?;
    // Names of services have neither dots nor colons.
    if text.contains(['.', ':', '/']) {
        return host(reader, node, text).map(Target::Address);
    }
    match services.get(text) {
        Some(Some(selector)) => stands_somewhere(reader, node.place, selector, format_args!("`{text}`"))
            .then(|| Target::Service(text.to_owned())),
        // What is wrong with it is said where it stands.
        Some(None) => None,
        None => {
            let remedy = match nearest(text, services.keys().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "add it to `services`, or write an address or a selector".to_owned(),
            };
            reader.problem(
                node.place,
                format_args!("no service is named `{}`", shorten(text)),
                remedy,
            );
            None
        }
    }
}

/// It must be found: by its guest or its address.
fn stands_somewhere(reader: &Reader<'_>, place: Place, selector: &Selector, of: impl Display) -> bool {
    let stands = selector.asks_guest() || !selector.address.is_empty();
    if !stands {
        reader.problem(
            place,
            format_args!("{of} does not say where it is, so no flow can go there"),
            "add `vm` or `address` to it",
        );
    }
    stands
}

/// An address that one host can have.
pub(super) fn host(reader: &Reader<'_>, node: &Node, text: &str) -> Option<IpAddr> {
    let Ok(address) = text.parse::<IpAddr>() else {
        let remedy = match text.contains('/') {
            true => "write one address, without a length",
            false => "write an address such as 10.0.0.100",
        };
        reader.problem(
            node.place,
            format_args!("`{}` is not an IP address", shorten(text)),
            remedy,
        );
        return None;
    };
    let address = address.to_canonical();
    let local = match address {
        IpAddr::V4(v4) => v4.is_broadcast() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if local || address.is_unspecified() || address.is_multicast() || address.is_loopback() {
        reader.problem(
            node.place,
            format_args!("{address} is not an address that one host on a network can have"),
            "write an address such as 10.0.0.100, of the guests' own network or beyond their gateway",
        );
        return None;
    }
    Some(address)
}

/// Whether the datapath can redirect it.
pub(super) fn carried(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::TCP | Protocol::UDP)
}

/// The one port that a service listens on.
pub(crate) fn single(selector: &Selector) -> Option<u16> {
    match selector.port.as_slice() {
        [range] if range.first() == range.last() => Some(range.first()),
        _ => None,
    }
}

/// Several ports, for messages.
pub(super) fn several(ranges: &[PortRange]) -> String {
    let ranges: Vec<String> = ranges.iter().map(PortRange::to_string).collect();
    ranges.join(", ")
}

/// What is asked of who is there; `None` for an address.
pub(super) fn selector_of<'s>(target: &'s Target, services: &'s Services) -> Option<&'s Selector> {
    match target {
        Target::Address(_) => None,
        Target::Inline(selector) => Some(selector),
        Target::Service(name) => services.get(name)?.as_ref(),
    }
}

/// Where a rule sends what it denies.
pub(super) fn instead(
    reader: &Reader<'_>,
    fields: &Fields<'_>,
    action: Action,
    of_rule: Option<Protocol>,
    services: &Services,
) -> Option<Target> {
    let node = fields.get("instead")?;
    if !matches!(action, Action::Deny { .. }) {
        reader.problem(
            node.place,
            format_args!(
                "`instead` with the action {}, which denies nothing",
                action.as_str()
            ),
            "remove `instead`, or write `action: deny`",
        );
    }
    let target = target(reader, node, "`instead`", services)?;
    let selector = selector_of(&target, services);
    let of_target = selector.and_then(|selector| selector.protocol);
    for protocol in [of_rule, of_target]
        .into_iter()
        .flatten()
        .filter(|p| !carried(*p))
    {
        reader.problem(
            node.place,
            format_args!("`instead` for {protocol}, which cannot be redirected"),
            "remove it, or write `protocol: tcp` or `protocol: udp`",
        );
    }
    if let (Some(ours), Some(theirs)) = (of_rule, of_target)
        && ours != theirs
    {
        reader.problem(
            node.place,
            format_args!("a rule of {ours} sends what it denies to who speaks {theirs}"),
            format_args!("write `protocol: {theirs}` in the rule, or another target"),
        );
    }
    if let Some(ranges @ [_, ..]) = selector.map(|selector| selector.port.as_slice())
        && selector.and_then(single).is_none()
    {
        reader.problem(
            node.place,
            format_args!(
                "who is there instead listens on several ports ({})",
                several(ranges)
            ),
            "write a selector with the one that is meant, as in `{ vm: trap1, port: 80 }`",
        );
    }
    Some(target)
}
