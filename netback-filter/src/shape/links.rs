// SPDX-License-Identifier: GPL-3.0-only
//! Devices of our own: made, brought up and removed (rtnetlink).

use std::io;

use crate::netlink::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, Netlink, put};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_INFO_KIND: u16 = 1;

/// `struct ifinfomsg`.
fn message(ifindex: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut body = vec![0; 4]; // family, padding, type
    for word in [ifindex, flags, change] {
        body.extend(word.to_ne_bytes());
    }
    body
}

/// Makes a device of a kind.
///
/// # Errors
/// EOPNOTSUPP where the kernel lacks the kind, EEXIST where the name is taken.
pub(super) fn add(netlink: &mut Netlink, name: &str, kind: &str) -> io::Result<()> {
    let mut info = Vec::new();
    put(&mut info, IFLA_INFO_KIND, kind.as_bytes());
    let mut body = message(0, 0, 0);
    put(&mut body, IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat());
    put(&mut body, IFLA_LINKINFO, &info);
    netlink
        .send(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &body)
        .map(|_| ())
}

/// Brings a device up, and says what it is for.
pub(super) fn bring_up(netlink: &mut Netlink, ifindex: u32, alias: &str) -> io::Result<()> {
    let up = libc::IFF_UP as u32;
    let mut body = message(ifindex, up, up);
    put(&mut body, IFLA_IFALIAS, alias.as_bytes());
    netlink.send(RTM_NEWLINK, NLM_F_ACK, &body).map(|_| ())
}

pub(super) fn delete(netlink: &mut Netlink, ifindex: u32) -> io::Result<()> {
    netlink
        .send(RTM_DELLINK, NLM_F_ACK, &message(ifindex, 0, 0))
        .map(|_| ())
}
