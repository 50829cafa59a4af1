// SPDX-License-Identifier: GPL-3.0-only
//! "Administratively prohibited": how a client learns that what it sends is refused, where TCP's RST is no answer or not the one
//! that is wanted.
//!
//! The programs cannot make it: a packet of a guest carries the mark "checksum still to be computed" at its UDP or TCP header,
//! which no helper takes off, and netfront drops an ICMP packet that carries it. So it is made here, when a refusal is
//! reported. What a guest sent is answered on its vif. What was sent to a guest is answered as if the guest did it, by the bridge
//! that its vif is a port of, to the MAC address that it came from; where dom0 routes, that is not answered.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::datapath::AttachedVif;
use crate::events::{Event, EventKind};
use crate::inject::{
    ANSWER_MARK, Injector, SENDER, checksum, ethernet, header4, header6, master, pseudo6, put,
};
use crate::services::is_station;
use crate::types::{Action, Direction, FlowKey, Protocol, Refuse};

/// Answers in a second, of all guests: a guest that knocks at every port is told often enough.
const MOST: u32 = 1000;

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

    /// Answers the packet of a report, if it is one to answer: not ICMP, TCP only where that is what the verdict says, sent to a
    /// guest likewise, and refused with an answer. Returns whether one was sent. `vifs`: those that there are, the guest's among
    /// them.
    ///
    /// # Errors
    /// What the kernel says where no interface took it; the client is then left to its time-outs.
    pub fn answer(&mut self, event: &Event, vifs: &[AttachedVif]) -> io::Result<bool> {
        if !is_answered(event) {
            return Ok(false);
        }
        let key = &event.flow.key;
        let mut sent = false;
        let mut failed = None;
        for vif in vifs.iter().filter(|vif| vif.config.scope == key.scope) {
            let Some(mac) = vif.config.mac else {
                continue;
            };
            let (frame, out) = match event.direction {
                Direction::FromGuest => (frame(key, event.sequence, mac, SENDER), Ok(Some(vif.ifindex))),
                Direction::ToGuest => {
                    let refused = FlowKey {
                        local: key.remote,
                        remote: key.local,
                        ..*key
                    };
                    let asker = event.sender.filter(|asker| is_station(*asker));
                    let frame = asker.and_then(|asker| frame(&refused, event.sequence, asker, mac));
                    (frame, master(vif.ifindex))
                }
            };
            // An emulated NIC that is down or gone keeps the answer from no other.
            let out = out.unwrap_or_else(|e| {
                failed = Some(e);
                None
            });
            let (Some(frame), Some(out)) = (frame, out) else {
                continue;
            };
            if !self.may_send() {
                return Ok(false);
            }
            match self.injector.send(out, &frame) {
                Ok(()) => sent = true,
                Err(e) => failed = Some(e),
            }
            if sent && event.direction == Direction::ToGuest {
                // By which of the guest's vifs it came is not told; one answer is enough.
                break;
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
    let protocol = event.flow.key.protocol;
    let answered = match event.flow.verdict.action {
        Action::Deny(Refuse::Prohibited) => true,
        Action::Deny(Refuse::Reset) => protocol != Protocol::TCP && event.direction == Direction::FromGuest,
        Action::Allow | Action::Deny(Refuse::Drop | Refuse::Hold) => false,
    };
    answered
        && event.kind == EventKind::Refused
        && event.enforced
        // It would have to bear the tag.
        && !event.tagged
        && ![Protocol::ICMP, Protocol::ICMPV6].contains(&protocol)
}

/// The whole frame, about a packet from the local end of `key` to the remote one; none where the packet was to many, which nobody
/// answers (RFC 1122, 3.2.2).
fn frame(key: &FlowKey, sequence: u32, to: [u8; 6], from: [u8; 6]) -> Option<Vec<u8>> {
    let quoted = quoted(key, sequence);
    let (ethertype, packet) = match (key.local.ip(), key.remote.ip()) {
        (IpAddr::V4(local), IpAddr::V4(remote)) if !remote.is_multicast() && !remote.is_broadcast() => {
            (0x0800_u16, v4(key, quoted, local, remote))
        }
        (IpAddr::V6(local), IpAddr::V6(remote)) if !remote.is_multicast() => {
            (0x86dd, v6(key, quoted, local, remote))
        }
        _ => return None,
    };
    Some(ethernet(to, from, ethertype, &packet))
}

/// What is quoted of what was refused, behind its IP header: ports, as far as the protocol has them; of TCP the sequence number,
/// which the receiver checks, and a header without options to its end; of UDP the shortest length there is.
fn quoted(key: &FlowKey, sequence: u32) -> [u8; 20] {
    let mut quoted = [0; 20];
    put(&mut quoted, 0, key.local.port());
    put(&mut quoted, 2, key.remote.port());
    if key.protocol == Protocol::TCP {
        put(&mut quoted, 4, (sequence >> 16) as u16);
        put(&mut quoted, 6, sequence as u16);
        put(&mut quoted, 12, 0x5002);
    } else {
        put(&mut quoted, 4, 8);
    }
    quoted
}

/// How much of it there is.
fn length(protocol: Protocol) -> usize {
    if protocol == Protocol::TCP { 20 } else { 8 }
}

/// An error of type 3, code 13 (RFC 1812, 5.2.7.1), from the address that the client wanted to reach.
fn v4(key: &FlowKey, quoted: [u8; 20], local: Ipv4Addr, remote: Ipv4Addr) -> Vec<u8> {
    let length = length(key.protocol);
    let mut message = vec![3, 13, 0, 0, 0, 0, 0, 0];
    message.extend(header4(key.protocol.0, length as u16, local, remote));
    message.extend(quoted.iter().take(length));
    let sum = checksum(&[&message]);
    put(&mut message, 2, sum);
    let mut packet = header4(Protocol::ICMP.0, message.len() as u16, remote, local);
    packet.extend(message);
    packet
}

/// An error of type 1, code 1 (RFC 4443, 3.1).
fn v6(key: &FlowKey, quoted: [u8; 20], local: Ipv6Addr, remote: Ipv6Addr) -> Vec<u8> {
    let length = length(key.protocol);
    let mut message = vec![1, 1, 0, 0, 0, 0, 0, 0];
    message.extend(header6(key.protocol.0, length as u16, local, remote));
    message.extend(quoted.iter().take(length));
    let pseudo = pseudo6(Protocol::ICMPV6.0, message.len() as u32, remote, local);
    let sum = checksum(&[&pseudo, &message]);
    put(&mut message, 2, sum);
    let mut packet = header6(Protocol::ICMPV6.0, message.len() as u16, remote, local);
    packet.extend(message);
    packet
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

    fn frame_of(key: &FlowKey, to: [u8; 6]) -> Option<Vec<u8>> {
        frame(key, 0x0102_0304, to, SENDER)
    }

    #[test]
    fn an_answer_adds_up_and_quotes_what_was_refused() {
        let answer = frame_of(&key("10.0.0.1:5000", "10.0.0.2:53"), GUEST).unwrap();
        assert_eq!(answer[..6], GUEST);
        assert_eq!(checksum(&[&answer[14..34]]), 0, "the outer header");
        assert_eq!(checksum(&[&answer[34..]]), 0, "the message");
        assert_eq!(checksum(&[&answer[42..62]]), 0, "the inner header");
        assert_eq!(answer[34..36], [3, 13]);
        assert_eq!(answer[62..66], [0x13, 0x88, 0, 53]);
        let six = frame_of(&key("[fd00::1]:5000", "[fd00::2]:53"), GUEST).unwrap();
        assert_eq!(six.len(), 14 + 40 + 8 + 40 + 8);
        let pseudo = [&six[22..54], &[0, 0, 0, 56], &[0, 0, 0, 58]].concat();
        assert_eq!(checksum(&[&pseudo, &six[54..]]), 0);
        // Of TCP the sequence number is quoted, and a whole header.
        let tcp = FlowKey {
            protocol: Protocol::TCP,
            ..key("10.0.0.1:5000", "10.0.0.2:53")
        };
        let answer = frame_of(&tcp, GUEST).unwrap();
        assert_eq!(answer.len(), 14 + 20 + 8 + 20 + 20);
        assert_eq!(answer[62..70], [0x13, 0x88, 0, 53, 1, 2, 3, 4]);
        assert_eq!(checksum(&[&answer[34..]]), 0);
    }

    #[test]
    fn nobody_answers_what_is_sent_to_many() {
        for remote in ["224.0.0.251:5353", "255.255.255.255:67"] {
            assert_eq!(frame_of(&key("10.0.0.1:5000", remote), GUEST), None);
        }
        assert_eq!(frame_of(&key("[fd00::1]:5000", "[ff02::fb]:5353"), GUEST), None);
    }
}
