// SPDX-License-Identifier: GPL-3.0-only
//! The gate: what happens while a guest's vCPU is held at a probe.
//!
//! **Invariant:** nothing here takes a lock that another thread may hold, allocates for the decision, logs, or waits. A
//! full facts channel costs the fact, never the verdict.

mod judge;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use crossbeam_channel::Sender;
use netback_filter::{Action, Direction, FlowKey, FlowWriter, Refuse, Verdict, Vlan};
use policy::{Decider, Decision, Protocol, RuleId, Side};
use vmi_xen::linux::{self, Credentials, Socket};
use vmi_xen::observe::{Observer, Subject};

use crate::world::World;

pub use judge::{Judged, Stage, judge};

/// A flow as one of its guests sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Way {
    /// The guest: its domain id.
    pub scope: u32,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The guest's end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// As the datapath names it; none where a socket told of the flow, which does not know it.
    pub vlan: Vlan,
}

impl Way {
    /// The flow of a connected socket.
    fn of(scope: u32, socket: &Socket) -> Option<Way> {
        Some(Way {
            scope,
            protocol: protocol(socket),
            local: socket.local,
            remote: socket.remote?,
            vlan: Vlan::NONE,
        })
    }

    /// What a guest sends to itself passes no vif. (The unspecified address stands for its own.)
    pub fn is_inside(&self) -> bool {
        let remote = self.remote.ip();
        remote.is_loopback() || remote.is_unspecified() || remote == self.local.ip()
    }

    /// The same, and to an address in another network of its guest, as a container's.
    pub fn stays_inside(&self, world: &World) -> bool {
        self.is_inside() || world.is_within(self.scope, self.remote.ip())
    }

    /// The same flow as the guest with this scope sees it from its other end.
    pub fn seen_by(&self, scope: u32) -> Way {
        Way {
            scope,
            protocol: self.protocol,
            local: self.remote,
            remote: self.local,
            vlan: self.vlan,
        }
    }

    /// The same flow where it goes to `backend`.
    pub fn to(&self, backend: Option<SocketAddr>) -> Way {
        Way {
            remote: backend.unwrap_or(self.remote),
            ..*self
        }
    }

    /// As the datapath names it.
    pub fn key(&self) -> FlowKey {
        FlowKey {
            scope: self.scope,
            protocol: netback_filter::Protocol(self.protocol.0),
            local: self.local,
            remote: self.remote,
            vlan: self.vlan,
        }
    }
}

impl From<&FlowKey> for Way {
    fn from(key: &FlowKey) -> Way {
        Way {
            scope: key.scope,
            protocol: Protocol(key.protocol.0),
            local: key.local,
            remote: key.remote,
            vlan: key.vlan,
        }
    }
}

/// What a domain's thread tells the enforcer.
pub enum Fact {
    /// A process was made.
    Forked(Arc<Subject>),
    /// A process runs a new executable.
    Executed(Arc<Subject>),
    /// A process ended, with its wait(2) status.
    Exited(Arc<Subject>, u32),
    /// A process, as it was, took other credentials.
    Changed(Arc<Subject>, Box<Credentials>),
    /// A TCP socket listens, or a UDP socket has a port.
    Serving {
        /// Owner.
        who: Arc<Subject>,
        /// The socket.
        socket: Socket,
    },
    /// A socket that served is closed.
    Closing {
        /// Its `struct sock`.
        sk: u64,
    },
    /// A connect was decided.
    Connecting {
        /// Client.
        who: Arc<Subject>,
        /// The flow, as its guest sees it.
        way: Way,
        /// The verdict that is in force, and where the flow goes.
        judged: Judged,
        /// Sequence number of its SYN, of TCP.
        sequence: Option<u32>,
    },
    /// A connection was accepted.
    Accepted {
        /// Server.
        who: Arc<Subject>,
        /// The flow, as its guest sees it.
        way: Way,
    },
}

/// A fact on its way.
pub struct Told {
    /// The guest.
    pub scope: u32,
    /// Rises by one with each fact of a gate, from 1; a gap means that some were lost.
    pub number: u64,
    /// The fact.
    pub fact: Fact,
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
    facts: Sender<Told>,
    stats: Arc<GateStats>,
    told: u64,
}

impl Gate {
    /// A gate for the guest with this scope.
    pub fn new(
        scope: u32,
        world: Arc<ArcSwap<World>>,
        flows: FlowWriter,
        facts: Sender<Told>,
        stats: Arc<GateStats>,
    ) -> Gate {
        Gate {
            scope,
            world,
            flows,
            facts,
            stats,
            told: 0,
        }
    }

    fn tell(&mut self, fact: Fact) {
        self.told += 1;
        let told = Told {
            scope: self.scope,
            number: self.told,
            fact,
        };
        if self.facts.try_send(told).is_err() {
            self.stats.facts_lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Observer for Gate {
    fn connecting(&mut self, who: &Arc<Subject>, socket: &Socket, sequence: Option<u32>) {
        let Some(way) = Way::of(self.scope, socket) else {
            return;
        };
        let world = self.world.load();
        let judged = judge(&world, &way, who, Stage::Opening);
        let written =
            way.stays_inside(&world) || write_verdict(&world, &self.flows, Write::New, &way, &judged);
        drop(world);
        if !written {
            self.stats.writes_failed.fetch_add(1, Ordering::Relaxed);
        }
        self.tell(Fact::Connecting {
            who: Arc::clone(who),
            way,
            judged,
            sequence,
        });
    }

    fn changing(&mut self, who: &Arc<Subject>, to: &Credentials) {
        self.tell(Fact::Changed(Arc::clone(who), Box::new(to.clone())));
    }

    fn accepted(&mut self, who: &Arc<Subject>, socket: &Socket) {
        if let Some(way) = Way::of(self.scope, socket) {
            self.tell(Fact::Accepted {
                who: Arc::clone(who),
                way,
            });
        }
    }

    fn listening(&mut self, who: &Arc<Subject>, socket: &Socket) {
        self.tell(Fact::Serving {
            who: Arc::clone(who),
            socket: *socket,
        });
    }

    fn bound(&mut self, who: &Arc<Subject>, socket: &Socket) {
        self.listening(who, socket);
    }

    fn closing(&mut self, sk: u64) {
        self.tell(Fact::Closing { sk });
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

/// The protocol of a socket.
pub fn protocol(socket: &Socket) -> Protocol {
    match socket.protocol {
        linux::Protocol::Tcp => Protocol::TCP,
        linux::Protocol::Udp => Protocol::UDP,
    }
}

/// Which of the writes of [`FlowWriter`] a verdict takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// The flow is about to begin.
    New,
    /// The flow is under way; its counts go on.
    Revise,
    /// The flow was looked up; the verdict ends with it.
    Settle,
}

/// Puts the verdict on a flow that its guest opens into the flow map: for its own vif, and when the end that it goes to is a
/// guest of this host, for that guest's vif. Returns whether the map took all of it.
pub fn write_verdict(world: &World, flows: &FlowWriter, write: Write, way: &Way, judged: &Judged) -> bool {
    if world.holds {
        return true;
    }
    let put = |key: &FlowKey, verdict: Verdict| match write {
        Write::New => flows.set(key, verdict),
        Write::Revise => flows.revise(key, verdict),
        Write::Settle => flows.settle(key, verdict),
    };
    let mut written = true;
    // The destination first: by the time the source's packet may leave, its way in is open.
    let beyond = judged.beyond(way);
    if let Some(peer) = world.vm_at(beyond.remote.ip()).filter(|vm| vm.scope != way.scope) {
        let verdict = judged.verdict(world, Direction::ToGuest, way.local.ip());
        written &= put(&beyond.seen_by(peer.scope).key(), verdict).is_ok();
    }
    // Then where it goes: it was allowed to this backend and no other.
    let told = match judged.choice.filter(|_| judged.passes()) {
        Some(target) => flows.redirect(&way.key(), &target),
        // One that a rule sent elsewhere may have left a choice that it did not take, and this one takes the same port.
        None if judged.backend.is_none()
            && (write == Write::Revise || !world.routes.diversions.is_empty()) =>
        {
            flows.forget_choice(&way.key())
        }
        None => Ok(()),
    };
    if told.is_err() {
        return false;
    }
    let verdict = judged.verdict(world, Direction::FromGuest, beyond.remote.ip());
    written & put(&way.key(), verdict).is_ok()
}

/// What the datapath does by a decision.
pub fn action(decision: &Decision) -> Action {
    match (decision.verdict, decision.refuse) {
        (policy::Verdict::Allow, _) => Action::Allow,
        (policy::Verdict::Deny, policy::Refuse::Rst) => Action::Deny(Refuse::Reset),
        (policy::Verdict::Deny, policy::Refuse::Icmp) => Action::Deny(Refuse::Prohibited),
        (policy::Verdict::Deny, policy::Refuse::Drop) => Action::Deny(Refuse::Drop),
    }
}

/// Numbers of what decides without being a rule. The datapath has 0 for a scope's default; rules count up from 1.
const DEFAULT_FROM: u32 = u32::MAX - 1;
const DEFAULT_TO: u32 = u32::MAX - 2;
const NOTHING: u32 = u32::MAX - 3;
const UNSERVED: u32 = u32::MAX - 4;
/// A flow that a rule sent elsewhere, and that ends for no rule says so any more.
const WENT: u32 = u32::MAX - 5;
/// Set in the number of a rule that sends the flow elsewhere which it denies. (There are fewer rules than that.)
const INSTEAD: u32 = 1 << 31;

/// The rule number of what no rule decides.
pub const NO_RULE: u32 = NOTHING;

/// What decided, as the datapath's rule number.
pub fn rule_number(decision: &Decision) -> u32 {
    match decision.by {
        Decider::Rule(RuleId(n)) => n.saturating_add(1),
        Decider::Default(Side::Source) => DEFAULT_FROM,
        Decider::Default(Side::Destination) => DEFAULT_TO,
        Decider::Nothing => NOTHING,
        Decider::Unserved => UNSERVED,
    }
}

/// The other way round.
pub fn decider(number: u32) -> Decider {
    match number {
        DEFAULT_FROM => Decider::Default(Side::Source),
        DEFAULT_TO => Decider::Default(Side::Destination),
        0 | NOTHING => Decider::Nothing,
        UNSERVED | WENT => Decider::Unserved,
        n => Decider::Rule(RuleId((n & !INSTEAD).saturating_sub(1))),
    }
}

/// Whether the number is of a flow that a rule denies and sends elsewhere, or sent there when it began.
pub fn is_instead(number: u32) -> bool {
    number & INSTEAD != 0 && number <= WENT
}

#[cfg(test)]
pub(crate) mod tests;
