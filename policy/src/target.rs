// SPDX-License-Identifier: GPL-3.0-only
//! Where flows are sent, ready to be looked for among the guests there are.

use std::net::IpAddr;
use std::sync::Arc;

use crate::document::{Selector, Target, single_port};
use crate::flow::Endpoint;
use crate::matching::{Condition, Subject, Truth};
use crate::port::Protocol;

/// Who a flow may be sent to.
#[derive(Debug)]
pub enum Who {
    /// An address, be it a guest's or not.
    Address(IpAddr),
    /// Every guest that matches; addresses outside of this host that it names.
    Selector(Arc<Selector>),
}

/// Where a flow goes instead that a rule denies.
#[derive(Debug)]
pub struct Instead {
    /// Who is there.
    pub who: Who,
    /// What people call it: a service's name, or what is written.
    pub name: Box<str>,
}

impl Instead {
    pub(crate) fn new(target: &Target, service: impl Fn(&str) -> Option<Arc<Selector>>) -> Option<Instead> {
        let name = match target {
            Target::Address(address) => address.to_string(),
            Target::Inline(selector) => selector.to_string(),
            Target::Service(name) => name.clone(),
        };
        Some(Instead {
            who: Who::new(target, service)?,
            name: name.into(),
        })
    }
}

impl Who {
    /// `None`: there is no such service. A document's own services hold every name it uses.
    pub(crate) fn new(target: &Target, service: impl Fn(&str) -> Option<Arc<Selector>>) -> Option<Who> {
        Some(match target {
            Target::Address(address) => Who::Address(*address),
            Target::Inline(selector) => Who::Selector(Arc::new((**selector).clone())),
            Target::Service(name) => Who::Selector(service(name)?),
        })
    }

    /// The one port that it is known to listen on.
    pub fn port(&self) -> Option<u16> {
        match self {
            Who::Selector(selector) => single_port(selector),
            Who::Address(_) => None,
        }
    }

    /// Addresses that are it whether they are a guest's or not.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let (one, blocks) = match self {
            Who::Address(address) => (Some(*address), &[][..]),
            Who::Selector(selector) if !selector.asks_guest() => (None, selector.address.as_slice()),
            Who::Selector(_) => (None, &[][..]),
        };
        let hosts = blocks.iter().filter(|block| block.address() == block.last());
        one.into_iter().chain(hosts.map(|block| block.address()))
    }

    /// Whether it is known by its address alone. A guest is then no such end because it says that it has the address.
    pub fn is_by_address(&self) -> bool {
        match self {
            Who::Address(_) => true,
            Who::Selector(selector) => !selector.asks_guest(),
        }
    }

    /// Whether a guest at this address is it, whatever runs in it.
    pub fn selects(&self, guest: &Endpoint<'_>) -> bool {
        match self {
            Who::Address(address) => *address == guest.address,
            Who::Selector(selector) => {
                let subject = Subject::new(guest, None);
                let stands = [
                    Condition::Vm,
                    Condition::Label,
                    Condition::Xen,
                    Condition::Address,
                ];
                stands.into_iter().all(|c| {
                    selector
                        .check(c, &subject)
                        .is_none_or(|holds| holds == Truth::Yes)
                })
            }
        }
    }

    /// Whether what is known of who listens there, on this port, contradicts it. Allocates nothing.
    pub fn contradicts(&self, guest: &Endpoint<'_>, protocol: Protocol, port: u16) -> bool {
        match self {
            Who::Address(_) => false,
            Who::Selector(selector) => {
                selector.matches(&Subject::new(guest, Some((protocol, port)))) == Truth::No
            }
        }
    }
}
