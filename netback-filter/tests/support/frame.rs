// SPDX-License-Identifier: GPL-3.0-only
//! Frames built and read byte by byte.

use std::net::IpAddr;

use super::{GUEST_MAC, PEER_MAC};

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

/// The one's complement sum of RFC 1071.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The checksum of a TCP or UDP segment whose own field is 0, or 0 if it is there and right.
pub fn l4_checksum(source: IpAddr, dest: IpAddr, proto: u8, segment: &[u8]) -> u16 {
    let length = (segment.len() as u32).to_be_bytes();
    checksum(&[
        &octets(source),
        &octets(dest),
        &length,
        &[0, 0, 0, proto],
        segment,
    ])
}

/// What the checksum field holds when the device is to compute the rest: the plain sum over the pseudo header.
pub fn pseudo_sum(source: IpAddr, dest: IpAddr, proto: u8, length: u32) -> u16 {
    !checksum(&[
        &octets(source),
        &octets(dest),
        &length.to_be_bytes(),
        &[0, 0, 0, proto],
    ])
}

pub fn tcp(source: IpAddr, dest: IpAddr, ports: (u16, u16), flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(ports.0.to_be_bytes());
    segment.extend(ports.1.to_be_bytes());
    segment.extend(0x0100_0000_u32.to_be_bytes());
    segment.extend(0x0200_0000_u32.to_be_bytes());
    segment.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(payload);
    let sum = l4_checksum(source, dest, TCP, &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

pub fn udp(source: IpAddr, dest: IpAddr, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(ports.0.to_be_bytes());
    segment.extend(ports.1.to_be_bytes());
    segment.extend((8 + payload.len() as u16).to_be_bytes());
    segment.extend([0, 0]);
    segment.extend(payload);
    let sum = l4_checksum(source, dest, UDP, &segment);
    segment[6..8].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// An IP packet. `fragment`: identification and, for IPv4, the flags-and-offset field.
pub fn ip(source: IpAddr, dest: IpAddr, proto: u8, fragment: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    if source.is_ipv4() {
        packet.extend([0x45, 0]);
        packet.extend((20 + payload.len() as u16).to_be_bytes());
        packet.extend(fragment.0.to_be_bytes());
        packet.extend(fragment.1.to_be_bytes());
        packet.extend([64, proto, 0, 0]);
    } else {
        packet.extend([0x60, 0, 0, 0]);
        packet.extend((payload.len() as u16).to_be_bytes());
        packet.extend([proto, 64]);
    }
    packet.extend(octets(source));
    packet.extend(octets(dest));
    if source.is_ipv4() {
        let sum = checksum(&[&packet]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    packet.extend(payload);
    packet
}

pub fn ethernet(source: [u8; 6], dest: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(dest);
    frame.extend(source);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

pub const CTAG: u16 = 0x8100;
pub const STAG: u16 = 0x88a8;

/// The frame with a tag put in front of what it bears.
pub fn tagged(frame: &[u8], kind: u16, control: u16) -> Vec<u8> {
    let mut tagged = frame.to_vec();
    let ([a, b], [c, d]) = (kind.to_be_bytes(), control.to_be_bytes());
    tagged.splice(12..12, [a, b, c, d]);
    tagged
}

pub fn ethertype_of(source: IpAddr) -> u16 {
    if source.is_ipv4() { 0x0800 } else { 0x86dd }
}

/// A whole frame from the guest to the peer around an IP packet.
pub fn from_guest(source: IpAddr, packet: &[u8]) -> Vec<u8> {
    ethernet(GUEST_MAC, PEER_MAC, ethertype_of(source), packet)
}

/// A whole frame from the peer to the guest around an IP packet.
pub fn from_peer(source: IpAddr, packet: &[u8]) -> Vec<u8> {
    ethernet(PEER_MAC, GUEST_MAC, ethertype_of(source), packet)
}

/// Protocol and what follows the IP header, if the frame is IP without options or extensions.
pub fn l4(frame: &[u8]) -> Option<(u8, &[u8])> {
    match frame.get(12..14)? {
        [0x08, 0x00] => Some((*frame.get(23)?, frame.get(34..)?)),
        [0x86, 0xdd] => Some((*frame.get(20)?, frame.get(54..)?)),
        _ => None,
    }
}

/// Whether a frame is TCP or UDP with this source or destination port.
pub fn has_port(frame: &[u8], port: u16) -> bool {
    let port = port.to_be_bytes();
    l4(frame).is_some_and(|(proto, l4)| {
        (proto == TCP || proto == UDP) && l4.len() >= 4 && (l4[..2] == port || l4[2..4] == port)
    })
}

/// An IP packet around a TCP segment of 7 bytes.
pub fn tcp_packet(source: IpAddr, dest: IpAddr, ports: (u16, u16), flags: u8) -> Vec<u8> {
    ip(
        source,
        dest,
        TCP,
        (0, 0),
        &tcp(source, dest, ports, flags, b"payload"),
    )
}
