// SPDX-License-Identifier: GPL-3.0-only
//! What a guest holds when the daemon first looks: listeners, connections, addresses.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use policy::Protocol;
use vmi_xen::observe::Subject;

/// One reading of a whole guest.
#[derive(Default)]
pub struct Inventory {
    /// Whether traps told of listeners while this was read. Then what it found is added to what they told; else it is all
    /// there is.
    pub beside_traps: bool,
    /// Addresses of its interfaces, loopback and link-local left out.
    pub addresses: Vec<IpAddr>,
    /// Its listening sockets.
    pub listeners: Vec<FoundListener>,
    /// Its TCP connections.
    pub connections: Vec<FoundConnection>,
}

/// A listening (TCP) or bound (UDP) socket.
pub struct FoundListener {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Address and port.
    pub local: SocketAddr,
    /// Network namespace.
    pub netns: u32,
    /// Owner.
    pub subject: Arc<Subject>,
}

/// An established TCP connection.
pub struct FoundConnection {
    /// The guest's side.
    pub local: SocketAddr,
    /// The other side.
    pub remote: SocketAddr,
    /// Owner.
    pub subject: Arc<Subject>,
}

impl Inventory {
    /// Whether the guest opened the connection: it did unless somebody in it listens on the connection's port.
    pub fn is_outgoing(&self, connection: &FoundConnection) -> bool {
        !self.listeners.iter().any(|l| {
            l.protocol == Protocol::TCP
                && l.local.port() == connection.local.port()
                && (l.local.ip().is_unspecified() || l.local.ip() == connection.local.ip())
        })
    }
}
