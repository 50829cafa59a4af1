// SPDX-License-Identifier: GPL-3.0-only
//! Which hooks the programs are on, and the move from one kind to the other under traffic.
//!
//! A packet meets TCX before clsact. While a vif moves, both have our programs; its entry says so ([`MOVING`]), and the
//! first program that a packet meets leaves a note on it for the second, which then lets it pass. So at each moment every
//! packet is judged, counted and translated once.

use std::path::Path;

use crate::error::Error;
use crate::link::Link;
use crate::netlink::Hook;
use crate::programs::Programs;
use crate::sys;
use crate::tcx::Tcx;

/// `moving` of a vif's entry.
pub(crate) const MOVING: u8 = 1;

/// By which hook of the kernel the programs are put on a vif.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Attach {
    /// TCX where the kernel has it (Linux 6.6), clsact elsewhere.
    #[default]
    Auto,
    /// A filter of the clsact qdisc, among others' by [`crate::Config::priority`]: on every kernel.
    Clsact,
    /// A TCX link, before those that are there, and before every filter of clsact: another's link that is put before it later
    /// can let packets pass by it. Pinned beside the maps, so that it holds when this process ends.
    Tcx,
}

/// A kind of hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hooks {
    /// The clsact qdisc.
    Clsact,
    /// TCX links.
    Tcx,
}

/// One vif and where its programs are.
pub(crate) struct Place<'a> {
    link: Link<'a>,
    tcx: Tcx<'a>,
    name: &'a str,
}

impl<'a> Place<'a> {
    /// `pins`: the pin directory.
    pub(crate) fn new(pins: &'a Path, ifindex: u32, name: &'a str) -> Self {
        Self {
            link: Link::new(ifindex, name),
            tcx: Tcx::new(pins, ifindex, name),
            name,
        }
    }

    /// Where both programs are; `None`: nowhere, or one of them is missing.
    pub(crate) fn hooks(&self) -> Result<Option<Hooks>, Error> {
        if self.tcx.has_pins() && self.tcx.is_attached()? {
            return Ok(Some(Hooks::Tcx));
        }
        Ok(self.link.is_attached()?.then_some(Hooks::Clsact))
    }

    /// Whether what our programs let go on from the guest meets others' at the same hook.
    pub(crate) fn has_others_at_ingress(&self) -> Result<bool, Error> {
        Ok(self.link.has_others(Hook::Ingress)? || self.tcx.has_others_at_ingress()?)
    }

    /// Takes our programs off, wherever they are. Returns whether there were any.
    pub(crate) fn detach(&self) -> Result<bool, Error> {
        let linked = self.tcx.detach()?;
        Ok(self.link.detach()? || linked)
    }

    /// Puts the programs on, in place of earlier ones if there are any, without a gap. `set_moving` says in the vif's entry
    /// whether both kinds of hooks may have them.
    pub(crate) fn attach(
        &self,
        programs: &mut Programs,
        priority: u16,
        way: Attach,
        mut set_moving: impl FnMut(u8) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let earlier = match self.link.has_filters()? {
            true => Some(Hooks::Clsact),
            false => self.tcx.has_pins().then_some(Hooks::Tcx),
        };
        match self.choose(way)? {
            Hooks::Clsact if self.tcx.has_pins() => {
                // First of all in place: programs of an earlier build may leave no notes.
                self.tcx.attach(programs)?;
                set_moving(MOVING)?;
                // From here on all packets under way at the TCX hook bear notes.
                sys::wait_for_packets();
                self.link.attach(programs, priority)?;
                self.tcx.detach()?;
                sys::wait_for_packets();
                set_moving(0)
            }
            Hooks::Tcx if earlier == Some(Hooks::Clsact) => {
                self.link.attach(programs, priority)?;
                set_moving(MOVING)?;
                self.tcx.attach(programs)?;
                self.link.detach()?;
                sys::wait_for_packets();
                set_moving(0)
            }
            hooks => {
                let attached = match hooks {
                    Hooks::Clsact => self.link.attach(programs, priority),
                    Hooks::Tcx => self.tcx.attach(programs),
                };
                if attached.is_err() && earlier.is_none() {
                    // Half of it is nothing. What keeps it from going is the error that is told already.
                    let _ = self.detach();
                }
                attached
            }
        }
    }

    fn choose(&self, way: Attach) -> Result<Hooks, Error> {
        match (way, self.tcx.is_possible()) {
            (Attach::Clsact, _) | (Attach::Auto, false) => Ok(Hooks::Clsact),
            (Attach::Auto | Attach::Tcx, true) => Ok(Hooks::Tcx),
            (Attach::Tcx, false) => Err(Error::NoTcx {
                interface: self.name.to_owned(),
            }),
        }
    }
}
