// SPDX-License-Identifier: GPL-3.0-only
//! Processes of a guest and the connections that they or their ancestors have.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use policyd_api::Process;

/// Processes that are remembered.
const PROCESSES: usize = 16 << 10;
/// Connections of a guest that are remembered.
const CONNECTIONS: usize = 4096;
/// How many ancestors are looked at.
const ANCESTORS: usize = 8;
/// How long a connection may be a reason to look at an interpreter, ns: an hour.
const LONG: u64 = 3_600_000_000_000;

/// A TCP connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connection {
    pid: u32,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    /// The guest opened it.
    pub(crate) outgoing: bool,
    at_ns: u64,
}

#[derive(Default)]
pub(crate) struct Family {
    parents: HashMap<u32, u32>,
    connections: VecDeque<Connection>,
}

impl Family {
    pub(crate) fn lives(&mut self, process: &Process) {
        if self.parents.len() >= PROCESSES {
            // Exits were missed. Who lives is told again with its next exec.
            self.parents.clear();
        }
        self.parents.insert(process.pid, process.ppid);
    }

    /// Its connections may live on in its children, so they stay.
    pub(crate) fn ended(&mut self, process: &Process) {
        self.parents.remove(&process.pid);
    }

    pub(crate) fn connected(
        &mut self,
        process: &Process,
        local: SocketAddr,
        remote: SocketAddr,
        outgoing: bool,
        at_ns: u64,
    ) {
        self.lives(process);
        if self.connections.len() >= CONNECTIONS {
            self.connections.pop_front();
        }
        self.connections.push_back(Connection {
            pid: process.pid,
            local,
            remote,
            outgoing,
            at_ns,
        });
    }

    /// Whether the process or an ancestor of its opened or took a connection lately.
    pub(crate) fn is_connected(&self, process: &Process, now_ns: u64) -> bool {
        let mut line = vec![process.pid, process.ppid];
        let mut next = process.ppid;
        while line.len() < ANCESTORS
            && let Some(parent) = self.parents.get(&next).filter(|parent| !line.contains(parent))
        {
            line.push(*parent);
            next = *parent;
        }
        self.connections
            .iter()
            .any(|c| now_ns.saturating_sub(c.at_ns) < LONG && line.contains(&c.pid))
    }

    /// The connection with these ends, if it was told of.
    pub(crate) fn connection(&self, local: SocketAddr, remote: SocketAddr) -> Option<&Connection> {
        let same = |c: &&Connection| (c.local, c.remote) == (local, remote);
        self.connections.iter().rev().find(same)
    }
}
