// SPDX-License-Identifier: GPL-3.0-only
//! What the running kernel has to shape with, found by trying it on a device of our own.

use std::fmt;
use std::io;

use super::device::Device;
use super::htb::with_options;
use super::ingress::redirect_all;
use super::plan::Node;
use super::{Class, Tree, links};
use crate::error::Error;
use crate::netlink::{Netlink, put};

const TCA_FQ_CODEL_MEMORY_LIMIT: u16 = 9;

/// The queue of each class, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaf {
    /// Flows take turns, and each is held to a short queue.
    FqCodel,
    /// Flows take turns.
    Sfq,
    /// One queue for all flows of a class, of some tens of milliseconds.
    Bfifo,
}

impl Leaf {
    const BEST_FIRST: [Self; 3] = [Self::FqCodel, Self::Sfq, Self::Bfifo];

    /// As tc(8) names it.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::FqCodel => "fq_codel",
            Self::Sfq => "sfq",
            Self::Bfifo => "bfifo",
        }
    }

    /// `limit`: bytes.
    pub(super) fn attributes(self, limit: u32) -> Vec<u8> {
        let kind = [self.kind().as_bytes(), b"\0"].concat();
        match self {
            // `struct tc_fifo_qopt` alone are the options, without a header of its own.
            Self::Bfifo => with_options(&kind, &limit.to_ne_bytes()),
            // Its own limit is 32 MiB. What waits behind an IFB lies in the guest's memory, and a guest that goes has to wait for
            // it. Counted with what the kernel keeps beside each packet, at most as much again.
            Self::FqCodel => {
                let mut options = Vec::new();
                put(
                    &mut options,
                    TCA_FQ_CODEL_MEMORY_LIMIT,
                    &limit.saturating_mul(2).to_ne_bytes(),
                );
                with_options(&kind, &options)
            }
            Self::Sfq => with_options(&kind, &[]),
        }
    }
}

/// What keeps rates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discipline {
    /// Totals and classes, with these queues.
    Htb(Leaf),
    /// Totals alone.
    Tbf,
}

impl fmt::Display for Discipline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Htb(leaf) => write!(f, "htb+{}", leaf.kind()),
            Self::Tbf => f.write_str("tbf, totals without classes"),
        }
    }
}

/// What shapes on this host, and why nothing better does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shaper {
    /// Towards guests; `None`: the kernel has nothing for it.
    pub discipline: Option<Discipline>,
    /// What is from guests can be shaped, too: through IFB devices.
    pub from_guest: bool,
    /// What was missed, each with the module that has it.
    pub missing: Vec<&'static str>,
}

impl fmt::Display for Shaper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.discipline {
            None => f.write_str("none")?,
            Some(discipline) if self.from_guest => write!(f, "{discipline}, from guests by ifb")?,
            Some(discipline) => write!(f, "{discipline}, not from guests")?,
        }
        if !self.missing.is_empty() {
            write!(f, " (this kernel lacks {})", self.missing.join(", "))?;
        }
        Ok(())
    }
}

impl Shaper {
    /// Tries what there is on a device that is gone again when this returns. The kernel loads modules that it has.
    ///
    /// # Errors
    /// When no device can be made at all, as without root.
    pub fn probe() -> Result<Self, Error> {
        let mut netlink = Netlink::open().map_err(|source| Error::Netlink { source })?;
        let name = format!("xmp{}", std::process::id());
        let failed = |e| Error::tc(&name, "add a device to try qdiscs on", e);
        let mut missing = Vec::new();
        let ifb = match links::add(&mut netlink, &name, "ifb") {
            Ok(()) => true,
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                missing.push("ifb");
                links::add(&mut netlink, &name, "dummy").map_err(failed)?;
                false
            }
            Err(e) => return Err(failed(e)),
        };
        let device = nix::net::if_::if_nametoindex(name.as_str()).map_err(|errno| failed(errno.into()));
        let probed = device.and_then(|ifindex| {
            let discipline = best(&mut netlink, ifindex, &name, &mut missing);
            let from_guest = ifb && diverts(&mut netlink, ifindex, &mut missing);
            // Whatever came of it.
            links::delete(&mut netlink, ifindex)
                .map_err(|e| Error::tc(&name, "remove the device to try qdiscs on", e))?;
            Ok((discipline?, from_guest))
        });
        let (discipline, from_guest) = probed?;
        Ok(Self {
            discipline,
            from_guest: from_guest && discipline.is_some(),
            missing,
        })
    }
}

fn best(
    netlink: &mut Netlink,
    ifindex: u32,
    name: &str,
    missing: &mut Vec<&'static str>,
) -> Result<Option<Discipline>, Error> {
    let tree = Tree {
        total: 1_000_000,
        nodes: vec![Node {
            class: Class::DEFAULT,
            rate: 1_000,
            ceil: 1_000_000,
            prio: 0,
            quantum: 2_000,
            limit: 100_000,
        }],
    };
    let all = Leaf::BEST_FIRST
        .map(Discipline::Htb)
        .into_iter()
        .chain([Discipline::Tbf]);
    let mut no_htb = false;
    for discipline in all {
        if no_htb && discipline != Discipline::Tbf {
            continue;
        }
        match Device::new(netlink, ifindex, name).apply(&tree, discipline) {
            Ok(()) => return Ok(Some(discipline)),
            Err(Error::Tc { what, source, .. }) if lacks(&source) => {
                no_htb |= what == super::device::ADD_HTB;
                missing.push(match discipline {
                    Discipline::Htb(_) if no_htb => "sch_htb",
                    Discipline::Htb(Leaf::FqCodel) => "sch_fq_codel",
                    Discipline::Htb(Leaf::Sfq) => "sch_sfq",
                    Discipline::Htb(Leaf::Bfifo) => "sch_fifo",
                    Discipline::Tbf => "sch_tbf",
                });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Whether packets can be handed on at ingress.
fn diverts(netlink: &mut Netlink, ifindex: u32, missing: &mut Vec<&'static str>) -> bool {
    let tried = netlink
        .add_clsact(ifindex)
        .and_then(|()| redirect_all(netlink, ifindex, ifindex));
    if tried.is_err() {
        missing.push("act_mirred");
    }
    tried.is_ok()
}

fn lacks(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EOPNOTSUPP))
}
