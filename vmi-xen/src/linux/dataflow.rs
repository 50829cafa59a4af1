// SPDX-License-Identifier: GPL-3.0-only
//! Which process of a guest gives data to which: by pipes, FIFOs, Unix sockets
//! and connections that stay in the guest; and which ones leave it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::{Budget, HeldSocket, Linux, LinuxError, LocalEnd, Protocol, Socket, SocketState, group};
use crate::memory::PhysicalMemory;

/// Edges of one guest that are told: a pipe that a thousand processes hold at
/// both ends would make a million.
const MAX_EDGES: usize = 1 << 16;

/// How data flows from one process to another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Via {
    /// A pipe, by its inode number.
    Pipe(u64),
    /// A FIFO, by its path.
    Fifo(String),
    /// A Unix socket, by the name it is bound to; None of a pair without one.
    Unix(Option<String>),
    /// A connection inside the guest: who opened it, and to what.
    Inet {
        /// TCP or UDP.
        protocol: Protocol,
        /// The opener's end.
        local: SocketAddr,
        /// The other end.
        remote: SocketAddr,
    },
}

/// A way for data between two processes. By a pipe it flows from `from` to
/// `to`; by a socket both ways, and `from` is who opened the connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    /// Process ID in the initial PID namespace.
    pub from: u32,
    /// Likewise.
    pub to: u32,
    /// What it goes by.
    pub via: Via,
}

/// A connection that leaves the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outside {
    /// Process ID in the initial PID namespace.
    pub pid: u32,
    /// Its socket; has a peer.
    pub socket: Socket,
    /// The guest opened it, as far as can be told: nobody in it listens there.
    pub outgoing: bool,
}

/// Data flow of one guest at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DataFlow {
    /// Between processes of the guest, each once, sorted.
    pub edges: Vec<Edge>,
    /// To and from elsewhere, by process.
    pub outside: Vec<Outside>,
}

/// Processes at the ends of pipes and Unix sockets.
#[derive(Default)]
struct Locals {
    pipes: BTreeMap<u64, Pipe>,
    unix: BTreeMap<u64, Unix>,
}

#[derive(Default)]
struct Pipe {
    inode: u64,
    path: Option<String>,
    readers: BTreeSet<u32>,
    writers: BTreeSet<u32>,
}

#[derive(Default)]
struct Unix {
    peer: Option<u64>,
    name: Option<String>,
    holders: BTreeSet<u32>,
}

impl<M: PhysicalMemory> Linux<M> {
    /// Who gives data to whom, read from the descriptors of all processes.
    /// Where this kernel's pipes are not understood they are left out; see
    /// [`Layout::gaps`](crate::kernel::Layout::gaps).
    ///
    /// # Errors
    /// As [`Linux::leaders`].
    pub fn data_flow(&self) -> Result<DataFlow, LinuxError> {
        let sockets = self.held_sockets()?;
        let locals = self.within(Budget::SWEEP, || self.locals()).0?;
        let mut edges = BTreeSet::new();
        locals.edges(&mut edges);
        let outside = inet_edges(&sockets, &mut edges);
        Ok(DataFlow {
            edges: edges.into_iter().collect(),
            outside,
        })
    }

    fn locals(&self) -> Result<Locals, LinuxError> {
        let tgid = group(&self.kernel.layout.task)?.tgid;
        let mut locals = Locals::default();
        for task in self.leaders()? {
            // A process that is gone meanwhile holds nothing.
            let Ok(pid) = self.u32(task.0.wrapping_add(tgid)) else {
                continue;
            };
            for (_, end) in self.local_ends_of(task).unwrap_or_default() {
                locals.add(pid, end);
            }
        }
        Ok(locals)
    }
}

impl Locals {
    fn add(&mut self, pid: u32, end: LocalEnd) {
        match end {
            LocalEnd::Pipe {
                pipe,
                inode,
                path,
                reads,
                writes,
            } => {
                let pipe = self.pipes.entry(pipe).or_default();
                pipe.inode = inode;
                pipe.path = path.or(pipe.path.take());
                if reads {
                    pipe.readers.insert(pid);
                }
                if writes {
                    pipe.writers.insert(pid);
                }
            }
            LocalEnd::Unix { sk, peer, name, .. } => {
                let unix = self.unix.entry(sk).or_default();
                unix.peer = peer;
                unix.name = name;
                unix.holders.insert(pid);
            }
        }
    }

    fn edges(&self, edges: &mut BTreeSet<Edge>) {
        for pipe in self.pipes.values() {
            let via = match &pipe.path {
                Some(path) => Via::Fifo(path.clone()),
                None => Via::Pipe(pipe.inode),
            };
            join(&pipe.writers, &pipe.readers, &via, edges);
        }
        for (sk, unix) in &self.unix {
            let Some((peer, other)) = unix.peer.and_then(|peer| Some((peer, self.unix.get(&peer)?))) else {
                continue;
            };
            // The end that was bound is the server's: an accepted socket has
            // its listener's name. Of two alike, each pair once.
            let mutual = other.peer == Some(*sk);
            let opens = match (&unix.name, &other.name) {
                (None, Some(_)) => true,
                (Some(_), None) => false,
                _ => *sk < peer,
            };
            if opens || !mutual {
                let via = Via::Unix(other.name.clone().or_else(|| unix.name.clone()));
                join(&unix.holders, &other.holders, &via, edges);
            }
        }
    }
}

/// Adds an edge from each of `from` to each of `to`, but none to itself.
fn join(from: &BTreeSet<u32>, to: &BTreeSet<u32>, via: &Via, edges: &mut BTreeSet<Edge>) {
    for &from in from {
        for &to in to {
            if edges.len() >= MAX_EDGES {
                return;
            }
            if from != to {
                edges.insert(Edge {
                    from,
                    to,
                    via: via.clone(),
                });
            }
        }
    }
}

/// Joins connected sockets whose ends are both in the guest; returns the others.
fn inet_edges(sockets: &[HeldSocket], edges: &mut BTreeSet<Edge>) -> Vec<Outside> {
    let mut by_ends: BTreeMap<(Protocol, SocketAddr, SocketAddr), Vec<&HeldSocket>> = BTreeMap::new();
    let mut receivers: BTreeMap<(Protocol, u16), Vec<&HeldSocket>> = BTreeMap::new();
    for held in sockets {
        let Socket {
            protocol,
            local,
            remote,
            state,
            ..
        } = held.socket;
        match remote {
            Some(remote) => by_ends.entry((protocol, local, remote)).or_default().push(held),
            None if protocol == Protocol::Udp || state == SocketState::Listen => {
                receivers.entry((protocol, local.port())).or_default().push(held);
            }
            None => {}
        }
    }
    // Who takes what comes to an address of the socket's namespace.
    let receiver = |protocol: Protocol, at: SocketAddr, netns: u32| {
        let there = receivers.get(&(protocol, at.port()))?;
        there.iter().copied().find(|held| {
            let bound = held.socket.local.ip();
            held.socket.netns == netns && (bound == at.ip() || bound.is_unspecified())
        })
    };
    let mut outside = Vec::new();
    for held in sockets {
        let Socket {
            protocol,
            local,
            remote: Some(remote),
            netns,
            ..
        } = held.socket
        else {
            continue;
        };
        let serves = receiver(protocol, local, netns).is_some();
        let there = by_ends.get(&(protocol, remote, local)).and_then(|there| {
            let same = there.iter().find(|other| other.socket.netns == netns);
            // Loopback addresses are another host's in each namespace.
            let other = there.iter().find(|_| !remote.ip().is_loopback());
            same.or(other).copied()
        });
        let unconnected = || receiver(protocol, remote, netns).filter(|_| protocol == Protocol::Udp);
        match there.or_else(unconnected) {
            Some(other) => {
                if !serves || other.socket.remote.is_none() {
                    let via = Via::Inet {
                        protocol,
                        local,
                        remote,
                    };
                    join(&pids(held, sockets), &pids(other, sockets), &via, edges);
                }
            }
            None if remote.ip().is_loopback() => {}
            None => outside.extend(held.holders.iter().map(|holder| Outside {
                pid: holder.pid,
                socket: held.socket,
                outgoing: !serves,
            })),
        }
    }
    outside.sort_by_key(|o| (o.pid, o.socket.local, o.socket.remote));
    outside.dedup_by_key(|o| (o.pid, o.socket.sk));
    outside
}

/// Processes that hold a socket; of a connection that nobody has accepted yet,
/// those that listen.
fn pids(held: &HeldSocket, sockets: &[HeldSocket]) -> BTreeSet<u32> {
    let of = |held: &HeldSocket| held.holders.iter().map(|holder| holder.pid).collect();
    let listener = held.listener.filter(|_| held.holders.is_empty());
    let listener = listener.and_then(|sk| sockets.iter().find(|other| other.socket.sk == sk));
    of(listener.unwrap_or(held))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::{Holder, TaskAddr};

    fn held(sk: u64, pid: u32, local: &str, remote: Option<&str>, netns: u32) -> HeldSocket {
        HeldSocket {
            socket: Socket {
                sk,
                protocol: Protocol::Tcp,
                state: match remote {
                    Some(_) => SocketState::Established,
                    None => SocketState::Listen,
                },
                ipv6: false,
                local: local.parse().unwrap(),
                remote: remote.map(|remote| remote.parse().unwrap()),
                netns,
                backlog: None,
            },
            inode: sk,
            holders: vec![Holder {
                pid,
                fd: 3,
                task: TaskAddr(u64::from(pid)),
            }],
            listener: None,
            hashed: true,
        }
    }

    type Ends = (Vec<(u32, u32)>, Vec<(u32, bool)>);

    fn ends(sockets: &[HeldSocket]) -> Ends {
        let mut edges = BTreeSet::new();
        let outside = inet_edges(sockets, &mut edges);
        (
            edges.iter().map(|edge| (edge.from, edge.to)).collect(),
            outside.iter().map(|o| (o.pid, o.outgoing)).collect(),
        )
    }

    #[test]
    fn who_connected_is_told_by_who_listens() {
        let mut sockets = vec![
            held(1, 10, "127.0.0.1:80", None, 1),
            held(2, 10, "127.0.0.1:80", Some("127.0.0.1:5000"), 1),
            held(3, 20, "127.0.0.1:5000", Some("127.0.0.1:80"), 1),
        ];
        assert_eq!(ends(&sockets), (vec![(20, 10)], vec![]));
        // Not accepted yet: the listener's.
        sockets[1].holders.clear();
        sockets[1].listener = Some(1);
        assert_eq!(ends(&sockets), (vec![(20, 10)], vec![]));
        // The same addresses in another namespace are another loopback.
        sockets[2].socket.netns = 2;
        assert_eq!(ends(&sockets), (vec![], vec![]));
    }

    #[test]
    fn what_has_no_other_end_here_leaves_the_guest() {
        let sockets = [
            held(1, 10, "0.0.0.0:80", None, 1),
            held(2, 10, "10.0.0.1:80", Some("10.0.0.9:5000"), 1),
            held(3, 20, "10.0.0.1:5001", Some("10.0.0.9:443"), 1),
        ];
        assert_eq!(ends(&sockets), (vec![], vec![(10, false), (20, true)]));
    }

    #[test]
    fn connections_between_namespaces_stay_in_the_guest() {
        let sockets = [
            held(1, 10, "172.17.0.2:80", None, 2),
            held(2, 10, "172.17.0.2:80", Some("172.17.0.1:5000"), 2),
            held(3, 20, "172.17.0.1:5000", Some("172.17.0.2:80"), 1),
        ];
        assert_eq!(ends(&sockets), (vec![(20, 10)], vec![]));
    }

    #[test]
    fn pipes_flow_one_way_and_pairs_count_once() {
        let mut locals = Locals::default();
        let pipe = |reads: bool| LocalEnd::Pipe {
            pipe: 7,
            inode: 70,
            path: None,
            reads,
            writes: !reads,
        };
        locals.add(1, pipe(false));
        locals.add(2, pipe(true));
        let unix = |sk, peer, name: Option<&str>| LocalEnd::Unix {
            sk,
            peer: Some(peer),
            inode: sk,
            name: name.map(str::to_owned),
        };
        locals.add(3, unix(100, 101, Some("/run/x")));
        locals.add(4, unix(101, 100, None));
        locals.add(5, unix(200, 201, None));
        locals.add(6, unix(201, 200, None));
        let mut edges = BTreeSet::new();
        locals.edges(&mut edges);
        let edges: Vec<_> = edges.into_iter().map(|e| (e.from, e.to, e.via)).collect();
        assert_eq!(
            edges,
            [
                (1, 2, Via::Pipe(70)),
                (4, 3, Via::Unix(Some("/run/x".into()))),
                (5, 6, Via::Unix(None)),
            ]
        );
    }
}
