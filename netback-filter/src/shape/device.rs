// SPDX-License-Identifier: GPL-3.0-only
//! The shaper at the root of one device: put there, changed with what waits in it, read and taken off.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::htb::{self, Counted, HTB};
use super::probe::{Discipline, Leaf};
use super::tbf::{self, TBF};
use super::{Class, Rate, Tree};
use crate::error::Error;
use crate::layout::SHAPE_MAJOR;
use crate::netlink::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Netlink, RTM_DELQDISC, RTM_GETQDISC, RTM_NEWQDISC,
    TCA_KIND, TCMSG, TcMessage, attribute, u32_at,
};
use crate::types::Direction;

const RTM_NEWTCLASS: u16 = 40;
const RTM_DELTCLASS: u16 = 41;
const RTM_GETTCLASS: u16 = 42;
/// The step that fails where the kernel has no HTB.
pub(super) const ADD_HTB: &str = "add the HTB qdisc";
/// Where it has no TBF.
const ADD_TBF: &str = "set the TBF qdisc";
const TC_H_ROOT: u32 = 0xffff_ffff;
const HANDLE: u32 = SHAPE_MAJOR << 16;
/// Above all classes; its rate is the total.
const TOP: u32 = HANDLE | 1;

/// What a class has and did since it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassStats {
    /// Which way.
    pub direction: Direction,
    /// Which; `None`: all of that direction together.
    pub class: Option<Class>,
    /// What it has in any case.
    pub rate: Rate,
    /// What it does not go beyond.
    pub ceiling: Rate,
    /// Bytes sent, headers of every segment included.
    pub bytes: u64,
    /// Packets sent: of the wire, so many for one that is segmented later.
    pub packets: u64,
    /// Packets that found its queue full, or that the queue took out so that senders slow down.
    pub drops: u32,
    /// Packets that wait.
    pub backlog_packets: u32,
    /// Bytes of those.
    pub backlog_bytes: u32,
}

/// One qdisc or class as the kernel lists it.
struct Listed {
    handle: u32,
    parent: u32,
    /// Of a class: the handle of its queue.
    info: u32,
    kind: Vec<u8>,
    rates: Option<(u64, u64)>,
    counted: Counted,
}

impl Listed {
    fn parse(body: &[u8]) -> Option<(u32, Self)> {
        let attributes = body.get(TCMSG..)?;
        let kind = attribute(attributes, TCA_KIND)?;
        let listed = Self {
            handle: u32_at(body, 8)?,
            parent: u32_at(body, 12)?,
            info: u32_at(body, 16)?,
            rates: match kind == TBF {
                true => tbf::rate(attributes).map(|rate| (rate, rate)),
                false => htb::rates(attributes),
            },
            kind: kind.to_vec(),
            counted: htb::counted(attributes),
        };
        Some((u32_at(body, 4)?, listed))
    }

    fn kind(&self) -> String {
        String::from_utf8_lossy(&self.kind)
            .trim_end_matches('\0')
            .to_owned()
    }
}

/// Of which kind ours is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Htb,
    Tbf,
}

impl From<Discipline> for Kind {
    fn from(discipline: Discipline) -> Self {
        match discipline {
            Discipline::Htb(_) => Self::Htb,
            Discipline::Tbf => Self::Tbf,
        }
    }
}

/// What is at a device's root.
enum Root {
    /// What the kernel puts there by itself.
    Kernel,
    Ours(Kind),
    /// Somebody else's, of this kind.
    Foreign(String),
}

/// A device in the network namespace of the calling thread.
pub(crate) struct Device<'a> {
    netlink: &'a mut Netlink,
    ifindex: u32,
    name: &'a str,
}

impl<'a> Device<'a> {
    pub(crate) fn new(netlink: &'a mut Netlink, ifindex: u32, name: &'a str) -> Self {
        Self {
            netlink,
            ifindex,
            name,
        }
    }

    fn failed(&self, what: &'static str, source: io::Error) -> Error {
        Error::tc(self.name, what, source)
    }

    fn list(&mut self, kind: u16) -> io::Result<Vec<Listed>> {
        let all = self.message(0, 0);
        // Of qdiscs, older kernels list those of every device.
        Ok(self
            .netlink
            .request(kind, NLM_F_DUMP, &all, &[])?
            .iter()
            .filter_map(|body| Listed::parse(body))
            .filter(|(ifindex, _)| *ifindex == self.ifindex)
            .map(|(_, listed)| listed)
            .collect())
    }

    fn message(&self, handle: u32, parent: u32) -> TcMessage {
        TcMessage {
            ifindex: self.ifindex,
            handle,
            parent,
            info: 0,
        }
    }

    fn root(&mut self) -> Result<Root, Error> {
        let listed = self
            .list(RTM_GETQDISC)
            .map_err(|e| self.failed("list the qdiscs", e))?;
        let root = listed.iter().find(|qdisc| qdisc.parent == TC_H_ROOT);
        Ok(match root {
            // What the kernel makes by itself has no handle.
            None => Root::Kernel,
            Some(qdisc) if qdisc.handle == 0 => Root::Kernel,
            Some(qdisc) if qdisc.handle == HANDLE && qdisc.kind == HTB => Root::Ours(Kind::Htb),
            Some(qdisc) if qdisc.handle == HANDLE && qdisc.kind == TBF => Root::Ours(Kind::Tbf),
            Some(qdisc) => Root::Foreign(qdisc.kind()),
        })
    }

    /// Whether [`Self::apply`] may.
    ///
    /// # Errors
    /// When somebody else's qdisc has the place.
    pub(crate) fn check(&mut self) -> Result<(), Error> {
        self.ours().map(drop)
    }

    /// Of which kind ours is that is there.
    fn ours(&mut self) -> Result<Option<Kind>, Error> {
        match self.root()? {
            Root::Kernel => Ok(None),
            Root::Ours(kind) => Ok(Some(kind)),
            Root::Foreign(kind) => Err(Error::ForeignQdisc {
                interface: self.name.to_owned(),
                kind,
            }),
        }
    }

    /// Makes the tree what it is to be. Classes that stay keep what waits in them. Of a discipline without classes the total alone
    /// counts.
    ///
    /// # Errors
    /// When somebody else's qdisc has the place, or the kernel refuses.
    pub(crate) fn apply(&mut self, tree: &Tree, discipline: Discipline) -> Result<(), Error> {
        let ours = self.ours()?;
        let there = ours == Some(discipline.into());
        if ours.is_some() && !there {
            // What an earlier daemon found was another.
            self.remove()?;
        }
        match discipline {
            Discipline::Htb(leaf) => self.apply_htb(tree, leaf, there),
            Discipline::Tbf => self.set_root(&tbf::qdisc(tree), there, ADD_TBF),
        }
    }

    /// Puts a qdisc at the root, or changes the one of its kind that is there.
    fn set_root(&mut self, attributes: &[u8], there: bool, what: &'static str) -> Result<(), Error> {
        let flags = match there {
            true => NLM_F_ACK,
            false => NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
        };
        let message = self.message(HANDLE, TC_H_ROOT);
        self.netlink
            .request(RTM_NEWQDISC, flags, &message, attributes)
            .map(|_| ())
            .map_err(|e| self.failed(what, e))
    }

    fn apply_htb(&mut self, tree: &Tree, leaf: Leaf, there: bool) -> Result<(), Error> {
        if !there {
            self.set_root(&htb::qdisc(), there, ADD_HTB)?;
        }
        self.set_class(TOP, HANDLE, &htb::class(tree.total, tree.total, 0, 2_000))?;
        let queues = self
            .list(RTM_GETQDISC)
            .map_err(|e| self.failed("list the qdiscs", e))?;
        let mut wanted = BTreeSet::from([TOP]);
        for node in &tree.nodes {
            let handle = HANDLE | u32::from(node.class.minor());
            wanted.insert(handle);
            self.set_class(handle, TOP, &htb::node(node))?;
            self.set_leaf(&queues, handle, leaf, node.limit)?;
        }
        let there = self
            .list(RTM_GETTCLASS)
            .map_err(|e| self.failed("list the HTB classes", e))?;
        for class in there
            .iter()
            .filter(|class| class.kind == HTB && !wanted.contains(&class.handle))
        {
            let message = self.message(class.handle, 0);
            self.netlink
                .request(RTM_DELTCLASS, NLM_F_ACK, &message, &[])
                .map_err(|e| self.failed("remove an HTB class", e))?;
        }
        Ok(())
    }

    fn set_class(&mut self, handle: u32, parent: u32, attributes: &[u8]) -> Result<(), Error> {
        let message = self.message(handle, parent);
        self.netlink
            .request(RTM_NEWTCLASS, NLM_F_ACK | NLM_F_CREATE, &message, attributes)
            .map(|_| ())
            .map_err(|e| self.failed("set an HTB class", e))
    }

    /// A queue of this kind that is there already keeps its packets.
    fn set_leaf(&mut self, queues: &[Listed], class: u32, leaf: Leaf, limit: u32) -> Result<(), Error> {
        let same = queues
            .iter()
            .find(|qdisc| qdisc.parent == class && qdisc.kind() == leaf.kind());
        let (handle, flags) = match same {
            Some(qdisc) => (qdisc.handle, NLM_F_ACK),
            None => (0, NLM_F_ACK | NLM_F_CREATE),
        };
        let message = self.message(handle, class);
        self.netlink
            .request(RTM_NEWQDISC, flags, &message, &leaf.attributes(limit))
            .map(|_| ())
            .map_err(|e| self.failed("set the queue of an HTB class", e))
    }

    /// Takes the tree off; the kernel's own qdisc comes back. Returns whether it was there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn remove(&mut self) -> Result<bool, Error> {
        if !matches!(self.root()?, Root::Ours(_)) {
            return Ok(false);
        }
        let message = self.message(HANDLE, TC_H_ROOT);
        self.netlink
            .request(RTM_DELQDISC, NLM_F_ACK, &message, &[])
            .map_err(|e| self.failed("remove our qdisc", e))?;
        Ok(true)
    }

    /// The classes, all together first; none where the tree is not there.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(crate) fn stats(&mut self, direction: Direction) -> Result<Vec<ClassStats>, Error> {
        match self.root()? {
            Root::Ours(Kind::Htb) => {}
            Root::Ours(Kind::Tbf) => return self.tbf_stats(direction),
            _ => return Ok(Vec::new()),
        }
        let classes = self
            .list(RTM_GETTCLASS)
            .map_err(|e| self.failed("list the HTB classes", e))?;
        let qdiscs = self
            .list(RTM_GETQDISC)
            .map_err(|e| self.failed("list the qdiscs", e))?;
        // Only a queue knows what it dropped by itself; the class knows of what was refused to it.
        let dropped: BTreeMap<u32, u32> = qdiscs.iter().map(|q| (q.handle, q.counted.drops)).collect();
        let mut list: Vec<ClassStats> = classes
            .iter()
            .filter(|class| class.handle & 0xffff_0000 == HANDLE)
            .filter_map(|class| {
                let (rate, ceiling) = class.rates?;
                let counted = class.counted;
                let minor = (class.handle & 0xffff) as u16;
                Some(ClassStats {
                    direction,
                    class: (class.handle != TOP).then(|| Class::from_minor(minor)),
                    rate: Rate::from_kernel(rate),
                    ceiling: Rate::from_kernel(ceiling),
                    bytes: counted.bytes,
                    packets: counted.packets,
                    drops: dropped
                        .get(&(class.info << 16))
                        .or_else(|| dropped.get(&class.info))
                        .copied()
                        .unwrap_or(0)
                        .max(counted.drops),
                    backlog_packets: counted.backlog_packets,
                    backlog_bytes: counted.backlog_bytes,
                })
            })
            .collect();
        list.sort_by_key(|stats| stats.class);
        if let Some(all) = list.iter().position(|stats| stats.class.is_none()) {
            let sum = |f: fn(&ClassStats) -> u32| list.iter().map(f).fold(0, u32::saturating_add);
            let (drops, packets, bytes) = (
                sum(|s| s.drops),
                sum(|s| s.backlog_packets),
                sum(|s| s.backlog_bytes),
            );
            if let Some(all) = list.get_mut(all) {
                (all.drops, all.backlog_packets, all.backlog_bytes) = (drops, packets, bytes);
            }
        }
        Ok(list)
    }

    fn tbf_stats(&mut self, direction: Direction) -> Result<Vec<ClassStats>, Error> {
        let qdiscs = self
            .list(RTM_GETQDISC)
            .map_err(|e| self.failed("list the qdiscs", e))?;
        let ours = qdiscs.into_iter().find(|qdisc| qdisc.handle == HANDLE);
        Ok(ours
            .and_then(|qdisc| {
                let (rate, ceiling) = qdisc.rates?;
                let counted = qdisc.counted;
                Some(ClassStats {
                    direction,
                    class: None,
                    rate: Rate::from_kernel(rate),
                    ceiling: Rate::from_kernel(ceiling),
                    bytes: counted.bytes,
                    packets: counted.packets,
                    drops: counted.drops,
                    backlog_packets: counted.backlog_packets,
                    backlog_bytes: counted.backlog_bytes,
                })
            })
            .into_iter()
            .collect())
    }
}
