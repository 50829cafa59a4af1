// SPDX-License-Identifier: GPL-3.0-only
//! What a document says of bandwidth, priority and DSCP.

pub(super) mod read;
mod values;

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::Peer;
use crate::pattern::Pattern;
use crate::port::{PortRange, Protocol};

pub use values::{Dscp, Rate};

/// The most classes, in one document and in one [`crate::Ruleset`].
pub const MAX_CLASSES: usize = 1_000;

/// The section `qos` of a document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Qos {
    /// What a VM may carry in all, by pattern of its name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub vms: BTreeMap<Pattern, Totals>,
    /// In the order written: a flow is in the first that it matches.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<QosClass>,
}

impl Qos {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.vms.is_empty() && self.classes.is_empty()
    }
}

/// What each vif of a VM may carry; `None`: as much as it can.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Totals {
    /// Of what the VM gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_guest: Option<Rate>,
    /// Of what the VM sends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_guest: Option<Rate>,
}

impl Totals {
    /// Orders totals; the stricter is the less.
    pub(crate) fn strictness(self) -> (Rate, Rate) {
        let or_most = |rate: Option<Rate>| rate.unwrap_or(Rate::MAX);
        (or_most(self.to_guest), or_most(self.from_guest))
    }
}

/// Flows that share a bandwidth, at each vif that they pass and in each direction by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QosClass {
    /// Its name, unique in the set.
    pub name: String,
    /// What its author says of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Who sends the first packet; one of these.
    pub from: Vec<Peer>,
    /// Who it is sent to; one of these.
    pub to: Vec<Peer>,
    /// Narrows to these destination ports; empty: all that `to` allows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortRange>,
    /// Narrows to this protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// How its packets are treated.
    #[serde(flatten)]
    pub treatment: Treatment,
}

/// How packets of a class are treated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Treatment {
    /// How much they have.
    #[serde(skip_serializing_if = "Bandwidth::is_empty")]
    pub bandwidth: Bandwidth,
    /// Whose turn it is, beyond the guarantees.
    pub priority: Priority,
    /// What is written into them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dscp: Option<Dscp>,
}

impl fmt::Display for Treatment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.priority.as_str())?;
        if let Some(guarantee) = self.bandwidth.guarantee {
            write!(f, ", guarantee {guarantee}")?;
        }
        if let Some(ceiling) = self.bandwidth.ceiling {
            write!(f, ", ceiling {ceiling}")?;
        }
        match self.dscp {
            Some(dscp) => write!(f, ", dscp {dscp}"),
            None => Ok(()),
        }
    }
}

/// What a class has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Bandwidth {
    /// In any case, as far as it asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guarantee: Option<Rate>,
    /// At most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<Rate>,
}

impl Bandwidth {
    fn is_empty(&self) -> bool {
        *self == Bandwidth::default()
    }
}

/// Whose turn it is first, where not all can go at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// First.
    Realtime,
    /// Behind that.
    Interactive,
    /// As what is in no class.
    #[default]
    Default,
    /// What is left.
    Bulk,
}

impl Priority {
    const ALL: [Self; 4] = [Self::Realtime, Self::Interactive, Self::Default, Self::Bulk];

    /// The word in documents and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Priority::Realtime => "realtime",
            Priority::Interactive => "interactive",
            Priority::Default => "default",
            Priority::Bulk => "bulk",
        }
    }
}
