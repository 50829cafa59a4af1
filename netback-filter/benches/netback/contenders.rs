// SPDX-License-Identifier: GPL-3.0-only
//! What is held against what.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};

use netback_filter::{
    Action, Attach, Backend, Config, Datapath, Direction, Peer, PeerMatch, Protocol, Rule, RuleSet,
    ScopeConfig, VifConfig,
};

use super::support::site::{VIP4, backend, backend_address, end, service};
use super::support::{
    GUEST_MAC, PEER_MAC, PEER4, Path, SCOPE, VIF, VIF_MAC, World, has_tcx, no_adoption, rule, text,
};

/// Where the peer serves.
const PORT: u16 = 7000;
/// Ports of each peer that a rule is about.
const PORTS: u32 = 10;
/// Of the service, and its backends' number.
const SERVICE_PORT: u16 = super::support::site::PORT;
const BACKEND: u8 = 1;

/// A host with something between guest and peer.
pub struct Contender {
    pub name: String,
    pub world: World,
    /// Where the guest connects to.
    pub to: SocketAddr,
    /// Where the peer listens.
    pub serves: SocketAddr,
    /// Keeps what is in force.
    datapath: Option<Datapath>,
    is_direct: bool,
}

impl Contender {
    fn new(name: impl Into<String>, path: Path) -> Self {
        let world = World::new(path);
        if path != Path::Routed {
            // A bare bridge is one without hooks, whatever the kernel's default is.
            world.set_br_netfilter(false);
        }
        let end = (PEER4, PORT).into();
        Self {
            name: name.into(),
            world,
            to: end,
            serves: end,
            datapath: None,
            is_direct: false,
        }
    }

    /// Puts a chain of nftables in place.
    fn nft(self, ruleset: &str) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), ruleset).unwrap();
        self.world
            .exec("dom0", &format!("nft -f {}", file.path().display()));
        self
    }

    fn datapath(mut self, attach: Attach, rules: u32, services: &[netback_filter::Service]) -> Self {
        let config = Config {
            attach,
            rule_capacity: 4 * rules.max(1024),
            peer_capacity: 4 * (rules / PORTS).max(1024),
            ..self.world.config()
        };
        let datapath = self.world.inside("dom0", || {
            let mut datapath = Datapath::open(config).unwrap();
            datapath.set_scope(SCOPE, no_adoption()).unwrap();
            datapath.publish(&rule_set(rules), 1).unwrap();
            datapath.publish_services(services).unwrap();
            let vif = VifConfig {
                scope: SCOPE,
                mac: Some(GUEST_MAC),
            };
            datapath.attach(VIF, vif).unwrap();
            datapath
        });
        self.datapath = Some(datapath);
        self
    }

    /// The peer is a guest as well, under as many rules.
    fn both(mut self, direct: bool) -> Self {
        let datapath = self.datapath.as_mut().unwrap();
        self.world.inside("dom0", || {
            self.world.open_direct(datapath, ScopeConfig::open());
            if !direct {
                datapath.stop_direct().unwrap();
            }
        });
        self.is_direct = direct;
        self
    }

    /// Before each round.
    pub fn begin(&mut self) {
        let (world, datapath) = (&self.world, self.datapath.as_mut());
        if let Some(datapath) = datapath.filter(|_| self.is_direct) {
            world.inside("dom0", || datapath.renew_direct().unwrap());
        }
    }

    /// The guest goes to a service, the peer has its backend's address.
    fn balanced(mut self, next_hop: [u8; 6]) -> Self {
        let address = backend_address(VIP4, BACKEND);
        self.world.ip("peer", &format!("addr add {address}/24 dev eth0"));
        self.world.route_to(2, &address.to_string(), PEER_MAC);
        for known in [address, VIP4] {
            self.world.ip(
                "guest",
                &format!(
                    "neigh replace {known} lladdr {} dev eth0 nud permanent",
                    text(next_hop)
                ),
            );
        }
        self.serves = end(&backend(VIP4, BACKEND));
        self.to = (VIP4, SERVICE_PORT).into();
        self
    }
}

/// One peer of many is the real one: the last, with one rule in so many about it.
fn peer_address(index: u32, peers: u32) -> Ipv4Addr {
    match PEER4 {
        std::net::IpAddr::V4(v4) if index + 1 == peers => v4,
        _ => Ipv4Addr::from(0x0b00_0000 + index),
    }
}

pub fn rule_set(rules: u32) -> RuleSet {
    let peers = rules / PORTS;
    let to_service = rule(
        u32::MAX,
        Direction::FromGuest,
        Protocol::TCP,
        Some(SERVICE_PORT),
        Action::Allow,
    );
    let of_peers = (0..rules).map(|i| Rule {
        peer: PeerMatch::Class(1 + i / PORTS),
        ..rule(
            1 + i,
            Direction::FromGuest,
            Protocol::TCP,
            Some(PORT + (i % PORTS) as u16),
            Action::Allow,
        )
    });
    RuleSet {
        peers: (0..peers)
            .map(|i| Peer {
                address: peer_address(i, peers).into(),
                prefix_bits: 32,
                class: 1 + i,
            })
            .collect(),
        rules: of_peers.chain([to_service]).collect(),
    }
}

/// The same as elements of a map of verdicts.
fn elements(rules: u32) -> String {
    let peers = rules / PORTS;
    let mut elements = String::new();
    for i in 0..rules {
        let (address, port) = (peer_address(i / PORTS, peers), u32::from(PORT) + i % PORTS);
        write!(elements, "{address} . {port} : accept,").unwrap();
    }
    elements
}

/// One map for each way, without state: a bridge has conntrack only where the kernel was built with it.
fn nft_maps(rules: u32) -> String {
    let elements = elements(rules);
    format!(
        "table bridge bench {{\n\
         map out {{ type ipv4_addr . inet_service : verdict; elements = {{ {elements} }} }}\n\
         map back {{ type ipv4_addr . inet_service : verdict; elements = {{ {elements} }} }}\n\
         chain forward {{ type filter hook forward priority 0; policy drop;\n\
         ether type arp accept\n\
         iifname \"{VIF}\" ip daddr . tcp dport vmap @out\n\
         oifname \"{VIF}\" ip saddr . tcp sport vmap @back\n }}\n}}\n"
    )
}

/// And as rules, one after the other.
fn nft_rules(rules: u32) -> String {
    let peers = rules / PORTS;
    let mut lines = String::new();
    for i in 0..rules {
        let (address, port) = (peer_address(i / PORTS, peers), u32::from(PORT) + i % PORTS);
        writeln!(
            lines,
            "iifname \"{VIF}\" ip daddr {address} tcp dport {port} accept"
        )
        .unwrap();
        writeln!(
            lines,
            "oifname \"{VIF}\" ip saddr {address} tcp sport {port} accept"
        )
        .unwrap();
    }
    format!(
        "table bridge bench {{\nchain forward {{ type filter hook forward priority 0; policy drop;\n\
         ether type arp accept\n{lines} }}\n}}\n"
    )
}

/// On a bridge.
pub fn bridged() -> Vec<Contender> {
    let bridge = |name: &str| Contender::new(name, Path::Bridge);
    let mut list = vec![
        bridge("bare bridge"),
        bridge("clsact, 1000 rules").datapath(Attach::Clsact, 1000, &[]),
    ];
    if has_tcx() {
        list.push(bridge("TCX, 1000 rules").datapath(Attach::Tcx, 1000, &[]));
        list.push(bridge("TCX, 100000 rules").datapath(Attach::Tcx, 100_000, &[]));
    } else {
        list.push(bridge("clsact, 100000 rules").datapath(Attach::Clsact, 100_000, &[]));
    }
    // Guests of one host: both vifs judge.
    list.push(
        bridge("both vifs, by the bridge")
            .datapath(Attach::Auto, 1000, &[])
            .both(false),
    );
    list.push(
        bridge("both vifs, directly")
            .datapath(Attach::Auto, 1000, &[])
            .both(true),
    );
    list.push(bridge("nft, verdict map of 1000").nft(&nft_maps(1000)));
    list.push(bridge("nft, verdict map of 100000").nft(&nft_maps(100_000)));
    // One of the two ways each line is about, so 500 pairs are 1000 rules.
    list.push(bridge("nft, 1000 linear rules").nft(&nft_rules(500)));
    list
}

/// Where dom0 routes: nftables keeps state and translates addresses only there.
pub fn routed() -> Vec<Contender> {
    let host = |name: &str| Contender::new(name, Path::Routed);
    let served = Backend {
        mac: Some(VIF_MAC),
        ..backend(VIP4, BACKEND)
    };
    let services = [service(VIP4, Protocol::TCP, vec![served])];
    let nat = format!(
        "table ip bench {{\nchain prerouting {{ type nat hook prerouting priority -100;\n\
         ip daddr {VIP4} tcp dport {SERVICE_PORT} dnat to jhash ip saddr . tcp sport mod 1 map \
         {{ 0 : {} . {} }}\n }}\n}}\n",
        served.address, served.port
    );
    let stateful = format!(
        "table ip bench {{\n\
         map out {{ type ipv4_addr . inet_service : verdict; elements = {{ {} }}\n }}\n\
         chain forward {{ type filter hook forward priority 0; policy drop;\n\
         ct state established,related accept\n\
         iifname \"{VIF}\" ip daddr . tcp dport vmap @out\n }}\n}}\n",
        elements(1000)
    );
    vec![
        host("plain routing"),
        host("datapath, 1000 rules").datapath(Attach::Auto, 1000, &[]),
        host("nft, conntrack and verdict map of 1000").nft(&stateful),
        host("datapath, service")
            .balanced(VIF_MAC)
            .datapath(Attach::Auto, 1000, &services),
        host("nft dnat by hash").balanced(VIF_MAC).nft(&nat),
    ]
}
