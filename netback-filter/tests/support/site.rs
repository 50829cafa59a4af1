// SPDX-License-Identifier: GPL-3.0-only
//! Services for tests: addresses that nobody has, in front of backends that the peer plays.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use netback_filter::{
    Action, Backend, BackendState, Datapath, Direction, FlowRecord, Protocol, Refuse, Rule, ScopeConfig,
    Service,
};

use super::{GUEST_MAC, PEER_MAC, World, no_adoption, rule};

pub const VIP4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 100));
pub const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100));
/// Guest, peer and service, by family.
pub const SITES: [(IpAddr, IpAddr, IpAddr); 2] = [
    (super::GUEST4, super::PEER4, VIP4),
    (super::GUEST6, super::PEER6, VIP6),
];
pub const SERVICE_MAC: [u8; 6] = [0x02, 0x78, 0x6d, 0x65, 0x73, 0x68];
pub const PORT: u16 = 80;

/// The backend of this number: an address that the peer has beside its own.
pub fn backend_address(of: IpAddr, number: u8) -> IpAddr {
    match of {
        IpAddr::V4(_) => Ipv4Addr::new(10, 77, 0, 10 + number).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x10 + u16::from(number)).into(),
    }
}

pub fn backend(of: IpAddr, number: u8) -> Backend {
    Backend {
        address: backend_address(of, number),
        port: 8000 + u16::from(number),
        mac: Some(PEER_MAC),
        weight: 1,
        state: BackendState::Serving,
    }
}

pub fn end(backend: &Backend) -> SocketAddr {
    SocketAddr::new(backend.address, backend.port)
}

pub fn service(vip: IpAddr, protocol: Protocol, backends: Vec<Backend>) -> Service {
    Service {
        address: vip,
        port: PORT,
        protocol,
        backends,
        affinity: false,
        refuse: Refuse::Reset,
    }
}

/// The same backends for TCP and UDP, IPv4 and IPv6.
pub fn everywhere(numbers: &[u8]) -> Vec<Service> {
    SITES
        .iter()
        .flat_map(|(_, _, vip)| {
            let backends: Vec<Backend> = numbers.iter().map(|n| backend(*vip, *n)).collect();
            [Protocol::TCP, Protocol::UDP].map(|protocol| service(*vip, protocol, backends.clone()))
        })
        .collect()
}

/// What a guest may do that is to use services, and nothing else.
pub fn to_services() -> Vec<Rule> {
    [Protocol::TCP, Protocol::UDP]
        .into_iter()
        .zip(1..)
        .map(|(protocol, id)| rule(id, Direction::FromGuest, protocol, Some(PORT), Action::Allow))
        .collect()
}

/// A world whose peer has the addresses of four backends, with services in front of those of `numbers`.
pub fn open(world: &World, numbers: &[u8]) -> Datapath {
    open_with(world, no_adoption(), to_services(), numbers)
}

pub fn open_with(world: &World, scope: ScopeConfig, rules: Vec<Rule>, numbers: &[u8]) -> Datapath {
    for number in 0..4 {
        for (of, bits, flags) in [(VIP4, 24, ""), (VIP6, 64, "nodad")] {
            let address = backend_address(of, number);
            world.ip("peer", &format!("addr add {address}/{bits} dev eth0 {flags}"));
            let mac = PEER_MAC.map(|byte| format!("{byte:02x}")).join(":");
            world.ip(
                "guest",
                &format!("neigh replace {address} lladdr {mac} dev eth0 nud permanent"),
            );
        }
    }
    let mut datapath = world.attach(scope, rules);
    datapath.publish_services(&everywhere(numbers)).unwrap();
    datapath
}

/// A server on every backend that tells each client the backend's number, and then sends back what it gets.
pub fn serve(world: &World, of: IpAddr) {
    for number in 0..4 {
        let backend = backend(of, number);
        let listener = world.listen("peer", backend.address, backend.port);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                thread::spawn(move || {
                    if stream.write_all(&[number]).is_ok() {
                        let mut buffer = vec![0; 1 << 16];
                        while let Ok(read @ 1..) = stream.read(&mut buffer) {
                            if stream.write_all(&buffer[..read]).is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        });
    }
}

/// A datagram server on every backend that answers with the backend's number and what it got.
pub fn serve_datagrams(world: &World, of: IpAddr) {
    for number in 0..4 {
        let backend = backend(of, number);
        let socket = world.udp("peer", backend.address, backend.port);
        socket.set_read_timeout(None).unwrap();
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok((read, from)) = socket.recv_from(&mut buffer) {
                let answer = [&[number], &buffer[..read]].concat();
                if socket.send_to(&answer, from).is_err() {
                    return;
                }
            }
        });
    }
}

/// Connects and reads which backend it is.
pub fn visit(world: &World, to: SocketAddr) -> std::io::Result<(u8, TcpStream)> {
    greeted(world.connect("guest", to)?)
}

pub fn visit_from(world: &World, from: SocketAddr, to: SocketAddr) -> std::io::Result<(u8, TcpStream)> {
    greeted(world.connect_from("guest", from, to)?)
}

fn greeted(mut stream: TcpStream) -> std::io::Result<(u8, TcpStream)> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut number = [0];
    stream.read_exact(&mut number)?;
    Ok((number[0], stream))
}

/// Sends bytes there and back.
pub fn echoes(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"hello")?;
    let mut buffer = [0; 5];
    stream.read_exact(&mut buffer)?;
    assert_eq!(&buffer, b"hello");
    Ok(())
}

/// The record of the guest's flow from this port.
pub fn record(datapath: &Datapath, port: u16) -> FlowRecord {
    let mut flows = datapath.flows(None).map(Result::unwrap);
    flows.find(|flow| flow.key.local.port() == port).expect("a flow")
}

/// A frame from the guest to the MAC address of services.
pub fn to_service(source: IpAddr, packet: &[u8]) -> Vec<u8> {
    super::frame::ethernet(GUEST_MAC, SERVICE_MAC, super::frame::ethertype_of(source), packet)
}
