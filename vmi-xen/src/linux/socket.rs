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
    /// The state in the words of ss(8).
    pub fn as_ss(self) -> &'static str {
        match self {
            Self::Established => "ESTAB",
            Self::SynSent => "SYN-SENT",
            Self::SynReceived | Self::NewSynReceived => "SYN-RECV",
            Self::FinWait1 => "FIN-WAIT-1",
            Self::FinWait2 => "FIN-WAIT-2",
            Self::TimeWait => "TIME-WAIT",
            Self::Close | Self::BoundInactive => "UNCONN",
            Self::CloseWait => "CLOSE-WAIT",
            Self::LastAck => "LAST-ACK",
            Self::Listen => "LISTEN",
            Self::Closing => "CLOSING",
        }
    }

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
    /// It is a socket of IPv6. One that speaks IPv4 all the same (its addresses
    /// are v4-mapped) has the IPv4 addresses here; tools that show it as the
    /// guest's own do map them back.
    pub ipv6: bool,
    /// Local address; unspecified if not bound, port 0 if none yet.
    pub local: SocketAddr,
    /// Peer; None unless connected or connecting.
    pub remote: Option<SocketAddr>,
    /// Inode number of the network namespace; 0 where not known.
    pub netns: u32,
    /// Set if the socket listens.
    pub backlog: Option<Backlog>,
}

/// Longest `struct sock_common` that is believed; real ones have about 140
/// bytes.
const MAX_HEAD: usize = 256;

/// A `struct sock_common`, which every socket and every small structure in its
/// place begins with, read at once.
struct Head {
    raw: [u8; MAX_HEAD],
    len: usize,
}

impl Head {
    fn read<M: PhysicalMemory>(linux: &Linux<M>, sk: u64, len: u64) -> Result<Self, MemoryError> {
        let mut raw = [0; MAX_HEAD];
        let len = (len as usize).min(MAX_HEAD);
        linux.read(sk, &mut raw[..len])?;
        Ok(Self { raw, len })
    }

    /// None where BTF told of an offset outside the structure.
    fn bytes<const N: usize>(&self, at: u64) -> Option<[u8; N]> {
        let start = usize::try_from(at).ok()?;
        let end = start.checked_add(N).filter(|&end| end <= self.len)?;
        self.raw[start..end].try_into().ok()
    }

    fn u16(&self, at: u64) -> Option<u16> {
        self.bytes(at).map(u16::from_le_bytes)
    }

    fn u64(&self, at: u64) -> Option<u64> {
        self.bytes(at).map(u64::from_le_bytes)
    }

    fn ipv4(&self, at: u64) -> Option<IpAddr> {
        self.bytes::<4>(at).map(|octets| Ipv4Addr::from(octets).into())
    }

    /// A v4-mapped address becomes IPv4.
    fn ipv6(&self, at: u64) -> Option<IpAddr> {
        self.bytes::<16>(at)
            .map(|octets| Ipv6Addr::from(octets).to_canonical())
    }
}

impl Socket {
    /// Local address and peer as the guest's own tools show them: over IPv6 a
    /// v4-mapped address where it is IPv4, and no peer as the unspecified
    /// address with port 0.
    pub fn as_shown(&self) -> (SocketAddr, SocketAddr) {
        let unspecified = match self.ipv6 {
            true => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0),
            false => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
        };
        let of_family = |address: SocketAddr| match address.ip() {
            IpAddr::V4(ip) if self.ipv6 => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
            _ => address,
        };
        (of_family(self.local), self.remote.map_or(unspecified, of_family))
    }
}

impl<M: PhysicalMemory> Linux<M> {
    /// The sequence number that a TCP socket sends next: of one that is about to connect, that of its SYN. None of UDP, and where the
    /// kernel does not say where it is.
    pub fn write_sequence(&self, socket: &Socket) -> Option<u32> {
        let offset = group(&self.kernel.layout.tcp_write_seq).ok()?;
        let is_tcp = socket.protocol == Protocol::Tcp;
        is_tcp
            .then(|| self.u32(socket.sk.wrapping_add(offset)).ok())
            .flatten()
    }

    /// Reads the socket whose `struct sock` is at `sk`, or one of the smaller
    /// structures that the kernel keeps in its place (TIME-WAIT, half-open). At
    /// most six reads, most of the bytes in one, and no allocation.
    ///
    /// # Errors
    /// [`LinuxError::NotInet`] for sockets of other kinds,
    /// [`LinuxError::Implausible`] for what cannot be a socket.
    pub fn socket(&self, sk: u64) -> Result<Socket, LinuxError> {
        let layout = &self.kernel.layout;
        let offsets = group(&layout.sock)?;
        let head = Head::read(self, sk, offsets.common_len.0)?;
        let implausible = || LinuxError::Implausible {
            what: "socket",
            va: sk,
        };
        let family = head.u16(offsets.family).ok_or_else(implausible)?;
        if family != AF_INET && family != AF_INET6 {
            return Err(LinuxError::NotInet { family, protocol: 0 });
        }
        let number = head.bytes::<1>(offsets.state).ok_or_else(implausible)?[0];
        let kept = SocketState::from_number(number).ok_or_else(implausible)?;
        let (protocol, state) = match kept {
            // Smaller structures: nothing behind their common head may be read.
            SocketState::NewSynReceived => (Protocol::Tcp, kept),
            SocketState::TimeWait => (Protocol::Tcp, self.substate(sk).unwrap_or(kept)),
            _ => (self.protocol(sk, &offsets, family)?, kept),
        };
        let ipv6 = family == AF_INET6;
        let (local, remote) = if ipv6 {
            let six = group(&layout.sock6)?;
            head.ipv6(six.rcv_saddr).zip(head.ipv6(six.daddr))
        } else {
            head.ipv4(offsets.rcv_saddr).zip(head.ipv4(offsets.daddr))
        }
        .ok_or_else(implausible)?;
        let local_port = head.u16(offsets.num).ok_or_else(implausible)?;
        let remote_port = u16::from_be(head.u16(offsets.dport).ok_or_else(implausible)?);
        let net = head.u64(offsets.net).ok_or_else(implausible)?;
        let backlog = match state {
            SocketState::Listen => Some(Backlog {
                waiting: self.u32(sk.wrapping_add(offsets.ack_backlog))?,
                limit: self.u32(sk.wrapping_add(offsets.max_ack_backlog))?,
            }),
            _ => None,
        };
        Ok(Socket {
            sk,
            protocol,
            state,
            ipv6,
            local: SocketAddr::new(local, local_port),
            remote: (remote_port != 0).then(|| SocketAddr::new(remote, remote_port)),
            netns: self.u32(net.wrapping_add(offsets.net_inum)).unwrap_or(0),
            backlog,
        })
    }

    /// State of a socket as the kernel keeps it, which tells what kind of
    /// structure is there.
    pub(super) fn socket_state(&self, sk: u64) -> Result<SocketState, LinuxError> {
        let offsets = group(&self.kernel.layout.sock)?;
        let number = self.u8(sk.wrapping_add(offsets.state))?;
        SocketState::from_number(number).ok_or(LinuxError::Implausible {
            what: "socket",
            va: sk,
        })
    }

    /// Whether a whole `struct sock` is there. For TIME-WAIT and for handshakes
    /// the kernel keeps a smaller structure.
    pub(super) fn is_whole(&self, sk: u64) -> Result<bool, LinuxError> {
        let kept = self.socket_state(sk)?;
        Ok(!matches!(
            kept,
            SocketState::TimeWait | SocketState::NewSynReceived
        ))
    }

    /// The `struct socket` of a `struct sock`: its side towards programs. None
    /// if nobody has accepted it yet, or it is closed.
    pub(super) fn file_side(&self, sk: u64) -> Result<Option<u64>, LinuxError> {
        let offsets = group(&self.kernel.layout.socket_inode)?;
        if !self.is_whole(sk)? {
            return Ok(None);
        }
        Ok(self.pointer(sk.wrapping_add(offsets.sk_socket))?)
    }

    /// What a structure in TIME-WAIT stands for: also for FIN-WAIT-2, once no
    /// process holds the socket any more.
    fn substate(&self, sk: u64) -> Result<SocketState, LinuxError> {
        let offsets = group(&self.kernel.layout.tcp_table)?;
        let number = self.u8(sk.wrapping_add(offsets.substate))?;
        match SocketState::from_number(number) {
            Some(state @ (SocketState::FinWait2 | SocketState::TimeWait)) => Ok(state),
            _ => Err(LinuxError::Implausible {
                what: "socket",
                va: sk,
            }),
        }
    }

    /// Reads the `struct sockaddr` at `va`, which the kernel copied from a program. None if it is of another family than IPv4
    /// and IPv6, as AF_UNSPEC is, which asks to disconnect.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn sockaddr(&self, va: u64) -> Result<Option<SocketAddr>, LinuxError> {
        // What all systems agree on: family, then port, then the address, which IPv6 has behind its flow label.
        let port = |linux: &Self| linux.u16(va.wrapping_add(2)).map(u16::from_be);
        Ok(match self.u16(va)? {
            AF_INET => Some(SocketAddr::new(self.ipv4(va.wrapping_add(4))?, port(self)?)),
            AF_INET6 => Some(SocketAddr::new(self.ipv6(va.wrapping_add(8))?, port(self)?)),
            _ => None,
        })
    }

    /// The local address that a socket uses towards a peer of IPv4 or IPv6: an IPv6 socket has one of either, and while it is
    /// being connected they need not agree yet.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn local_address(&self, sk: u64, towards: IpAddr) -> Result<IpAddr, LinuxError> {
        let layout = &self.kernel.layout;
        Ok(if towards.is_ipv4() {
            self.ipv4(sk.wrapping_add(group(&layout.sock)?.rcv_saddr))?
        } else {
            self.ipv6(sk.wrapping_add(group(&layout.sock6)?.rcv_saddr))?
        })
    }

    /// An IPv6 address; a v4-mapped one becomes IPv4.
    fn ipv6(&self, va: u64) -> Result<IpAddr, LinuxError> {
        let mut octets = [0; 16];
        self.read(va, &mut octets)?;
        Ok(Ipv6Addr::from(octets).to_canonical())
    }

    fn protocol(&self, sk: u64, offsets: &SockOffsets, family: u16) -> Result<Protocol, LinuxError> {
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
        self.each_file(&offsets, task, |fd, file| {
            if let Ok(Some(sk)) = self.sk_of_file(&offsets, file)
                && let Ok(socket) = self.socket(sk)
            {
                sockets.push((fd, socket));
            }
            true
        })?;
        Ok(sockets)
    }

    /// The TCP and UDP sockets among a process's first `fds` descriptors, each
    /// with its number.
    ///
    /// # Errors
    /// If the process's table of descriptors cannot be read.
    pub fn first_sockets_of(&self, task: TaskAddr, fds: u32) -> Result<Vec<(u32, Socket)>, LinuxError> {
        let offsets = group(&self.kernel.layout.file)?;
        let mut sockets = Vec::new();
        self.each_file(&offsets, task, |fd, file| {
            if fd < fds
                && let Ok(Some(sk)) = self.sk_of_file(&offsets, file)
                && let Ok(socket) = self.socket(sk)
            {
                sockets.push((fd, socket));
            }
            fd + 1 < fds
        })?;
        Ok(sockets)
    }

    /// Calls `visit` with each descriptor of a process and its `struct file`,
    /// until that returns false.
    ///
    /// # Errors
    /// If the process's table of descriptors cannot be read.
    pub(super) fn each_file(
        &self,
        offsets: &FileOffsets,
        task: TaskAddr,
        visit: impl FnMut(u32, u64) -> bool,
    ) -> Result<(), LinuxError> {
        match self.files(offsets, task)? {
            Some(files) => self.each_file_in(offsets, files, MAX_FDS, visit),
            None => Ok(()),
        }
    }

    /// As [`Linux::each_file`], of a `files_struct` and with at most `most`
    /// descriptors.
    pub(super) fn each_file_in(
        &self,
        offsets: &FileOffsets,
        files: u64,
        most: u32,
        mut visit: impl FnMut(u32, u64) -> bool,
    ) -> Result<(), LinuxError> {
        let table = self.u64(files.wrapping_add(offsets.fdt))?;
        let count = self.u32(table.wrapping_add(offsets.max_fds))?.min(most);
        let slots = self.u64(table.wrapping_add(offsets.fd))?;
        let mut raw = [0; FDS_A_READ * 8];
        let mut fd = 0;
        while fd < count {
            let some = (count - fd).min(FDS_A_READ as u32);
            let chunk = &mut raw[..some as usize * 8];
            self.read(slots.wrapping_add(u64::from(fd) * 8), chunk)?;
            for (index, slot) in (0..).zip(chunk.chunks_exact(8)) {
                let file = slot.try_into().map_or(0, u64::from_le_bytes);
                if file != 0 && !visit(fd + index, file) {
                    return Ok(());
                }
            }
            fd += some;
        }
        Ok(())
    }

    /// The `struct file` behind a descriptor of a process.
    pub(super) fn file_of(&self, task: TaskAddr, fd: u32) -> Result<Option<u64>, LinuxError> {
        let offsets = group(&self.kernel.layout.file)?;
        let Some(files) = self.files(&offsets, task)? else {
            return Ok(None);
        };
        let table = self.u64(files.wrapping_add(offsets.fdt))?;
        if fd >= self.u32(table.wrapping_add(offsets.max_fds))? {
            return Ok(None);
        }
        let slots = self.u64(table.wrapping_add(offsets.fd))?;
        Ok(self.pointer(slots.wrapping_add(u64::from(fd) * 8))?)
    }

    /// The process's `files_struct`. An exiting process has none left, nor has
    /// a kernel thread. A leader that ended before its threads has none either,
    /// and its threads still have.
    fn files(&self, offsets: &FileOffsets, task: TaskAddr) -> Result<Option<u64>, LinuxError> {
        let files = |task: TaskAddr| self.pointer(task.0.wrapping_add(offsets.files));
        if let Some(own) = files(task)? {
            return Ok(Some(own));
        }
        let threads = self.threads(task).unwrap_or_default();
        Ok(threads
            .into_iter()
            .find_map(|thread| files(thread).ok().flatten()))
    }

    /// The `struct sock` behind an open file, if that is a socket.
    pub(super) fn sk_of_file(&self, offsets: &FileOffsets, file: u64) -> Result<Option<u64>, MemoryError> {
        let inode = self.u64(file.wrapping_add(offsets.f_inode))?;
        if self.u16(inode.wrapping_add(offsets.i_mode))? & S_IFMT != S_IFSOCK {
            return Ok(None);
        }
        let socket = self.u64(file.wrapping_add(offsets.private_data))?;
        self.pointer(socket.wrapping_add(offsets.socket_sk))
    }
}
