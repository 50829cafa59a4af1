// SPDX-License-Identifier: GPL-3.0-only
//! Carries the datapath's reports to the enforcer and held packets to where they wait, and answers refused packets that the
//! datapath itself cannot answer. Guests at addresses that they are not known by are asked for.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use netback_filter::{AttachedVif, Datapath, Event, EventKind, Events, Prohibited, Report};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::addresses::Strangers;
use crate::enforcer::Order;
use crate::holding::Holding;
use crate::registry::lock;

/// How long a stop may go unnoticed.
const NAP: Duration = Duration::from_millis(250);

/// For how long the list of vifs is believed: a new vif's first refusal may go unanswered.
const STALE: Duration = Duration::from_secs(1);

/// Answers what is refused with ICMP.
pub struct Answers {
    prohibited: Option<Prohibited>,
    datapath: Arc<Mutex<Datapath>>,
    vifs: Vec<AttachedVif>,
    listed: Option<Instant>,
}

impl Answers {
    /// Answers on the vifs of this datapath. Where no answer can be sent the log says so, once.
    pub fn new(datapath: Arc<Mutex<Datapath>>) -> Answers {
        let prohibited = Prohibited::open()
            .inspect_err(|e| log::warn!("what is to be refused with ICMP is dropped without an answer: {e}"))
            .ok();
        Answers {
            prohibited,
            datapath,
            vifs: Vec::new(),
            listed: None,
        }
    }

    fn answer(&mut self, event: &Event) {
        let Some(prohibited) = &mut self.prohibited else {
            return;
        };
        if event.kind != EventKind::Refused {
            return;
        }
        if self.listed.is_none_or(|at| at.elapsed() >= STALE) {
            self.vifs = lock(&self.datapath).attached().unwrap_or_default();
            self.listed = Some(Instant::now());
        }
        if let Err(e) = prohibited.answer(event, &self.vifs) {
            log::debug!("{}: not answered: {e}", event.flow.key);
        }
    }
}

/// Forwards until `stop`. Blocks when the enforcer is behind: then the ring fills, and the datapath drops reports and counts
/// them, never packets.
pub fn forward(
    mut events: Events,
    mut answers: Answers,
    strangers: &Strangers,
    holding: &Holding,
    orders: &Sender<Order>,
    stop: &AtomicBool,
) {
    while !stop.load(Ordering::SeqCst) {
        let due = holding.expire();
        let nap = due.map_or(NAP, |due| due.saturating_duration_since(Instant::now()).min(NAP));
        // Rounded up: a poll that ends too early would find nothing due.
        let timeout = PollTimeout::try_from(nap + Duration::from_millis(1)).unwrap_or(PollTimeout::NONE);
        // An interrupted poll only means to look.
        let _ = poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLIN)], timeout);
        while let Some(report) = events.report() {
            let event = match report {
                Report::Held(frame) => {
                    holding.take(frame);
                    continue;
                }
                Report::Event(event) => event,
            };
            answers.answer(&event);
            strangers.meet(&event);
            if orders.send(Order::Vif(event)).is_err() {
                return;
            }
        }
    }
}
