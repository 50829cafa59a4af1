// SPDX-License-Identifier: GPL-3.0-only
//! From nodes to the section `qos`.

use std::collections::BTreeMap;

use super::{Bandwidth, Dscp, MAX_CLASSES, Priority, Qos, QosClass, Rate, Totals, Treatment};
use crate::document::entries::{Kind, entries};
use crate::document::fields::{Fields, Reader};
use crate::document::node::{Node, Value};
use crate::document::read::Services;
use crate::document::values::{parsed, shorten};
use crate::pattern::Pattern;
use crate::problem::nearest;

pub(in crate::document) const CLASS: [&str; 9] = [
    "name",
    "description",
    "from",
    "to",
    "ports",
    "protocol",
    "bandwidth",
    "priority",
    "dscp",
];

pub(in crate::document) fn qos(reader: &Reader<'_>, node: &Node, services: &Services) -> Qos {
    if !matches!(node.value, Value::Map(_)) {
        reader.problem(
            node.place,
            format_args!("`qos` is {}, not a mapping", node.value.kind()),
            "write `vms` and `classes` in it",
        );
        return Qos::default();
    }
    let fields = reader.fields(node, "`qos`", &["vms", "classes"]);
    Qos {
        vms: fields.get("vms").map(|n| vms(reader, n)).unwrap_or_default(),
        classes: fields
            .get("classes")
            .map(|n| classes(reader, n, services))
            .unwrap_or_default(),
    }
}

fn rate(reader: &Reader<'_>, node: &Node, of: &str) -> Option<Rate> {
    if let Value::Integer(n) = node.value {
        reader.problem(
            node.place,
            format_args!("{of} is a number without a unit"),
            format_args!("write the unit: {n}bit, {n}kbit, {n}mbit or {n}gbit (bits per second)"),
        );
        return None;
    }
    let text = reader.text(node, of)?;
    parsed(reader, node.place, text)
}

/// Two rates of which at least one is there.
fn rates(reader: &Reader<'_>, node: &Node, of: &str, names: [&str; 2]) -> Option<[Option<Rate>; 2]> {
    let [first, second] = names;
    if !matches!(node.value, Value::Map(_)) {
        reader.problem(
            node.place,
            format_args!("{of} is {}, not a mapping", node.value.kind()),
            format_args!("write `{{ {first}: 10mbit, {second}: 100mbit }}`, or one of them"),
        );
        return None;
    }
    let fields = reader.fields(node, of, &names);
    if names.iter().all(|name| fields.get(name).is_none()) {
        reader.problem(
            fields.place,
            format_args!("{of} says nothing"),
            format_args!("write `{first}`, `{second}`, or both"),
        );
        return None;
    }
    Some(names.map(|name| {
        fields
            .get(name)
            .and_then(|n| rate(reader, n, &format!("`{name}`")))
    }))
}

fn vms(reader: &Reader<'_>, node: &Node) -> BTreeMap<Pattern, Totals> {
    reader
        .entries(node, "`vms`")
        .into_iter()
        .filter_map(|(key, value)| {
            let pattern = parsed::<Pattern>(reader, key.place, &key.text);
            let [to_guest, from_guest] =
                rates(reader, value, "the total of a VM", ["to_guest", "from_guest"])?;
            Some((pattern?, Totals { to_guest, from_guest }))
        })
        .collect()
}

fn classes(reader: &Reader<'_>, node: &Node, services: &Services) -> Vec<QosClass> {
    const KIND: Kind = Kind {
        one: "a class",
        bare: "class",
        many: "classes",
        limit: MAX_CLASSES,
        fields: &CLASS,
        shape: "write `name`, `from`, `to`, and `bandwidth`, `priority` or `dscp`",
        example: "backups",
    };
    entries(reader, node, &KIND, services, |fields, entry| {
        Some(QosClass {
            name: entry.name,
            description: entry.description,
            from: entry.from,
            to: entry.to,
            ports: entry.ports,
            protocol: entry.protocol,
            treatment: treatment(reader, fields),
        })
    })
}

fn treatment(reader: &Reader<'_>, fields: &Fields<'_>) -> Treatment {
    if ["bandwidth", "priority", "dscp"]
        .iter()
        .all(|name| fields.get(name).is_none())
    {
        reader.problem(
            fields.place,
            "a class says nothing of its packets",
            "write `bandwidth`, `priority` or `dscp`",
        );
    }
    Treatment {
        bandwidth: fields
            .get("bandwidth")
            .map(|n| bandwidth(reader, n))
            .unwrap_or_default(),
        priority: fields
            .get("priority")
            .and_then(|n| priority(reader, n))
            .unwrap_or_default(),
        dscp: fields.get("dscp").and_then(|n| dscp(reader, n)),
    }
}

fn bandwidth(reader: &Reader<'_>, node: &Node) -> Bandwidth {
    let Some([guarantee, ceiling]) = rates(reader, node, "`bandwidth`", ["guarantee", "ceiling"]) else {
        return Bandwidth::default();
    };
    if let (Some(guarantee), Some(ceiling)) = (guarantee, ceiling)
        && guarantee > ceiling
    {
        reader.problem(
            node.place,
            format_args!("a guarantee of {guarantee} above the ceiling of {ceiling}"),
            "raise the ceiling or lower the guarantee",
        );
    }
    Bandwidth { guarantee, ceiling }
}

fn priority(reader: &Reader<'_>, node: &Node) -> Option<Priority> {
    let text = reader.text(node, "`priority`")?;
    let found = Priority::ALL.into_iter().find(|p| p.as_str() == text);
    if found.is_none() {
        let remedy = match nearest(text, Priority::ALL.map(Priority::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "write realtime, interactive, default or bulk".to_owned(),
        };
        reader.problem(
            node.place,
            format_args!("`{}` is not a priority", shorten(text)),
            remedy,
        );
    }
    found
}

fn dscp(reader: &Reader<'_>, node: &Node) -> Option<Dscp> {
    let (found, written) = match &node.value {
        Value::Integer(n) => (Dscp::new(*n), n.to_string()),
        _ => {
            let text = reader.text(node, "`dscp`")?;
            (Dscp::named(text), text.to_owned())
        }
    };
    if found.is_none() {
        let remedy = match nearest(&written, Dscp::names()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "write ef, va, le, cs0 to cs7, af11 to af43, or a number from 0 to 63".to_owned(),
        };
        reader.problem(
            node.place,
            format_args!("`{}` is not a DSCP", shorten(&written)),
            remedy,
        );
    }
    found
}
