// SPDX-License-Identifier: GPL-3.0-only
//! Frames of all sorts, bent and cut: none passes that is not allowed, by the word of another parser.
//!
//! The guest is locked to its addresses, and nothing is allowed but its datagrams to port 53 (and what no network can do
//! without). The kernel runs the programs on the frames directly, so there are many.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use etherparse::{
    ArpHardwareId, EtherType, IpNumber, Ipv6ExtensionSlice, LinkExtSlice, NetSlice, SlicedPacket,
};
use netback_filter::{Action, Datapath, Direction, Lock, Protocol, ScopeConfig, Service, VifConfig};
use support::frame::{
    ACK, CTAG, STAG, SYN, TCP, UDP, checksum, ethernet, ethertype_of, from_guest, from_peer, ip, l4_checksum,
    tagged, tcp_packet, udp,
};
use support::run::Program;
use support::site::{SERVICE_MAC, SITES, VIP4, VIP6, backend, service, to_service};
use support::*;

/// Frames a direction; `XMESH_FUZZ_FRAMES` sets another number.
const FRAMES: u64 = 300_000;
const PASS: i32 = -1;
const DNS: u16 = 53;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const LINK_LOCAL: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0x0216, 0x3eff, 0xfe00, 1));

/// xorshift64*: the same frames on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 33) as usize % end.max(1)
    }
}

/// Sound frames from the guest to the peer, to be bent.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (guest, peer) in FAMILIES {
        for port in [DNS, 80] {
            let datagram = udp(guest, peer, (5000, port), b"payload");
            seeds.push(from_guest(guest, &ip(guest, peer, UDP, (0, 0), &datagram)));
            // First and later fragment.
            seeds.push(from_guest(guest, &ip(guest, peer, UDP, (7, 0x2000), &datagram)));
            seeds.push(from_guest(guest, &ip(guest, peer, UDP, (7, 3), &datagram)));
        }
        for flags in [SYN, ACK] {
            seeds.push(from_guest(guest, &tcp_packet(guest, peer, (5000, DNS), flags)));
        }
        let (proto, echo) = if guest.is_ipv4() { (ICMP, 8) } else { (ICMPV6, 128) };
        let message = [&[echo, 0, 0, 0, 0, 7, 0, 1][..], b"payload"].concat();
        seeds.push(from_guest(guest, &ip(guest, peer, proto, (0, 0), &message)));
        // An error about a datagram from the peer.
        let inner = ip(
            peer,
            guest,
            UDP,
            (0, 0),
            &udp(peer, guest, (DNS, 5000), b"payload"),
        );
        let (unreachable, code) = if guest.is_ipv4() { (3, 3) } else { (1, 4) };
        let error = [&[unreachable, code, 0, 0, 0, 0, 0, 0][..], &inner].concat();
        seeds.push(from_guest(guest, &ip(guest, peer, proto, (0, 0), &error)));
    }
    // Hop-by-hop options, a routing header and a fragment header before a datagram.
    let datagram = udp(GUEST6, PEER6, (5000, DNS), b"payload");
    let options = [&[UDP, 0, 1, 4, 0, 0, 0, 0][..], &datagram].concat();
    seeds.push(from_guest(GUEST6, &ip(GUEST6, PEER6, 0, (0, 0), &options)));
    let routing = [&[UDP, 0, 4, 0, 0, 0, 0, 0][..], &datagram].concat();
    seeds.push(from_guest(GUEST6, &ip(GUEST6, PEER6, 43, (0, 0), &routing)));
    for offset in [[0, 1], [0, 0], [0, 8]] {
        let fragment = [&[UDP, 0, offset[0], offset[1], 0, 0, 0, 9][..], &datagram].concat();
        seeds.push(from_guest(GUEST6, &ip(GUEST6, PEER6, 44, (0, 0), &fragment)));
    }
    for kind in [133, 134, 135, 136, 137, 143] {
        let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
        if let IpAddr::V6(guest) = GUEST6 {
            message.extend(guest.octets());
        }
        for source in [GUEST6, LINK_LOCAL, IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
            seeds.push(from_guest(source, &ip(source, PEER6, ICMPV6, (0, 0), &message)));
        }
    }
    let none = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
    let dhcp = udp(none, PEER4, (68, 67), b"payload");
    seeds.push(from_guest(none, &ip(none, PEER4, UDP, (0, 0), &dhcp)));
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
    arp.extend(GUEST_MAC);
    arp.extend([10, 77, 0, 1, 0, 0, 0, 0, 0, 0, 10, 77, 0, 2]);
    seeds.push(ethernet(GUEST_MAC, PEER_MAC, 0x0806, &arp));
    with_tags(&mut seeds);
    seeds
}

/// A third of the frames is tagged, as often in the one way as in the other.
fn with_tags(seeds: &mut Vec<Vec<u8>>) {
    let plain = seeds.clone();
    for (number, frame) in plain.iter().enumerate() {
        let frame = match number % 4 {
            0 => tagged(frame, CTAG, 5),
            1 => tagged(frame, STAG, 0x6000),
            2 => tagged(&tagged(frame, CTAG, 7), STAG, 5),
            _ => tagged(&tagged(&tagged(frame, CTAG, 7), CTAG, 7), STAG, 5),
        };
        seeds.push(frame);
    }
    seeds.extend(plain);
}

/// Bends a frame: bytes of interest are headers, so most changes are near its beginning.
fn bend(frame: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..random.below(4) {
        let anywhere = random.below(4) == 0;
        let at = random.below(if anywhere {
            frame.len()
        } else {
            frame.len().min(80)
        });
        match random.below(8) {
            0 => frame.truncate(at),
            1 => frame.extend(std::iter::repeat_n(random.next() as u8, random.below(40))),
            2 => {
                let copied = frame.get(at..).map(|tail| tail[..tail.len().min(8)].to_vec());
                frame.splice(at..at, copied.unwrap_or_default());
            }
            3 => {
                frame.drain(at..(at + 1 + random.below(8)).min(frame.len()));
            }
            4 => {
                if let Some(byte) = frame.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            5 => {
                const EDGES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, 53, 44, 17];
                if let Some(byte) = frame.get_mut(at) {
                    *byte = EDGES[random.below(EDGES.len())];
                }
            }
            _ => {
                if let Some(byte) = frame.get_mut(at) {
                    *byte = random.next() as u8;
                }
            }
        }
    }
}

/// VIDs from the outermost, without those that name none.
type Vlans = Vec<u16>;

/// First fragments that were let through: later ones may follow. Ends, identification and VLAN.
type Fragments = HashSet<(IpAddr, IpAddr, u32, Vlans)>;

/// The VLAN of a frame; `None` where it has other things in front of its packet, or more tags than are looked behind.
fn vlans(packet: &SlicedPacket<'_>) -> Option<Vlans> {
    let mut vlans = Vlans::new();
    for extension in &packet.link_exts {
        match extension {
            LinkExtSlice::Vlan(tag) => vlans.push(tag.vlan_identifier().value()),
            LinkExtSlice::Macsec(_) => return None,
        }
    }
    let few = vlans.len() <= 2;
    vlans.retain(|vid| *vid != 0);
    few.then_some(vlans)
}

/// An IP packet as the other parser sees it.
struct Packet<'f> {
    vlans: Vlans,
    source: IpAddr,
    dest: IpAddr,
    proto: IpNumber,
    /// Behind all headers of IP.
    payload: &'f [u8],
    /// Offset in units of 8 bytes, and identification.
    fragment: Option<(u16, u32)>,
}

impl<'f> Packet<'f> {
    fn of(sliced: &SlicedPacket<'f>) -> Option<Packet<'f>> {
        let vlans = vlans(sliced)?;
        match sliced.net.as_ref()? {
            NetSlice::Ipv4(v4) => {
                let header = v4.header();
                let offset = header.fragments_offset().value();
                Some(Packet {
                    vlans,
                    source: header.source_addr().into(),
                    dest: header.destination_addr().into(),
                    proto: v4.payload_ip_number(),
                    payload: v4.payload().payload,
                    fragment: (offset > 0 || header.more_fragments())
                        .then(|| (offset, u32::from(header.identification()))),
                })
            }
            NetSlice::Ipv6(v6) => {
                let fragment = v6
                    .extensions()
                    .clone()
                    .into_iter()
                    .find_map(|extension| match extension {
                        Ipv6ExtensionSlice::Fragment(f) => Some(f),
                        _ => None,
                    });
                Some(Packet {
                    vlans,
                    source: v6.header().source_addr().into(),
                    dest: v6.header().destination_addr().into(),
                    proto: v6.payload().ip_number,
                    payload: v6.payload().payload,
                    fragment: fragment
                        .map(|f| {
                            (
                                f.fragment_offset().value(),
                                f.more_fragments(),
                                f.identification(),
                            )
                        })
                        .filter(|(offset, more, _)| *offset > 0 || *more)
                        .map(|(offset, _, id)| (offset, id)),
                })
            }
            NetSlice::Arp(_) => None,
        }
    }

    fn ports(&self) -> Option<(u16, u16)> {
        self.payload
            .first_chunk()
            .map(|[a, b, c, d]| (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])))
    }

    /// By the fragments that passed, or by `allowed`; a first fragment that is allowed is remembered.
    fn may_pass(&self, fragments: &mut Fragments, allowed: impl FnOnce(&Self) -> bool) -> bool {
        let of = |id: u32| (self.source, self.dest, id, self.vlans.clone());
        match self.fragment {
            None => allowed(self),
            Some((0, id)) => {
                let allowed = allowed(self);
                if allowed {
                    fragments.insert(of(id));
                }
                allowed
            }
            Some((_, id)) => fragments.contains(&of(id)),
        }
    }
}

fn is_own(address: IpAddr) -> bool {
    [GUEST4, GUEST6, LINK_LOCAL].contains(&address)
}

/// Whether a frame of the guest may pass, by its form and by its addresses.
fn may_leave(frame: &[u8], fragments: &mut Fragments) -> bool {
    let Ok(packet) = SlicedPacket::from_ethernet(frame) else {
        return false;
    };
    if frame[6..12] != GUEST_MAC || vlans(&packet).is_none() {
        return false;
    }
    match &packet.net {
        Some(NetSlice::Arp(arp)) => {
            arp.hw_addr_type() == ArpHardwareId::ETHERNET
                && arp.proto_addr_type() == EtherType::IPV4
                && arp.sender_hw_addr() == GUEST_MAC
                && (arp.sender_protocol_addr() == [10, 77, 0, 1] || arp.sender_protocol_addr() == [0; 4])
        }
        Some(_) => Packet::of(&packet).is_some_and(|packet| packet.may_pass(fragments, is_allowed)),
        None => false,
    }
}

/// The guest's datagrams to port 53, its DHCP, errors about flows that pass, and what a host on IPv6 must say.
fn is_allowed(packet: &Packet<'_>) -> bool {
    let (v4, v6) = (packet.source.is_ipv4(), packet.source.is_ipv6());
    let (own, none) = (is_own(packet.source), packet.source.is_unspecified());
    let kind = packet.payload.first();
    match packet.proto {
        IpNumber::UDP => match packet.ports() {
            Some((68, 67)) if v4 => own || none,
            Some((546, 547)) if v6 => own,
            Some((67, _)) if v4 => false,
            Some((547, _)) if v6 => false,
            Some((_, DNS)) => own,
            _ => false,
        },
        IpNumber::ICMP => own && [Some(&3), Some(&11), Some(&12)].contains(&kind),
        IpNumber::IPV6_ICMP => match kind {
            Some(1..=4 | 130) => own,
            Some(131..=133 | 135 | 143) => own || none,
            Some(136) => {
                let target = packet
                    .payload
                    .get(8..24)
                    .and_then(|raw| <[u8; 16]>::try_from(raw).ok());
                own && target.is_some_and(|raw| is_own(Ipv6Addr::from(raw).into()))
            }
            _ => false,
        },
        _ => false,
    }
}

fn locked(world: &World) -> Datapath {
    let mut datapath = world.open();
    let scope = ScopeConfig {
        lock: Lock::Address,
        ..no_adoption()
    };
    datapath.set_addresses(SCOPE, &[GUEST4, GUEST6]).unwrap();
    datapath.set_scope(SCOPE, scope).unwrap();
    let rules = vec![rule(
        1,
        Direction::FromGuest,
        Protocol::UDP,
        Some(DNS),
        Action::Allow,
    )];
    datapath
        .publish(&netback_filter::RuleSet { peers: vec![], rules }, 1)
        .unwrap();
    // Test runs come from the loopback device.
    let vif = VifConfig {
        scope: SCOPE,
        mac: Some(GUEST_MAC),
    };
    datapath.attach("lo", vif).unwrap();
    datapath
}

/// Programs are found by being the latest: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn frames() -> u64 {
    std::env::var("XMESH_FUZZ_FRAMES").map_or(FRAMES, |text| text.parse().expect("a number"))
}

#[test]
fn nothing_leaves_that_is_not_allowed() {
    let _alone = alone();
    World::run(|world| {
        let _datapath = locked(world);
        let program = Program::latest("from_guest");
        let seeds = seeds();
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut fragments = Fragments::new();
        let mut out = Vec::with_capacity(4096);
        let (mut ran, mut left) = (0_u64, 0_u64);
        for _ in 0..frames() {
            let mut frame = seeds[random.below(seeds.len())].clone();
            bend(&mut frame, &mut random);
            let Some(result) = program.run_into(&frame, 1, &mut out) else {
                continue;
            };
            ran += 1;
            let may = may_leave(&frame, &mut fragments);
            if result.action == PASS {
                left += 1;
                assert!(may, "passed: {}", hex(&frame));
                assert!(out == frame, "altered: {}", hex(&frame));
            }
        }
        // Frames were made that pass, and frames that do not.
        assert!(
            ran > frames() / 2 && left > ran / 50 && left < ran / 2,
            "{left} of {ran} passed"
        );
    });
}

#[test]
fn nothing_arrives_that_was_not_asked_for() {
    let _alone = alone();
    World::run(|world| {
        let datapath = locked(world);
        let (leave, arrive) = (Program::latest("from_guest"), Program::latest("to_guest"));
        // Without a tag over IPv4, in a VLAN over IPv6.
        let asked: Asked = FAMILIES
            .into_iter()
            .zip([vec![], vec![5]])
            .map(|((guest, peer), vlans)| ((guest, 5000).into(), (peer, DNS).into(), vlans))
            .collect();
        for (guest, peer, vlans) in &asked {
            let datagram = udp(guest.ip(), peer.ip(), (guest.port(), peer.port()), b"payload");
            let mut frame = from_guest(guest.ip(), &ip(guest.ip(), peer.ip(), UDP, (0, 0), &datagram));
            if let [vid] = vlans[..] {
                frame = tagged(&frame, CTAG, vid);
            }
            assert_eq!(leave.run(&frame, 1).unwrap().action, PASS);
        }
        let mut seeds: Vec<Vec<u8>> = Vec::new();
        for (guest, peer) in FAMILIES {
            for port in [DNS, 80] {
                let datagram = udp(peer, guest, (port, 5000), b"payload");
                seeds.push(from_peer(peer, &ip(peer, guest, UDP, (0, 0), &datagram)));
                seeds.push(from_peer(peer, &tcp_packet(peer, guest, (port, 5000), ACK)));
                seeds.push(from_peer(peer, &tcp_packet(peer, guest, (5000, port), SYN)));
            }
            let packet = ip(peer, guest, TCP, (7, 3), &[0; 32]);
            seeds.push(ethernet(PEER_MAC, GUEST_MAC, ethertype_of(guest), &packet));
        }
        with_tags(&mut seeds);
        let in_five: Vec<Vec<u8>> = seeds.iter().map(|frame| tagged(frame, CTAG, 5)).collect();
        seeds.extend(in_five);
        let mut random = Random(0x2545_f491_4f6c_dd1d);
        let mut fragments = Fragments::new();
        let (mut ran, mut came) = (0_u64, 0_u64);
        for _ in 0..frames() {
            let mut frame = seeds[random.below(seeds.len())].clone();
            bend(&mut frame, &mut random);
            let Some(result) = arrive.run(&frame, 1) else {
                continue;
            };
            ran += 1;
            let may = may_arrive(&frame, &asked, &mut fragments);
            if result.action == PASS {
                came += 1;
                assert!(may, "passed: {}", hex(&frame));
            }
        }
        assert!(
            ran > frames() / 2 && came > ran / 100 && came < ran / 2,
            "{came} of {ran} passed"
        );
        assert!(counters(&datapath, Direction::ToGuest).malformed > 0);
    });
}

type Asked = HashSet<(SocketAddr, SocketAddr, Vlans)>;

/// Whether a frame to the guest is an answer to one of the datagrams, or what no network can do without.
fn may_arrive(frame: &[u8], asked: &Asked, fragments: &mut Fragments) -> bool {
    let answers = |packet: &Packet<'_>| match packet.proto {
        IpNumber::UDP => packet.ports().is_some_and(|(from, to)| {
            asked.contains(&(
                SocketAddr::new(packet.dest, to),
                SocketAddr::new(packet.source, from),
                packet.vlans.clone(),
            )) || (from, to) == (67, 68) && packet.source.is_ipv4()
                || (from, to) == (547, 546) && packet.source.is_ipv6()
        }),
        IpNumber::IPV6_ICMP => matches!(packet.payload.first(), Some(130..=137 | 143)),
        _ => false,
    };
    // ARP passes whatever is in it.
    let tags = frame.get(12..).unwrap_or_default().chunks(4);
    let is_tag = |chunk: &[u8]| [&[0x81, 0][..], &[0x88, 0xa8]].contains(&&chunk[..chunk.len().min(2)]);
    let behind = tags.take(2).take_while(|chunk| is_tag(chunk)).count() * 4 + 12;
    if frame.get(behind..behind + 2) == Some(&[8, 6]) {
        return true;
    }
    let Ok(packet) = SlicedPacket::from_ethernet(frame) else {
        return false;
    };
    Packet::of(&packet).is_some_and(|packet| packet.may_pass(fragments, answers))
}

/// Frames of the guest to a service: what passes goes to the backend as a whole and is the same in all else, and what is
/// for others is not touched.
#[test]
fn what_is_redirected_is_translated_as_a_whole() {
    let _alone = alone();
    World::run(|world| {
        let mut datapath = locked(world);
        let dns = |vip| Service {
            port: DNS,
            ..service(vip, Protocol::UDP, vec![backend(vip, 1)])
        };
        datapath.publish_services(&[dns(VIP4), dns(VIP6)]).unwrap();
        let program = Program::latest("from_guest");
        let mut seeds: Vec<Vec<u8>> = seeds();
        for (guest, _, vip) in SITES {
            for port in [DNS, 80] {
                let datagram = udp(guest, vip, (5000, port), b"payload.");
                seeds.push(to_service(guest, &ip(guest, vip, UDP, (0, 0), &datagram)));
                seeds.push(to_service(guest, &ip(guest, vip, UDP, (8, 0x2000), &datagram)));
                seeds.push(to_service(guest, &ip(guest, vip, UDP, (8, 3), &datagram)));
            }
            let answer = ip(vip, guest, UDP, (0, 0), &udp(vip, guest, (DNS, 5000), b"payload"));
            let (proto, unreachable, code) = if guest.is_ipv4() {
                (ICMP, 3, 3)
            } else {
                (ICMPV6, 1, 4)
            };
            let error = [&[unreachable, code, 0, 0, 0, 0, 0, 0][..], &answer].concat();
            seeds.push(to_service(guest, &ip(guest, vip, proto, (0, 0), &error)));
            let datagram = udp(guest, vip, (5001, DNS), b"payload.");
            let datagram = to_service(guest, &ip(guest, vip, UDP, (0, 0), &datagram));
            seeds.push(tagged(&datagram, CTAG, 5));
            seeds.push(tagged(&tagged(&datagram, CTAG, 0), CTAG, 0));
        }
        let datagram = udp(GUEST6, VIP6, (5000, DNS), b"payload.");
        for offset in [[0, 1], [0, 16]] {
            let fragment = [&[UDP, 0, offset[0], offset[1], 0, 0, 0, 9][..], &datagram].concat();
            seeds.push(to_service(GUEST6, &ip(GUEST6, VIP6, 44, (0, 0), &fragment)));
        }
        let mut random = Random(0x6a09_e667_f3bc_c908);
        let (mut redirected, mut plain) = (0_u64, 0_u64);
        let mut out = Vec::with_capacity(4096);
        for _ in 0..frames() {
            let mut frame = seeds[random.below(seeds.len())].clone();
            bend(&mut frame, &mut random);
            let ran = program.run_into(&frame, 1, &mut out);
            if ran.is_none_or(|ran| ran.action != PASS) {
                continue;
            }
            assert_ne!(out[..6], SERVICE_MAC, "leads nowhere: {}", hex(&frame));
            let wanted = redirected_like(&frame, &out);
            if wanted.as_ref().is_some_and(|wanted| *wanted != frame) {
                redirected += 1;
            } else {
                plain += 1;
            }
            assert_eq!(
                hex(&out),
                hex(&wanted.unwrap_or_else(|| frame.clone())),
                "of {}",
                hex(&frame)
            );
        }
        assert!(
            redirected > frames() / 50 && plain > frames() / 50,
            "{redirected} were redirected, {plain} not"
        );
    });
}

/// What a frame to the service is to become: all but its sums, which are taken from `out` after they were found to be as
/// right or as wrong as before. `None`: what it is.
fn redirected_like(frame: &[u8], out: &[u8]) -> Option<Vec<u8>> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let packet = Packet::of(&sliced)?;
    if !sliced.link_exts.is_empty() {
        let is_error = packet.proto != IpNumber::UDP;
        assert!(is_error || ![VIP4, VIP6].contains(&packet.dest), "{}", hex(frame));
        return None;
    }
    let l4 = packet.payload.as_ptr() as usize - frame.as_ptr() as usize;
    let mut wanted = frame.to_vec();
    if packet.proto != IpNumber::UDP {
        // An error; what it quotes may be of a flow to the service, wherever the error goes to.
        wanted[l4 + 2..l4 + 4].copy_from_slice(&out[l4 + 2..l4 + 4]);
        let quoted = l4 + 8..l4 + packet.payload.len();
        wanted[quoted.clone()].copy_from_slice(&out[quoted.clone()]);
        if frame[quoted.clone()] == out[quoted] {
            return None;
        }
    }
    let Some(vip) = [VIP4, VIP6].into_iter().find(|vip| *vip == packet.dest) else {
        return (wanted != frame).then_some(wanted);
    };
    let served = backend(vip, 1);
    let is_first = packet.fragment.is_none_or(|(offset, _)| offset == 0);
    if packet.proto == IpNumber::UDP && is_first {
        if packet.ports()?.1 != DNS {
            return None;
        }
        wanted[l4 + 2..l4 + 4].copy_from_slice(&served.port.to_be_bytes());
        let sum = l4 + 6..l4 + 8;
        if frame[sum.clone()] != [0, 0] {
            let rest = |bytes: &[u8], dest| {
                l4_checksum(packet.source, dest, UDP, &bytes[l4..l4 + packet.payload.len()])
            };
            assert!(
                same_sum(rest(frame, vip), rest(out, served.address)),
                "{}",
                hex(frame)
            );
            wanted[sum.clone()].copy_from_slice(&out[sum]);
        }
    }
    wanted[..6].copy_from_slice(&PEER_MAC);
    match served.address {
        IpAddr::V4(v4) => {
            wanted[30..34].copy_from_slice(&v4.octets());
            let header = 14..14 + usize::from(frame[14] & 15) * 4;
            let rest = |bytes: &[u8]| checksum(&[&bytes[header.clone()]]);
            assert!(same_sum(rest(frame), rest(out)), "{}", hex(frame));
            wanted[24..26].copy_from_slice(&out[24..26]);
        }
        IpAddr::V6(v6) => wanted[38..54].copy_from_slice(&v6.octets()),
    }
    Some(wanted)
}

/// 0 and 0xffff are one number to a one's complement sum.
fn same_sum(a: u16, b: u16) -> bool {
    u32::from(a) % 0xffff == u32::from(b) % 0xffff
}

fn hex(frame: &[u8]) -> String {
    frame.iter().map(|byte| format!("{byte:02x}")).collect()
}
