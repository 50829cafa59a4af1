// SPDX-License-Identifier: GPL-3.0-only
//! Threats: a reader of the event log that asks rules about each event, and remembers what they found.
//!
//! Beside everything else: it reads the log as any reader does, so it is in nobody's way, and what it misses under load is counted.
//! What a rule wants to know of a guest is read through the guest's inspector, for as long as the guest's share of time lasts.

mod answers;
mod asked;
mod known;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use netback_filter::{FlowKey, FlowWriter, Protocol, Vlan};
use policyd_analytics::{About, Answer, Baseline, Descriptor, Detector, Found, Question, Volume};
use policyd_api::What;
use policyd_store::FlowStore;

use crate::enforcer::Order;
use crate::events::{EventLog, now_ns};
use crate::registry::{Registry, lock};
pub use answers::Answers;
use asked::Asked;
pub use known::Threats;

/// How often the log is looked at. A threat is to be answered within a second of what shows it.
const TICK: Duration = Duration::from_millis(50);
/// How often the history of flows is looked at.
const MINUTE: Duration = Duration::from_secs(60);
/// Seconds of an hour.
const HOUR: u64 = 3600;
/// Hours of the history that say what is usual.
const USUAL: u64 = 7 * 24;

/// What rules are asked about, and how far guests may be read for it.
pub struct Sources<'a> {
    /// What happens.
    pub log: &'a EventLog,
    /// The guests.
    pub registry: &'a Registry,
    /// What happened.
    pub history: Option<&'a FlowStore>,
    /// The flows that there are.
    pub flows: &'a FlowWriter,
    /// Of one dom0 CPU, that reading one guest may take.
    pub share: f64,
}

/// Looks for threats until `stop`.
pub fn run(
    threats: &Threats,
    sources: &Sources<'_>,
    orders: &Sender<Order>,
    mut answers: Answers,
    stop: &AtomicBool,
) {
    let Sources {
        log,
        registry,
        history,
        flows,
        share,
    } = *sources;
    let mut past = history.map(Past::learn);
    let mut detector = Detector::new(
        past.as_mut()
            .map(|past| std::mem::take(&mut past.baseline))
            .unwrap_or_default(),
    );
    let newest = log.subscribe();
    // Each kind in a queue of its own: many of one do not push those of the other out.
    let (mut after, mut asked, mut awaited) = (0, Asked::new(share), Asked::new(share));
    let mut minute = Instant::now() + MINUTE;
    while !stop.load(Ordering::SeqCst) {
        let mut found = Vec::new();
        if *newest.borrow() > after {
            let batch = log.since(after);
            threats.missed.fetch_add(batch.missed, Ordering::Relaxed);
            if batch.missed > 0 {
                detector.lost(None);
            }
            for event in &batch.events {
                after = event.seq;
                let outcome = detector.observe(event);
                found.extend(outcome.found);
                let is_read = |question: &Question| question.about == About::StandardSockets;
                let (read, counted) = outcome.questions.into_iter().partition(is_read);
                asked.put(read);
                awaited.put(counted);
            }
        }
        while let Some(question) = asked.due() {
            let began = Instant::now();
            let answer = standard_sockets(registry, &question);
            asked.spent(question.domid, began.elapsed());
            let answered = answer.and_then(|sockets| detector.answered(&question, Answer::Sockets(&sockets)));
            found.extend(answered);
        }
        while let Some(question) = awaited.due() {
            let began = Instant::now();
            let answer = has_packets(flows, &question);
            awaited.spent(question.domid, began.elapsed());
            found.extend(detector.answered(&question, Answer::Packets(answer)));
        }
        if Instant::now() >= minute {
            minute = Instant::now() + MINUTE;
            if let (Some(past), Some(store)) = (&mut past, history) {
                found.extend(past.look(store));
            }
        }
        for found in found {
            tell(threats, registry, orders, &mut answers, found);
        }
        if let Some(store) = history {
            threats.save(store, false);
        }
        std::thread::sleep(TICK);
    }
    if let Some(store) = history {
        threats.save(store, true);
    }
}

fn tell(
    threats: &Threats,
    registry: &Registry,
    orders: &Sender<Order>,
    answers: &mut Answers,
    mut found: Found,
) {
    let new = threats.note(&found, now_ns());
    // Also of one that was told before: its answer may have been taken back since, or be asked for only now.
    let (answer, answered) = answers.give(&found).unzip();
    let answered = answered == Some(true);
    if !new && !answered {
        return;
    }
    found.threat.answer = answer;
    threats.answered(&found);
    log::warn!(
        "{}: threat {} ({}): {}",
        found.domain,
        found.threat.rule,
        found.threat.severity.as_str(),
        found.threat.title
    );
    let by_name = || {
        registry
            .all()
            .into_iter()
            .find(|entry| entry.vm.name == found.domain)
    };
    let id = found.domid.or_else(|| by_name().map(|entry| entry.id));
    // The enforcer ends last; when it is gone so is the use of the order.
    let _ = orders.send(Order::Say {
        domain: id.map(|id| (id, found.domain)),
        what: What::Threat {
            threat: Box::new(found.threat),
        },
    });
}

/// Whether the datapath has seen packets of the flow that the question is about, in no VLAN.
fn has_packets(flows: &FlowWriter, question: &Question) -> bool {
    let About::Packets { local, remote, .. } = question.about else {
        return false;
    };
    let key = FlowKey {
        scope: question.domid.into(),
        protocol: Protocol::UDP,
        local,
        remote,
        vlan: Vlan::NONE,
    };
    match flows.record(&key) {
        Ok(record) => record.is_some_and(|flow| flow.packets != [0, 0]),
        Err(why) => {
            log::debug!("{}: {key}: {why}", question.domain);
            false
        }
    }
}

/// None where the guest cannot say, or the process is gone.
fn standard_sockets(registry: &Registry, question: &Question) -> Option<Vec<Descriptor>> {
    let entry = registry.by_id(question.domid)?;
    let inspector = lock(&entry.inspector);
    let (pid, start) = (question.process.pid, question.process.start_time_ns);
    let sockets = match inspector.as_ref()?.standard_sockets(pid, start) {
        Ok(sockets) => sockets?,
        Err(why) => {
            log::debug!("{}: descriptors of {pid}: {why}", question.domain);
            return None;
        }
    };
    let descriptor = |(fd, socket): (u32, vmi_xen::linux::Socket)| Descriptor {
        fd,
        local: socket.local,
        remote: socket.remote,
    };
    Some(sockets.into_iter().map(descriptor).collect())
}

/// What the history of flows says.
struct Past {
    baseline: Baseline,
    volume: Volume,
    /// The next hour to learn.
    next: u64,
}

impl Past {
    fn learn(store: &FlowStore) -> Past {
        let now = now_ns() / 1_000_000_000;
        let mut past = Past {
            baseline: Baseline::default(),
            volume: Volume::default(),
            next: (now / HOUR).saturating_sub(USUAL) * HOUR,
        };
        match store.past(0, now, |name| name.from.exe.is_some()) {
            Ok(all) => {
                let flows = all.flows.iter().map(|(name, totals)| (&**name, *totals));
                past.baseline = Baseline::learned(flows);
            }
            Err(why) => log::warn!("what is usual cannot be read from the history of flows: {why}"),
        }
        past.catch_up(store, now);
        past
    }

    /// Takes in the hours that are over.
    fn catch_up(&mut self, store: &FlowStore, now: u64) {
        while self.next + HOUR <= now {
            if let Ok(hour) = store.past(self.next, self.next + HOUR, |name| name.from.domain.is_some())
                && !hour.flows.is_empty()
            {
                let flows = hour.flows.iter().map(|(name, totals)| (&**name, *totals));
                self.volume.learn(self.next, flows);
            }
            self.next += HOUR;
        }
    }

    /// What is unusual of the last hour.
    fn look(&mut self, store: &FlowStore) -> Vec<Found> {
        let now = now_ns() / 1_000_000_000;
        let found = match store.past(now.saturating_sub(HOUR), now, |name| name.from.domain.is_some()) {
            Ok(last) => {
                let flows: Vec<_> = last
                    .flows
                    .iter()
                    .map(|(name, totals)| (&**name, *totals))
                    .collect();
                self.volume.look(now, flows)
            }
            Err(_) => Vec::new(),
        };
        // After the look: what is unusual must not be usual already.
        self.catch_up(store, now);
        found
    }
}

#[cfg(test)]
mod tests {
    use policyd_api as api;

    use super::*;

    pub(in crate::threats) fn found(rule: &str, key: &str, severity: api::Severity) -> Found {
        Found {
            domid: Some(1),
            domain: "web1".into(),
            threat: api::Threat {
                rule: rule.into(),
                severity,
                technique: "T1".into(),
                title: "something".into(),
                evidence: Vec::new(),
                process: None,
                answer: None,
            },
            key: key.into(),
        }
    }
}
