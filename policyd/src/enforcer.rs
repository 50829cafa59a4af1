// SPDX-License-Identifier: GPL-3.0-only
//! The enforcer: the one thread that changes policy, the World and the vif tables.
//!
//! Orders and facts come in by channels; what goes out is a new World, tables, flow verdicts and events. Because all
//! changes pass here one after the other, "in force" has one meaning: the World is swapped, the tables are
//! published, and every live flow has been decided anew.

mod changes;
mod flows;
mod health;
mod measured;
mod orders;
mod policies;
mod translated;
mod trial;
mod trials;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, select};
use netback_filter::{Datapath, FlowWriter, Service};
use policy::{DryRun, Facts, Protocol, VmId};
use policyd_api::{Applied, PolicyDocument, PolicySummary, SourceText, Stage, What};
use vmi_xen::observe::Subject;

pub use flows::Owners;
#[cfg(test)]
pub use flows::tests::send_syn;
pub use policies::{Policies, Request, Wish};

use crate::classes::ClassNumbers;
use crate::daemon::DaemonError;
use crate::dry_runs::DryRuns;
use crate::events::EventLog;
use crate::gate::{Judged, Told, Way};
use crate::inventory::Inventory;
use crate::lookups::{Answer, Lookups, Question};
use crate::measures::{Measures, Report};
use crate::recorder::Notes;
use crate::registry::lock;
use crate::revocations::Revocations;
use crate::shadow::{Asked, Shadow};
use crate::shapes::{self, Shapes};
use crate::tables;
use crate::world::{Listeners, Mac, Vm, World};
use health::Health;
use measured::Awaiting;
use policyd_advice::Candidate;
use translated::Translations;

/// Facts taken in one go before changed listeners reach the World: bounds how long a listener stays unknown under load.
const BATCH: usize = 256;
/// How often owners of flows that are gone are let go.
const SWEEP: Duration = Duration::from_secs(10);

/// How long a closed UDP socket is remembered.
const REMEMBER: Duration = Duration::from_secs(10);

/// How long a flow whose socket nobody holds waits for a trap that tells who did. A process takes its descriptor back before
/// the socket's end traps, and both before the packet's report is read.
const PATIENCE: Duration = Duration::from_millis(250);
/// Flows that wait so; more are told as they are.
const DOUBTS: usize = 1024;

/// By guest and port, and since when.
type Gone = HashMap<(u32, u16), (Arc<Subject>, Instant)>;

/// How the opening of a flow came to light.
#[derive(Clone, Copy)]
enum Shown {
    /// By a trap, which decided it.
    Trap(Judged),
    /// By its first packet; its owner was looked up. Where it goes, if it had a backend by then.
    Lookup(Option<SocketAddr>),
    /// By its first packet, which is of a connection that a trap told of under other addresses.
    Translated {
        /// Where it goes, if it had a backend by then.
        backend: Option<SocketAddr>,
        /// What rules in dry run would have made of it under these.
        tried: Option<DryRun>,
    },
    /// It was looked up, and its socket is closed meanwhile: there is nothing left to decide.
    Over,
}

/// What the enforcer can be told.
pub enum Order {
    /// Validate, store and enforce a change of policy.
    Change {
        /// What is asked, and who asks.
        request: Box<Request>,
        /// Where the answer goes.
        reply: Sender<Result<Applied, DaemonError>>,
    },
    /// The list of sets, with the generation in force.
    List {
        /// Where the answer goes.
        reply: Sender<(u64, Vec<PolicySummary>)>,
    },
    /// One set with its text, with the generation in force.
    Show {
        /// Its name.
        name: String,
        /// Where the answer goes.
        reply: Sender<Result<(u64, PolicyDocument), DaemonError>>,
    },
    /// Tell what is being rolled out, and the generation in force.
    Rollout {
        /// Where the answer goes.
        reply: Sender<Result<(u64, Option<Stage>), DaemonError>>,
    },
    /// Compile sets beside those in force, and change nothing.
    Compile {
        /// The sets.
        documents: Vec<SourceText>,
        /// Where the answer goes.
        reply: Sender<Result<Candidate, DaemonError>>,
    },
    /// Let sets run beside those in force.
    Shadow {
        /// What is asked for.
        asked: Box<Asked>,
        /// Told once they run.
        reply: Sender<()>,
    },
    /// A guest was created.
    GuestUp {
        /// Domain id.
        scope: u32,
        /// Name and UUID.
        vm: VmId,
        /// Told once its defaults hold, so that its vifs can be covered.
        ready: Sender<()>,
    },
    /// A guest is gone.
    GuestDown {
        /// Domain id.
        scope: u32,
    },
    /// A vif of a guest got the datapath.
    Covered,
    /// Whether traps tell of a guest's connections, or lookups do.
    Trapped {
        /// Domain id.
        scope: u32,
        /// Traps do.
        trapped: bool,
        /// Nothing does: its processes cannot be read.
        opaque: bool,
        /// They tell of each listener that comes or goes, too.
        counts: bool,
    },
    /// The vifs of a guest: each one's MAC address, and the addresses that dom0 gave it.
    Vifs {
        /// Domain id.
        scope: u32,
        /// The vifs.
        vifs: Vec<(Option<Mac>, Vec<IpAddr>)>,
    },
    /// All addresses that a guest's interfaces have, as its kernel says.
    Addresses {
        /// Domain id.
        scope: u32,
        /// Each once, in order.
        claimed: Vec<IpAddr>,
        /// They are in more than one network namespace.
        several: bool,
    },
    /// What dom0 knows of a guest is something else.
    Facts {
        /// Domain id.
        scope: u32,
        /// All that it knows.
        facts: Arc<Facts>,
    },
    /// A guest is paused, or runs on.
    Paused {
        /// Domain id.
        scope: u32,
        /// It is paused.
        paused: bool,
    },
    /// The watcher has told of all guests that there were when it began.
    Settled,
    /// What dom0's checks of a backend say; none: nothing any more.
    Checked {
        /// The backend.
        end: (Protocol, SocketAddr),
        /// It serves.
        up: Option<bool>,
    },
    /// What was found in a guest by reading all of it.
    Inventory {
        /// Domain id.
        scope: u32,
        /// Listeners, connections, addresses.
        inventory: Inventory,
        /// Told once the World has it.
        done: Sender<()>,
    },
    /// A packet was refused, or a flow began or ended at a vif.
    Vif(netback_filter::Event),
    /// Who owns a flow that the enforcer asked about.
    Owner(Box<Answer>),
    /// Something to log.
    Say {
        /// The domain it is about.
        domain: Option<(u16, String)>,
        /// What happened.
        what: What,
    },
    /// What program a process runs.
    Measured(Box<Report>),
    /// Finish what is queued and end.
    Stop,
}

/// The threads that read guests when the enforcer asks.
pub struct Readers {
    /// Who owns a flow.
    pub lookups: Lookups,
    /// What a process runs.
    pub measures: Measures,
}

/// The enforcer's state.
pub struct Enforcer {
    datapath: Arc<Mutex<Datapath>>,
    flows: FlowWriter,
    world: Arc<ArcSwap<World>>,
    log: Arc<EventLog>,
    owners: Arc<Owners>,
    lookups: Lookups,
    /// Reports of packets that wait until the tables know who takes them, and who that is.
    arriving: Vec<(netback_filter::Event, Arc<Subject>)>,
    /// Owners of UDP sockets that were closed a moment ago: a report of their last packet may still be on its way.
    gone: Gone,
    /// Flows whose socket nobody holds, until when a trap is awaited, and whether the guest could say so.
    doubts: VecDeque<(Instant, Question, bool)>,
    /// The network namespace that a process of each guest was first met in.
    networks: HashMap<u32, u32>,
    /// Flows that have other addresses at the vif.
    translations: Translations,
    /// What programs processes run.
    measures: Measures,
    /// Flows that wait for that.
    awaiting: Awaiting,
    /// UDP flows whose verdict came from a lookup, by guest and port: it goes with the socket.
    datagrams: HashMap<(u32, u16), Vec<Way>>,
    /// Which backends fail.
    health: Health,
    policies: Policies,
    guests: BTreeMap<u32, Vm>,
    /// Number of the last fact of each guest.
    heard: BTreeMap<u32, u64>,
    /// Guests or listeners differ from what the World says.
    dirty: bool,
    /// The guests that there were when the daemon started are known. Until then the datapath keeps the services that an
    /// earlier daemon left: without guests they would have no backends.
    settled: bool,
    /// Numbers of address classes in the vif tables. Shared with the API.
    classes: Arc<Mutex<ClassNumbers>>,
    /// What the vif tables hold.
    published: Option<tables::Tables>,
    /// The services that the datapath has.
    services: Option<Vec<Service>>,
    shapes: Shapes,
    revocations: Revocations,
    /// What rules in dry run would have done. Shared with the API.
    dry_runs: Arc<DryRuns>,
    /// For the history of flows.
    notes: Notes,
    shadow: Arc<Shadow>,
}

impl Enforcer {
    /// An enforcer with the stored policies; puts their generation in force.
    ///
    /// # Errors
    /// When the tables cannot be published: nothing could be enforced then.
    pub fn new(
        policies: Policies,
        datapath: Arc<Mutex<Datapath>>,
        world: Arc<ArcSwap<World>>,
        log: Arc<EventLog>,
        owners: Arc<Owners>,
        readers: Readers,
        shapes: Shapes,
    ) -> Result<Enforcer, DaemonError> {
        let Readers { lookups, measures } = readers;
        let (flows, measured) = {
            let datapath = lock(&datapath);
            (datapath.flow_writer(), datapath.histograms()?)
        };
        let numbered = measured.iter().map(|h| h.peer_class).max();
        let classes = ClassNumbers::after(numbered.unwrap_or(0));
        let mut enforcer = Enforcer {
            revocations: Revocations::start(Arc::clone(&datapath), flows.clone()),
            flows,
            datapath,
            world,
            log,
            owners,
            lookups,
            arriving: Vec::new(),
            gone: Gone::default(),
            networks: HashMap::new(),
            translations: Translations::default(),
            doubts: VecDeque::new(),
            measures,
            awaiting: Awaiting::default(),
            datagrams: HashMap::new(),
            health: Health::default(),
            policies,
            guests: BTreeMap::new(),
            heard: BTreeMap::new(),
            dirty: false,
            settled: false,
            classes: Arc::new(Mutex::new(classes)),
            published: None,
            services: None,
            shapes,
            dry_runs: Arc::default(),
            notes: Notes::default(),
            shadow: Arc::default(),
        };
        let rules = enforcer.policies.rules();
        enforcer.enforce(rules)?;
        Ok(enforcer)
    }

    /// Tells of flows from now on, and lets a policy run beside the one in force.
    pub fn record(&mut self, notes: Notes, shadow: Arc<Shadow>) {
        (self.notes, self.shadow) = (notes, shadow);
        self.run_shadow();
    }

    /// What the address classes of the vif tables are, now and later.
    pub fn classes(&self) -> Arc<Mutex<ClassNumbers>> {
        Arc::clone(&self.classes)
    }

    /// What rules in dry run would have done, now and later.
    pub fn dry_runs(&self) -> Arc<DryRuns> {
        Arc::clone(&self.dry_runs)
    }

    /// Serves until [`Order::Stop`].
    pub fn run(mut self, orders: &Receiver<Order>, facts: &Receiver<Told>) {
        let mut next_sweep = Instant::now() + SWEEP;
        loop {
            let due = [self.conclude(), self.overdue(), self.health.due(), self.hours()];
            let due = due.into_iter().flatten().min();
            let wait = due.map_or(SWEEP, |due| due.saturating_duration_since(Instant::now()));
            select! {
                recv(orders) -> order => match order {
                    Ok(Order::Stop) | Err(_) => return,
                    Ok(order) => {
                        // A packet and the answer to a lookup come after the traps that led to them.
                        self.hear(facts);
                        self.obey(order);
                    }
                },
                recv(facts) -> told => if let Ok(told) = told {
                    self.note(told);
                    self.hear(facts);
                },
                default(wait) => {}
            }
            self.dirty |= self.health.lapse(Instant::now());
            self.dirty |= self.policies.tick();
            if self.dirty {
                self.refresh();
            }
            self.let_in();
            if Instant::now() >= next_sweep {
                self.sweep();
                next_sweep = Instant::now() + SWEEP;
            }
        }
    }

    /// When a rule next begins or ceases to hold. Not further ahead than a sweep: dom0's clock may be set meanwhile.
    fn hours(&self) -> Option<Instant> {
        let after = self.policies.unchanged_for()?;
        Some(Instant::now() + after.min(SWEEP))
    }

    fn hear(&mut self, facts: &Receiver<Told>) {
        for told in facts.try_iter().take(BATCH) {
            self.note(told);
        }
    }

    /// Brings World and tables up to the guests as they are now, under the policy in force.
    fn refresh(&mut self) {
        self.dirty = false;
        let rules = self.policies.rules();
        if let Err(e) = self.enforce(rules) {
            log::error!("the vif tables could not be brought up to date: {e}");
            // Tried again with the next change or sweep: what is in force meanwhile is the older state.
            self.dirty = true;
        }
    }

    /// Puts `rules` in force: World, tables, live flows. Returns how many flows changed their verdict. On an error the
    /// datapath still has what it had, and so has the World.
    fn enforce(&mut self, rules: Arc<policy::Ruleset>) -> Result<usize, DaemonError> {
        let guests = &self.guests;
        let unknown = self
            .measures
            .results
            .keep_what_holds(&rules, |scope| guests.get(&scope).map(|vm| &vm.id));
        let forgot = !unknown.is_empty();
        self.awaiting.unknown.extend(unknown);
        let mut world = World::new(rules, self.guests.values().cloned().collect());
        world.holds = self.policies.holds();
        let world = Arc::new(world.with_routes(&self.health));
        let tables = tables::compile(&world, &mut lock(&self.classes))?;
        let services = world.routes.services();
        if !world.holds {
            self.publish(tables, services)?;
        }
        let before = self.world.swap(Arc::clone(&world));
        if self.settled {
            self.tell_standings(&before, &world);
        }
        // Listeners may decide who a flow's destination is, so flows are looked at again for any change.
        let policy_changed =
            before.rules.generation() != world.rules.generation() || !before.rules.same_hours(&world.rules);
        // Where a rule sends what it denies, there may be nobody any more.
        let moved = before.routes.diversions != world.routes.diversions;
        // A label that a guest got or lost may be what a rule asks for.
        let labelled = !before.knows_the_same(&world);
        Ok(if policy_changed || moved || labelled || forgot {
            self.decide_flows_anew(&world)
        } else {
            0
        })
    }

    /// Gives the datapath what it has not. On an error it has what it had.
    fn publish(&mut self, tables: tables::Tables, services: Vec<Service>) -> Result<(), DaemonError> {
        let (new_tables, new_services) = (
            self.published.as_ref() != Some(&tables),
            self.settled && self.services.as_ref() != Some(&services),
        );
        let mut datapath = lock(&self.datapath);
        // The rules first: a flow that is sent to a backend has been judged by rules that know of it.
        let rules = match new_tables {
            true => tables.publish(&mut datapath, self.published.as_ref()),
            false => Ok(()),
        };
        let done = rules.and_then(|()| match new_services {
            true => Ok(datapath.publish_services(&services)?),
            false => Ok(()),
        });
        if let Err(e) = done {
            // Some scopes may have the new settings already.
            if let Some(before) = self.published.as_ref().filter(|_| new_tables)
                && let Err(again) = before.publish(&mut datapath, None)
            {
                log::error!("the vif tables could not be put back as they were: {again}");
            }
            return Err(e);
        }
        drop(datapath);
        self.published = Some(tables);
        if new_services {
            self.services = Some(services);
        }
        Ok(())
    }

    /// Shapes the vifs of the guests as `rules` say.
    fn shape(&mut self, rules: &policy::Ruleset) -> Result<(), DaemonError> {
        if self.policies.holds() {
            return Ok(());
        }
        let guests = &self.guests;
        self.shapes.apply(&mut lock(&self.datapath), rules, |scope| {
            guests.get(&scope).map(|vm| &vm.id)
        })
    }

    /// Whether `rules` promise more to a guest that is here than there is.
    fn check_shapes(&self, rules: &policy::Ruleset) -> Result<(), DaemonError> {
        shapes::check(rules, self.guests.values().map(|vm| &vm.id))
    }

    /// Logs an event of a domain.
    fn say(&self, scope: u32, what: What) {
        let id = u16::try_from(scope).unwrap_or(u16::MAX);
        match self.guests.get(&scope) {
            Some(vm) => self.log.publish(Some((id, &vm.id.name)), what),
            None => self.log.publish(None, what),
        }
    }

    fn listeners(&mut self, scope: u32) -> Option<&mut Listeners> {
        self.guests
            .get_mut(&scope)
            .map(|vm| Arc::make_mut(&mut vm.listeners))
    }
}
