// SPDX-License-Identifier: GPL-3.0-only
//! UDP sockets between one trap and the next: the kernel settles their addresses in steps.
//!
//! A connect names the peer first; where the socket has no local address yet, the kernel then looks for a route and sets one.
//! A port is known only once the kernel has looked for a free one, for which there is no trap: the socket is read a little
//! later.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::Subject;
use crate::linux::{Linux, LinuxError, Protocol, Socket, SocketState};
use crate::memory::PhysicalMemory;

/// Connects under way. One that fails for want of a route stays until its socket is closed or connects again.
const MAX_CONNECTING: usize = 1024;
/// Sockets whose port is awaited.
const MAX_BINDING: usize = 64;
/// Looks at a socket before it is taken that its bind has failed. Between two is at least one trap or a wait of the session.
const MAX_LOOKS: u32 = 64;

/// What is known of UDP sockets so far.
#[derive(Default)]
pub(super) struct Datagrams {
    connecting: HashMap<u64, Connecting>,
    binding: Vec<Binding>,
}

/// A socket that has a peer but no local address.
struct Connecting {
    socket: Socket,
    who: Arc<Subject>,
}

/// A socket that is being given a port.
struct Binding {
    sk: u64,
    who: Arc<Subject>,
    looks: u32,
}

impl Datagrams {
    /// `socket` is being connected to `remote`. Gives the connected socket if its local address stands; else
    /// [`Datagrams::source`] will.
    pub(super) fn connect(
        &mut self,
        mut socket: Socket,
        remote: SocketAddr,
        who: &Arc<Subject>,
    ) -> Option<Socket> {
        // Connected, it is told as such, not as one that takes datagrams from everybody.
        self.binding.retain(|binding| binding.sk != socket.sk);
        self.connecting.remove(&socket.sk);
        socket.remote = Some(remote);
        socket.state = SocketState::Established;
        if !socket.local.ip().is_unspecified() {
            return Some(socket);
        }
        if self.connecting.len() >= MAX_CONNECTING {
            self.connecting.clear();
        }
        let who = Arc::clone(who);
        self.connecting.insert(socket.sk, Connecting { socket, who });
        None
    }

    /// The socket at `sk` has its local address now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn source<M: PhysicalMemory>(
        &mut self,
        linux: &Linux<M>,
        sk: u64,
    ) -> Result<Option<(Arc<Subject>, Socket)>, LinuxError> {
        let Some(Connecting { mut socket, who }) = self.connecting.remove(&sk) else {
            return Ok(None);
        };
        let Some(remote) = socket.remote else {
            return Ok(None);
        };
        socket.local.set_ip(linux.local_address(sk, remote.ip())?);
        Ok(Some((who, socket)))
    }

    /// The socket at `sk` is being given a port.
    pub(super) fn bind(&mut self, sk: u64, who: Arc<Subject>) {
        self.binding.retain(|binding| binding.sk != sk);
        if self.binding.len() >= MAX_BINDING {
            self.binding.remove(0);
        }
        self.binding.push(Binding { sk, who, looks: 0 });
    }

    /// The socket at `sk` is no more.
    pub(super) fn forget(&mut self, sk: u64) {
        self.connecting.remove(&sk);
        self.binding.retain(|binding| binding.sk != sk);
    }

    /// Whether no port is awaited.
    pub(super) fn is_settled(&self) -> bool {
        self.binding.is_empty()
    }

    /// Tells of sockets that have their port by now. Returns whether one is still awaited.
    pub(super) fn settle<M: PhysicalMemory>(
        &mut self,
        linux: &Linux<M>,
        tell: &mut dyn FnMut(&Arc<Subject>, &Socket),
    ) -> bool {
        self.binding.retain_mut(|binding| {
            binding.looks += 1;
            match linux.socket(binding.sk) {
                Ok(socket) if socket.protocol == Protocol::Udp && socket.local.port() != 0 => {
                    if socket.remote.is_none() {
                        tell(&binding.who, &socket);
                    }
                    false
                }
                Ok(socket) => socket.protocol == Protocol::Udp && binding.looks < MAX_LOOKS,
                Err(_) => false,
            }
        });
        !self.binding.is_empty()
    }
}
