// SPDX-License-Identifier: GPL-3.0-only
//! Who gets copies of the flows that a rule lets pass.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize, Serializer};

use super::fields::{Fields, Reader};
use super::node::{Node, Value};
use super::read::Services;
use super::values::{parsed, shorten};
use super::{Action, VmPattern};
use crate::pattern::Pattern;
use crate::problem::nearest;

/// What a rule says of copies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mirror {
    /// Who gets them.
    pub to: MirrorTo,
    /// Of how many flows.
    #[serde(skip_serializing_if = "Share::is_all")]
    pub share: Share,
}

/// A guest that gets copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MirrorTo {
    /// The guest that a service of the same set is in.
    Service(String),
    /// By name, pattern or UUID.
    Vm(VmPattern),
}

impl Serialize for MirrorTo {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            MirrorTo::Service(name) => name,
            MirrorTo::Vm(vm) => vm.as_str(),
        })
    }
}

/// A share of flows: 0.01 % to 100 %.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(transparent)]
pub struct Share(u16);

impl Share {
    /// Every flow.
    pub const ALL: Share = Share(10_000);

    /// In hundredths of a percent: 1 to 10,000.
    pub fn hundredths(self) -> u16 {
        self.0
    }

    fn is_all(&self) -> bool {
        *self == Share::ALL
    }

    /// `5%`, `0.25%`.
    fn parse(text: &str) -> Option<Share> {
        let number = text.strip_suffix('%')?;
        let (whole, rest) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |text: &str, most| {
            let fits = (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
            fits.then(|| text.parse::<u16>().ok()).flatten()
        };
        let hundredths = match rest.len() {
            1 => digits(rest, 1)? * 10,
            _ => digits(rest, 2)?,
        };
        let all = digits(whole, 3)? * 100 + hundredths;
        (1..=Share::ALL.0).contains(&all).then_some(Share(all))
    }
}

impl Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 100, self.0 % 100) {
            (whole, 0) => write!(f, "{whole}%"),
            (whole, rest) => write!(f, "{whole}.{rest:02}%"),
        }
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a rule with this action says of copies.
pub(super) fn mirror(
    reader: &Reader<'_>,
    fields: &Fields<'_>,
    action: Action,
    services: &Services,
) -> Option<Mirror> {
    let node = fields.get("mirror")?;
    if let Action::Deny { .. } = action {
        reader.problem(
            node.place,
            "`mirror` with the action deny, which lets nothing pass",
            "remove `mirror`, or write `action: allow`",
        );
        return None;
    }
    if !matches!(node.value, Value::Map(_)) {
        reader.problem(
            node.place,
            format_args!("`mirror` is {}, not a mapping", node.value.kind()),
            "write `{ to: VM, share: 5% }`",
        );
        return None;
    }
    let own = reader.fields(node, "`mirror`", &["to", "share"]);
    let to = own
        .require(reader, "to", "`mirror`", "ids")
        .and_then(|n| target(reader, n, services));
    let share = match own.get("share") {
        Some(n) => share(reader, n),
        None => Some(Share::ALL),
    };
    Some(Mirror {
        to: to?,
        share: share?,
    })
}

fn share(reader: &Reader<'_>, node: &Node) -> Option<Share> {
    let text = match &node.value {
        Value::Text(text) => text.as_str(),
        other => {
            reader.problem(
                node.place,
                format_args!("`share` is {}, not a percentage", other.kind()),
                "write it as 5% or 0.25%",
            );
            return None;
        }
    };
    let share = Share::parse(text);
    if share.is_none() {
        reader.problem(
            node.place,
            format_args!("`{}` is not a percentage from 0.01% to 100%", shorten(text)),
            "write it as 5% or 0.25%",
        );
    }
    share
}

fn target(reader: &Reader<'_>, node: &Node, services: &Services) -> Option<MirrorTo> {
    let text = reader.text(node, "`to`")?;
    match services.get(text) {
        None => {
            let pattern = parsed::<Pattern>(reader, node.place, text)?;
            // Any guest may have the name; a slip of the pen in that of a service would mirror to nobody.
            if let Some(near) = nearest(text, services.keys().map(String::as_str)) {
                reader.problem(
                    node.place,
                    format_args!(
                        "`{}` is no service, and is all but the name of one",
                        shorten(text)
                    ),
                    format_args!(
                        "did you mean `{near}`? If it is a VM, make it a service: `{{ vm: {text} }}`"
                    ),
                );
                return None;
            }
            Some(MirrorTo::Vm(pattern.into()))
        }
        Some(Some(selector)) if !selector.asks_guest() => {
            reader.problem(
                node.place,
                format_args!("the service `{text}` does not say in which VM it is"),
                "add `vm` to it, or write the name of a VM here",
            );
            None
        }
        // What is wrong with a service is said there.
        Some(None) => None,
        Some(Some(_)) => Some(MirrorTo::Service(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_written_as_they_are_read() {
        for text in ["5%", "100%", "0.01%", "12.50%"] {
            assert_eq!(Share::parse(text).map(|s| s.to_string()).as_deref(), Some(text));
        }
        assert_eq!(Share::parse("0.5%").map(Share::hundredths), Some(50));
        assert_eq!(Share::parse("005%").map(Share::hundredths), Some(500));
        for text in [
            "", "%", "5", "0%", "0.00%", "100.01%", "101%", "-1%", "+1%", "1.%", ".5%", "0.001%", "5 %",
            "99999%", "1.é%",
        ] {
            assert_eq!(Share::parse(text), None, "{text}");
        }
    }
}
