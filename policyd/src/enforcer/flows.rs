// SPDX-License-Identifier: GPL-3.0-only
//! Live flows: who owns them, and what a change of policy does to them.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use netback_filter::{DecidedBy, Direction, Event, EventKind, FlowRecord};
use policy::{Decision, Refuse, Verdict};
use policyd_api::What;
use vmi_xen::observe::Subject;

use super::Enforcer;
use crate::gate::{Write, action, decide_tcp, decider, write_verdict};
use crate::present;
use crate::registry::lock;
use crate::world::World;

/// Scope, the guest's side, the other side.
pub type OwnerKey = (u32, SocketAddr, SocketAddr);

/// Who opened which flow. Shared with the API; the trap path does not use it.
#[derive(Default)]
pub struct Owners {
    /// By flow.
    pub map: Mutex<HashMap<OwnerKey, Arc<Subject>>>,
}

impl Owners {
    /// Who opened this flow, if a trap or the inventory showed it.
    pub fn of(&self, scope: u32, local: SocketAddr, remote: SocketAddr) -> Option<Arc<Subject>> {
        lock(&self.map).get(&(scope, local, remote)).cloned()
    }
}

impl Enforcer {
    /// Decides every owned flow again and rewrites what changed. Flows opened under the rule tables need nothing here: the
    /// datapath asks the new tables at their next packet.
    pub(super) fn decide_flows_anew(&self, world: &World) -> usize {
        let owners = lock(&self.owners.map).clone();
        let records: Vec<FlowRecord> = lock(&self.datapath).flows(None).filter_map(Result::ok).collect();
        let mut changed = 0;
        for record in records.iter().filter(|r| r.decided_by == DecidedBy::Userspace) {
            let (scope, local, remote) = (record.key.scope, record.key.local, record.key.remote);
            match (record.verdict.origin, owners.get(&(scope, local, remote))) {
                (Direction::FromGuest, Some(who)) => {
                    let decision = decide_tcp(world, scope, who, local, remote);
                    if action(&decision) != record.verdict.action {
                        changed += 1;
                    }
                    write_verdict(world, &self.flows, Write::Revise, scope, local, remote, &decision);
                }
                // The other half of a flow whose opener is a guest here is rewritten with that guest's half.
                (Direction::ToGuest, _) if owners.contains_key(&opener(world, record)) => {}
                // Nobody knows who opened it any more: the tables decide.
                _ => {
                    if let Err(e) = self.flows.remove(&record.key) {
                        log::warn!("{}: an old verdict stays: {e}", record.key);
                    }
                }
            }
        }
        changed
    }

    /// A report of the datapath.
    pub(super) fn vif_event(&self, event: &Event) {
        let key = &event.flow.key;
        match event.kind {
            EventKind::Refused => {
                let world = self.world.load();
                let who = self.owners.of(key.scope, key.local, key.remote);
                let end = world.source(key.scope, key.local.ip(), who.as_deref());
                let decision = Decision {
                    verdict: Verdict::Deny,
                    refuse: Refuse::Rst,
                    audit: false,
                    by: decider(event.flow.verdict.rule),
                    generation: u64::from(event.flow.verdict.generation),
                };
                self.say(
                    key.scope,
                    What::Refused {
                        direction: match event.direction {
                            Direction::FromGuest => "out",
                            Direction::ToGuest => "in",
                        }
                        .into(),
                        protocol: key.protocol.to_string(),
                        local: key.local,
                        remote: key.remote,
                        who: who
                            .as_ref()
                            .map(|w| Box::new(present::party(&world, &end, None, Some(w)))),
                        decision: present::decision(&world, key.scope, &decision),
                    },
                );
            }
            EventKind::End => {
                lock(&self.owners.map).remove(&(key.scope, key.local, key.remote));
            }
            EventKind::Start => {}
        }
    }

    /// Lets go of owners whose flow the datapath no longer has.
    pub(super) fn sweep(&self) {
        let live: HashSet<_> = lock(&self.datapath)
            .flows(None)
            .filter_map(Result::ok)
            .filter(|r| !r.ended)
            .map(|r| (r.key.scope, r.key.local, r.key.remote))
            .collect();
        lock(&self.owners.map).retain(|key, _| live.contains(key));
    }
}

/// The key under which the opener of a flow towards a guest owns it.
fn opener(world: &World, record: &FlowRecord) -> OwnerKey {
    let scope = world
        .vm_at(record.key.remote.ip())
        .map_or(u32::MAX, |vm| vm.scope);
    (scope, record.key.remote, record.key.local)
}
