// SPDX-License-Identifier: GPL-3.0-only
//! Hearing from the kernel that something about bridges changed.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

use crate::netlink::split_message;

/// Links, neighbours (those of bridges are among them) and traffic control: `RTMGRP_...` of linux/rtnetlink.h.
const ROUTE_GROUPS: u32 = 0x1 | 0x4 | 0x8;
const NEIGHBOURS: [u16; 2] = [28, 29];
/// `NFNLGRP_NFTABLES`, as the bit of its group.
const NFTABLES_GROUP: u32 = 1 << (7 - 1);

/// Hears of bridges, their ports and who is behind them, of filters at interfaces, and of nftables. Messages may be lost, and some
/// settings make none (`br_netfilter`, TCX): who listens looks from time to time all the same.
pub struct BridgeWatch {
    route: OwnedFd,
    /// Not on a kernel without nftables.
    nftables: Option<OwnedFd>,
}

impl BridgeWatch {
    /// In the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            route: subscribe(SockProtocol::NetlinkRoute, ROUTE_GROUPS)?,
            nftables: subscribe(SockProtocol::NetlinkNetFilter, NFTABLES_GROUP).ok(),
        })
    }

    /// Waits for a change, or for `timeout`. Returns whether there was one.
    pub fn wait(&self, timeout: Duration) -> bool {
        let end = Instant::now() + timeout;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            // Rounded up: no loop through the last millisecond.
            let left = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            let sockets = std::iter::once(&self.route).chain(&self.nftables);
            let mut fds: Vec<_> = sockets
                .map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
                .collect();
            // A signal only makes the caller look early.
            match poll(&mut fds, left) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(_) => return true,
            }
            // Both are read to their end.
            let routes = drain(&self.route, is_about_a_bridge);
            let chains = self
                .nftables
                .as_ref()
                .is_some_and(|socket| drain(socket, |_, _| true));
            if routes || chains {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
        }
    }
}

fn subscribe(protocol: SockProtocol, groups: u32) -> io::Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        protocol,
    )?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(socket)
}

/// Reads all that is there. Whether any of it is `wanted`, or some was lost.
fn drain(socket: &OwnedFd, wanted: impl Fn(u16, &[u8]) -> bool) -> bool {
    let mut buffer = vec![0_u8; 32 << 10];
    let mut found = false;
    loop {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(0) | Err(Errno::EAGAIN) => return found,
            Ok(length) => {
                let mut rest = buffer.get(..length).unwrap_or_default();
                while let Some((kind, _, body, next)) = split_message(rest) {
                    found |= wanted(kind, body);
                    rest = next;
                }
            }
            Err(Errno::ENOBUFS) => found = true,
            Err(_) => return true,
        }
    }
}

/// Not about the host's own neighbours.
fn is_about_a_bridge(kind: u16, body: &[u8]) -> bool {
    !NEIGHBOURS.contains(&kind) || body.first() == Some(&(libc::AF_BRIDGE as u8))
}
