// SPDX-License-Identifier: GPL-3.0-only
//! The gate: what happens while a guest's vCPU is held at a probe.
//!
//! **Invariant:** nothing here takes a lock that another thread may hold, allocates for the decision, logs, or waits. A
//! full facts channel costs the fact, never the verdict.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use crossbeam_channel::Sender;
use netback_filter::{Action, Direction, FlowKey, FlowWriter, Refuse, Verdict};
use policy::{Decider, Decision, Flow, Protocol, RuleId, Side};
use vmi_xen::linux::Socket;
use vmi_xen::observe::{Observer, Subject};

use crate::world::World;

/// What a domain's thread tells the enforcer.
pub enum Fact {
    /// A process was made.
    Forked(Arc<Subject>),
    /// A process runs a new executable.
    Executed(Arc<Subject>),
    /// A process ended, with its wait(2) status.
    Exited(Arc<Subject>, u32),
    /// A socket listens.
    Listening {
        /// Owner.
        who: Arc<Subject>,
        /// Address and port.
        local: SocketAddr,
        /// Network namespace.
        netns: u32,
    },
    /// A connect was decided.
    Connecting {
        /// Client.
        who: Arc<Subject>,
        /// Source.
        local: SocketAddr,
        /// Destination.
        remote: SocketAddr,
        /// The verdict that is in force.
        decision: Decision,
    },
}

/// Counters of one gate, read by the API.
#[derive(Default)]
pub struct GateStats {
    /// Facts that found the channel full.
    pub facts_lost: AtomicU64,
    /// Verdicts the flow map did not take. The flow then meets the rule tables, where its process is unknown.
    pub writes_failed: AtomicU64,
}

/// The gate of one guest.
pub struct Gate {
    scope: u32,
    world: Arc<ArcSwap<World>>,
    flows: FlowWriter,
    facts: Sender<(u32, Fact)>,
    stats: Arc<GateStats>,
}

impl Gate {
    /// A gate for the guest with this scope.
    pub fn new(
        scope: u32,
        world: Arc<ArcSwap<World>>,
        flows: FlowWriter,
        facts: Sender<(u32, Fact)>,
        stats: Arc<GateStats>,
    ) -> Gate {
        Gate {
            scope,
            world,
            flows,
            facts,
            stats,
        }
    }

    fn tell(&self, fact: Fact) {
        if self.facts.try_send((self.scope, fact)).is_err() {
            self.stats.facts_lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Observer for Gate {
    fn connecting(&mut self, who: &Arc<Subject>, socket: &Socket) {
        let Some(remote) = socket.remote else { return };
        let world = self.world.load();
        let decision = decide_tcp(&world, self.scope, who, socket.local, remote);
        // What a guest sends to itself passes no vif.
        let inside = remote.ip().is_loopback() || remote.ip() == socket.local.ip();
        let written = inside
            || write_verdict(
                &world,
                &self.flows,
                Write::New,
                self.scope,
                socket.local,
                remote,
                &decision,
            );
        if !written {
            self.stats.writes_failed.fetch_add(1, Ordering::Relaxed);
        }
        self.tell(Fact::Connecting {
            who: Arc::clone(who),
            local: socket.local,
            remote,
            decision,
        });
    }

    fn listening(&mut self, who: &Arc<Subject>, socket: &Socket) {
        self.tell(Fact::Listening {
            who: Arc::clone(who),
            local: socket.local,
            netns: socket.netns,
        });
    }

    fn forked(&mut self, child: &Arc<Subject>) {
        self.tell(Fact::Forked(Arc::clone(child)));
    }

    fn executed(&mut self, who: &Arc<Subject>) {
        self.tell(Fact::Executed(Arc::clone(who)));
    }

    fn exited(&mut self, who: &Arc<Subject>, code: u32) {
        self.tell(Fact::Exited(Arc::clone(who), code));
    }
}

/// Decides a TCP connection that `who` in guest `scope` opens.
pub fn decide_tcp(
    world: &World,
    scope: u32,
    who: &Subject,
    local: SocketAddr,
    remote: SocketAddr,
) -> Decision {
    world.decide(&Flow {
        protocol: Protocol::TCP,
        source: world.source(scope, local.ip(), Some(who)),
        destination: world.destination(Protocol::TCP, remote.ip(), remote.port()),
        port: remote.port(),
    })
}

/// Which of the two writes of [`FlowWriter`] a verdict takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// The flow is about to begin.
    New,
    /// The flow is under way; its counts go on.
    Revise,
}

/// Puts the verdict on a flow that guest `scope` opens into the flow map: for its own vif, and when the other end is a guest
/// of this host, for that guest's vif. Returns whether the map took all of it.
pub fn write_verdict(
    world: &World,
    flows: &FlowWriter,
    write: Write,
    scope: u32,
    local: SocketAddr,
    remote: SocketAddr,
    decision: &Decision,
) -> bool {
    let put = |key: &FlowKey, verdict: Verdict| match write {
        Write::New => flows.set(key, verdict),
        Write::Revise => flows.revise(key, verdict),
    };
    let protocol = netback_filter::Protocol::TCP;
    let mut written = true;
    // The destination first: by the time the source's packet may leave, its way in is open.
    if let Some(peer) = world.vm_at(remote.ip()).filter(|vm| vm.scope != scope) {
        let key = FlowKey {
            scope: peer.scope,
            protocol,
            local: remote,
            remote: local,
        };
        written &= put(&key, datapath_verdict(decision, Direction::ToGuest)).is_ok();
    }
    let key = FlowKey {
        scope,
        protocol,
        local,
        remote,
    };
    written & put(&key, datapath_verdict(decision, Direction::FromGuest)).is_ok()
}

/// The decision as the datapath takes it.
pub fn datapath_verdict(decision: &Decision, origin: Direction) -> Verdict {
    Verdict {
        action: action(decision),
        origin,
        rule: rule_number(decision),
        // The datapath keeps 32 bits: enough for a change a second for a century.
        generation: u32::try_from(decision.generation).unwrap_or(u32::MAX),
    }
}

/// What the datapath does by a decision.
pub fn action(decision: &Decision) -> Action {
    match (decision.verdict, decision.refuse) {
        (policy::Verdict::Allow, _) => Action::Allow,
        (policy::Verdict::Deny, policy::Refuse::Rst) => Action::Deny(Refuse::Reset),
        (policy::Verdict::Deny, policy::Refuse::Drop) => Action::Deny(Refuse::Drop),
    }
}

/// Numbers of what decides without being a rule. The datapath has 0 for a scope's default; rules count up from 1.
const DEFAULT_FROM: u32 = u32::MAX - 1;
const DEFAULT_TO: u32 = u32::MAX - 2;
const NOTHING: u32 = u32::MAX - 3;

/// What decided, as the datapath's rule number.
pub fn rule_number(decision: &Decision) -> u32 {
    match decision.by {
        Decider::Rule(RuleId(n)) => n.saturating_add(1),
        Decider::Default(Side::Source) => DEFAULT_FROM,
        Decider::Default(Side::Destination) => DEFAULT_TO,
        Decider::Nothing => NOTHING,
    }
}

/// The other way round.
pub fn decider(number: u32) -> Decider {
    match number {
        DEFAULT_FROM => Decider::Default(Side::Source),
        DEFAULT_TO => Decider::Default(Side::Destination),
        0 | NOTHING => Decider::Nothing,
        n => Decider::Rule(RuleId(n - 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deciders_come_back_from_their_numbers() {
        let by = [
            Decider::Rule(RuleId(0)),
            Decider::Rule(RuleId(99_999)),
            Decider::Default(Side::Source),
            Decider::Default(Side::Destination),
            Decider::Nothing,
        ];
        for by in by {
            let decision = Decision {
                verdict: policy::Verdict::Deny,
                refuse: policy::Refuse::Rst,
                audit: false,
                by,
                generation: 1,
            };
            assert_ne!(rule_number(&decision), 0);
            assert_eq!(decider(rule_number(&decision)), by);
        }
    }
}
