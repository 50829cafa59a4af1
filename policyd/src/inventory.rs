// SPDX-License-Identifier: GPL-3.0-only
//! What a guest holds when the daemon first looks: listeners and connections.

use std::net::SocketAddr;
use std::sync::Arc;

use policy::Protocol;
use vmi_xen::observe::Subject;

/// One reading of a whole guest.
#[derive(Default)]
pub struct Inventory {
    /// Whether traps told of listeners while this was read. Then what it found is added to what they told; else it is all
    /// there is.
    pub beside_traps: bool,
    /// Whether its sockets could be read at all.
    pub sockets_read: bool,
    /// Its listening sockets.
    pub listeners: Vec<FoundListener>,
    /// Its TCP connections and connected UDP sockets.
    pub connections: Vec<FoundConnection>,
}

/// A listening (TCP) or bound (UDP) socket.
pub struct FoundListener {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Its `struct sock`.
    pub sk: u64,
    /// Address and port.
    pub local: SocketAddr,
    /// Owner.
    pub subject: Arc<Subject>,
}

/// A TCP connection, or a connected UDP socket.
pub struct FoundConnection {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The guest's side.
    pub local: SocketAddr,
    /// The other side.
    pub remote: SocketAddr,
    /// Owner.
    pub subject: Arc<Subject>,
}

impl Inventory {
    /// Whether the guest opened the connection: it did unless somebody in it listens on the connection's port. (UDP has no
    /// accept: a socket is connected by its own process.)
    pub fn is_outgoing(&self, connection: &FoundConnection) -> bool {
        connection.protocol == Protocol::UDP
            || !self.listeners.iter().any(|l| {
                l.protocol == Protocol::TCP
                    && l.local.port() == connection.local.port()
                    && (l.local.ip().is_unspecified() || l.local.ip() == connection.local.ip())
            })
    }
}
