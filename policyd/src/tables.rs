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
    Action, Datapath, Direction, Lock, Peer, PeerMatch, Refuse, Rule, RuleSet, ScopeConfig, Tagged,
};
use policy::{Block, Endpoint, Flow, PortRange, Protocol, Side, Verdict};

use crate::daemon::DaemonError;
use crate::gate::{action, rule_number};
use crate::routes::{Facade, Member};
use crate::shapes;
use crate::world::{Ruling, Vm, World};

/// Rules the vif tables may hold in one generation. A range of ports that some rule treats apart costs one for each port.
const MAX_RULES: usize = 100_000;
/// An IP protocol that no rule names (RFC 3692: for experiments), asked to learn of "any other".
const OTHER: Protocol = Protocol(253);
/// Protocols asked for by themselves.
const APART: [Protocol; 5] = [
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
    blocks: Vec<Block>,
    /// One address of it.
    example: IpAddr,
}

/// Compiles the tables.
///
/// # Errors
/// [`DaemonError::Invalid`] when they would be too large, with the remedy.
pub fn compile(world: &World) -> Result<Tables, DaemonError> {
    let classes = classes(world);
    let mut rules = Vec::new();
    for vm in world.vms() {
        for direction in Direction::BOTH {
            for class in &classes {
                rules_of(world, vm, direction, class, &mut rules)?;
            }
        }
    }
    let peers = classes
        .iter()
        .flat_map(|class| {
            class.blocks.iter().map(|block| Peer {
                address: block.address(),
                prefix_bits: block.length(),
                class: class.number,
            })
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
        lock: lock(world, vm),
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

/// A guest that dom0 gave no address is held to its MAC: it could send nothing else.
fn lock(world: &World, vm: &Vm) -> Lock {
    match world.rules.lock_of(&vm.id).map(|said| said.value) {
        None | Some(policy::Lock::Off) => Lock::Off,
        Some(policy::Lock::Address) if !vm.configured.is_empty() => Lock::Address,
        Some(policy::Lock::Mac | policy::Lock::Address) => Lock::Mac,
    }
}

/// Address classes: one for each guest with an address, one for each block that policy mentions, and all the rest of each family.
fn classes(world: &World) -> Vec<Class> {
    let all: [Block; 2] = [
        Block::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        Block::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
    ];
    let guests: Vec<Vec<Block>> = world
        .vms()
        .iter()
        .map(|vm| {
            let mine = vm
                .addresses
                .iter()
                .filter(|a| world.vm_at(**a).is_some_and(|o| o.scope == vm.scope));
            mine.map(|a| Block::from(*a)).collect()
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
    let of_guests = guests.into_iter().flatten().map(|b| (vec![b], b.address()));
    let of_blocks = blocks
        .iter()
        .filter_map(|b| Some((vec![*b], example(*b, &every)?)));
    for ((blocks, example), number) in of_guests.chain(of_blocks).zip(1u32..) {
        classes.push(Class {
            number,
            blocks,
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
    out: &mut Vec<Rule>,
) -> Result<(), DaemonError> {
    let ask = |protocol: Protocol, port: u16| {
        let own = Endpoint::guest(&vm.id, own_address(vm, class.example));
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
                    Some(peer) => Endpoint::guest(&peer.id, class.example),
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
    let other = ask(OTHER, 0);
    out.push(rule(None, None, &other));
    let listening = match direction {
        Direction::FromGuest => world.vm_at(class.example),
        Direction::ToGuest => Some(vm),
    };
    for protocol in APART {
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
        if !same(&base, &other) {
            out.push(rule(Some(protocol), None, &base));
        }
        for (range, ruling) in intervals.iter().filter(|(_, r)| !same(r, &base)) {
            for port in range.first()..=range.last() {
                out.push(rule(Some(protocol), Some(port), ruling));
            }
            if out.len() > MAX_RULES {
                return Err(DaemonError::Invalid(format!(
                    "this needs more than {MAX_RULES} entries in the vif tables, at ports {range} of {protocol} and {}; \
                     use fewer or narrower port ranges, or a default of deny with rules that allow",
                    vm.id.name
                )));
            }
        }
    }
    Ok(())
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
    vm.addresses
        .iter()
        .find(|a| a.is_ipv4() == peer.is_ipv4())
        .copied()
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
fn table_action(ruling: &Ruling) -> Action {
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
mod tests {
    use std::sync::Arc;

    use netback_filter::Protocol as Proto;
    use policy::{Document, Ruleset, VmId};

    use super::*;

    fn vm(name: &str, scope: u32, address: &str) -> Vm {
        let id = VmId {
            name: name.into(),
            uuid: [scope as u8; 16],
        };
        Vm {
            addresses: vec![address.parse().expect("an address")],
            trapped: true,
            ..Vm::new(id, scope)
        }
    }

    fn tables(text: &str) -> Result<Tables, DaemonError> {
        let document = Document::parse("test.yaml", text).expect("a sound document");
        let rules = Arc::new(Ruleset::compile(&[document], 7).expect("compiles"));
        let tables = compile(&World::new(
            rules,
            vec![vm("web1", 1, "10.0.0.11"), vm("db1", 2, "10.0.0.12")],
        ))?;
        tables.rules.check().expect("the datapath takes them");
        Ok(tables)
    }

    /// What the datapath would do, by its own order of precision.
    fn ask(
        t: &Tables,
        scope: u32,
        direction: Direction,
        remote: &str,
        protocol: Protocol,
        port: u16,
    ) -> Action {
        let remote: IpAddr = remote.parse().expect("an address");
        let class = t
            .rules
            .peers
            .iter()
            .filter(|p| Block::new(p.address, p.prefix_bits).contains(remote))
            .max_by_key(|p| p.prefix_bits)
            .expect("every address has a class")
            .class;
        let find = |protocol: Option<Proto>, port: Option<u16>| {
            t.rules.rules.iter().find(|r| {
                r.scope == scope
                    && r.direction == direction
                    && r.peer == PeerMatch::Class(class)
                    && r.protocol == protocol
                    && r.port == port
            })
        };
        let protocol = Some(Proto(protocol.0));
        find(protocol, Some(port))
            .or_else(|| find(protocol, None))
            .or_else(|| find(None, None))
            .expect("every class has a rule")
            .action
    }

    const BY_PROCESS: &str = "policy: a\ndefault: { db1: deny }\nservices:\n  c: { vm: web1, exe: /bin/c }\n  d: { vm: db1, port: 80, protocol: tcp }\nrules:\n  - { name: r, from: c, to: d, action: allow }\n";

    #[test]
    fn an_unknown_process_is_let_through_by_no_rule_for_a_process() {
        let t = tables(BY_PROCESS).expect("fits");
        for (scope, direction, remote) in [
            (1, Direction::FromGuest, "10.0.0.12"),
            (2, Direction::ToGuest, "10.0.0.11"),
        ] {
            assert_eq!(
                ask(&t, scope, direction, remote, Protocol::TCP, 80),
                Action::Deny(Refuse::Reset)
            );
        }
        // What the rules do not touch passes by default.
        assert_eq!(
            ask(&t, 1, Direction::FromGuest, "192.0.2.1", Protocol::TCP, 80),
            Action::Allow
        );
        assert!(matches!(
            ask(&t, 2, Direction::ToGuest, "192.0.2.1", Protocol::TCP, 80),
            Action::Deny(_)
        ));
    }

    #[test]
    fn a_guest_without_addresses_of_dom0_is_held_to_its_mac() {
        let document = Document::parse("t", "policy: a\nlock: { web1: address, db1: mac }\n").expect("sound");
        let rules = Arc::new(Ruleset::compile(&[document], 7).expect("compiles"));
        let given = Vm {
            configured: vec!["10.0.0.11".parse().expect("an address")],
            ..vm("web1", 1, "10.0.0.11")
        };
        let guests = vec![
            given,
            vm("web1", 2, "10.0.0.12"),
            vm("db1", 3, "10.0.0.13"),
            vm("x", 4, "10.0.0.14"),
        ];
        let t = compile(&World::new(rules, guests)).expect("fits");
        let locks: Vec<Lock> = t.scopes.values().map(|config| config.lock).collect();
        assert_eq!(locks, [Lock::Address, Lock::Mac, Lock::Mac, Lock::Off]);
        assert_eq!(t.addresses[&1].len(), 1);
    }

    #[test]
    fn copies_are_made_where_a_flow_begins_for_a_guest_that_is_here() {
        let text = "policy: a\nrules:\n  - { name: r, from: any, to: any, protocol: tcp, ports: 80, action: allow, mirror: { to: \"ids*\", share: 5% } }\n";
        let mirrors = |guests: Vec<Vm>| {
            let document = Document::parse("t", text).expect("sound");
            let rules = Arc::new(Ruleset::compile(&[document], 7).expect("compiles"));
            let t = compile(&World::new(rules, guests)).expect("fits");
            move |scope, direction, remote: &str| {
                let remote: IpAddr = remote.parse().expect("an address");
                let peers = t.rules.peers.iter();
                let class = peers
                    .filter(|p| Block::new(p.address, p.prefix_bits).contains(remote))
                    .max_by_key(|p| p.prefix_bits)?
                    .class;
                let mut all = t.rules.rules.iter();
                let rule = all.find(|r| {
                    (r.scope, r.direction, r.port) == (scope, direction, Some(80))
                        && r.peer == PeerMatch::Class(class)
                });
                let mirror = rule?.mark.mirror?;
                Some((mirror.scope(), mirror.share().hundredths()))
            }
        };
        let (web, db, ids) = (
            vm("web1", 1, "10.0.0.11"),
            vm("db1", 2, "10.0.0.12"),
            vm("ids1", 3, "10.0.0.13"),
        );
        let with = mirrors(vec![web.clone(), db.clone(), ids]);
        let copies = Some((3, 500));
        assert_eq!(with(1, Direction::FromGuest, "10.0.0.12"), copies);
        assert_eq!(
            with(2, Direction::ToGuest, "10.0.0.11"),
            None,
            "they are made there"
        );
        assert_eq!(with(1, Direction::FromGuest, "192.0.2.1"), copies);
        assert_eq!(with(2, Direction::ToGuest, "192.0.2.1"), copies);
        assert_eq!(
            with(1, Direction::FromGuest, "10.0.0.13"),
            None,
            "it gets them anyhow"
        );
        let without = mirrors(vec![web, db]);
        assert_eq!(
            without(1, Direction::FromGuest, "192.0.2.1"),
            None,
            "nobody is there"
        );
    }

    #[test]
    fn what_is_said_of_frames_holds_and_of_the_rest_the_default_does() {
        let text = "policy: a\ndefault: { web1: deny, x: deny }\nframes: { web1: { tagged: deny, other: allow }, db1: { tagged: allow, other: deny } }\n";
        let document = Document::parse("t", text).expect("sound");
        let rules = Arc::new(Ruleset::compile(&[document], 7).expect("compiles"));
        let names = ["web1", "db1", "x", "y"];
        let guests = names
            .iter()
            .zip(1u32..)
            .map(|(name, n)| vm(name, n, &format!("10.0.0.{n}")));
        let t = compile(&World::new(rules, guests.collect())).expect("fits");
        let frames: Vec<_> = t
            .scopes
            .values()
            .map(|c| (c.tagged, c.other, c.foreign))
            .collect();
        assert_eq!(
            frames,
            [
                (Tagged::Deny, true, false),
                (Tagged::Allow, false, true),
                (Tagged::Judge, false, false),
                (Tagged::Judge, true, true),
            ]
        );
    }

    #[test]
    fn what_waits_for_its_process_to_be_looked_up_is_held() {
        let document = Document::parse("test.yaml", BY_PROCESS).expect("a sound document");
        let rules = Arc::new(Ruleset::compile(&[document], 7).expect("compiles"));
        let to_db = |port, opaque| {
            let read = Vm {
                trapped: false,
                opaque,
                ..vm("web1", 1, "10.0.0.11")
            };
            let world = World::new(Arc::clone(&rules), vec![read, vm("db1", 2, "10.0.0.12")]);
            let t = compile(&world).expect("fits");
            ask(&t, 1, Direction::FromGuest, "10.0.0.12", Protocol::TCP, port)
        };
        assert_eq!(to_db(80, false), Action::Deny(Refuse::Hold));
        assert_eq!(to_db(81, false), Action::Deny(Refuse::Reset), "no process may");
        assert_eq!(to_db(80, true), Action::Deny(Refuse::Reset), "nothing will tell");
    }

    #[test]
    fn what_no_trap_shows_is_held_where_it_comes_from_and_where_it_goes_to() {
        let text = "policy: a\ndefault: { db1: deny }\nservices:\n  c: { vm: web1, exe: /bin/c }\n  s: { vm: db1, exe: /bin/s }\nrules:\n  - { name: r, from: c, to: s, ports: 53, action: allow }\n  - { name: w, from: { address: 192.0.2.0/24 }, to: s, ports: 53, action: allow }\n";
        let document = Document::parse("test.yaml", text).expect("a sound document");
        let rules = Arc::new(Ruleset::compile(&[document], 7).expect("compiles"));
        let actions = |trapped| {
            let guest = |name: &str, scope: u32, address: &str| Vm {
                trapped,
                ..vm(name, scope, address)
            };
            let guests = vec![guest("web1", 1, "10.0.0.11"), guest("db1", 2, "10.0.0.12")];
            let t = compile(&World::new(Arc::clone(&rules), guests)).expect("fits");
            [Protocol::TCP, Protocol::UDP, Protocol::SCTP].map(|protocol| {
                let sent = ask(&t, 1, Direction::FromGuest, "10.0.0.12", protocol, 53);
                let taken = ask(&t, 2, Direction::ToGuest, "192.0.2.1", protocol, 53);
                [sent, taken].map(|action| action == Action::Deny(Refuse::Hold))
            })
        };
        // Of a guest with traps, only what a socket sends that is not connected.
        assert_eq!(actions(true), [[false, false], [true, false], [false, false]]);
        assert_eq!(actions(false), [[true, true], [true, true], [false, false]]);
    }

    #[test]
    fn an_unknown_process_is_stopped_by_a_deny_that_might_be_for_it() {
        let text = "policy: a\nservices:\n  c: { vm: web1, exe: /bin/c }\nrules:\n  - { name: r, from: c, to: any, protocol: tcp, ports: 22, action: deny }\n";
        let t = tables(text).expect("fits");
        assert!(matches!(
            ask(&t, 1, Direction::FromGuest, "192.0.2.1", Protocol::TCP, 22),
            Action::Deny(_)
        ));
        assert_eq!(
            ask(&t, 1, Direction::FromGuest, "192.0.2.1", Protocol::TCP, 23),
            Action::Allow
        );
        assert_eq!(
            ask(&t, 1, Direction::FromGuest, "192.0.2.1", Protocol::UDP, 22),
            Action::Allow
        );
    }

    #[test]
    fn ranges_and_blocks_hold_at_their_edges() {
        let text = "policy: a\ndefault: { db1: deny }\nrules:\n  - { name: r, from: { address: 192.0.2.0/25 }, to: { vm: db1 }, protocol: tcp, ports: 8000-8010, action: allow }\n";
        let t = tables(text).expect("fits");
        for (remote, port, allowed) in [
            ("192.0.2.0", 8000, true),
            ("192.0.2.127", 8010, true),
            ("192.0.2.128", 8000, false),
            ("192.0.2.1", 7999, false),
            ("192.0.2.1", 8011, false),
        ] {
            let action = ask(&t, 2, Direction::ToGuest, remote, Protocol::TCP, port);
            assert_eq!(action == Action::Allow, allowed, "{remote} port {port}");
        }
    }

    /// A route is denied to whom one of its serving backends is; other ports of its address are what they were.
    #[test]
    fn a_port_without_a_protocol_is_of_every_protocol_that_has_ports() {
        let text = "policy: a\ndefault: { db1: deny }\nrules:\n  - { name: r, from: { vm: web1 }, to: { vm: db1, port: 80 }, action: allow }\n";
        let t = tables(text).expect("compiles");
        for protocol in APART {
            for port in [80, 81] {
                let allowed = protocol.has_ports() && port == 80;
                let action = ask(&t, 1, Direction::FromGuest, "10.0.0.12", protocol, port);
                assert_eq!(action == Action::Allow, allowed, "{protocol} {port}");
            }
        }
    }

    #[test]
    fn a_route_is_allowed_as_its_backends_are() {
        let text = "policy: a\ndefault: { db1: deny }\nroutes:\n  r:\n    address: 10.0.0.100\n    port: 80\n    backends: [{ to: 192.0.2.1, port: 8081 }, { to: { vm: db1 }, port: 8080, weight: W }]\nrules:\n  - { name: r, from: { vm: web1 }, to: { vm: db1 }, ports: P, action: allow }\n";
        struct Nothing;
        impl crate::routes::Condition for Nothing {
            fn checked(&self, _: Protocol, _: SocketAddr) -> Option<bool> {
                None
            }
            fn is_shunned(&self, _: Protocol, _: SocketAddr) -> bool {
                false
            }
            fn gone(&self) -> &[crate::routes::Departed] {
                &[]
            }
        }
        let actions = |weight: &str, port: &str| {
            let text = text.replace('W', weight).replace('P', port);
            let document = Document::parse("test.yaml", &text).expect("a sound document");
            let rules = Arc::new(Ruleset::compile(&[document], 7).expect("compiles"));
            let guests = vec![vm("web1", 1, "10.0.0.11"), vm("db1", 2, "10.0.0.12")];
            let t = compile(&World::new(rules, guests).with_routes(&Nothing)).expect("fits");
            [80, 81].map(|port| {
                let action = ask(&t, 1, Direction::FromGuest, "10.0.0.100", Protocol::TCP, port);
                action == Action::Allow
            })
        };
        assert_eq!(actions("1", "8080"), [true, true]);
        assert_eq!(
            actions("1", "80"),
            [false, true],
            "rules are asked of the backend's port"
        );
        assert_eq!(actions("0", "80"), [true, true], "who has no share is not asked");
    }

    #[test]
    fn an_example_lies_outside_of_the_inner_blocks() {
        let block = |text: &str| text.parse::<Block>().expect("a block");
        let all = BTreeSet::from([block("10.0.0.0/8"), block("10.0.0.0/9"), block("10.128.0.0/16")]);
        assert_eq!(example(block("10.0.0.0/8"), &all), "10.129.0.0".parse().ok());
        let covered = BTreeSet::from([block("10.0.0.0/31"), block("10.0.0.0"), block("10.0.0.1")]);
        assert_eq!(example(block("10.0.0.0/31"), &covered), None);
    }
}
