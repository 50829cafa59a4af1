// SPDX-License-Identifier: GPL-3.0-only
//! Packet sockets: what is really on the wire, and frames no stack would send.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt};
use std::os::fd::AsFd;

use super::World;

/// A packet socket on an interface of a namespace, `eth0` unless said.
pub struct Wire {
    socket: OwnedFd,
    ifindex: i32,
}

impl Wire {
    /// On `eth0`.
    pub fn open(world: &World, part: &str) -> Wire {
        Wire::open_on(world, part, "eth0")
    }

    /// The same on another interface.
    pub fn open_on(world: &World, part: &str, interface: &str) -> Wire {
        world.inside(part, || {
            let socket = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_NONBLOCK,
                SockProtocol::EthAll,
            )
            .unwrap();
            let on: libc::c_int = 1;
            // SAFETY: the pointer is to an int of the length given, which the call only reads.
            let told = unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_PACKET,
                    libc::PACKET_AUXDATA,
                    (&raw const on).cast(),
                    size_of::<libc::c_int>() as u32,
                )
            };
            assert_eq!(told, 0, "{}", std::io::Error::last_os_error());
            // Who reads late loses nothing.
            setsockopt(&socket, sockopt::RcvBufForce, &(32 << 20)).unwrap();
            let ifindex = nix::net::if_::if_nametoindex(interface).unwrap() as i32;
            Wire { socket, ifindex }
        })
    }

    pub fn send(&self, frame: &[u8]) {
        self.try_send(frame).unwrap();
    }

    /// Whether the interface takes a frame: one that a program at its own egress drops it does not.
    pub fn offer(&self, frame: &[u8]) -> bool {
        match self.try_send(frame) {
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => false,
            sent => sent.is_ok() || panic!("{sent:?}"),
        }
    }

    /// An error is also what a program on the way out drops.
    pub fn try_send(&self, frame: &[u8]) -> std::io::Result<()> {
        // SAFETY: an all-zero sockaddr_ll is a valid one.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = self.ifindex;
        // SAFETY: both pointers are to memory of the sizes given, which the call only reads.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        if sent < 0 {
            return Err(std::io::Error::last_os_error());
        }
        assert_eq!(sent, frame.len() as isize);
        Ok(())
    }

    /// The frames that are there or come within `time`, as long as they are not `enough`.
    pub fn frames_until(&self, time: Duration, mut enough: impl FnMut(&[u8]) -> bool) -> Vec<Vec<u8>> {
        let end = Instant::now() + time;
        let mut frames = Vec::new();
        let mut buffer = vec![0; 70_000];
        loop {
            match self.receive(&mut buffer) {
                Ok(frame) => {
                    let last = enough(&frame);
                    frames.push(frame);
                    if last {
                        return frames;
                    }
                }
                Err(Errno::EAGAIN) => {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return frames;
                    }
                    let left = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap();
                    poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], left).unwrap();
                }
                Err(error) => panic!("packet socket: {error}"),
            }
        }
    }

    /// One frame, with the tag that the kernel took off it put back.
    fn receive(&self, buffer: &mut [u8]) -> Result<Vec<u8>, Errno> {
        // For alignment; `CMSG_SPACE(sizeof(struct tpacket_auxdata))` is 40 bytes.
        let mut control = [0_u64; 8];
        let mut part = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        // SAFETY: an all-zero msghdr is a valid one.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        // SAFETY: all pointers of the message are to memory of the sizes it tells.
        let length = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, 0) };
        let length = usize::try_from(length).map_err(|_| Errno::last())?;
        let mut frame = buffer[..length].to_vec();
        // SAFETY: the kernel has filled the control buffer of this message.
        let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message).as_ref() };
        if let Some(header) = header
            && (header.cmsg_level, header.cmsg_type) == (libc::SOL_PACKET, libc::PACKET_AUXDATA)
        {
            // SAFETY: this kind of control message holds a tpacket_auxdata.
            let told = unsafe {
                libc::CMSG_DATA(header)
                    .cast::<libc::tpacket_auxdata>()
                    .read_unaligned()
            };
            if told.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
                let [a, b] = told.tp_vlan_tpid.to_be_bytes();
                let [c, d] = told.tp_vlan_tci.to_be_bytes();
                frame.splice(12..12, [a, b, c, d]);
            }
        }
        Ok(frame)
    }

    /// Whether a frame that `wanted` picks comes within `time`.
    pub fn sees(&self, time: Duration, wanted: impl Fn(&[u8]) -> bool) -> bool {
        self.frames_until(time, &wanted).iter().any(|frame| wanted(frame))
    }
}

/// Both ends' wires.
pub struct Ends {
    pub guest: Wire,
    pub peer: Wire,
}

impl Ends {
    pub fn open(world: &World) -> Ends {
        Ends {
            guest: Wire::open(world, "guest"),
            peer: Wire::open(world, "peer"),
        }
    }

    /// Whether what the guest sends arrives at the peer, all but the Ethernet header.
    pub fn leaves(&self, frame: &[u8]) -> bool {
        self.guest.send(frame);
        self.peer
            .sees(Duration::from_millis(100), |f| f.ends_with(&frame[14..]))
    }

    /// Whether what the peer sends arrives at the guest.
    pub fn arrives(&self, frame: &[u8]) -> bool {
        self.peer.send(frame);
        self.guest
            .sees(Duration::from_millis(100), |f| f.ends_with(&frame[14..]))
    }
}
