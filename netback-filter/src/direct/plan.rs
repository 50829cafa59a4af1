// SPDX-License-Identifier: GPL-3.0-only
//! Which vifs may hand packets straight to which: what a bridge would do with them, by its settings. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::bridges::{Bridge, Bridges, FORWARDING, Port};
use crate::layout::{RawStation, RawStationKey};

/// Ethernet's header, and the room for a tag that a bridge allows beyond the MTU.
const BEYOND_MTU: u32 = 14 + 4;
/// Three times as long as all frames of a vif may go past it (`BY_BRIDGE_NS` of bpf/direct.h).
const SHORTEST_MEMORY: Duration = Duration::from_secs(3);

/// Why what a guest sends goes by the bridge, or whatever else its vif leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Detour {
    /// The guest's MAC address is not known.
    NoMac,
    /// The vif is on none, or on another kind of switch (Open vSwitch, a router).
    NoBridge,
    /// The bridge does not forward what comes from this port now.
    NotForwarding,
    /// The port is isolated or locked: not every other port is for it.
    Isolated,
    /// The bridge filters by VLAN.
    VlanFiltering,
    /// The bridge forgets within moments who is where (its `ageing_time`).
    ForgetsSoon,
    /// Bridged packets go through netfilter: `br_netfilter`, ebtables, or chains of nftables in the families bridge and netdev.
    Netfilter,
    /// Other filters at the vif's ingress come after ours: somebody else's, or what shapes the guest's packets.
    Filters,
    /// It was switched off, or not asked for yet.
    Off,
}

impl fmt::Display for Detour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoMac => "MAC address unknown",
            Self::NoBridge => "on no Linux bridge",
            Self::NotForwarding => "port does not forward",
            Self::Isolated => "port isolated",
            Self::VlanFiltering => "bridge filters VLANs",
            Self::ForgetsSoon => "bridge forgets too soon",
            Self::Netfilter => "bridge under netfilter",
            Self::Filters => "other filters at the vif",
            Self::Off => "off",
        })
    }
}

/// A vif under the datapath.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub ifindex: u32,
    pub mac: Option<[u8; 6]>,
    /// Filters behind ours see what it sends.
    pub filtered: bool,
}

/// What is to be in the maps.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// By vif: the bridge that its frames may go past.
    pub from: BTreeMap<u32, Result<u32, Detour>>,
    pub stations: BTreeMap<RawStationKey, RawStation>,
}

/// `netfilter`: what goes over any bridge meets others' hooks.
pub(super) fn plan(vifs: &[Candidate], host: &Bridges, netfilter: bool) -> Plan {
    let mut plan = Plan::default();
    let mut reachable = BTreeSet::new();
    for vif in vifs {
        let bridge = way(vif, host, netfilter);
        if let (Ok(bridge), Some(mac)) = (bridge, vif.mac) {
            reachable.insert((bridge, mac, vif.ifindex));
        }
        let from = bridge.and_then(|bridge| {
            if vif.filtered {
                Err(Detour::Filters)
            } else {
                Ok(bridge)
            }
        });
        plan.from.insert(vif.ifindex, from);
    }
    // Where a station is, the bridge says: one that moved elsewhere is there, whoever has its address here.
    for entry in &host.entries {
        let Some(port) = host.ports.get(&entry.port) else {
            continue;
        };
        if reachable.contains(&(entry.bridge, entry.mac, entry.port)) {
            let key = RawStationKey {
                bridge: entry.bridge,
                mac: entry.mac,
                pad: 0,
            };
            let station = RawStation {
                ifindex: entry.port,
                frame: port.mtu.saturating_add(BEYOND_MTU),
            };
            plan.stations.insert(key, station);
        }
    }
    plan
}

/// The bridge that forwards between this vif and the other ones on it, and does no more.
fn way(vif: &Candidate, host: &Bridges, netfilter: bool) -> Result<u32, Detour> {
    vif.mac.ok_or(Detour::NoMac)?;
    let port = host.ports.get(&vif.ifindex).ok_or(Detour::NoBridge)?;
    let bridge = host.bridges.get(&port.bridge).ok_or(Detour::NoBridge)?;
    port_forwards(port).and_then(|()| bridge_only_forwards(bridge))?;
    if netfilter {
        return Err(Detour::Netfilter);
    }
    Ok(port.bridge)
}

fn port_forwards(port: &Port) -> Result<(), Detour> {
    if port.state != FORWARDING {
        return Err(Detour::NotForwarding);
    }
    if port.isolated || port.locked {
        return Err(Detour::Isolated);
    }
    Ok(())
}

fn bridge_only_forwards(bridge: &Bridge) -> Result<(), Detour> {
    if bridge.vlan_filtering {
        return Err(Detour::VlanFiltering);
    }
    if bridge.netfilter {
        return Err(Detour::Netfilter);
    }
    if bridge.ageing < SHORTEST_MEMORY {
        return Err(Detour::ForgetsSoon);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::bridges::Entry;
    use super::*;

    const A: [u8; 6] = [0, 0x16, 0x3e, 0, 0, 1];
    const B: [u8; 6] = [0, 0x16, 0x3e, 0, 0, 2];
    const BRIDGE: u32 = 9;

    fn vifs() -> [Candidate; 2] {
        [(1, A), (2, B)].map(|(ifindex, mac)| Candidate {
            ifindex,
            mac: Some(mac),
            filtered: false,
        })
    }

    fn host() -> Bridges {
        let bridge = Bridge {
            vlan_filtering: false,
            netfilter: false,
            ageing: Duration::from_secs(300),
        };
        let port = Port {
            bridge: BRIDGE,
            state: FORWARDING,
            isolated: false,
            locked: false,
            mtu: 1500,
        };
        let entry = |mac, port| Entry {
            bridge: BRIDGE,
            mac,
            port,
        };
        Bridges {
            bridges: [(BRIDGE, bridge)].into(),
            ports: [(1, port), (2, port), (3, port)].into(),
            entries: vec![entry(A, 1), entry(B, 2)],
        }
    }

    fn station(plan: &Plan, mac: [u8; 6]) -> Option<RawStation> {
        let key = RawStationKey {
            bridge: BRIDGE,
            mac,
            pad: 0,
        };
        plan.stations.get(&key).copied()
    }

    #[test]
    fn two_vifs_on_a_plain_bridge_go_straight() {
        let plan = plan(&vifs(), &host(), false);
        assert_eq!(plan.from, [(1, Ok(BRIDGE)), (2, Ok(BRIDGE))].into());
        let wanted = RawStation {
            ifindex: 2,
            frame: 1518,
        };
        assert_eq!(station(&plan, B), Some(wanted));
        assert_eq!(plan.stations.len(), 2);
    }

    #[test]
    fn whatever_else_a_bridge_does_is_a_detour_for_both_ways() {
        type Change = fn(&mut Bridges);
        let changes: [(Detour, Change); 8] = [
            (Detour::NotForwarding, |h| h.port().state = 2),
            (Detour::Isolated, |h| h.port().isolated = true),
            (Detour::Isolated, |h| h.port().locked = true),
            (Detour::VlanFiltering, |h| h.bridge().vlan_filtering = true),
            (Detour::Netfilter, |h| h.bridge().netfilter = true),
            (Detour::ForgetsSoon, |h| h.bridge().ageing = Duration::ZERO),
            (Detour::NoBridge, |h| {
                h.ports.remove(&2);
            }),
            // A switch of another kind is a master, too.
            (Detour::NoBridge, |h| h.bridges.clear()),
        ];
        for (detour, change) in changes {
            let mut host = host();
            change(&mut host);
            let plan = plan(&vifs(), &host, false);
            assert_eq!(plan.from[&2], Err(detour));
            assert_eq!(station(&plan, B), None, "{detour}");
        }
        let all = plan(&vifs(), &host(), true);
        assert!(all.from.values().all(|from| *from == Err(Detour::Netfilter)) && all.stations.is_empty());
    }

    impl Bridges {
        fn port(&mut self) -> &mut Port {
            self.ports.get_mut(&2).unwrap()
        }

        fn bridge(&mut self) -> &mut Bridge {
            self.bridges.get_mut(&BRIDGE).unwrap()
        }
    }

    #[test]
    fn filters_at_a_vif_are_about_what_it_sends_alone() {
        let mut vifs = vifs();
        vifs[1].filtered = true;
        let plan = plan(&vifs, &host(), false);
        assert_eq!(plan.from, [(1, Ok(BRIDGE)), (2, Err(Detour::Filters))].into());
        assert_eq!(plan.stations.len(), 2);
    }

    #[test]
    fn who_is_where_the_bridge_says() {
        // The address was last seen elsewhere: it moved, or somebody else bears it.
        let mut host = host();
        host.entries[1].port = 3;
        assert_eq!(station(&plan(&vifs(), &host, false), B), None);
        // Nobody saw it yet: the bridge would flood.
        host.entries.pop();
        assert_eq!(station(&plan(&vifs(), &host, false), B), None);
        // Known on another bridge only.
        host.entries.push(Entry {
            bridge: 8,
            mac: B,
            port: 2,
        });
        assert_eq!(plan(&vifs(), &host, false).stations.len(), 1);
        let mut vifs = vifs();
        vifs[0].mac = None;
        let plan = plan(&vifs, &host, false);
        assert_eq!((plan.from[&1], plan.stations.len()), (Err(Detour::NoMac), 0));
    }
}
