// SPDX-License-Identifier: GPL-3.0-only
//! Network namespaces as a host with a guest and a peer:
//!
//! ```text
//!   guest ns            dom0 ns                       peer ns
//!   eth0 ─────── vif1.0 ── br0 ── vif2.0 ─────────── eth0
//!   10.77.0.1    (the vif under test)                10.77.0.2
//!   fd77::1                                          fd77::2
//! ```
//!
//! veth pairs stand for vifs. Everything has a name of its own per world and goes when the world is dropped.

// Every test program builds this module for itself and uses a part of it.
#![allow(dead_code)]

pub mod capture;
pub mod frame;
pub mod run;
pub mod site;
pub mod traffic;
pub mod wire;

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use aya::programs::{SchedClassifier, TcAttachType};
use netback_filter::{
    Action, AdoptEstablished, Attach, Config, Counters, Datapath, Direction, FlowKey, PeerMatch, Protocol,
    Refuse, Rule, RuleSet, ScopeConfig, Verdict, VifConfig,
};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};

pub const GUEST_MAC: [u8; 6] = [0x00, 0x16, 0x3e, 0, 0, 1];
pub const PEER_MAC: [u8; 6] = [0x00, 0x16, 0x3e, 0, 0, 2];
pub const GUEST4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));
pub const PEER4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2));
pub const GUEST6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1));
pub const PEER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2));
/// Guest and peer, by family.
pub const FAMILIES: [(IpAddr, IpAddr); 2] = [(GUEST4, PEER4), (GUEST6, PEER6)];
pub const VIF: &str = "vif1.0";
pub const SCOPE: u32 = 7;
/// Where the peer is a guest, too.
pub const PEER_VIF: &str = "vif2.0";
pub const PEER_SCOPE: u32 = 8;
pub const RESET: Action = Action::Deny(Refuse::Reset);
pub const DROP: Action = Action::Deny(Refuse::Drop);

/// Of the vifs of a dom0 that routes.
pub const VIF_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xfe];

fn mac_of(number: u8) -> [u8; 6] {
    if number == 1 { GUEST_MAC } else { PEER_MAC }
}

/// As commands take it.
pub fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

static WORLDS: AtomicU32 = AtomicU32::new(0);

pub struct World {
    name: String,
    bpffs: tempfile::TempDir,
}

/// How dom0 connects its vifs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    Bridge,
    /// The same, of which frames may go past the bridge: see [`World::open_direct`].
    Direct,
    /// No bridge: dom0 routes between the vifs, and is the next hop of both ends.
    Routed,
}

impl World {
    /// Builds a world and runs `test` in the namespace that stands for dom0.
    pub fn run(test: impl FnOnce(&World) + Send) {
        World::run_on(Path::Bridge, test);
    }

    pub fn run_on(path: Path, test: impl FnOnce(&World) + Send) {
        let world = World::new(path);
        world.inside("dom0", || test(&world));
    }

    /// As [`World::run_on`], for who needs several at once.
    pub fn new(path: Path) -> World {
        let name = format!(
            "nbf{}x{}",
            std::process::id(),
            WORLDS.fetch_add(1, Ordering::Relaxed)
        );
        let bpffs = tempfile::tempdir().unwrap();
        run(&["mount", "-t", "bpf", "bpf", bpffs.path().to_str().unwrap()]);
        let world = World { name, bpffs };
        for part in ["dom0", "guest", "peer"] {
            run(&["ip", "netns", "add", &world.ns(part)]);
        }
        match path {
            Path::Bridge | Path::Direct => {
                world.ip("dom0", "link add br0 type bridge mcast_snooping 0");
                world.ip("dom0", "link set br0 up");
            }
            // These files are those of the namespace of who opens them.
            Path::Routed => world.inside("dom0", || {
                for knob in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                    std::fs::write(format!("/proc/sys/net/{knob}"), "1").unwrap();
                }
            }),
        }
        for (number, part, mac) in [(1, "guest", GUEST_MAC), (2, "peer", PEER_MAC)] {
            let mac = text(mac);
            let ns = world.ns(part);
            world.ip(
                "dom0",
                &format!("link add vif{number}.0 type veth peer name eth0 address {mac} netns {ns}"),
            );
            match path {
                Path::Bridge | Path::Direct => {
                    world.ip("dom0", &format!("link set vif{number}.0 master br0 up"))
                }
                Path::Routed => world.ip(
                    "dom0",
                    &format!("link set vif{number}.0 address {} up", text(VIF_MAC)),
                ),
            };
            world.ip(part, &format!("addr add 10.77.0.{number}/24 dev eth0"));
            world.ip(part, &format!("addr add fd77::{number}/64 dev eth0 nodad"));
            world.ip(part, "link set lo up");
            world.ip(part, "link set eth0 up");
            if path == Path::Routed {
                for address in [format!("10.77.0.{number}"), format!("fd77::{number}")] {
                    world.route_to(number, &address, mac_of(number));
                }
            }
        }
        if path == Path::Direct {
            world.set_br_netfilter(false);
        }
        // The first packets of a test are its own: neighbours are known.
        for (from, number) in [("guest", 2), ("peer", 1)] {
            let mac = text(match path {
                Path::Bridge | Path::Direct => mac_of(number),
                Path::Routed => VIF_MAC,
            });
            for address in [format!("10.77.0.{number}"), format!("fd77::{number}")] {
                world.ip(
                    from,
                    &format!("neigh replace {address} lladdr {mac} dev eth0 nud permanent"),
                );
            }
        }
        world
    }

    /// Whether bridged packets go through iptables, where the kernel can do that: it may be its default.
    pub fn set_br_netfilter(&self, on: bool) {
        // These files, too, are those of the namespace of who opens them.
        self.inside("dom0", || {
            for family in ["iptables", "ip6tables"] {
                let knob = format!("/proc/sys/net/bridge/bridge-nf-call-{family}");
                if std::path::Path::new(&knob).exists() {
                    std::fs::write(knob, if on { "1" } else { "0" }).unwrap();
                }
            }
        });
    }

    /// Puts the peer's vif under the datapath as well, shows the bridge who is where, and has frames go past it.
    pub fn open_direct(&self, datapath: &mut Datapath, scope: ScopeConfig) {
        datapath.set_scope(PEER_SCOPE, scope).unwrap();
        let vif = VifConfig {
            scope: PEER_SCOPE,
            mac: Some(PEER_MAC),
        };
        datapath.attach(PEER_VIF, vif).unwrap();
        self.meet();
        datapath.renew_direct().unwrap();
    }

    /// Both ends show themselves to the bridge.
    pub fn meet(&self) {
        for (part, mac) in [("guest", GUEST_MAC), ("peer", PEER_MAC)] {
            // Whom it asks for is nobody's concern.
            let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &mac, &[0; 14]].concat();
            wire::Wire::open(self, part).send(&frame::ethernet(mac, [0xff; 6], 0x0806, &arp));
        }
        let known = || {
            let all = self.exec("dom0", "bridge fdb show br br0");
            let is_learned = |mac| {
                all.lines()
                    .any(|l| l.starts_with(&text(mac)) && !l.contains("permanent"))
            };
            is_learned(GUEST_MAC) && is_learned(PEER_MAC)
        };
        let begun = std::time::Instant::now();
        while !known() {
            assert!(
                begun.elapsed() < Duration::from_secs(2),
                "the bridge does not learn"
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What dom0 has to know of an address behind a vif when it routes.
    pub fn route_to(&self, number: u8, address: &str, mac: [u8; 6]) {
        let mac = text(mac);
        self.ip("dom0", &format!("route add {address} dev vif{number}.0"));
        self.ip(
            "dom0",
            &format!("neigh replace {address} lladdr {mac} dev vif{number}.0 nud permanent"),
        );
    }

    /// Another namespace, which has the same end as the others; its name to the system.
    pub fn add(&self, part: &str) -> String {
        run(&["ip", "netns", "add", &self.ns(part)]);
        self.ns(part)
    }

    /// The namespace's name.
    pub fn ns(&self, part: &str) -> String {
        format!("{}-{part}", self.name)
    }

    /// Runs `ip` in a namespace; panics when it fails.
    pub fn ip(&self, part: &str, args: &str) -> String {
        let ns = self.ns(part);
        let words: Vec<&str> = ["ip", "-n", &ns]
            .into_iter()
            .chain(args.split_whitespace())
            .collect();
        run(&words)
    }

    /// Runs a command in a namespace; panics when it fails.
    pub fn exec(&self, part: &str, args: &str) -> String {
        let ns = self.ns(part);
        let words: Vec<&str> = ["ip", "netns", "exec", &ns]
            .into_iter()
            .chain(args.split_whitespace())
            .collect();
        run(&words)
    }

    /// A command to be run in a namespace.
    pub fn command(&self, part: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.ns(part), program]);
        command
    }

    fn enter(&self, part: &str) {
        let file = File::open(format!("/run/netns/{}", self.ns(part))).unwrap();
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
    }

    /// Runs `f` in a namespace, on a thread of its own. Sockets stay in the namespace they were made in.
    pub fn inside<T: Send>(&self, part: &str, f: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter(part);
                f()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub fn pin_dir(&self) -> PathBuf {
        self.bpffs.path().join("xmesh")
    }

    pub fn config(&self) -> Config {
        Config {
            pin_dir: self.pin_dir(),
            flow_capacity: 4096,
            verdict_capacity: 4096,
            peer_capacity: 1024,
            rule_capacity: 4096,
            // What is there on every kernel; who tests the others says so.
            attach: Attach::Clsact,
            ..Config::default()
        }
    }

    /// The programs that are pinned, by the names of their pins.
    pub fn pinned_programs(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.pin_dir()).unwrap();
        let mut programs: Vec<String> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("program-"))
            .collect();
        programs.sort();
        programs
    }

    /// The next to open the datapath loads programs of its own, as one of another build would.
    pub fn unpin_programs(&self) {
        for name in self.pinned_programs() {
            std::fs::remove_file(self.pin_dir().join(name)).unwrap();
        }
    }

    pub fn open(&self) -> Datapath {
        Datapath::open(self.config()).unwrap()
    }

    /// A datapath with the guest's vif under `scope` and `rules`, which are generation 1.
    pub fn attach(&self, scope: ScopeConfig, rules: Vec<Rule>) -> Datapath {
        let mut datapath = self.open();
        datapath.set_scope(SCOPE, scope).unwrap();
        datapath.publish(&RuleSet { peers: vec![], rules }, 1).unwrap();
        datapath
            .attach(
                VIF,
                VifConfig {
                    scope: SCOPE,
                    mac: Some(GUEST_MAC),
                },
            )
            .unwrap();
        datapath
    }

    pub fn listen(&self, part: &str, address: IpAddr, port: u16) -> TcpListener {
        self.inside(part, || TcpListener::bind((address, port)).unwrap())
    }

    pub fn udp(&self, part: &str, address: IpAddr, port: u16) -> UdpSocket {
        let socket = self.inside(part, || UdpSocket::bind((address, port)).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        socket
    }

    /// Connects within two seconds.
    pub fn connect(&self, part: &str, to: SocketAddr) -> io::Result<TcpStream> {
        self.inside(part, || TcpStream::connect_timeout(&to, Duration::from_secs(2)))
    }

    /// Connects from a chosen port, within two seconds.
    pub fn connect_from(&self, part: &str, from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
        self.inside(part, || {
            let family = if from.is_ipv4() {
                AddressFamily::Inet
            } else {
                AddressFamily::Inet6
            };
            let fd = socket(family, SockType::Stream, SockFlag::empty(), None)?;
            setsockopt(&fd, sockopt::ReuseAddr, &true)?;
            // SO_SNDTIMEO bounds a connect, too.
            setsockopt(&fd, sockopt::SendTimeout, &nix::sys::time::TimeVal::new(2, 0))?;
            bind(fd.as_raw_fd(), &SockaddrStorage::from(from))?;
            connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
            // SAFETY: the descriptor is a TCP socket that nobody else owns.
            Ok(unsafe { TcpStream::from_raw_fd(fd.into_raw_fd()) })
        })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for ns in ["dom0", "guest", "peer", "watcher"].map(|part| self.ns(part)) {
            if std::path::Path::new("/run/netns").join(&ns).exists() {
                let _ = Command::new("ip").args(["netns", "del", &ns]).status();
            }
        }
        let _ = Command::new("umount").arg(self.bpffs.path()).status();
    }
}

fn run(words: &[&str]) -> String {
    let output = Command::new(words[0]).args(&words[1..]).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error} (is it installed?)", words[0]));
    assert!(
        output.status.success(),
        "{}: {} (these tests need root)",
        words.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether this kernel has TCX hooks; says so when it has not, for a test that leaves something out.
pub fn has_tcx() -> bool {
    let has = SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok();
    if !has {
        println!("not tried: this kernel has no TCX hooks");
    }
    has
}

/// Tells a loop on another thread to end when it is dropped: also when the test fails meanwhile.
#[derive(Default)]
pub struct Stop(AtomicBool);

impl Stop {
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub fn on_drop(&self) -> impl Drop + '_ {
        struct Guard<'a>(&'a Stop);
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                self.0.0.store(true, Ordering::Relaxed);
            }
        }
        Guard(self)
    }
}

/// A rule of the test's scope for any peer.
pub fn rule(id: u32, direction: Direction, protocol: Protocol, port: Option<u16>, action: Action) -> Rule {
    Rule {
        id,
        scope: SCOPE,
        direction,
        peer: PeerMatch::Any,
        protocol: Some(protocol),
        port,
        action,
        mark: netback_filter::Mark::NONE,
    }
}

/// The guest may connect to a TCP port of anybody.
pub fn allow_tcp(id: u32, port: u16) -> Rule {
    rule(id, Direction::FromGuest, Protocol::TCP, Some(port), Action::Allow)
}

pub fn tcp_key(local: SocketAddr, remote: SocketAddr) -> FlowKey {
    FlowKey {
        scope: SCOPE,
        protocol: Protocol::TCP,
        local,
        remote,
        vlan: netback_filter::Vlan::NONE,
    }
}

pub fn verdict(action: Action, rule: u32) -> Verdict {
    Verdict {
        action,
        origin: Direction::FromGuest,
        rule,
        generation: 1,
        mark: netback_filter::Mark::NONE,
    }
}

/// The scope's counters in one direction.
pub fn counters(datapath: &Datapath, direction: Direction) -> Counters {
    counters_of(datapath, SCOPE, direction)
}

pub fn counters_of(datapath: &Datapath, scope: u32, direction: Direction) -> Counters {
    datapath
        .stats()
        .unwrap()
        .into_iter()
        .find(|s| (s.scope, s.direction) == (scope, direction))
        .unwrap()
        .counters
}

/// Everything denied by default, from the first packet on.
pub fn no_adoption() -> ScopeConfig {
    ScopeConfig {
        adopt_established: AdoptEstablished::No,
        ..ScopeConfig::closed()
    }
}

/// As net/ipv4/icmp.c and net/ipv6/icmp.c turn "administratively prohibited" into errors.
pub fn prohibited(address: IpAddr) -> Option<i32> {
    Some(if address.is_ipv4() {
        libc::EHOSTUNREACH
    } else {
        libc::EACCES
    })
}
