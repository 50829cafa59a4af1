// SPDX-License-Identifier: GPL-3.0-only
//! What becomes of frames that are not plain IP or ARP.

use std::collections::BTreeMap;

use serde::Serialize;

use super::fields::Reader;
use super::node::{Node, Value};
use super::values::{one_of, parsed};
use crate::pattern::Pattern;

/// What one set says of a VM's frames; `None`: nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Frames {
    /// Those with a VLAN tag, or with two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tagged: Option<Tagged>,
    /// Those that are neither IP nor ARP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other: Option<Other>,
}

/// What becomes of frames with a VLAN tag. Ordered from loose to strict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tagged {
    /// They pass, whatever the rules say.
    Allow,
    /// What becomes of frames without a tag.
    #[default]
    Judge,
    /// They are dropped.
    Deny,
}

impl Tagged {
    /// The word in documents and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Tagged::Allow => "allow",
            Tagged::Judge => "judge",
            Tagged::Deny => "deny",
        }
    }
}

/// What becomes of frames that no rule can be about. Ordered from loose to strict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Other {
    /// They pass.
    Allow,
    /// They are dropped.
    Deny,
}

impl Other {
    /// The word in documents and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Other::Allow => "allow",
            Other::Deny => "deny",
        }
    }
}

pub(super) fn frames(reader: &Reader<'_>, node: &Node) -> BTreeMap<Pattern, Frames> {
    reader
        .entries(node, "`frames`")
        .into_iter()
        .filter_map(|(key, value)| {
            let pattern = parsed::<Pattern>(reader, key.place, &key.text);
            let said = one(reader, value);
            Some((pattern?, said?))
        })
        .collect()
}

fn one(reader: &Reader<'_>, node: &Node) -> Option<Frames> {
    const EXAMPLE: &str = "write `{ tagged: deny }`, `{ other: deny }` or both";
    if !matches!(node.value, Value::Map(_)) {
        reader.problem(
            node.place,
            format_args!("what becomes of frames is {}, not a mapping", node.value.kind()),
            EXAMPLE,
        );
        return None;
    }
    let fields = reader.fields(node, "`frames`", &["tagged", "other"]);
    let (tagged, other) = (fields.get("tagged"), fields.get("other"));
    if tagged.is_none() && other.is_none() {
        reader.problem(node.place, "`frames` says nothing of this VM", EXAMPLE);
        return None;
    }
    let tagged = tagged.map(|n| {
        let all = [Tagged::Judge, Tagged::Deny, Tagged::Allow];
        one_of(reader, n, "a way with tagged frames", &all, Tagged::as_str)
    });
    let other = other.map(|n| {
        let all = [Other::Allow, Other::Deny];
        one_of(reader, n, "a way with other frames", &all, Other::as_str)
    });
    // What was written and is wrong has been noted.
    Some(Frames {
        tagged: tagged.flatten(),
        other: other.flatten(),
    })
}
