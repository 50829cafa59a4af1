// SPDX-License-Identifier: GPL-3.0-only
//! What programs processes run: what waits for it, and what it changes.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use policy::Measured;
use vmi_xen::observe::Subject;

use super::{Enforcer, Shown};
use crate::gate::{Judged, Way};
use crate::measures::{Report, Runs};
use crate::present;
use crate::registry::lock;
use crate::world::World;

/// For how long a flow waits untold. By then its client has tried again.
const PATIENCE: Duration = Duration::from_secs(1);
/// For how long one that was told of is remembered for itself.
const LONGEST: Duration = Duration::from_secs(60);
/// For how long a client tries to connect at most (tcp(7): tcp_syn_retries), and some more.
const TRIES: Duration = Duration::from_secs(180);
/// Flows that wait; more are told as they are.
const MOST: usize = 1024;

/// Flows that wait until it is known what programs the processes at their ends run.
#[derive(Default)]
pub(super) struct Awaiting {
    flows: VecDeque<Flow>,
    /// Processes whose flows were decided by what they were found to run under another policy.
    pub(super) unknown: HashSet<(u32, Runs)>,
    /// When a flow that waits was last let go from among these: any result may be for it.
    forgotten: Option<Instant>,
    /// The flow that is being told is not to wait again.
    telling: bool,
}

struct Flow {
    since: Instant,
    who: Arc<Subject>,
    way: Way,
    shown: Shown,
    told: bool,
}

impl Awaiting {
    /// A guest is gone.
    pub(super) fn forget(&mut self, scope: u32) {
        self.flows.retain(|flow| flow.way.scope != scope);
        self.unknown.retain(|(of, _)| *of != scope);
    }
}

impl Enforcer {
    /// A process runs a new executable. A program of the policy is looked at before it opens its first flow.
    pub(super) fn starts(&self, scope: u32, who: &Arc<Subject>) {
        let (Some(exe), Some(vm)) = (&who.process.exe, self.guests.get(&scope)) else {
            return;
        };
        if self.world.load().rules.programs_for(&vm.id, exe).next().is_some() {
            self.measures.look(scope, who);
        }
    }

    /// Has a flow wait, unless too many do; it is told of later then.
    pub(super) fn awaits(
        &mut self,
        world: &World,
        who: &Arc<Subject>,
        way: &Way,
        judged: &Judged,
        shown: Shown,
    ) -> bool {
        let room = self.awaiting.flows.len() < MOST;
        let waits = !self.awaiting.telling && room;
        if !room {
            self.awaiting.forgotten = Some(Instant::now());
        }
        if waits {
            let beyond = judged.beyond(way).remote;
            let peer = world.vm_at(beyond.ip());
            let server = peer.and_then(|vm| {
                let server = vm.listeners.owner_of(way.protocol, beyond.ip(), beyond.port());
                Some((vm.scope, server?))
            });
            if let Some((scope, server)) = server {
                self.measures.look(scope, server);
            }
            self.awaiting.flows.push_back(Flow {
                since: Instant::now(),
                who: Arc::clone(who),
                way: *way,
                shown: match shown {
                    // It is written as it is by now.
                    Shown::Trap(_) => Shown::Trap(*judged),
                    other => other,
                },
                told: false,
            });
        }
        waits
    }

    /// Tells of flows that waited for long enough. Returns when the next is due.
    pub(super) fn overdue(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let before = self.awaiting.flows.len();
        self.awaiting.flows.retain(|flow| now < flow.since + LONGEST);
        if self.awaiting.flows.len() < before {
            self.awaiting.forgotten = Some(now);
        }
        let mut due = Vec::new();
        for flow in &mut self.awaiting.flows {
            if !flow.told && now >= flow.since + PATIENCE {
                flow.told = true;
                due.push((Arc::clone(&flow.who), flow.way, flow.shown));
            }
        }
        for (who, way, shown) in due {
            self.awaiting.telling = true;
            self.connects(&who, &way, shown);
            self.awaiting.telling = false;
        }
        let waiting = self.awaiting.flows.iter().filter(|flow| !flow.told);
        waiting.map(|flow| flow.since + PATIENCE).min()
    }

    /// It was found what program a process runs.
    pub(super) fn measured(&mut self, report: Report) {
        let Report {
            scope,
            who,
            found,
            news,
        } = report;
        if let Some(news) = news {
            self.say(scope, present::measured(&who, &news));
        }
        let rules = self.policies.rules();
        let Some(vm) = self.guests.get(&scope) else { return };
        // It is looked at again if the policy changed meanwhile.
        let Some(found) = found.filter(|found| found.holds(&rules, &vm.id)) else {
            return;
        };
        let runs = Runs::from(&who.process);
        let now = found.measured;
        let unknown = self.awaiting.unknown.remove(&(scope, runs));
        let before = self.measures.results.set(scope, runs, found);
        if before.as_ref().map(|found| found.measured) == Some(now) || !rules.asks_measured() {
            return;
        }
        // The tables know who listens.
        let listens = vm.listeners.has_process(&runs);
        if listens {
            self.refresh();
        }
        self.resume();
        let forgotten = self.awaiting.forgotten.is_some_and(|at| at.elapsed() < TRIES);
        if before.is_some() || unknown || listens || forgotten {
            let world = self.world.load_full();
            let changed = self.decide_flows_anew(&world);
            if now != Measured::Same && changed > 0 {
                log::info!(
                    "{changed} flows end: process {} is not what it was",
                    who.process.tgid
                );
            }
        }
    }

    /// Lets those go that wait no more.
    fn resume(&mut self) {
        for flow in std::mem::take(&mut self.awaiting.flows) {
            let world = self.world.load_full();
            let still = crate::gate::judge(&world, &flow.way, &flow.who, crate::gate::Stage::Opening).awaited;
            if still {
                self.awaiting.flows.push_back(flow);
                continue;
            }
            self.connects(&flow.who, &flow.way, flow.shown);
            self.lookups.holding.settle(&flow.way.key());
        }
    }

    /// Forgets what processes ran that are over and have left no flow.
    pub(super) fn forget_measured(&mut self) {
        let mut kept: HashSet<(u32, Runs)> = HashSet::new();
        self.measures.each(|scope, who, _| {
            kept.insert((scope, Runs::from(&who.process)));
        });
        for (way, owner) in lock(&self.owners.map).iter() {
            kept.insert((way.scope, Runs::from(&owner.who.process)));
        }
        for (scope, vm) in &self.guests {
            kept.extend(vm.listeners.processes().map(|runs| (*scope, runs)));
        }
        self.awaiting.unknown.retain(|process| kept.contains(process));
        self.measures
            .results
            .retain(|scope, runs| kept.contains(&(scope, *runs)));
    }
}
