// SPDX-License-Identifier: GPL-3.0-only
//! All sockets of a guest, and who holds each.

use std::collections::HashMap;

use super::{Budget, Linux, LinuxError, Protocol, Socket, SocketState, TaskAddr, group};
use crate::memory::PhysicalMemory;

/// Connections that wait at one listener: the kernel's own limit has 16 bits.
const MAX_WAITING: usize = 1 << 16;

/// A process that holds a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder {
    /// Its process ID in the initial PID namespace.
    pub pid: u32,
    /// Its descriptor.
    pub fd: u32,
    /// Its leader.
    pub task: TaskAddr,
}

/// A socket and who holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldSocket {
    /// The socket.
    pub socket: Socket,
    /// Inode number, as in `socket:[N]` of /proc/PID/fd; 0 for a socket that
    /// never had a file or has none any more.
    pub inode: u64,
    /// Every process and descriptor that holds it, by process ID. None holds a
    /// connection that nobody has accepted yet, one whose process closed it, one
    /// in flight between processes, or the kernel's own; or a process that
    /// hides holds it.
    pub holders: Vec<Holder>,
    /// It is a connection that waits to be accepted or for the end of its
    /// handshake: the `struct sock` of the listener it waits at.
    pub listener: Option<u64>,
    /// It is in the kernel's tables. A socket that is in nobody's descriptors is
    /// in the tables; one that is bound but neither listens nor is connected
    /// may be in descriptors only.
    pub hashed: bool,
}

impl<M: PhysicalMemory> Linux<M> {
    /// Every TCP and UDP socket of the guest that is bound or connected, from
    /// the kernel's tables and from all descriptors together. Where the tables
    /// are not understood (see [`Layout::gaps`](crate::kernel::Layout::gaps)),
    /// from descriptors alone.
    ///
    /// # Errors
    /// As [`Linux::leaders`].
    pub fn held_sockets(&self) -> Result<Vec<HeldSocket>, LinuxError> {
        self.within(Budget::SWEEP, || self.swept_sockets()).0
    }

    fn swept_sockets(&self) -> Result<Vec<HeldSocket>, LinuxError> {
        let mut all = Collected::default();
        for socket in self.hashed_sockets().unwrap_or_default() {
            all.add(socket, true);
        }
        let offsets = group(&self.kernel.layout.task)?;
        for task in self.leaders()? {
            // A process that is gone meanwhile holds nothing.
            let Ok(pid) = self.u32(task.0.wrapping_add(offsets.tgid)) else {
                continue;
            };
            for (fd, socket) in self.sockets_of(task).unwrap_or_default() {
                // Neither bound nor connected: it is nothing to anybody yet.
                if socket.local.port() != 0 {
                    all.hold(socket, Holder { pid, fd, task });
                }
            }
        }
        let mut sockets = all.sockets;
        let waiting = self.waiting(&sockets);
        for held in &mut sockets {
            held.inode = self.socket_inode(&held.socket).unwrap_or(0);
            held.listener = waiting.get(&held.socket.sk).copied();
            held.holders.sort_unstable();
        }
        sockets.sort_by_key(|held| {
            let s = &held.socket;
            (
                s.netns,
                s.protocol,
                s.state != SocketState::Listen,
                s.local,
                s.remote,
                s.sk,
            )
        });
        Ok(sockets)
    }

    /// For each connection that nobody has accepted yet, its listener.
    fn waiting(&self, sockets: &[HeldSocket]) -> HashMap<u64, u64> {
        let mut waiting = HashMap::new();
        let Ok(offsets) = group(&self.kernel.layout.accept) else {
            return waiting;
        };
        for Socket {
            sk, state, backlog, ..
        } in sockets.iter().map(|held| held.socket)
        {
            if state == SocketState::NewSynReceived {
                if let Ok(Some(listener)) = self.pointer(sk.wrapping_add(offsets.listener)) {
                    waiting.insert(sk, listener);
                }
                continue;
            }
            if backlog.is_none_or(|backlog| backlog.waiting == 0) {
                continue;
            }
            let mut next = self.pointer(sk.wrapping_add(offsets.queue)).ok().flatten();
            for _ in 0..MAX_WAITING {
                let Some(request) = next else { break };
                match self.u64(request.wrapping_add(offsets.sk)) {
                    // A list that bites its tail has been here.
                    Ok(child) if waiting.insert(child, sk).is_none() => {}
                    _ => break,
                }
                next = self.pointer(request.wrapping_add(offsets.next)).ok().flatten();
            }
        }
        waiting
    }

    /// Inode number of a socket; 0 if it has no file.
    fn socket_inode(&self, socket: &Socket) -> Result<u64, LinuxError> {
        let offsets = group(&self.kernel.layout.socket_inode)?;
        let Some(file_side) = self.file_side(socket.sk)? else {
            return Ok(0);
        };
        Ok(self.u64(file_side.wrapping_add(offsets.inode + offsets.i_ino))?)
    }
}

/// Sockets by their address, in the order in which they came.
#[derive(Default)]
struct Collected {
    sockets: Vec<HeldSocket>,
    by_sk: HashMap<u64, usize>,
    by_flow: HashMap<FlowKey, usize>,
}

type FlowKey = (Protocol, u32, std::net::SocketAddr, Option<std::net::SocketAddr>);

fn flow_key(s: &Socket) -> FlowKey {
    (s.protocol, s.netns, s.local, s.remote)
}

impl Collected {
    fn add(&mut self, socket: Socket, hashed: bool) -> usize {
        let index = self.sockets.len();
        self.by_sk.insert(socket.sk, index);
        if hashed {
            self.by_flow.insert(flow_key(&socket), index);
        }
        self.sockets.push(HeldSocket {
            socket,
            inode: 0,
            holders: Vec::new(),
            listener: None,
            hashed,
        });
        index
    }

    fn hold(&mut self, socket: Socket, holder: Holder) {
        let index = match self.by_sk.get(&socket.sk) {
            Some(&index) => index,
            // A socket of multipath TCP is in no table; its first subflow is, of
            // the same addresses, and in no descriptor.
            None => match self.by_flow.get(&flow_key(&socket)) {
                Some(&index) if socket.remote.is_some() && self.sockets[index].holders.is_empty() => {
                    self.by_sk.insert(socket.sk, index);
                    index
                }
                _ => self.add(socket, false),
            },
        };
        self.sockets[index].holders.push(holder);
    }
}
