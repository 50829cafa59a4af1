// SPDX-License-Identifier: GPL-3.0-only
//! Live flows: who owns them, and what a change of policy does to them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use netback_filter::{DecidedBy, Direction, Event, EventKind, FlowRecord};
use policy::{Decision, Refuse, Verdict};
use policyd_api::What;
use vmi_xen::observe::Subject;

use super::Enforcer;
use crate::gate::{Way, Write, action, decide, decider, write_verdict};
use crate::present;
use crate::registry::lock;
use crate::world::World;

/// Who holds which flow's socket in its guest. Shared with the API; the trap path does not use it.
#[derive(Default)]
pub struct Owners {
    /// By flow.
    pub map: Mutex<HashMap<Way, Arc<Subject>>>,
}

impl Owners {
    /// Who holds this flow's socket, if a trap or the inventory showed it.
    pub fn of(&self, way: &Way) -> Option<Arc<Subject>> {
        lock(&self.map).get(way).cloned()
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
            let way = Way::from(&record.key);
            match (record.verdict.origin, owners.get(&way)) {
                (Direction::FromGuest, Some(who)) => {
                    let decision = decide(world, &way, who);
                    if action(&decision) != record.verdict.action {
                        changed += 1;
                    }
                    write_verdict(world, &self.flows, Write::Revise, &way, &decision);
                }
                // The other half of a flow whose opener is a guest here is rewritten with that guest's half.
                (Direction::ToGuest, _) if owners.contains_key(&opener(world, &way)) => {}
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
                let who = self.owners.of(&Way::from(key));
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
                lock(&self.owners.map).remove(&Way::from(key));
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
            .map(|r| Way::from(&r.key))
            .collect();
        lock(&self.owners.map).retain(|key, _| live.contains(key));
    }
}

/// A flow towards a guest as its opener sees it.
fn opener(world: &World, way: &Way) -> Way {
    let scope = world.vm_at(way.remote.ip()).map_or(u32::MAX, |vm| vm.scope);
    way.seen_by(scope)
}
