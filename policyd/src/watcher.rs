// SPDX-License-Identifier: GPL-3.0-only
//! Follows domains and vifs as they come and go.
//!
//! Xenstore and the kernel's link messages only say *that* something changed; each time the watcher compares what there is
//! with what it has, so that a message lost or doubled does no harm.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use netback_filter::Datapath;
use policy::VmId;
use policyd_api::{Mode, What};
use xen_bindings::Xen;
use xen_bindings::domain::{self as xen_domain, DomainInfo};
use xen_bindings::store::Store as Xenstore;

use crate::backends::Backends;
use crate::cover::{Cover, Links, mac};
use crate::domain::{self, Context};
use crate::enforcer::Order;
use crate::facts::Learner;
use crate::registry::DomainEntry;

/// Without any message the watcher looks this often all the same.
const PERIOD: Duration = Duration::from_secs(1);

/// The vifs of a domain by xenstore: MAC address, and the addresses that dom0 gave it.
type Vifs = Vec<(Option<[u8; 6]>, Vec<IpAddr>)>;

/// The watcher and the threads of the domains it follows.
pub struct Watcher {
    context: Arc<Context>,
    xen: Xen,
    xenstore: Xenstore,
    backends: Backends,
    cover: Cover,
    threads: BTreeMap<u16, JoinHandle<()>>,
    /// The vifs that the enforcer was told of.
    configured: BTreeMap<u16, Vifs>,
    /// Since when domains are paused, and whether the enforcer was told. A pause of a moment is one of the daemon's own.
    paused: BTreeMap<u16, (Instant, bool)>,
    learner: Learner,
}

impl Watcher {
    /// A watcher that has not looked yet.
    pub fn new(
        context: Arc<Context>,
        xen: Xen,
        xenstore: Xenstore,
        datapath: Arc<Mutex<Datapath>>,
    ) -> Watcher {
        Watcher {
            context,
            xen,
            xenstore,
            backends: Backends::new(),
            cover: Cover::new(datapath),
            threads: BTreeMap::new(),
            configured: BTreeMap::new(),
            paused: BTreeMap::new(),
            learner: Learner::new(),
        }
    }

    /// Follows until `stop`; then ends the domains' threads, each of which frees its guest.
    pub fn run(mut self, stop: &AtomicBool) {
        let links = crate::links::LinkMonitor::open();
        if let Err(e) = &links {
            log::warn!("no link messages from the kernel ({e}); looking every {PERIOD:?} instead");
        }
        let mut first = true;
        let mut links_changed = true;
        while !stop.load(Ordering::SeqCst) {
            self.reconcile(links_changed);
            if std::mem::take(&mut first) {
                self.context.order(Order::Settled);
            }
            let wakers = [self.learner.woken_by(), self.backends.woken_by()];
            links_changed = match &links {
                Ok(links) => links.wait(wakers.into_iter().flatten(), PERIOD),
                Err(_) => {
                    std::thread::sleep(PERIOD);
                    true
                }
            };
        }
        for entry in self.context.registry.all() {
            entry.stop();
        }
        for (_, thread) in std::mem::take(&mut self.threads) {
            let _ = thread.join();
        }
    }

    /// Looks once. `links_changed`: an interface came or went, or another is up. The kernel may tell of it before xenstore does.
    fn reconcile(&mut self, links_changed: bool) {
        let present = match xen_domain::list(&self.xen) {
            Ok(domains) => domains,
            Err(e) => {
                log::error!("cannot list the domains: {e}");
                return;
            }
        };
        let ids: BTreeSet<u16> = present.iter().filter(|d| !d.dying).filter_map(number).collect();
        for gone in self
            .context
            .registry
            .all()
            .iter()
            .filter(|e| !ids.contains(&e.id))
        {
            self.forget(gone);
        }
        self.learner.hear();
        self.backends.hear(links_changed);
        let mut links = self.cover.look(links_changed);
        for info in present.iter().filter(|d| !d.dying) {
            let Some(id) = number(info).filter(|id| *id != 0) else {
                continue;
            };
            let entry = match self.context.registry.by_id(id) {
                Some(entry) => entry,
                None => match self.welcome(id, info) {
                    Some(entry) => {
                        links = self.cover.look(false);
                        entry
                    }
                    None => continue,
                },
            };
            entry.sight().state = state(info).into();
            if info.shutdown.is_some() {
                entry.shut_down();
            }
            self.watch_pause(&entry, info.paused);
            if let Some(facts) = self.learner.learn(&self.xenstore, id, &entry.vm.name, info) {
                let scope = entry.scope();
                self.context.order(Order::Facts { scope, facts });
            }
            self.cover(&entry, &links);
        }
    }

    /// A domain that is new. None while the toolstack has not named it yet.
    fn welcome(&mut self, id: u16, info: &DomainInfo) -> Option<Arc<DomainEntry>> {
        let name = self.xenstore.domain_name(info.domid).ok().flatten()?;
        let entry = Arc::new(DomainEntry::new(id, VmId::new(name, info.uuid)));
        self.context.registry.insert(Arc::clone(&entry));
        self.context.say(
            &entry,
            What::Domain {
                change: "created".into(),
            },
        );
        entry.sight().vcpus = info.vcpus;
        let facts = self.learner.learn(&self.xenstore, id, &entry.vm.name, info);
        let (ready, is_ready) = bounded(1);
        self.context.order(Order::GuestUp {
            scope: entry.scope(),
            vm: VmId {
                facts: facts.unwrap_or_default(),
                ..entry.vm.clone()
            },
            ready,
        });
        // Its defaults must hold before a vif is covered. A vif that has to wait longer is covered with the next look.
        let _ = is_ready.recv_timeout(PERIOD);
        // The vifs before sight: from here on the defaults hold, whatever the guest does while its kernel is read.
        let links = self.cover.look(false);
        self.cover(&entry, &links);
        let context = Arc::clone(&self.context);
        let for_thread = Arc::clone(&entry);
        match std::thread::Builder::new()
            .name(format!("dom-{}", entry.id))
            .spawn(move || domain::watch(&context, &for_thread))
        {
            Ok(thread) => {
                self.threads.insert(entry.id, thread);
            }
            Err(e) => log::error!(
                "{}: no thread to watch it ({e}); its traffic is decided by VM alone",
                entry.vm.name
            ),
        }
        Some(entry)
    }

    fn forget(&mut self, entry: &Arc<DomainEntry>) {
        entry.stop();
        if let Some(thread) = self.threads.remove(&entry.id) {
            // It may be in a hypercall on a dying domain; those end. Joining keeps its memory mappings from outliving it.
            let _ = thread.join();
        }
        self.configured.remove(&entry.id);
        self.paused.remove(&entry.id);
        self.learner.forget(entry.id);
        self.context.registry.remove(entry.id);
        self.context.order(Order::GuestDown { scope: entry.scope() });
        self.context.say(
            entry,
            What::Domain {
                change: "destroyed".into(),
            },
        );
    }

    /// Attaches the datapath to interfaces of the domain that do not have it, and takes its addresses from xenstore.
    fn cover(&mut self, entry: &Arc<DomainEntry>, links: &Links) {
        let backends = self.backends.of(&self.xenstore, entry.id);
        let configured: Vifs = backends
            .iter()
            .map(|b| {
                let given = b.ip.iter().filter_map(|ip| address(ip)).collect();
                (b.mac.as_deref().and_then(mac), given)
            })
            .collect();
        let registry = &self.context.registry;
        let lives = |scope| u16::try_from(scope).is_ok_and(|id| registry.by_id(id).is_some());
        let guest = (entry.scope(), entry.vm.name.as_str());
        let (vifs, news) = self.cover.cover(links, guest, backends, lives);
        if news {
            self.context.order(Order::Covered);
        }
        let mut sight = entry.sight();
        if !vifs.is_empty() && sight.mode == Mode::Off {
            sight.mode = Mode::Vm;
        }
        sight.vifs = vifs;
        drop(sight);
        if self.configured.get(&entry.id) != Some(&configured) {
            self.configured.insert(entry.id, configured.clone());
            self.context.order(Order::Vifs {
                scope: entry.scope(),
                vifs: configured,
            });
        }
    }

    /// Tells of a pause that lasts, and of its end.
    fn watch_pause(&mut self, entry: &DomainEntry, paused: bool) {
        let scope = entry.scope();
        if !paused {
            if let Some((_, true)) = self.paused.remove(&entry.id) {
                self.context.order(Order::Paused { scope, paused });
            }
            return;
        }
        let (since, told) = self.paused.entry(entry.id).or_insert((Instant::now(), false));
        if !*told && since.elapsed() >= PERIOD / 2 {
            *told = true;
            self.context.order(Order::Paused { scope, paused });
        }
    }
}

/// Domain ids of guests have 15 bits; what does not fit is no guest.
fn number(info: &DomainInfo) -> Option<u16> {
    u16::try_from(info.domid).ok()
}

fn state(info: &DomainInfo) -> &'static str {
    match info {
        DomainInfo { dying: true, .. } => "dying",
        DomainInfo {
            shutdown: Some(_), ..
        } => "shutdown",
        DomainInfo { paused: true, .. } => "paused",
        _ => "running",
    }
}

/// An address of the vif's `ip=`, which may carry a prefix length.
fn address(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_xenstore() {
        assert_eq!(address("10.0.0.11/24"), "10.0.0.11".parse().ok());
        assert_eq!(address("nonsense"), None);
    }
}
