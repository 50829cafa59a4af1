// SPDX-License-Identifier: GPL-3.0-only
//! Rules in dry run: what they would have made of flows is told and counted.

use std::sync::Arc;

use policy::{Decider, Decision, Endpoint, Flow};
use policyd_api::What;
use vmi_xen::observe::Subject;

use super::Enforcer;
use crate::gate::Way;
use crate::present;
use crate::world::World;

impl Enforcer {
    /// Tells what rules in dry run would have made of a flow from outside of this host.
    pub(super) fn try_arrival(&self, world: &World, way: &Way, who: Option<&Arc<Subject>>) {
        let Some(vm) = world
            .vm(way.scope)
            .filter(|_| world.vm_at(way.remote.ip()).is_none())
        else {
            return;
        };
        let flow = Flow {
            protocol: way.protocol,
            source: Endpoint::world(way.remote.ip()),
            destination: match who {
                Some(who) => vm.end(way.local.ip()).with_process(vm.process(who)),
                None => vm.destination(way.protocol, way.local.ip(), way.local.port()),
            },
            port: way.local.port(),
        };
        let decision = world.decide(&flow);
        self.tried(world, way, &decision, (false, &flow.destination, who));
    }

    /// Counts and tells what rules in dry run would have made of a flow. `end`: whether the guest opened it, and its end.
    pub(super) fn tried(
        &self,
        world: &World,
        way: &Way,
        decision: &Decision,
        end: (bool, &Endpoint<'_>, Option<&Arc<Subject>>),
    ) {
        let Some(would) = decision.dry_run else { return };
        let (outgoing, end, who) = end;
        let shown = Decision {
            verdict: would.verdict,
            by: Decider::Rule(would.rule),
            ..*decision
        };
        let shown = present::decision(world, way.scope, &shown);
        let count = self.dry_runs.count(&shown.rule, would.verdict);
        self.say(
            way.scope,
            What::DryRun {
                protocol: way.protocol.to_string(),
                local: way.local,
                remote: way.remote,
                outgoing,
                who: Box::new(present::party(world, end, None, who)),
                would: shown,
                count,
            },
        );
    }
}
