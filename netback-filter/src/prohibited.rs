// SPDX-License-Identifier: GPL-3.0-only
//! "Administratively prohibited": how a guest learns that what it sends is refused, where TCP's RST is no answer.
//!
//! The programs cannot make it: a packet of a guest carries the mark "checksum still to be computed" at its UDP header,
//! which no helper takes off, and netfront drops an ICMP packet that carries it. So it is made here, when a refusal is
//! reported, and put on the guest's vif.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::datapath::AttachedVif;
use crate::events::{Event, EventKind};
use crate::inject::{Injector, checksum, put};
use crate::types::{Action, Direction, FlowKey, Protocol, Refuse};

/// `ANSWER_MARK` of bpf/answer.h: the other program on the vif lets it through.
const ANSWER_MARK: u32 = 0x786d_5253;
/// Answers in a second, of all guests: a guest that knocks at every port is told often enough.
const MOST: u32 = 1000;
/// A locally administered MAC address; nobody answers to it.
const SENDER: [u8; 6] = [0x02, 0x78, 0x6d, 0x65, 0x73, 0x68];
const HOPS: u8 = 64;

/// Sends the answers.
pub struct Prohibited {
    injector: Injector,
    second: Instant,
    sent: u32,
}

impl Prohibited {
    /// Opens a packet socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// What the kernel says; it asks for CAP_NET_RAW and CAP_NET_ADMIN.
    pub fn open() -> io::Result<Prohibited> {
        Ok(Prohibited {
            injector: Injector::open(ANSWER_MARK)?,
            second: Instant::now(),
            sent: 0,
        })
    }

    /// Answers the packet of a report, if it is one to answer: not TCP and not ICMP, sent by a guest, and refused with an
    /// answer. Returns whether one was sent; it goes to those of `vifs` that are the guest's.
    ///
    /// # Errors
    /// What the kernel says where no vif took it; the guest is then left to its time-outs.
    pub fn answer(&mut self, event: &Event, vifs: &[AttachedVif]) -> io::Result<bool> {
        if !is_answered(event) {
            return Ok(false);
        }
        let key = &event.flow.key;
        let mut sent = false;
        let mut failed = None;
        for vif in vifs.iter().filter(|vif| vif.config.scope == key.scope) {
            let Some(frame) = vif.config.mac.and_then(|mac| frame(key, mac)) else {
                continue;
            };
            if !self.may_send() {
                return Ok(false);
            }
            // An emulated NIC that is down keeps the answer from no other.
            match self.injector.send(vif.ifindex, &frame) {
                Ok(()) => sent = true,
                Err(e) => failed = Some(e),
            }
        }
        match failed {
            Some(e) if !sent => Err(e),
            _ => Ok(sent),
        }
    }

    fn may_send(&mut self) -> bool {
        if self.second.elapsed() >= Duration::from_secs(1) {
            self.second = Instant::now();
            self.sent = 0;
        }
        self.sent += 1;
        self.sent <= MOST
    }
}

fn is_answered(event: &Event) -> bool {
    event.kind == EventKind::Refused
        && event.enforced
        // It would have to bear the tag.
        && !event.tagged
        && event.direction == Direction::FromGuest
        && event.flow.verdict.action == Action::Deny(Refuse::Reset)
        && ![Protocol::TCP, Protocol::ICMP, Protocol::ICMPV6].contains(&event.flow.key.protocol)
}

/// The whole frame; none where the packet was to many, which nobody answers (RFC 1122, 3.2.2).
fn frame(key: &FlowKey, guest: [u8; 6]) -> Option<Vec<u8>> {
    let (ethertype, packet) = match (key.local.ip(), key.remote.ip()) {
        (IpAddr::V4(local), IpAddr::V4(remote)) if !remote.is_multicast() && !remote.is_broadcast() => {
            (0x0800_u16, v4(key, local, remote))
        }
        (IpAddr::V6(local), IpAddr::V6(remote)) if !remote.is_multicast() => (0x86dd, v6(key, local, remote)),
        _ => return None,
    };
    let mut frame = Vec::with_capacity(14 + packet.len());
    frame.extend(guest);
    frame.extend(SENDER);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(packet);
    Some(frame)
}

/// The first 8 bytes behind the IP header that was refused: ports, as far as the protocol has them, and of UDP the shortest
/// length there is. A receiver asks for no more than addresses, protocol and ports.
fn quoted(key: &FlowKey) -> [u8; 8] {
    let (from, to) = (key.local.port().to_be_bytes(), key.remote.port().to_be_bytes());
    [from[0], from[1], to[0], to[1], 0, 8, 0, 0]
}

/// An error of type 3, code 13 (RFC 1812, 5.2.7.1), from the address that the guest wanted to reach.
fn v4(key: &FlowKey, local: Ipv4Addr, remote: Ipv4Addr) -> Vec<u8> {
    let mut message = vec![3, 13, 0, 0, 0, 0, 0, 0];
    message.extend(header4(key.protocol.0, 8, local, remote));
    message.extend(quoted(key));
    let sum = checksum(&[&message]);
    put(&mut message, 2, sum);
    let mut packet = header4(Protocol::ICMP.0, message.len() as u16, remote, local);
    packet.extend(message);
    packet
}

fn header4(protocol: u8, payload: u16, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, HOPS, protocol, 0, 0];
    header.extend(from.octets());
    header.extend(to.octets());
    put(&mut header, 2, 20 + payload);
    let sum = checksum(&[&header]);
    put(&mut header, 10, sum);
    header
}

/// An error of type 1, code 1 (RFC 4443, 3.1).
fn v6(key: &FlowKey, local: Ipv6Addr, remote: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![1, 1, 0, 0, 0, 0, 0, 0];
    message.extend(header6(key.protocol.0, 8, local, remote));
    message.extend(quoted(key));
    let length = (message.len() as u32).to_be_bytes();
    let pseudo = [
        &remote.octets()[..],
        &local.octets(),
        &length,
        &[0, 0, 0, Protocol::ICMPV6.0],
    ]
    .concat();
    let sum = checksum(&[&pseudo, &message]);
    put(&mut message, 2, sum);
    let mut packet = header6(Protocol::ICMPV6.0, message.len() as u16, remote, local);
    packet.extend(message);
    packet
}

fn header6(next: u8, payload: u16, from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0, 0, 0, next, HOPS];
    header.extend(from.octets());
    header.extend(to.octets());
    put(&mut header, 4, payload);
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Vlan;

    const GUEST: [u8; 6] = [0, 0x16, 0x3e, 0, 0, 1];

    fn key(local: &str, remote: &str) -> FlowKey {
        FlowKey {
            scope: 1,
            protocol: Protocol::UDP,
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            vlan: Vlan::NONE,
        }
    }

    #[test]
    fn an_answer_adds_up_and_quotes_what_was_refused() {
        let answer = frame(&key("10.0.0.1:5000", "10.0.0.2:53"), GUEST).unwrap();
        assert_eq!(answer[..6], GUEST);
        assert_eq!(checksum(&[&answer[14..34]]), 0, "the outer header");
        assert_eq!(checksum(&[&answer[34..]]), 0, "the message");
        assert_eq!(checksum(&[&answer[42..62]]), 0, "the inner header");
        assert_eq!(answer[34..36], [3, 13]);
        assert_eq!(answer[62..66], [0x13, 0x88, 0, 53]);
        let six = frame(&key("[fd00::1]:5000", "[fd00::2]:53"), GUEST).unwrap();
        assert_eq!(six.len(), 14 + 40 + 8 + 40 + 8);
        let pseudo = [&six[22..54], &[0, 0, 0, 56], &[0, 0, 0, 58]].concat();
        assert_eq!(checksum(&[&pseudo, &six[54..]]), 0);
    }

    #[test]
    fn nobody_answers_what_is_sent_to_many() {
        for remote in ["224.0.0.251:5353", "255.255.255.255:67"] {
            assert_eq!(frame(&key("10.0.0.1:5000", remote), GUEST), None);
        }
        assert_eq!(frame(&key("[fd00::1]:5000", "[ff02::fb]:5353"), GUEST), None);
    }
}
