// SPDX-License-Identifier: GPL-3.0-only
//! Frames of our own making, put on a vif with a mark that tells the programs what they are; and the sums they bear.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A packet socket that only sends, in the network namespace of the thread that opened it.
pub(crate) struct Injector(OwnedFd);

impl Injector {
    /// `mark`: what `skb->mark` is at the vif's egress. No guest can set one.
    ///
    /// # Errors
    /// What the kernel says; it asks for CAP_NET_RAW and CAP_NET_ADMIN.
    pub(crate) fn open(mark: u32) -> io::Result<Injector> {
        // Protocol 0: it receives nothing.
        // SAFETY: takes numbers only.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave it, and nobody else has it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: the pointer is to an int of the length given, which the call only reads.
        let marked = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MARK,
                (&raw const mark).cast(),
                size_of_val(&mark) as libc::socklen_t,
            )
        };
        if marked < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Injector(socket))
    }

    /// Puts a frame on the egress of an interface. Never waits.
    ///
    /// # Errors
    /// What the kernel says: the interface is gone or down, or its queue is full.
    pub(crate) fn send(&self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        // SAFETY: an all-zero sockaddr_ll is a valid one.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = ifindex as i32;
        // SAFETY: both pointers are to memory of the sizes given, which the call only reads.
        let sent = unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                libc::MSG_DONTWAIT,
                (&raw const to).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// Writes 16 bits in network order; every caller's bytes are longer than `at + 2`.
pub(crate) fn put(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

/// RFC 1071, over parts of even length; only the last may be of odd.
pub(crate) fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for part in parts {
        let (pairs, rest) = part.as_chunks::<2>();
        sum += pairs
            .iter()
            .map(|pair| u32::from(u16::from_be_bytes(*pair)))
            .sum::<u32>();
        sum += rest.first().map_or(0, |last| u32::from(*last) << 8);
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
