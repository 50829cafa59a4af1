// SPDX-License-Identifier: GPL-3.0-only
//! What the enforcer does with each order and fact.

use std::net::SocketAddr;
use std::sync::Arc;

use policy::{Protocol, VmId};
use policyd_api::{Applied, What};
use vmi_xen::observe::Subject;

use super::{Enforcer, Order};
use crate::gate::{Fact, Write, decide_tcp, write_verdict};
use crate::inventory::Inventory;
use crate::present;
use crate::registry::lock;
use crate::world::{Listener, Listeners, Vm};

impl Enforcer {
    pub(super) fn obey(&mut self, order: Order) {
        match order {
            Order::Apply { request, uid, reply } => {
                let _ = reply.send(self.apply(&request, uid));
            }
            Order::Delete { name, uid, reply } => {
                let _ = reply.send(self.delete(&name, uid));
            }
            Order::List { reply } => {
                let _ = reply.send(self.policies.list());
            }
            Order::Show { name, reply } => {
                let _ = reply.send(self.policies.show(&name));
            }
            Order::GuestUp { scope, vm, ready } => {
                self.guest_up(scope, vm);
                let _ = ready.send(());
            }
            Order::GuestDown { scope } => self.guest_down(scope),
            Order::Addresses { scope, addresses } => self.add_addresses(scope, &addresses, true),
            Order::Inventory {
                scope,
                inventory,
                done,
            } => {
                self.take_inventory(scope, inventory);
                let _ = done.send(());
            }
            Order::Vif(event) => self.vif_event(&event),
            Order::Say { domain, what } => {
                self.log
                    .publish(domain.as_ref().map(|(id, name)| (*id, name.as_str())), what);
            }
            Order::Stop => {}
        }
    }

    pub(super) fn note(&mut self, scope: u32, fact: Fact) {
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
            Fact::Exited(who, code) => {
                let gone = self
                    .listeners(scope)
                    .is_some_and(|l| l.remove_process(who.process.tgid));
                self.dirty |= gone;
                self.say(
                    scope,
                    What::Exit {
                        process: present::process(&who),
                        code,
                    },
                );
            }
            Fact::Listening { who, local, netns } => {
                self.listens(scope, Protocol::TCP, local, netns, Arc::clone(&who));
                self.say(
                    scope,
                    What::Listen {
                        process: present::process(&who),
                        local,
                    },
                );
            }
            Fact::Connecting {
                who,
                local,
                remote,
                mut decision,
            } => {
                let world = self.world.load_full();
                // The trap may have been decided a moment before a change of policy or listeners that this thread has
                // since put in force.
                let now = decide_tcp(&world, scope, &who, local, remote);
                let inside = remote.ip().is_loopback() || remote.ip() == local.ip();
                if (now.verdict, now.generation) != (decision.verdict, decision.generation) && !inside {
                    write_verdict(&world, &self.flows, Write::Revise, scope, local, remote, &now);
                    decision = now;
                }
                if !inside {
                    lock(&self.owners.map).insert((scope, local, remote), Arc::clone(&who));
                }
                let to = present::party(
                    &world,
                    &world.destination(Protocol::TCP, remote.ip(), remote.port()),
                    Some((Protocol::TCP, remote.port())),
                    world
                        .vm_at(remote.ip())
                        .and_then(|vm| vm.listeners.owner_of(Protocol::TCP, remote.ip(), remote.port())),
                );
                let decision = present::decision(&world, scope, &decision);
                self.say(
                    scope,
                    What::Connect {
                        process: present::process(&who),
                        local,
                        remote,
                        to: Box::new(to),
                        decision,
                    },
                );
            }
        }
    }

    fn listens(
        &mut self,
        scope: u32,
        protocol: Protocol,
        local: SocketAddr,
        netns: u32,
        subject: Arc<Subject>,
    ) {
        if let Some(listeners) = self.listeners(scope) {
            listeners.insert(
                protocol,
                local.port(),
                Listener {
                    address: local.ip(),
                    netns,
                    subject,
                },
            );
            self.dirty = true;
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
            },
        );
        self.refresh();
    }

    fn guest_down(&mut self, scope: u32) {
        self.guests.remove(&scope);
        lock(&self.owners.map).retain(|(s, _, _), _| *s != scope);
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
                address: l.local.ip(),
                netns: l.netns,
                subject: Arc::clone(&l.subject),
            };
            // What a trap told is newer than what was read.
            listeners.insert_if_new(l.protocol, l.local.port(), listener);
        }
        self.refresh();
        let world = self.world.load_full();
        for c in inventory
            .connections
            .iter()
            .filter(|c| inventory.is_outgoing(c) && !c.remote.ip().is_loopback())
        {
            let decision = decide_tcp(&world, scope, &c.subject, c.local, c.remote);
            write_verdict(
                &world,
                &self.flows,
                Write::Revise,
                scope,
                c.local,
                c.remote,
                &decision,
            );
            lock(&self.owners.map).insert((scope, c.local, c.remote), Arc::clone(&c.subject));
        }
    }

    fn apply(
        &mut self,
        request: &policyd_api::ApplyRequest,
        uid: u32,
    ) -> Result<Applied, crate::daemon::DaemonError> {
        let change = self.policies.prepare_apply(request, uid)?;
        if request.dry_run {
            return Ok(Applied {
                name: change.name().to_owned(),
                generation: self.policies.rules().generation(),
                flows_changed: 0,
                dry_run: true,
            });
        }
        self.carry_out(change, "apply")
    }

    fn delete(&mut self, name: &str, uid: u32) -> Result<Applied, crate::daemon::DaemonError> {
        let change = self.policies.prepare_delete(name, uid)?;
        self.carry_out(change, "delete")
    }

    /// Durable first, then in force, then acknowledged. When it cannot be put in force it is taken back from the store, so
    /// that a refused change is absent everywhere.
    fn carry_out(
        &mut self,
        change: super::policies::Change,
        verb: &str,
    ) -> Result<Applied, crate::daemon::DaemonError> {
        let name = change.name().to_owned();
        let rules = Arc::clone(change.rules());
        let undo = self.policies.store_change(&change)?;
        match self.enforce(Arc::clone(&rules)) {
            Ok(flows_changed) => {
                self.policies.adopt(change);
                let generation = rules.generation();
                self.log.publish(
                    None,
                    What::Policy {
                        generation,
                        change: format!("{verb} {name}"),
                    },
                );
                Ok(Applied {
                    name,
                    generation,
                    flows_changed,
                    dry_run: false,
                })
            }
            Err(e) => {
                self.policies.take_back(undo)?;
                Err(e)
            }
        }
    }
}
