// SPDX-License-Identifier: GPL-3.0-only
//! Flows that have other addresses at the vif than inside of their guest: a guest with containers translates theirs (NAT).
//!
//! A trap tells of a connection under the addresses that its socket has. The vif sees the same connection under others, and what it has in
//! common with what the trap told is, of TCP, the sequence number of its SYN, which no translation changes; of UDP, the other end and the port,
//! where the guest kept it: there is no guess whose it is where it did not. Of a connection that comes in, the other end.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netback_filter::Event;
use policy::Protocol;
use vmi_xen::observe::Subject;

use crate::gate::Way;

/// For how long a flow is expected at the vif, or at its socket. A SYN comes again after 1, 3 and 7 seconds.
const EXPECTED: Duration = Duration::from_secs(15);
/// Flows of each kind, of all guests.
const MOST: usize = 4096;
/// Flows of one guest to one end.
const ALIKE: usize = 32;

/// Entries that go when they are too old, or too many.
struct Recent<K, V> {
    by_key: HashMap<K, (Instant, V)>,
    /// Also of entries that went since, or came again.
    order: VecDeque<(Instant, K)>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Recent {
            by_key: HashMap::new(),
            order: VecDeque::new(),
        }
    }
}

impl<K: Copy + Eq + Hash, V> Recent<K, V> {
    fn insert(&mut self, key: K, value: V) {
        let now = Instant::now();
        while let Some((since, oldest)) = self.order.front().copied() {
            if self.order.len() < MOST && now.duration_since(since) < EXPECTED {
                break;
            }
            self.order.pop_front();
            if self.by_key.get(&oldest).is_some_and(|(at, _)| *at == since) {
                self.by_key.remove(&oldest);
            }
        }
        self.order.push_back((now, key));
        self.by_key.insert(key, (now, value));
    }

    fn get(&self, key: &K) -> Option<&V> {
        let (since, value) = self.by_key.get(key)?;
        (since.elapsed() < EXPECTED).then_some(value)
    }

    fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let (since, value) = self.by_key.get_mut(key)?;
        (since.elapsed() < EXPECTED).then_some(value)
    }

    fn remove(&mut self, key: &K) -> Option<V> {
        let (since, value) = self.by_key.remove(key)?;
        (since.elapsed() < EXPECTED).then_some(value)
    }

    fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        self.by_key.retain(|key, _| keep(key));
        self.order.retain(|(_, key)| keep(key));
    }
}

/// A connection as its socket has it.
type Opened = (Way, Arc<Subject>);

/// What was seen at one side and is expected at the other.
#[derive(Default)]
pub(super) struct Translations {
    /// TCP connections by guest and initial sequence number; and as the vif has them, once it does.
    by_sequence: Recent<(u32, u32), (Opened, Option<Way>)>,
    /// UDP sockets that were connected, by guest and the end that they were connected to.
    datagrams: Recent<(u32, SocketAddr), VecDeque<Opened>>,
    /// TCP connections that came to a vif, by guest and the end that they came from.
    arrived: Recent<(u32, SocketAddr), Way>,
}

impl Translations {
    /// A trap told of a connection.
    pub(super) fn opens(&mut self, way: &Way, who: &Arc<Subject>, sequence: Option<u32>) {
        let opened = (*way, Arc::clone(who));
        if let Some(sequence) = sequence {
            self.by_sequence.insert((way.scope, sequence), (opened, None));
        } else if way.protocol == Protocol::UDP {
            let key = (way.scope, way.remote);
            let mut all = self.datagrams.remove(&key).unwrap_or_default();
            all.retain(|(known, _)| known != way);
            all.truncate(ALIKE - 1);
            all.push_front(opened);
            self.datagrams.insert(key, all);
        }
    }

    /// Whose flow a vif reports that no socket has under these addresses: as its socket has it, and who opened it.
    pub(super) fn leaves(&mut self, event: &Event) -> Option<Opened> {
        let way = Way::from(&event.flow.key);
        let found = match event.initial_sequence() {
            Some(sequence) => {
                let (opened, outside) = self.by_sequence.get_mut(&(way.scope, sequence))?;
                // Its SYN may come again; under other addresses it is of somebody who makes it look like this one.
                (*outside.get_or_insert(way) == way).then(|| opened.clone())
            }
            None if way.protocol == Protocol::UDP => {
                let all = self.datagrams.get(&(way.scope, way.remote))?;
                all.iter()
                    .find(|(opened, _)| opened.local.port() == way.local.port())
                    .cloned()
            }
            None => None,
        };
        found.filter(|(inside, _)| inside.local != way.local || inside.remote != way.remote)
    }

    /// Whether a flow may be that of a UDP socket of the guest under another address and port.
    pub(super) fn may_be_translated(&self, way: &Way) -> bool {
        self.datagrams.get(&(way.scope, way.remote)).is_some()
    }

    /// A connection came to a vif, and nobody has accepted it yet.
    pub(super) fn arrives(&mut self, way: &Way) {
        if way.protocol == Protocol::TCP {
            self.arrived.insert((way.scope, way.remote), *way);
        }
    }

    /// A trap told of an accept: gives the connection as the vif has it, where that is under another address.
    pub(super) fn accepted(&mut self, way: &Way) -> Option<Way> {
        let outside = self.arrived.remove(&(way.scope, way.remote))?;
        (outside.local != way.local).then_some(outside)
    }

    /// The guest is gone.
    pub(super) fn forget(&mut self, scope: u32) {
        self.by_sequence.retain(|(of, _)| *of != scope);
        self.datagrams.retain(|(of, _)| *of != scope);
        self.arrived.retain(|(of, _)| *of != scope);
    }
}

#[cfg(test)]
mod tests {
    use netback_filter::Vlan;

    use super::*;
    use crate::gate::tests::running;

    fn way(protocol: Protocol, local: &str, remote: &str) -> Way {
        Way {
            scope: 1,
            protocol,
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            vlan: Vlan::NONE,
        }
    }

    #[test]
    fn who_accepts_has_what_came_from_the_same_end() {
        let mut translations = Translations::default();
        let outside = way(Protocol::TCP, "10.0.0.11:8080", "10.0.0.12:4000");
        let inside = way(Protocol::TCP, "172.17.0.2:80", "10.0.0.12:4000");
        translations.arrives(&outside);
        assert_eq!(translations.accepted(&inside), Some(outside));
        assert_eq!(translations.accepted(&inside), None, "once");
        translations.arrives(&outside);
        assert_eq!(translations.accepted(&outside), None, "it is not translated");
        translations.arrives(&outside);
        translations.forget(1);
        assert_eq!(translations.accepted(&inside), None);
    }

    #[test]
    fn no_more_are_remembered_than_there_is_room_for() {
        let mut recent = Recent::default();
        for number in 0..3 * MOST {
            recent.insert(number % (2 * MOST), ());
        }
        assert!(recent.by_key.len() <= MOST && recent.order.len() <= MOST);
        assert!(recent.get(&(MOST - 1)).is_some() && recent.get(&MOST).is_none());
        let who = Arc::new(running("/bin/x"));
        let mut translations = Translations::default();
        for port in 1..1000 {
            let local = format!("172.17.0.2:{port}");
            translations.opens(&way(Protocol::UDP, &local, "9.9.9.9:53"), &who, None);
        }
        let all = translations
            .datagrams
            .get(&(1, "9.9.9.9:53".parse().unwrap()))
            .unwrap();
        assert_eq!((all.len(), all[0].0.local.port()), (ALIKE, 999));
    }
}
