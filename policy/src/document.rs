// SPDX-License-Identifier: GPL-3.0-only
//! What people write: one document is one named policy set.
//!
//! A [`Document`] is valid by construction: [`Document::parse`] is the only way to one, its fields are not
//! public. It serialises to a canonical form that `parse` reads back to an equal document.

mod answers;
pub mod edit;
mod entries;
mod fields;
mod frames;
mod labels;
mod mirror;
mod node;
mod programs;
pub mod qos;
mod read;
mod read_routes;
mod require;
mod roles;
mod routes;
#[cfg(test)]
mod schema_tests;
mod services;
mod targets;
mod values;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::block::Block;
use crate::flow::parse_uuid;
use crate::pattern::Pattern;
use crate::port::{PortRange, Protocol, UidRange};
use crate::problem::{Place, Problems};

pub use answers::{Answer, Answers, THREATS};
pub use frames::{Frames, Other, Tagged};
pub use labels::{Labels, XenFacts};
pub use mirror::{Mirror, MirrorTo, Share};
pub use programs::{Program, Run};
pub use require::{Authentication, Level, Require};
pub use roles::{Role, Users};
pub use routes::{Backend, Canary, Check, Health, MAX_ROUTES, Route, Target};
pub use services::Service;
pub(crate) use targets::single as single_port;

/// The JSON Schema of documents (draft 2020-12), for editors. It says what each field may be; what parts say together is for
/// [`Document::parse`] and [`crate::check`].
pub const SCHEMA: &str = include_str!("schema.json");

/// The longest text of a document, in bytes.
pub const MAX_TEXT: usize = 1 << 20;
/// The most rules of one document.
pub const MAX_RULES: usize = 10_000;
/// The most rules of a [`crate::Ruleset`].
pub const MAX_RULES_IN_ALL: usize = 100_000;
/// The longest list in a document: values of one condition, ends of one rule.
pub const MAX_LIST: usize = 1_000;

/// One named policy set.
#[derive(Debug, Clone, Serialize)]
pub struct Document {
    #[serde(rename = "policy")]
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    #[serde(rename = "default", skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) defaults: BTreeMap<Pattern, Action>,
    #[serde(rename = "lock", skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) locks: BTreeMap<Pattern, Lock>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) frames: BTreeMap<Pattern, Frames>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: BTreeMap<Pattern, Labels>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) roles: BTreeMap<String, Arc<[Users]>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) programs: BTreeMap<String, Program>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) services: BTreeMap<String, Service>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) routes: BTreeMap<String, Route>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) rules: Vec<Rule>,
    #[serde(skip_serializing_if = "qos::Qos::is_empty")]
    pub(crate) qos: qos::Qos,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) answers: BTreeMap<Pattern, Answers>,
    #[serde(skip)]
    pub(crate) origin: Origin,
}

/// Where a document was read: for problems that show only when sets meet.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) file: String,
    pub(crate) name: Place,
    pub(crate) routes: BTreeMap<String, Place>,
    /// Of the names of the rules, in the order written.
    pub(crate) rules: Vec<Place>,
}

/// Documents are equal when they say the same; where they were read does not count.
impl PartialEq for Document {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
            && self.description == other.description
            && self.defaults == other.defaults
            && self.locks == other.locks
            && self.frames == other.frames
            && self.labels == other.labels
            && self.roles == other.roles
            && self.programs == other.programs
            && self.services == other.services
            && self.routes == other.routes
            && self.rules == other.rules
            && self.qos == other.qos
            && self.answers == other.answers
    }
}

impl Eq for Document {}

impl Document {
    /// Reads a document from YAML, or from JSON (which is YAML too).
    ///
    /// `file` is only a name for messages.
    ///
    /// # Errors
    /// Every problem found, each with line, column and remedy. A text that is not YAML has one problem,
    /// as nothing after it can be trusted.
    pub fn parse(file: &str, text: &str) -> Result<Document, Problems> {
        read::document(file, text)
    }

    /// Name of the set.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the author says of it.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// What happens to traffic of a VM that no rule decides, by pattern of the VM's name.
    pub fn defaults(&self) -> &BTreeMap<Pattern, Action> {
        &self.defaults
    }

    /// What a VM may send from, by pattern of its name.
    pub fn locks(&self) -> &BTreeMap<Pattern, Lock> {
        &self.locks
    }

    /// What is done about threats in a VM, by pattern of its name.
    pub fn answers(&self) -> &BTreeMap<Pattern, Answers> {
        &self.answers
    }

    /// What becomes of a VM's frames that are not plain IP or ARP, by pattern of its name.
    pub fn frames(&self) -> &BTreeMap<Pattern, Frames> {
        &self.frames
    }

    /// The labels of VMs, by pattern of the VM's name, or by UUID.
    pub fn labels(&self) -> &BTreeMap<Pattern, Labels> {
        &self.labels
    }

    /// The roles, by name: who has each.
    pub fn roles(&self) -> &BTreeMap<String, Arc<[Users]>> {
        &self.roles
    }

    /// Programs whose text is known, by name.
    pub fn programs(&self) -> &BTreeMap<String, Program> {
        &self.programs
    }

    /// The services, by name.
    pub fn services(&self) -> &BTreeMap<String, Service> {
        &self.services
    }

    /// The routes, by name.
    pub fn routes(&self) -> &BTreeMap<String, Route> {
        &self.routes
    }

    /// The rules, in the order written.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What it says of bandwidth, priority and DSCP.
    pub fn qos(&self) -> &qos::Qos {
        &self.qos
    }
}

/// What is done with a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "action", rename_all = "lowercase")]
pub enum Action {
    /// It passes.
    Allow,
    /// It is refused.
    Deny {
        /// How the client learns of it.
        refuse: Refuse,
    },
    /// It passes, and leaves an event.
    Audit,
}

impl Action {
    /// The word in documents and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Allow => "allow",
            Action::Deny { .. } => "deny",
            Action::Audit => "audit",
        }
    }
}

/// What a VM may send from; whatever bears another address is dropped before any rule. Ordered from loose to strict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Lock {
    /// Anything: the VM may be a router, a bridge, or move addresses.
    #[default]
    Off,
    /// The MAC addresses of its vifs.
    Mac,
    /// Those, and the IP addresses that dom0 gave its vifs (`ip=` in xl.cfg).
    Address,
}

impl Lock {
    /// The word in documents and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Lock::Off => "off",
            Lock::Mac => "mac",
            Lock::Address => "address",
        }
    }
}

/// How a refused client learns of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Refuse {
    /// At once: a TCP reset, or an ICMP "administratively prohibited".
    #[default]
    Rst,
    /// At once, TCP too by ICMP.
    Icmp,
    /// Not at all: packets vanish, and the client waits until it gives up.
    Drop,
}

/// What an endpoint must be. Every condition that is said must hold; of a list, one value is enough.
/// A selector that says nothing cannot be written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Selector {
    /// Names of VMs (patterns), or UUIDs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vm: Vec<VmPattern>,
    /// Blocks that hold the endpoint's address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub address: Vec<Block>,
    /// Paths of the executable.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exe: Vec<Pattern>,
    /// Patterns of which one must match one of the arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub arg: Vec<Pattern>,
    /// Effective user ids.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uid: Vec<UidRange>,
    /// Roles of which the user must have one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub role: Vec<Role>,
    /// Containers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub container: Vec<ContainerPattern>,
    /// Paths of which one must be that of an ancestor's executable.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parent: Vec<Pattern>,
    /// What a server listens on; holds for the `to` end only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub port: Vec<PortRange>,
    /// The protocol a server speaks; holds for the `to` end only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Labels of the VM, all of which it must have: by key, patterns of which one must match the value.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub label: BTreeMap<String, Vec<Pattern>>,
    /// What Xen must say of the VM.
    #[serde(skip_serializing_if = "XenFacts::is_empty")]
    pub xen: XenFacts,
}

impl Selector {
    /// Whether only an endpoint whose process is known can match.
    pub fn asks_process(&self) -> bool {
        !(self.exe.is_empty()
            && self.arg.is_empty()
            && self.uid.is_empty()
            && self.role.is_empty()
            && self.container.is_empty()
            && self.parent.is_empty())
    }

    /// Whether only a guest of this host can match, whatever runs in it.
    pub fn asks_guest(&self) -> bool {
        !(self.vm.is_empty() && self.label.is_empty() && self.xen.is_empty())
    }

    /// Whether it is what a server listens on and no process: that says nothing of a client.
    pub(crate) fn is_listener_only(&self) -> bool {
        (!self.port.is_empty() || self.protocol.is_some()) && !self.asks_process()
    }
}

/// A VM by name or by UUID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmPattern {
    /// By pattern over the name.
    Name(Pattern),
    /// By UUID, with the text as written.
    Uuid([u8; 16], Pattern),
}

impl From<Pattern> for VmPattern {
    fn from(pattern: Pattern) -> Self {
        match parse_uuid(pattern.as_str()) {
            Some(uuid) => VmPattern::Uuid(uuid, pattern),
            None => VmPattern::Name(pattern),
        }
    }
}

impl VmPattern {
    /// The pattern over names, if it is one.
    pub(crate) fn name(&self) -> Option<&Pattern> {
        match self {
            VmPattern::Name(pattern) => Some(pattern),
            VmPattern::Uuid(..) => None,
        }
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        match self {
            VmPattern::Name(p) | VmPattern::Uuid(_, p) => p.as_str(),
        }
    }
}

impl Serialize for VmPattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A container by id, or the lack of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerPattern {
    /// `none`: the process runs outside of any container.
    Outside,
    /// A pattern over the container's id.
    Id(Pattern),
}

impl ContainerPattern {
    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        match self {
            ContainerPattern::Outside => "none",
            ContainerPattern::Id(p) => p.as_str(),
        }
    }
}

impl Serialize for ContainerPattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// One end of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// `any`: every endpoint.
    Any,
    /// `world`: an endpoint that is not a guest of this host.
    World,
    /// `unattributed`: a guest's endpoint that no socket in the guest owns.
    Unattributed,
    /// A service of the same set, or a version of one: `service@version`.
    Service(String),
    /// A selector written in the rule itself.
    Inline(Box<Selector>),
}

impl Serialize for Peer {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Peer::Any => serializer.serialize_str("any"),
            Peer::World => serializer.serialize_str("world"),
            Peer::Unattributed => serializer.serialize_str("unattributed"),
            Peer::Service(name) => serializer.serialize_str(name),
            Peer::Inline(selector) => selector.serialize(serializer),
        }
    }
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rule {
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
    /// What must hold besides.
    #[serde(skip_serializing_if = "Require::is_empty")]
    pub require: Require,
    /// What is done.
    #[serde(flatten)]
    pub action: Action,
    /// It decides nothing, and what it would decide is told.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Where a flow goes instead that it denies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instead: Option<Target>,
    /// Who gets copies of what passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<Mirror>,
}
