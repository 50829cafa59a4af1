// SPDX-License-Identifier: GPL-3.0-only
//! Flows by what they have in common: who, to whom, on which port, decided how.

use netback_filter::{Action, DecidedBy, Direction, Event, FlowKey, FlowRecord};
use policy::{Decider, Decision, Endpoint, Owner, Protocol, Refuse};
use policyd_api::{FlowEnd, FlowName, FlowUser, Verdict};
use vmi_xen::observe::Subject;

use crate::enforcer::Owners;
use crate::gate::{Judged, Way, decider, is_instead};
use crate::present;
use crate::world::World;

/// A flow that a guest's process opened.
pub fn opened(world: &World, way: &Way, who: &Subject, judged: &Judged) -> FlowName {
    let end = judged.backend.unwrap_or(way.remote);
    FlowName {
        from: flow_end(world, &world.source(way.scope, way.local.ip(), Some(who))),
        to: flow_end(world, &world.destination(way.protocol, end.ip(), end.port())),
        protocol: way.protocol.to_string(),
        port: Some(end.port()),
        ..decided(world, &way.key(), &judged.decision)
    }
}

/// A flow by its record; none where it is counted at the vif of the guest that opened it.
pub fn recorded(world: &World, owners: &Owners, record: &FlowRecord) -> Option<FlowName> {
    let way = Way::from(&record.key);
    let from_guest = world
        .vm_at(way.remote.ip())
        .is_some_and(|vm| vm.scope != way.scope);
    if record.verdict.origin == Direction::ToGuest && from_guest {
        return None;
    }
    let who = owners.of(&way);
    Some(seen(world, owners, record, &way, who.as_deref()))
}

/// A flow of which a vif refused a packet.
pub fn refused(world: &World, owners: &Owners, event: &Event, who: Option<&Subject>) -> FlowName {
    let way = Way::from(&event.flow.key);
    FlowName {
        verdict: Verdict::Deny,
        ..seen(world, owners, &event.flow, &way, who)
    }
}

/// A reported flow as the guest sees it that opened it, if that is one of this host.
pub fn opener(world: &World, event: &Event) -> Way {
    let way = Way::from(&event.flow.key);
    let peer = world.vm_at(way.remote.ip()).filter(|vm| vm.scope != way.scope);
    match (event.flow.verdict.origin, peer) {
        (Direction::ToGuest, Some(peer)) => way.seen_by(peer.scope),
        _ => way,
    }
}

/// Whether it passes to where it is addressed.
pub fn verdict(record: &FlowRecord) -> Verdict {
    let outgoing = record.verdict.origin == Direction::FromGuest;
    let instead = outgoing && is_instead(record.verdict.rule);
    match record.verdict.action == Action::Allow && !instead {
        true => Verdict::Allow,
        false => Verdict::Deny,
    }
}

fn seen(world: &World, owners: &Owners, record: &FlowRecord, way: &Way, who: Option<&Subject>) -> FlowName {
    let remote = way.remote.ip();
    let (from, to, port) = match record.verdict.origin {
        Direction::FromGuest => {
            let end = record.backend.unwrap_or(way.remote);
            (
                flow_end(world, &world.source(way.scope, way.local.ip(), who)),
                flow_end(world, &world.destination(way.protocol, end.ip(), end.port())),
                end.port(),
            )
        }
        Direction::ToGuest => {
            let from = match world.vm_at(remote) {
                Some(peer) => {
                    let who = owners.of(&way.seen_by(peer.scope));
                    flow_end(world, &world.source(peer.scope, remote, who.as_deref()))
                }
                None => flow_end(world, &Endpoint::world(remote)),
            };
            let to = match (world.vm(way.scope), who) {
                (Some(_), Some(who)) => world.source(way.scope, way.local.ip(), Some(who)),
                (Some(vm), None) => vm.destination(way.protocol, way.local.ip(), way.local.port()),
                (None, _) => Endpoint::world(way.local.ip()),
            };
            (from, flow_end(world, &to), way.local.port())
        }
    };
    let by = decider(record.verdict.rule);
    let generation = u64::from(record.verdict.generation);
    let verdict = verdict(record);
    let decision = Decision {
        verdict: match verdict {
            Verdict::Allow => policy::Verdict::Allow,
            Verdict::Deny => policy::Verdict::Deny,
        },
        refuse: Refuse::Rst,
        audit: false,
        by,
        class: None,
        mirror: None,
        dry_run: None,
        generation,
    };
    let mut name = match record.decided_by {
        DecidedBy::Lock => FlowName {
            rule: present::locked(world, way.scope).rule,
            by_policy: false,
            ..decided(world, &record.key, &decision)
        },
        DecidedBy::Service => FlowName {
            rule: present::unserved(world, &record.key, &decision).rule,
            by_policy: false,
            ..decided(world, &record.key, &decision)
        },
        DecidedBy::State if verdict == Verdict::Deny => FlowName {
            rule: "no connection".into(),
            by_policy: false,
            ..decided(world, &record.key, &decision)
        },
        _ => decided(world, &record.key, &decision),
    };
    if let Decider::Rule(id) = by
        && generation != world.rules.generation()
    {
        // The number is of a rule of then.
        name.rule = format!("rule {} of {generation}", id.0);
    }
    FlowName {
        from,
        to,
        protocol: Protocol(record.key.protocol.0).to_string(),
        port: Some(port),
        ..name
    }
}

/// A name of which only the decision is filled in.
fn decided(world: &World, key: &FlowKey, decision: &Decision) -> FlowName {
    let unserved = decision.by == Decider::Unserved;
    let shown = match unserved {
        true => present::unserved(world, key, decision),
        false => present::decision(world, key.scope, decision),
    };
    FlowName {
        from: FlowEnd::default(),
        to: FlowEnd::default(),
        protocol: String::new(),
        port: None,
        verdict: shown.verdict,
        rule: shown.rule,
        by_policy: !unserved,
    }
}

fn flow_end(world: &World, end: &Endpoint<'_>) -> FlowEnd {
    let process = match (end.vm, end.owner) {
        (Some(_), Owner::Process(process)) => Some(process),
        _ => None,
    };
    FlowEnd {
        domain: end.vm.map(|vm| vm.name.clone()),
        uuid: end.vm.map(policy::VmId::uuid_text),
        address: Some(end.address.to_canonical()),
        prefix: None,
        uid: process.map(|p| p.uid),
        exe: process.and_then(|p| p.exe.map(str::to_owned)),
        container: process.and_then(|p| p.container.map(str::to_owned)),
        args: process.map(|p| p.args.to_vec()),
        user: process.map(|p| FlowUser {
            gid: p.gid,
            groups: p.groups.to_vec(),
            loginuid: p.loginuid,
        }),
        parents: process.map(|p| p.parents.iter().map(|exe| exe.to_string()).collect()),
        given: world.is_given(end),
        services: Vec::new(),
    }
}
