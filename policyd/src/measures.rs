// SPDX-License-Identifier: GPL-3.0-only
//! What programs processes run: the text of their executables in guests' memory, held against the programs of the policy, and looked at
//! for pages that somebody wrote to.
//!
//! A thread of its own looks: at a program of the policy when it is started, at any process when it opens a flow or takes one, at each of
//! these again while it runs. What that costs is bounded by guest. A result is in force at once ([`Results`]), and the enforcer is told of
//! it: packets may wait for it, and what it says of a process may end its flows.

mod known;
mod results;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, bounded};
use policy::Ruleset;
use vmi_xen::linux::{Hashed, LinuxError};
use vmi_xen::observe::Subject;
use vmi_xen::session::Inspector;

use crate::allowance::Allowance;
use crate::enforcer::Order;
use crate::registry::{DomainEntry, Registry, lock};
use crate::world::World;
use known::Known;
pub use known::Looked;
pub use results::{Found, Results, Runs};

/// Requests waiting. What finds no room is asked for again by the next flow, and by the next round.
const WAITING: usize = 1024;
/// How often the thread looks what is due.
const NAP: Duration = Duration::from_millis(50);
/// A process that was looked at is not looked at again sooner, however many flows it opens.
const LEAST: Duration = Duration::from_secs(1);
/// A process of a program that policy knows nothing of is looked at when it has been there for so long, where no rule asks what it is: most
/// are over by then.
const LATER: Duration = Duration::from_millis(250);
/// A process of which nothing is in memory yet has just been started.
const SOON: Duration = Duration::from_millis(50);
/// Processes of all guests that are looked at. Of more than that those who come later are not known.
const MOST: usize = 8192;

/// What the thread is asked for.
enum Request {
    /// Look at this process.
    Look(u32, Arc<Subject>),
    /// It is over.
    Gone(u32, Runs),
}

/// Where it is asked, and what it found.
#[derive(Clone)]
pub struct Measures {
    requests: Sender<Request>,
    /// By scope and process.
    known: Arc<Mutex<HashMap<(u32, Runs), Known>>>,
    dropped: Arc<AtomicU64>,
    /// What is in force.
    pub results: Arc<Results>,
}

/// What was found of a process, for the enforcer.
pub struct Report {
    /// The guest.
    pub scope: u32,
    /// The process.
    pub who: Arc<Subject>,
    /// What it runs; none where that is not known.
    pub found: Option<Found>,
    /// What is to be told of it.
    pub news: Option<Looked>,
}

impl Measures {
    /// Nothing is known yet. The second part is for [`run`].
    pub fn new() -> (Measures, Asked) {
        let (requests, asked) = bounded(WAITING);
        let measures = Measures {
            requests,
            known: Arc::default(),
            dropped: Arc::default(),
            results: Arc::default(),
        };
        (measures, Asked(asked))
    }

    /// Asks to look at a process; never waits.
    pub fn look(&self, scope: u32, who: &Arc<Subject>) {
        if who.process.exe.is_some()
            && self
                .requests
                .try_send(Request::Look(scope, Arc::clone(who)))
                .is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A process is over.
    pub fn gone(&self, scope: u32, who: &Subject) {
        let runs = Runs::from(&who.process);
        // One that is missed is found out by the next round.
        let _ = self.requests.try_send(Request::Gone(scope, runs));
    }

    /// What was found of each process, by domain id.
    pub fn each(&self, mut each: impl FnMut(u32, &Arc<Subject>, Option<&Looked>)) {
        lock(&self.known)
            .iter()
            .for_each(|((scope, _), known)| each(*scope, &known.who, known.looked.as_ref()));
    }

    /// Requests that found no room.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// What was asked for.
pub struct Asked(Receiver<Request>);

/// How it is done.
pub struct Terms {
    /// Of one dom0 CPU, that looking at one guest may take.
    pub share: f64,
    /// How often a process is looked at again; none: never.
    pub every: Option<Duration>,
}

/// Looks until `stop`.
pub fn run(
    measures: &Measures,
    asked: &Asked,
    world: &ArcSwap<World>,
    registry: &Registry,
    orders: &Sender<Order>,
    terms: &Terms,
    stop: &AtomicBool,
) {
    let mut rounds = Rounds {
        measures,
        orders,
        terms,
        allowances: HashMap::new(),
        digests: known::Digests::default(),
        generation: None,
    };
    while !stop.load(Ordering::SeqCst) {
        // It returns at once for a request, and else in time to look what is due.
        let first = asked.0.recv_timeout(NAP).ok();
        let rules = Arc::clone(&world.load().rules);
        // Somebody may wait for what such a process is.
        let matters = |scope: u32, who: &Subject| {
            let entry = u16::try_from(scope).ok().and_then(|id| registry.by_id(id));
            let exe = who.process.exe.as_deref();
            let is_known =
                |(entry, exe): (Arc<DomainEntry>, &str)| rules.programs_for(&entry.vm, exe).next().is_some();
            rules.asks_measured() || entry.zip(exe).is_some_and(is_known)
        };
        for request in first.into_iter().chain(asked.0.try_iter()) {
            rounds.take(request, matters);
        }
        rounds.take_rules(&rules);
        for (scope, due) in rounds.due() {
            let entry = u16::try_from(scope).ok().and_then(|id| registry.by_id(id));
            match entry {
                Some(entry) => rounds.look_at(&entry, &rules, due),
                None => lock(&measures.known).retain(|(of, _), _| *of != scope),
            }
        }
    }
}

/// A process that is to be looked at.
struct Due {
    runs: Runs,
    who: Arc<Subject>,
    /// It may have been started just now.
    begins: bool,
    /// It was looked at before.
    looked: bool,
}

struct Rounds<'a> {
    measures: &'a Measures,
    orders: &'a Sender<Order>,
    terms: &'a Terms,
    allowances: HashMap<u32, Allowance>,
    digests: known::Digests,
    /// That of the policy that results are of.
    generation: Option<u64>,
}

impl Rounds<'_> {
    fn take(&self, request: Request, matters: impl Fn(u32, &Subject) -> bool) {
        let mut known = lock(&self.measures.known);
        match request {
            Request::Look(scope, who) => {
                let key = (scope, Runs::from(&who.process));
                let room = known.len() < MOST;
                match known.get_mut(&key) {
                    Some(known) => known.ask(),
                    None if room => {
                        let wait = match matters(scope, &who) {
                            true => Duration::ZERO,
                            false => LATER,
                        };
                        known.insert(key, Known::new(who, wait));
                    }
                    None => drop(self.measures.dropped.fetch_add(1, Ordering::Relaxed)),
                }
            }
            Request::Gone(scope, runs) => drop(known.remove(&(scope, runs))),
        }
    }

    /// With other rules, all is to be looked at anew.
    fn take_rules(&mut self, rules: &Ruleset) {
        if self.generation.replace(rules.generation()) != Some(rules.generation()) {
            self.digests = known::Digests::default();
            lock(&self.measures.known).values_mut().for_each(Known::hurry);
        }
    }

    /// What is to be looked at now, by guest; those first of whom nothing is known.
    fn due(&self) -> HashMap<u32, Vec<Due>> {
        let now = Instant::now();
        let mut due: HashMap<u32, Vec<_>> = HashMap::new();
        for ((scope, runs), known) in lock(&self.measures.known).iter() {
            if known.is_due(now) {
                due.entry(*scope).or_default().push(Due {
                    runs: *runs,
                    who: Arc::clone(&known.who),
                    begins: known.begins(),
                    looked: known.looked.is_some(),
                });
            }
        }
        due.values_mut().for_each(|all| all.sort_by_key(|due| due.looked));
        due
    }

    /// Looks at processes of one guest for as long as its share lasts.
    fn look_at(&mut self, entry: &DomainEntry, rules: &Ruleset, due: Vec<Due>) {
        let share = self.terms.share;
        let mut hashed = Hashed::default();
        for Due {
            runs, who, begins, ..
        } in due
        {
            let allowance = self
                .allowances
                .entry(entry.scope())
                .or_insert_with(|| Allowance::full(share));
            if !allowance.has_some(share) {
                return;
            }
            let began = Instant::now();
            let digests = &mut self.digests;
            // A fault of ours with one process must not end the looks at the others.
            let looked = catch_unwind(AssertUnwindSafe(|| {
                let inspector = lock(&entry.inspector);
                inspector
                    .as_ref()
                    .map(|inspector| look(inspector, rules, &entry.vm, (&who, begins), &mut hashed, digests))
            }));
            allowance.spend(began.elapsed());
            match looked {
                // Its kernel is not known (any more).
                Ok(None) => return,
                Ok(Some(Ok(looked))) => self.conclude(entry.scope(), runs, who, looked),
                Ok(Some(Err(why))) => {
                    log::debug!(
                        "{}: process {} not measured: {why}",
                        entry.vm.name,
                        who.process.tgid
                    );
                    self.put_off(entry.scope(), &runs);
                }
                Err(_) => {
                    log::error!(
                        "{}: a fault in measuring process {}; please report this log",
                        entry.vm.name,
                        who.process.tgid
                    );
                    self.put_off(entry.scope(), &runs);
                }
            }
        }
    }

    fn put_off(&self, scope: u32, runs: &Runs) {
        if let Some(known) = lock(&self.measures.known).get_mut(&(scope, *runs)) {
            known.put_off(self.terms.every);
        }
    }

    /// `looked`: none where the process is gone.
    fn conclude(&self, scope: u32, runs: Runs, who: Arc<Subject>, looked: Option<Looked>) {
        let report = {
            let mut all = lock(&self.measures.known);
            let Some(looked) = looked else {
                // What it was found to run holds for what it leaves behind.
                all.remove(&(scope, runs));
                return;
            };
            let Some(known) = all.get_mut(&(scope, runs)) else {
                return;
            };
            let news = known.take(looked, self.terms.every);
            let found = known.looked.as_ref().and_then(|looked| looked.found.clone());
            Report {
                scope,
                who,
                found,
                news,
            }
        };
        if report.found.is_some() || report.news.is_some() {
            self.tell(report);
        }
    }

    fn tell(&self, report: Report) {
        // The enforcer ends last; when it is gone so is the use of the report.
        let _ = self.orders.send(Order::Measured(Box::new(report)));
    }
}

/// Looks at a process; none where it is gone, or runs another program.
fn look(
    inspector: &Inspector,
    rules: &Ruleset,
    vm: &policy::VmId,
    (who, begins): (&Subject, bool),
    hashed: &mut Hashed,
    digests: &mut known::Digests,
) -> Result<Option<Looked>, LinuxError> {
    let Some(exe) = &who.process.exe else {
        return Ok(None);
    };
    let programs: Vec<_> = rules
        .programs_for(vm, exe)
        .map(|(name, program)| (name.to_string(), Arc::clone(&program.text)))
        .collect();
    // Digests are for those alone that policy has some of; whether a page was written to is looked at in all.
    let hashed = (!programs.is_empty()).then_some(hashed);
    let Some(text) = inspector.program_text(&who.process, hashed)? else {
        return Ok(None);
    };
    Ok(Some(Looked::of(&text, exe, programs, begins, digests)))
}
