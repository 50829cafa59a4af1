// SPDX-License-Identifier: GPL-3.0-only
//! The history of flows: what the enforcer sees of them is counted and written by a thread of its own.
//!
//! A flow is counted once, where it is opened: at the vif of the guest that opens it, or of the guest that it comes to from outside.
//! Its bytes are what its record at that vif has more than at the last look. **Invariant:** nobody waits for this thread; notes
//! that it has no room for are lost and counted, and the next look at all flows finds most of what they told.

mod describe;
mod namer;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use netback_filter::{Direction, Event, FlowRecord};
use policyd_analytics::signals::Pair;
use policyd_api::{FlowName, FlowTotals, Verdict};
use policyd_store::FlowStore;
use vmi_xen::observe::Subject;

use crate::enforcer::Owners;
use crate::events::now_ns;
use crate::gate::{Judged, Way};
use crate::shadow::{Example, Shadow};
use crate::signals::{self, Signals, Told};
use crate::world::World;
use namer::Namer;

/// Notes under way.
const NOTES: usize = 64 << 10;
/// How often it is looked whether a minute is over.
const TICK: Duration = Duration::from_secs(1);

/// What the enforcer tells.
pub enum Note {
    /// A guest's process opened a flow, which was decided.
    Opened {
        /// The flow, as its guest sees it.
        way: Way,
        /// The process.
        who: Arc<Subject>,
        /// What became of it.
        judged: Judged,
        /// It was shown before its first packet: it cannot have been counted yet.
        fresh: bool,
    },
    /// A flow that was told of is seen at the vif under other addresses.
    Translated {
        /// As it was told of.
        inside: Way,
        /// As the vif has it.
        outside: Way,
    },
    /// A vif refused a packet.
    Refused {
        /// The vif's report.
        event: Box<Event>,
        /// Who owns the flow in that guest.
        who: Option<Arc<Subject>>,
    },
    /// A connection ended.
    Ended(Box<FlowRecord>),
    /// All flows that there are.
    Live(Vec<FlowRecord>),
}

/// Where notes are given.
#[derive(Clone, Default)]
pub struct Notes {
    out: Option<Sender<(u64, Note)>>,
    lost: Arc<AtomicU64>,
}

impl Notes {
    /// A way to the recorder, and its end there.
    pub fn new() -> (Notes, Receiver<(u64, Note)>) {
        let (out, notes) = bounded(NOTES);
        let lost = Arc::default();
        (Notes { out: Some(out), lost }, notes)
    }

    /// Tells; never waits.
    pub fn tell(&self, note: Note) {
        if let Some(out) = &self.out
            && out.try_send((now_ns() / 1_000_000_000, note)).is_err()
        {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether anybody listens.
    pub fn wanted(&self) -> bool {
        self.out.is_some()
    }

    /// The count of notes that found no room.
    pub fn lost(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.lost)
    }
}

/// A flow that is counted.
struct Counted {
    name: Arc<FlowName>,
    told: Told,
    /// As its record had them at the last look.
    packets: [u64; 2],
    bytes: [u64; 2],
    /// It was taken back, to be counted under the name that it will have.
    taken_back: bool,
}

/// Counts flows.
pub struct Recorder {
    /// None where no history is kept: signals are all the same.
    store: Option<FlowStore>,
    signals: Arc<Signals>,
    world: Arc<ArcSwap<World>>,
    owners: Arc<Owners>,
    shadow: Arc<Shadow>,
    namer: Namer,
    open: HashMap<Way, Counted>,
    /// CLOCK_MONOTONIC when it began: flows from before were counted by an earlier daemon, or by none.
    began_ns: u64,
}

impl Recorder {
    /// A recorder into `store`. `began_ns`: CLOCK_MONOTONIC now.
    pub fn new(
        store: Option<FlowStore>,
        signals: Arc<Signals>,
        world: Arc<ArcSwap<World>>,
        owners: Arc<Owners>,
        shadow: Arc<Shadow>,
        began_ns: u64,
    ) -> Recorder {
        let names = store.as_ref().map(FlowStore::names).unwrap_or_default();
        let namer = Namer::seeded(&names);
        Recorder {
            store,
            signals,
            world,
            owners,
            shadow,
            namer,
            open: HashMap::new(),
            began_ns,
        }
    }

    /// Counts until nobody tells any more, and writes what is counted then.
    pub fn run(mut self, notes: &Receiver<(u64, Note)>) {
        let mut due = Instant::now() + TICK;
        loop {
            match notes.recv_deadline(due) {
                Ok((at, note)) => self.take(at, note),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if Instant::now() >= due {
                due = Instant::now() + TICK;
                self.write(false);
            }
        }
        self.write(true);
    }

    fn write(&mut self, all: bool) {
        let Some(store) = &self.store else { return };
        let before = store.status().problem;
        let now = now_ns() / 1_000_000_000;
        if let Err(e) = store.write(now, all)
            && before.as_deref() != Some(&*e.to_string())
        {
            log::warn!("a minute of the flow history is lost: {e}");
        }
        self.shadow.save(store, all);
        self.signals.save(store, now, all);
    }

    fn take(&mut self, at: u64, note: Note) {
        let world = self.world.load_full();
        match note {
            Note::Opened {
                way,
                who,
                judged,
                fresh,
            } => {
                let name = self.namer.fold(describe::opened(&world, &way, &who, &judged));
                let pair = signals::pair(&world, &name, &way.key(), judged.backend);
                let known = self.open.get_mut(&way);
                // One that a look at all flows found first is counted already, under the name of who was not known yet.
                let known = known.filter(|known| !fresh && known.name.verdict == name.verdict);
                let mut observed = false;
                match known {
                    Some(known) => {
                        if std::mem::take(&mut known.taken_back) {
                            observed = known.name == name;
                            add(self.store.as_ref(), &name, once(at, 1, 0));
                        }
                        known.name = Arc::clone(&name);
                        self.signals.rename(&mut known.told, pair, at);
                    }
                    None => {
                        self.begin(way, &name, pair, at, true);
                        add(self.store.as_ref(), &name, once(at, 1, 0));
                    }
                }
                if !observed {
                    self.shadow.observe(&name, at, || Example::of(&way, Some(&*who)));
                }
            }
            Note::Translated { inside, outside } => {
                if let Some(mut known) = self.open.remove(&inside) {
                    if let Some(store) = &self.store {
                        store.take_back(&known.name);
                    }
                    known.taken_back = true;
                    self.open.insert(outside, known);
                }
            }
            Note::Refused { event, who } => self.refused(&world, at, &event, who.as_deref()),
            Note::Ended(record) => {
                self.count(&world, at, &record);
                if let Some(counted) = self.open.remove(&Way::from(&record.key)) {
                    self.end(&counted, at);
                }
            }
            Note::Live(records) => {
                let mut live = HashMap::with_capacity(records.len().min(self.open.len()));
                for record in &records {
                    let way = Way::from(&record.key);
                    if record.ended && !self.open.contains_key(&way) {
                        // Its end was told.
                        continue;
                    }
                    self.count(&world, at, record);
                    match self.open.remove(&way) {
                        Some(counted) if record.ended => self.end(&counted, at),
                        Some(counted) => drop(live.insert(way, counted)),
                        None => {}
                    }
                }
                // The others are gone.
                let gone = std::mem::replace(&mut self.open, live);
                gone.values().for_each(|counted| self.end(counted, at));
                let allowed = self.open.values().filter(|c| c.name.verdict == Verdict::Allow);
                self.signals.open(allowed.map(|counted| &counted.told));
            }
        }
    }

    /// Adds what a flow's record has more than at the last look. One that nobody told of is counted as of now.
    fn count(&mut self, world: &World, at: u64, record: &FlowRecord) {
        let way = Way::from(&record.key);
        let same = |known: &&Counted| known.name.verdict == describe::verdict(record);
        let (packets, bytes, new) = match self.open.get_mut(&way) {
            Some(known) => {
                if !same(&&*known)
                    && let Some(name) = describe::recorded(world, &self.owners, record)
                {
                    // A change of policy decided it anew.
                    known.name = self.namer.fold(name);
                }
                (known.packets, known.bytes, false)
            }
            None if record.first_ns == 0 => return,
            None => {
                let Some(name) = describe::recorded(world, &self.owners, record) else {
                    return;
                };
                let name = self.namer.fold(name);
                let new = record.first_ns >= self.began_ns;
                let pair = signals::pair(world, &name, &record.key, record.backend);
                self.begin(way, &name, pair, at, new);
                match new {
                    true => {
                        let who = self.owners.of(&way);
                        self.shadow
                            .observe(&name, at, || Example::of(&way, who.as_deref()));
                        ([0; 2], [0; 2], true)
                    }
                    false => (record.packets, record.bytes, false),
                }
            }
        };
        let Some(counted) = self.open.get_mut(&way) else {
            return;
        };
        // A record that begins again counts from nothing.
        let more = |now: [u64; 2], before: [u64; 2]| match now[0] < before[0] || now[1] < before[1] {
            true => now,
            false => [now[0] - before[0], now[1] - before[1]],
        };
        let (mut packets, mut bytes) = (more(record.packets, packets), more(record.bytes, bytes));
        (counted.packets, counted.bytes) = (record.packets, record.bytes);
        if record.verdict.origin == Direction::ToGuest {
            packets.reverse();
            bytes.reverse();
        }
        self.signals.look(&mut counted.told, at, record, packets, bytes);
        if new || packets != [0; 2] || bytes != [0; 2] {
            let totals = FlowTotals {
                packets_out: packets[0],
                packets_in: packets[1],
                bytes_out: bytes[0],
                bytes_in: bytes[1],
                ..once(at, new.into(), 0)
            };
            add(self.store.as_ref(), &counted.name, totals);
        }
    }

    fn refused(&mut self, world: &World, at: u64, event: &Event, who: Option<&Subject>) {
        if !event.enforced {
            return;
        }
        let way = Way::from(&event.flow.key);
        let opener = describe::opener(world, event);
        let known = self.open.get(&opener);
        if let Some(known) = known.filter(|known| known.name.verdict == Verdict::Deny) {
            add(self.store.as_ref(), &known.name, once(at, 0, 1));
            return;
        }
        let name = self
            .namer
            .fold(describe::refused(world, &self.owners, event, who));
        let new = known.is_none();
        add(self.store.as_ref(), &name, once(at, new.into(), 1));
        match self.open.get_mut(&opener) {
            // One that passed until then is no other flow.
            Some(known) => known.name = name,
            None => {
                self.shadow.observe(&name, at, || Example::of(&way, who));
                let pair = signals::pair(world, &name, &event.flow.key, event.flow.backend);
                self.begin(opener, &name, pair, at, true);
            }
        }
    }

    /// Counts a flow from now on. `new`: it was opened just now.
    fn begin(&mut self, way: Way, name: &Arc<FlowName>, pair: Pair, at: u64, new: bool) {
        let generation = self.world.load().rules.generation();
        let counted = Counted {
            name: Arc::clone(name),
            told: self.signals.begin(name, pair, at, new, generation),
            packets: [0; 2],
            bytes: [0; 2],
            taken_back: false,
        };
        if let Some(before) = self.open.insert(way, counted) {
            self.end(&before, at);
        }
    }

    fn end(&self, counted: &Counted, at: u64) {
        self.signals
            .end(&counted.told, at, counted.name.verdict == Verdict::Allow);
    }
}

fn add(store: Option<&FlowStore>, name: &Arc<FlowName>, totals: FlowTotals) {
    if let Some(store) = store {
        store.add(name, totals);
    }
}

/// So many flows and refusals at a time.
fn once(at: u64, flows: u64, refused: u64) -> FlowTotals {
    FlowTotals {
        flows,
        refused,
        first: at,
        last: at,
        ..FlowTotals::default()
    }
}

#[cfg(test)]
pub mod tests;
