// SPDX-License-Identifier: GPL-3.0-only
//! What the enforcer does with each order and fact.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use policy::{Decider, Endpoint, Facts, Protocol, VmId};
use policyd_api::{Seen, What};
use vmi_xen::linux::Socket;
use vmi_xen::observe::Subject;

use super::{Enforcer, Order, Shown};
use crate::gate::{Fact, Stage, Told, Way, Write, judge, protocol, write_verdict};
use crate::inventory::Inventory;
use crate::present;
use crate::recorder::Note;
use crate::registry::lock;
use crate::world::{Listener, Listeners, Mac, Vm};

impl Enforcer {
    pub(super) fn obey(&mut self, order: Order) {
        match order {
            Order::Change { request, reply } => {
                let _ = reply.send(self.change(&request));
            }
            Order::List { reply } => {
                let _ = reply.send((self.policies.generation(), self.policies.list()));
            }
            Order::Show { name, reply } => {
                let _ = reply.send(
                    self.policies
                        .show(&name)
                        .map(|set| (self.policies.generation(), set)),
                );
            }
            Order::Rollout { reply } => {
                let rollout = self.policies.rollout();
                let _ = reply.send(rollout.map(|stage| (self.policies.generation(), stage)));
            }
            Order::Compile { documents, reply } => {
                let _ = reply.send(self.try_out(&documents));
            }
            Order::Shadow { asked, reply } => {
                self.set_shadow(*asked);
                let _ = reply.send(());
            }
            Order::GuestUp { scope, vm, ready } => {
                self.guest_up(scope, vm);
                let _ = ready.send(());
            }
            Order::GuestDown { scope } => self.guest_down(scope),
            Order::Covered => {
                let rules = self.policies.rules();
                // Said in the log, and by the API.
                let _ = self.shape(&rules);
            }
            Order::Trapped {
                scope,
                trapped,
                opaque,
                counts,
            } => {
                if let Some(vm) = self.guests.get_mut(&scope) {
                    // What was missed is missed: only another inventory makes the count right again.
                    let counted = vm.counted && counts;
                    let (before, now) = ((vm.trapped, vm.opaque, vm.counted), (trapped, opaque, counted));
                    self.dirty |= before != now;
                    (vm.trapped, vm.opaque, vm.counted) = now;
                }
            }
            Order::Vifs { scope, vifs } => self.take_vifs(scope, vifs),
            Order::Addresses {
                scope,
                claimed,
                several,
            } => {
                self.take_addresses(scope, claimed);
                if several {
                    self.translates(scope);
                }
            }
            Order::Facts { scope, facts } => self.take_facts(scope, facts),
            Order::Paused { scope, paused } => {
                if let Some(vm) = self.guests.get_mut(&scope) {
                    self.dirty |= vm.paused != paused;
                    vm.paused = paused;
                }
            }
            Order::Settled => self.settle(),
            Order::Checked { end, up } => self.dirty |= self.health.check(end, up),
            Order::Inventory {
                scope,
                inventory,
                done,
            } => {
                self.take_inventory(scope, inventory);
                let _ = done.send(());
            }
            Order::Vif(event) => self.vif_event(event),
            Order::Owner(answer) => self.answered(*answer),
            Order::Measured(report) => self.measured(*report),
            Order::Say { domain, what } => {
                self.log
                    .publish(domain.as_ref().map(|(id, name)| (*id, name.as_str())), what);
            }
            Order::Stop => {}
        }
    }

    pub(super) fn note(&mut self, told: Told) {
        let Told { scope, number, fact } = told;
        // A gate counts from 1.
        let before = self
            .heard
            .insert(scope, number)
            .filter(|_| number > 1)
            .unwrap_or(0);
        let count = number.saturating_sub(before.saturating_add(1));
        if count > 0 {
            let place = "the way from its traps: more came than could be logged".into();
            self.say(scope, What::Lost { count, place });
        }
        match fact {
            Fact::Forked(child) => self.say(
                scope,
                What::Fork {
                    process: present::process(&child),
                },
            ),
            Fact::Executed(who) => {
                self.meets_network(scope, &who);
                self.starts(scope, &who);
                self.say(
                    scope,
                    What::Exec {
                        process: present::process(&who),
                    },
                );
            }
            Fact::Exited(who, code) => {
                self.measures.gone(scope, &who);
                self.say(
                    scope,
                    What::Exit {
                        process: present::process(&who),
                        code,
                    },
                );
            }
            Fact::Changed(who, to) => self.say(
                scope,
                What::Cred {
                    process: present::process(&who),
                    before: present::credentials(&who.process.credentials),
                    after: present::credentials(&to),
                },
            ),
            Fact::Serving { who, socket } => self.serves(scope, &who, &socket),
            Fact::Closing { sk } => self.closes(scope, sk),
            Fact::Connecting {
                who,
                way,
                judged,
                sequence,
            } => {
                if !way.stays_inside(&self.world.load()) {
                    self.translations.opens(&way, &who, sequence);
                }
                self.connects(&who, &way, Shown::Trap(judged));
            }
            Fact::Accepted { who, way } => {
                self.accepts(&who, &way, None, Seen::Trap);
                if let Some(outside) = self.translations.accepted(&way) {
                    self.owners.remove(&way, None);
                    self.accepts(&who, &outside, None, Seen::Translated);
                }
            }
        }
    }

    /// A guest's process opens a flow. Whether it waits until it is known what programs the processes at its ends run: it is told of then.
    pub(super) fn connects(&mut self, who: &Arc<Subject>, way: &Way, shown: Shown) -> bool {
        let world = self.world.load_full();
        self.measures.look(way.scope, who);
        let (judged, write) = match shown {
            // It keeps its backend, whatever is chosen by now.
            Shown::Trap(then) => {
                let now = match then.decision.by {
                    // It has not begun.
                    _ if then.awaited => judge(&world, way, who, Stage::Opening),
                    Decider::Unserved => judge(&world, way, who, Stage::Opening),
                    _ => {
                        let (end, instead) = (then.backend.unwrap_or(way.remote), then.instead());
                        judge(&world, way, who, Stage::Under { end, instead })
                    }
                };
                let (before, after) = (then.decision, now.decision);
                let same = (then.passes(), before.verdict, before.class, before.generation)
                    == (now.passes(), after.verdict, after.class, after.generation)
                    && then.awaited == now.awaited;
                match same {
                    true => (then, None),
                    // It was decided a moment before a change of policy or listeners that this thread has since put in force.
                    false => (now, Some(Write::Revise)),
                }
            }
            Shown::Lookup(backend) | Shown::Translated { backend, .. } => {
                // It may have begun meanwhile.
                let begun = self.flows.backend(&way.key()).ok().flatten();
                let stage = match backend.or(begun) {
                    Some(end) => Stage::Under { end, instead: false },
                    None => Stage::Seen,
                };
                (judge(&world, way, who, stage), Some(Write::Settle))
            }
            Shown::Over => (judge(&world, way, who, Stage::Seen), None),
        };
        let decision = judged.decision;
        let beyond = judged.beyond(way);
        let inside = way.stays_inside(&world);
        if !inside {
            if let Some(write) = write {
                write_verdict(&world, &self.flows, write, way, &judged);
            }
            if !matches!(shown, Shown::Over) {
                self.owners.insert(*way, who, judged.backend);
            }
            if matches!(shown, Shown::Lookup(_) | Shown::Translated { .. }) && way.protocol == Protocol::UDP {
                let port = (way.scope, way.local.port());
                self.datagrams.entry(port).or_default().push(*way);
            }
        }
        if judged.awaited && !matches!(shown, Shown::Over) && self.awaits(&world, who, way, &judged, shown) {
            return true;
        }
        let (protocol, remote) = (way.protocol, beyond.remote);
        if self.notes.wanted() && !inside {
            self.notes.tell(Note::Opened {
                way: *way,
                who: Arc::clone(who),
                judged,
                fresh: matches!(shown, Shown::Trap(_)),
            });
        }
        if let Some(peer) = world.vm_at(remote.ip())
            && peer.scope != way.scope
            && peer.translates
        {
            self.translations.arrives(&beyond.seen_by(peer.scope));
        }
        if let Some(peer) = world.vm_at(remote.ip())
            && peer.scope != way.scope
            && !peer.trapped
            && judged.passes()
        {
            self.ask_peer(who, &beyond, peer.scope);
        }
        let to = present::party(
            &world,
            &world.destination(protocol, remote.ip(), remote.port()),
            Some((protocol, remote.port())),
            world
                .vm_at(remote.ip())
                .and_then(|vm| vm.listeners.owner_of(protocol, remote.ip(), remote.port())),
        );
        self.say(
            way.scope,
            What::Connect {
                process: present::process(who),
                protocol: protocol.to_string(),
                local: way.local,
                remote: way.remote,
                to: Box::new(to),
                route: present::routed(&world, &way.key(), judged.backend, judged.instead()).map(Box::new),
                decision: match decision.by {
                    Decider::Unserved => present::unserved(&world, &way.key(), &decision),
                    _ => present::decision(&world, way.scope, &decision),
                },
                seen: match shown {
                    Shown::Trap(_) => Seen::Trap,
                    Shown::Lookup(_) | Shown::Over => Seen::Lookup,
                    Shown::Translated { .. } => Seen::Translated,
                },
            },
        );
        // A connection counts once for what rules in dry run would have made of it.
        let known = matches!(shown, Shown::Translated { tried, .. } if tried == decision.dry_run);
        if !known {
            let source = world.source(way.scope, way.local.ip(), Some(who));
            self.tried(&world, way, &decision, (true, &source, Some(who)));
        }
        false
    }

    /// A guest's process takes a flow. `client`: who opened it, where that is not to be found by its owner.
    pub(super) fn accepts(
        &mut self,
        who: &Arc<Subject>,
        way: &Way,
        client: Option<&Arc<Subject>>,
        seen: Seen,
    ) {
        let world = self.world.load_full();
        self.measures.look(way.scope, who);
        if !way.stays_inside(&world) {
            self.owners.insert(*way, who, None);
        }
        let remote = way.remote.ip();
        let peer = world.vm_at(remote);
        let owner = peer.and_then(|vm| self.owners.of(&way.seen_by(vm.scope)));
        let client = owner.or_else(|| client.cloned());
        let end = match peer {
            Some(vm) => world.source(vm.scope, remote, client.as_deref()),
            None => Endpoint::world(remote),
        };
        self.say(
            way.scope,
            What::Accept {
                process: present::process(who),
                local: way.local,
                remote: way.remote,
                from: Box::new(present::party(&world, &end, None, client.as_ref())),
                seen,
            },
        );
        self.try_arrival(&world, way, Some(who));
    }

    pub(super) fn serves(&mut self, scope: u32, who: &Arc<Subject>, socket: &Socket) {
        let (protocol, local) = (protocol(socket), socket.local);
        if protocol == Protocol::UDP {
            self.forget_datagrams(scope, local.port());
        }
        if let Some(listeners) = self.listeners(scope) {
            let listener = Listener {
                sk: socket.sk,
                address: local.ip(),
                subject: Arc::clone(who),
            };
            listeners.insert(protocol, local.port(), listener);
            self.dirty = true;
        }
        self.measures.look(scope, who);
        let process = present::process(who);
        let what = match protocol {
            Protocol::TCP => What::Listen { process, local },
            _ => What::Bind { process, local },
        };
        self.say(scope, what);
    }

    fn closes(&mut self, scope: u32, sk: u64) {
        // Most sockets that close never listened: the table is not copied for them.
        if !self.guests.get(&scope).is_some_and(|vm| vm.listeners.has(sk)) {
            return;
        }
        if let Some((protocol, port, listener)) = self.listeners(scope).and_then(|l| l.remove(sk)) {
            self.dirty = true;
            if protocol == Protocol::UDP {
                let owner = (Arc::clone(&listener.subject), Instant::now());
                self.gone.insert((scope, port), owner);
                self.forget_datagrams(scope, port);
            }
            self.say(
                scope,
                What::Close {
                    process: present::process(&listener.subject),
                    protocol: protocol.to_string(),
                    local: SocketAddr::new(listener.address, port),
                },
            );
        }
    }

    fn guest_up(&mut self, scope: u32, id: VmId) {
        let measured = Arc::clone(&self.measures.results);
        let vm = Vm {
            measured,
            ..Vm::new(id, scope)
        };
        self.guests.insert(scope, vm);
        self.refresh();
    }

    fn guest_down(&mut self, scope: u32) {
        self.health.bury(&self.world.load(), scope, Instant::now());
        self.guests.remove(&scope);
        self.heard.remove(&scope);
        self.networks.remove(&scope);
        self.translations.forget(scope);
        self.gone.retain(|(of, _), _| *of != scope);
        self.doubts.retain(|(_, question, _)| question.way.scope != scope);
        self.datagrams.retain(|(of, _), _| *of != scope);
        self.awaiting.forget(scope);
        self.measures.results.retain(|of, _| of != scope);
        lock(&self.owners.map).retain(|way, _| way.scope != scope);
        if let Err(e) = lock(&self.datapath).remove_scope(scope) {
            log::warn!("flows of domain {scope} stay in the map until they age out: {e}");
        }
        self.dirty = true;
    }

    fn take_vifs(&mut self, scope: u32, vifs: Vec<(Option<Mac>, Vec<std::net::IpAddr>)>) {
        if let Some(vm) = self.guests.get_mut(&scope) {
            let given = vifs.iter().flat_map(|(_, given)| given).copied();
            let configured: Vec<_> = given.collect();
            self.dirty |= vm.configured != configured;
            vm.configured = configured;
            let macs = vifs.into_iter().filter_map(|(mac, given)| Some((mac?, given)));
            let macs: Vec<_> = macs.collect();
            self.dirty |= vm.macs != macs;
            vm.macs = macs;
        }
    }

    fn take_facts(&mut self, scope: u32, facts: Arc<Facts>) {
        let Some(vm) = self.guests.get_mut(&scope).filter(|vm| vm.id.facts != facts) else {
            return;
        };
        vm.id.facts = facts;
        // Its classes first, so that flows are marked with none that its vifs have not.
        let rules = self.policies.rules();
        // Said in the log, and by the API.
        let _ = self.shape(&rules);
        self.refresh();
        // It is judged by what is known of the guests.
        self.run_shadow();
    }

    /// The guest has a process in this network namespace. One that has several may translate addresses.
    fn meets_network(&mut self, scope: u32, who: &Subject) {
        let netns = who.process.netns;
        if netns != 0 && *self.networks.entry(scope).or_insert(netns) != netns {
            self.translates(scope);
        }
    }

    fn translates(&mut self, scope: u32) {
        if let Some(vm) = self.guests.get_mut(&scope).filter(|vm| !vm.translates) {
            vm.translates = true;
            self.dirty = true;
        }
    }

    /// The guest's kernel says that its interfaces have these addresses, and no others.
    fn take_addresses(&mut self, scope: u32, claimed: Vec<std::net::IpAddr>) {
        if let Some(vm) = self.guests.get_mut(&scope).filter(|vm| vm.claimed != claimed) {
            vm.claimed = claimed;
            self.dirty = true;
        }
    }

    /// Takes what a whole reading of a guest found, and decides its connections.
    fn take_inventory(&mut self, scope: u32, inventory: Inventory) {
        for l in &inventory.listeners {
            self.meets_network(scope, &l.subject);
        }
        let Some(listeners) = self.listeners(scope) else {
            return;
        };
        if !inventory.beside_traps {
            *listeners = Listeners::default();
        }
        for l in &inventory.listeners {
            let listener = Listener {
                sk: l.sk,
                address: l.local.ip(),
                subject: Arc::clone(&l.subject),
            };
            // What a trap told is newer than what was read.
            listeners.insert_if_new(l.protocol, l.local.port(), listener);
        }
        if let Some(vm) = self.guests.get_mut(&scope) {
            vm.counted = inventory.beside_traps && inventory.sockets_read;
        }
        self.refresh();
        let world = self.world.load_full();
        // Where no trap tells of the next connection between the same ends, this one's verdict must end with it.
        let write = match world.vm(scope).is_some_and(|vm| vm.trapped) {
            true => Write::Revise,
            false => Write::Settle,
        };
        for c in inventory.connections.iter().filter(|c| inventory.is_outgoing(c)) {
            let way = Way {
                scope,
                protocol: c.protocol,
                local: c.local,
                remote: c.remote,
                vlan: netback_filter::Vlan::NONE,
            };
            if !way.stays_inside(&world) {
                let backend = self.flows.backend(&way.key()).ok().flatten();
                // It is under way: where it has no backend it goes where it is addressed.
                let end = backend.unwrap_or(way.remote);
                let judged = judge(&world, &way, &c.subject, Stage::Under { end, instead: false });
                write_verdict(&world, &self.flows, write, &way, &judged);
                self.owners.insert(way, &c.subject, judged.backend);
            }
        }
    }

    /// The guests that there are, are known.
    fn settle(&mut self) {
        self.dirty |= !self.settled;
        self.settled = true;
    }

    /// A route's address must not be a guest's: what is sent to the guest would go elsewhere.
    pub(super) fn check_routes(
        &self,
        rules: &policy::Ruleset,
        sets: &[String],
    ) -> Result<(), crate::daemon::DaemonError> {
        let world = self.world.load();
        for route in rules
            .routes()
            .iter()
            .filter(|route| sets.iter().any(|set| **set == *route.set))
        {
            for address in &route.addresses {
                if let Some(vm) = world.vm_at(*address) {
                    let by = match vm.configured.contains(address) {
                        true => "",
                        false => " by its own word",
                    };
                    return Err(crate::daemon::DaemonError::Invalid(format!(
                        "route {route}: {address} is an address of {}{by}; give the route one that no host has",
                        vm.id.name
                    )));
                }
            }
        }
        Ok(())
    }
}
