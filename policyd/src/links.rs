// SPDX-License-Identifier: GPL-3.0-only
//! Link messages from the kernel (rtnetlink): a vif that appears is covered at once, not at the next look.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

/// RTMGRP_LINK of linux/rtnetlink.h.
const RTMGRP_LINK: u32 = 1;

/// A netlink socket that hears of links made, changed and removed.
pub struct LinkMonitor {
    socket: OwnedFd,
}

impl LinkMonitor {
    /// Subscribes.
    ///
    /// # Errors
    /// What the kernel says; without the monitor links are still found, by looking.
    pub fn open() -> nix::Result<LinkMonitor> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkRoute,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, RTMGRP_LINK))?;
        Ok(LinkMonitor { socket })
    }

    /// Waits for a change, for something to read from `others`, or for `timeout`. Returns whether links changed; what changed is not
    /// told: the caller looks.
    pub fn wait<'f>(&self, others: impl Iterator<Item = BorrowedFd<'f>>, timeout: Duration) -> bool {
        let mut fds = vec![PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        fds.extend(others.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        // A signal or a full socket only makes the caller look early.
        if !matches!(poll(&mut fds, timeout), Ok(n) if n > 0) {
            return false;
        }
        let mut changed = false;
        let mut buffer = [0u8; 16 << 10];
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(n) if n > 0 => changed = true,
                // So many messages that some were lost.
                Err(nix::errno::Errno::ENOBUFS) => changed = true,
                _ => return changed,
            }
        }
    }
}
