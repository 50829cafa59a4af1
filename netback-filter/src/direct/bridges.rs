// SPDX-License-Identifier: GPL-3.0-only
//! The bridges of this host, as rtnetlink tells them: their settings, their ports, and who is behind which.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use crate::netlink::{NLM_F_DUMP, Netlink, attribute, put, u16_at, u32_at};

const RTM_GETLINK: u16 = 18;
const RTM_GETNEIGH: u16 = 30;

const IFINFOMSG: usize = 16;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_EXT_MASK: u16 = 29;
const RTEXT_FILTER_SKIP_STATS: u32 = 8;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BR_AGEING_TIME: u16 = 4;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_BR_NF_CALL_IPTABLES: u16 = 36;
const IFLA_BR_NF_CALL_IP6TABLES: u16 = 37;
const IFLA_BRPORT_STATE: u16 = 1;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_BRPORT_LOCKED: u16 = 39;

const NDMSG: usize = 12;
const NDA_LLADDR: u16 = 2;
const NDA_VLAN: u16 = 5;
const NDA_MASTER: u16 = 9;
const NUD_PERMANENT: u16 = 0x80;

/// State of a port: `BR_STATE_FORWARDING`.
pub(super) const FORWARDING: u8 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bridge {
    pub vlan_filtering: bool,
    /// It asks `br_netfilter` for itself, whatever the host's settings are.
    pub netfilter: bool,
    /// How long it remembers who is where.
    pub ageing: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub bridge: u32,
    pub state: u8,
    pub isolated: bool,
    pub locked: bool,
    pub mtu: u32,
}

/// Who is where, outside VLANs. The host's own addresses are not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub bridge: u32,
    pub mac: [u8; 6],
    pub port: u32,
}

/// All by interface index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bridges {
    pub bridges: BTreeMap<u32, Bridge>,
    pub ports: BTreeMap<u32, Port>,
    pub entries: Vec<Entry>,
}

impl Bridges {
    /// Those of the calling thread's network namespace.
    pub(super) fn read() -> io::Result<Self> {
        let mut netlink = Netlink::open()?;
        let mut all = Self::default();
        let mut body = vec![0; IFINFOMSG];
        put(&mut body, IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
        for link in netlink.send(RTM_GETLINK, NLM_F_DUMP, &body)? {
            all.add_link(&link);
        }
        if !all.bridges.is_empty() {
            let mut body = vec![0; NDMSG];
            body[0] = libc::AF_BRIDGE as u8;
            let entries = netlink.send(RTM_GETNEIGH, NLM_F_DUMP, &body)?;
            all.entries = entries.iter().filter_map(|entry| read_entry(entry)).collect();
        }
        Ok(all)
    }

    /// `None`: nothing of a bridge.
    fn add_link(&mut self, body: &[u8]) -> Option<()> {
        let ifindex = u32_at(body, 4)?;
        let attributes = body.get(IFINFOMSG..)?;
        let info = attribute(attributes, IFLA_LINKINFO)?;
        if is_bridge(info, IFLA_INFO_KIND) {
            let data = attribute(info, IFLA_INFO_DATA)?;
            // In hundredths of a second (USER_HZ).
            let ageing = u32_at(attribute(data, IFLA_BR_AGEING_TIME)?, 0)?;
            let bridge = Bridge {
                vlan_filtering: flag(data, IFLA_BR_VLAN_FILTERING),
                netfilter: flag(data, IFLA_BR_NF_CALL_IPTABLES) || flag(data, IFLA_BR_NF_CALL_IP6TABLES),
                ageing: Duration::from_millis(u64::from(ageing) * 10),
            };
            self.bridges.insert(ifindex, bridge);
        }
        if is_bridge(info, IFLA_INFO_SLAVE_KIND) {
            let data = attribute(info, IFLA_INFO_SLAVE_DATA)?;
            let port = Port {
                bridge: u32_at(attribute(attributes, IFLA_MASTER)?, 0)?,
                state: *attribute(data, IFLA_BRPORT_STATE)?.first()?,
                isolated: flag(data, IFLA_BRPORT_ISOLATED),
                locked: flag(data, IFLA_BRPORT_LOCKED),
                mtu: u32_at(attribute(attributes, IFLA_MTU)?, 0)?,
            };
            self.ports.insert(ifindex, port);
        }
        Some(())
    }
}

fn is_bridge(info: &[u8], kind: u16) -> bool {
    attribute(info, kind).is_some_and(|kind| kind.strip_suffix(b"\0").unwrap_or(kind) == b"bridge")
}

/// What an older kernel does not tell, it does not have.
fn flag(attributes: &[u8], kind: u16) -> bool {
    attribute(attributes, kind).is_some_and(|value| value.first().is_some_and(|value| *value != 0))
}

fn read_entry(body: &[u8]) -> Option<Entry> {
    let attributes = body.get(NDMSG..)?;
    if u16_at(body, 8)? & NUD_PERMANENT != 0 || attribute(attributes, NDA_VLAN).is_some() {
        return None;
    }
    Some(Entry {
        // Without a master it is the device's own list.
        bridge: u32_at(attribute(attributes, NDA_MASTER)?, 0)?,
        mac: attribute(attributes, NDA_LLADDR)?.try_into().ok()?,
        port: u32_at(body, 4)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            Bridges::default().add_link(&bytes);
            read_entry(&bytes);
        }
    }
}
