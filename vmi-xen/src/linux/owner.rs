// SPDX-License-Identifier: GPL-3.0-only
//! Whose packet is this? The process behind a flow, without a trap.
//!
//! The socket is found in the kernel's tables ([`lookup`](super::lookup)), its
//! `struct file` through it, and that in the descriptors of a process. Who held
//! a file the last time is tried first.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::process::PF_KTHREAD;
use super::{Budget, Linux, LinuxError, Protocol, Socket, SocketState, TaskAddr, group};
use crate::memory::{MemoryError, PhysicalMemory};

/// Files whose holder is remembered.
const MAX_REMEMBERED: usize = 1 << 16;

/// A flow as a packet shows it, from the guest's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Network namespace, where it is known; loopback addresses and published
    /// ports repeat in each.
    pub netns: Option<u32>,
    /// The guest's end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
}

/// The socket that a flow belongs to and a process that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SocketOwner {
    /// Leader of the process.
    pub task: TaskAddr,
    /// Its descriptor.
    pub fd: u32,
    /// The socket.
    pub socket: Socket,
}

/// How well a socket fits a flow; higher is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    /// Takes packets from anybody to any address of the guest.
    AnyAddress,
    /// Takes packets from anybody to this address.
    ThisAddress,
    /// Connected to exactly this peer.
    Connected,
}

/// By `struct file`: a process and its descriptor.
pub(super) type Holders = RefCell<HashMap<u64, Holding>>;

/// That a process held a file in a descriptor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holding {
    task: TaskAddr,
    /// Tells the task from a later one at the same address.
    start_time_ns: u64,
    fd: u32,
}

/// Who holds a socket.
enum Held {
    By(TaskAddr, u32),
    /// It has no file: nobody has accepted it yet, or it is closed.
    Nobody,
    /// It has no file, and never had: the kernel's own, or a subflow of a
    /// socket of multipath TCP, which is held in its place.
    Kernel,
}

impl<M: PhysicalMemory> Linux<M> {
    /// Finds the process behind a flow: that which holds the connected socket,
    /// or else the one that listens or, over UDP, receives there. (A connection
    /// that nobody has accepted yet is thus its listener's.) None if no process
    /// owns it: a raw socket, the kernel's own traffic, a socket in flight
    /// between processes, or a process that hides.
    ///
    /// Reads one bucket of the kernel's table for each network namespace that
    /// the flow can be in, and then about ten words if the holder is the same
    /// as the last time; otherwise six words for each process and one block for
    /// each 64 descriptors, until the holder is found. Where no socket has the
    /// flow's own address, one bucket more for each address of the guest, for a
    /// container's that the guest translates. Where the kernel's way to
    /// number buckets is not known, the whole table is read instead: four KiB for
    /// each 512 buckets, and two words for each socket.
    ///
    /// # Errors
    /// As [`Linux::leaders`], and where it would take more than [`Budget::LOOKUP`].
    pub fn socket_owner(&self, flow: &Flow) -> Result<Option<SocketOwner>, LinuxError> {
        match self.within(Budget::LOOKUP, || self.looked_up_owner(flow)) {
            // Who was not reached may be the one.
            (Ok(None), true) => Err(MemoryError::OverBudget { va: 0 }.into()),
            (found, _) => found,
        }
    }

    fn looked_up_owner(&self, flow: &Flow) -> Result<Option<SocketOwner>, LinuxError> {
        let Ok(found) = self.socket_of(flow) else {
            // Tables that are not understood.
            return self.owner_by_sweep(flow);
        };
        let Some(socket) = found.map_or_else(|| self.translated(flow), |socket| Ok(Some(socket)))? else {
            return Ok(None);
        };
        let owner = |socket: Socket, held: Held| match held {
            Held::By(task, fd) => Some(SocketOwner { task, fd, socket }),
            Held::Nobody | Held::Kernel => None,
        };
        match self.held(&socket)? {
            Held::Kernel => self.owner_by_sweep(flow),
            Held::Nobody if socket.remote.is_some() && socket.protocol == Protocol::Tcp => {
                match self.listener_of(flow)? {
                    Some(listener) => Ok(owner(listener, self.held(&listener)?)),
                    None => Ok(None),
                }
            }
            held => Ok(owner(socket, held)),
        }
    }

    fn held(&self, socket: &Socket) -> Result<Held, LinuxError> {
        let offsets = group(&self.kernel.layout.socket_inode)?;
        let Some(file_side) = self.file_side(socket.sk)? else {
            return Ok(Held::Nobody);
        };
        let Some(file) = self.pointer(file_side.wrapping_add(offsets.file))? else {
            return Ok(Held::Kernel);
        };
        let remembered = self.holders.borrow().get(&file).copied();
        if let Some(holding) = remembered
            && self.still_holds(&holding, file)
        {
            return Ok(Held::By(holding.task, holding.fd));
        }
        let Some(holding) = self.holder_of(file)? else {
            return Ok(Held::Nobody);
        };
        let mut holders = self.holders.borrow_mut();
        if holders.len() >= MAX_REMEMBERED {
            holders.clear();
        }
        holders.insert(file, holding);
        Ok(Held::By(holding.task, holding.fd))
    }

    /// The first process that has a file open.
    fn holder_of(&self, file: u64) -> Result<Option<Holding>, LinuxError> {
        let files = group(&self.kernel.layout.file)?;
        let offsets = group(&self.kernel.layout.task)?;
        for task in self.leaders()? {
            let flags = self.u32(task.0.wrapping_add(offsets.flags));
            if flags.is_ok_and(|flags| flags & PF_KTHREAD != 0) {
                continue;
            }
            let mut found = None;
            // A process that is gone meanwhile holds nothing.
            let _ = self.each_file(&files, task, |fd, held| {
                if held == file {
                    found = Some(fd);
                }
                found.is_none()
            });
            if let Some(fd) = found {
                return Ok(Some(Holding {
                    task,
                    start_time_ns: self.u64(task.0.wrapping_add(offsets.start_time))?,
                    fd,
                }));
            }
        }
        Ok(None)
    }

    fn still_holds(&self, holding: &Holding, file: u64) -> bool {
        let started = group(&self.kernel.layout.task)
            .and_then(|offsets| Ok(self.u64(holding.task.0.wrapping_add(offsets.start_time))?));
        let held = self.file_of(holding.task, holding.fd);
        started.is_ok_and(|ns| ns == holding.start_time_ns) && held.is_ok_and(|held| held == Some(file))
    }

    /// Without the kernel's tables: a look at every descriptor.
    fn owner_by_sweep(&self, flow: &Flow) -> Result<Option<SocketOwner>, LinuxError> {
        let mut best: Option<(Fit, SocketOwner)> = None;
        for task in self.leaders()? {
            // A process that is gone meanwhile holds nothing.
            let Ok(sockets) = self.sockets_of(task) else {
                continue;
            };
            for (fd, socket) in sockets {
                let Some(fit) = fit(&socket, flow) else {
                    continue;
                };
                let owner = SocketOwner { task, fd, socket };
                if fit == Fit::Connected {
                    return Ok(Some(owner));
                }
                if best.is_none_or(|(known, _)| fit > known) {
                    best = Some((fit, owner));
                }
            }
        }
        Ok(best.map(|(_, owner)| owner))
    }
}

pub(super) fn fit(socket: &Socket, flow: &Flow) -> Option<Fit> {
    let elsewhere = flow.netns.is_some_and(|netns| netns != socket.netns);
    if elsewhere || socket.protocol != flow.protocol || socket.local.port() != flow.local.port() {
        return None;
    }
    match socket.remote {
        Some(remote) => {
            let same = remote == flow.remote && takes(socket.local.ip(), flow.local.ip()).is_some();
            same.then_some(Fit::Connected)
        }
        None if socket.protocol == Protocol::Tcp && socket.state != SocketState::Listen => None,
        None => takes(socket.local.ip(), flow.local.ip()),
    }
}

/// The same of a flow that has another address outside than inside of the guest.
pub(super) fn same_but_for_its_address(socket: &Socket, flow: &Flow) -> Option<Fit> {
    let same = socket.protocol == flow.protocol
        && socket.local.port() == flow.local.port()
        && socket.remote == Some(flow.remote);
    same.then_some(Fit::Connected)
}

/// Whether a socket bound to `bound` takes packets to `address`. One that is
/// bound to `::` takes IPv4 too, unless it asked not to.
fn takes(bound: IpAddr, address: IpAddr) -> Option<Fit> {
    if bound == address {
        return Some(Fit::ThisAddress);
    }
    let any = bound.is_unspecified() && (bound.is_ipv6() || address.is_ipv4());
    any.then_some(Fit::AnyAddress)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(local: &str, remote: Option<&str>, state: SocketState) -> Socket {
        Socket {
            sk: 1,
            protocol: Protocol::Tcp,
            state,
            ipv6: false,
            local: local.parse().unwrap(),
            remote: remote.map(|remote| remote.parse().unwrap()),
            netns: 7,
            backlog: None,
        }
    }

    fn flow(local: &str, remote: &str) -> Flow {
        Flow {
            protocol: Protocol::Tcp,
            netns: None,
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
        }
    }

    #[test]
    fn the_closest_socket_fits_best() {
        let flow = flow("10.0.0.1:80", "10.0.0.2:5000");
        let fit = |local, remote, state| fit(&socket(local, remote, state), &flow);
        use SocketState::{Close, Established, Listen};
        let exact = fit("10.0.0.1:80", Some("10.0.0.2:5000"), Established);
        assert_eq!(exact, Some(Fit::Connected));
        assert_eq!(fit("10.0.0.1:80", None, Listen), Some(Fit::ThisAddress));
        assert_eq!(fit("0.0.0.0:80", None, Listen), Some(Fit::AnyAddress));
        assert_eq!(fit("[::]:80", None, Listen), Some(Fit::AnyAddress));
        assert_eq!(fit("10.0.0.1:80", Some("10.0.0.2:5001"), Established), None);
        assert_eq!(fit("10.0.0.3:80", None, Listen), None);
        assert_eq!(fit("10.0.0.1:81", None, Listen), None);
        // Bound, but neither listening nor connected: takes nothing.
        assert_eq!(fit("10.0.0.1:80", None, Close), None);
        assert!(Fit::Connected > Fit::ThisAddress && Fit::ThisAddress > Fit::AnyAddress);
    }

    #[test]
    fn ipv4_sockets_take_no_ipv6_and_namespaces_are_apart() {
        let listener = socket("0.0.0.0:80", None, SocketState::Listen);
        assert_eq!(fit(&listener, &flow("[fd00::1]:80", "[fd00::2]:9")), None);
        let mut there = flow("10.0.0.1:80", "10.0.0.2:5000");
        there.netns = Some(8);
        assert_eq!(fit(&listener, &there), None);
        there.netns = Some(7);
        assert_eq!(fit(&listener, &there), Some(Fit::AnyAddress));
    }
}
