// SPDX-License-Identifier: GPL-3.0-only
//! Copies of allowed flows for a guest of this host.

use std::collections::BTreeMap;

use aya::maps::{HashMap, MapData};

use crate::error::Error;
use crate::layout::{RawMirror, RawVif, SHARE_ALL};
use crate::publish::{failed, full_or_failed, keys, removed};

/// A share of flows, in hundredths of a percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share(u16);

impl Share {
    /// Every flow.
    pub const ALL: Self = Self(SHARE_ALL);

    /// From 1, which is 0.01 %, to 10,000; else `None`.
    pub const fn new(hundredths: u16) -> Option<Self> {
        if hundredths == 0 || hundredths > SHARE_ALL {
            None
        } else {
            Some(Self(hundredths))
        }
    }

    /// Hundredths of a percent.
    pub const fn hundredths(self) -> u16 {
        self.0
    }
}

/// Which guest gets copies of the packets of an allowed flow, both ways, and of how many such flows: by its ends a flow is in the share
/// with all its packets or with none. Copies go to the first of the guest's vifs, as this guest sees the flow, and past all rules
/// there. Where that guest is not, or is the flow's own, there are none; the flow does not depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mirror {
    scope: u16,
    share: Share,
}

impl Mirror {
    /// Copies for a guest (its domid); `None` for 0 and for what is no domid.
    pub fn new(scope: u32, share: Share) -> Option<Self> {
        let scope = u16::try_from(scope).ok().filter(|scope| *scope != 0)?;
        Some(Self { scope, share })
    }

    /// The guest that gets them.
    pub fn scope(self) -> u32 {
        self.scope.into()
    }

    /// Of how many flows.
    pub fn share(self) -> Share {
        self.share
    }

    /// `mirror` and `share` of the maps.
    pub(crate) fn raw(mirror: Option<Self>) -> (u16, u16) {
        mirror.map_or((0, 0), |mirror| (mirror.scope, mirror.share.0))
    }

    pub(crate) fn from_raw(scope: u16, share: u16) -> Option<Self> {
        Self::new(scope.into(), Share::new(share)?)
    }
}

/// Copies for one guest, since the vif that they go to was attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MirrorStats {
    /// The guest that gets them (its domid).
    pub scope: u32,
    /// The vif that they go to.
    pub ifindex: u32,
    /// Packets as the vif carries them, up to 64 KB with segmentation offload. Its queue may drop some.
    pub packets: u64,
    /// Bytes of those, Ethernet header included.
    pub bytes: u64,
}

pub(crate) type MirrorMap = HashMap<MapData, u32, RawMirror>;

/// Makes copies for each guest go to the first of its vifs. The one that they go to is kept for as long as it is there.
pub(crate) fn renew(
    mirrors: &mut MirrorMap,
    vifs: &HashMap<MapData, u32, RawVif>,
    room: u32,
) -> Result<(), Error> {
    let mut first = BTreeMap::new();
    for ifindex in keys(vifs, "vifs")? {
        if let Ok(vif) = vifs.get(&ifindex, 0) {
            let known = first.entry(vif.scope).or_insert(ifindex);
            *known = ifindex.min(*known);
        }
    }
    for scope in keys(mirrors, "mirrors")? {
        if !first.contains_key(&scope) {
            removed("mirrors", mirrors.remove(&scope))?;
        }
    }
    for (scope, ifindex) in first {
        let goes_to = mirrors.get(&scope, 0).ok().map(|mirror| mirror.ifindex);
        let stays = goes_to.is_some_and(|index| vifs.get(&index, 0).is_ok_and(|vif| vif.scope == scope));
        if !stays {
            let mirror = RawMirror {
                ifindex,
                ..RawMirror::default()
            };
            mirrors
                .insert(scope, mirror, 0)
                .map_err(|e| full_or_failed("mirrors", room, e))?;
        }
    }
    Ok(())
}

/// By guest.
pub(crate) fn stats(mirrors: &MirrorMap) -> Result<Vec<MirrorStats>, Error> {
    let mut list = Vec::new();
    for entry in mirrors.iter() {
        let (scope, raw) = entry.map_err(|e| failed("mirrors", e))?;
        list.push(MirrorStats {
            scope,
            ifindex: raw.ifindex,
            packets: raw.packets,
            bytes: raw.bytes,
        });
    }
    list.sort_by_key(|stats| stats.scope);
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_survives_the_maps() {
        let mirror = Mirror::new(9, Share::new(500).unwrap());
        let (scope, share) = Mirror::raw(mirror);
        assert_eq!((scope, share), (9, 500));
        assert_eq!(Mirror::from_raw(scope, share), mirror);
        assert_eq!(Mirror::raw(None), (0, 0));
        assert_eq!(Mirror::from_raw(0, 0), None);
        for scope in [0, 0x1_0000] {
            assert_eq!(Mirror::new(scope, Share::ALL), None);
        }
        assert!(Share::new(0).is_none() && Share::new(10_001).is_none());
    }
}
