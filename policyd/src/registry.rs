// SPDX-License-Identifier: GPL-3.0-only
//! The domains this host has, and what is known of each: the meeting place of watcher, domain threads and API.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use policy::VmId;
use policyd_api::{Mode, Probe, Vif};
use vmi_xen::session::{Inspector, Waker};
use vmi_xen::tap::TapHandle;

use crate::gate::GateStats;
use crate::integrity::Watchdog;

/// All domains, by id.
#[derive(Default)]
pub struct Registry {
    domains: RwLock<BTreeMap<u16, Arc<DomainEntry>>>,
}

/// One domain from its creation to its end.
pub struct DomainEntry {
    /// Domain id.
    pub id: u16,
    /// Name and UUID.
    pub vm: VmId,
    /// What is seen of it.
    pub sight: Mutex<Sight>,
    /// Reads the guest on demand; none until its kernel is known.
    pub inspector: Mutex<Option<Inspector>>,
    /// What checks of its kernel remember.
    pub watchdog: Mutex<Watchdog>,
    /// Counters of its gate.
    pub gate: Arc<GateStats>,
    stop: AtomicBool,
    down: AtomicBool,
    waker: Mutex<Option<Waker>>,
    served: Mutex<Option<Instant>>,
    taps: Mutex<Option<TapHandle>>,
}

/// What is seen of a domain, as `xmesh list` shows it.
#[derive(Clone)]
pub struct Sight {
    /// Degree of sight.
    pub mode: Mode,
    /// `running`, `paused`, …
    pub state: String,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Release of its kernel.
    pub kernel: Option<String>,
    /// Why sight is not better, with the remedy.
    pub problems: Vec<String>,
    /// Its vifs.
    pub vifs: Vec<Vif>,
    /// Its probes.
    pub probes: Vec<Probe>,
    /// Events handled.
    pub traps: u64,
}

impl DomainEntry {
    /// An entry for a domain that was just found.
    pub fn new(id: u16, vm: VmId) -> DomainEntry {
        DomainEntry {
            id,
            vm,
            sight: Mutex::new(Sight {
                mode: Mode::Off,
                state: "running".into(),
                vcpus: 0,
                kernel: None,
                problems: Vec::new(),
                vifs: Vec::new(),
                probes: Vec::new(),
                traps: 0,
            }),
            inspector: Mutex::new(None),
            watchdog: Mutex::default(),
            gate: Arc::default(),
            stop: AtomicBool::new(false),
            down: AtomicBool::new(false),
            waker: Mutex::new(None),
            served: Mutex::new(None),
            taps: Mutex::new(None),
        }
    }

    /// The sight, locked. Held only for moments, never on the trap path.
    pub fn sight(&self) -> MutexGuard<'_, Sight> {
        lock(&self.sight)
    }

    /// The scope of its vifs.
    pub fn scope(&self) -> u32 {
        u32::from(self.id)
    }

    /// Asks its thread to end and wakes it from the ring.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = &*lock(&self.waker) {
            waker.wake();
        }
    }

    /// Whether its thread is to end.
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Xen says that it has shut down: what is known of its kernel may be over, even if it goes on in the same domain.
    pub fn shut_down(&self) {
        self.down.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Whether it was shut down since [`DomainEntry::goes_on`].
    pub fn is_down(&self) -> bool {
        self.down.load(Ordering::SeqCst)
    }

    /// It runs again, and is looked at anew.
    pub fn goes_on(&self) {
        self.down.store(false, Ordering::SeqCst);
    }

    /// Says that its thread serves traps at this moment, or (`false`) that it has none to serve.
    pub fn serving(&self, serving: bool) {
        *lock(&self.served) = serving.then(Instant::now);
    }

    /// For how long its traps have not been served; none where there are none to serve.
    fn unserved(&self) -> Option<Duration> {
        lock(&self.served).map(|at| at.elapsed())
    }

    /// By which probes can be added; none while it is not watched by traps.
    pub fn taps(&self) -> Option<TapHandle> {
        lock(&self.taps).clone()
    }

    /// Says by which probes can be added.
    pub fn set_taps(&self, taps: Option<TapHandle>) {
        *lock(&self.taps) = taps;
    }

    /// What wakes its thread while it waits on the ring. A stop or a shutdown that came before is not lost.
    pub fn set_waker(&self, waker: Option<Waker>) {
        let mut slot = lock(&self.waker);
        *slot = waker;
        if (self.stopping() || self.is_down())
            && let Some(waker) = &*slot
        {
            waker.wake();
        }
    }
}

impl Registry {
    /// Whether the traps of every domain have been served within this time.
    pub fn served_within(&self, limit: Duration) -> bool {
        let late = |domain: &Arc<DomainEntry>| domain.unserved().is_some_and(|time| time > limit);
        !self.all().iter().any(late)
    }

    /// All domains in the order of their ids.
    pub fn all(&self) -> Vec<Arc<DomainEntry>> {
        self.domains
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// The domain with this id.
    pub fn by_id(&self, id: u16) -> Option<Arc<DomainEntry>> {
        self.domains
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned()
    }

    /// A domain by name, or by id when no domain has the number as its name: as xl does it.
    pub fn find(&self, name_or_id: &str) -> Option<Arc<DomainEntry>> {
        let domains = self.domains.read().unwrap_or_else(PoisonError::into_inner);
        domains
            .values()
            .find(|d| d.vm.name == name_or_id)
            .or_else(|| name_or_id.parse().ok().and_then(|id: u16| domains.get(&id)))
            .cloned()
    }

    /// Adds a domain.
    pub fn insert(&self, entry: Arc<DomainEntry>) {
        self.domains
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(entry.id, entry);
    }

    /// Takes a domain out.
    pub fn remove(&self, id: u16) -> Option<Arc<DomainEntry>> {
        self.domains
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id)
    }
}

/// Locks, and takes what a panicked holder left: every value here is whole between statements.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
