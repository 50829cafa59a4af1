// SPDX-License-Identifier: GPL-3.0-only
//! Who owns a flow that no trap showed: read from the guest's own tables once the vif has seen its first packet.
//!
//! That is all there is for a guest without traps, and for what traps cannot see in a guest with them (datagrams of a
//! socket that is not connected, raw sockets, a probe that rests). A thread of its own asks, so that neither the enforcer
//! nor a trap waits for it; what reading costs is bounded by guest, and a question too many is dropped and counted.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use netback_filter::{Direction, Event};
use vmi_xen::linux::{self, Socket};
use vmi_xen::meter::Meter;
use vmi_xen::observe::Subject;

use crate::allowance::Allowance;
use crate::enforcer::Order;
use crate::gate::Way;
use crate::holding::Holding;
use crate::registry::{DomainEntry, Registry, lock};

/// Questions waiting. More means that flows come faster than they can be looked up.
const WAITING: usize = 1024;
/// How often the thread looks whether the daemon ends.
const NAP: Duration = Duration::from_millis(200);

/// A flow whose owner is asked for.
pub struct Question {
    /// The flow, as its guest sees it.
    pub way: Way,
    /// Which end opened it.
    pub origin: Direction,
    /// The vif's report, if it refused the flow's first packet.
    pub refused: Option<Event>,
    /// Where it goes in place of its remote end, if it had a backend by then.
    pub backend: Option<SocketAddr>,
    /// Who is at the other end, if that is known already: by the time of the answer the flow may be over.
    pub peer: Option<Arc<Subject>>,
}

/// What the guest's tables say.
pub struct Answer {
    /// The question.
    pub question: Question,
    /// The socket the flow belongs to, and a process that holds it; none where nobody owns it.
    pub owner: Option<(Socket, Arc<Subject>)>,
    /// Whether the guest was asked at all, and could say.
    pub asked: bool,
}

/// What lookups have cost and given.
#[derive(Debug, Default, Clone, Copy)]
pub struct Stats {
    /// Time of each that was made.
    pub meter: Meter,
    /// An owner was found.
    pub found: u64,
    /// Dropped, since too many waited or the guest had used its share.
    pub dropped: u64,
}

/// Where questions are put.
#[derive(Clone)]
pub struct Lookups {
    questions: Sender<Question>,
    stats: Arc<Mutex<Stats>>,
    /// Packets that wait for the answers.
    pub holding: Arc<Holding>,
}

impl Lookups {
    /// A queue, and the end that [`run`] takes questions from.
    pub fn new(holding: Holding) -> (Lookups, Receiver<Question>) {
        let (questions, asked) = bounded(WAITING);
        let lookups = Lookups {
            questions,
            stats: Arc::default(),
            holding: Arc::new(holding),
        };
        (lookups, asked)
    }

    /// Puts a question; never waits. Gives it back where there is no room.
    ///
    /// # Errors
    /// The question, which nobody will answer.
    pub fn ask(&self, question: Question) -> Result<(), Box<Question>> {
        self.questions.try_send(question).map_err(|refused| {
            lock(&self.stats).dropped += 1;
            match refused {
                TrySendError::Full(question) | TrySendError::Disconnected(question) => Box::new(question),
            }
        })
    }

    /// What they have cost and given so far.
    pub fn stats(&self) -> Stats {
        *lock(&self.stats)
    }
}

/// Answers questions until `stop`. `share`: of one dom0 CPU, that reading one guest may take.
pub fn run(
    lookups: &Lookups,
    asked: &Receiver<Question>,
    registry: &Registry,
    orders: &Sender<Order>,
    share: f64,
    stop: &AtomicBool,
) {
    let mut allowances: HashMap<u32, Allowance> = HashMap::new();
    while !stop.load(Ordering::SeqCst) {
        let question = match asked.recv_timeout(NAP) {
            Ok(question) => question,
            Err(RecvTimeoutError::Timeout) => {
                allowances.retain(|_, allowance| !allowance.is_full(share));
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let entry = u16::try_from(question.way.scope)
            .ok()
            .and_then(|id| registry.by_id(id));
        let Some(entry) = entry else {
            give(orders, question, None, false);
            continue;
        };
        let allowance = allowances
            .entry(question.way.scope)
            .or_insert_with(|| Allowance::full(share));
        if !allowance.has_some(share) {
            lock(&lookups.stats).dropped += 1;
            give(orders, question, None, false);
            continue;
        }
        let began = Instant::now();
        // A fault of ours with one guest must not end the lookups of the others.
        let answer = catch_unwind(AssertUnwindSafe(|| look_up(&entry, &question.way)))
            .ok()
            .flatten();
        let took = began.elapsed();
        allowance.spend(took);
        let asked = answer.is_some();
        let owner = answer.flatten();
        {
            let mut stats = lock(&lookups.stats);
            stats.meter.add(took);
            stats.found += u64::from(owner.is_some());
        }
        give(orders, question, owner, asked);
    }
}

/// None where the guest cannot say.
fn look_up(entry: &DomainEntry, way: &Way) -> Option<Option<(Socket, Arc<Subject>)>> {
    let protocol = match way.protocol {
        policy::Protocol::TCP => linux::Protocol::Tcp,
        policy::Protocol::UDP => linux::Protocol::Udp,
        _ => return None,
    };
    let flow = linux::Flow {
        protocol,
        netns: None,
        local: way.local,
        remote: way.remote,
    };
    let inspector = lock(&entry.inspector);
    match inspector.as_ref()?.owner(&flow) {
        Ok(owner) => Some(owner),
        Err(why) => {
            log::debug!("{}: nobody found for {way:?}: {why}", entry.vm.name);
            None
        }
    }
}

fn give(orders: &Sender<Order>, question: Question, owner: Option<(Socket, Arc<Subject>)>, asked: bool) {
    // The enforcer ends last; when it is gone so is the use of the answer.
    let _ = orders.send(Order::Owner(Box::new(Answer {
        question,
        owner,
        asked,
    })));
}
