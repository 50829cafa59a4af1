// SPDX-License-Identifier: GPL-3.0-only
//! Whether an end of a flow is what a selector asks for, condition by condition.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::document::{ContainerPattern, Role, Selector, Users, VmPattern, XenFacts};
use crate::flow::{Endpoint, Flow, Owner, Process, Side, VmId};
use crate::label::{GuestType, Label, value_of};
use crate::pattern::Pattern;
use crate::port::{PortRange, Protocol, UidRange};

/// One thing that a rule or a selector asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// The protocol.
    Protocol,
    /// The destination port.
    Port,
    /// The name or UUID of the guest.
    Vm,
    /// A label of the guest.
    Label,
    /// What Xen says of the guest.
    Xen,
    /// The address.
    Address,
    /// The path of the executable.
    Exe,
    /// An argument.
    Arg,
    /// The effective user id.
    Uid,
    /// The user's role.
    Role,
    /// The container.
    Container,
    /// An ancestor's executable.
    Parent,
    /// Not a guest of this host.
    World,
    /// No socket in the guest owns it.
    Unattributed,
    /// How surely it is known who the end is.
    Authentication,
    /// The time.
    Time,
}

impl Condition {
    /// The conditions of a selector, the cheap ones first.
    pub(crate) const OF_SELECTOR: [Condition; 12] = [
        Condition::Protocol,
        Condition::Port,
        Condition::Vm,
        Condition::Label,
        Condition::Xen,
        Condition::Address,
        Condition::Uid,
        Condition::Role,
        Condition::Exe,
        Condition::Container,
        Condition::Parent,
        Condition::Arg,
    ];

    /// The word that names the condition in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Condition::Protocol => "protocol",
            Condition::Port => "port",
            Condition::Vm => "vm",
            Condition::Label => "label",
            Condition::Xen => "xen",
            Condition::Address => "address",
            Condition::Exe => "exe",
            Condition::Arg => "arg",
            Condition::Uid => "uid",
            Condition::Role => "role",
            Condition::Container => "container",
            Condition::Parent => "parent",
            Condition::World => "world",
            Condition::Unattributed => "unattributed",
            Condition::Authentication => "authentication",
            Condition::Time => "time",
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether something holds. `Maybe`: it depends on a process that is not known.
///
/// Ordered so that the minimum is "and" and the maximum "or".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Truth {
    No,
    Maybe,
    Yes,
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Self {
        if holds { Truth::Yes } else { Truth::No }
    }
}

/// One end of a flow, seen as a rule sees it.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub vm: Option<&'a VmId>,
    pub owner: Owner<'a>,
    /// In canonical form.
    pub address: IpAddr,
    /// What it listens on; `None` for the source, of which ports are not asked.
    pub listens: Option<(Protocol, u16)>,
    /// The address is proven to be the guest's.
    pub proven: bool,
    /// Of the guest, by key.
    pub labels: &'a [Label],
}

impl<'a> Subject<'a> {
    pub fn new(endpoint: &Endpoint<'a>, listens: Option<(Protocol, u16)>) -> Self {
        Subject {
            vm: endpoint.vm,
            // Only a guest has processes that anyone here could know.
            owner: match endpoint.vm {
                Some(_) => endpoint.owner,
                None => Owner::Unknown,
            },
            // A dual-stack socket shows IPv4 peers as ::ffff:a.b.c.d; a block of IPv4 must hold for them too.
            address: endpoint.address.to_canonical(),
            listens,
            proven: endpoint.proven && endpoint.vm.is_some(),
            labels: endpoint.vm.map_or(&[], |vm| vm.facts.labels()),
        }
    }

    /// `after`: the flow is decided by the policy as it will be.
    pub fn of(flow: &Flow<'a>, side: Side, after: bool) -> Self {
        let subject = match side {
            Side::Source => Subject::new(&flow.source, None),
            Side::Destination => Subject::new(&flow.destination, Some((flow.protocol, flow.port))),
        };
        Subject {
            labels: subject.vm.map_or(&[], |vm| vm.facts.labels_in(after)),
            ..subject
        }
    }

    /// What holds of the process: `Maybe` where none is known but one could be.
    pub(crate) fn process(&self, holds: impl FnOnce(&Process<'a>) -> bool) -> Truth {
        match (&self.owner, self.vm) {
            (Owner::Process(process), Some(_)) => holds(process).into(),
            (Owner::Unknown, Some(_)) => Truth::Maybe,
            (Owner::Unattributed, _) | (_, None) => Truth::No,
        }
    }
}

/// Whether a port is within the ranges; nothing is, where the protocol has no ports.
pub(crate) fn port_in(ranges: &[PortRange], protocol: Protocol, port: u16) -> bool {
    protocol.has_ports() && ranges.iter().any(|range| range.contains(port))
}

impl VmPattern {
    pub(crate) fn matches(&self, vm: &VmId) -> bool {
        match self {
            VmPattern::Name(pattern) => pattern.matches(&vm.name),
            VmPattern::Uuid(uuid, _) => *uuid == vm.uuid,
        }
    }
}

impl Selector {
    /// Whether one condition holds; `None` where the selector does not ask it.
    pub(crate) fn check(&self, condition: Condition, subject: &Subject<'_>) -> Option<Truth> {
        match condition {
            Condition::Protocol => {
                let (wanted, (protocol, _)) = (self.protocol?, subject.listens?);
                Some((wanted == protocol).into())
            }
            Condition::Port => {
                let (protocol, port) = subject.listens?;
                asked(&self.port).map(|ranges| port_in(ranges, protocol, port).into())
            }
            Condition::Vm => asked(&self.vm).map(|patterns| {
                let named = |vm| patterns.iter().any(|p| p.matches(vm));
                subject.vm.is_some_and(named).into()
            }),
            Condition::Label => (!self.label.is_empty())
                .then(|| (subject.vm.is_some() && self.is_labelled(subject.labels)).into()),
            Condition::Xen => {
                (!self.xen.is_empty()).then(|| subject.vm.is_some_and(|vm| self.xen.matches(vm)).into())
            }
            Condition::Address => {
                asked(&self.address).map(|blocks| blocks.iter().any(|b| b.contains(subject.address)).into())
            }
            Condition::Uid => {
                asked(&self.uid).map(|ranges| subject.process(|p| ranges.iter().any(|r| r.contains(p.uid))))
            }
            Condition::Exe => asked(&self.exe).map(|patterns| {
                subject.process(|p| {
                    p.exe
                        .is_some_and(|exe| patterns.iter().any(|pattern| pattern.matches(exe)))
                })
            }),
            Condition::Container => asked(&self.container).map(|patterns| {
                subject.process(|p| patterns.iter().any(|pattern| pattern.matches(p.container)))
            }),
            Condition::Arg => asked(&self.arg).map(|patterns| {
                subject.process(|p| {
                    p.args
                        .iter()
                        .any(|arg| patterns.iter().any(|pattern| pattern.matches(arg)))
                })
            }),
            Condition::Role => asked(&self.role).map(|roles| of_roles(roles, subject)),
            Condition::Parent => asked(&self.parent).map(|patterns| {
                subject.process(|p| {
                    p.parents
                        .iter()
                        .any(|parent| patterns.iter().any(|pattern| pattern.matches(parent)))
                })
            }),
            Condition::World | Condition::Unattributed | Condition::Authentication | Condition::Time => None,
        }
    }

    /// Whether these labels of a guest, by key, are all that it asks.
    fn is_labelled(&self, labels: &[Label]) -> bool {
        self.label
            .iter()
            .all(|(key, values)| label_is(labels, key, values))
    }

    /// Whether a guest is one that it asks for, whatever runs in it and whatever its address.
    pub fn is_guest(&self, vm: &VmId) -> bool {
        self.is_but_for_labels(vm) && self.is_labelled(vm.facts.labels())
    }

    /// The same, where some flow with the guest may be decided by other labels: while a change is rolled out.
    pub(crate) fn may_be_guest(&self, vm: &VmId) -> bool {
        self.is_but_for_labels(vm) && vm.facts.all_labels().any(|labels| self.is_labelled(labels))
    }

    fn is_but_for_labels(&self, vm: &VmId) -> bool {
        (self.vm.is_empty() || self.vm.iter().any(|p| p.matches(vm))) && self.xen.matches(vm)
    }

    /// Whether all conditions hold.
    pub(crate) fn matches(&self, subject: &Subject<'_>) -> Truth {
        let mut all = Truth::Yes;
        for condition in Condition::OF_SELECTOR {
            match self.check(condition, subject) {
                Some(Truth::No) => return Truth::No,
                Some(Truth::Maybe) => all = Truth::Maybe,
                Some(Truth::Yes) | None => {}
            }
        }
        all
    }
}

impl XenFacts {
    fn matches(&self, vm: &VmId) -> bool {
        self.type_holds(vm) && self.pool_holds(vm)
    }

    pub(crate) fn type_holds(&self, vm: &VmId) -> bool {
        let is = |of: GuestType| self.guest_type.contains(&of);
        self.guest_type.is_empty() || vm.facts.guest_type.is_some_and(is)
    }

    pub(crate) fn pool_holds(&self, vm: &VmId) -> bool {
        let is = |name: &str| self.pool.iter().any(|pattern| pattern.matches(name));
        self.pool.is_empty() || vm.facts.pool.as_deref().is_some_and(is)
    }
}

/// Whether a label has one of these values.
pub(crate) fn label_is(labels: &[Label], key: &str, values: &[Pattern]) -> bool {
    value_of(labels, key).is_some_and(|value| values.iter().any(|pattern| pattern.matches(value)))
}

impl ContainerPattern {
    fn matches(&self, container: Option<&str>) -> bool {
        match (self, container) {
            (ContainerPattern::Outside, container) => container.is_none(),
            (ContainerPattern::Id(pattern), Some(id)) => pattern.matches(id),
            (ContainerPattern::Id(_), None) => false,
        }
    }
}

impl Users {
    fn matches(&self, subject: &Subject<'_>) -> Truth {
        let within =
            |ranges: &[UidRange], id: u32| ranges.is_empty() || ranges.iter().any(|r| r.contains(id));
        let here = |vm| self.vm.is_empty() || self.vm.iter().any(|p| p.matches(vm));
        if !subject.vm.is_some_and(here) {
            return Truth::No;
        }
        subject.process(|p| {
            within(&self.uid, p.uid)
                && (within(&self.gid, p.gid) || p.groups.iter().any(|group| within(&self.gid, *group)))
                && (self.loginuid.is_empty() || p.loginuid.is_some_and(|id| within(&self.loginuid, id)))
        })
    }
}

/// Whether the end's user has one of the roles.
pub(crate) fn of_roles(roles: &[Role], subject: &Subject<'_>) -> Truth {
    let users = roles.iter().flat_map(|role| role.users.iter());
    let mut best = Truth::No;
    for users in users {
        best = best.max(users.matches(subject));
        if best == Truth::Yes {
            break;
        }
    }
    best
}

fn asked<T>(values: &[T]) -> Option<&[T]> {
    (!values.is_empty()).then_some(values)
}
