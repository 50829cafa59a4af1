// SPDX-License-Identifier: GPL-3.0-only
//! Frames of our own making: towards a guest by its vif, with a mark that tells the programs there what they are, or towards
//! others as if its guest had sent them.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::netlink::{NLM_F_ACK, Netlink, attribute, u32_at};

/// `ANSWER_MARK` of bpf/answer.h: the programs on a vif let it through.
pub(crate) const ANSWER_MARK: u32 = 0x786d_5253;
/// A locally administered MAC address; nobody answers to it.
pub(crate) const SENDER: [u8; 6] = [0x02, 0x78, 0x6d, 0x65, 0x73, 0x68];
const HOPS: u8 = 64;

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

/// The bridge that an interface is a port of; `None`: of none.
pub(crate) fn master(ifindex: u32) -> io::Result<Option<u32>> {
    const RTM_GETLINK: u16 = 18;
    const IFLA_MASTER: u16 = 10;
    /// Length of `struct ifinfomsg`; the index is at 4.
    const HEADER: usize = 16;
    let mut body = vec![0; HEADER];
    if let Some(place) = body.get_mut(4..8) {
        place.copy_from_slice(&ifindex.to_ne_bytes());
    }
    let answers = Netlink::open()?.send(RTM_GETLINK, NLM_F_ACK, &body)?;
    let found = answers.iter().find(|answer| u32_at(answer, 4) == Some(ifindex));
    let attributes = found.and_then(|answer| answer.get(HEADER..));
    let master = attributes.and_then(|attributes| attribute(attributes, IFLA_MASTER));
    Ok(master.and_then(|value| u32_at(value, 0)))
}

/// An Ethernet header and what follows it.
pub(crate) fn ethernet(to: [u8; 6], from: [u8; 6], ethertype: u16, packet: &[u8]) -> Vec<u8> {
    [&to[..], &from, &ethertype.to_be_bytes(), packet].concat()
}

/// An IPv4 header; `payload`: bytes behind it.
pub(crate) fn header4(protocol: u8, payload: u16, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, HOPS, protocol, 0, 0];
    header.extend(from.octets());
    header.extend(to.octets());
    put(&mut header, 2, 20 + payload);
    let sum = checksum(&[&header]);
    put(&mut header, 10, sum);
    header
}

/// An IPv6 header; `payload`: bytes behind it.
pub(crate) fn header6(next: u8, payload: u16, from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0, 0, 0, next, HOPS];
    header.extend(from.octets());
    header.extend(to.octets());
    put(&mut header, 4, payload);
    header
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

/// The pseudo header of IPv6, for the checksum of a payload of this length.
pub(crate) fn pseudo6(next: u8, length: u32, from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
    let (from, to) = (from.octets(), to.octets());
    [&from[..], &to, &length.to_be_bytes(), &[0, 0, 0, next]].concat()
}
