// SPDX-License-Identifier: GPL-3.0-only
//! Shaping of attached vifs, by the datapath that holds them.

use log::{info, warn};

use crate::datapath::{Datapath, ifindex};
use crate::error::Error;
use crate::link;
use crate::netlink::Netlink;
use crate::publish::failed;
use crate::shape::{
    ClassStats, Device, Discipline, Ingress, Shaper, Shaping, Tree, ifb_name, remove_orphan, vif_of,
};
use crate::types::Direction;

impl Datapath {
    /// What this kernel shapes with, found out the first time that it is asked.
    ///
    /// # Errors
    /// When it cannot be tried, as without root.
    pub fn shaper(&mut self) -> Result<&Shaper, Error> {
        let shaper = match self.shaper.take() {
            Some(shaper) => shaper,
            None => {
                let shaper = Shaper::probe()?;
                info!("shaping: {shaper}");
                shaper
            }
        };
        Ok(self.shaper.insert(shaper))
    }

    /// Shapes with this from now on, whatever the kernel has.
    pub fn shape_with(&mut self, shaper: Shaper) {
        self.shaper = Some(shaper);
    }

    /// Shapes an attached vif, or changes how; packets that wait stay where their class does. What is set stays in force, as do the
    /// filters, until [`Datapath::unshape`] or [`Datapath::detach`], or the vif is gone.
    ///
    /// # Errors
    /// When the vif is not attached, the classes contradict themselves, the kernel lacks what it takes, or the vif's root qdisc
    /// is neither ours nor the kernel's own; nothing is changed then. When the kernel refuses half-way, the vif is
    /// left unshaped.
    pub fn shape(&mut self, interface: &str, shaping: &Shaping) -> Result<(), Error> {
        let index = ifindex(interface)?;
        let tree = |direction| {
            shaping.tree(direction).map_err(|source| Error::Shape {
                interface: interface.to_owned(),
                source,
            })
        };
        let (to, from) = (tree(Direction::ToGuest)?, tree(Direction::FromGuest)?);
        let Ok(mut vif) = self.vifs.get(&index, 0) else {
            return Err(Error::NotAttached {
                interface: interface.to_owned(),
            });
        };
        if to.is_none() && from.is_none() {
            return self.unshape(interface);
        }
        let discipline = self.discipline(interface, from.is_some())?;
        if discipline == Discipline::Tbf && !shaping.classes.is_empty() {
            return Err(Error::NoClasses {
                interface: interface.to_owned(),
            });
        }
        let mut netlink = Netlink::open().map_err(|source| Error::Netlink { source })?;
        if to.is_some() {
            Device::new(&mut netlink, index, interface).check()?;
        }
        vif.shaped = 1;
        // What it sends may now have to wait for its turn.
        vif.bridge = 0;
        self.vifs.insert(index, vif, 0).map_err(|e| failed("vifs", e))?;
        let applied = apply_to(&mut netlink, index, interface, to.as_ref(), discipline)
            .and_then(|()| apply_from(&mut netlink, index, interface, from.as_ref(), discipline));
        if applied.is_err()
            && let Err(error) = self.unshape(interface)
        {
            warn!("{error}");
        }
        applied
    }

    fn discipline(&mut self, interface: &str, from_guest: bool) -> Result<Discipline, Error> {
        let shaper = self.shaper()?;
        match shaper.discipline {
            Some(discipline) if shaper.from_guest || !from_guest => Ok(discipline),
            discipline => Err(Error::NoShaper {
                interface: interface.to_owned(),
                what: if discipline.is_some() { "from" } else { "to" },
                missing: shaper.missing.join(" "),
            }),
        }
    }

    /// Takes the shaping off a vif: its packets go as they come. What waits is lost.
    ///
    /// # Errors
    /// When there is no such interface, or the kernel refuses.
    pub fn unshape(&mut self, interface: &str) -> Result<(), Error> {
        let index = ifindex(interface)?;
        remove(index, interface)?;
        if let Ok(mut vif) = self.vifs.get(&index, 0)
            && vif.shaped != 0
        {
            vif.shaped = 0;
            self.vifs.insert(index, vif, 0).map_err(|e| failed("vifs", e))?;
        }
        Ok(())
    }

    /// The classes of a vif with what they carried, as the kernel has them; none where it is not shaped.
    ///
    /// # Errors
    /// When there is no such interface, or they cannot be read.
    pub fn class_stats(&self, interface: &str) -> Result<Vec<ClassStats>, Error> {
        let index = ifindex(interface)?;
        let mut netlink = Netlink::open().map_err(|source| Error::Netlink { source })?;
        let mut list = Vec::new();
        if let Some(ifb) = Ingress::new(&mut netlink, index, interface).device()? {
            let name = ifb_name(index);
            list.extend(Device::new(&mut netlink, ifb, &name).stats(Direction::FromGuest)?);
        }
        list.extend(Device::new(&mut netlink, index, interface).stats(Direction::ToGuest)?);
        Ok(list)
    }
}

fn apply_to(
    netlink: &mut Netlink,
    index: u32,
    interface: &str,
    tree: Option<&Tree>,
    discipline: Discipline,
) -> Result<(), Error> {
    let mut vif = Device::new(netlink, index, interface);
    match tree {
        Some(tree) => vif.apply(tree, discipline),
        None => vif.remove().map(|_| ()),
    }
}

fn apply_from(
    netlink: &mut Netlink,
    index: u32,
    interface: &str,
    tree: Option<&Tree>,
    discipline: Discipline,
) -> Result<(), Error> {
    let Some(tree) = tree else {
        return Ingress::new(netlink, index, interface).remove();
    };
    let ifb = Ingress::new(netlink, index, interface).make_device()?;
    Device::new(netlink, ifb, &ifb_name(index)).apply(tree, discipline)?;
    // Last: packets find the tree whole.
    Ingress::new(netlink, index, interface).divert(ifb)
}

/// Takes the shaping off an interface, if there is any.
pub(crate) fn remove(index: u32, interface: &str) -> Result<(), Error> {
    let mut netlink = Netlink::open().map_err(|source| Error::Netlink { source })?;
    Ingress::new(&mut netlink, index, interface).remove()?;
    Device::new(&mut netlink, index, interface).remove().map(|_| ())
}

/// Removes the IFB devices of vifs that are gone.
pub(crate) fn prune() -> Result<(), Error> {
    let interfaces = link::interfaces()?;
    for (ifb, name) in &interfaces {
        if let Some(vif) = vif_of(name)
            && !interfaces.iter().any(|(index, _)| *index == vif)
        {
            remove_orphan(*ifb, name)?;
        }
    }
    Ok(())
}
