// SPDX-License-Identifier: GPL-3.0-only
//! Every way a packet can take through the datapath: families, protocols, offloads, what connects the vifs, and hooks. In each
//! cell what is allowed arrives whole, what is denied does not and is refused as promised, and what is for a service is
//! answered in the service's name; every packet that either end gets has right sums.
//!
//! [`cells`] is the one place that says which cells there are.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use netback_filter::{
    Action, Attach, Backend, Config, Counters, Datapath, Direction, Events, Hooks, Peer, PeerMatch,
    Prohibited, Protocol, Rule, RuleSet, VifConfig,
};
use support::capture::{Capture, Captured};
use support::site::{PORT, SERVICE_MAC, SITES, backend, backend_address, serve, serve_datagrams, service};
use support::wire::Wire;
use support::*;

/// One way through.
#[derive(Clone, Copy, Debug)]
struct Cell {
    ipv6: bool,
    protocol: L4,
    /// Segmentation and sums are left to the devices.
    offload: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum L4 {
    Tcp,
    Udp,
    Icmp,
}

/// Those that one setup of paths and hooks is tried in.
fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for offload in [true, false] {
        for ipv6 in [false, true] {
            for protocol in [L4::Tcp, L4::Udp, L4::Icmp] {
                cells.push(Cell {
                    ipv6,
                    protocol,
                    offload,
                });
            }
        }
    }
    cells
}

#[test]
fn bridge_and_clsact() {
    every_cell(Path::Bridge, Hooks::Clsact);
}

#[test]
fn bridge_and_tcx() {
    every_cell(Path::Bridge, Hooks::Tcx);
}

#[test]
fn direct_and_clsact() {
    every_cell(Path::Direct, Hooks::Clsact);
}

#[test]
fn direct_and_tcx() {
    every_cell(Path::Direct, Hooks::Tcx);
}

#[test]
fn routed_and_clsact() {
    every_cell(Path::Routed, Hooks::Clsact);
}

#[test]
fn routed_and_tcx() {
    every_cell(Path::Routed, Hooks::Tcx);
}

/// The port that is open at the peer, whether the guest may go there or not.
const OPEN: u16 = 7000;
/// The backend behind the services.
const BACKEND: u8 = 1;
/// The peer's other address that the guest may not talk to.
const FORBIDDEN: u8 = 3;
const FORBIDDEN_CLASS: u32 = 5;
/// More than one segment, with any offload.
const STREAM: usize = 300_000;
const DATAGRAM: usize = 1200;
const DATAGRAMS: usize = 10;
const MTU_FRAME: usize = 1514;

fn every_cell(path: Path, hooks: Hooks) {
    if hooks == Hooks::Tcx && !has_tcx() {
        return;
    }
    World::run_on(path, |world| {
        let mut setup = Setup::new(world, path, hooks);
        let mut failures = Vec::new();
        for cell in cells() {
            setup.set_offload(cell.offload);
            for (what, check) in CHECKS {
                let before = setup.begin();
                let checked = check(&setup, cell)
                    .and_then(|()| setup.check_sums(cell))
                    .and_then(|()| setup.check_way(what, cell, &before));
                if let Err(error) = checked {
                    failures.push(format!("{cell:?} {path:?} {hooks:?}: {what}: {error}"));
                }
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    });
}

type Check = fn(&Setup<'_>, Cell) -> Result<(), String>;
const CHECKS: [(&str, Check); 3] = [
    ("allowed", allowed),
    ("denied", denied),
    ("redirected", redirected),
];

/// Both ends and what is between them, for all cells of one setup.
struct Setup<'a> {
    world: &'a World,
    path: Path,
    datapath: Datapath,
    captures: [Capture; 2],
    guest_wire: Wire,
    /// Where the guest's frames go that leave its subnet's way to dom0.
    next_hop: [u8; 6],
}

impl<'a> Setup<'a> {
    fn new(world: &'a World, path: Path, hooks: Hooks) -> Self {
        let next_hop = match path {
            Path::Bridge | Path::Direct => PEER_MAC,
            Path::Routed => VIF_MAC,
        };
        for (_, peer, vip) in SITES {
            let (bits, flags) = if vip.is_ipv4() { (24, "") } else { (64, "nodad") };
            for number in [BACKEND, FORBIDDEN] {
                let address = backend_address(vip, number);
                world.ip("peer", &format!("addr add {address}/{bits} dev eth0 {flags}"));
                let mac = text(next_hop);
                world.ip(
                    "guest",
                    &format!("neigh replace {address} lladdr {mac} dev eth0 nud permanent"),
                );
                if path == Path::Routed {
                    world.route_to(2, &address.to_string(), PEER_MAC);
                }
            }
            for address in [peer, backend_address(vip, FORBIDDEN)] {
                echo_streams(world, address);
                echo_datagrams(world, address);
            }
        }
        let mut datapath = open(world, hooks, next_hop);
        if path == Path::Direct {
            world.open_direct(&mut datapath, netback_filter::ScopeConfig::open());
        }
        for (_, _, vip) in SITES {
            // Numbers 0 and 2 of the site have no address here.
            for number in [0, 2] {
                let address = backend_address(vip, number);
                let bits = if vip.is_ipv4() { 32 } else { 128 };
                let flags = if vip.is_ipv4() { "" } else { "nodad" };
                world.ip("peer", &format!("addr add {address}/{bits} dev lo {flags}"));
            }
            serve(world, vip);
            serve_datagrams(world, vip);
        }
        Setup {
            datapath,
            captures: ["guest", "peer"].map(|part| Capture::open(world, part)),
            guest_wire: Wire::open(world, "guest"),
            next_hop,
            path,
            world,
        }
    }

    /// Before a check. Gives what either end has sent so far.
    fn begin(&mut self) -> [Counters; 2] {
        if self.path == Path::Direct {
            self.datapath.renew_direct().unwrap();
        }
        self.sent()
    }

    fn sent(&self) -> [Counters; 2] {
        let scopes = match self.path {
            Path::Direct => [SCOPE, PEER_SCOPE],
            Path::Bridge | Path::Routed => [SCOPE; 2],
        };
        scopes.map(|scope| counters_of(&self.datapath, scope, Direction::FromGuest))
    }

    /// Whether what was exchanged since went past the bridge, but for a frame in a second of either end.
    fn check_way(&self, what: &str, cell: Cell, before: &[Counters; 2]) -> Result<(), String> {
        // The service's own echo goes nowhere, and so does what is denied. One echo, or datagrams in one packet, may just be the
        // frame that the bridge is to see.
        let goes_straight = what != "denied" && cell.protocol != L4::Icmp;
        for (before, now) in before.iter().zip(self.sent()) {
            let (passed, direct) = (now.passed - before.passed, now.direct - before.direct);
            let wanted = match self.path {
                Path::Direct if goes_straight && passed > 4 => 1..=passed,
                Path::Direct => 0..=passed,
                Path::Bridge | Path::Routed => 0..=0,
            };
            ensure(wanted.contains(&direct), || {
                format!("{direct} of {passed} packets went past the bridge")
            })?;
        }
        Ok(())
    }

    fn set_offload(&self, on: bool) {
        let on = if on { "on" } else { "off" };
        for part in ["guest", "peer"] {
            self.world
                .exec(part, &format!("ethtool -K eth0 tx {on} tso {on} gso {on}"));
        }
    }

    /// Looks at all that passed the ends since the last call.
    fn check_sums(&self, cell: Cell) -> Result<(), String> {
        for capture in &self.captures {
            for packet in capture.packets() {
                if let Some(wrong) = packet.wrong_sum() {
                    return Err(format!(
                        "{} to {} {:?}: {wrong}",
                        packet.source, packet.dest, packet.ports
                    ));
                }
                ensure(cell.offload || packet.bytes.len() <= MTU_FRAME, || {
                    format!("a frame of {} bytes without offload", packet.bytes.len())
                })?;
            }
        }
        Ok(())
    }

    fn guest(&self, cell: Cell) -> IpAddr {
        SITES[usize::from(cell.ipv6)].0
    }

    fn peer(&self, cell: Cell) -> IpAddr {
        SITES[usize::from(cell.ipv6)].1
    }

    fn vip(&self, cell: Cell) -> IpAddr {
        SITES[usize::from(cell.ipv6)].2
    }

    fn forbidden(&self, cell: Cell) -> IpAddr {
        backend_address(self.vip(cell), FORBIDDEN)
    }

    /// Sends an echo request; gives what the guest got within `time`, up to the reply.
    fn ping(&self, cell: Cell, to: IpAddr, next_hop: [u8; 6], time: Duration) -> Option<Captured> {
        let from = self.guest(cell);
        let packet = echo_request(from, to);
        let frame = frame::ethernet(GUEST_MAC, next_hop, frame::ethertype_of(from), &packet);
        self.guest_wire.send(&frame);
        let is_reply = |p: &Captured| p.source == to && p.dest == from && p.bytes.ends_with(ECHO);
        let mut packets = self.captures[0].packets_until(time, is_reply);
        packets.pop().filter(is_reply)
    }
}

/// The guest's vif with rules for all cells, on these hooks.
fn open(world: &World, hooks: Hooks, next_hop: [u8; 6]) -> Datapath {
    let mut datapath = Datapath::open(Config {
        attach: match hooks {
            Hooks::Clsact => Attach::Clsact,
            Hooks::Tcx => Attach::Tcx,
        },
        ..world.config()
    })
    .unwrap();
    datapath.set_scope(SCOPE, no_adoption()).unwrap();
    let allow = |id, protocol, port| rule(id, Direction::FromGuest, protocol, port, Action::Allow);
    let rules = vec![
        Rule {
            peer: PeerMatch::Class(FORBIDDEN_CLASS),
            protocol: None,
            ..rule(1, Direction::FromGuest, Protocol::TCP, None, RESET)
        },
        allow(2, Protocol::TCP, Some(OPEN)),
        allow(3, Protocol::UDP, Some(OPEN)),
        allow(4, Protocol::TCP, Some(PORT)),
        allow(5, Protocol::UDP, Some(PORT)),
        allow(6, Protocol::ICMP, None),
        allow(7, Protocol::ICMPV6, None),
    ];
    let peers = SITES.map(|(_, _, vip)| Peer {
        address: backend_address(vip, FORBIDDEN),
        prefix_bits: if vip.is_ipv4() { 32 } else { 128 },
        class: FORBIDDEN_CLASS,
    });
    let set = RuleSet {
        peers: peers.to_vec(),
        rules,
    };
    datapath.publish(&set, 1).unwrap();
    let services: Vec<_> = SITES
        .iter()
        .flat_map(|(_, _, vip)| {
            let backend = Backend {
                mac: Some(next_hop),
                ..backend(*vip, BACKEND)
            };
            [Protocol::TCP, Protocol::UDP].map(|protocol| service(*vip, protocol, vec![backend]))
        })
        .collect();
    datapath.publish_services(&services).unwrap();
    let vif = VifConfig {
        scope: SCOPE,
        mac: Some(GUEST_MAC),
    };
    datapath.attach(VIF, vif).unwrap();
    assert_eq!(datapath.attached().unwrap()[0].hooks, hooks);
    datapath
}

fn allowed(setup: &Setup<'_>, cell: Cell) -> Result<(), String> {
    let to = SocketAddr::new(setup.peer(cell), OPEN);
    match cell.protocol {
        L4::Tcp => {
            let stream = setup.world.connect("guest", to).map_err(|e| e.to_string())?;
            exchange(stream)?;
            far_end_saw(setup, cell, to)
        }
        L4::Udp => {
            exchange_datagrams(setup, cell, to, b"")?;
            far_end_saw(setup, cell, to)
        }
        L4::Icmp => {
            let reply = setup.ping(cell, to.ip(), setup.next_hop, Duration::from_secs(1));
            sound(reply.ok_or("no reply")?)
        }
    }
}

fn denied(setup: &Setup<'_>, cell: Cell) -> Result<(), String> {
    let before = counters(&setup.datapath, Direction::FromGuest).denied;
    let to = SocketAddr::new(setup.forbidden(cell), OPEN);
    match cell.protocol {
        L4::Tcp => {
            let begun = Instant::now();
            let refused = setup.world.connect("guest", to).map_err(|e| e.kind());
            let took = begun.elapsed();
            ensure(
                matches!(refused, Err(ErrorKind::ConnectionRefused)) && took < Duration::from_millis(500),
                || format!("{refused:?} after {took:?}"),
            )?;
        }
        L4::Udp => {
            let error = refused_datagram(setup, cell, to)?;
            // What the stacks make of "administratively prohibited".
            let wanted = if cell.ipv6 {
                libc::EACCES
            } else {
                libc::EHOSTUNREACH
            };
            ensure(error.raw_os_error() == Some(wanted), || error.to_string())?;
        }
        L4::Icmp => {
            let reply = setup.ping(cell, to.ip(), setup.next_hop, Duration::from_millis(100));
            ensure(reply.is_none(), || "a reply".to_owned())?;
        }
    }
    let denied = counters(&setup.datapath, Direction::FromGuest).denied - before;
    ensure(denied >= 1, || "nothing was counted".to_owned())?;
    let at_peer = setup.captures[1].packets();
    ensure(at_peer.iter().all(|p| p.dest != to.ip()), || {
        "something arrived".to_owned()
    })
}

fn redirected(setup: &Setup<'_>, cell: Cell) -> Result<(), String> {
    let vip = SocketAddr::new(setup.vip(cell), PORT);
    let behind = support::site::end(&backend(vip.ip(), BACKEND));
    match cell.protocol {
        L4::Tcp => {
            let (number, stream) =
                support::site::visit(setup.world, vip).map_err(|e| format!("no greeting: {e}"))?;
            ensure(number == BACKEND, || format!("backend {number}"))?;
            exchange(stream)?;
            far_end_saw(setup, cell, behind)
        }
        L4::Udp => {
            exchange_datagrams(setup, cell, vip, &[BACKEND])?;
            far_end_saw(setup, cell, behind)
        }
        // The service's address has no host: its echo is the datapath's own.
        L4::Icmp => {
            let reply = setup.ping(cell, vip.ip(), SERVICE_MAC, Duration::from_secs(1));
            sound(reply.ok_or("no reply")?)
        }
    }
    .and_then(|()| {
        let stray = setup.captures[0]
            .packets()
            .into_iter()
            .find(|p| p.source == behind.ip());
        ensure(stray.is_none(), || {
            "the guest saw the backend's address".to_owned()
        })
    })
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

fn sound(packet: Captured) -> Result<(), String> {
    packet.wrong_sum().map_or(Ok(()), Err)
}

/// Whether data to this end arrived under its name with right sums, segmented as the cell has it.
fn far_end_saw(setup: &Setup<'_>, cell: Cell, to: SocketAddr) -> Result<(), String> {
    let packets = setup.captures[1].packets();
    let data: Vec<&Captured> = packets
        .iter()
        .filter(|p| (p.dest, p.ports.1) == (to.ip(), to.port()) && p.payload > 0)
        .collect();
    ensure(!data.is_empty(), || format!("no data for {to}"))?;
    for packet in packets.iter().filter(|p| p.source == setup.guest(cell)) {
        if let Some(wrong) = packet.wrong_sum() {
            return Err(format!("{wrong} in {:?}", packet.ports));
        }
    }
    let largest = data.iter().map(|p| p.bytes.len()).max().unwrap_or(0);
    ensure(cell.offload == (largest > MTU_FRAME), || {
        format!("the largest frame has {largest} bytes")
    })
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i / 7 + i % 251) as u8).collect()
}

/// Sends a stream there and back.
fn exchange(stream: TcpStream) -> Result<(), String> {
    let sent = pattern(STREAM);
    let timeout = Some(Duration::from_secs(5));
    stream.set_read_timeout(timeout).unwrap();
    stream.set_write_timeout(timeout).unwrap();
    let (mut reader, mut writer) = (stream.try_clone().unwrap(), stream);
    let mut got = vec![0; STREAM];
    let read = thread::scope(|scope| {
        let writing = scope.spawn(|| writer.write_all(&sent));
        let read = reader.read_exact(&mut got);
        writing.join().unwrap().and(read)
    });
    read.map_err(|e| format!("stream: {e}"))?;
    ensure(got == sent, || "the stream came back as another".to_owned())
}

/// Sends datagrams in one call, which the device is to cut apart, and waits for their echoes behind `greeting`.
fn exchange_datagrams(setup: &Setup<'_>, cell: Cell, to: SocketAddr, greeting: &[u8]) -> Result<(), String> {
    let socket = setup.world.udp("guest", setup.guest(cell), 0);
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    socket.connect(to).map_err(|e| e.to_string())?;
    let size = DATAGRAM as i32;
    // SAFETY: the option is an int, which the call only reads.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const size).cast(),
            size_of::<i32>() as u32,
        )
    };
    assert_eq!(set, 0, "UDP_SEGMENT");
    let sent = pattern(DATAGRAM * DATAGRAMS);
    socket.send(&sent).map_err(|e| format!("sending: {e}"))?;
    let mut got: Vec<Vec<u8>> = Vec::new();
    let mut buffer = vec![0; 2 * DATAGRAM];
    for _ in 0..DATAGRAMS {
        let length = socket
            .recv(&mut buffer)
            .map_err(|e| format!("{} of {DATAGRAMS} echoes: {e}", got.len()))?;
        got.push(buffer[..length].to_vec());
    }
    let wanted: Vec<Vec<u8>> = sent.chunks(DATAGRAM).map(|c| [greeting, c].concat()).collect();
    ensure(got == wanted, || "datagrams came back as others".to_owned())
}

/// Sends a datagram that is denied; gives the error that its sender gets for it.
fn refused_datagram(setup: &Setup<'_>, cell: Cell, to: SocketAddr) -> Result<std::io::Error, String> {
    let vifs = setup.datapath.attached().unwrap();
    let mut prohibited = Prohibited::open().unwrap();
    let mut events: Events = setup.datapath.events().unwrap();
    events.by_ref().for_each(drop);
    let socket = setup.world.udp("guest", setup.guest(cell), 0);
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    socket.connect(to).map_err(|e| e.to_string())?;
    socket.send(b"?").map_err(|e| e.to_string())?;
    let begun = Instant::now();
    let event = loop {
        if let Some(event) = events.by_ref().find(|e| e.flow.key.remote == to) {
            break event;
        }
        ensure(begun.elapsed() < Duration::from_secs(2), || {
            "no report".to_owned()
        })?;
        thread::sleep(Duration::from_millis(1));
    };
    prohibited.answer(&event, &vifs).map_err(|e| e.to_string())?;
    match socket.recv(&mut [0; 9]) {
        Ok(_) => Err("an answer".to_owned()),
        Err(error) => Ok(error),
    }
}

const ECHO: &[u8] = b"sixty-four bytes or so, of which no two halves are alike at all";

fn echo_request(from: IpAddr, to: IpAddr) -> Vec<u8> {
    let (kind, protocol) = if from.is_ipv4() { (8, 1) } else { (128, 58) };
    let mut message = [&[kind, 0, 0, 0, 0x12, 0x34, 0, 1], ECHO].concat();
    let sum = match from {
        IpAddr::V4(_) => frame::checksum(&[&message]),
        IpAddr::V6(_) => frame::l4_checksum(from, to, protocol, &message),
    };
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    frame::ip(from, to, protocol, (0, 0), &message)
}

/// Sends back what it gets, on each connection.
fn echo_streams(world: &World, address: IpAddr) {
    let listener = world.listen("peer", address, OPEN);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..read]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

fn echo_datagrams(world: &World, address: IpAddr) {
    let socket = world.udp("peer", address, OPEN);
    socket.set_read_timeout(None).unwrap();
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok((read, from)) = socket.recv_from(&mut buffer) {
            if socket.send_to(&buffer[..read], from).is_err() {
                return;
            }
        }
    });
}
