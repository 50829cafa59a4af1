// SPDX-License-Identifier: GPL-3.0-only
//! The thread that asks the daemon, so that keys never wait for it.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};
use std::{io, mem};

use super::look::{Due, Look, Source, Wants, look};

/// Threats change seldom, and the list may be long.
const THREATS: Duration = Duration::from_secs(10);
/// The daemon reads processes from the guest's memory, which is not free.
const PROCESSES: Duration = Duration::from_secs(3);
/// The first rates come soon.
const SOON: Duration = Duration::from_secs(1);

/// What to ask from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// What for.
    pub wants: Wants,
    /// How often.
    pub delay: Duration,
    /// Not at all.
    pub paused: bool,
}

/// When to ask what. Pure: the time is given.
#[derive(Debug)]
pub struct Plan {
    order: Order,
    next: Duration,
    looks: u64,
    /// Something that is wanted has not been asked for at all.
    new: bool,
    threats: Option<Duration>,
    processes: Option<(String, Duration)>,
}

impl Plan {
    /// A plan that asks at once.
    pub fn new(order: Order) -> Plan {
        Plan {
            order,
            next: Duration::ZERO,
            looks: 0,
            new: false,
            threats: None,
            processes: None,
        }
    }

    /// Takes another order. What is newly wanted is asked for at once, the rest when its time comes: a rate of a tenth of a second
    /// tells nothing.
    pub fn order(&mut self, order: Order, now: Duration) {
        let before = mem::replace(&mut self.order, order);
        self.new |= before.wants != self.order.wants;
        if before.delay != self.order.delay {
            self.next = self.next.min(now + self.order.delay);
        }
    }

    /// How long there is nothing to ask; none while paused.
    pub fn wait(&self, now: Duration) -> Option<Duration> {
        match (self.order.paused, self.new) {
            (true, _) => None,
            (false, true) => Some(Duration::ZERO),
            (false, false) => Some(self.next.saturating_sub(now)),
        }
    }

    /// What is asked now, and notes that it is.
    pub fn ask(&mut self, now: Duration) -> (Wants, Due) {
        let wants = self.order.wants.clone();
        let base = now >= self.next;
        let since = |then: Duration| now.saturating_sub(then);
        let threats = match self.threats {
            None => true,
            Some(then) => since(then) >= THREATS || (wants.threats_now && (base || self.new)),
        };
        let processes = match (&self.processes, &wants.processes) {
            (_, None) => false,
            (Some((of, then)), Some(domain)) if of == domain => since(*then) >= PROCESSES,
            (_, Some(_)) => true,
        };
        if threats {
            self.threats = Some(now);
        }
        if processes {
            self.processes = wants.processes.clone().map(|domain| (domain, now));
        }
        self.new = false;
        if base {
            self.looks += 1;
            let wait = match self.looks {
                1 => SOON.min(self.order.delay),
                _ => self.order.delay,
            };
            // From now, not from when it was due: a slow daemon is not asked without a pause.
            self.next = now + wait;
        }
        let due = Due {
            base,
            threats,
            processes,
        };
        (wants, due)
    }
}

/// Starts the thread. It ends when nobody orders or takes any more.
///
/// # Errors
/// No thread can be made.
pub fn start(
    source: impl Source + Send + 'static,
    first: Order,
    epoch: Instant,
    tell: impl Fn(Look) -> bool + Send + 'static,
) -> io::Result<Sender<Order>> {
    let (orders, taken) = mpsc::channel();
    thread::Builder::new()
        .name("ask".into())
        .spawn(move || run(&source, Plan::new(first), &taken, epoch, tell))?;
    Ok(orders)
}

fn run(
    source: &impl Source,
    mut plan: Plan,
    orders: &Receiver<Order>,
    epoch: Instant,
    tell: impl Fn(Look) -> bool,
) {
    loop {
        if plan.wait(epoch.elapsed()).is_some_and(|wait| wait.is_zero()) {
            let (wants, due) = plan.ask(epoch.elapsed());
            if !tell(look(source, &wants, due, || epoch.elapsed())) {
                return;
            }
        }
        let order = match plan.wait(epoch.elapsed()) {
            Some(wait) => orders.recv_timeout(wait),
            None => orders.recv().map_err(RecvTimeoutError::from),
        };
        match order {
            Ok(order) => {
                // Of many that came meanwhile only the last counts.
                let order = orders.try_iter().last().unwrap_or(order);
                plan.order(order, epoch.elapsed());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn order(processes: Option<&str>, delay: u64, paused: bool) -> Order {
        Order {
            wants: Wants {
                processes: processes.map(str::to_owned),
                ..Wants::default()
            },
            delay: at(delay),
            paused,
        }
    }

    fn due(base: bool, threats: bool, processes: bool) -> Due {
        Due {
            base,
            threats,
            processes,
        }
    }

    #[test]
    fn the_first_rates_come_soon_and_threats_seldom() {
        let mut plan = Plan::new(order(None, 3000, false));
        assert_eq!(plan.wait(at(0)), Some(at(0)));
        assert_eq!(plan.ask(at(0)).1, due(true, true, false));
        assert_eq!(plan.wait(at(100)), Some(at(900)));
        assert_eq!(plan.ask(at(1000)).1, due(true, false, false));
        assert_eq!(plan.wait(at(1000)), Some(at(3000)));
        // A daemon that took long is not asked again at once.
        assert_eq!(plan.ask(at(10_000)).1, due(true, true, false));
        assert_eq!(plan.wait(at(10_500)), Some(at(2500)));
    }

    #[test]
    fn what_is_newly_wanted_is_asked_alone() {
        let mut plan = Plan::new(order(None, 3000, false));
        plan.ask(at(0));
        plan.ask(at(1000));
        plan.order(order(Some("web1"), 3000, false), at(1200));
        assert_eq!(plan.wait(at(1200)), Some(at(0)));
        assert_eq!(plan.ask(at(1200)).1, due(false, false, true));
        // The rest when its time comes, and processes not more often than they may.
        assert_eq!(plan.wait(at(1200)), Some(at(2800)));
        assert_eq!(plan.ask(at(4000)).1, due(true, false, false));
        plan.order(order(Some("db1"), 3000, false), at(4100));
        assert_eq!(plan.ask(at(4100)).1, due(false, false, true));
    }

    #[test]
    fn nobody_is_asked_while_paused_and_a_shorter_delay_holds_at_once() {
        let mut plan = Plan::new(order(None, 60_000, false));
        plan.ask(at(0));
        plan.ask(at(1000));
        plan.order(order(None, 60_000, true), at(2000));
        assert_eq!(plan.wait(at(99_000)), None);
        plan.order(order(None, 60_000, false), at(99_000));
        assert_eq!(plan.wait(at(99_000)), Some(at(0)));
        plan.ask(at(99_000));
        plan.order(order(None, 500, false), at(99_100));
        assert_eq!(plan.wait(at(99_100)), Some(at(500)));
    }
}
