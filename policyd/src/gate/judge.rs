// SPDX-License-Identifier: GPL-3.0-only
//! What becomes of one flow, and where it goes.

use std::net::{IpAddr, SocketAddr};

use netback_filter::{Action, Direction, Refuse, Target, Verdict};
use policy::{Decision, Flow};
use vmi_xen::observe::Subject;

use super::{INSTEAD, WENT, Way, action, rule_number};
use crate::routes::instead::Denied;
use crate::shapes;
use crate::world::{Ruling, World};

/// What becomes of a flow that a guest opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judged {
    /// Pass or not, judged as the flow to where it goes.
    pub decision: Decision,
    /// It is denied only until it is known what programs its processes run: its first packet waits for that.
    pub awaited: bool,
    /// Where it goes in place of the remote end of its way.
    pub backend: Option<SocketAddr>,
    /// Whether a rule denies it and sends it elsewhere.
    elsewhere: Elsewhere,
    /// The backend, where it was chosen here and the datapath is to be told.
    pub(super) choice: Option<Target>,
}

/// Whether a rule sends a flow elsewhere that it denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Elsewhere {
    No,
    /// It goes to `backend`.
    Goes,
    /// It went there, and nothing says so any more: it ends.
    Went,
}

/// How far a flow is that is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A trap shows it before its first packet.
    Opening,
    /// It showed by a packet, which met the tables; or it is over.
    Seen,
    /// It is under way.
    Under {
        /// Where it goes: the remote end of its way, or a backend.
        end: SocketAddr,
        /// A rule that denies it sent it there.
        instead: bool,
    },
}

/// Judges a flow that `who` opens. One that is for a route and begins gets its backend here. No allocation, no lock.
pub fn judge(world: &World, way: &Way, who: &Subject, stage: Stage) -> Judged {
    if let Stage::Under { end, instead } = stage {
        return under_way(world, way, who, end, instead);
    }
    let to = |target: Target| Judged {
        choice: Some(target),
        ..Judged::to(decide(world, way, who, target.end), Some(target.end))
    };
    // Only before its first packet is there a choice.
    let divert = |judged: &Judged| match stage {
        Stage::Opening => divert(world, way, judged),
        Stage::Seen | Stage::Under { .. } => None,
    };
    let Some(facade) = world.routes.at(way.protocol, way.remote) else {
        let judged = Judged::to(decide(world, way, who, way.remote), None);
        return divert(&judged).filter(|_| !judged.awaited).unwrap_or(judged);
    };
    let source = world.source(way.scope, way.local.ip(), Some(who));
    let Some(member) = facade.choose(&source, way.scope, way.local) else {
        return Judged::to(world.unserved(&facade.route).into(), None);
    };
    let judged = to(member.target());
    if judged.passes() || judged.awaited {
        return judged;
    }
    let decoy = || {
        let decoy = facade.decoy(way.scope, way.local)?;
        Some(to(decoy.target())).filter(Judged::passes)
    };
    divert(&judged).or_else(decoy).unwrap_or(judged)
}

/// The same flow, where the rule that denies it says so.
fn divert(world: &World, way: &Way, judged: &Judged) -> Option<Judged> {
    let denied = Denied {
        way,
        by: judged.decision.by,
        to: judged.backend.unwrap_or(way.remote),
    };
    let target = world.routes.diversions.choose(world, denied)?;
    Some(Judged {
        backend: Some(target.end),
        elsewhere: Elsewhere::Goes,
        choice: Some(target),
        ..*judged
    })
}

/// Judges a flow that goes to `end`: none of its packets waits any more. Where it was sent instead of being denied it stays as long as what denies it says the same.
fn under_way(world: &World, way: &Way, who: &Subject, end: SocketAddr, instead: bool) -> Judged {
    let decide = |world, way, who, end| Ruling::from(decide(world, way, who, end).decision);
    let backend = Some(end).filter(|end| *end != way.remote);
    let facade = world.routes.at(way.protocol, way.remote);
    let routed = facade.is_some_and(|facade| facade.member(end).is_some());
    if backend.is_none() || (routed && !instead) {
        return Judged::to(decide(world, way, who, end), backend);
    }
    // As if it began: the policy may have come back to what it was when the flow was sent there.
    let source = world.source(way.scope, way.local.ip(), Some(who));
    let to = match facade {
        Some(facade) => facade
            .choose(&source, way.scope, way.local)
            .map(|member| member.end()),
        None => Some(way.remote),
    };
    let kept = to.and_then(|to| {
        let ruling = decide(world, way, who, to);
        let denied = Denied {
            way,
            by: ruling.decision.by,
            to,
        };
        let keeps = world.routes.diversions.keeps(world, denied, end);
        keeps.then_some(Judged {
            elsewhere: Elsewhere::Goes,
            ..Judged::to(ruling, backend)
        })
    });
    kept.unwrap_or_else(|| match instead {
        false => Judged::to(decide(world, way, who, end), backend),
        true => Judged {
            elsewhere: Elsewhere::Went,
            ..Judged::to(
                Ruling::from(Decision {
                    refuse: policy::Refuse::Rst,
                    ..world.nobody()
                }),
                backend,
            )
        },
    })
}

impl Judged {
    fn to(ruling: Ruling, backend: Option<SocketAddr>) -> Judged {
        Judged {
            decision: ruling.decision,
            awaited: ruling.awaited,
            backend,
            elsewhere: Elsewhere::No,
            choice: None,
        }
    }

    /// Whether its packets pass: to where they are addressed, or elsewhere.
    pub fn passes(&self) -> bool {
        self.elsewhere == Elsewhere::Goes || self.decision.verdict == policy::Verdict::Allow
    }

    /// Whether a rule that denies it sends it to `backend`, or did so when it began.
    pub fn instead(&self) -> bool {
        self.elsewhere != Elsewhere::No
    }

    /// What the datapath does with it.
    pub fn action(&self) -> Action {
        match (self.passes(), self.awaited) {
            (true, _) => Action::Allow,
            (false, true) => Action::Deny(Refuse::Hold),
            (false, false) => action(&self.decision),
        }
    }

    /// What decided it, as the datapath's rule number.
    pub(super) fn rule_number(&self) -> u32 {
        match self.elsewhere {
            Elsewhere::No => rule_number(&self.decision),
            Elsewhere::Goes => INSTEAD | rule_number(&self.decision),
            Elsewhere::Went => WENT,
        }
    }

    /// As the datapath takes it, for the vif of one guest. `peer`: the flow's other end.
    pub(super) fn verdict(&self, world: &World, origin: Direction, peer: IpAddr) -> Verdict {
        Verdict {
            action: self.action(),
            origin,
            rule: self.rule_number(),
            // The datapath keeps 32 bits: enough for a change a second for a century.
            generation: u32::try_from(self.decision.generation).unwrap_or(u32::MAX),
            mark: shapes::mark(world, &self.decision, origin, peer),
        }
    }

    /// The flow as its backend sees it.
    pub fn beyond(&self, way: &Way) -> Way {
        way.to(self.backend)
    }
}

/// Decides a flow that `who` opens and that goes to `end`.
fn decide(world: &World, way: &Way, who: &Subject, end: SocketAddr) -> Ruling {
    world.weigh(&Flow {
        protocol: way.protocol,
        source: world.source(way.scope, way.local.ip(), Some(who)),
        destination: world.destination(way.protocol, end.ip(), end.port()),
        port: end.port(),
    })
}
