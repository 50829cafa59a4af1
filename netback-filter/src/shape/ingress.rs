// SPDX-License-Identifier: GPL-3.0-only
//! The way of what a guest sends through a device that can be shaped.
//!
//! A filter behind all others at the vif's ingress hands what is left to an IFB device of the vif's own (mirred: only what that
//! redirects does an IFB take). From there it goes on as received by the vif, past the vif's filters, whose turn it had.

use std::io;

use super::links;
use crate::error::Error;
use crate::netlink::{
    Filter, Hook, NLM_F_ACK, NLM_F_CREATE, Netlink, RTM_NEWTFILTER, TCA_KIND, TCA_OPTIONS, filter_message,
    put,
};

/// Of an IFB's name; the vif's index follows, which is never used again while the host is up.
const PREFIX: &str = "xmi";
/// The last there is: other filters have their turn first.
const PRIORITY: u16 = u16::MAX;
const HANDLE: u32 = 0x786d;

const TCA_BPF_ACT: u16 = 1;
const TCA_BPF_OPS_LEN: u16 = 4;
const TCA_BPF_OPS: u16 = 5;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
const TCA_EGRESS_REDIR: u32 = 1;
const TC_ACT_STOLEN: u32 = 4;

/// The ingress of one vif.
pub(crate) struct Ingress<'a> {
    netlink: &'a mut Netlink,
    ifindex: u32,
    name: &'a str,
}

/// Name of the IFB of the vif with this index.
pub(crate) fn ifb_name(ifindex: u32) -> String {
    format!("{PREFIX}{ifindex}")
}

/// Index of the vif whose IFB has this name.
pub(crate) fn vif_of(ifb: &str) -> Option<u32> {
    let index = ifb.strip_prefix(PREFIX)?.parse().ok()?;
    (ifb_name(index) == ifb).then_some(index)
}

fn index_of(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

impl<'a> Ingress<'a> {
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

    /// Makes the IFB; gives its index. One that is there will do.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn make_device(&mut self) -> Result<u32, Error> {
        let name = ifb_name(self.ifindex);
        if let Some(ifb) = index_of(&name) {
            return Ok(ifb);
        }
        links::add(self.netlink, &name, "ifb").map_err(|e| self.failed("add an IFB device", e))?;
        let gone = || io::Error::from_raw_os_error(libc::ENODEV);
        let ifb = index_of(&name).ok_or_else(|| self.failed("add an IFB device", gone()))?;
        let alias = format!("xmesh: what {} receives from its guest", self.name);
        links::bring_up(self.netlink, ifb, &alias).map_err(|e| self.failed("bring up its IFB device", e))?;
        Ok(ifb)
    }

    /// Hands all that is left at the vif's ingress to the IFB.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn divert(&mut self, ifb: u32) -> Result<(), Error> {
        self.netlink
            .add_clsact(self.ifindex)
            .map_err(|e| self.failed("add the clsact qdisc", e))?;
        redirect_all(self.netlink, self.ifindex, ifb)
            .map_err(|e| self.failed("hand what the guest sends to its IFB device", e))
    }

    /// The IFB, where packets go through it.
    pub(crate) fn device(&mut self) -> Result<Option<u32>, Error> {
        let diverted = self
            .netlink
            .filters(self.ifindex, Hook::Ingress)
            .map_err(|e| self.failed("list the filters", e))?
            .iter()
            .any(is_ours);
        Ok(index_of(&ifb_name(self.ifindex)).filter(|_| diverted))
    }

    /// Takes filter and IFB away, and the clsact qdisc when nobody has a filter on it. What waits in the IFB is lost.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn remove(&mut self) -> Result<(), Error> {
        let listed = |netlink: &mut Netlink, hook| netlink.filters(self.ifindex, hook);
        let filters = listed(self.netlink, Hook::Ingress).map_err(|e| self.failed("list the filters", e))?;
        // The filter first: without its device it would drop.
        if let Some(filter) = filters.iter().find(|f| is_ours(f)) {
            self.netlink
                .delete_filter(self.ifindex, Hook::Ingress, filter)
                .map_err(|e| self.failed("remove a filter", e))?;
            let others =
                listed(self.netlink, Hook::Egress).map_err(|e| self.failed("list the filters", e))?;
            if filters.len() == 1 && others.is_empty() {
                self.netlink
                    .delete_clsact(self.ifindex)
                    .map_err(|e| self.failed("remove the clsact qdisc", e))?;
            }
        }
        if let Some(ifb) = index_of(&ifb_name(self.ifindex)) {
            links::delete(self.netlink, ifb).map_err(|e| self.failed("remove its IFB device", e))?;
        }
        Ok(())
    }
}

/// Removes the IFB of a vif that is gone.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn remove_orphan(ifb: u32, name: &str) -> Result<(), Error> {
    let mut netlink = Netlink::open().map_err(|source| Error::Netlink { source })?;
    links::delete(&mut netlink, ifb).map_err(|e| Error::tc(name, "remove the IFB device", e))
}

fn is_ours(filter: &Filter) -> bool {
    filter.handle == HANDLE && filter.priority == PRIORITY
}

/// A filter of one instruction of classic BPF that takes every packet, with mirred as its action. It needs no kind of filter
/// beside the one that our programs need.
pub(super) fn redirect_all(netlink: &mut Netlink, from: u32, to: u32) -> io::Result<()> {
    let filter = Filter {
        handle: HANDLE,
        priority: PRIORITY,
        name: String::new(),
    };
    // struct sock_filter: `ret #-1`, which stands for the filter's own class.
    let mut take_all = Vec::new();
    take_all.extend(((libc::BPF_RET | libc::BPF_K) as u16).to_ne_bytes());
    take_all.extend([0, 0]);
    take_all.extend(u32::MAX.to_ne_bytes());

    // struct tc_mirred: index, capabilities, action, two counts of references; what, and where to.
    let mut mirred = Vec::new();
    for word in [0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, to] {
        mirred.extend(word.to_ne_bytes());
    }
    let mut parameters = Vec::new();
    put(&mut parameters, TCA_MIRRED_PARMS, &mirred);
    let mut action = Vec::new();
    put(&mut action, TCA_ACT_KIND, b"mirred\0");
    put(&mut action, TCA_ACT_OPTIONS, &parameters);
    let mut actions = Vec::new();
    put(&mut actions, 1, &action);

    let mut options = Vec::new();
    put(&mut options, TCA_BPF_ACT, &actions);
    put(&mut options, TCA_BPF_OPS_LEN, &1_u16.to_ne_bytes());
    put(&mut options, TCA_BPF_OPS, &take_all);
    let mut attributes = Vec::new();
    put(&mut attributes, TCA_KIND, b"bpf\0");
    put(&mut attributes, TCA_OPTIONS, &options);
    netlink
        .request(
            RTM_NEWTFILTER,
            NLM_F_ACK | NLM_F_CREATE,
            &filter_message(from, Hook::Ingress, &filter),
            &attributes,
        )
        .map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ifb_is_known_by_its_name() {
        assert_eq!(vif_of(&ifb_name(4_294_967_295)), Some(u32::MAX));
        assert!(ifb_name(u32::MAX).len() < libc::IFNAMSIZ);
        for other in ["xmi", "xmi07", "xmi1x", "eth0", "xmi-1"] {
            assert_eq!(vif_of(other), None);
        }
    }
}
