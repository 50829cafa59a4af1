// SPDX-License-Identifier: GPL-3.0-only
//! The words of this crate's API, and how they are written into the maps.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::layout::{
    RawCounters, RawFlowKey, RawFlowValue, RawScope, RawVif, SCOPE_LOCK_ADDRESS, SCOPE_LOCK_MAC,
    SCOPE_MONITOR_ONLY, SCOPE_PASS_DHCP, TAGGED_JUDGE, VLAN_VID_BITS, be16, raw_address, socket_address,
};
use crate::mirror::Mirror;
use crate::shape::Mark;

/// Which way a packet goes, or which end opened a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Sent by the guest.
    FromGuest,
    /// Sent to the guest.
    ToGuest,
}

impl Direction {
    /// Both, in the order of the maps.
    pub const BOTH: [Self; 2] = [Self::FromGuest, Self::ToGuest];

    pub(crate) fn raw(self) -> u8 {
        match self {
            Self::FromGuest => 0,
            Self::ToGuest => 1,
        }
    }

    pub(crate) fn from_raw(raw: u8) -> Self {
        if raw == 0 { Self::FromGuest } else { Self::ToGuest }
    }
}

/// How a denied packet is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refuse {
    /// Not at all.
    Drop,
    /// TCP with a RST, so that the client fails at once; anything else is dropped, and what a guest sent is answered by
    /// [`crate::Prohibited`] if that is given the reports. Towards the guest this needs [`VifConfig::mac`].
    Reset,
    /// Not at all, but its first packets are given to userspace ([`crate::HeldFrame`]), which may find out what the rules do not
    /// know, write a verdict, and let them go ([`crate::Release`]). Bounded: what is beyond, or larger than a frame of the usual
    /// MTU, or a fragment, is dropped.
    Hold,
    /// With ICMP's "administratively prohibited", which [`crate::Prohibited`] sends if that is given the reports: once a flow and
    /// verdict, as it is reported. With a RST: an established TCP connection, which that would not end, and TCP in a VLAN.
    Prohibited,
}

impl Refuse {
    /// `refuse` of the maps.
    pub(crate) fn raw(self) -> u8 {
        match self {
            Self::Drop => 0,
            Self::Reset => 1,
            Self::Hold => 2,
            Self::Prohibited => 3,
        }
    }
}

/// What becomes of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Its packets pass, both ways.
    Allow,
    /// None of its packets passes.
    Deny(Refuse),
}

impl Action {
    /// `action` and `refuse` of the maps.
    pub(crate) fn raw(self) -> (u8, u8) {
        match self {
            Self::Allow => (1, 0),
            Self::Deny(refuse) => (0, refuse.raw()),
        }
    }

    pub(crate) fn from_raw(action: u8, refuse: u8) -> Self {
        match (action, refuse) {
            (1, _) => Self::Allow,
            (_, 1) => Self::Deny(Refuse::Reset),
            (_, 2) => Self::Deny(Refuse::Hold),
            (_, 3) => Self::Deny(Refuse::Prohibited),
            _ => Self::Deny(Refuse::Drop),
        }
    }
}

/// An IP protocol number. 0 stands for "any" in the tables and is therefore no protocol here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Protocol(pub u8);

impl Protocol {
    /// Transmission Control Protocol.
    pub const TCP: Self = Self(6);
    /// User Datagram Protocol.
    pub const UDP: Self = Self(17);
    /// Stream Control Transmission Protocol.
    pub const SCTP: Self = Self(132);
    /// ICMP over IPv4.
    pub const ICMP: Self = Self(1);
    /// ICMP over IPv6.
    pub const ICMPV6: Self = Self(58);

    /// Whether flows of it are told apart by ports, and rules may name one.
    pub fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::SCTP)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TCP => f.write_str("tcp"),
            Self::UDP => f.write_str("udp"),
            Self::SCTP => f.write_str("sctp"),
            Self::ICMP => f.write_str("icmp"),
            Self::ICMPV6 => f.write_str("icmp6"),
            Self(number) => write!(f, "proto-{number}"),
        }
    }
}

/// The VLAN of a flow: the VIDs of its frames' tags (IEEE 802.1Q and 802.1ad), 0 for one that is not there. A tag that names a priority
/// alone counts as none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Vlan {
    /// Of the outer tag, or the only one; 0 to 4095.
    pub outer: u16,
    /// Of the inner tag.
    pub inner: u16,
}

impl Vlan {
    /// No tag.
    pub const NONE: Self = Self { outer: 0, inner: 0 };

    /// `vlan` and `vlan_high` of the maps.
    fn raw(self) -> (u16, u8) {
        let vlans = u32::from(self.outer) | u32::from(self.inner) << VLAN_VID_BITS;
        (vlans as u16, (vlans >> 16) as u8)
    }

    fn from_raw(vlan: u16, vlan_high: u8) -> Self {
        let vlans = u32::from(vlan) | u32::from(vlan_high) << 16;
        Self {
            outer: (vlans & ((1 << VLAN_VID_BITS) - 1)) as u16,
            inner: (vlans >> VLAN_VID_BITS) as u16,
        }
    }
}

impl fmt::Display for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { outer, inner: 0 } => write!(f, "{outer}"),
            Self { outer, inner } => write!(f, "{outer}.{inner}"),
        }
    }
}

/// One flow of one scope, seen from the guest whichever end opened it.
///
/// An ICMP echo has its identifier as the port of the end that asks and 0 as the other; protocols without ports
/// have 0 for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The guest (its domid).
    pub scope: u32,
    /// The protocol over IP.
    pub protocol: Protocol,
    /// The guest's end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Flows of different VLANs are different flows; but a verdict of [`crate::FlowWriter`] is on the flow in any VLAN, and the flow that
    /// has one is recorded and reported without its VLAN.
    pub vlan: Vlan,
}

impl FlowKey {
    /// As `verdicts` have it.
    pub(crate) fn raw_in_any_vlan(&self) -> RawFlowKey {
        RawFlowKey {
            vlan: 0,
            vlan_high: 0,
            ..self.raw()
        }
    }

    pub(crate) fn raw(&self) -> RawFlowKey {
        let (vlan, vlan_high) = self.vlan.raw();
        RawFlowKey {
            scope: self.scope,
            proto: self.protocol.0,
            local_port: be16(self.local.port()),
            remote_port: be16(self.remote.port()),
            local: raw_address(self.local.ip()),
            remote: raw_address(self.remote.ip()),
            vlan,
            vlan_high,
        }
    }

    pub(crate) fn from_raw(raw: &RawFlowKey) -> Self {
        Self {
            scope: raw.scope,
            protocol: Protocol(raw.proto),
            local: socket_address(raw.local, raw.local_port),
            remote: socket_address(raw.remote, raw.remote_port),
            vlan: Vlan::from_raw(raw.vlan, raw.vlan_high),
        }
    }
}

impl fmt::Display for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "scope {} {} {} <> {}",
            self.scope, self.protocol, self.local, self.remote
        )?;
        match self.vlan {
            Vlan::NONE => Ok(()),
            vlan => write!(f, " vlan {vlan}"),
        }
    }
}

/// What is decided of a flow, and by which rule of which generation, so that every packet can be explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// What becomes of it.
    pub action: Action,
    /// Whoever opens it: the guest by its own connect, or the other end.
    pub origin: Direction,
    /// The rule's id; 0: none, the scope's default.
    pub rule: u32,
    /// The generation of the rule set it was decided under.
    pub generation: u32,
    /// How its packets are treated where they pass.
    pub mark: Mark,
}

impl Verdict {
    /// Writes this over `value` and leaves what was counted there.
    pub(crate) fn write(&self, value: &mut RawFlowValue, decided_by: DecidedBy) {
        (value.action, value.refuse) = self.action.raw();
        value.origin = self.origin.raw();
        value.rule = self.rule;
        value.generation = self.generation;
        (value.class, value.dscp) = self.mark.raw();
        (value.mirror, value.share) = Mirror::raw(self.mark.mirror);
        value.decided_by = decided_by.raw();
        // Classes are those of one generation.
        value.peer_class = 0;
    }

    pub(crate) fn from_raw(raw: &RawFlowValue) -> Self {
        Self {
            action: Action::from_raw(raw.action, raw.refuse),
            origin: Direction::from_raw(raw.origin),
            rule: raw.rule,
            generation: raw.generation,
            mark: Mark::from_raw(raw.class, raw.dscp, (raw.mirror, raw.share)),
        }
    }
}

/// Where a verdict comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DecidedBy {
    /// [`crate::FlowWriter`].
    Userspace,
    /// A rule of the active set.
    Rule,
    /// The scope's default.
    Default,
    /// A TCP segment that belongs to no known flow.
    State,
    /// [`crate::FlowWriter::settle`].
    Lookup,
    /// The scope's [`Lock`]. One report stands for all that is refused so within 10 seconds.
    Lock,
    /// The service it is for, which has no backend for it; the rule is the one that allowed it.
    Service,
}

impl DecidedBy {
    pub(crate) fn raw(self) -> u8 {
        match self {
            Self::Userspace => 0,
            Self::Rule => 1,
            Self::Default => 2,
            Self::State => 3,
            Self::Lock => 4,
            Self::Lookup => 5,
            Self::Service => 6,
        }
    }

    pub(crate) fn from_raw(raw: u8) -> Self {
        match raw {
            0 => Self::Userspace,
            1 => Self::Rule,
            2 => Self::Default,
            3 => Self::State,
            4 => Self::Lock,
            5 => Self::Lookup,
            _ => Self::Service,
        }
    }
}

/// How a vif is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VifConfig {
    /// The guest it belongs to (its domid). Several vifs may share one.
    pub scope: u32,
    /// The guest's MAC address. A bridge that does not learn (as Xen sets up vifs) floods frames to all of them: with
    /// the address, those that are for others go by [`ScopeConfig::foreign`] and make no flows or events here.
    /// Without it they are taken for the guest's, and so nothing towards the guest is answered with a RST, which
    /// could cut another guest's connection.
    pub mac: Option<[u8; 6]>,
}

impl VifConfig {
    pub(crate) fn raw(&self) -> RawVif {
        RawVif {
            scope: self.scope,
            mac: self.mac.unwrap_or_default(),
            ..RawVif::default()
        }
    }

    pub(crate) fn from_raw(raw: &RawVif) -> Self {
        Self {
            scope: raw.scope,
            mac: (raw.mac != [0; 6]).then_some(raw.mac),
        }
    }
}

/// Whether TCP connections that were there before the datapath may go on. While they may, the rules judge them, in
/// either direction, since nobody saw which end opened them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdoptEstablished {
    /// A segment that opens no connection and belongs to none is dropped.
    No,
    /// For this long from the call of [`crate::Datapath::set_scope`].
    For(Duration),
    /// Until told otherwise.
    Always,
}

/// What a guest may send from. Frames that bear anything else are dropped before any rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lock {
    /// Anything.
    #[default]
    Off,
    /// Its vif's MAC address, where [`VifConfig::mac`] tells it; in ARP too.
    Mac,
    /// That, and the addresses of [`crate::Datapath::set_addresses`] and the link-local one that follows from the MAC,
    /// in ARP and neighbour discovery too. What only a router or a DHCP server sends is dropped, and so is what is neither
    /// IP nor ARP, or tagged more than twice.
    Address,
}

impl Lock {
    fn raw(self) -> u8 {
        match self {
            Self::Off => 0,
            Self::Mac => SCOPE_LOCK_MAC,
            Self::Address => SCOPE_LOCK_MAC | SCOPE_LOCK_ADDRESS,
        }
    }
}

/// What becomes of frames with a VLAN tag, or with two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tagged {
    /// What becomes of those without: verdicts, rules and defaults hold for what is behind the tags. Services are not for
    /// them: a flow to one is refused. What has more than two tags is dropped.
    #[default]
    Judge,
    /// They pass, whatever is in them.
    Allow,
    /// They are dropped.
    Deny,
}

impl Tagged {
    fn raw(self) -> u8 {
        match self {
            Self::Deny => 0,
            Self::Allow => 1,
            Self::Judge => TAGGED_JUDGE,
        }
    }
}

/// What holds for one guest beside the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScopeConfig {
    /// For flows the guest opens, when no rule matches.
    pub default_from_guest: Action,
    /// For flows opened towards the guest, when no rule matches.
    pub default_to_guest: Action,
    /// See there.
    pub adopt_established: AdoptEstablished,
    /// Decide, count and report, but drop and alter nothing: services, too, are then what is at their address.
    pub monitor_only: bool,
    /// Let the guest's DHCP and DHCPv6 pass before any rule.
    pub pass_dhcp: bool,
    /// Whether frames towards the guest pass that are addressed to another MAC (see [`VifConfig::mac`]).
    pub foreign: bool,
    /// Whether frames pass that are neither IP nor ARP.
    pub other: bool,
    /// What becomes of tagged frames. The lock holds for them in any case.
    pub tagged: Tagged,
    /// What the guest may send from.
    pub lock: Lock,
}

impl ScopeConfig {
    /// Everything passes that no rule denies, connections that evicted entries belong to included.
    pub fn open() -> Self {
        Self {
            default_from_guest: Action::Allow,
            default_to_guest: Action::Allow,
            adopt_established: AdoptEstablished::Always,
            monitor_only: false,
            pass_dhcp: true,
            foreign: true,
            other: true,
            tagged: Tagged::Judge,
            lock: Lock::Off,
        }
    }

    /// Nothing passes that neither a rule nor a verdict allows; for the first 10 seconds established connections
    /// that the rules allow are taken over.
    pub fn closed() -> Self {
        Self {
            default_from_guest: Action::Deny(Refuse::Reset),
            default_to_guest: Action::Deny(Refuse::Drop),
            adopt_established: AdoptEstablished::For(Duration::from_secs(10)),
            monitor_only: false,
            pass_dhcp: true,
            foreign: false,
            other: false,
            tagged: Tagged::Judge,
            lock: Lock::Off,
        }
    }

    /// `now_ns`: CLOCK_MONOTONIC.
    pub(crate) fn raw(&self, now_ns: u64) -> RawScope {
        let (from_action, from_refuse) = self.default_from_guest.raw();
        let (to_action, to_refuse) = self.default_to_guest.raw();
        RawScope {
            default_action: [from_action, to_action],
            default_refuse: [from_refuse, to_refuse],
            foreign: u8::from(self.foreign),
            other: u8::from(self.other),
            tagged: self.tagged.raw(),
            flags: if self.monitor_only { SCOPE_MONITOR_ONLY } else { 0 }
                | if self.pass_dhcp { SCOPE_PASS_DHCP } else { 0 }
                | self.lock.raw(),
            adopt_until_ns: match self.adopt_established {
                AdoptEstablished::No => 0,
                AdoptEstablished::Always => u64::MAX,
                AdoptEstablished::For(time) => {
                    now_ns.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
                }
            },
            ..RawScope::default()
        }
    }
}

/// Packets of one scope in one direction, since the scope was set. Each is in exactly one of `passed`, `denied` and `held`
/// (a RST made here is in none); the other counts say why. One that was held and let go comes again, and is counted again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Let through. A packet is what the vif carries: up to 64 KB with segmentation offload.
    pub passed: u64,
    /// Bytes of those, Ethernet header included.
    pub passed_bytes: u64,
    /// Denied; in a scope that only monitors, let through all the same.
    pub denied: u64,
    /// Of the denied, answered with a RST.
    pub resets: u64,
    /// Dropped for headers that are cut short or contradict themselves.
    pub malformed: u64,
    /// Neither IP nor ARP, or tagged where such frames are not judged, or tagged more than twice.
    pub unknown_l3: u64,
    /// Towards the guest, but addressed to another MAC: flooded by the bridge.
    pub foreign: u64,
    /// TCP segments that open no connection and belong to none.
    pub stray: u64,
    /// Later fragments of a packet whose first fragment did not pass.
    pub fragments: u64,
    /// Flows that the flow table took no entry for.
    pub flow_errors: u64,
    /// Events that the ring had no room for.
    pub events_lost: u64,
    /// From the guest, but not from its own addresses, where those are locked.
    pub forged: u64,
    /// For a service that had no backend for them: none serves, the connection's is dead or forgotten, or the guest has
    /// another flow from the same port to the same backend.
    pub unserved: u64,
    /// From the guest to the MAC address that stands for services, but of none of their flows.
    pub unrouted: u64,
    /// Given to userspace by [`Refuse::Hold`].
    pub held: u64,
    /// Of those, the ones that came back. The others were dropped by userspace.
    pub released: u64,
    /// Of the denied, those that were to be held but could not be: too large, too many of the guest's at once, too long after
    /// the flow's first, or the channel of events is too full.
    pub unheld: u64,
    /// Of the passed, those that went straight to the other guest's vif: see [`crate::Datapath::renew_direct`].
    pub direct: u64,
}

impl Counters {
    pub(crate) fn add(&mut self, cpu: &RawCounters) {
        self.passed += cpu.passed;
        self.passed_bytes += cpu.passed_bytes;
        self.denied += cpu.denied;
        self.resets += cpu.resets;
        self.malformed += cpu.malformed;
        self.unknown_l3 += cpu.unknown_l3;
        self.foreign += cpu.foreign;
        self.stray += cpu.stray;
        self.fragments += cpu.fragments;
        self.flow_errors += cpu.flow_errors;
        self.events_lost += cpu.events_lost;
        self.forged += cpu.forged;
        self.unserved += cpu.unserved;
        self.unrouted += cpu.unrouted;
        self.held += cpu.held;
        self.released += cpu.released;
        self.unheld += cpu.unheld;
        self.direct += cpu.direct;
    }
}

/// The counters of one scope in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScopeStats {
    /// The guest (its domid).
    pub scope: u32,
    /// Which way its packets went.
    pub direction: Direction,
    /// How many there were.
    pub counters: Counters,
}
