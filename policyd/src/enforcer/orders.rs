// SPDX-License-Identifier: GPL-3.0-only
//! What the enforcer does with each order and fact.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use policy::{Endpoint, Protocol, VmId};
use policyd_api::{Seen, What};
use vmi_xen::linux::Socket;
use vmi_xen::observe::Subject;

use super::{Enforcer, Order, Shown};
use crate::gate::{Fact, Told, Way, Write, decide, protocol, write_verdict};
use crate::inventory::Inventory;
use crate::present;
use crate::registry::lock;
use crate::world::{Listener, Listeners, Vm};

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
            Order::GuestUp { scope, vm, ready } => {
                self.guest_up(scope, vm);
                let _ = ready.send(());
            }
            Order::GuestDown { scope } => self.guest_down(scope),
            Order::Trapped { scope, trapped } => {
                if let Some(vm) = self.guests.get_mut(&scope)
                    && vm.trapped != trapped
                {
                    vm.trapped = trapped;
                    self.dirty = true;
                }
            }
            Order::Addresses { scope, addresses } => self.add_addresses(scope, &addresses, true),
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
            Fact::Executed(who) => self.say(
                scope,
                What::Exec {
                    process: present::process(&who),
                },
            ),
            Fact::Exited(who, code) => self.say(
                scope,
                What::Exit {
                    process: present::process(&who),
                    code,
                },
            ),
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
            Fact::Connecting { who, way, decision } => self.connects(&who, &way, Shown::Trap(decision)),
            Fact::Accepted { who, way } => self.accepts(&who, &way, None, Seen::Trap),
        }
    }

    /// A guest's process opens a flow.
    pub(super) fn connects(&mut self, who: &Arc<Subject>, way: &Way, shown: Shown) {
        let world = self.world.load_full();
        let now = decide(&world, way, who);
        let (decision, write) = match shown {
            Shown::Trap(then) if (then.verdict, then.generation) == (now.verdict, now.generation) => {
                (then, None)
            }
            // It was decided a moment before a change of policy or listeners that this thread has since put in force.
            Shown::Trap(_) => (now, Some(Write::Revise)),
            Shown::Lookup => (now, Some(Write::Settle)),
            Shown::Over => (now, None),
        };
        if !way.is_inside() {
            if let Some(write) = write {
                write_verdict(&world, &self.flows, write, way, &now);
            }
            if !matches!(shown, Shown::Over) {
                lock(&self.owners.map).insert(*way, Arc::clone(who));
            }
            if matches!(shown, Shown::Lookup) && way.protocol == Protocol::UDP {
                let port = (way.scope, way.local.port());
                self.datagrams.entry(port).or_default().push(*way);
            }
        }
        let (protocol, remote) = (way.protocol, way.remote);
        if let Some(peer) = world.vm_at(remote.ip())
            && peer.scope != way.scope
            && !peer.trapped
            && decision.verdict == policy::Verdict::Allow
        {
            self.ask_peer(who, way, peer.scope);
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
                remote,
                to: Box::new(to),
                decision: present::decision(&world, way.scope, &decision),
                seen: match shown {
                    Shown::Trap(_) => Seen::Trap,
                    Shown::Lookup | Shown::Over => Seen::Lookup,
                },
            },
        );
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
        if !way.is_inside() {
            lock(&self.owners.map).insert(*way, Arc::clone(who));
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
        self.guests.insert(
            scope,
            Vm {
                id,
                scope,
                addresses: Vec::new(),
                configured: Vec::new(),
                listeners: Arc::default(),
                trapped: false,
            },
        );
        self.refresh();
    }

    fn guest_down(&mut self, scope: u32) {
        self.guests.remove(&scope);
        self.heard.remove(&scope);
        self.gone.retain(|(of, _), _| *of != scope);
        self.doubts.retain(|(_, question, _)| question.way.scope != scope);
        self.datagrams.retain(|(of, _), _| *of != scope);
        lock(&self.owners.map).retain(|way, _| way.scope != scope);
        if let Err(e) = lock(&self.datapath).remove_scope(scope) {
            log::warn!("flows of domain {scope} stay in the map until they age out: {e}");
        }
        self.dirty = true;
    }

    /// `configured`: dom0 gave them, in xenstore; else the guest's memory says so.
    fn add_addresses(&mut self, scope: u32, addresses: &[std::net::IpAddr], configured: bool) {
        let Some(vm) = self.guests.get_mut(&scope) else {
            return;
        };
        let mut add = |list: &mut Vec<std::net::IpAddr>| {
            for address in addresses {
                if !list.contains(address) {
                    list.push(*address);
                    self.dirty = true;
                }
            }
        };
        add(&mut vm.addresses);
        if configured {
            add(&mut vm.configured);
        }
    }

    /// Takes what a whole reading of a guest found, and decides its connections.
    fn take_inventory(&mut self, scope: u32, inventory: Inventory) {
        self.add_addresses(scope, &inventory.addresses, false);
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
            };
            if !way.is_inside() {
                let decision = decide(&world, &way, &c.subject);
                write_verdict(&world, &self.flows, write, &way, &decision);
                lock(&self.owners.map).insert(way, Arc::clone(&c.subject));
            }
        }
    }
}
