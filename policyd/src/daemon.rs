// SPDX-License-Identifier: GPL-3.0-only
//! The daemon: what starts in which order, what the API can ask, and how all of it ends.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam_channel::{Sender, bounded};
use netback_filter::{Config as DatapathConfig, Datapath};
use netback_filter::{DecidedBy, Direction, FlowRecord};
use policy::{Decider, Decision, Protocol, Refuse, Ruleset, Verdict};
use policyd_analytics::saturation::Saturation;
use policyd_api as api;
use policyd_store::{FlowConfig, FlowStore, Store};
use tokio::sync::watch;
use vmi_xen::meter::TrapBudget;
use vmi_xen::observe::Subject;
use xen_bindings::Xen;
use xen_bindings::store::Store as Xenstore;
use xen_bindings::version::Version;

use crate::addresses;
use crate::api::Access;
use crate::args::Options;
use crate::bridges;
use crate::classes::ClassNumbers;
use crate::control::Control;
use crate::domain::Context;
use crate::dry_runs::DryRuns;
use crate::enforcer::{Enforcer, Order, Owners, Policies, Readers};
use crate::events::{EventLog, now_ns};
use crate::gate::{Way, decider, is_instead};
use crate::graph;
use crate::guardian::{self, Supervisor};
use crate::health;
use crate::holding::{Holding, Limits};
use crate::integrity;
use crate::lock::InstanceLock;
use crate::lookups::{self, Lookups};
use crate::measures::{self, Measures};
use crate::past::{self, PastFlows};
use crate::present;
use crate::priority;
use crate::recorder::{Notes, Recorder};
use crate::registry::{DomainEntry, Registry, lock};
use crate::rollout;
use crate::routes::Facade;
use crate::shadow::Shadow;
use crate::shapes::{self, Shapes};
use crate::signals::Signals;
use crate::threats::{self, Answers, Threats};
use crate::traces::Trace;
use crate::watcher::Watcher;
use crate::world::World;
use crate::{api as server, vif_events};

/// Events kept for readers that come late.
const EVENT_LOG: usize = 16 << 10;
/// Facts under way from all domains' threads to the enforcer.
const FACTS: usize = 64 << 10;
/// Orders under way to the enforcer.
const ORDERS: usize = 1024;

/// A flow's protocol, the address that it is for, and its backend.
type FlowKeyEnd = (u8, SocketAddr, SocketAddr);

/// What the daemon answers when it cannot do what is asked.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// No such domain.
    #[error("there is no domain {0}; `xmesh list` shows them")]
    NoSuchDomain(String),
    /// No such policy set.
    #[error("there is no policy {0}; `xmesh policy-list` shows them")]
    NoSuchPolicy(String),
    /// The input is wrong; every line says where and what to do.
    #[error("{0}")]
    Invalid(String),
    /// No such generation, or it is not kept.
    #[error("{0}")]
    NoSuchGeneration(String),
    /// The policy is not what the caller thought that it is.
    #[error(
        "generation {generation} is in force, not {expected}: somebody changed the policy meanwhile; nothing was changed. Look at \
         `xmesh policy-diff {expected}` and try again with {generation}"
    )]
    Stale {
        /// The generation in force.
        generation: u64,
        /// The one that the caller has seen.
        expected: u64,
    },
    /// Not now.
    #[error("{0}")]
    Unavailable(String),
    /// The daemon's own trouble.
    #[error("{0}")]
    Internal(String),
}

impl From<netback_filter::Error> for DaemonError {
    fn from(e: netback_filter::Error) -> DaemonError {
        DaemonError::Internal(format!("the vifs: {e}"))
    }
}

/// All that the API needs.
pub struct Daemon {
    /// The event log.
    pub events: Arc<EventLog>,
    /// What looks like an attack.
    pub threats: Arc<Threats>,
    /// How services fare with one another.
    pub signals: Arc<Signals>,
    pub(crate) saturation: Mutex<Saturation>,
    /// Policy: its changes, its history.
    pub control: Arc<Control>,
    /// Flows of the past.
    pub past: Arc<PastFlows>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) world: Arc<ArcSwap<World>>,
    owners: Arc<Owners>,
    lookups: Lookups,
    measures: Measures,
    pub(crate) datapath: Arc<Mutex<Datapath>>,
    pub(crate) classes: Arc<Mutex<ClassNumbers>>,
    pub(crate) dry_runs: Arc<DryRuns>,
    orders: Sender<Order>,
    supervisor: Arc<Supervisor>,
    shape_problems: shapes::Problems,
    stopping: watch::Receiver<bool>,
    started: Instant,
    xen: String,
}

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// Whatever keeps it from starting, as a sentence for the log.
pub fn run(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let run_dir = &options.run_dir;
    std::fs::create_dir_all(run_dir).map_err(|e| format!("cannot make {}: {e}", run_dir.display()))?;
    let _lock = InstanceLock::take(&run_dir.join("lock"))?;
    let datapath_config = DatapathConfig {
        pin_dir: options.pin_dir.clone(),
        ..DatapathConfig::default()
    };
    if options.detach {
        Datapath::open(datapath_config)?.detach_all()?;
        return Ok(());
    }
    let undo_dir = run_dir.join("undo");
    std::fs::create_dir_all(&undo_dir).map_err(|e| format!("cannot make {}: {e}", undo_dir.display()))?;
    // If daemon and guardian died together, guests may still be held.
    guardian::free_all(&undo_dir, Duration::from_secs(5));

    let xen = Xen::open()?;
    let version = Version::query(&xen)?;
    if !version.altp2m_requested() {
        log::warn!(
            "Xen was booted without altp2m=1: no traps that a guest cannot see; on Intel add it to Xen's command line in GRUB and reboot"
        );
    }
    let store = Store::open(&options.store, policyd_store::Config::default())?;
    let (policies, problems) = Policies::load(store.clone())?;
    for problem in &problems {
        log::error!("{problem}");
    }
    let datapath = Datapath::open(datapath_config)?;
    log::info!("datapath: {:?}", datapath.opened());
    let vif_events = datapath.events()?;
    let datapath = Arc::new(Mutex::new(datapath));

    guardian::spare_from_oom();
    let registry = Arc::new(Registry::default());
    let supervisor = Arc::new(Supervisor::start(&undo_dir, Arc::clone(&registry))?);
    let events = Arc::new(EventLog::new(EVENT_LOG));
    for message in problems.into_iter().chain(store.status().problems) {
        events.publish(None, api::What::Store { message });
    }
    let owners = Arc::new(Owners::default());
    let world = Arc::new(ArcSwap::from_pointee(World::new(
        Arc::new(Ruleset::empty(0)),
        Vec::new(),
    )));
    let (orders, orders_in) = bounded(ORDERS);
    let (facts, facts_in) = bounded(FACTS);
    let (lookups, questions) = Lookups::new(Holding::open(Limits::default()));
    let (measures, measures_asked) = Measures::new();
    let shape_problems = shapes::Problems::default();
    let mut enforcer = Enforcer::new(
        policies,
        Arc::clone(&datapath),
        Arc::clone(&world),
        Arc::clone(&events),
        Arc::clone(&owners),
        Readers {
            lookups: lookups.clone(),
            measures: measures.clone(),
        },
        Shapes::new(Arc::clone(&shape_problems)),
    )?;
    let (classes, dry_runs) = (enforcer.classes(), enforcer.dry_runs());
    let history = open_history(options);
    let shadow = Arc::new(history.as_ref().map(Shadow::load).unwrap_or_default());
    if let Err(why) = &history {
        log::warn!("{why}");
    }
    let now = now_ns() / 1_000_000_000;
    let signals = Arc::new(Signals::load(history.as_ref().ok(), now));
    let (notes, notes_in) = Notes::new();
    let lost = notes.lost();
    enforcer.record(notes, Arc::clone(&shadow));
    let recorder = Recorder::new(
        history.as_ref().ok().cloned(),
        Arc::clone(&signals),
        Arc::clone(&world),
        Arc::clone(&owners),
        Arc::clone(&shadow),
        monotonic_ns(),
    );
    let recorder = spawn_behind("history", move || recorder.run(&notes_in))?;
    let enforcer = spawn("enforcer", move || enforcer.run(&orders_in, &facts_in))?;
    let stop = Arc::new(AtomicBool::new(false));
    let (strangers, strangers_asked) = addresses::Strangers::new(Arc::clone(&world));
    let vifs = spawn("vif-events", {
        let (orders, stop) = (orders.clone(), Arc::clone(&stop));
        let answers = vif_events::Answers::new(Arc::clone(&datapath));
        let holding = Arc::clone(&lookups.holding);
        move || vif_events::forward(vif_events, answers, &strangers, &holding, &orders, &stop)
    })?;
    let share = options.budget / 100.0;
    let follower = spawn("addresses", {
        let (registry, orders, stop) = (Arc::clone(&registry), orders.clone(), Arc::clone(&stop));
        move || addresses::run(&registry, &orders, &strangers_asked, share, &stop)
    })?;
    let looker = spawn("lookups", {
        let (lookups, registry) = (lookups.clone(), Arc::clone(&registry));
        let (orders, stop) = (orders.clone(), Arc::clone(&stop));
        move || lookups::run(&lookups, &questions, &registry, &orders, share, &stop)
    })?;
    let measurer = spawn("measures", {
        let (measures, world, registry) = (measures.clone(), Arc::clone(&world), Arc::clone(&registry));
        let (orders, stop) = (orders.clone(), Arc::clone(&stop));
        let terms = measures::Terms {
            share,
            every: (options.measure_every > 0).then(|| Duration::from_secs(options.measure_every)),
        };
        move || {
            measures::run(
                &measures,
                &measures_asked,
                &world,
                &registry,
                &orders,
                &terms,
                &stop,
            )
        }
    })?;
    let context = Arc::new(Context {
        registry: Arc::clone(&registry),
        world: Arc::clone(&world),
        flows: lock(&datapath).flow_writer(),
        orders: orders.clone(),
        facts,
        undo_dir: undo_dir.clone(),
        budget: TrapBudget {
            share,
            ..TrapBudget::default()
        },
        breakpoints: options.breakpoints,
    });
    let watcher = Watcher::new(context, xen, Xenstore::open()?, Arc::clone(&datapath));
    let watcher = spawn("watcher", {
        let stop = Arc::clone(&stop);
        move || watcher.run(&stop)
    })?;

    let bridges = if options.no_direct {
        bridges::stop_direct(&datapath);
        None
    } else {
        let (datapath, stop) = (Arc::clone(&datapath), Arc::clone(&stop));
        Some(spawn("bridges", move || bridges::run(&datapath, &stop))?)
    };
    let health = spawn("health", {
        let (world, orders, stop) = (Arc::clone(&world), orders.clone(), Arc::clone(&stop));
        let flows = lock(&datapath).flow_writer();
        move || health::run(&world, &flows, &orders, &stop)
    })?;
    let checks = (options.check_every > 0)
        .then(|| {
            let every = Duration::from_secs(options.check_every);
            let (registry, orders, stop) = (Arc::clone(&registry), orders.clone(), Arc::clone(&stop));
            spawn_behind("checks", move || integrity::run(&registry, &orders, every, &stop))
        })
        .transpose()?;

    let (stop_api, stopping) = watch::channel(false);
    let control = Arc::new(Control::new(store, orders.clone(), Arc::clone(&signals.refused)));
    let rollout = spawn_behind("rollout", {
        let watch = rollout::Watch {
            control: Arc::clone(&control),
            world: Arc::clone(&world),
            refused: Arc::clone(&signals.refused),
        };
        let stop = Arc::clone(&stop);
        move || watch.run(&stop)
    })?;
    let threats = Arc::new(Threats::load(history.as_ref().ok()));
    let threat_rules = spawn("threats", {
        let (threats, events, registry) = (Arc::clone(&threats), Arc::clone(&events), Arc::clone(&registry));
        let (orders, history, stop) = (orders.clone(), history.as_ref().ok().cloned(), Arc::clone(&stop));
        let answers = Answers::new(Arc::clone(&control), Arc::clone(&world));
        let flows = lock(&datapath).flow_writer();
        move || {
            let sources = threats::Sources {
                log: &events,
                registry: &registry,
                history: history.as_ref(),
                flows: &flows,
                share,
            };
            threats::run(&threats, &sources, &orders, answers, &stop);
        }
    })?;

    let daemon = Arc::new(Daemon {
        events,
        threats,
        signals,
        saturation: Mutex::default(),
        past: Arc::new(PastFlows::new(
            history,
            shadow,
            Arc::clone(&control),
            Arc::clone(&world),
            lost,
        )),
        control,
        registry,
        world,
        owners,
        lookups,
        measures,
        datapath,
        classes,
        dry_runs,
        orders: orders.clone(),
        supervisor: Arc::clone(&supervisor),
        shape_problems,
        stopping,
        started: Instant::now(),
        xen: format!("{}.{}{}", version.major, version.minor, version.extra),
    });
    let classes = spawn_behind("classes", {
        let (daemon, stop) = (Arc::clone(&daemon), Arc::clone(&stop));
        move || daemon.watch_classes(&stop)
    })?;
    serve(&options.socket, &options.api, Arc::clone(&daemon), stop_api)?;

    log::info!("stopping: freeing the guests; the last verdicts stay in force at the vifs");
    stop.store(true, Ordering::SeqCst);
    let _ = watcher.join();
    let _ = vifs.join();
    let _ = follower.join();
    let _ = looker.join();
    let _ = measurer.join();
    let _ = health.join();
    let _ = threat_rules.join();
    let _ = rollout.join();
    let _ = classes.join();
    for thread in [checks, bridges].into_iter().flatten() {
        let _ = thread.join();
    }
    let _ = orders.send(Order::Stop);
    let _ = enforcer.join();
    // It ends with the enforcer, once what was counted is written.
    let _ = recorder.join();
    // Takes the records of guests that were freed, and frees any that a thread of ours could not.
    guardian::free_all(&undo_dir, Duration::from_secs(10));
    supervisor.stop();
    let _ = std::fs::remove_file(&options.socket);
    Ok(())
}

/// Serves the API until a signal asks the daemon to end.
fn serve(
    socket: &Path,
    access: &Access,
    daemon: Arc<Daemon>,
    stop_api: watch::Sender<bool>,
) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(8)
        .thread_name("api")
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = server::bind(socket, access)?;
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        log::info!("serving {}", socket.display());
        crate::ready::tell();
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            stop_api.send_replace(true);
        };
        server::serve(listener, access, daemon, stop).await?;
        Ok::<(), Box<dyn std::error::Error>>(())
    })?;
    // A reader that does not go away must not hold the guests.
    runtime.shutdown_timeout(Duration::from_secs(2));
    Ok(())
}

/// The history of flows; without it everything else goes on.
fn open_history(options: &Options) -> Result<FlowStore, String> {
    let config = FlowConfig {
        bytes: options.history_size << 20,
        days: options.history_days,
        ..FlowConfig::default()
    };
    if config.bytes == 0 {
        return Err("no history of flows is kept: --history-size is 0".into());
    }
    FlowStore::open(&past::beside(&options.store), config)
        .map_err(|e| format!("no history of flows is kept: {e}"))
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<T>> {
    std::thread::Builder::new().name(name.into()).spawn(work)
}

/// The same, of what nobody waits for.
fn spawn_behind<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<T>> {
    spawn(name, || {
        priority::of_this_thread(priority::BACKGROUND);
        work()
    })
}

impl Daemon {
    /// Becomes true when the daemon is about to end.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.clone()
    }

    /// Name of a domain given by name or id.
    pub fn domain_name(&self, name_or_id: &str) -> Option<String> {
        self.registry.find(name_or_id).map(|d| d.vm.name.clone())
    }

    /// `GET /v1/status`.
    pub fn status(&self) -> api::Status {
        let guardian = self.supervisor.pid();
        api::Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            guardian: (guardian != 0).then_some(guardian),
            uptime: self.started.elapsed().as_secs(),
            generation: self.world.load().rules.generation(),
            xen: self.xen.clone(),
            events_lost: self.events.missed(),
            datapath_events_lost: self.datapath_events_lost(),
            lookups: present::lookups(
                &self.lookups.stats(),
                &self.lookups.holding.counts(),
                &self.lookups.holding.waits(),
            ),
            store: self.control.store_status(),
            flow_history: self.past.status(),
        }
    }

    /// `GET /v1/domains`.
    pub fn domains(&self) -> Result<Vec<api::Domain>, DaemonError> {
        let flows = self.records(None)?;
        Ok(self
            .registry
            .all()
            .iter()
            .map(|entry| self.domain(entry, &flows))
            .collect())
    }

    fn domain(&self, entry: &DomainEntry, flows: &[FlowRecord]) -> api::Domain {
        let (processes, connections) = match &*lock(&entry.inspector) {
            Some(inspector) => (
                inspector.processes().map_or(0, |p| p.len()),
                inspector
                    .sockets()
                    .map_or(0, |s| s.iter().filter(|(s, _)| s.remote.is_some()).count()),
            ),
            None => (0, 0),
        };
        let world = self.world.load();
        let vm = world.vm(entry.scope());
        let facts = vm.map(|vm| &vm.id.facts);
        let sight = entry.sight().clone();
        let mut problems = sight.problems;
        let lost = entry.gate.facts_lost.load(Ordering::Relaxed);
        if lost > 0 {
            problems.push(format!(
                "{lost} events were lost: more came than could be logged; verdicts were not affected"
            ));
        }
        let failed = entry.gate.writes_failed.load(Ordering::Relaxed);
        if failed > 0 {
            problems.push(format!(
                "{failed} verdicts did not fit the flow map; those flows were decided by VM"
            ));
        }
        api::Domain {
            id: entry.id,
            name: entry.vm.name.clone(),
            uuid: entry.vm.uuid_text(),
            state: sight.state,
            mode: sight.mode,
            problems,
            kernel: sight.kernel,
            vcpus: sight.vcpus,
            processes,
            connections,
            flows: flows
                .iter()
                .filter(|f| f.key.scope == entry.scope() && !f.ended)
                .count(),
            vifs: sight.vifs,
            addresses: vm.map(|vm| vm.addresses().collect()).unwrap_or_default(),
            probes: sight.probes,
            traps: sight.traps,
            labels: facts.map(|facts| present::labels(facts)).unwrap_or_default(),
            guest_type: facts.and_then(|facts| Some(facts.guest_type?.as_str().to_owned())),
            pool: facts.and_then(|facts| facts.pool.as_deref().map(str::to_owned)),
        }
    }

    pub(crate) fn find(&self, domain: &str) -> Result<Arc<DomainEntry>, DaemonError> {
        self.registry
            .find(domain)
            .ok_or_else(|| DaemonError::NoSuchDomain(domain.to_owned()))
    }

    /// `GET /v1/domains/{domain}/processes`: read from the guest now, kernel threads left out.
    pub fn processes(&self, domain: &str) -> Result<Vec<api::Process>, DaemonError> {
        let entry = self.find(domain)?;
        let inspector = lock(&entry.inspector);
        let inspector = inspector.as_ref().ok_or_else(|| unseen(&entry))?;
        let all = inspector.processes().map_err(|e| unreadable(&entry, &e))?;
        Ok(all
            .iter()
            .filter(|s| !s.process.kthread)
            .map(|s| present::process(s))
            .collect())
    }

    /// `GET /v1/domains/{domain}/connections`: read from the guest now.
    pub fn connections(&self, domain: &str) -> Result<Vec<api::Connection>, DaemonError> {
        let entry = self.find(domain)?;
        let inspector = lock(&entry.inspector);
        let inspector = inspector.as_ref().ok_or_else(|| unseen(&entry))?;
        let all = inspector.sockets().map_err(|e| unreadable(&entry, &e))?;
        Ok(all
            .iter()
            .map(|(socket, who)| present::connection(socket, Some(who)))
            .collect())
    }

    /// `GET /v1/domains/{domain}/check`: checks the guest's kernel now.
    pub fn check(&self, domain: &str) -> Result<api::Check, DaemonError> {
        let entry = self.find(domain)?;
        let report = integrity::check(&entry, &self.orders)
            .map_err(|why| DaemonError::Unavailable(format!("{} cannot be checked: {why}", entry.vm.name)))?;
        Ok(present::check(&entry.vm.name, &report))
    }

    /// `GET /v1/domains/{domain}/trace`.
    pub fn trace(&self, domain: &str, filter: &api::TraceFilter) -> Result<Trace, DaemonError> {
        Trace::begin(&*self.find(domain)?, filter)
    }

    fn records(&self, scope: Option<u32>) -> Result<Vec<FlowRecord>, DaemonError> {
        Ok(lock(&self.datapath).flows(scope).collect::<Result<Vec<_>, _>>()?)
    }

    /// `GET /v1/flows`.
    pub fn flows(&self, domain: Option<&str>) -> Result<Vec<api::Flow>, DaemonError> {
        let scope = domain.map(|d| self.find(d)).transpose()?.map(|d| d.scope());
        let world = self.world.load();
        let now = monotonic_ns();
        let mut flows: Vec<api::Flow> = self
            .records(scope)?
            .iter()
            .map(|record| self.flow(&world, record, now))
            .collect();
        flows.sort_by_key(|f| f.idle_ms);
        Ok(flows)
    }

    /// `GET /v1/routes`.
    pub fn routes(&self) -> Result<Vec<api::Route>, DaemonError> {
        let mut flows: HashMap<FlowKeyEnd, usize> = HashMap::new();
        for record in self.records(None)?.iter().filter(|r| !r.ended) {
            if let Some(backend) = record.backend {
                let facade = (record.key.protocol.0, record.key.remote, backend);
                *flows.entry(facade).or_default() += 1;
            }
        }
        let world = self.world.load();
        let with = |facade: &Facade, end| flows.get(&(facade.route.protocol.0, facade.end, end)).copied();
        let routes = world.routes.iter();
        Ok(routes
            .map(|facade| present::route(&world, facade, |end| with(facade, end).unwrap_or(0)))
            .collect())
    }

    /// `GET /v1/measured`.
    pub fn measured(&self, domain: Option<&str>) -> Result<api::MeasuredProcesses, DaemonError> {
        let scope = domain.map(|d| self.find(d)).transpose()?.map(|d| d.scope());
        let mut processes = Vec::new();
        self.measures.each(|of, who, looked| {
            let Some(looked) = looked.filter(|_| scope.is_none_or(|scope| scope == of)) else {
                return;
            };
            let entry = u16::try_from(of).ok().and_then(|id| self.registry.by_id(id));
            processes.extend(entry.map(|entry| api::MeasuredProcess {
                domain: entry.vm.name.clone(),
                process: present::process(who),
                text: present::text(looked),
            }));
        });
        processes.sort_by(|a, b| (&a.domain, a.process.pid).cmp(&(&b.domain, b.process.pid)));
        Ok(api::MeasuredProcesses {
            processes,
            dropped: self.measures.dropped(),
        })
    }

    /// `GET /v1/threats`. What was found in a domain that is no more is asked for by its name.
    pub fn threats(&self, query: &api::ThreatQuery) -> Result<api::Threats, DaemonError> {
        let name = query.domain.as_deref().map(|asked| match self.find(asked) {
            Ok(domain) => domain.vm.name.clone(),
            Err(_) => asked.to_owned(),
        });
        Ok(self.threats.list(name.as_deref(), query.severity))
    }

    /// `GET /v1/qos`.
    pub fn qos(&self, domain: Option<&str>) -> Result<api::Qos, DaemonError> {
        let scope = domain.map(|d| self.find(d)).transpose()?.map(|d| d.scope());
        let world = self.world.load();
        let problems = lock(&self.shape_problems).clone();
        let mut datapath = lock(&self.datapath);
        let shaper = datapath.shaper()?.to_string();
        let mut vifs = Vec::new();
        for vif in datapath.attached()? {
            if scope.is_some_and(|scope| scope != vif.config.scope) {
                continue;
            }
            let stats = match datapath.class_stats(&vif.name) {
                Err(netback_filter::Error::NoInterface { .. }) => continue,
                stats => stats?,
            };
            let problem = problems.get(&vif.name).cloned();
            if !stats.is_empty() || problem.is_some() {
                let classes = stats.iter().map(|stats| present::class(&world, stats)).collect();
                vifs.push(api::ShapedVif {
                    domain: match world.vm(vif.config.scope) {
                        Some(vm) => vm.id.name.clone(),
                        None => vif.config.scope.to_string(),
                    },
                    vif: vif.name,
                    problem,
                    classes,
                });
            }
        }
        Ok(api::Qos { shaper, vifs })
    }

    /// `GET /v1/domains/{domain}/graph`: processes and pipes read from the guest now, flows as the vifs counted them.
    pub fn graph(&self, domain: &str) -> Result<api::Graph, DaemonError> {
        let entry = self.find(domain)?;
        let (subjects, flow) = {
            let inspector = lock(&entry.inspector);
            let inspector = inspector.as_ref().ok_or_else(|| unseen(&entry))?;
            let subjects = inspector.processes().map_err(|e| unreadable(&entry, &e))?;
            let flow = inspector.data_flow().map_err(|e| unreadable(&entry, &e))?;
            (subjects, flow)
        };
        let world = self.world.load();
        let now = monotonic_ns();
        let counted: Vec<graph::Counted> = self
            .records(Some(entry.scope()))?
            .iter()
            .map(|record| self.counted(&world, record, now))
            .collect();
        let processes: Vec<_> = subjects.iter().map(|subject| &subject.process).collect();
        Ok(graph::build(&entry.vm.name, &processes, &flow, &counted))
    }

    /// A flow, and who is at its other end where that is a guest of this host.
    fn counted(&self, world: &World, record: &FlowRecord, now: u64) -> graph::Counted {
        let flow = self.flow(world, record, now);
        let at = record.backend.unwrap_or(flow.remote);
        let vm = world.vm_at(at.ip());
        let peer = vm.and_then(|vm| match flow.outgoing {
            true => {
                let protocol = Protocol(record.key.protocol.0);
                vm.listeners.owner_of(protocol, at.ip(), at.port()).cloned()
            }
            false => self.owners.of(&Way::from(&record.key).seen_by(vm.scope)),
        });
        graph::Counted {
            peer_domain: vm.map(|vm| vm.id.name.clone()),
            peer: peer.map(|who| {
                let exe = who.process.exe.as_deref().map(str::to_owned);
                (who.process.tgid, exe)
            }),
            flow,
        }
    }

    fn flow(&self, world: &World, record: &FlowRecord, now: u64) -> api::Flow {
        let key = &record.key;
        let outgoing = record.verdict.origin == Direction::FromGuest;
        let protocol = Protocol(key.protocol.0);
        let who: Option<Arc<Subject>> = if outgoing {
            self.owners.of(&Way::from(key))
        } else {
            let vm = world.vm(key.scope);
            vm.and_then(|vm| vm.listeners.owner_of(protocol, key.local.ip(), key.local.port()))
                .cloned()
                .or_else(|| self.owners.of(&Way::from(key)))
        };
        let end = world.source(key.scope, key.local.ip(), who.as_deref());
        let listens = (!outgoing).then(|| (protocol, key.local.port()));
        let passes = record.verdict.action == netback_filter::Action::Allow;
        // What a rule sends elsewhere passes there, and is denied to where it is addressed.
        let instead = outgoing && is_instead(record.verdict.rule);
        let allowed = passes && !instead;
        let decision = Decision {
            verdict: if allowed { Verdict::Allow } else { Verdict::Deny },
            refuse: Refuse::Rst,
            audit: false,
            by: decider(record.verdict.rule),
            class: None,
            mirror: None,
            dry_run: None,
            generation: u64::from(record.verdict.generation),
        };
        let ms = |since: u64| {
            if since == 0 {
                0
            } else {
                now.saturating_sub(since) / 1_000_000
            }
        };
        api::Flow {
            domain: world
                .vm(key.scope)
                .map_or_else(|| key.scope.to_string(), |vm| vm.id.name.clone()),
            protocol: protocol.to_string(),
            local: key.local,
            remote: key.remote,
            outgoing,
            route: present::routed(world, key, record.backend, instead),
            who: who
                .as_ref()
                .map(|who| present::party(world, &end, listens, Some(who))),
            decision: match decision.by {
                Decider::Unserved => present::unserved(world, key, &decision),
                _ => present::decision(world, key.scope, &decision),
            },
            packets_out: record.packets[0],
            bytes_out: record.bytes[0],
            packets_in: record.packets[1],
            bytes_in: record.bytes[1],
            age_ms: ms(record.first_ns),
            idle_ms: ms(record.last_ns),
            timing: present::timing(record),
            state: match (record.decided_by, record.established, record.ended) {
                _ if protocol != Protocol::TCP => "-",
                _ if !passes => "refused",
                (_, _, true) => "closed",
                (_, true, false) => "established",
                (DecidedBy::Userspace, false, false) if record.first_ns == 0 => "decided",
                _ => "new",
            }
            .into(),
        }
    }
}

fn unseen(entry: &DomainEntry) -> DaemonError {
    let problems = entry.sight().problems.join("; ");
    let why = if problems.is_empty() {
        "its kernel is being read".to_owned()
    } else {
        problems
    };
    DaemonError::Unavailable(format!("nothing is seen inside {}: {why}", entry.vm.name))
}

fn unreadable(entry: &DomainEntry, e: &dyn std::error::Error) -> DaemonError {
    DaemonError::Unavailable(format!("{} could not be read: {e}; try again", entry.vm.name))
}

/// CLOCK_MONOTONIC in nanoseconds: the clock of the datapath.
pub fn monotonic_ns() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_or(0, |t| {
        u64::try_from(t.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(t.tv_nsec()).unwrap_or(0)
    })
}

#[cfg(test)]
pub mod harness;
