// SPDX-License-Identifier: GPL-3.0-only
//! Who an end of a flow is, in words.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::flow::{Endpoint, Owner};
use crate::matching::{Subject, Truth};
use crate::port::Protocol;
use crate::ruleset::Ruleset;

/// Who an end of a flow is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// A URI after the fashion of SPIFFE: `spiffe://xmesh/vm/NAME/exe/PATH`, and `/container/ID` before the
    /// path where there is one; `spiffe://xmesh/address/IP` for an end that is not a guest.
    pub id: String,
    /// The services it belongs to.
    pub services: Vec<ServiceName>,
}

/// A service of a set. Prints as `set/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServiceName {
    /// The set.
    pub set: String,
    /// The service.
    pub name: String,
}

impl std::fmt::Display for ServiceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.set, self.name)
    }
}

impl Ruleset {
    /// Who an endpoint is.
    ///
    /// `listens` is what it serves on, for the destination of a flow. For a source it is `None`; then a
    /// service that is known by its port only is not among the services, as a port says nothing of a client.
    pub fn identity(&self, endpoint: &Endpoint<'_>, listens: Option<(Protocol, u16)>) -> Identity {
        let subject = Subject::new(endpoint, listens);
        let services = self
            .parts
            .services(self.is_after_for(endpoint.vm), endpoint.vm)
            .filter(|service| {
                let answerable = listens.is_some() || !service.selector.is_listener_only();
                answerable && service.selector.matches(&subject) == Truth::Yes
            })
            .map(|service| ServiceName {
                set: service.set.to_string(),
                name: service.name.to_string(),
            })
            .collect();
        Identity {
            id: id(endpoint),
            services,
        }
    }
}

fn id(endpoint: &Endpoint<'_>) -> String {
    let mut id = String::from("spiffe://xmesh");
    let Some(vm) = endpoint.vm else {
        id.push_str("/address/");
        escape(&mut id, &endpoint.address.to_canonical().to_string());
        return id;
    };
    id.push_str("/vm/");
    escape(&mut id, &vm.name);
    match endpoint.owner {
        Owner::Process(process) => {
            if let Some(container) = process.container {
                id.push_str("/container/");
                escape(&mut id, container);
            }
            if let Some(exe) = process.exe {
                id.push_str("/exe");
                for part in exe.split('/').filter(|part| !part.is_empty()) {
                    id.push('/');
                    escape(&mut id, part);
                }
            }
        }
        Owner::Unattributed => id.push_str("/unattributed"),
        Owner::Unknown => {}
    }
    id
}

/// Appends one segment of a path. SPIFFE knows letters, digits, `.`, `-` and `_`; the rest is percent-encoded.
/// A segment of dots alone is encoded too, as it would mean another path.
fn escape(id: &mut String, segment: &str) {
    let dots = segment.bytes().all(|b| b == b'.');
    for byte in segment.bytes() {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if plain && !dots {
            id.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(id, "%{byte:02X}");
        }
    }
}
