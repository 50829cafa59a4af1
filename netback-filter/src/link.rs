// SPDX-License-Identifier: GPL-3.0-only
//! Our pair of clsact filters on an interface: they are there on every kernel, belong to the interface instead of to a
//! process or a pin, and go with it.

use std::io;
use std::os::fd::AsRawFd;

use crate::error::Error;
use crate::netlink::{Filter, Hook, Netlink};
use crate::programs::Programs;

/// "xm": whatever else sits at the same priority, this handle is ours.
const HANDLE: u32 = 0x786d;
const NAMES: [(Hook, &str); 2] = [
    (Hook::Ingress, "xmesh:from_guest"),
    (Hook::Egress, "xmesh:to_guest"),
];

/// An interface in the network namespace of the calling thread.
pub(crate) struct Link<'a> {
    ifindex: u32,
    name: &'a str,
}

impl<'a> Link<'a> {
    pub(crate) fn new(ifindex: u32, name: &'a str) -> Self {
        Self { ifindex, name }
    }

    fn tc(&self, what: &'static str, source: io::Error) -> Error {
        Error::tc(self.name, what, source)
    }

    /// Sets both filters, or exchanges those of an earlier attach without a gap.
    pub(crate) fn attach(&self, programs: &Programs, priority: u16) -> Result<(), Error> {
        let mut netlink = Netlink::open().map_err(|source| Error::Netlink { source })?;
        netlink
            .add_clsact(self.ifindex)
            .map_err(|e| self.tc("add the clsact qdisc", e))?;
        for (hook, name) in NAMES {
            let program = programs.descriptor(hook)?;
            let filter = Filter {
                handle: HANDLE,
                priority,
                name: name.to_owned(),
            };
            netlink
                .set_filter(self.ifindex, hook, &filter, program.as_raw_fd())
                .map_err(|e| self.tc("attach a filter", e))?;
            // One of ours at another priority is from a configuration that is no longer.
            for stale in ours(&mut netlink, self.ifindex, hook).map_err(|e| self.tc("list the filters", e))? {
                if stale.priority != priority {
                    netlink
                        .delete_filter(self.ifindex, hook, &stale)
                        .map_err(|e| self.tc("remove an old filter", e))?;
                }
            }
        }
        Ok(())
    }

    /// Removes our filters, and the qdisc when nobody else has a filter on it. Returns whether there were any.
    pub(crate) fn detach(&self) -> Result<bool, Error> {
        let mut netlink = Netlink::open().map_err(|source| Error::Netlink { source })?;
        let mut found = false;
        let mut others = false;
        for (hook, _) in NAMES {
            for filter in
                ours(&mut netlink, self.ifindex, hook).map_err(|e| self.tc("list the filters", e))?
            {
                netlink
                    .delete_filter(self.ifindex, hook, &filter)
                    .map_err(|e| self.tc("remove a filter", e))?;
                found = true;
            }
            others |= !netlink
                .filters(self.ifindex, hook)
                .map_err(|e| self.tc("list the filters", e))?
                .is_empty();
        }
        if found && !others {
            netlink
                .delete_clsact(self.ifindex)
                .map_err(|e| self.tc("remove the clsact qdisc", e))?;
        }
        Ok(found)
    }

    /// Whether there are filters of others on a hook.
    pub(crate) fn has_others(&self, hook: Hook) -> Result<bool, Error> {
        let listed = |e| self.tc("list the filters", e);
        let mut netlink = Netlink::open().map_err(|source| Error::Netlink { source })?;
        let all = netlink.filters(self.ifindex, hook).map_err(listed)?.len();
        let ours = ours(&mut netlink, self.ifindex, hook).map_err(listed)?.len();
        Ok(all > ours)
    }

    /// Whether any filter of ours is on it.
    pub(crate) fn has_filters(&self) -> Result<bool, Error> {
        let mut netlink = Netlink::open().map_err(|source| Error::Netlink { source })?;
        for (hook, _) in NAMES {
            if !ours(&mut netlink, self.ifindex, hook)
                .map_err(|e| self.tc("list the filters", e))?
                .is_empty()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether both our filters are on it.
    pub(crate) fn is_attached(&self) -> Result<bool, Error> {
        let mut netlink = Netlink::open().map_err(|source| Error::Netlink { source })?;
        for (hook, _) in NAMES {
            if ours(&mut netlink, self.ifindex, hook)
                .map_err(|e| self.tc("list the filters", e))?
                .is_empty()
            {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn ours(netlink: &mut Netlink, ifindex: u32, hook: Hook) -> io::Result<Vec<Filter>> {
    let filters = netlink.filters(ifindex, hook)?;
    Ok(filters
        .into_iter()
        .filter(|f| f.handle == HANDLE && NAMES.iter().any(|(h, name)| *h == hook && f.name == *name))
        .collect())
}

/// Every interface of this network namespace.
pub(crate) fn interfaces() -> Result<Vec<(u32, String)>, Error> {
    let list = nix::net::if_::if_nameindex().map_err(|errno| Error::Netlink { source: errno.into() })?;
    Ok(list
        .iter()
        .map(|i| (i.index(), i.name().to_string_lossy().into_owned()))
        .collect())
}
