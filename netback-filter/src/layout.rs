// SPDX-License-Identifier: GPL-3.0-only
//! What the maps hold: `bpf/layout.h`, byte for byte. The header tells what the fields mean.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use aya::Pod;

/// `LAYOUT_VERSION` of the header.
pub(crate) const LAYOUT_VERSION: u32 = 11;

pub(crate) const CONTROL_SLOT: u32 = 0;
pub(crate) const CONTROL_GENERATION: u32 = 1;
pub(crate) const CONTROL_LAYOUT: u32 = 3;
pub(crate) const CONTROL_SERVICES: u32 = 4;
pub(crate) const CONTROL_SHARE: u32 = 6;
pub(crate) const CONTROL_DIRECT: u32 = 7;

pub(crate) const LEASE_SHIFT: u32 = 30;

pub(crate) const SCOPES: u32 = 4096;
pub(crate) const SERVICES: u32 = 256;
pub(crate) const BACKENDS: u32 = 4096;
pub(crate) const SPREAD_CELLS: usize = 4096;
pub(crate) const NO_BACKEND: u16 = 0xffff;

pub(crate) const SCOPE_MONITOR_ONLY: u8 = 0x01;
pub(crate) const SCOPE_PASS_DHCP: u8 = 0x02;
pub(crate) const SCOPE_LOCK_MAC: u8 = 0x04;
pub(crate) const SCOPE_LOCK_ADDRESS: u8 = 0x08;

pub(crate) const VLAN_VID_BITS: u32 = 12;
pub(crate) const TAGGED_JUDGE: u8 = 2;

pub(crate) const SHARE_ALL: u16 = 10_000;

pub(crate) const CLASS_ANY: u32 = u32::MAX;
pub(crate) const PROTO_ANY: u8 = 0;
pub(crate) const PORT_ANY: u16 = 0;
pub(crate) const PORT_OF_PROTO_0: u16 = 1;

pub(crate) const SHAPE_MAJOR: u32 = 0x786d;
pub(crate) const SHAPE_DEFAULT: u16 = 0x0010;
pub(crate) const MARK_DSCP: u8 = 0x80;

pub(crate) const SEEN_SYN: u8 = 0x01;
pub(crate) const SEEN_ACK: u8 = 0x02;
pub(crate) const SEEN_DATA: u8 = 0x10;
pub(crate) const SEEN_FIN: u8 = 0x04;
pub(crate) const SEEN_RST: u8 = 0x08;

/// An address as the maps have it: IPv4 as `::ffff:a.b.c.d`, in network order.
pub(crate) type RawAddress = [u8; 16];

/// Network order kept in a plain integer, as `__be16` is.
pub(crate) fn be16(port: u16) -> u16 {
    port.to_be()
}

pub(crate) fn raw_address(address: IpAddr) -> RawAddress {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

pub(crate) fn socket_address(address: RawAddress, port: u16) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::from(address).to_canonical(), u16::from_be(port))
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub(crate) struct RawFlowKey {
    pub scope: u32,
    pub proto: u8,
    pub vlan_high: u8,
    pub local_port: u16,
    pub remote_port: u16,
    pub vlan: u16,
    pub local: RawAddress,
    pub remote: RawAddress,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct RawFlowValue {
    pub rule: u32,
    pub generation: u32,
    pub action: u8,
    pub refuse: u8,
    pub origin: u8,
    pub decided_by: u8,
    pub seen: [u8; 2],
    pub told: u8,
    pub ended: u8,
    pub packets: [u64; 2],
    pub bytes: [u64; 2],
    pub first_ns: u64,
    pub last_ns: u64,
    pub asked_ns: u64,
    pub sample_ns: [u64; 2],
    pub sample_seq: [u32; 2],
    pub next_seq: [u32; 2],
    pub rtt_us: [u32; 2],
    pub retransmissions: [u32; 2],
    pub zero_windows: [u32; 2],
    pub setup_us: u32,
    pub plain: u8,
    pub dscp: u8,
    pub class: u16,
    pub peer_class: u32,
    pub rtt_tick: [u16; 2],
    pub mirror: u16,
    pub share: u16,
    pub turn: u32,
    pub first_byte_us: u32,
    pub pad: u32,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct RawVif {
    pub scope: u32,
    pub mac: [u8; 6],
    pub shaped: u8,
    pub moving: u8,
    pub slot: u32,
    pub bridge: u32,
    pub pad: u32,
    pub by_bridge_ns: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub(crate) struct RawStationKey {
    pub bridge: u32,
    pub mac: [u8; 6],
    pub pad: u16,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct RawStation {
    pub ifindex: u32,
    pub frame: u32,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct RawScope {
    pub default_action: [u8; 2],
    pub default_refuse: [u8; 2],
    pub foreign: u8,
    pub flags: u8,
    pub other: u8,
    pub tagged: u8,
    pub adopt_until_ns: u64,
    pub scope: u32,
    pub in_use: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub(crate) struct RawTurn {
    pub scope: u32,
    pub turn: u32,
}

/// `struct peer_key` without its leading prefix length, which the trie's own key type carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub(crate) struct RawPeer {
    pub slot: u32,
    pub address: RawAddress,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub(crate) struct RawRuleKey {
    pub scope: u32,
    pub peer_class: u32,
    pub port: u16,
    pub proto: u8,
    pub direction: u8,
    pub slot: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct RawRule {
    pub rule: u32,
    pub action: u8,
    pub refuse: u8,
    pub class: u16,
    pub dscp: u8,
    pub pad: u8,
    pub mirror: u16,
    pub share: u16,
    pub pad1: u16,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct RawMirror {
    pub ifindex: u32,
    pub pad: u32,
    pub packets: u64,
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub(crate) struct RawSource {
    pub scope: u32,
    pub address: RawAddress,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct RawCounters {
    pub passed: u64,
    pub passed_bytes: u64,
    pub denied: u64,
    pub resets: u64,
    pub malformed: u64,
    pub unknown_l3: u64,
    pub foreign: u64,
    pub stray: u64,
    pub fragments: u64,
    pub flow_errors: u64,
    pub events_lost: u64,
    pub forged: u64,
    pub unserved: u64,
    pub unrouted: u64,
    pub held: u64,
    pub released: u64,
    pub unheld: u64,
    pub direct: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub(crate) struct RawServiceKey {
    pub slot: u32,
    pub proto: u8,
    pub pad: u8,
    pub port: u16,
    pub address: RawAddress,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct RawService {
    pub spread: u32,
    pub affinity: u8,
    pub refuse: u8,
    pub pad: u16,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct RawSpread {
    pub cells: [u16; SPREAD_CELLS],
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct RawEndpoint {
    pub address: RawAddress,
    pub port: u16,
    pub mac: [u8; 6],
}

impl RawEndpoint {
    pub(crate) fn new(end: SocketAddr, mac: Option<[u8; 6]>) -> Self {
        Self {
            address: raw_address(end.ip()),
            port: be16(end.port()),
            mac: mac.unwrap_or_default(),
        }
    }

    /// `None`: there is none.
    pub(crate) fn end(&self) -> Option<SocketAddr> {
        (self.port != 0).then(|| socket_address(self.address, self.port))
    }
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct RawChoice {
    pub ns: u64,
    pub backend: RawEndpoint,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub(crate) struct RawDead {
    pub address: RawAddress,
    pub port: u16,
    pub proto: u8,
    pub pad: u8,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct RawEvent {
    pub ns: u64,
    pub kind: u8,
    pub direction: u8,
    pub enforced: u8,
    pub tagged: u8,
    pub key: RawFlowKey,
    pub value: RawFlowValue,
    pub backend: RawEndpoint,
    pub sender: [u8; 6],
    pub pad1: [u8; 2],
}

pub(crate) const EVENT_HELD: u8 = 4;
/// Offset of `kind` in a record, of whichever struct it is.
pub(crate) const KIND: usize = std::mem::offset_of!(RawEvent, kind);

/// `struct held` without its frame, which follows.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct RawHeld {
    pub ns: u64,
    pub kind: u8,
    pub direction: u8,
    pub length: u16,
    pub ifindex: u32,
    pub key: RawFlowKey,
    pub l4: u16,
    pub l3_end: u16,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct RawHoldWindow {
    pub since_ns: u64,
    pub frames: u32,
    pub pad: u32,
}

pub(crate) const INTERVALS: usize = 32;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub(crate) struct RawHistogramKey {
    pub scope: u32,
    pub peer_class: u32,
    pub rule: u32,
    pub generation: u32,
    pub origin: u32,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct RawHistogram {
    pub sum: u64,
    pub count: [u32; INTERVALS],
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct RawHistograms {
    pub setup: RawHistogram,
    pub rtt: [RawHistogram; 2],
    pub retransmissions: [RawHistogram; 2],
    pub zero_windows: [RawHistogram; 2],
}

macro_rules! mirrors {
    ($($type:ty => $size:literal),* $(,)?) => {
        $(
            const _: () = assert!(size_of::<$type>() == $size);
            // SAFETY: `repr(C)` over integers and byte arrays, with every gap a named field (so that the size
            // is the sum of the fields, asserted on both sides): any bytes are a value, and no byte is padding.
            unsafe impl Pod for $type {}
        )*
    };
}

mirrors! {
    RawFlowKey => 44,
    RawFlowValue => 160,
    RawVif => 32,
    RawStationKey => 12,
    RawStation => 8,
    RawScope => 24,
    RawTurn => 8,
    RawPeer => 20,
    RawRuleKey => 16,
    RawRule => 16,
    RawMirror => 24,
    RawSource => 20,
    RawCounters => 144,
    RawServiceKey => 24,
    RawService => 8,
    RawSpread => 8192,
    RawEndpoint => 24,
    RawChoice => 32,
    RawDead => 20,
    RawEvent => 248,
    RawHeld => 64,
    RawHoldWindow => 16,
    RawHistogramKey => 20,
    RawHistograms => 952,
}

/// Reads a value off the front of `bytes`; `None` when they are too few.
pub(crate) fn read<T: Pod>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: the bytes are there, any bytes are a T (Pod), and the read asks for no alignment.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_and_mirror_have_one_version() {
        let header = include_str!("../bpf/layout.h");
        let line = format!("#define LAYOUT_VERSION {LAYOUT_VERSION}");
        assert!(header.lines().any(|l| l == line), "bpf/layout.h lacks `{line}`");
    }

    #[test]
    fn addresses_survive_the_maps() {
        for text in ["10.1.2.3:80", "[fd00::1]:443", "0.0.0.0:0"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(
                socket_address(raw_address(address.ip()), be16(address.port())),
                address
            );
        }
    }

    #[test]
    fn short_bytes_are_no_event() {
        assert!(read::<RawEvent>(&[0; 239]).is_none());
        assert!(read::<RawEvent>(&[0; 248]).is_some());
    }
}
