// SPDX-License-Identifier: GPL-3.0-only
//! Policy as tables for the vifs: what holds for packets whose process nobody saw.
//!
//! The datapath knows classes of addresses, protocols and ports. For each guest, direction, class and protocol this asks the
//! policy; ports are cut into the intervals between which no rule can tell a difference. What depends on a process is
//! denied: the process that may be allowed has a verdict of its own, written when it connected. Where a report of the flow's first
//! packets leads to its process, these are held meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netback_filter::{
    Action, Datapath, Direction, Peer, PeerMatch, Refuse, Rule, RuleSet, ScopeConfig, Tagged,
};
use policy::{Block, Endpoint, Flow, PortRange, Protocol, Side, Verdict};

use crate::classes::ClassNumbers;
use crate::daemon::DaemonError;
use crate::gate::{action, rule_number};
use crate::routes::{Facade, Member};
use crate::shapes;
use crate::world::{Ruling, Vm, World, lock};

/// Rules the vif tables may hold in one generation. A range of ports that some rule treats apart costs one for each port.
const MAX_RULES: usize = 100_000;
/// Protocols asked for by themselves, whatever the rules name: to policy their ports or their types are apart from all else.
const KNOWN: [Protocol; 5] = [
    Protocol::TCP,
    Protocol::UDP,
    Protocol::SCTP,
    Protocol::ICMP,
    Protocol::ICMPV6,
];

/// All that is published to the datapath for one World.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    rules: RuleSet,
    scopes: BTreeMap<u32, ScopeConfig>,
    /// What dom0 gave each guest: where its lock lets it send from.
    addresses: BTreeMap<u32, Vec<IpAddr>>,
    generation: u32,
}

/// A set of remote addresses that policy cannot tell apart.
struct Class {
    number: u32,
    block: Block,
    /// One address of it.
    example: IpAddr,
}

/// The protocols that policy can tell apart.
struct Protocols {
    /// Those that are asked for by themselves.
    apart: BTreeSet<Protocol>,
    /// One of the others, asked to learn of them all; none when there are no others.
    other: Option<Protocol>,
}

impl Protocols {
    fn of(world: &World) -> Protocols {
        let mut apart = world.rules.protocols();
        apart.extend(KNOWN);
        let other = (0..=u8::MAX).map(Protocol).find(|p| !apart.contains(p));
        Protocols { apart, other }
    }
}

/// Compiles the tables. `numbers`: those of the address classes.
///
/// # Errors
/// [`DaemonError::Invalid`] when they would be too large, with the remedy.
pub fn compile(world: &World, numbers: &mut ClassNumbers) -> Result<Tables, DaemonError> {
    let classes = classes(world, numbers);
    let protocols = Protocols::of(world);
    let mut rules = Vec::new();
    for vm in world.vms() {
        for direction in Direction::BOTH {
            for class in &classes {
                rules_of(world, vm, direction, class, &protocols, &mut rules)?;
            }
        }
    }
    let peers = classes
        .iter()
        .map(|class| Peer {
            address: class.block.address(),
            prefix_bits: class.block.length(),
            class: class.number,
        })
        .collect();
    let scopes = world
        .vms()
        .iter()
        .map(|vm| (vm.scope, scope(world, vm)))
        .collect();
    let addresses = world
        .vms()
        .iter()
        .map(|vm| (vm.scope, vm.configured.clone()))
        .collect();
    Ok(Tables {
        rules: RuleSet { peers, rules },
        scopes,
        addresses,
        generation: u32::try_from(world.rules.generation()).unwrap_or(u32::MAX),
    })
}

impl Tables {
    /// Puts the tables in force. `before`: what is in force, so that a scope that stays as it is is not set again (that
    /// would start its time of adoption anew).
    pub fn publish(&self, datapath: &mut Datapath, before: Option<&Tables>) -> Result<(), DaemonError> {
        // Before the locks that ask for them.
        for (scope, addresses) in &self.addresses {
            if before.and_then(|b| b.addresses.get(scope)) != Some(addresses) {
                datapath.set_addresses(*scope, addresses)?;
            }
        }
        for (scope, config) in &self.scopes {
            if before.and_then(|b| b.scopes.get(scope)) != Some(config) {
                datapath.set_scope(*scope, *config)?;
            }
        }
        datapath.publish(&self.rules, self.generation)?;
        Ok(())
    }
}

/// What holds for a guest beside the rules.
fn scope(world: &World, vm: &Vm) -> ScopeConfig {
    let config = match world.rules.default_of(&vm.id).map(|d| d.value) {
        Some(policy::Action::Deny { .. }) => ScopeConfig::closed(),
        _ => ScopeConfig::open(),
    };
    ScopeConfig {
        lock: lock(&world.rules, vm),
        tagged: match world.rules.tagged_of(&vm.id).map(|said| said.value) {
            None | Some(policy::Tagged::Judge) => Tagged::Judge,
            Some(policy::Tagged::Allow) => Tagged::Allow,
            Some(policy::Tagged::Deny) => Tagged::Deny,
        },
        other: match world.rules.other_of(&vm.id).map(|said| said.value) {
            None => config.other,
            Some(said) => said == policy::Other::Allow,
        },
        ..config
    }
}

/// Address classes: one for each guest with an address, one for each block that policy mentions, and all the rest of each family.
fn classes(world: &World, numbers: &mut ClassNumbers) -> Vec<Class> {
    let all: [Block; 2] = [
        Block::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        Block::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
    ];
    let guests: Vec<Vec<Block>> = world
        .vms()
        .iter()
        .map(|vm| {
            let mine = vm
                .addresses()
                .filter(|a| world.vm_at(*a).is_some_and(|o| o.scope == vm.scope));
            mine.map(Block::from).collect()
        })
        .collect();
    let taken: BTreeSet<Block> = guests.iter().flatten().copied().collect();
    let mut blocks: BTreeSet<Block> = world.rules.address_blocks();
    blocks.extend(all);
    blocks.extend(world.routes.iter().map(|facade| Block::from(facade.end.ip())));
    blocks.retain(|b| !taken.contains(b));
    let every: BTreeSet<Block> = blocks.union(&taken).copied().collect();

    let mut classes = Vec::new();
    // A guest whose addresses lie in different blocks is a class for each address: rules may tell them apart.
    let of_guests = guests.into_iter().flatten().map(|b| (b, b.address()));
    let of_blocks = blocks.iter().filter_map(|b| Some((*b, example(*b, &every)?)));
    for (block, example) in of_guests.chain(of_blocks) {
        classes.push(Class {
            number: numbers.of(block),
            block,
            example,
        });
    }
    classes
}

/// An address of `block` that lies in none of the smaller blocks inside it; none if they cover it all (or all that is tried).
fn example(block: Block, all: &BTreeSet<Block>) -> Option<IpAddr> {
    let inner: Vec<&Block> = all
        .iter()
        .filter(|b| b.length() > block.length() && block.contains(b.address()))
        .collect();
    let mut candidate = block.address();
    // Each step leaves one inner block behind, so there are at most as many steps as blocks.
    for _ in 0..=inner.len() {
        match inner
            .iter()
            .filter(|b| b.contains(candidate))
            .map(|b| b.last())
            .max()
        {
            None => return Some(candidate),
            Some(last) => candidate = next(last).filter(|a| block.contains(*a))?,
        }
    }
    None
}

fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(a) => a.to_bits().checked_add(1).map(|n| IpAddr::V4(n.into())),
        IpAddr::V6(a) => a.to_bits().checked_add(1).map(|n| IpAddr::V6(n.into())),
    }
}

/// The rules of one guest, direction and class.
fn rules_of(
    world: &World,
    vm: &Vm,
    direction: Direction,
    class: &Class,
    protocols: &Protocols,
    out: &mut Vec<Rule>,
) -> Result<(), DaemonError> {
    let ask = |protocol: Protocol, port: u16| {
        let own = vm.end(own_address(vm, class.example));
        let facade = world.routes.at(protocol, SocketAddr::new(class.example, port));
        if let (Some(facade), Direction::FromGuest) = (facade, direction) {
            return through(world, vm, facade, own);
        }
        let flow = match direction {
            Direction::FromGuest => Flow {
                protocol,
                source: own,
                destination: world.destination(protocol, class.example, port),
                port,
            },
            Direction::ToGuest => Flow {
                protocol,
                source: match world.vm_at(class.example) {
                    Some(peer) => peer.end(class.example),
                    None => Endpoint::world(class.example),
                },
                destination: vm.destination(protocol, own.address, port),
                port,
            },
        };
        let side = match direction {
            Direction::FromGuest => Side::Source,
            Direction::ToGuest => Side::Destination,
        };
        world.rule(&flow, side)
    };
    let rule = |protocol: Option<Protocol>, port: Option<u16>, ruling: &Ruling| Rule {
        id: rule_number(&ruling.decision).max(1),
        scope: vm.scope,
        direction,
        peer: PeerMatch::Class(class.number),
        protocol: protocol.map(|p| netback_filter::Protocol(p.0)),
        port,
        action: table_action(ruling),
        mark: shapes::mark(world, &ruling.decision, direction, class.example),
    };
    let other = protocols.other.map(|protocol| ask(protocol, 0));
    out.extend(other.as_ref().map(|decision| rule(None, None, decision)));
    let listening = match direction {
        Direction::FromGuest => world.vm_at(class.example),
        Direction::ToGuest => Some(vm),
    };
    for &protocol in &protocols.apart {
        let intervals: Vec<(PortRange, Ruling)> = if protocol.has_ports() {
            intervals(world, listening, class.example, protocol)
                .map(|range| (range, ask(protocol, range.first())))
                .collect()
        } else {
            Vec::new()
        };
        // Most ports have one and the same verdict; it becomes the protocol's, the others are exceptions.
        let base = intervals
            .iter()
            .max_by_key(|(range, _)| range.last() - range.first())
            .map_or_else(|| ask(protocol, 0), |(_, ruling)| *ruling);
        if !other.is_some_and(|other| same(&base, &other)) {
            out.push(rule(Some(protocol), None, &base));
        }
        for (range, ruling) in intervals.iter().filter(|(_, r)| !same(r, &base)) {
            for port in range.first()..=range.last() {
                out.push(rule(Some(protocol), Some(port), ruling));
            }
            if out.len() > MAX_RULES {
                return Err(too_many(format_args!(
                    "ports {range} of {protocol} and {}",
                    vm.id.name
                )));
            }
        }
    }
    if out.len() > MAX_RULES {
        return Err(too_many(format_args!("{}", vm.id.name)));
    }
    Ok(())
}

fn too_many(at: std::fmt::Arguments<'_>) -> DaemonError {
    DaemonError::Invalid(format!(
        "this needs more than {MAX_RULES} entries in the vif tables, at {at}; use fewer or narrower port ranges and fewer \
         protocols, or a default of deny with rules that allow"
    ))
}

/// A flow to a route goes to any of the backends that serve: it is denied if the flow to one of them is. Without one there is
/// nothing to deny; the datapath refuses it for want of a backend.
fn through(world: &World, vm: &Vm, facade: &Facade, source: Endpoint<'_>) -> Ruling {
    let mut found: Option<Ruling> = None;
    // As the table of the vifs chooses, which knows no canary.
    let serving = facade.members.iter().filter(|member| member.table.weight > 0);
    for end in serving.filter(|m| m.scope != Some(vm.scope)).map(Member::end) {
        let flow = Flow {
            protocol: facade.route.protocol,
            source,
            destination: world.destination(facade.route.protocol, end.ip(), end.port()),
            port: end.port(),
        };
        let ruling = world.rule(&flow, Side::Source);
        if ruling.decision.verdict == Verdict::Deny {
            return ruling;
        }
        found = Some(found.unwrap_or(ruling));
    }
    found.unwrap_or_else(|| {
        Ruling::from(policy::Decision {
            verdict: Verdict::Allow,
            ..world.unserved(&facade.route)
        })
    })
}

/// The guest's own address of the family of `peer`; policy may ask for it.
fn own_address(vm: &Vm, peer: IpAddr) -> IpAddr {
    vm.addresses()
        .find(|a| a.is_ipv4() == peer.is_ipv4())
        .unwrap_or(match peer {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        })
}

/// Ports 1 to 65535, cut wherever a rule or a listener may make a difference.
fn intervals(
    world: &World,
    listening: Option<&Vm>,
    peer: IpAddr,
    protocol: Protocol,
) -> impl Iterator<Item = PortRange> + use<> {
    let mut starts = BTreeSet::from([1u16]);
    let mut cut = |first: u16, last: u16| {
        starts.insert(first.max(1));
        starts.extend(last.checked_add(1));
    };
    for (of, range) in world.rules.ports() {
        if of.is_none_or(|of| of == protocol) {
            cut(range.first(), range.last());
        }
    }
    let of_routes = world.routes.iter().filter(|facade| facade.end.ip() == peer);
    for facade in of_routes.filter(|facade| facade.route.protocol == protocol) {
        cut(facade.end.port(), facade.end.port());
    }
    for (of, port) in listening.into_iter().flat_map(|vm| vm.listeners.ports()) {
        if of == protocol {
            cut(port, port);
        }
    }
    let starts: Vec<u16> = starts.into_iter().collect();
    let ends: Vec<u16> = starts.iter().skip(1).map(|s| s - 1).chain([u16::MAX]).collect();
    starts
        .into_iter()
        .zip(ends)
        .filter_map(|(first, last)| PortRange::new(first, last))
}

/// What a vif does where no more is known than this.
pub fn table_action(ruling: &Ruling) -> Action {
    match ruling.awaited {
        true => Action::Deny(Refuse::Hold),
        false => action(&ruling.decision),
    }
}

/// Whether two rulings come to the same at a vif, name of the rule, class and copies included.
fn same(a: &Ruling, b: &Ruling) -> bool {
    let (first, second) = (&a.decision, &b.decision);
    table_action(a) == table_action(b)
        && first.class == second.class
        && first.mirror == second.mirror
        && (first.verdict == Verdict::Allow || first.by == second.by)
}

#[cfg(test)]
mod tests;
