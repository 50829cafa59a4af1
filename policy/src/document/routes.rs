// SPDX-License-Identifier: GPL-3.0-only
//! Routes as they are written: an address without a host, and who serves its flows.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::{Peer, Refuse, Selector};
use crate::port::Protocol;

/// The most routes, in one document and in one [`crate::Ruleset`]. (The datapath has room for 256 addresses.)
pub const MAX_ROUTES: usize = 128;

/// An address that guests open flows to, and the backends that serve them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Route {
    /// Its address: one, or one of each family.
    pub address: Vec<IpAddr>,
    /// Its port.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// All flows from one address go to one backend, as long as the backends stay the same.
    pub affinity: bool,
    /// How a flow is refused that no backend is there for.
    pub refuse: Refuse,
    /// Where its flows go.
    pub backends: Vec<Backend>,
    /// Who is served by one version, the first that matches.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub canary: Vec<Canary>,
    /// Versions that serve only while no other does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failover: Vec<String>,
    /// The version that a flow goes to which the rules deny to the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denied: Option<String>,
    /// How it shows whether a backend serves.
    pub health: Health,
}

/// Some of a route's backends, alike in all that is said of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Backend {
    /// Who they are.
    pub to: Vec<Target>,
    /// Their port; nothing said, that of the service, if it has one, else the route's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What they run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Their share of new flows, together, is this by the sum of all weights. 0: none but those of a canary.
    pub weight: u16,
    /// They take no new flows, and keep those they have.
    pub drain: bool,
}

/// Who a backend is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A service of the same set.
    Service(String),
    /// A selector written in place.
    Inline(Box<Selector>),
    /// An address, be it a guest's or not.
    Address(IpAddr),
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Target::Service(name) => serializer.serialize_str(name),
            Target::Inline(selector) => selector.serialize(serializer),
            Target::Address(address) => address.serialize(serializer),
        }
    }
}

/// Who is served by one version, whatever the weights say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Canary {
    /// Who opens the flow; one of these.
    pub from: Vec<Peer>,
    /// The version.
    pub to: String,
}

/// How it shows whether a backend serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Health {
    /// What dom0 asks of each backend itself.
    pub check: Check,
    /// How often: 100 ms to an hour.
    #[serde(serialize_with = "time")]
    pub interval: Duration,
    /// How long an answer may take: 10 ms to a minute.
    #[serde(serialize_with = "time")]
    pub timeout: Duration,
    /// So many answers in a row bring a backend back: 1 to 100.
    pub rise: u32,
    /// So many failures in a row, of checks or of guests' own connects, take it out: 1 to 100.
    pub fall: u32,
    /// Whether guests' own connects count: a SYN that is refused, or not answered.
    pub passive: bool,
    /// Whether a guest in which nobody listens on the port serves nothing.
    pub listener: bool,
}

impl Default for Health {
    fn default() -> Self {
        Health {
            check: Check::None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 3,
            passive: true,
            listener: true,
        }
    }
}

/// What dom0 asks of a backend itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Check {
    /// Nothing.
    None,
    /// To take a TCP connection.
    Tcp,
}

/// As it is read: in whole milliseconds, or seconds.
fn time<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    match time.subsec_millis() {
        0 => serializer.collect_str(&format_args!("{}s", time.as_secs())),
        _ => serializer.collect_str(&format_args!("{}ms", time.as_millis())),
    }
}
