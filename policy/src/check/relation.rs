// SPDX-License-Identifier: GPL-3.0-only
//! What the flows of two rules have in common, as far as it can be told from what is written.

use crate::block::Block;
use crate::document::{ContainerPattern, Role, Selector, Users, VmPattern};
use crate::pattern::Pattern;
use crate::port::{PortRange, Protocol, Range};
use crate::ruleset::{CompiledRule, End};

/// The protocol and ports of a rule at one of who it is to: what both say. `None`: any.
pub(super) struct Service {
    pub protocol: Option<Protocol>,
    pub ports: Option<Vec<PortRange>>,
}

impl Service {
    /// `None` where there is no such flow.
    pub(super) fn of(rule: &CompiledRule, to: &End) -> Option<Service> {
        let selector = selector(to);
        let protocol = match (rule.protocol, selector.and_then(|s| s.protocol)) {
            (Some(a), Some(b)) if a != b => return None,
            (a, b) => a.or(b),
        };
        let asked = selector.map_or(&[][..], |s| s.port.as_slice());
        let ports = match (&*rule.ports, asked) {
            ([], []) => None,
            (ports, []) | ([], ports) => Some(ports.to_vec()),
            (a, b) => Some(common(a, b)),
        };
        let none = ports.as_ref().is_some_and(Vec::is_empty)
            || (ports.is_some() && protocol.is_some_and(|p| !p.has_ports()));
        (!none).then_some(Service { protocol, ports })
    }

    fn covers(&self, other: &Service) -> bool {
        let protocol = self.protocol.is_none() || self.protocol == other.protocol;
        let ports = match (&self.ports, &other.ports) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(mine), Some(theirs)) => all(theirs, |b| mine.iter().any(|a| holds(a, b))),
        };
        protocol && ports
    }

    fn overlaps(&self, other: &Service) -> bool {
        let protocol = match (self.protocol, other.protocol) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        // Ports are of protocols that have them.
        let ported = |service: &Service, other: &Service| {
            service.ports.is_none() || other.protocol.is_none_or(Protocol::has_ports)
        };
        let ports = match (&self.ports, &other.ports) {
            (Some(a), Some(b)) => !common(a, b).is_empty(),
            _ => true,
        };
        protocol && ports && ported(self, other) && ported(other, self)
    }
}

pub(super) fn selector(end: &End) -> Option<&Selector> {
    match end {
        End::Selector { selector, .. } => Some(selector),
        End::Any | End::World | End::Unattributed => None,
    }
}

/// Whether every source of `b` is one of `a`.
pub(super) fn sources_cover(a: &CompiledRule, b: &CompiledRule) -> bool {
    all(&b.from, |b| a.from.iter().any(|a| end_covers(a, b)))
}

/// Whether every destination of `b` is one of `a`, whatever the ports.
pub(super) fn destinations_cover(a: &CompiledRule, b: &CompiledRule) -> bool {
    all(&b.to, |b| a.to.iter().any(|a| end_covers(a, b)))
}

/// Whether every destination of `b` with its protocols and ports is one of `a`.
pub(super) fn services_cover(a: &CompiledRule, b: &CompiledRule) -> bool {
    let covered = |to: &End| {
        let Some(service) = Service::of(b, to) else {
            // No flow is of that.
            return true;
        };
        let by = |of: &End| end_covers(of, to) && Service::of(a, of).is_some_and(|s| s.covers(&service));
        a.to.iter().any(by)
    };
    b.to.iter().all(covered)
}

/// Whether `a` requires nothing that `b` does not.
pub(super) fn requires_no_more(a: &CompiledRule, b: &CompiledRule) -> bool {
    let Some(a) = &a.require else { return true };
    let Some(b) = &b.require else { return false };
    let (less, more) = (&a.authentication, &b.authentication);
    less.from <= more.from
        && less.to <= more.to
        && (a.role.is_empty() || (!b.role.is_empty() && all(&b.role, |role| a.role.contains(role))))
        && (a.time.is_empty() || a.time == b.time)
}

/// Whether some flow is surely of both, but for what they require.
pub(super) fn overlap(a: &CompiledRule, b: &CompiledRule) -> bool {
    let meet = |x: &End, y: &End| match (Service::of(a, x), Service::of(b, y)) {
        (Some(mine), Some(theirs)) => mine.overlaps(&theirs) && ends_meet(x, y),
        _ => false,
    };
    a.from.iter().any(|x| b.from.iter().any(|y| ends_meet(x, y)))
        && a.to.iter().any(|x| b.to.iter().any(|y| meet(x, y)))
}

fn end_covers(a: &End, b: &End) -> bool {
    match (a, b) {
        (End::Any, _) | (End::World, End::World) | (End::Unattributed, End::Unattributed) => true,
        (End::Selector { selector: a, .. }, End::Selector { selector: b, .. }) => selector_covers(a, b),
        _ => false,
    }
}

/// Protocols and ports are left out: see [`Service`].
fn selector_covers(a: &Selector, b: &Selector) -> bool {
    list_covers(&a.vm, &b.vm, vm_covers)
        && a.label.iter().all(|(key, values)| {
            b.label
                .get(key)
                .is_some_and(|others| list_covers(values, others, Pattern::covers))
        })
        && list_covers(&a.xen.guest_type, &b.xen.guest_type, PartialEq::eq)
        && list_covers(&a.xen.pool, &b.xen.pool, Pattern::covers)
        && list_covers(&a.address, &b.address, block_covers)
        && list_covers(&a.uid, &b.uid, holds)
        && list_covers(&a.role, &b.role, |a: &Role, b| a.users == b.users)
        && list_covers(&a.exe, &b.exe, Pattern::covers)
        && list_covers(&a.arg, &b.arg, Pattern::covers)
        && list_covers(&a.parent, &b.parent, Pattern::covers)
        && list_covers(&a.container, &b.container, |a, b| match (a, b) {
            (ContainerPattern::Outside, ContainerPattern::Outside) => true,
            (ContainerPattern::Id(a), ContainerPattern::Id(b)) => a.covers(b),
            _ => false,
        })
}

fn ends_meet(a: &End, b: &End) -> bool {
    match (a, b) {
        (End::World, End::Unattributed) | (End::Unattributed, End::World) => false,
        (End::World, End::Selector { selector, .. }) | (End::Selector { selector, .. }, End::World) => {
            !selector.asks_guest() && !selector.asks_process()
        }
        (End::Unattributed, End::Selector { selector, .. })
        | (End::Selector { selector, .. }, End::Unattributed) => !selector.asks_process(),
        (End::Selector { selector: a, .. }, End::Selector { selector: b, .. }) => selectors_meet(a, b),
        _ => true,
    }
}

/// An argument or ancestor that matches one pattern may be another than the one that matches the other.
fn selectors_meet(a: &Selector, b: &Selector) -> bool {
    lists_meet(&a.vm, &b.vm, vms_meet)
        && a.label.iter().all(|(key, values)| {
            b.label
                .get(key)
                .is_none_or(|others| lists_meet(values, others, Pattern::overlaps))
        })
        && lists_meet(&a.xen.guest_type, &b.xen.guest_type, PartialEq::eq)
        && lists_meet(&a.xen.pool, &b.xen.pool, Pattern::overlaps)
        && lists_meet(&a.address, &b.address, |a, b| {
            block_covers(a, b) || block_covers(b, a)
        })
        && lists_meet(&a.uid, &b.uid, ranges_meet)
        && lists_meet(&a.role, &b.role, |a, b| a.users == b.users)
        && lists_meet(&a.exe, &b.exe, Pattern::overlaps)
        && lists_meet(&a.container, &b.container, |a, b| match (a, b) {
            (ContainerPattern::Outside, ContainerPattern::Outside) => true,
            (ContainerPattern::Id(a), ContainerPattern::Id(b)) => a.overlaps(b),
            _ => false,
        })
        && has_users(&a.role, b)
        && has_users(&b.role, a)
}

/// Whether somebody who has one of the roles may match the selector.
pub(super) fn has_users(roles: &[Role], selector: &Selector) -> bool {
    let fits = |users: &Users| {
        lists_meet(&users.vm, &selector.vm, |a, b| vms_meet(a, b) || !same_kind(a, b))
            && lists_meet(&users.uid, &selector.uid, ranges_meet)
    };
    roles.is_empty() || roles.iter().flat_map(|role| role.users.iter()).any(fits)
}

/// A name and a UUID may be of one guest or not.
fn same_kind(a: &VmPattern, b: &VmPattern) -> bool {
    matches!(
        (a, b),
        (VmPattern::Name(_), VmPattern::Name(_)) | (VmPattern::Uuid(..), VmPattern::Uuid(..))
    )
}

fn vms_meet(a: &VmPattern, b: &VmPattern) -> bool {
    match (a, b) {
        (VmPattern::Name(a), VmPattern::Name(b)) => a.overlaps(b),
        (VmPattern::Uuid(a, _), VmPattern::Uuid(b, _)) => a == b,
        _ => false,
    }
}

fn vm_covers(a: &VmPattern, b: &VmPattern) -> bool {
    match (a, b) {
        (VmPattern::Name(a), VmPattern::Name(b)) => a.covers(b),
        (VmPattern::Uuid(a, _), VmPattern::Uuid(b, _)) => a == b,
        // No name of a guest has a slash.
        (VmPattern::Name(a), VmPattern::Uuid(..)) => matches!(a.as_str(), "*" | "**"),
        (VmPattern::Uuid(..), VmPattern::Name(_)) => false,
    }
}

fn block_covers(a: &Block, b: &Block) -> bool {
    a.length() <= b.length() && a.contains(b.address())
}

fn holds<T: Copy + Ord>(a: &Range<T>, b: &Range<T>) -> bool {
    a.first() <= b.first() && b.last() <= a.last()
}

fn ranges_meet<T: Copy + Ord>(a: &Range<T>, b: &Range<T>) -> bool {
    a.first() <= b.last() && b.first() <= a.last()
}

fn common(a: &[PortRange], b: &[PortRange]) -> Vec<PortRange> {
    let pairs = a.iter().flat_map(|x| b.iter().map(move |y| (x, y)));
    pairs
        .filter_map(|(x, y)| Range::new(x.first().max(y.first()), x.last().min(y.last())))
        .collect()
}

/// An empty list asks nothing.
fn list_covers<T>(a: &[T], b: &[T], covers: impl Fn(&T, &T) -> bool) -> bool {
    a.is_empty() || (!b.is_empty() && all(b, |b| a.iter().any(|a| covers(a, b))))
}

fn lists_meet<T>(a: &[T], b: &[T], meet: impl Fn(&T, &T) -> bool) -> bool {
    a.is_empty() || b.is_empty() || a.iter().any(|a| b.iter().any(|b| meet(a, b)))
}

fn all<T>(list: &[T], holds: impl Fn(&T) -> bool) -> bool {
    list.iter().all(holds)
}
