// SPDX-License-Identifier: GPL-3.0-only
//! What is done about a threat, by itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::fields::Reader;
use super::node::{Key, Node, Value};
use super::values::{one_of, parsed, shorten};
use crate::pattern::Pattern;
use crate::problem::nearest;

/// What `answers` may speak of: how bad a threat is, or the rule that found it.
pub const THREATS: [&str; 21] = [
    "notice",
    "warning",
    "alert",
    "reverse-shell",
    "bind-shell",
    "fileless-program",
    "temporary-program",
    "deleted-program",
    "miner",
    "privilege",
    "port-scan",
    "sweep",
    "beacon",
    "new-program",
    "new-destination",
    "exfiltration",
    "dns-tunnel",
    "unowned-traffic",
    "text-changed",
    "hidden",
    "kernel-changed",
];

const TELL: &str = "tell";
const DENY: &str = "deny";
const QUARANTINE: &str = "quarantine";

/// What is done about a threat. Ordered from loose to strict.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// It is told, as all are.
    Tell,
    /// What the executable in that VM opens is denied, and what it has open ends.
    Deny,
    /// The same, and what it opens goes to the VM of this name instead, which plays who was meant.
    Decoy(Arc<str>),
    /// All of the VM's traffic is denied.
    Quarantine,
}

impl Answer {
    /// The word in documents and messages.
    pub fn as_str(&self) -> &'static str {
        match self {
            Answer::Tell => TELL,
            Answer::Deny => DENY,
            Answer::Decoy(_) => "decoy",
            Answer::Quarantine => QUARANTINE,
        }
    }
}

/// By a word of [`THREATS`].
pub type Answers = BTreeMap<&'static str, Answer>;

pub(super) fn answers(reader: &Reader<'_>, node: &Node) -> BTreeMap<Pattern, Answers> {
    reader
        .entries(node, "`answers`")
        .into_iter()
        .filter_map(|(key, value)| {
            let pattern = parsed::<Pattern>(reader, key.place, &key.text)?;
            let answers =
                reader
                    .entries(value, "`answers` of a VM")
                    .into_iter()
                    .filter_map(|(key, value)| {
                        let answer = answer(reader, value);
                        Some((threat(reader, key)?, answer?))
                    });
            Some((pattern, answers.collect()))
        })
        .collect()
}

fn answer(reader: &Reader<'_>, node: &Node) -> Option<Answer> {
    if let Value::Map(_) = node.value {
        let entries = reader.entries(node, "an answer");
        let [(key, value)] = entries.as_slice() else {
            reader.problem(
                node.place,
                "an answer that says more than one thing, or nothing",
                "write `{ decoy: VM }`",
            );
            return None;
        };
        if key.text != "decoy" {
            reader.problem(
                key.place,
                format_args!("`{}` is no answer that names anybody", shorten(&key.text)),
                "write `{ decoy: VM }`, or tell, deny or quarantine alone",
            );
            return None;
        }
        let name = reader.text(value, "a decoy")?;
        let pattern = parsed::<Pattern>(reader, value.place, name)?;
        if pattern.exact().is_none() {
            reader.problem(
                value.place,
                format_args!("`{}` is more than one VM", shorten(name)),
                "write the name of the VM that is the decoy",
            );
            return None;
        }
        return Some(Answer::Decoy(name.into()));
    }
    let all = [TELL, DENY, QUARANTINE];
    match one_of(reader, node, "an answer", &all, |word| word)? {
        TELL => Some(Answer::Tell),
        DENY => Some(Answer::Deny),
        _ => Some(Answer::Quarantine),
    }
}

fn threat(reader: &Reader<'_>, key: &Key) -> Option<&'static str> {
    let found = THREATS.into_iter().find(|word| *word == key.text);
    if found.is_none() {
        let remedy = match nearest(&key.text, THREATS) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "write notice, warning, alert, or a rule that `xmesh threats --rules` lists".to_owned(),
        };
        reader.problem(
            key.place,
            format_args!("`{}` is no kind of threat", shorten(&key.text)),
            remedy,
        );
    }
    found
}
