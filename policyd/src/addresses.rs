// SPDX-License-Identifier: GPL-3.0-only
//! Which addresses guests have now. Nothing traps when one comes or goes (by DHCP, by a router's advertisement, by failover of a cluster), so a
//! thread of its own reads them: now and then, and at once when a flow is at an address that its guest is not known by.

use std::collections::HashMap;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use netback_filter::{Event, EventKind};
use vmi_xen::session::Inspector;

use crate::allowance::Allowance;
use crate::enforcer::Order;
use crate::registry::{Registry, lock};
use crate::world::World;

/// How often a guest's addresses are read when no flow gives a reason to.
const PERIOD: Duration = Duration::from_secs(5);
/// They are not read more often.
const LEAST: Duration = Duration::from_millis(250);
/// How long a stop may go unnoticed.
const NAP: Duration = Duration::from_millis(200);
/// Guests that wait to be read. One that finds no room is asked for by its next flow.
const WAITING: usize = 256;

/// All addresses of a guest's interfaces that a peer may use, each once, in order, and whether they are in more than one network
/// namespace; none where they cannot be read.
pub fn read(inspector: &Inspector) -> Option<(Vec<IpAddr>, bool)> {
    let mut found = inspector.addresses().ok()?;
    found.retain(|a| is_of_one_host(a.addr));
    let several = found.windows(2).any(|pair| pair[0].netns != pair[1].netns);
    let mut addresses: Vec<IpAddr> = found.into_iter().map(|a| a.addr).collect();
    addresses.sort_unstable();
    addresses.dedup();
    Some((addresses, several))
}

/// Whether it can be the address of one host for others.
fn is_of_one_host(address: IpAddr) -> bool {
    let is_broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || is_broadcast)
}

/// Asks for guests whose flows are at addresses that they are not known by.
pub struct Strangers {
    world: Arc<ArcSwap<World>>,
    asked: Sender<u32>,
}

impl Strangers {
    /// With where its questions come out, for [`run`].
    pub fn new(world: Arc<ArcSwap<World>>) -> (Strangers, Receiver<u32>) {
        let (asked, questions) = bounded(WAITING);
        (Strangers { world, asked }, questions)
    }

    /// Looks at the guest's end of a flow that begins.
    pub fn meet(&self, event: &Event) {
        if !matches!(event.kind, EventKind::Start | EventKind::Refused) {
            return;
        }
        let (scope, address) = (event.flow.key.scope, event.flow.key.local.ip());
        if !is_of_one_host(address) {
            return;
        }
        let world = self.world.load();
        let holder = world.vm_at(address).map(|vm| vm.scope);
        if holder != Some(scope) {
            // The one that is known by it may have given it up.
            for scope in holder.into_iter().chain([scope]) {
                let _ = self.asked.try_send(scope);
            }
        }
    }
}

/// What is remembered of a guest from one reading to the next.
struct Course {
    due: Instant,
    read: Option<Instant>,
    allowance: Allowance,
    /// What the last reading found: what is missed for the first time may just have been moved while the list was walked.
    before: Vec<IpAddr>,
}

impl Course {
    fn new(share: f64) -> Course {
        Course {
            due: Instant::now(),
            read: None,
            allowance: Allowance::full(share),
            before: Vec::new(),
        }
    }

    /// It is to be read soon, and once more, for what one reading misses is believed to be there.
    fn hasten(&mut self) {
        let soonest = self.read.map(|read| read + LEAST);
        self.due = self.due.min(soonest.unwrap_or(self.due));
    }

    /// What it has, by this reading and the one before it.
    fn take(&mut self, found: Vec<IpAddr>) -> Vec<IpAddr> {
        let mut all = self.before.clone();
        all.extend(&found);
        all.sort_unstable();
        all.dedup();
        let soon = all != found;
        self.before = found;
        self.due = Instant::now() + if soon { LEAST } else { PERIOD };
        all
    }
}

/// Reads until `stop`. `share`: of one dom0 CPU, that reading one guest may take.
pub fn run(
    registry: &Registry,
    orders: &Sender<Order>,
    questions: &Receiver<u32>,
    share: f64,
    stop: &AtomicBool,
) {
    let mut courses: HashMap<u16, Course> = HashMap::new();
    while !stop.load(Ordering::SeqCst) {
        let next = courses.values().map(|course| course.due).min();
        let nap = next.map_or(NAP, |due| due.saturating_duration_since(Instant::now()).min(NAP));
        let mut question = questions.recv_timeout(nap);
        while let Ok(scope) = question {
            let course = u16::try_from(scope).ok().and_then(|id| courses.get_mut(&id));
            course.into_iter().for_each(Course::hasten);
            question = questions.try_recv().map_err(|_| RecvTimeoutError::Timeout);
        }
        if question == Err(RecvTimeoutError::Disconnected) {
            std::thread::sleep(nap);
        }
        let guests = registry.all();
        courses.retain(|id, _| guests.iter().any(|entry| entry.id == *id));
        for entry in guests {
            let course = courses.entry(entry.id).or_insert_with(|| Course::new(share));
            let now = Instant::now();
            if course.due > now {
                continue;
            }
            if !course.allowance.has_some(share) {
                course.due = now + LEAST;
                continue;
            }
            course.due = now + PERIOD;
            course.read = Some(now);
            // A fault of ours with one guest must not keep the others' from being read.
            let found = catch_unwind(AssertUnwindSafe(|| {
                lock(&entry.inspector).as_ref().and_then(read)
            }));
            course.allowance.spend(now.elapsed());
            if let Ok(Some((found, several))) = found {
                let claimed = course.take(found);
                let scope = entry.scope();
                // The enforcer ends last; when it is gone so is the use of the order.
                let _ = orders.send(Order::Addresses {
                    scope,
                    claimed,
                    several,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(last: &[u8]) -> Vec<IpAddr> {
        last.iter().map(|last| IpAddr::from([10, 0, 0, *last])).collect()
    }

    #[test]
    fn an_address_comes_at_once_and_goes_when_it_is_missed_twice() {
        let mut course = Course::new(0.01);
        assert_eq!(course.take(addresses(&[1, 3])), addresses(&[1, 3]));
        assert_eq!(course.take(addresses(&[1, 2])), addresses(&[1, 2, 3]));
        assert!(course.due <= Instant::now() + LEAST, "it is looked for once more");
        assert_eq!(course.take(addresses(&[1, 2])), addresses(&[1, 2]));
        assert!(course.due > Instant::now() + LEAST);
    }

    #[test]
    fn a_guest_that_is_asked_for_is_read_before_its_time_and_not_without_end() {
        let mut course = Course::new(0.01);
        course.read = Some(Instant::now());
        course.take(addresses(&[1]));
        course.take(addresses(&[1]));
        let late = course.due;
        course.hasten();
        assert!(course.due < late && course.due > Instant::now());
    }

    #[test]
    fn what_is_of_many_or_of_oneself_is_no_address_of_a_host() {
        for no in [
            "127.0.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.251",
            "::1",
            "::",
            "ff02::1",
        ] {
            assert!(!is_of_one_host(no.parse().unwrap()), "{no}");
        }
        for yes in ["10.0.0.1", "fe80::1", "fd00::1"] {
            assert!(is_of_one_host(yes.parse().unwrap()), "{yes}");
        }
    }
}
