// SPDX-License-Identifier: GPL-3.0-only
//! The thread of one domain: finds its kernel, attaches, watches, and starts over when the guest changes under it.

use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam_channel::Sender;
use netback_filter::FlowWriter;
use policy::Protocol;
use policyd_api::{Mode, Probe, What};
use vmi_xen::linux::{self, SocketState};
use vmi_xen::session::{End, Inspector, Session, SessionError, Status};

use crate::enforcer::Order;
use crate::gate::{Fact, Gate};
use crate::inventory::{FoundConnection, FoundListener, Inventory};
use crate::registry::{DomainEntry, lock};
use crate::world::World;

/// A guest that is still booting is looked at again this soon, then ever more rarely.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// The longest pause between two tries.
const LAST_RETRY: Duration = Duration::from_secs(10);
/// How often listeners and addresses are read where no trap tells of them.
const LOOKUP_PERIOD: Duration = Duration::from_secs(5);

/// What the threads of all domains share.
pub struct Context {
    /// The domains.
    pub registry: Arc<crate::registry::Registry>,
    /// What the gates decide by.
    pub world: Arc<ArcSwap<World>>,
    /// Where the gates write.
    pub flows: FlowWriter,
    /// To the enforcer.
    pub orders: Sender<Order>,
    /// To the enforcer, from the trap path.
    pub facts: Sender<(u32, Fact)>,
    /// Where the undo records are.
    pub undo_dir: PathBuf,
}

impl Context {
    /// Gives the enforcer an order.
    pub fn order(&self, order: Order) {
        // The enforcer ends last; when it is gone so is the use of the order.
        let _ = self.orders.send(order);
    }

    /// Logs an event about a domain.
    pub fn say(&self, entry: &DomainEntry, what: What) {
        self.order(Order::Say {
            domain: Some((entry.id, entry.vm.name.clone())),
            what,
        });
    }
}

/// Watches one domain until it or the daemon ends.
pub fn watch(context: &Context, entry: &Arc<DomainEntry>) {
    let mut pause = FIRST_RETRY;
    while !entry.stopping() {
        // A fault of ours in one guest's thread must cost neither that guest (the session is dropped, which frees it) nor the
        // others.
        let outcome = catch_unwind(AssertUnwindSafe(|| try_watch(context, entry)));
        entry.set_waker(None);
        let outcome = outcome.unwrap_or(Err(SessionError::Fault));
        match outcome {
            Ok(End::Stopped | End::Gone) => break,
            Ok(End::KernelChanged) => {
                pause = FIRST_RETRY;
                sight(
                    context,
                    entry,
                    Mode::Vm,
                    "the guest has another kernel now; reading it",
                );
            }
            Err(e) => {
                let mode = if lock(&entry.inspector).is_some() {
                    Mode::Lookup
                } else {
                    Mode::Vm
                };
                sight(context, entry, mode, &e.to_string());
                if mode == Mode::Lookup && e.is_permanent() {
                    look_up(context, entry);
                    pause = FIRST_RETRY;
                }
                nap(entry, pause);
                pause = (pause * 2).min(LAST_RETRY);
            }
        }
    }
    *lock(&entry.inspector) = None;
}

/// One attachment, from reading the kernel to its end.
fn try_watch(context: &Context, entry: &Arc<DomainEntry>) -> Result<End, SessionError> {
    let domid = u32::from(entry.id);
    *lock(&entry.inspector) = None;
    let inspector = Inspector::open(domid)?;
    {
        let mut sight = entry.sight();
        sight.kernel = Some(inspector.release().to_owned());
        sight.vcpus = inspector.vcpus();
    }
    let kernel = inspector.kernel().clone();
    *lock(&entry.inspector) = Some(inspector);

    let gate = Gate::new(
        entry.scope(),
        Arc::clone(&context.world),
        context.flows.clone(),
        context.facts.clone(),
        Arc::clone(&entry.gate),
    );
    let mut session = Session::attach(domid, kernel, &context.undo_dir, gate)?;
    entry.set_waker(Some(session.waker()));
    publish(entry, &session.status());
    // After the probes are armed: a connection is in the inventory, or it traps, or both.
    take_stock(context, entry);
    let message = match session.status().uncovered.as_slice() {
        [] => "every probe is armed".to_owned(),
        uncovered => uncovered.join("; "),
    };
    sight(context, entry, Mode::Altp2m, &message);
    if session.status().uncovered.is_empty() {
        entry.sight().problems.clear();
    }
    session.run(&mut || entry.stopping(), &mut |status| publish(entry, status))
}

/// Without traps: reads the guest now and then, so that processes, listeners and addresses are known. Returns when it cannot be
/// read any more: it may run another kernel.
fn look_up(context: &Context, entry: &DomainEntry) {
    while !entry.stopping() && take_stock(context, entry) {
        nap(entry, LOOKUP_PERIOD);
    }
}

fn publish(entry: &DomainEntry, status: &Status) {
    let mut sight = entry.sight();
    sight.traps = status.traps;
    sight.probes = status
        .probes
        .iter()
        .map(|p| Probe {
            function: p.function.to_owned(),
            resume: p.resume.clone(),
            hits: p.hits,
        })
        .collect();
}

/// Reads listeners, connections and addresses, and hands them to the enforcer. Returns whether they could be read.
fn take_stock(context: &Context, entry: &DomainEntry) -> bool {
    let inventory = {
        let inspector = lock(&entry.inspector);
        let Some(inspector) = inspector.as_ref() else {
            return false;
        };
        let sockets = match inspector.sockets() {
            Ok(sockets) => sockets,
            Err(e) => {
                log::warn!("{}: sockets could not be read: {e}", entry.vm.name);
                return false;
            }
        };
        let mut inventory = Inventory {
            addresses: routable(inspector),
            ..Inventory::default()
        };
        for (socket, subject) in sockets {
            let protocol = match socket.protocol {
                linux::Protocol::Tcp => Protocol::TCP,
                linux::Protocol::Udp => Protocol::UDP,
            };
            match socket.remote {
                Some(remote) if protocol == Protocol::TCP => {
                    inventory.connections.push(FoundConnection {
                        local: socket.local,
                        remote,
                        subject,
                    });
                }
                None if socket.local.port() != 0
                    && (protocol == Protocol::UDP || socket.state == SocketState::Listen) =>
                {
                    inventory.listeners.push(FoundListener {
                        protocol,
                        local: socket.local,
                        netns: socket.netns,
                        subject,
                    });
                }
                _ => {}
            }
        }
        inventory
    };
    {
        let mut sight = entry.sight();
        for address in &inventory.addresses {
            if !sight.addresses.contains(address) {
                sight.addresses.push(*address);
            }
        }
    }
    context.order(Order::Inventory {
        scope: entry.scope(),
        inventory,
    });
    true
}

/// Addresses of the guest's interfaces that a peer may use.
fn routable(inspector: &Inspector) -> Vec<IpAddr> {
    let addresses = inspector.addresses().unwrap_or_default();
    addresses
        .into_iter()
        .map(|a| a.addr)
        .filter(|a| !a.is_loopback() && !a.is_unspecified())
        .collect()
}

fn sight(context: &Context, entry: &DomainEntry, mode: Mode, message: &str) {
    let changed = {
        let mut sight = entry.sight();
        let news = sight.mode != mode || sight.problems.first().map(String::as_str) != Some(message);
        sight.mode = mode;
        sight.problems = vec![message.to_owned()];
        if mode != Mode::Altp2m {
            sight.probes.clear();
        }
        news
    };
    if changed {
        log::info!("{}: {}: {message}", entry.vm.name, mode.as_str());
        context.say(
            entry,
            What::Sight {
                mode,
                message: message.to_owned(),
            },
        );
    }
}

/// Sleeps, but not past a stop.
fn nap(entry: &DomainEntry, time: Duration) {
    let end = Instant::now() + time;
    while !entry.stopping() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50).min(time));
    }
}
