// SPDX-License-Identifier: GPL-3.0-only
//! Labels: what guests have, and what selectors ask of them and of Xen.

use std::collections::BTreeMap;

use serde::Serialize;

use super::fields::Reader;
use super::node::{Node, Value};
use super::values::{one_of, parsed, patterns, shorten};
use crate::label::{GuestType, MAX_LABEL, MAX_LABELS, is_plain};
use crate::pattern::Pattern;
use crate::problem::Place;

pub(super) const XEN: [&str; 2] = ["type", "pool"];

/// What one set says of a VM's labels: values by key.
pub type Labels = BTreeMap<String, String>;

/// What a guest must be by what Xen says of it. Both must hold where both are said; of a list, one value is enough.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct XenFacts {
    /// How it is virtualised.
    #[serde(rename = "type", skip_serializing_if = "Vec::is_empty")]
    pub guest_type: Vec<GuestType>,
    /// Names of its pool of processors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pool: Vec<Pattern>,
}

impl XenFacts {
    /// Whether it asks nothing.
    pub fn is_empty(&self) -> bool {
        self.guest_type.is_empty() && self.pool.is_empty()
    }
}

/// Reads the section `labels`.
pub(super) fn labels(reader: &Reader<'_>, node: &Node) -> BTreeMap<Pattern, Labels> {
    reader
        .entries(node, "`labels`")
        .into_iter()
        .filter_map(|(key, value)| {
            let pattern = parsed::<Pattern>(reader, key.place, &key.text);
            let labels = of_one(reader, value);
            Some((pattern?, labels?))
        })
        .collect()
}

fn of_one(reader: &Reader<'_>, node: &Node) -> Option<Labels> {
    const EXAMPLE: &str = "write `{ tier: front }`";
    let Value::Map(map) = &node.value else {
        reader.problem(
            node.place,
            format_args!("the labels of a VM are {}, not a mapping", node.value.kind()),
            EXAMPLE,
        );
        return None;
    };
    if map.is_empty() {
        reader.problem(node.place, "`labels` says nothing of this VM", EXAMPLE);
        return None;
    }
    if map.len() > MAX_LABELS {
        reader.problem(
            node.place,
            format_args!("{} labels of one VM, the limit is {MAX_LABELS}", map.len()),
            "use fewer",
        );
        return None;
    }
    let entries = reader.entries(node, "`labels`").into_iter();
    let labels = entries.filter_map(|(key, value)| {
        let is_key = plain(reader, key.place, &key.text, "the key of a label");
        let text = reader.text(value, "the value of a label")?;
        let is_value = plain(reader, value.place, text, "the value of a label");
        (is_key && is_value).then(|| (key.text.clone(), text.to_owned()))
    });
    Some(labels.collect())
}

/// Reads what a selector asks of labels.
pub(super) fn asked(reader: &Reader<'_>, node: &Node) -> BTreeMap<String, Vec<Pattern>> {
    const EXAMPLE: &str = "write `label: { tier: front }`";
    let Value::Map(map) = &node.value else {
        reader.problem(
            node.place,
            format_args!("`label` is {}, not a mapping", node.value.kind()),
            EXAMPLE,
        );
        return BTreeMap::new();
    };
    if map.is_empty() {
        reader.problem(node.place, "`label` names no label", EXAMPLE);
    }
    let entries = reader.entries(node, "`label`").into_iter();
    let pairs = entries.filter_map(|(key, value)| {
        let is_key = plain(reader, key.place, &key.text, "the key of a label");
        let values = patterns(reader, Some(value), "the value of a label", |p| p);
        for exact in values.iter().filter_map(Pattern::exact) {
            // No label has it, so the selector would match nothing.
            plain(reader, value.place, exact, "the value of a label");
        }
        is_key.then(|| (key.text.clone(), values))
    });
    pairs.collect()
}

/// Reads what a selector asks of what Xen says.
pub(super) fn xen(reader: &Reader<'_>, node: &Node) -> XenFacts {
    const EXAMPLE: &str = "write `xen: { type: pvh }`, `xen: { pool: Pool-0 }` or both";
    if !matches!(node.value, Value::Map(_)) {
        reader.problem(
            node.place,
            format_args!("`xen` is {}, not a mapping", node.value.kind()),
            EXAMPLE,
        );
        return XenFacts::default();
    }
    let fields = reader.fields(node, "`xen`", &XEN);
    if XEN.iter().all(|field| fields.get(field).is_none()) {
        reader.problem(node.place, "`xen` says nothing of a guest", EXAMPLE);
    }
    XenFacts {
        guest_type: fields
            .get("type")
            .map(|n| {
                reader.list(n, "`type`", |one| {
                    one_of(reader, one, "a type of guest", &GuestType::ALL, GuestType::as_str)
                })
            })
            .unwrap_or_default(),
        pool: patterns(reader, fields.get("pool"), "`pool`", |p| p),
    }
}

fn plain(reader: &Reader<'_>, place: Place, text: &str, of: &str) -> bool {
    let is = is_plain(text);
    if !is {
        reader.problem(
            place,
            format_args!("`{}` is not {of}", shorten(text)),
            format_args!("use 1 to {MAX_LABEL} of a-z, A-Z, 0-9, - _ and ., a letter or digit at both ends"),
        );
    }
    is
}
