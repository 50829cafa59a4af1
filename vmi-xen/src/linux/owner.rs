// SPDX-License-Identifier: GPL-3.0-only
//! Whose packet is this? The process behind a flow, without a trap.

use std::net::{IpAddr, SocketAddr};

use super::{Budget, Linux, LinuxError, Protocol, Socket, SocketState, TaskAddr};
use crate::memory::PhysicalMemory;

/// A flow as a packet shows it, from the guest's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Network namespace, where it is known; loopback addresses and published
    /// ports repeat in each.
    pub netns: Option<u32>,
    /// The guest's end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
}

/// The socket that a flow belongs to and a process that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SocketOwner {
    /// Leader of the process.
    pub task: TaskAddr,
    /// Its descriptor.
    pub fd: u32,
    /// The socket.
    pub socket: Socket,
}

/// How well a socket fits a flow; higher is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// Takes packets from anybody to any address of the guest.
    AnyAddress,
    /// Takes packets from anybody to this address.
    ThisAddress,
    /// Connected to exactly this peer.
    Connected,
}

impl<M: PhysicalMemory> Linux<M> {
    /// Finds the process behind a flow by a sweep over all descriptors: the
    /// connected socket, or else the one that listens or, over UDP, receives
    /// there. (A connection that nobody has accepted yet is thus its listener's.)
    /// None if no process owns it: a raw socket, the kernel's own traffic, a
    /// socket in flight between processes, or a process that hides.
    ///
    /// # Errors
    /// As [`Linux::leaders`].
    pub fn socket_owner(&self, flow: &Flow) -> Result<Option<SocketOwner>, LinuxError> {
        self.within(Budget::SWEEP, || self.swept_owner(flow)).0
    }

    fn swept_owner(&self, flow: &Flow) -> Result<Option<SocketOwner>, LinuxError> {
        let mut best: Option<(Fit, SocketOwner)> = None;
        for task in self.leaders()? {
            // A process that is gone meanwhile holds nothing.
            let Ok(sockets) = self.sockets_of(task) else {
                continue;
            };
            for (fd, socket) in sockets {
                let Some(fit) = fit(&socket, flow) else {
                    continue;
                };
                let owner = SocketOwner { task, fd, socket };
                if fit == Fit::Connected {
                    return Ok(Some(owner));
                }
                if best.is_none_or(|(known, _)| fit > known) {
                    best = Some((fit, owner));
                }
            }
        }
        Ok(best.map(|(_, owner)| owner))
    }
}

fn fit(socket: &Socket, flow: &Flow) -> Option<Fit> {
    let elsewhere = flow.netns.is_some_and(|netns| netns != socket.netns);
    if elsewhere || socket.protocol != flow.protocol || socket.local.port() != flow.local.port() {
        return None;
    }
    match socket.remote {
        Some(remote) => {
            let same = remote == flow.remote && takes(socket.local.ip(), flow.local.ip()).is_some();
            same.then_some(Fit::Connected)
        }
        None if socket.protocol == Protocol::Tcp && socket.state != SocketState::Listen => None,
        None => takes(socket.local.ip(), flow.local.ip()),
    }
}

/// Whether a socket bound to `bound` takes packets to `address`. One that is
/// bound to `::` takes IPv4 too, unless it asked not to.
fn takes(bound: IpAddr, address: IpAddr) -> Option<Fit> {
    if bound == address {
        return Some(Fit::ThisAddress);
    }
    let any = bound.is_unspecified() && (bound.is_ipv6() || address.is_ipv4());
    any.then_some(Fit::AnyAddress)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(local: &str, remote: Option<&str>, state: SocketState) -> Socket {
        Socket {
            sk: 1,
            protocol: Protocol::Tcp,
            state,
            ipv6: false,
            local: local.parse().unwrap(),
            remote: remote.map(|remote| remote.parse().unwrap()),
            netns: 7,
            backlog: None,
        }
    }

    fn flow(local: &str, remote: &str) -> Flow {
        Flow {
            protocol: Protocol::Tcp,
            netns: None,
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
        }
    }

    #[test]
    fn the_closest_socket_fits_best() {
        let flow = flow("10.0.0.1:80", "10.0.0.2:5000");
        let fit = |local, remote, state| fit(&socket(local, remote, state), &flow);
        use SocketState::{Close, Established, Listen};
        let exact = fit("10.0.0.1:80", Some("10.0.0.2:5000"), Established);
        assert_eq!(exact, Some(Fit::Connected));
        assert_eq!(fit("10.0.0.1:80", None, Listen), Some(Fit::ThisAddress));
        assert_eq!(fit("0.0.0.0:80", None, Listen), Some(Fit::AnyAddress));
        assert_eq!(fit("[::]:80", None, Listen), Some(Fit::AnyAddress));
        assert_eq!(fit("10.0.0.1:80", Some("10.0.0.2:5001"), Established), None);
        assert_eq!(fit("10.0.0.3:80", None, Listen), None);
        assert_eq!(fit("10.0.0.1:81", None, Listen), None);
        // Bound, but neither listening nor connected: takes nothing.
        assert_eq!(fit("10.0.0.1:80", None, Close), None);
        assert!(Fit::Connected > Fit::ThisAddress && Fit::ThisAddress > Fit::AnyAddress);
    }

    #[test]
    fn ipv4_sockets_take_no_ipv6_and_namespaces_are_apart() {
        let listener = socket("0.0.0.0:80", None, SocketState::Listen);
        assert_eq!(fit(&listener, &flow("[fd00::1]:80", "[fd00::2]:9")), None);
        let mut there = flow("10.0.0.1:80", "10.0.0.2:5000");
        there.netns = Some(8);
        assert_eq!(fit(&listener, &there), None);
        there.netns = Some(7);
        assert_eq!(fit(&listener, &there), Some(Fit::AnyAddress));
    }
}
