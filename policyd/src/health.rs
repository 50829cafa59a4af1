// SPDX-License-Identifier: GPL-3.0-only
//! Checks by dom0 itself: whether backends take connections. A thread of its own asks, so that nobody waits for an answer.
//!
//! A check is a connection like any to the backend's vif, and one that no rule is about: it has its own verdict there while it
//! lasts. Where dom0 has no way to the backend's network nothing is said of it.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam_channel::Sender;
use netback_filter::{Action, Direction, FlowKey, FlowWriter, Mark, Verdict};
use policy::Protocol;
use policy::document::{Check, Health};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

use crate::enforcer::Order;
use crate::gate::NO_RULE;
use crate::routes::Standing;
use crate::world::World;

/// How often the thread looks which checks are due.
const TICK: Duration = Duration::from_millis(50);
/// The same where no backend is checked.
const IDLE: Duration = Duration::from_millis(250);
/// Checks under way at one time; more wait.
const AT_ONCE: usize = 64;
/// For how long a check's verdict outlives it, so that the last packets pass.
const AFTER: Duration = Duration::from_secs(2);

/// What a check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// The backend took the connection.
    Took,
    /// It did not.
    Failed,
    /// dom0 cannot ask.
    NoWay,
}

/// The answers of one backend.
struct Course {
    health: Health,
    due: Instant,
    under_way: bool,
    /// Answers of the kind that contradicts `up`, in a row.
    against: u32,
    /// What was told; none before the first answer.
    up: Option<bool>,
}

impl Course {
    fn new(health: Health, now: Instant) -> Course {
        Course {
            health,
            due: now,
            under_way: false,
            against: 0,
            up: None,
        }
    }

    /// Takes an answer; gives what is to be told, if that is news. A backend is taken to be up before its first answers.
    fn hear(&mut self, answer: Answer) -> Option<Option<bool>> {
        let took = match answer {
            Answer::Took => true,
            Answer::Failed => false,
            Answer::NoWay => {
                self.against = 0;
                return self.up.take().map(|_| None);
            }
        };
        if took == self.up.unwrap_or(true) {
            self.against = 0;
            let news = self.up.is_none();
            self.up = Some(took);
            return news.then_some(self.up);
        }
        self.against += 1;
        let enough = if took { self.health.rise } else { self.health.fall };
        if self.against < enough {
            return None;
        }
        self.against = 0;
        self.up = Some(took);
        Some(self.up)
    }
}

/// Checks until `stop`.
pub fn run(world: &ArcSwap<World>, flows: &FlowWriter, orders: &Sender<Order>, stop: &AtomicBool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(check(world, flows, orders, stop)),
        Err(e) => log::error!("backends are not checked by dom0: {e}"),
    }
}

async fn check(world: &ArcSwap<World>, flows: &FlowWriter, orders: &Sender<Order>, stop: &AtomicBool) {
    let mut courses: HashMap<SocketAddr, Course> = HashMap::new();
    let mut under_way = JoinSet::new();
    let mut seen: Option<Arc<World>> = None;
    while !stop.load(Ordering::SeqCst) {
        tokio::time::sleep(if courses.is_empty() { IDLE } else { TICK }).await;
        let now = Instant::now();
        let current = world.load_full();
        if !seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &current)) {
            take_up(&mut courses, &current, now);
            seen = Some(Arc::clone(&current));
        }
        for (end, course) in &mut courses {
            if course.under_way || course.due > now || under_way.len() >= AT_ONCE {
                continue;
            }
            course.under_way = true;
            let scope = current.vm_at(end.ip()).map(|vm| vm.scope);
            let generation = u32::try_from(current.rules.generation()).unwrap_or(u32::MAX);
            under_way.spawn(ask(*end, course.health.timeout, scope, generation, flows.clone()));
        }
        while let Some(done) = under_way.try_join_next() {
            // A check that panicked has said nothing, and none is ever awaited again for it: there is no panic in it.
            let Ok((end, answer)) = done else { continue };
            let Some(course) = courses.get_mut(&end) else {
                continue;
            };
            course.under_way = false;
            course.due = now + course.health.interval;
            if let Some(up) = course.hear(answer) {
                let end = (Protocol::TCP, end);
                // The enforcer ends last; when it is gone so is the use of the answer.
                let _ = orders.send(Order::Checked { end, up });
            }
        }
    }
}

/// Begins with backends that are new, and ends with those that are no more.
fn take_up(courses: &mut HashMap<SocketAddr, Course>, world: &World, now: Instant) {
    let mut wanted: HashMap<SocketAddr, Health> = HashMap::new();
    for facade in world.routes.iter() {
        let health = facade.route.health;
        if health.check == Check::Tcp {
            let members = facade.members.iter().filter(|m| m.standing != Standing::Gone);
            wanted.extend(members.map(|member| (member.end(), health)));
        }
    }
    courses.retain(|end, course| wanted.get(end) == Some(&course.health));
    for (end, health) in wanted {
        courses.entry(end).or_insert_with(|| Course::new(health, now));
    }
}

async fn ask(
    end: SocketAddr,
    timeout: Duration,
    scope: Option<u32>,
    generation: u32,
    flows: FlowWriter,
) -> (SocketAddr, Answer) {
    let (socket, own) = match bound(end) {
        Ok(bound) => bound,
        Err(e) => {
            log::debug!("{end} is not checked: {e}");
            return (end, Answer::NoWay);
        }
    };
    let key = scope.map(|scope| FlowKey {
        scope,
        protocol: netback_filter::Protocol::TCP,
        local: end,
        remote: own,
        vlan: netback_filter::Vlan::NONE,
    });
    if let Some(key) = &key {
        let verdict = Verdict {
            action: Action::Allow,
            origin: Direction::ToGuest,
            rule: NO_RULE,
            generation,
            mark: Mark::default(),
        };
        if let Err(e) = flows.set(key, verdict) {
            log::warn!("{end} is not checked: {e}");
            return (end, Answer::NoWay);
        }
    }
    let answer = match tokio::time::timeout(timeout, socket.connect(end)).await {
        Ok(Ok(_)) => Answer::Took,
        Ok(Err(e)) if e.kind() == io::ErrorKind::NetworkUnreachable => Answer::NoWay,
        Ok(Err(_)) | Err(_) => Answer::Failed,
    };
    if let Some(key) = key {
        tokio::spawn(async move {
            tokio::time::sleep(AFTER).await;
            // What stays is pushed out with time.
            let _ = flows.remove(&key);
        });
    }
    (end, answer)
}

/// A socket whose own end is known before it connects, on the address that the kernel would choose.
fn bound(end: SocketAddr) -> io::Result<(TcpSocket, SocketAddr)> {
    let any: IpAddr = match end {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let probe = UdpSocket::bind((any, 0))?;
    probe.connect(end)?;
    let socket = match end {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.bind(SocketAddr::new(probe.local_addr()?.ip(), 0))?;
    let own = socket.local_addr()?;
    Ok((socket, own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_answers_in_a_row_are_news() {
        let mut course = Course::new(
            Health {
                rise: 2,
                fall: 3,
                ..Health::default()
            },
            Instant::now(),
        );
        let mut hear = |answers: &[Answer]| answers.iter().map(|a| course.hear(*a)).collect::<Vec<_>>();
        use Answer::{Failed, NoWay, Took};
        assert_eq!(hear(&[Failed, Failed, Took]), [None, None, Some(Some(true))]);
        assert_eq!(hear(&[Failed, Failed, Took, Took]), [None; 4]);
        assert_eq!(hear(&[Failed, Failed, Failed]), [None, None, Some(Some(false))]);
        assert_eq!(
            hear(&[Took, Failed, Took, Took]),
            [None, None, None, Some(Some(true))]
        );
        assert_eq!(hear(&[NoWay, NoWay]), [Some(None), None]);
    }

    #[test]
    fn who_listens_takes_and_who_does_not_fails() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let end = taken.local_addr().expect("bound");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let connect = |end: SocketAddr| {
            runtime.block_on(async {
                let (socket, own) = bound(end).expect("an own end");
                assert_eq!(own.ip(), end.ip());
                socket.connect(end).await.is_ok()
            })
        };
        assert!(connect(end));
        drop(taken);
        assert!(!connect(end));
    }
}
