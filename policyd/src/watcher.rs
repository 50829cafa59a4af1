// SPDX-License-Identifier: GPL-3.0-only
//! Follows domains and vifs as they come and go.
//!
//! Xenstore and the kernel's link messages only say *that* something changed; each time the watcher compares what there is
//! with what it has, so that a message lost or doubled does no harm.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use netback_filter::{Datapath, VifConfig};
use policy::VmId;
use policyd_api::{Mode, Vif, What};
use xen_bindings::store::Store as Xenstore;
use xen_bindings::{DomId, DomainInfo, Xen};

use crate::domain::{self, Context};
use crate::enforcer::Order;
use crate::registry::DomainEntry;

/// Without any message the watcher looks this often all the same.
const PERIOD: Duration = Duration::from_secs(1);

/// The watcher and the threads of the domains it follows.
pub struct Watcher {
    context: Arc<Context>,
    xen: Xen,
    xenstore: Xenstore,
    datapath: Arc<Datapath>,
    threads: BTreeMap<u16, JoinHandle<()>>,
    /// vifs the datapath could not be attached to, so that each is logged once.
    refused: BTreeSet<String>,
}

impl Watcher {
    /// A watcher that has not looked yet.
    pub fn new(context: Arc<Context>, xen: Xen, xenstore: Xenstore, datapath: Arc<Datapath>) -> Watcher {
        Watcher { context, xen, xenstore, datapath, threads: BTreeMap::new(), refused: BTreeSet::new() }
    }

    /// Follows until `stop`; then ends the domains' threads, each of which frees its guest.
    pub fn run(mut self, stop: &AtomicBool) {
        let links = crate::links::LinkMonitor::open();
        if let Err(e) = &links {
            log::warn!("no link messages from the kernel ({e}); looking every {PERIOD:?} instead");
        }
        while !stop.load(Ordering::SeqCst) {
            self.reconcile();
            match &links {
                Ok(links) => links.wait(PERIOD),
                Err(_) => std::thread::sleep(PERIOD),
            }
        }
        for entry in self.context.registry.all() {
            entry.stop();
        }
        for (_, thread) in std::mem::take(&mut self.threads) {
            let _ = thread.join();
        }
    }

    /// Looks once.
    fn reconcile(&mut self) {
        let present = match self.xen.domains() {
            Ok(domains) => domains,
            Err(e) => {
                log::error!("cannot list the domains: {e}");
                return;
            }
        };
        let ids: BTreeSet<u16> = present.iter().filter(|d| !d.dying).map(|d| d.id.0).collect();
        for gone in self.context.registry.all().iter().filter(|e| !ids.contains(&e.id)) {
            self.forget(gone);
        }
        for info in present.iter().filter(|d| !d.dying && d.id.0 != 0) {
            let entry = match self.context.registry.by_id(info.id.0) {
                Some(entry) => entry,
                None => match self.welcome(info) {
                    Some(entry) => entry,
                    None => continue,
                },
            };
            self.cover(&entry);
        }
    }

    /// A domain that is new. None while the toolstack has not named it yet.
    fn welcome(&mut self, info: &DomainInfo) -> Option<Arc<DomainEntry>> {
        let name = self.xenstore.domain_name(info.id).ok().flatten()?;
        let entry = Arc::new(DomainEntry::new(info.id.0, VmId { name, uuid: info.uuid }));
        self.context.registry.insert(Arc::clone(&entry));
        self.context.say(&entry, What::Domain { change: "created".into() });
        self.context.order(Order::GuestUp { scope: entry.scope(), vm: entry.vm.clone() });
        // The vifs before sight: from here on the defaults hold, whatever the guest does while its kernel is read.
        self.cover(&entry);
        let context = Arc::clone(&self.context);
        let for_thread = Arc::clone(&entry);
        match std::thread::Builder::new()
            .name(format!("dom-{}", entry.id))
            .spawn(move || domain::watch(&context, &for_thread))
        {
            Ok(thread) => {
                self.threads.insert(entry.id, thread);
            }
            Err(e) => log::error!("{}: no thread to watch it ({e}); its traffic is decided by VM alone", entry.vm.name),
        }
        Some(entry)
    }

    fn forget(&mut self, entry: &Arc<DomainEntry>) {
        entry.stop();
        if let Some(thread) = self.threads.remove(&entry.id) {
            // It may be in a hypercall on a dying domain; those end. Joining keeps its memory mappings from outliving it.
            let _ = thread.join();
        }
        self.context.registry.remove(entry.id);
        self.context.order(Order::GuestDown { scope: entry.scope() });
        self.context.say(entry, What::Domain { change: "destroyed".into() });
    }

    /// Attaches the datapath to vifs of the domain that do not have it, and takes its addresses from xenstore.
    fn cover(&mut self, entry: &Arc<DomainEntry>) {
        let mut vifs = Vec::new();
        let mut configured: Vec<IpAddr> = Vec::new();
        for backend in self.xenstore.vifs(DomId(entry.id)).unwrap_or_default() {
            let covered = match self.datapath.attach(&backend.name, VifConfig { scope: entry.scope() }) {
                Ok(()) => {
                    self.refused.remove(&backend.name);
                    true
                }
                // The link appears a moment after the xenstore node.
                Err(e) if e.is_no_such_interface() => false,
                Err(e) => {
                    if self.refused.insert(backend.name.clone()) {
                        log::error!("{}: {}: {e}", entry.vm.name, backend.name);
                    }
                    false
                }
            };
            configured.extend(backend.addresses);
            vifs.push(Vif { name: backend.name, mac: backend.mac, covered });
        }
        let changed = {
            let mut sight = entry.sight();
            if !vifs.is_empty() && sight.mode == Mode::Off {
                sight.mode = Mode::Vm;
            }
            sight.vifs = vifs;
            !configured.iter().all(|a| sight.addresses.contains(a))
        };
        if changed {
            self.context.order(Order::Addresses { scope: entry.scope(), addresses: configured.clone() });
            let mut sight = entry.sight();
            for address in configured {
                if !sight.addresses.contains(&address) {
                    sight.addresses.push(address);
                }
            }
        }
    }
}
