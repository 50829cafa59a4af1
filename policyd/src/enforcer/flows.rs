// SPDX-License-Identifier: GPL-3.0-only
//! Live flows: who owns them, and what a change of policy does to them.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use netback_filter::{Action, DecidedBy, Direction, Event, EventKind, FlowRecord};
use policy::{Decider, Decision, Endpoint, Flow, Protocol, Refuse, Side, Verdict};
use policyd_api::{Seen, What};
use vmi_xen::observe::Subject;

use super::{DOUBTS, Enforcer, PATIENCE, REMEMBER, SWEEP, Shown};
use crate::daemon::monotonic_ns;
use crate::gate::{Stage, Way, Write, decider, is_instead, judge, write_verdict};
use crate::lookups::{Answer, Question};
use crate::present;
use crate::recorder::Note;
use crate::registry::lock;
use crate::tables::table_action;
use crate::world::World;

/// Who holds which flow's socket in its guest. Shared with the API; the trap path does not use it.
///
/// A flow to a route is here twice: as its guest has it, and as it goes to its backend, which is how the backend's guest knows
/// it.
#[derive(Default)]
pub struct Owners {
    /// By flow.
    pub map: Mutex<HashMap<Way, Owner>>,
}

/// Who holds a flow's socket.
#[derive(Clone)]
pub struct Owner {
    /// The process.
    pub who: Arc<Subject>,
    /// Where the flow goes in place of its remote end.
    pub backend: Option<SocketAddr>,
}

impl Owners {
    /// Takes who holds a flow's socket.
    pub fn insert(&self, way: Way, who: &Arc<Subject>, backend: Option<SocketAddr>) {
        let mut map = lock(&self.map);
        let who = Arc::clone(who);
        if backend.is_some() {
            let beyond = Owner {
                who: Arc::clone(&who),
                backend: None,
            };
            map.insert(way.to(backend), beyond);
        }
        map.insert(way, Owner { who, backend });
    }

    /// Forgets a flow.
    pub fn remove(&self, way: &Way, backend: Option<SocketAddr>) {
        let mut map = lock(&self.map);
        let known = map.remove(way).and_then(|owner| owner.backend);
        if let Some(end) = known.or(backend) {
            map.remove(&way.to(Some(end)));
        }
    }

    /// Who holds this flow's socket, if a trap or the inventory showed it.
    pub fn of(&self, way: &Way) -> Option<Arc<Subject>> {
        lock(&self.map).get(way).map(|owner| Arc::clone(&owner.who))
    }
}

impl Enforcer {
    /// Decides every owned flow again and rewrites what changed. Flows opened under the rule tables need nothing here: the
    /// datapath asks the new tables at their next packet.
    pub(super) fn decide_flows_anew(&self, world: &World) -> usize {
        let owners = lock(&self.owners.map).clone();
        let records: Vec<FlowRecord> = lock(&self.datapath).flows(None).filter_map(Result::ok).collect();
        let mut changed = 0;
        let mut over = Vec::new();
        for record in &records {
            let write = match record.decided_by {
                DecidedBy::Userspace => Write::Revise,
                DecidedBy::Lookup => Write::Settle,
                _ => {
                    over.extend(self.revoked_by_tables(world, record).then_some(record.key));
                    continue;
                }
            };
            let way = Way::from(&record.key);
            match (record.verdict.origin, owners.get(&way)) {
                (Direction::FromGuest, Some(owner)) => {
                    // A flow under way keeps its backend. One that has not begun may have been given one by a trap.
                    let held = record.verdict.action == HELD;
                    let begun = (record.first_ns != 0 && !held).then_some(way.remote);
                    let backend = record.backend.or(begun).or(owner.backend);
                    let stage = match (backend, write) {
                        (Some(end), _) => Stage::Under {
                            end,
                            instead: is_instead(record.verdict.rule),
                        },
                        (None, Write::Settle) => Stage::Seen,
                        (None, _) => Stage::Opening,
                    };
                    let judged = judge(world, &way, &owner.who, stage);
                    if judged.action() != record.verdict.action {
                        changed += 1;
                    }
                    write_verdict(world, &self.flows, write, &way, &judged);
                    if held && !judged.awaited {
                        self.lookups.holding.settle(&record.key);
                    }
                    if is_connection(record) && is_answered(judged.action()) {
                        over.push(record.key);
                        // Its other half, which a guest of this host knows it by.
                        let beyond = judged.beyond(&way);
                        let peer = world.vm_at(beyond.remote.ip()).filter(|vm| vm.scope != way.scope);
                        over.extend(peer.map(|vm| beyond.seen_by(vm.scope).key()));
                    }
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
        self.revocations.end(over);
        changed
    }

    /// Whether the tables in force deny a connection that they allowed. They know no process: where one is to be looked up, a
    /// segment is held for that.
    fn revoked_by_tables(&self, world: &World, record: &FlowRecord) -> bool {
        let known = record.verdict.action == Action::Allow && is_connection(record);
        let Some(vm) = world.vm(record.key.scope).filter(|_| known) else {
            return false;
        };
        let way = Way::from(&record.key);
        let remote = way.remote.ip();
        let end = record.backend.unwrap_or(way.remote);
        let (side, flow) = match record.verdict.origin {
            Direction::FromGuest => (
                Side::Source,
                Flow {
                    protocol: way.protocol,
                    source: world.source(way.scope, way.local.ip(), None),
                    destination: world.destination(way.protocol, end.ip(), end.port()),
                    port: end.port(),
                },
            ),
            Direction::ToGuest => (
                Side::Destination,
                Flow {
                    protocol: way.protocol,
                    source: match world.vm_at(remote) {
                        Some(peer) => peer.end(remote),
                        None => Endpoint::world(remote),
                    },
                    destination: vm.destination(way.protocol, way.local.ip(), way.local.port()),
                    port: way.local.port(),
                },
            ),
        };
        is_answered(table_action(&world.rule(&flow, side)))
    }

    /// A report of the datapath.
    pub(super) fn vif_event(&mut self, event: Event) {
        let way = Way::from(&event.flow.key);
        if event.kind == EventKind::End {
            self.connection_over(&event);
            self.notes.tell(Note::Ended(Box::new(event.flow)));
            self.owners.remove(&way, event.flow.backend);
            return;
        }
        let by_rules = matches!(
            event.flow.decided_by,
            DecidedBy::Rule | DecidedBy::Default | DecidedBy::State
        );
        let has_ports = matches!(way.protocol, Protocol::TCP | Protocol::UDP);
        let told = self.owners.of(&way);
        // A trap may have told of the accept before this report came.
        let origin = event.flow.verdict.origin;
        let new = by_rules && (told.is_none() || origin == Direction::FromGuest);
        let known = told.or_else(|| self.receiver(&way));
        let question = Question {
            way,
            origin,
            refused: (event.kind == EventKind::Refused).then_some(event),
            backend: event.flow.backend,
            peer: None,
        };
        if !by_rules || !has_ports || known.is_some() {
            self.owned(&question, known, new);
        } else if let Some((inside, who)) = self.translations.leaves(&event) {
            self.leaves_as(&question, &inside, &who);
        } else if let Some(who) = self.sender_gone(&question) {
            self.owned(&question, None, false);
            self.connects(&who, &way, Shown::Over);
        } else if origin == Direction::ToGuest && question.refused.is_none() && self.is_trapped(way.scope) {
            // The accept will trap.
            self.translations.arrives(&way);
        } else if let Err(question) = self.lookups.ask(question) {
            self.owned(&question, None, false);
        }
    }

    /// A flow that a trap told of as `inside` has other addresses at the vif. It is decided by these: it may go elsewhere.
    fn leaves_as(&mut self, question: &Question, inside: &Way, who: &Arc<Subject>) {
        self.owners.remove(inside, None);
        let peer = self.world.load().vm_at(inside.remote.ip()).map(|vm| vm.scope);
        for way in [Some(*inside), peer.map(|peer| inside.seen_by(peer))]
            .into_iter()
            .flatten()
        {
            if let Err(e) = self.flows.remove(&way.key()) {
                log::debug!("{way:?}: a verdict that no packet will meet stays: {e}");
            }
        }
        self.notes.tell(Note::Translated {
            inside: *inside,
            outside: question.way,
        });
        let held = question.refused.filter(is_held);
        if let Some(event) = question.refused.as_ref().filter(|event| !is_held(event)) {
            self.refused(event, Some(who));
        }
        let shown = Shown::Translated {
            backend: question.backend,
            tried: judge(&self.world.load(), inside, who, Stage::Seen)
                .decision
                .dry_run,
        };
        let waits = self.connects(who, &question.way, shown);
        if let Some(event) = held.filter(|_| !waits) {
            self.let_go(&event, who);
        }
    }

    fn is_trapped(&self, scope: u32) -> bool {
        self.guests.get(&scope).is_some_and(|vm| vm.trapped)
    }

    /// A UDP port has another owner, or none: what was decided by the one it had holds no more.
    pub(super) fn forget_datagrams(&mut self, scope: u32, port: u16) {
        let ways = self.datagrams.remove(&(scope, port)).unwrap_or_default();
        let world = self.world.load();
        for way in ways {
            let backend = lock(&self.owners.map).get(&way).and_then(|owner| owner.backend);
            self.owners.remove(&way, backend);
            let beyond = way.to(backend);
            let peer = world.vm_at(beyond.remote.ip()).map(|vm| beyond.seen_by(vm.scope));
            for way in [Some(way), peer].into_iter().flatten() {
                // Nobody looks at it again: what it carried since the last look counts, too.
                if self.notes.wanted()
                    && let Ok(Some(record)) = self.flows.record(&way.key())
                {
                    self.notes.tell(Note::Ended(Box::new(record)));
                }
                if let Err(e) = self.flows.remove(&way.key()) {
                    log::warn!("{way:?}: an old verdict stays until it is idle: {e}");
                }
            }
        }
    }

    /// Asks who takes the connection that `who` opens, as it goes to its backend, to a guest of this host where no trap tells it.
    pub(super) fn ask_peer(&self, who: &Arc<Subject>, way: &Way, peer: u32) {
        let way = way.seen_by(peer);
        if self.owners.of(&way).is_none() {
            // Without an answer the accept is not told, and the verdict is what it is.
            let _ = self.lookups.ask(Question {
                way,
                origin: Direction::ToGuest,
                refused: None,
                backend: None,
                peer: Some(Arc::clone(who)),
            });
        }
    }

    /// Who owns a flow that no trap showed.
    pub(super) fn answered(&mut self, answer: Answer) {
        let Answer {
            question,
            owner,
            asked,
        } = answer;
        if let Some((socket, who)) = owner {
            let scope = question.way.scope;
            let told = self
                .guests
                .get(&scope)
                .is_some_and(|vm| vm.listeners.has(socket.sk));
            if socket.remote.is_none() && !told {
                self.serves(scope, &who, &socket);
            }
            self.owned(&question, Some(who), true);
        } else if self.is_from_datagrams(&question) && self.doubts.len() < DOUBTS {
            self.doubts
                .push_back((Instant::now() + PATIENCE, question, asked));
        } else {
            self.unanswered(&question, asked);
        }
    }

    /// Concludes about the flows for which a trap was awaited long enough. Returns when the next is due.
    pub(super) fn conclude(&mut self) -> Option<Instant> {
        while let Some((due, ..)) = self.doubts.front() {
            if Instant::now() < *due {
                return Some(*due);
            }
            if let Some((_, question, asked)) = self.doubts.pop_front() {
                self.unanswered(&question, asked);
            }
        }
        None
    }

    /// A flow whose socket nobody holds. `asked`: the guest could say so.
    fn unanswered(&mut self, question: &Question, asked: bool) {
        let way = question.way;
        if let Some(who) = self.receiver(&way) {
            self.owned(question, Some(who), true);
            return;
        }
        self.owned(question, None, false);
        if let Some(who) = self.sender_gone(question) {
            self.connects(&who, &way, Shown::Over);
        } else if asked
            && question.refused.is_none()
            && question.origin == Direction::FromGuest
            && !self.translations.may_be_translated(&way)
        {
            self.say(
                way.scope,
                What::Unowned {
                    protocol: way.protocol.to_string(),
                    local: way.local,
                    remote: way.remote,
                },
            );
        }
    }

    /// Tells and decides what a vif reported, now that its owner is known or is not to be known. `new`: nobody decided
    /// the flow by its owner yet.
    fn owned(&mut self, question: &Question, who: Option<Arc<Subject>>, new: bool) {
        let Question {
            way,
            origin,
            refused,
            backend,
            peer,
        } = question;
        // What waits until its process is measured has been told of.
        let by_verdict =
            |event: &Event| matches!(event.flow.decided_by, DecidedBy::Userspace | DecidedBy::Lookup);
        if refused.is_some_and(|event| is_held(&event) && by_verdict(&event)) {
            return;
        }
        let held = refused.filter(is_held);
        if let Some(event) = refused.as_ref().filter(|event| !is_held(event)) {
            self.refused(event, who.as_ref());
        }
        let Some(who) = who.filter(|_| new) else {
            if let Some(event) = held {
                self.lookups.holding.dismiss(&event.flow.key);
                self.refused(&event, None);
            }
            return;
        };
        match (origin, held) {
            (Direction::FromGuest, held) => {
                let waits = self.connects(&who, way, Shown::Lookup(*backend));
                if let Some(event) = held.filter(|_| !waits) {
                    self.let_go(&event, &who);
                }
            }
            (Direction::ToGuest, Some(event)) => self.arriving.push((event, who)),
            // It may have been told meanwhile.
            (Direction::ToGuest, None) if refused.is_none() && self.owners.of(way).is_none() => {
                self.accepts(&who, way, peer.as_ref(), Seen::Lookup);
            }
            (Direction::ToGuest, None) => {}
        }
    }

    /// Lets the packets go that waited for the verdict on their flow. Where one went, the vif tells what became of it.
    fn let_go(&self, event: &Event, who: &Arc<Subject>) {
        if self.lookups.holding.settle(&event.flow.key) == 0 {
            self.refused(event, Some(who));
        }
    }

    /// Lets the packets go whose receivers the tables know by now.
    pub(super) fn let_in(&mut self) {
        for (event, who) in std::mem::take(&mut self.arriving) {
            self.let_go(&event, &who);
        }
    }

    /// Whether traps tell who had the socket of a flow: a UDP socket of a trapped guest.
    fn is_from_datagrams(&self, question: &Question) -> bool {
        let Question { way, origin, .. } = question;
        way.protocol == Protocol::UDP && *origin == Direction::FromGuest && self.is_trapped(way.scope)
    }

    /// Who had the UDP socket that a guest's flow came from until a moment ago.
    fn sender_gone(&self, question: &Question) -> Option<Arc<Subject>> {
        if !self.is_from_datagrams(question) {
            return None;
        }
        let (who, _) = self.gone.get(&(question.way.scope, question.way.local.port()))?;
        Some(Arc::clone(who))
    }

    /// Who takes datagrams where the flow's guest has its end.
    fn receiver(&self, way: &Way) -> Option<Arc<Subject>> {
        if way.protocol != Protocol::UDP {
            return None;
        }
        let port = way.local.port();
        let listeners = &self.guests.get(&way.scope)?.listeners;
        listeners.owner_of(Protocol::UDP, way.local.ip(), port).cloned()
    }

    fn refused(&self, event: &Event, who: Option<&Arc<Subject>>) {
        self.notes.tell(Note::Refused {
            event: Box::new(*event),
            who: who.cloned(),
        });
        let key = &event.flow.key;
        let world = self.world.load();
        let end = world.source(key.scope, key.local.ip(), who.map(|who| &**who));
        let decision = Decision {
            verdict: Verdict::Deny,
            refuse: Refuse::Rst,
            audit: false,
            by: decider(event.flow.verdict.rule),
            class: None,
            mirror: None,
            dry_run: None,
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
                protocol: Protocol(key.protocol.0).to_string(),
                local: key.local,
                remote: key.remote,
                who: who.map(|who| Box::new(present::party(&world, &end, None, Some(who)))),
                route: present::routed(
                    &world,
                    key,
                    event.flow.backend,
                    is_instead(event.flow.verdict.rule),
                )
                .map(Box::new),
                decision: match event.flow.decided_by {
                    DecidedBy::Lock => present::locked(&world, key.scope),
                    DecidedBy::Service => present::unserved(&world, key, &decision),
                    _ if decision.by == Decider::Unserved => present::unserved(&world, key, &decision),
                    _ => present::decision(&world, key.scope, &decision),
                },
            },
        );
        // What a guest opens is tried where its process is told.
        if event.flow.verdict.origin == Direction::ToGuest {
            self.try_arrival(&world, &Way::from(key), who);
        }
    }

    /// Lets go of owners whose flow the datapath no longer has.
    pub(super) fn sweep(&mut self) {
        self.gone.retain(|_, (_, since)| since.elapsed() < REMEMBER);
        let records: Vec<FlowRecord> = lock(&self.datapath).flows(None).filter_map(Result::ok).collect();
        self.count_unanswered(&records, monotonic_ns(), SWEEP);
        self.health.tidy(&self.world.load());
        let mut live: HashSet<_> = records
            .iter()
            .filter(|r| !r.ended)
            .flat_map(|r| {
                let way = Way::from(&r.key);
                [way, way.to(r.backend)]
            })
            .collect();
        let mut owners = lock(&self.owners.map);
        // A flow that has not begun has its backend by the word of its trap alone.
        let chosen = owners.iter().filter(|(way, _)| live.contains(way));
        let beyond: Vec<_> = chosen.map(|(way, owner)| way.to(owner.backend)).collect();
        live.extend(beyond);
        owners.retain(|key, _| live.contains(key));
        drop(owners);
        self.datagrams.retain(|_, ways| {
            ways.retain(|way| live.contains(way));
            !ways.is_empty()
        });
        self.forget_measured();
        self.notes.tell(Note::Live(records));
    }
}

/// A TCP connection that has begun, and is not over.
fn is_connection(record: &FlowRecord) -> bool {
    record.key.protocol == netback_filter::Protocol::TCP && record.first_ns != 0 && !record.ended
}

/// What becomes of a packet for as long as something is not known of its flow.
const HELD: Action = Action::Deny(netback_filter::Refuse::Hold);

/// Whether its ends are told that it is denied.
fn is_answered(action: Action) -> bool {
    !matches!(
        action,
        Action::Allow | Action::Deny(netback_filter::Refuse::Drop) | HELD
    )
}

/// Whether the packet of this report is not refused for good.
fn is_held(event: &Event) -> bool {
    event.enforced && event.flow.verdict.action == HELD
}

/// A flow towards a guest as its opener sees it.
fn opener(world: &World, way: &Way) -> Way {
    let scope = world.vm_at(way.remote.ip()).map_or(u32::MAX, |vm| vm.scope);
    way.seen_by(scope)
}

#[cfg(test)]
pub mod tests;
