// SPDX-License-Identifier: GPL-3.0-only
//! Which backends fail, by dom0's own checks and by what becomes of guests' connects, and which are gone.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use netback_filter::{Direction, Event, FlowRecord};
use policy::Protocol;
use policyd_api::{BackendState, What};

use super::Enforcer;
use crate::present;
use crate::routes::{Condition, Departed, Facade, Standing};
use crate::world::World;

/// How long a backend that failed guests' connects is shunned the first time; each time after it is twice as long.
const SHUN: Duration = Duration::from_secs(10);
/// The longest.
const MOST: Duration = Duration::from_secs(300);
/// For how long flows to a backend whose guest is gone are ended. What was idle for longer has to find out by itself.
const MOURNING: Duration = Duration::from_secs(600);
/// A SYN that has no answer after so long will have none. (It is sent again after one second, then after two.)
const UNANSWERED: Duration = Duration::from_secs(3);

type End = (Protocol, SocketAddr);

/// What is known of backends beside what the World knows.
#[derive(Default)]
pub(super) struct Health {
    checked: HashMap<End, bool>,
    connects: HashMap<End, Connects>,
    gone: Vec<Departed>,
    /// Since when, in the order of `gone`.
    since: Vec<Instant>,
}

/// How guests' connects to a backend went.
#[derive(Default)]
struct Connects {
    failed_in_a_row: u32,
    shunned_until: Option<Instant>,
    /// How often it was shunned since a connect last succeeded.
    shunned: u32,
}

impl Condition for Health {
    fn checked(&self, protocol: Protocol, end: SocketAddr) -> Option<bool> {
        self.checked.get(&(protocol, end)).copied()
    }

    fn is_shunned(&self, protocol: Protocol, end: SocketAddr) -> bool {
        let connects = self.connects.get(&(protocol, end));
        connects.is_some_and(|c| c.shunned_until.is_some())
    }

    fn gone(&self) -> &[Departed] {
        &self.gone
    }
}

impl Health {
    /// Takes what dom0's checks say. Returns whether that is news.
    pub(super) fn check(&mut self, end: End, up: Option<bool>) -> bool {
        match up {
            Some(up) => self.checked.insert(end, up) != Some(up),
            None => self.checked.remove(&end).is_some(),
        }
    }

    /// Takes what became of a guest's connect. `fall`: so many failures in a row count. Returns whether the backend is shunned
    /// from now on, or no more.
    pub(super) fn connect(&mut self, end: End, succeeded: bool, fall: u32, now: Instant) -> bool {
        if succeeded {
            // Most succeed: nothing is kept of backends that never failed.
            let known = self.connects.remove(&end);
            return known.is_some_and(|c| c.shunned_until.is_some());
        }
        let connects = self.connects.entry(end).or_default();
        if connects.shunned_until.is_some() {
            return false;
        }
        connects.failed_in_a_row += 1;
        if connects.failed_in_a_row < fall {
            return false;
        }
        let time = SHUN.saturating_mul(1 << connects.shunned.min(8)).min(MOST);
        connects.failed_in_a_row = 0;
        connects.shunned += 1;
        connects.shunned_until = Some(now + time);
        true
    }

    /// Lets backends back that were shunned for long enough, and forgets those that are gone for long. Returns whether
    /// there were any.
    pub(super) fn lapse(&mut self, now: Instant) -> bool {
        let mut lapsed = false;
        for connects in self.connects.values_mut() {
            if connects.shunned_until.is_some_and(|until| until <= now) {
                connects.shunned_until = None;
                lapsed = true;
            }
        }
        let forgotten = self.since.iter().take_while(|at| now - **at >= MOURNING).count();
        self.gone.drain(..forgotten);
        self.since.drain(..forgotten);
        lapsed || forgotten > 0
    }

    /// When the next is let back.
    pub(super) fn due(&self) -> Option<Instant> {
        self.connects.values().filter_map(|c| c.shunned_until).min()
    }

    /// The backends in a guest that was destroyed.
    pub(super) fn bury(&mut self, world: &World, scope: u32, now: Instant) {
        for facade in world.routes.iter() {
            for member in facade.members.iter().filter(|m| m.scope == Some(scope)) {
                let departed = Departed::new(facade, member);
                self.connects.remove(&(departed.protocol, member.end()));
                if !self.gone.contains(&departed) {
                    self.gone.push(departed);
                    self.since.push(now);
                }
            }
        }
    }

    /// Keeps nothing of what is no backend any more.
    pub(super) fn tidy(&mut self, world: &World) {
        let is_backend = |(protocol, end): &End| {
            let mut all = world.routes.iter();
            all.any(|f| f.route.protocol == *protocol && f.member(*end).is_some())
        };
        self.connects.retain(|end, _| is_backend(end));
        self.checked.retain(|end, _| is_backend(end));
    }
}

impl Enforcer {
    /// A connection is over: what that says of the backend that it was with, if there was one.
    pub(super) fn connection_over(&mut self, event: &Event) {
        let flow = &event.flow;
        let age = Duration::from_nanos(event.ns.saturating_sub(flow.first_ns));
        match flow.established {
            // One that began long ago does not tell whether another could begin.
            true if age < SHUN => self.connect_ended(flow, true),
            // One that its guest gave up before there was an answer says nothing either.
            false if flow.packets[1] > 0 => self.connect_ended(flow, false),
            _ => {}
        }
    }

    /// A guest's connect to a route has come to something.
    fn connect_ended(&mut self, flow: &FlowRecord, succeeded: bool) {
        let (Some(end), Direction::FromGuest) = (flow.backend, flow.verdict.origin) else {
            return;
        };
        let protocol = Protocol(flow.key.protocol.0);
        let world = self.world.load();
        let facade = world.routes.at(protocol, flow.key.remote);
        let Some(health) = facade.map(|f| f.route.health).filter(|h| h.passive) else {
            return;
        };
        self.dirty |= self
            .health
            .connect((protocol, end), succeeded, health.fall, Instant::now());
    }

    /// Connects that nobody answers leave no other trace than a flow without an answer. `period`: since this was last asked.
    pub(super) fn count_unanswered(&mut self, records: &[FlowRecord], now_ns: u64, period: Duration) {
        let silent = |record: &&FlowRecord| {
            let age = Duration::from_nanos(now_ns.saturating_sub(record.first_ns));
            record.backend.is_some()
                && record.first_ns != 0
                && record.key.protocol == netback_filter::Protocol::TCP
                && record.packets[1] == 0
                && !record.ended
                && age >= UNANSWERED
                && age < UNANSWERED + period
        };
        for record in records.iter().filter(silent) {
            self.connect_ended(record, false);
        }
    }

    /// Tells how backends stand now, where that is news.
    pub(super) fn tell_standings(&self, before: &World, now: &World) {
        let of = |world: &World, facade: &Facade, end: SocketAddr| {
            let found = world.routes.at(facade.route.protocol, facade.end)?;
            found.member(end).map(|member| member.standing.clone())
        };
        for facade in now.routes.iter() {
            for member in &facade.members {
                let earlier = of(before, facade, member.end());
                // That a new one serves is what its policy says.
                if earlier.as_ref().unwrap_or(&Standing::Serves) == &member.standing {
                    continue;
                }
                self.log.publish(
                    None,
                    What::Backend {
                        route: facade.route.to_string(),
                        address: facade.end,
                        backend: member.end(),
                        domain: present::domain_of(now, member),
                        version: present::version_of(facade, member),
                        state: present::state_of(member),
                        why: present::why_of(member),
                    },
                );
            }
        }
        // What left a route keeps its flows. Of a route that is gone as a whole its policy's event tells.
        for facade in before.routes.iter() {
            let Some(later) = now.routes.at(facade.route.protocol, facade.end) else {
                continue;
            };
            for member in facade.members.iter().filter(|m| later.member(m.end()).is_none()) {
                if member.standing == Standing::Gone {
                    continue;
                }
                self.log.publish(
                    None,
                    What::Backend {
                        route: facade.route.to_string(),
                        address: facade.end,
                        backend: member.end(),
                        domain: present::domain_of(before, member),
                        version: present::version_of(facade, member),
                        state: BackendState::Draining,
                        why: Some("it is no longer one of the route's backends".into()),
                    },
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end() -> End {
        (Protocol::TCP, "10.0.0.12:80".parse().expect("an address"))
    }

    #[test]
    fn failures_in_a_row_shun_a_backend_each_time_for_longer() {
        let mut health = Health::default();
        let mut now = Instant::now();
        let shunned = |health: &Health| health.is_shunned(end().0, end().1);
        assert!(!health.connect(end(), false, 2, now));
        assert!(!health.connect(end(), true, 2, now), "not in a row");
        assert!(!health.connect(end(), false, 2, now) && !shunned(&health));
        assert!(health.connect(end(), false, 2, now) && shunned(&health));
        assert!(!health.connect(end(), false, 2, now), "it is shunned already");
        assert!(!health.lapse(now + SHUN - Duration::from_millis(1)));
        now += SHUN;
        assert_eq!(health.due(), Some(now));
        assert!(health.lapse(now) && !shunned(&health));
        health.connect(end(), false, 2, now);
        assert!(health.connect(end(), false, 2, now));
        assert_eq!(health.due(), Some(now + 2 * SHUN));
        health.connect(end(), true, 2, now);
        assert!(!shunned(&health), "a connect that came about says more");
    }

    #[test]
    fn only_another_answer_of_a_check_is_news() {
        let mut health = Health::default();
        assert!(health.check(end(), Some(false)) && !health.check(end(), Some(false)));
        assert_eq!(health.checked(end().0, end().1), Some(false));
        assert!(health.check(end(), None) && !health.check(end(), None));
    }
}
