// SPDX-License-Identifier: GPL-3.0-only
//! Packet sockets: what is really on the wire, and frames no stack would send.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};
use std::os::fd::AsFd;

use super::World;

/// A packet socket on an interface of a namespace.
pub struct Wire {
    socket: OwnedFd,
    ifindex: i32,
}

impl Wire {
    /// On `eth0`.
    pub fn open(world: &World, part: &str) -> Wire {
        Wire::open_on(world, part, "eth0")
    }

    /// The same on another interface.
    pub fn open_on(world: &World, part: &str, interface: &str) -> Wire {
        world.inside(part, || {
            let socket = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_NONBLOCK,
                SockProtocol::EthAll,
            )
            .unwrap();
            let ifindex = nix::net::if_::if_nametoindex(interface).unwrap() as i32;
            Wire { socket, ifindex }
        })
    }

    pub fn send(&self, frame: &[u8]) {
        assert!(self.offer(frame), "{}", Errno::ENOBUFS);
    }

    /// Whether the interface takes a frame: one that a program at its own egress drops it does not.
    pub fn offer(&self, frame: &[u8]) -> bool {
        // SAFETY: an all-zero sockaddr_ll is a valid one.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = self.ifindex;
        // SAFETY: both pointers are to memory of the sizes given, which the call only reads.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        if sent < 0 && Errno::last() == Errno::ENOBUFS {
            return false;
        }
        assert_eq!(sent, frame.len() as isize, "{}", Errno::last());
        true
    }

    /// The frames that are there or come within `time`, as long as they are not `enough`.
    pub fn frames_until(&self, time: Duration, mut enough: impl FnMut(&[u8]) -> bool) -> Vec<Vec<u8>> {
        let end = Instant::now() + time;
        let mut frames = Vec::new();
        let mut buffer = vec![0; 70_000];
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => {
                    frames.push(buffer[..length].to_vec());
                    if enough(&buffer[..length]) {
                        return frames;
                    }
                }
                Err(Errno::EAGAIN) => {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return frames;
                    }
                    let left = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap();
                    poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], left).unwrap();
                }
                Err(error) => panic!("packet socket: {error}"),
            }
        }
    }

    /// Whether a frame that `wanted` picks comes within `time`.
    pub fn sees(&self, time: Duration, wanted: impl Fn(&[u8]) -> bool) -> bool {
        self.frames_until(time, &wanted).iter().any(|frame| wanted(frame))
    }
}

/// Both ends' wires.
pub struct Ends {
    pub guest: Wire,
    pub peer: Wire,
}

impl Ends {
    pub fn open(world: &World) -> Ends {
        Ends {
            guest: Wire::open(world, "guest"),
            peer: Wire::open(world, "peer"),
        }
    }

    /// Whether what the guest sends arrives at the peer, all but the Ethernet header.
    pub fn leaves(&self, frame: &[u8]) -> bool {
        self.guest.send(frame);
        self.peer
            .sees(Duration::from_millis(100), |f| f.ends_with(&frame[14..]))
    }

    /// Whether what the peer sends arrives at the guest.
    pub fn arrives(&self, frame: &[u8]) -> bool {
        self.peer.send(frame);
        self.guest
            .sees(Duration::from_millis(100), |f| f.ends_with(&frame[14..]))
    }
}
