// SPDX-License-Identifier: GPL-3.0-only
//! Revoking what is idle: an established connection that is denied meets its refusal when a segment of it passes, so its guest
//! is made to send one.
//!
//! What makes it is the probe of a keep-alive: a segment without data from just before what the guest expects, which it answers
//! with its ACK (RFC 9293, 3.10.7.4). That ACK is refused at the vif like any segment. So both ends get a RST with the sequence
//! number that they expect, by the addresses that they know, be the flow redirected or not; and a connection that is
//! allowed, or is so again meanwhile, notices nothing. Where nothing is known of the guest's sequence numbers a SYN is sent in its
//! place, to which the answer is an ACK whatever its number (RFC 5961, 4). The segment has no tag, whatever VLAN the connection is
//! in: a socket does not tell it. By which interface it answers is the guest's own choice.

use std::io;
use std::net::IpAddr;

use crate::datapath::AttachedVif;
use crate::flows::FlowWriter;
use crate::inject::{ANSWER_MARK, Injector, SENDER, checksum, ethernet, header4, header6, pseudo6, put};
use crate::layout::{RawFlowValue, SEEN_ACK, SEEN_DATA, SEEN_FIN, SEEN_RST, SEEN_SYN};
use crate::types::{FlowKey, Protocol};

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// Taken for a window; nothing is to be sent.
const WINDOW: u16 = 1024;

/// Makes guests speak on connections that are to end.
pub struct Revoker {
    injector: Injector,
    flows: FlowWriter,
}

impl Revoker {
    /// Opens a packet socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// What the kernel says; it asks for CAP_NET_RAW and CAP_NET_ADMIN.
    pub fn open(flows: FlowWriter) -> io::Result<Revoker> {
        Ok(Revoker {
            injector: Injector::open(ANSWER_MARK)?,
            flows,
        })
    }

    /// Lets an established TCP connection of a guest meet its verdict now, by one segment to the guest; to be called when the verdict
    /// is in force. Two guests of this host that are each other's peers are both to be asked, each by its own key. Returns
    /// whether one was sent; it goes to those of `vifs` that are the guest's and whose MAC address is known.
    ///
    /// # Errors
    /// What the kernel says where no vif took it; the connection then ends when one of its ends speaks.
    pub fn revoke(&self, key: &FlowKey, vifs: &[AttachedVif]) -> io::Result<bool> {
        if key.protocol != Protocol::TCP {
            return Ok(false);
        }
        let Some(packet) = self.flows.value(key)?.and_then(|value| probe(key, &value)) else {
            return Ok(false);
        };
        let ethertype = if key.local.is_ipv4() { 0x0800 } else { 0x86dd };
        let mut sent = false;
        let mut failed = None;
        for vif in vifs.iter().filter(|vif| vif.config.scope == key.scope) {
            let Some(mac) = vif.config.mac else {
                continue;
            };
            // As in `Prohibited`: one that is down keeps it from no other.
            match self
                .injector
                .send(vif.ifindex, &ethernet(mac, SENDER, ethertype, &packet))
            {
                Ok(()) => sent = true,
                Err(e) => failed = Some(e),
            }
        }
        match failed {
            Some(e) if !sent => Err(e),
            _ => Ok(sent),
        }
    }
}

/// What the guest answers, from the other end as the guest knows it; none where no connection is established.
fn probe(key: &FlowKey, value: &RawFlowValue) -> Option<Vec<u8>> {
    let [from, to] = value.seen;
    let over = (from | to) & SEEN_RST != 0 || from & to & SEEN_FIN != 0;
    if over || from & to & SEEN_ACK == 0 {
        return None;
    }
    let [acked, expected] = value.next_seq;
    let known = to & (SEEN_SYN | SEEN_DATA) != 0;
    let mut segment = vec![0; 20];
    put(&mut segment, 0, key.remote.port());
    put(&mut segment, 2, key.local.port());
    if known {
        put32(&mut segment, 4, expected.wrapping_sub(1));
        put32(&mut segment, 8, acked);
    }
    let flags = if known { ACK } else { SYN };
    put(&mut segment, 12, 5 << 12 | u16::from(flags));
    put(&mut segment, 14, WINDOW);
    let length = segment.len() as u16;
    let (mut packet, pseudo) = match (key.remote.ip(), key.local.ip()) {
        (IpAddr::V4(remote), IpAddr::V4(local)) => {
            let pseudo = [
                &remote.octets()[..],
                &local.octets(),
                &[0, 6],
                &length.to_be_bytes(),
            ]
            .concat();
            (header4(6, length, remote, local), pseudo)
        }
        (IpAddr::V6(remote), IpAddr::V6(local)) => (
            header6(6, length, remote, local),
            pseudo6(6, length.into(), remote, local),
        ),
        _ => return None,
    };
    let sum = checksum(&[&pseudo, &segment]);
    put(&mut segment, 16, sum);
    packet.extend(segment);
    Some(packet)
}

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    put(bytes, at, (value >> 16) as u16);
    put(bytes, at + 2, value as u16);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_established_is_asked() {
        let key = FlowKey {
            scope: 1,
            protocol: Protocol::TCP,
            local: "10.0.0.1:5000".parse().unwrap(),
            remote: "10.0.0.2:80".parse().unwrap(),
            vlan: crate::Vlan::NONE,
        };
        let seen = |from, to| RawFlowValue {
            seen: [from, to],
            next_seq: [7, 0],
            ..RawFlowValue::default()
        };
        let both = SEEN_SYN | SEEN_ACK;
        for (from, to) in [
            (SEEN_SYN, both),
            (both | SEEN_RST, both),
            (both | SEEN_FIN, both | SEEN_FIN),
        ] {
            assert!(probe(&key, &seen(from, to)).is_none());
        }
        let packet = probe(&key, &seen(both | SEEN_FIN, both)).unwrap();
        assert_eq!(
            packet[20..34],
            [0, 80, 0x13, 0x88, 255, 255, 255, 255, 0, 0, 0, 7, 0x50, ACK]
        );
        assert_eq!(probe(&key, &seen(SEEN_ACK, SEEN_ACK)).unwrap()[33], SYN);
    }
}
