// SPDX-License-Identifier: GPL-3.0-only
//! Sockets of odd ownership: shared ports, shared descriptors, no owner at all.

use std::any::Any;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sockopt,
};

/// What must stay open for as long as the process runs.
type Held = Vec<Box<dyn Any>>;

/// One of each.
pub fn special() -> Held {
    let mut held: Held = Vec::new();
    let mut hold = |thing: Box<dyn Any>| held.push(thing);
    for _ in 0..2 {
        hold(Box::new(reuse_port(SocketType::STREAM, "127.0.0.1:7020")));
        hold(Box::new(reuse_port(SocketType::DGRAM, "0.0.0.0:5310")));
    }
    // One port, one socket for each family.
    let six = socket(SocketType::STREAM, "[::]:7030");
    sockopt::set_ipv6_v6only(&six, true).expect("IPV6_V6ONLY");
    bind(&six, "[::]:7030");
    rustix::net::listen(&six, 8).expect("listen");
    hold(Box::new(six));
    hold(Box::new(TcpListener::bind("0.0.0.0:7030").expect("listen")));
    // Bound, but neither listening nor connected; and not even bound.
    let bound = socket(SocketType::STREAM, "127.0.0.1:7050");
    bind(&bound, "127.0.0.1:7050");
    hold(Box::new(bound));
    hold(Box::new(socket(SocketType::STREAM, "127.0.0.1:0")));
    hold(Box::new(socket(SocketType::DGRAM, "127.0.0.1:0")));
    // A peer that never answers: the dummy interface swallows all.
    std::thread::spawn(|| TcpStream::connect("10.9.0.200:81"));
    hold(Box::new(shared_with_a_child()));
    hold(Box::new(in_flight()));
    half_open();
    held
}

fn socket(kind: SocketType, address: &str) -> OwnedFd {
    let family = match parse(address) {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None).expect("socket")
}

fn parse(address: &str) -> SocketAddr {
    address.parse().expect("an address")
}

fn bind(socket: &OwnedFd, address: &str) {
    rustix::net::bind(socket, &parse(address)).expect("bind");
}

fn reuse_port(kind: SocketType, address: &str) -> OwnedFd {
    let socket = socket(kind, address);
    sockopt::set_socket_reuseport(&socket, true).expect("SO_REUSEPORT");
    bind(&socket, address);
    if kind == SocketType::STREAM {
        rustix::net::listen(&socket, 8).expect("listen");
    }
    socket
}

/// As a server that forks its workers does it.
fn shared_with_a_child() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:7060").expect("listen");
    let copy = OwnedFd::from(listener.try_clone().expect("a copy"));
    Command::new("/workload")
        .arg("hold")
        .stdin(Stdio::from(copy))
        .spawn()
        .expect("a child");
    listener
}

/// A socket that is on its way over a Unix socket, and in nobody's hands.
fn in_flight() -> (OwnedFd, OwnedFd) {
    let sent = UdpSocket::bind("127.0.0.1:5320").expect("bind UDP");
    let (near, far) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .expect("a pair");
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    let descriptors = [sent.as_fd()];
    assert!(rights.push(SendAncillaryMessage::ScmRights(&descriptors)));
    rustix::net::sendmsg(&near, &[IoSlice::new(b"x")], &mut rights, SendFlags::empty()).expect("sendmsg");
    (near, far)
}

/// A listener that has seen a SYN and waits for an ACK that will not come: the
/// client's address does not exist.
fn half_open() {
    let listener = TcpListener::bind("10.9.0.1:7040").expect("listen");
    let raw = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(rustix::net::ipproto::RAW),
    )
    .expect("a raw socket");
    let packet = syn([10, 9, 0, 200], 4444, [10, 9, 0, 1], 7040);
    rustix::net::sendto(&raw, &packet, SendFlags::empty(), &parse("10.9.0.1:0")).expect("sendto");
    // It must outlive this function without being in anybody's way.
    std::mem::forget(listener);
}

/// An IPv4 packet that holds a TCP SYN (RFC 791 and RFC 9293).
fn syn(from: [u8; 4], from_port: u16, to: [u8; 4], to_port: u16) -> Vec<u8> {
    let mut tcp = Vec::new();
    tcp.extend(from_port.to_be_bytes());
    tcp.extend(to_port.to_be_bytes());
    tcp.extend(1u32.to_be_bytes()); // sequence number
    tcp.extend(0u32.to_be_bytes()); // acknowledgement
    tcp.extend([5 << 4, 0x02]); // header length in words; SYN
    tcp.extend(1024u16.to_be_bytes()); // window
    tcp.extend([0; 4]); // checksum, urgent pointer
    let mut covered = Vec::new();
    covered.extend(from);
    covered.extend(to);
    covered.extend([0, 6, 0, tcp.len() as u8]);
    covered.extend(&tcp);
    let checksum = checksum(&covered);
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    let mut packet = vec![0x45, 0, 0, 20 + tcp.len() as u8];
    // Identification, fragment, time to live, protocol; the kernel fills in the
    // checksum.
    packet.extend([0, 0, 0, 0, 64, 6, 0, 0]);
    packet.extend(from);
    packet.extend(to);
    packet.extend(tcp);
    packet
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
