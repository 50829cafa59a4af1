// SPDX-License-Identifier: GPL-3.0-only
//! Shaping: how much of what a vif carries goes when, and what it is marked with.
//!
//! HTB does it in both directions. Towards the guest it is the vif's own root qdisc. From the guest, packets that our program
//! passed are taken (mirred) to an IFB device of the vif's own, whose root qdisc it is; there they go on as if they had just come in. A
//! packet's class is in its flow's verdict; the programs tell HTB by `skb->priority`. A kernel without HTB keeps totals with TBF, in the
//! same places, and has no classes.

mod device;
mod htb;
mod ingress;
mod links;
mod plan;
mod probe;
mod tbf;

pub(crate) use device::Device;
pub(crate) use ingress::{Ingress, ifb_name, remove_orphan, vif_of};
pub(crate) use plan::Tree;

use std::fmt;
use std::time::Duration;

use crate::layout::{MARK_DSCP, SHAPE_DEFAULT};
use crate::mirror::Mirror;

pub use device::ClassStats;
pub use plan::ShapeError;
pub use probe::{Discipline, Leaf, Shaper};

/// How long a class may send at full speed after it was quiet, in its own rate. It makes up for timers that come late.
const BURST: Duration = Duration::from_millis(5);

/// A rate in bits per second, as tc(8) has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(u64);

impl Rate {
    /// The least: 8 kbit/s, a kilobyte a second.
    pub const MIN: Self = Self(8_000);
    /// The most: 100 Gbit/s. What has no limit has this one.
    pub const MAX: Self = Self(100_000_000_000);

    /// `None` outside of [`Rate::MIN`] and [`Rate::MAX`].
    pub const fn from_bits(bits_per_second: u64) -> Option<Self> {
        if bits_per_second < Self::MIN.0 || bits_per_second > Self::MAX.0 {
            None
        } else {
            Some(Self(bits_per_second))
        }
    }

    /// Bits per second.
    pub const fn bits(self) -> u64 {
        self.0
    }

    pub(crate) const fn bytes(self) -> u64 {
        self.0 / 8
    }

    /// What the kernel says; it may be more than we set.
    pub(crate) const fn from_kernel(bytes_per_second: u64) -> Self {
        Self(bytes_per_second.saturating_mul(8))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, name) in [(1_000_000_000, "Gbit"), (1_000_000, "Mbit"), (1_000, "kbit")] {
            if self.0 >= unit && self.0.is_multiple_of(unit) {
                return write!(f, "{}{name}", self.0 / unit);
            }
        }
        write!(f, "{}bit", self.0)
    }
}

/// Whose turn it is first, where not all can go at once. Strictly so for what goes beyond the guarantees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// First.
    Realtime,
    /// Behind that.
    Interactive,
    /// What is in no class has this one.
    #[default]
    Default,
    /// What is left.
    Bulk,
}

impl Priority {
    /// `TC_PRIO_*` of linux/pkt_sched.h: control, interactive, best effort, bulk.
    const fn tc_prio(self) -> u16 {
        match self {
            Self::Realtime => 7,
            Self::Interactive => 6,
            Self::Default => 0,
            Self::Bulk => 2,
        }
    }

    fn from_tc_prio(prio: u16) -> Self {
        match prio {
            7 => Self::Realtime,
            6 => Self::Interactive,
            2 => Self::Bulk,
            _ => Self::Default,
        }
    }
}

/// A class of a shaper: it means the same at every vif.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(u16);

impl Class {
    /// What is in no class of its own.
    pub const DEFAULT: Self = Self(SHAPE_DEFAULT);
    /// How many there can be beside that.
    pub const COUNT: u16 = 4000;

    /// Class number `index` of the caller's, from 0; `None` from [`Class::COUNT`] on.
    pub const fn new(index: u16, priority: Priority) -> Option<Self> {
        if index >= Self::COUNT {
            return None;
        }
        // 0 is the tree's root, 1 the default class.
        Some(Self(((index + 2) << 4) | priority.tc_prio()))
    }

    /// The index it was made with; `None`: the default class.
    pub fn index(self) -> Option<u16> {
        (self.0 >> 4).checked_sub(2)
    }

    /// Its priority.
    pub fn priority(self) -> Priority {
        Priority::from_tc_prio(self.0 & 0xf)
    }

    pub(crate) fn minor(self) -> u16 {
        self.0
    }

    pub(crate) fn from_minor(minor: u16) -> Self {
        Self(minor)
    }
}

/// A differentiated services code point (RFC 2474): 0 to 63.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dscp(u8);

impl Dscp {
    /// `None` from 64 on.
    pub const fn new(value: u8) -> Option<Self> {
        if value < 64 { Some(Self(value)) } else { None }
    }

    /// 0 to 63.
    pub const fn value(self) -> u8 {
        self.0
    }
}

/// How the packets of a flow are treated, both ways, where they pass. Nothing of it in a scope that only monitors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mark {
    /// The class, at vifs that are shaped; `None`, or one that the vif has not: the default class.
    pub class: Option<Class>,
    /// What is written into them; `None`: they keep what they have.
    pub dscp: Option<Dscp>,
    /// Who gets copies.
    pub mirror: Option<Mirror>,
}

impl Mark {
    /// Nothing special.
    pub const NONE: Self = Self {
        class: None,
        dscp: None,
        mirror: None,
    };

    /// `class` and `dscp` of the maps.
    pub(crate) fn raw(self) -> (u16, u8) {
        (
            self.class.map_or(0, Class::minor),
            self.dscp.map_or(0, |dscp| MARK_DSCP | dscp.0),
        )
    }

    pub(crate) fn from_raw(class: u16, dscp: u8, (mirror, share): (u16, u16)) -> Self {
        Self {
            mirror: Mirror::from_raw(mirror, share),
            class: (class != 0).then_some(Class(class)),
            dscp: (dscp & MARK_DSCP != 0).then_some(Dscp(dscp & 0x3f)),
        }
    }
}

/// One class of a vif. The same holds in each direction by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShapeClass {
    /// Which.
    pub class: Class,
    /// What it has in any case, as far as it asks for it.
    pub guarantee: Option<Rate>,
    /// What it does not go beyond; `None`: what the vif may.
    pub ceiling: Option<Rate>,
}

/// How a vif is shaped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shaping {
    /// Of all that the guest gets. A direction without a total in which no class has a ceiling is left as it is.
    pub to_guest: Option<Rate>,
    /// Of all that the guest sends.
    pub from_guest: Option<Rate>,
    /// In any order, each once.
    pub classes: Vec<ShapeClass>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_survives_the_maps() {
        for priority in [
            Priority::Realtime,
            Priority::Interactive,
            Priority::Default,
            Priority::Bulk,
        ] {
            for index in [0, 1, Class::COUNT - 1] {
                let class = Class::new(index, priority).unwrap();
                assert_eq!((class.index(), class.priority()), (Some(index), priority));
                let mark = Mark {
                    class: Some(class),
                    dscp: Dscp::new(0),
                    mirror: None,
                };
                let (raw, dscp) = mark.raw();
                assert_eq!(Mark::from_raw(raw, dscp, (0, 0)), mark);
            }
        }
        assert_eq!(Mark::NONE.raw(), (0, 0));
        assert_eq!(Class::new(Class::COUNT, Priority::Bulk), None);
        assert_eq!(Class::DEFAULT.index(), None);
    }

    #[test]
    fn rates_are_written_as_tc_writes_them() {
        let text = |bits| Rate::from_bits(bits).unwrap().to_string();
        assert_eq!(text(1_500_000), "1500kbit");
        assert_eq!(text(2_000_000_000), "2Gbit");
        assert_eq!(text(8_001), "8001bit");
        assert!(Rate::from_bits(7_999).is_none());
    }
}
