// SPDX-License-Identifier: GPL-3.0-only
//! All that passes an end's interface meanwhile, and whether its sums are right.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt::RcvBufForce,
};

use super::World;
use super::frame::{checksum, l4_checksum, pseudo_sum};

/// `linux/if_packet.h`
const PACKET_AUXDATA: i32 = 8;
const TP_STATUS_CSUMNOTREADY: u32 = 1 << 3;

/// One frame.
pub struct Captured {
    pub bytes: Vec<u8>,
    /// Its L4 sum is left to the device: the field holds that of the pseudo header.
    pub partial: bool,
    pub source: IpAddr,
    pub dest: IpAddr,
    /// 0 where there are none.
    pub ports: (u16, u16),
    pub protocol: u8,
    pub payload: usize,
    /// Whether its L4 sum is right by a library that shares nothing with ours; `None`: it has none that can be told.
    sum_is_right: Option<bool>,
}

/// A packet socket on `eth0` of a namespace, from when it is opened.
pub struct Capture(OwnedFd);

impl Capture {
    pub fn open(world: &World, part: &str) -> Capture {
        world.inside(part, || {
            let socket = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_NONBLOCK,
                SockProtocol::EthAll,
            )
            .unwrap();
            setsockopt(&socket, RcvBufForce, &(64 << 20)).unwrap();
            let one = 1_i32;
            // SAFETY: the option is an int, which the call only reads.
            let set = unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_PACKET,
                    PACKET_AUXDATA,
                    (&raw const one).cast(),
                    size_of::<i32>() as u32,
                )
            };
            assert_eq!(set, 0);
            Capture(socket)
        })
    }

    /// The IP packets that came or went so far.
    pub fn packets(&self) -> Vec<Captured> {
        self.packets_until(Duration::ZERO, |_| false)
    }

    /// Those that are there or come within `time`, as long as they are not `enough`.
    pub fn packets_until(&self, time: Duration, mut enough: impl FnMut(&Captured) -> bool) -> Vec<Captured> {
        let end = Instant::now() + time;
        let mut packets = Vec::new();
        let mut buffer = vec![0; 1 << 17];
        loop {
            if let Some((length, partial)) = self.receive(&mut buffer) {
                if let Some(packet) = read(&buffer[..length], partial) {
                    packets.push(packet);
                    if packets.last().is_some_and(&mut enough) {
                        return packets;
                    }
                }
                continue;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return packets;
            }
            let left = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap();
            poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], left).unwrap();
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> Option<(usize, bool)> {
        let mut control = [0_u64; 32];
        let mut part = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        // SAFETY: an all-zero msghdr is a valid one.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: the message's buffers live through the call and have the sizes given.
        let length = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, 0) };
        let length = usize::try_from(length).ok()?;
        // `struct cmsghdr`, then `struct tpacket_auxdata`, whose first field is the status.
        let status = (control[2] & 0xffff_ffff) as u32;
        Some((length, status & TP_STATUS_CSUMNOTREADY != 0))
    }
}

fn read(bytes: &[u8], partial: bool) -> Option<Captured> {
    let sliced = SlicedPacket::from_ethernet(bytes).ok()?;
    let sum_is_right = check_sum(&sliced);
    let (source, dest, protocol): (IpAddr, IpAddr, u8) = match sliced.net? {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
                header.protocol().0,
            )
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
                ip.payload().ip_number.0,
            )
        }
        NetSlice::Arp(_) => return None,
    };
    let (ports, payload) = match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => ((tcp.source_port(), tcp.destination_port()), tcp.payload().len()),
        Some(TransportSlice::Udp(udp)) => ((udp.source_port(), udp.destination_port()), udp.payload().len()),
        _ => ((0, 0), 0),
    };
    Some(Captured {
        bytes: bytes.to_vec(),
        partial,
        source,
        dest,
        ports,
        protocol,
        payload,
        sum_is_right,
    })
}

fn check_sum(sliced: &SlicedPacket<'_>) -> Option<bool> {
    let (sum, field) = match (sliced.net.as_ref()?, sliced.transport.as_ref()?) {
        (NetSlice::Ipv4(ip), transport) => {
            let (source, dest) = (ip.header().source(), ip.header().destination());
            match transport {
                TransportSlice::Tcp(tcp) => (tcp.calc_checksum_ipv4(source, dest).ok()?, tcp.checksum()),
                TransportSlice::Udp(udp) => {
                    let header = udp.to_header();
                    let sum = header.calc_checksum_ipv4_raw(source, dest, udp.payload());
                    (sum.ok()?, udp.checksum())
                }
                TransportSlice::Icmpv4(icmp) => {
                    (icmp.icmp_type().calc_checksum(icmp.payload()), icmp.checksum())
                }
                _ => return None,
            }
        }
        (NetSlice::Ipv6(ip), transport) => {
            let (source, dest) = (ip.header().source(), ip.header().destination());
            match transport {
                TransportSlice::Tcp(tcp) => (tcp.calc_checksum_ipv6(source, dest).ok()?, tcp.checksum()),
                TransportSlice::Udp(udp) => {
                    let header = udp.to_header();
                    let sum = header.calc_checksum_ipv6_raw(source, dest, udp.payload());
                    (sum.ok()?, udp.checksum())
                }
                TransportSlice::Icmpv6(icmp) => {
                    let sum = icmp.icmp_type().calc_checksum(source, dest, icmp.payload());
                    (sum.ok()?, icmp.checksum())
                }
                _ => return None,
            }
        }
        _ => return None,
    };
    Some(sum == field)
}

impl Captured {
    /// What is wrong with its sums; `None`: nothing.
    pub fn wrong_sum(&self) -> Option<String> {
        let header = if self.source.is_ipv4() { 34 } else { 54 };
        // Multicast listener reports of the stacks, behind an extension header.
        if self.source.is_ipv6() && self.bytes[20] != self.protocol {
            return None;
        }
        let (ip, segment) = self.bytes.split_at(header);
        if self.source.is_ipv4() && checksum(&[&ip[14..]]) != 0 {
            return Some(format!("IP header {ip:02x?}"));
        }
        let at = match self.protocol {
            6 => 16,
            17 => 6,
            1 => {
                let wrong = checksum(&[segment]) != 0 || self.sum_is_right == Some(false);
                return wrong.then(|| "ICMP".to_owned());
            }
            58 => {
                let wrong = l4_checksum(self.source, self.dest, 58, segment) != 0;
                return (wrong || self.sum_is_right == Some(false)).then(|| "ICMPv6".to_owned());
            }
            _ => return None,
        };
        if self.partial {
            let field = u16::from_be_bytes([segment[at], segment[at + 1]]);
            let sum = pseudo_sum(self.source, self.dest, self.protocol, segment.len() as u32);
            return (field != sum).then(|| format!("pseudo header: {field:#x} in place of {sum:#x}"));
        }
        let sum = l4_checksum(self.source, self.dest, self.protocol, segment);
        (sum != 0 || self.sum_is_right == Some(false)).then(|| format!("L4, {} bytes", segment.len()))
    }
}
