// SPDX-License-Identifier: GPL-3.0-only
//! Sockets of TCP and UDP, by address or by the process that holds them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Budget, Linux, LinuxError, TaskAddr, group};
use crate::kernel::layout::{FileOffsets, SockOffsets};
use crate::memory::{MemoryError, PhysicalMemory};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const IPPROTO_TCP: u64 = 6;
const IPPROTO_UDP: u64 = 17;
/// Multipath TCP: to a program that opened one it is TCP.
const IPPROTO_MPTCP: u64 = 262;
const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;
/// File descriptors of one process that are looked at.
const MAX_FDS: u32 = 1 << 16;
/// Descriptors read at a time.
const FDS_A_READ: usize = 64;

/// Transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, multipath TCP included.
    Tcp,
    /// UDP.
    Udp,
}

/// State of a socket, in the kernel's terms for TCP. A UDP socket is
/// `Established` if connected and `Close` if not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names of RFC 9293 speak for themselves")]
pub enum SocketState {
    Established,
    SynSent,
    SynReceived,
    FinWait1,
    FinWait2,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    Closing,
    /// Listening side, handshake not finished, no full socket yet.
    NewSynReceived,
    /// Bound by a program that asked the kernel not to reserve the port yet.
    BoundInactive,
}

impl SocketState {
    /// From the kernel's number (include/net/tcp_states.h).
    fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Established,
            2 => Self::SynSent,
            3 => Self::SynReceived,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            7 => Self::Close,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            12 => Self::NewSynReceived,
            13 => Self::BoundInactive,
            _ => return None,
        })
    }

    /// Whether the kernel keeps a smaller structure than `struct sock` for a
    /// socket in this state: only its common head may be read.
    fn is_mini(self) -> bool {
        matches!(self, Self::TimeWait | Self::NewSynReceived)
    }
}

/// How many connections wait to be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Backlog {
    /// Connections waiting now.
    pub waiting: u32,
    /// Most that may wait.
    pub limit: u32,
}

/// One socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Socket {
    /// Address of its `struct sock`.
    pub sk: u64,
    /// Transport protocol.
    pub protocol: Protocol,
    /// State.
    pub state: SocketState,
    /// Local address; unspecified if not bound, port 0 if none yet. IPv4 over
    /// an IPv6 socket is shown as IPv4.
    pub local: SocketAddr,
    /// Peer; None unless connected or connecting.
    pub remote: Option<SocketAddr>,
    /// Inode number of the network namespace; 0 where not known.
    pub netns: u32,
    /// Set if the socket listens.
    pub backlog: Option<Backlog>,
}

impl<M: PhysicalMemory> Linux<M> {
    /// Reads the socket whose `struct sock` is at `sk`. About ten small reads,
    /// all in two or three cache lines, and no allocation.
    ///
    /// # Errors
    /// [`LinuxError::NotInet`] for sockets of other kinds,
    /// [`LinuxError::Implausible`] for what cannot be a socket.
    pub fn socket(&self, sk: u64) -> Result<Socket, LinuxError> {
        let layout = &self.kernel.layout;
        let offsets = group(&layout.sock)?;
        let at = |offset: u64| sk.wrapping_add(offset);
        let family = self.u16(at(offsets.family))?;
        if family != AF_INET && family != AF_INET6 {
            return Err(LinuxError::NotInet { family, protocol: 0 });
        }
        let implausible = LinuxError::Implausible {
            what: "socket",
            va: sk,
        };
        let state = SocketState::from_number(self.u8(at(offsets.state))?).ok_or(implausible)?;
        let protocol = self.protocol(sk, &offsets, family, state)?;
        let (local, remote) = if family == AF_INET6 {
            let six = group(&layout.sock6)?;
            (self.ipv6(at(six.rcv_saddr))?, self.ipv6(at(six.daddr))?)
        } else {
            (self.ipv4(at(offsets.rcv_saddr))?, self.ipv4(at(offsets.daddr))?)
        };
        let remote_port = u16::from_be(self.u16(at(offsets.dport))?);
        let backlog = match state {
            SocketState::Listen => Some(Backlog {
                waiting: self.u32(at(offsets.ack_backlog))?,
                limit: self.u32(at(offsets.max_ack_backlog))?,
            }),
            _ => None,
        };
        Ok(Socket {
            sk,
            protocol,
            state,
            local: SocketAddr::new(local, self.u16(at(offsets.num))?),
            remote: (remote_port != 0).then(|| SocketAddr::new(remote, remote_port)),
            netns: self
                .u64(at(offsets.net))
                .and_then(|net| self.u32(net.wrapping_add(offsets.net_inum)))
                .unwrap_or(0),
            backlog,
        })
    }

    fn protocol(
        &self,
        sk: u64,
        offsets: &SockOffsets,
        family: u16,
        state: SocketState,
    ) -> Result<Protocol, LinuxError> {
        if state.is_mini() {
            return Ok(Protocol::Tcp);
        }
        match self.scalar(sk, offsets.protocol)? {
            IPPROTO_TCP | IPPROTO_MPTCP => Ok(Protocol::Tcp),
            IPPROTO_UDP => Ok(Protocol::Udp),
            other => Err(LinuxError::NotInet {
                family,
                protocol: other as u16,
            }),
        }
    }

    pub(super) fn ipv4(&self, va: u64) -> Result<IpAddr, MemoryError> {
        let mut octets = [0; 4];
        self.read(va, &mut octets)?;
        Ok(Ipv4Addr::from(octets).into())
    }

    /// An IPv6 address; a v4-mapped one becomes IPv4.
    pub(super) fn ipv6(&self, va: u64) -> Result<IpAddr, MemoryError> {
        let mut octets = [0; 16];
        self.read(va, &mut octets)?;
        Ok(Ipv6Addr::from(octets).to_canonical())
    }

    /// Every TCP and UDP socket that a process has open, with its descriptor.
    /// Descriptors that cannot be read (closed meanwhile) are left out.
    ///
    /// # Errors
    /// If the process's table of descriptors cannot be read.
    pub fn sockets_of(&self, task: TaskAddr) -> Result<Vec<(u32, Socket)>, LinuxError> {
        self.within(Budget::SOCKETS, || self.all_sockets_of(task)).0
    }

    fn all_sockets_of(&self, task: TaskAddr) -> Result<Vec<(u32, Socket)>, LinuxError> {
        let offsets = group(&self.kernel.layout.file)?;
        let mut sockets = Vec::new();
        // An exiting process has none left, nor has a kernel thread.
        let Some(files) = self.pointer(task.0.wrapping_add(offsets.files))? else {
            return Ok(sockets);
        };
        let table = self.u64(files.wrapping_add(offsets.fdt))?;
        let count = self.u32(table.wrapping_add(offsets.max_fds))?.min(MAX_FDS);
        let slots = self.u64(table.wrapping_add(offsets.fd))?;
        let mut raw = [0; FDS_A_READ * 8];
        let mut fd = 0;
        while fd < count {
            let some = (count - fd).min(FDS_A_READ as u32);
            let chunk = &mut raw[..some as usize * 8];
            self.read(slots.wrapping_add(u64::from(fd) * 8), chunk)?;
            for (index, slot) in (0..).zip(chunk.chunks_exact(8)) {
                let file = slot.try_into().map_or(0, u64::from_le_bytes);
                if file != 0
                    && let Ok(Some(sk)) = self.sk_of_file(&offsets, file)
                    && let Ok(socket) = self.socket(sk)
                {
                    sockets.push((fd + index, socket));
                }
            }
            fd += some;
        }
        Ok(sockets)
    }

    /// The `struct sock` behind an open file, if that is a socket.
    fn sk_of_file(&self, offsets: &FileOffsets, file: u64) -> Result<Option<u64>, MemoryError> {
        let inode = self.u64(file.wrapping_add(offsets.f_inode))?;
        if self.u16(inode.wrapping_add(offsets.i_mode))? & S_IFMT != S_IFSOCK {
            return Ok(None);
        }
        let socket = self.u64(file.wrapping_add(offsets.private_data))?;
        self.pointer(socket.wrapping_add(offsets.socket_sk))
    }
}
