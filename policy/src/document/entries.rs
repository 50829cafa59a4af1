// SPDX-License-Identifier: GPL-3.0-only
//! Lists of named entries that say from whom to whom: rules, and classes of bandwidth.

use std::collections::HashMap;

use super::Peer;
use super::fields::{Fields, Reader};
use super::node::{Node, Value};
use super::read::{Services, peer, ports_fit, source};
use super::values::{name, ports, protocol};
use crate::port::{PortRange, Protocol};
use crate::problem::Place;

/// How such a list is spoken of.
pub(super) struct Kind {
    /// One of them, with its article, and the same without.
    pub one: &'static str,
    pub bare: &'static str,
    /// The list, which is its field too.
    pub many: &'static str,
    /// The most of them.
    pub limit: usize,
    pub fields: &'static [&'static str],
    /// What to write where there is no mapping.
    pub shape: &'static str,
    /// A name.
    pub example: &'static str,
}

/// What all such entries have.
pub(super) struct Entry {
    pub name: String,
    pub description: Option<String>,
    pub from: Vec<Peer>,
    pub to: Vec<Peer>,
    pub ports: Vec<PortRange>,
    pub protocol: Option<Protocol>,
    /// Where its name stands.
    pub place: Place,
}

/// Reads the list; `rest` makes of an entry and its other fields what it is.
pub(super) fn entries<T>(
    reader: &Reader<'_>,
    node: &Node,
    kind: &Kind,
    services: &Services,
    rest: impl Fn(&Fields<'_>, Entry) -> Option<T>,
) -> Vec<T> {
    let Value::List(list) = &node.value else {
        reader.problem(
            node.place,
            format_args!("`{}` is {}, not a list", kind.many, node.value.kind()),
            format_args!("write each {} after a dash: `- name: …`", kind.bare),
        );
        return Vec::new();
    };
    if list.len() > kind.limit {
        reader.problem(
            node.place,
            format_args!("{} {}, the limit is {}", list.len(), kind.many, kind.limit),
            format_args!("join {}: `from` and `to` take lists", kind.many),
        );
        return Vec::new();
    }
    let mut names: HashMap<String, Place> = HashMap::new();
    let mut all = Vec::with_capacity(list.len());
    for one in list {
        let Some((fields, entry, place)) = entry(reader, one, kind, services) else {
            continue;
        };
        let name = entry.name.clone();
        let Some(read) = rest(&fields, entry) else {
            continue;
        };
        if let Some(first) = names.get(&name) {
            reader.problem(
                place,
                format_args!("a second {} named `{name}`", kind.bare),
                format_args!("rename one; the first is at {}:{}", first.line, first.column),
            );
        } else {
            names.insert(name, place);
        }
        all.push(read);
    }
    all
}

fn entry<'n>(
    reader: &Reader<'_>,
    node: &'n Node,
    kind: &Kind,
    services: &Services,
) -> Option<(Fields<'n>, Entry, Place)> {
    if !matches!(node.value, Value::Map(_)) {
        reader.problem(
            node.place,
            format_args!("{} is {}, not a mapping", kind.one, node.value.kind()),
            kind.shape,
        );
        return None;
    }
    let fields = reader.fields(node, kind.one, kind.fields);
    let name_node = fields.require(reader, "name", kind.one, kind.example);
    let name = name_node.and_then(|n| name(reader, n, &format!("the name of {}", kind.one)));
    let from = fields
        .require(reader, "from", kind.one, "any")
        .map(|n| reader.list(n, "`from`", |one| source(reader, one, services)))
        .unwrap_or_default();
    let to = fields
        .require(reader, "to", kind.one, "any")
        .map(|n| reader.list(n, "`to`", |one| peer(reader, one, services)))
        .unwrap_or_default();
    let protocol = fields.get("protocol").and_then(|n| protocol(reader, n));
    ports_fit(reader, fields.get("ports"), protocol);
    let entry = Entry {
        name: name?,
        description: fields
            .get("description")
            .and_then(|n| reader.text(n, "`description`"))
            .map(str::to_owned),
        from,
        to,
        ports: ports(reader, fields.get("ports"), "`ports`"),
        protocol,
        place: name_node?.place,
    };
    Some((fields, entry, name_node?.place))
}
