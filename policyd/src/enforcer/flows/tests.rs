// SPDX-License-Identifier: GPL-3.0-only
//! From a packet that a vif holds to its verdict and its way on: real programs on a vif in a network namespace; the guest's
//! answer alone is made up. Needs root.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, bounded};
use netback_filter::{Config, Datapath, FlowKey, VifConfig};
use policy::VmId;
use policyd_store::{FlowConfig, FlowStore};
use vmi_xen::linux::{self, Socket, SocketState};
use vmi_xen::observe::Observer;

use super::*;
use crate::addresses::Strangers;
use crate::control::author;
use crate::enforcer::{Order, Policies, Request, Wish};
use crate::events::EventLog;
use crate::gate::{Fact, Gate, Told};
use crate::holding::{Counts, Holding, Limits};
use crate::lookups::Lookups;
use crate::recorder::{Notes, Recorder};
use crate::shapes::{Problems, Shapes};
use crate::vif_events::{self, Answers};

const POLICY: &str = "policy: a
default: { db1: deny }
services:
  c: { vm: web1, exe: /bin/c }
  s: { vm: db1, exe: /bin/s }
rules:
  - { name: r, from: c, to: { vm: db1 }, ports: 80, action: allow }
  - { name: w, from: { address: 192.0.2.0/24 }, to: s, ports: 53, action: allow }
  - { name: t, from: c, to: { vm: db1 }, ports: 81, action: allow, require: { time: { hours: 08:00-18:00 } } }
  - { name: u, from: c, to: { vm: db1 }, ports: 82, action: allow }
  - { name: d, from: c, to: { vm: db1 }, ports: 82, action: deny, dry_run: true }
";
/// Longer than any thread of the test waits for its turn.
const LIMITS: Limits = Limits {
    guest: 64,
    all: 1024,
    time: Duration::from_secs(2),
};
/// The time of the tests, in hours since 1970.
static HOURS: AtomicU64 = AtomicU64::new(12);

fn clock() -> u64 {
    HOURS.load(std::sync::atomic::Ordering::SeqCst) * 3_600_000_000_000
}

const WEB: u8 = 11;
const DB: u8 = 12;

fn run(words: &str) {
    let mut words = words.split_whitespace();
    let mut command = Command::new(words.next().expect("a program"));
    let output = command.args(words).output().expect("it runs");
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// A BPF file system of the test's own.
struct Bpffs(tempfile::TempDir);

impl Bpffs {
    fn mount() -> Bpffs {
        let dir = tempfile::tempdir().expect("a directory");
        run(&format!("mount -t bpf bpf {}", dir.path().display()));
        Bpffs(dir)
    }

    fn pins(&self) -> PathBuf {
        self.0.path().join("xmesh")
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

/// The daemon's threads but for `lookups`, which is the test.
struct Site {
    orders: Sender<Order>,
    facts: Sender<Told>,
    questions: Receiver<Question>,
    /// Guests to be read for their addresses.
    strangers: Receiver<u32>,
    datapath: Arc<Mutex<Datapath>>,
    holding: Arc<Holding>,
    log: Arc<EventLog>,
    history: FlowStore,
    world: Arc<ArcSwap<World>>,
}

fn mac(number: u8) -> [u8; 6] {
    [0, 0x16, 0x3e, 0, 0, number]
}

fn address(number: u8) -> [u8; 4] {
    [10, 0, 0, number]
}

/// Runs the test beside the threads, in a network namespace of its own.
fn on_a_site(test: impl FnOnce(&Site) + Send) {
    thread::scope(|scope| {
        let namespace = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("needs root");
            let bpffs = Bpffs::mount();
            let kept = tempfile::tempdir().expect("a directory");
            let config = policyd_store::Config {
                reserve: 0,
                ballast: 0,
                ..policyd_store::Config::default()
            };
            let store = policyd_store::Store::open(&kept.path().join("store"), config).expect("opens");
            let datapath = Datapath::open(Config {
                pin_dir: bpffs.pins(),
                ..Config::default()
            });
            let datapath = Arc::new(Mutex::new(datapath.expect("opens")));
            let world = World::new(Arc::new(policy::Ruleset::empty(0)), Vec::new());
            let (lookups, questions) = Lookups::new(Holding::open(LIMITS));
            let (log, holding) = (Arc::new(EventLog::new(1000)), Arc::clone(&lookups.holding));
            let (world, owners) = (Arc::new(ArcSwap::from_pointee(world)), Arc::default());
            let history = FlowStore::open(
                &kept.path().join("flows"),
                FlowConfig {
                    reserve: 0,
                    ..FlowConfig::default()
                },
            );
            let history = history.expect("opens");
            let enforcer = Enforcer::new(
                Policies::load(store).expect("loads").0.with_clock(clock),
                Arc::clone(&datapath),
                Arc::clone(&world),
                Arc::clone(&log),
                Arc::clone(&owners),
                crate::enforcer::Readers {
                    lookups,
                    measures: crate::measures::Measures::new().0,
                },
                Shapes::new(Problems::default()),
            );
            let mut enforcer = enforcer.expect("in force");
            let (notes, notes_in) = Notes::new();
            enforcer.record(notes, Arc::default());
            let recorder = Recorder::new(
                Some(history.clone()),
                Arc::default(),
                Arc::clone(&world),
                owners,
                Arc::default(),
                monotonic_ns(),
            );
            let mut threads = Some((enforcer, recorder));
            let (orders, orders_in) = bounded(100);
            let (facts, facts_in) = bounded(100);
            let (stop, events) = (AtomicBool::new(false), lock(&datapath).events().expect("mapped"));
            let (strangers, strangers_asked) = Strangers::new(Arc::clone(&world));
            let site = Site {
                strangers: strangers_asked,
                orders,
                facts,
                questions,
                datapath,
                holding,
                log,
                history,
                world,
            };
            thread::scope(|scope| {
                let (enforcer, recorder) = threads.take().expect("taken once");
                scope.spawn(move || enforcer.run(&orders_in, &facts_in));
                scope.spawn(move || recorder.run(&notes_in));
                let answers = Answers::new(Arc::clone(&site.datapath));
                scope.spawn(|| {
                    vif_events::forward(events, answers, &strangers, &site.holding, &site.orders, &stop);
                });
                let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    site.set_up();
                    test(&site);
                }));
                stop.store(true, std::sync::atomic::Ordering::SeqCst);
                let _ = site.orders.send(Order::Stop);
                outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            });
        });
        namespace
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

impl Site {
    /// Two guests without traps, and the policy.
    fn set_up(&self) {
        for (name, number) in [("web1", WEB), ("db1", DB)] {
            run(&format!(
                "ip link add vif{number}.0 type veth peer name eth{number}"
            ));
            run(&format!("ip link set vif{number}.0 up"));
            run(&format!("ip link set eth{number} up"));
            let (ready, is_ready) = bounded(1);
            let vm = VmId::new(name, [number; 16]);
            let scope = u32::from(number);
            self.order(Order::GuestUp { scope, vm, ready });
            is_ready.recv().expect("an answer");
            let vifs = vec![(Some(mac(number)), vec![address(number).into()])];
            self.order(Order::Vifs { scope, vifs });
            let config = VifConfig {
                scope,
                mac: Some(mac(number)),
            };
            let attached = lock(&self.datapath).attach(&format!("vif{number}.0"), config);
            attached.expect("attached");
        }
        self.apply(POLICY);
    }

    fn apply(&self, text: &str) {
        let request = Request {
            wish: Wish::Apply(vec![policyd_api::SourceText {
                file: "a.yaml".into(),
                text: text.into(),
            }]),
            by: author(0),
            message: None,
            if_generation: None,
            dry_run: false,
        };
        let (reply, done) = bounded(1);
        self.order(Order::Change {
            request: Box::new(request),
            reply,
        });
        done.recv().expect("an answer").expect("in force");
    }

    fn order(&self, order: Order) {
        self.orders.send(order).expect("the enforcer runs");
    }

    /// The next question, which must be about this flow.
    fn question(&self, key: &FlowKey) -> Question {
        loop {
            let question = self
                .questions
                .recv_timeout(Duration::from_secs(5))
                .expect("a question");
            // Who takes what another guest was allowed to send is of no matter here.
            if question.way.scope == key.scope {
                assert_eq!(question.way, Way::from(key));
                return question;
            }
        }
    }

    /// Answers for the guest: a process with this executable has the socket.
    fn answer(&self, question: Question, exe: Option<&str>, listens: bool) {
        let way = question.way;
        let socket = Socket {
            sk: 0xffff_8880_0000_0000 | u64::from(way.local.port()),
            protocol: linux::Protocol::Tcp,
            state: if listens {
                SocketState::Listen
            } else {
                SocketState::SynSent
            },
            ipv6: false,
            local: way.local,
            remote: (!listens).then_some(way.remote),
            netns: 0,
            backlog: None,
        };
        self.order(Order::Owner(Box::new(Answer {
            question,
            owner: exe.map(|exe| (socket, Arc::new(crate::gate::tests::running(exe)))),
            asked: true,
        })));
    }

    fn record(&self, key: &FlowKey) -> Option<FlowRecord> {
        let datapath = lock(&self.datapath);
        datapath
            .flows(None)
            .filter_map(Result::ok)
            .find(|f| f.key == *key)
    }

    /// What the history has: who opened flows, their verdict, how many there were, and refusals of them.
    fn past(&self) -> Vec<(String, policyd_api::Verdict, u64, u64)> {
        let now = crate::events::now_ns() / 1_000_000_000;
        let past = self.history.past(now - 600, now + 60, |_| true).expect("reads");
        let mut past: Vec<_> = past
            .flows
            .iter()
            .map(|(name, t)| (name.from.label(), name.verdict, t.flows, t.refused))
            .collect();
        past.sort();
        past
    }

    /// How often the log has the flow as refused, and as opened.
    fn told(&self, key: &FlowKey) -> (usize, usize) {
        let events = self.log.since(0).events;
        let count = |is: &dyn Fn(&What) -> bool| events.iter().filter(|event| is(&event.what)).count();
        (
            count(
                &|what| matches!(what, What::Refused { local, remote, .. } if (*local, *remote) == (key.local, key.remote)),
            ),
            count(
                &|what| matches!(what, What::Connect { local, remote, .. } if (*local, *remote) == (key.local, key.remote)),
            ),
        )
    }
}

fn wait_for(what: &str, mut is: impl FnMut() -> bool) {
    for _ in 0..500 {
        if is() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("{what}: not within 5 s");
}

/// A SYN out of an interface, as of the guest of this number, or to it.
pub fn send_syn(interface: &str, from: SocketAddr, to: SocketAddr, macs: [[u8; 6]; 2]) {
    let rest = [0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0];
    send(interface, 6, from, to, macs, &rest);
}

/// The same of a packet of any protocol with ports. `rest`: what its header has behind them.
fn send(interface: &str, protocol: u8, from: SocketAddr, to: SocketAddr, macs: [[u8; 6]; 2], rest: &[u8]) {
    let (SocketAddr::V4(from), SocketAddr::V4(to)) = (from, to) else {
        panic!("IPv4")
    };
    let length = u8::try_from(24 + rest.len()).expect("short");
    let mut frame = macs.concat();
    frame.extend([0x08, 0, 0x45, 0, 0, length, 0, 0, 0x40, 0, 64, protocol, 0, 0]);
    frame.extend(from.ip().octets());
    frame.extend(to.ip().octets());
    frame.extend(from.port().to_be_bytes());
    frame.extend(to.port().to_be_bytes());
    frame.extend(rest);
    // SAFETY: takes numbers only.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) };
    assert!(socket >= 0);
    // SAFETY: the kernel just gave it, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: an all-zero sockaddr_ll is a valid one.
    let mut place: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    place.sll_family = libc::AF_PACKET as u16;
    place.sll_ifindex = nix::net::if_::if_nametoindex(interface).expect("it is there") as i32;
    // SAFETY: both pointers are to memory of the sizes given, which the call only reads.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const place).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    // A packet socket is told when a program at egress drops what it sent.
    let dropped = std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOBUFS);
    assert!(sent == frame.len() as isize || dropped);
}

/// A SYN of the guest web1 to db1.
fn ask_db(port: u16) -> FlowKey {
    ask_db_at(port, 80)
}

fn ask_db_at(port: u16, service: u16) -> FlowKey {
    let (local, remote) = (
        SocketAddr::from((address(WEB), port)),
        SocketAddr::from((address(DB), service)),
    );
    send_syn("eth11", local, remote, [mac(DB), mac(WEB)]);
    FlowKey {
        scope: WEB.into(),
        protocol: netback_filter::Protocol::TCP,
        local,
        remote,
        vlan: netback_filter::Vlan::NONE,
    }
}

#[test]
fn a_packet_that_is_held_goes_on_when_its_process_is_known() {
    on_a_site(|site| {
        let key = ask_db(4000);
        let question = site.question(&key);
        assert!(question.refused.as_ref().is_some_and(is_held));
        assert!(site.record(&key).is_none(), "it is held");
        site.answer(question, Some("/bin/c"), false);
        wait_for("it goes on", || {
            site.record(&key).is_some_and(|flow| flow.packets == [1, 0])
        });
        wait_for("it is told", || site.told(&key) == (0, 1));

        // Another may not: its client is told so by the vif, at once.
        let key = ask_db(4001);
        site.answer(site.question(&key), Some("/bin/other"), false);
        let resets = || {
            let stats = lock(&site.datapath).stats().expect("read");
            stats.iter().map(|s| s.counters.resets).sum::<u64>()
        };
        wait_for("it is reset", || resets() == 1);
        wait_for("that is told, once", || site.told(&key) == (1, 1));

        // Of one that nobody has, nothing is left.
        let key = ask_db(4002);
        site.answer(site.question(&key), None, false);
        wait_for("it is told", || site.told(&key) == (1, 0));
        let counts = Counts {
            held: 3,
            released: 2,
            unowned: 1,
            ..Counts::default()
        };
        assert_eq!(site.holding.counts(), counts);
        assert_eq!(site.holding.waits().hits, 2);

        // An answer that comes too late is for the next try.
        let key = ask_db(4003);
        let question = site.question(&key);
        wait_for("its time is over", || site.holding.counts().late == 1);
        site.answer(question, Some("/bin/c"), false);
        wait_for("it is told", || site.told(&key) == (1, 1));
        assert_eq!(site.record(&key).map(|flow| flow.packets), Some([0, 0]));
        ask_db(4003);
        wait_for("the next passes", || {
            site.record(&key).is_some_and(|flow| flow.packets == [1, 0])
        });

        use policyd_api::Verdict::{Allow, Deny};
        let told = [
            // That nobody has.
            ("web1".to_owned(), Deny, 1, 1),
            ("web1:/bin/c".to_owned(), Allow, 2, 0),
            // Its first packet was refused, for the answer came too late.
            ("web1:/bin/c".to_owned(), Deny, 0, 1),
            ("web1:/bin/other".to_owned(), Deny, 1, 1),
        ];
        wait_for("the history has it", || site.past() == told);
    });
}

#[test]
fn a_guest_at_an_address_it_is_not_known_by_is_read_and_has_it_then() {
    on_a_site(|site| {
        let other = IpAddr::from([10, 0, 0, 99]);
        let asks = || {
            let remote = SocketAddr::from(([192, 0, 2, 7], 9));
            send_syn("eth11", (other, 4000).into(), remote, [mac(1), mac(WEB)]);
        };
        let asked = || site.strangers.recv_timeout(Duration::from_secs(5));
        let claims = |scope: u8, claimed: &[IpAddr]| {
            let (scope, claimed) = (scope.into(), claimed.to_vec());
            site.order(Order::Addresses {
                scope,
                claimed,
                several: false,
            });
        };
        let holder = || site.world.load().vm_at(other).map(|vm| vm.scope);
        // Where it is known by its address, nobody is asked for.
        ask_db(4000);
        asks();
        assert_eq!(asked(), Ok(WEB.into()));
        assert!(site.strangers.is_empty());
        claims(WEB, &[other]);
        wait_for("it is web1's", || holder() == Some(WEB.into()));

        // Another guest takes it over: both are asked for, for the first must have given it up.
        let remote = SocketAddr::from(([192, 0, 2, 7], 9));
        send_syn("eth12", (other, 4001).into(), remote, [mac(1), mac(DB)]);
        assert_eq!([asked(), asked()], [Ok(WEB.into()), Ok(DB.into())]);
        claims(DB, &[other]);
        claims(WEB, &[]);
        wait_for("it is db1's", || holder() == Some(DB.into()));

        // What dom0 gave is nobody else's.
        claims(WEB, &[address(DB).into(), other]);
        claims(DB, &[]);
        wait_for("it is web1's", || holder() == Some(WEB.into()));
        assert_eq!(
            site.world.load().vm_at(address(DB).into()).map(|vm| vm.scope),
            Some(DB.into())
        );
    });
}

#[test]
fn a_packet_to_a_guest_goes_on_when_the_tables_know_who_takes_it() {
    on_a_site(|site| {
        let key = FlowKey {
            scope: DB.into(),
            protocol: netback_filter::Protocol::TCP,
            local: (address(DB), 53).into(),
            remote: ([192, 0, 2, 7], 4000).into(),
            vlan: netback_filter::Vlan::NONE,
        };
        send_syn("vif12.0", key.remote, key.local, [mac(DB), mac(1)]);
        site.answer(site.question(&key), Some("/bin/s"), true);
        wait_for("it goes on", || {
            site.record(&key).is_some_and(|flow| flow.packets == [0, 1])
        });
        assert_eq!(site.holding.counts().released, 1);
        assert_eq!(site.told(&key).0, 0, "nothing was refused");
        // One that an earlier daemon left in the channel is too old, whatever is known of its flow.
        site.holding.take(netback_filter::HeldFrame {
            ns: crate::daemon::monotonic_ns() - 3_000_000_000,
            direction: Direction::ToGuest,
            ifindex: 1,
            key,
            bytes: Vec::new(),
        });
        let counts = Counts {
            held: 2,
            released: 1,
            late: 1,
            ..Counts::default()
        };
        assert_eq!(site.holding.counts(), counts);
    });
}

#[test]
fn a_flow_passes_at_the_times_of_its_rule_and_no_longer() {
    on_a_site(|site| {
        let verdict = |key: &FlowKey| site.record(key).map(|flow| flow.verdict.action);
        let at = |hours| {
            HOURS.store(hours, std::sync::atomic::Ordering::SeqCst);
            // It looks at the clock whenever it wakes.
            site.order(Order::Settled);
        };
        let key = ask_db_at(4000, 81);
        site.answer(site.question(&key), Some("/bin/c"), false);
        wait_for("it passes by day", || verdict(&key) == Some(Action::Allow));
        at(18);
        wait_for("it is denied from the evening on", || {
            matches!(verdict(&key), Some(Action::Deny(_)))
        });
        at(32);
        wait_for("it passes again in the morning", || {
            verdict(&key) == Some(Action::Allow)
        });
        at(12);
    });
}

#[test]
fn what_a_dry_run_would_deny_passes_and_is_told_and_counted() {
    on_a_site(|site| {
        for (port, so_many) in [(4000, 1), (4001, 2)] {
            let key = ask_db_at(port, 82);
            site.answer(site.question(&key), Some("/bin/c"), false);
            wait_for("it passes", || {
                site.record(&key).is_some_and(|flow| flow.packets == [1, 0])
            });
            wait_for("it is told", || {
                let told = |what: &What| match what {
                    What::DryRun {
                        local,
                        would,
                        count,
                        outgoing: true,
                        ..
                    } => {
                        *local == key.local
                            && (would.rule.as_str(), would.verdict, *count)
                                == ("a/d", policyd_api::Verdict::Deny, so_many)
                    }
                    _ => false,
                };
                site.log.since(0).events.iter().any(|event| told(&event.what))
            });
        }
    });
}

/// What web1's program `c` must be to reach db1.
const MEASURED: &str = "policy: m
lock: { \"*\": address }
programs:
  c: { exe: /bin/c, text: { page: 1, sha256: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= } }
rules:
  - { name: m, from: { vm: web1 }, to: { vm: db1 }, ports: 83, action: allow, require: { authentication: { from: measured } } }
";

impl Site {
    /// A process of web1 opens a connection to db1's port 83, which a trap tells.
    fn connects(&self, gate: &mut Gate, who: &Arc<Subject>, port: u16) -> FlowKey {
        let socket = connecting((address(WEB), port).into(), (address(DB), 83).into());
        gate.connecting(who, &socket, None);
        ask_db_at(port, 83)
    }

    fn gate(&self) -> Gate {
        let flows = lock(&self.datapath).flow_writer();
        Gate::new(
            WEB.into(),
            Arc::clone(&self.world),
            flows,
            self.facts.clone(),
            Arc::default(),
        )
    }

    /// What the thread that looks at processes finds.
    fn found(&self, who: &Arc<Subject>, measured: policy::Measured) {
        let rules = Arc::clone(&self.world.load().rules);
        let vm = VmId {
            name: "web1".into(),
            uuid: [WEB; 16],
            facts: Arc::default(),
        };
        let exe = Arc::clone(who.process.exe.as_ref().expect("a path"));
        let among: Vec<_> = rules
            .programs_for(&vm, &exe)
            .map(|(_, program)| Arc::clone(&program.text))
            .collect();
        let is = among
            .first()
            .filter(|_| measured == policy::Measured::Same)
            .cloned();
        self.order(Order::Measured(Box::new(crate::measures::Report {
            scope: WEB.into(),
            who: Arc::clone(who),
            found: Some(crate::measures::Found {
                exe,
                measured,
                among,
                is,
            }),
            news: None,
        })));
    }

    fn verdict(&self, key: &FlowKey) -> Option<Action> {
        self.record(key).map(|flow| flow.verdict.action)
    }

    fn resets(&self) -> u64 {
        let stats = lock(&self.datapath).stats().expect("read");
        stats.iter().map(|s| s.counters.resets).sum()
    }
}

/// A TCP socket that is about to connect.
fn connecting(local: SocketAddr, remote: SocketAddr) -> Socket {
    Socket {
        sk: 0xffff_8880_0000_0000 | u64::from(local.port()),
        protocol: linux::Protocol::Tcp,
        state: SocketState::SynSent,
        ipv6: false,
        local,
        remote: Some(remote),
        netns: 0,
        backlog: None,
    }
}

#[test]
fn a_connection_that_its_guest_translates_is_that_of_who_opened_it() {
    on_a_site(|site| {
        // Traps tell of its connections: what they did not tell of is denied at once, unless they may have under other addresses.
        let scope = WEB.into();
        site.order(Order::Trapped {
            scope,
            trapped: true,
            opaque: false,
            counts: true,
        });
        wait_for("it is in force", || {
            site.world.load().vm(scope).is_some_and(|vm| vm.trapped)
        });
        // The tables follow the World at once.
        thread::sleep(Duration::from_millis(200));
        let early = ask_db(5999);
        let question = site.question(&early);
        assert!(question.refused.is_some() && !question.refused.as_ref().is_some_and(is_held));
        site.answer(question, None, false);
        wait_for("it is refused", || site.told(&early) == (1, 0));
        assert_eq!(site.holding.counts().held, 0);
        site.order(Order::Addresses {
            scope,
            claimed: vec![[172, 17, 0, 2].into()],
            several: true,
        });
        wait_for("it is in force", || {
            site.world.load().vm(scope).is_some_and(|vm| vm.translates)
        });
        thread::sleep(Duration::from_millis(200));
        let mut gate = site.gate();
        let inside = SocketAddr::from(([172, 17, 0, 2], 5000));
        let mut opens = |exe: &str, port: u16, sequence: u32| {
            let who = Arc::new(crate::gate::tests::running(exe));
            let socket = connecting(inside, (address(DB), port).into());
            gate.connecting(&who, &socket, Some(sequence));
        };
        // Every SYN of these tests has the sequence number 1.
        opens("/bin/c", 80, 1);
        let key = ask_db(6000);
        wait_for("it passes", || {
            site.record(&key).is_some_and(|flow| flow.packets == [1, 0])
        });
        wait_for("it is told", || site.told(&key) == (0, 1));
        let asked = site.questions.try_iter();
        assert!(
            asked.into_iter().all(|asked| asked.way.scope == u32::from(DB)),
            "web1 is not"
        );
        let inner = FlowKey { local: inside, ..key };
        assert_eq!(site.told(&inner), (0, 1), "as its socket has it, too");
        assert!(site.record(&inner).is_none(), "no packet will meet that verdict");
        let as_seen_by_db = Way::from(&inner).seen_by(DB.into()).key();
        assert!(site.record(&as_seen_by_db).is_none());

        opens("/bin/other", 80, 1);
        let denied = ask_db(6001);
        wait_for("it is reset", || site.resets() == 1);
        wait_for("that is told", || site.told(&denied) == (1, 1));

        // A rule in dry run would have denied this one, and counts it once.
        opens("/bin/c", 82, 1);
        let dry = ask_db_at(6003, 82);
        wait_for("it passes", || {
            site.record(&dry).is_some_and(|flow| flow.packets == [1, 0])
        });
        wait_for("it is told", || site.told(&dry) == (0, 1));
        let events = site.log.since(0).events;
        let dry_runs = events
            .iter()
            .filter(|event| matches!(event.what, What::DryRun { .. }));
        assert_eq!(dry_runs.count(), 1);

        // Another connection than the one that was told of is asked about, even if its SYN looks like that one's.
        opens("/bin/c", 80, 2);
        site.answer(site.question(&ask_db(6002)), None, false);

        use policyd_api::Verdict::{Allow, Deny};
        let told = [
            // What nobody was found for.
            ("web1".to_owned(), Deny, 2, 2),
            // The last was told of and not seen: it has the address of its socket.
            ("web1:/bin/c".to_owned(), Allow, 1, 0),
            ("web1:/bin/c".to_owned(), Allow, 1, 0),
            ("web1:/bin/c".to_owned(), Allow, 1, 0),
            ("web1:/bin/other".to_owned(), Deny, 1, 1),
        ];
        wait_for("each is counted once", || site.past() == told);
    });
}

#[test]
fn a_packet_waits_until_its_program_is_measured_and_its_flow_ends_when_that_changes() {
    use policy::Measured;
    on_a_site(|site| {
        site.apply(MEASURED);
        let mut gate = site.gate();
        let who = Arc::new(crate::gate::tests::running("/bin/c"));
        let key = site.connects(&mut gate, &who, 4100);
        assert_eq!(site.verdict(&key), Some(HELD));
        wait_for("it is held", || site.holding.counts().held == 1);
        assert_eq!(site.told(&key), (0, 0), "nothing is told of it yet");
        site.found(&who, Measured::Same);
        wait_for("it goes on", || site.holding.counts().released == 1);
        wait_for("it passes", || site.verdict(&key) == Some(Action::Allow));
        wait_for("it is told, once", || site.told(&key) == (0, 1));

        // It is known now: the next does not wait.
        let second = site.connects(&mut gate, &who, 4101);
        assert_eq!(site.verdict(&second), Some(Action::Allow));
        assert_eq!(site.holding.counts().held, 1);

        // Another process of the same program is another, and this one is not what it says.
        let mut liar = crate::gate::tests::running("/bin/c");
        liar.process.mm += 1;
        let liar = Arc::new(liar);
        let third = site.connects(&mut gate, &liar, 4102);
        wait_for("it is held", || site.holding.counts().held == 2);
        site.found(&liar, Measured::Changed);
        wait_for("it is refused", || site.resets() == 1);
        assert_eq!(
            site.verdict(&third),
            Some(Action::Deny(netback_filter::Refuse::Reset))
        );
        wait_for("that is told", || site.told(&third) == (1, 1));

        // Somebody changes the first: what it has open ends.
        site.found(&who, Measured::Changed);
        let reset = Action::Deny(netback_filter::Refuse::Reset);
        for key in [&key, &second] {
            wait_for("it ends", || site.verdict(key) == Some(reset));
        }
        // And it opens nothing more, without waiting.
        let last = site.connects(&mut gate, &who, 4103);
        wait_for("it is refused", || site.resets() == 2);
        assert_eq!(site.verdict(&last), Some(reset));
        assert_eq!(site.holding.counts().held, 2);
    });
}

#[test]
fn what_a_change_of_policy_leaves_unknown_is_dropped_until_it_is_known() {
    use policy::Measured;
    on_a_site(|site| {
        site.apply(MEASURED);
        let mut gate = site.gate();
        let who = Arc::new(crate::gate::tests::running("/bin/c"));
        let key = site.connects(&mut gate, &who, 4200);
        site.found(&who, Measured::Same);
        wait_for("it passes", || site.verdict(&key) == Some(Action::Allow));
        // The same text under another name changes nothing.
        site.apply(&MEASURED.replace("  c: {", "  other: {"));
        assert_eq!(site.verdict(&key), Some(Action::Allow));
        let other = MEASURED.replace("sha256: A", "sha256: B");
        site.apply(&other);
        let dropped = Action::Deny(netback_filter::Refuse::Drop);
        assert_eq!(site.verdict(&key), Some(dropped), "in force with the change");
        // It runs that one, as it turns out.
        site.found(&who, Measured::Same);
        wait_for("it passes again", || site.verdict(&key) == Some(Action::Allow));
        site.apply(MEASURED);
        site.found(&who, Measured::Changed);
        wait_for("it ends", || {
            site.verdict(&key) == Some(Action::Deny(netback_filter::Refuse::Reset))
        });
    });
}

/// Who sends a few datagrams and goes is gone before flows are looked at again.
#[test]
fn what_a_socket_carried_that_is_closed_at_once_is_counted() {
    on_a_site(|site| {
        let (local, remote) = (
            SocketAddr::from((address(WEB), 4000)),
            SocketAddr::from(([192, 0, 2, 9], 53)),
        );
        let key = FlowKey {
            scope: WEB.into(),
            protocol: netback_filter::Protocol::UDP,
            local,
            remote,
            vlan: netback_filter::Vlan::NONE,
        };
        let told = |number: u64, fact: Fact| {
            let scope = WEB.into();
            site.facts
                .send(Told { scope, number, fact })
                .expect("the enforcer runs");
        };
        let socket = Socket {
            sk: 0xffff_8880_0000_4000,
            protocol: linux::Protocol::Udp,
            state: SocketState::Close,
            ipv6: false,
            local,
            remote: None,
            netns: 0,
            backlog: None,
        };
        let who = Arc::new(crate::gate::tests::running("/bin/c"));
        let sk = socket.sk;
        told(1, Fact::Serving { who, socket });
        wait_for("its port is known", || {
            let events = site.log.since(0).events;
            events.iter().any(|event| matches!(event.what, What::Bind { .. }))
        });
        for _ in 0..3 {
            // Length and checksum, which nobody looks at, and 12 bytes.
            let mut rest = vec![0, 20, 0, 0];
            rest.extend([7; 12]);
            send("eth11", 17, local, remote, [mac(1), mac(WEB)], &rest);
        }
        let owned = ("web1:/bin/c".to_owned(), policyd_api::Verdict::Allow, 1, 0);
        wait_for("its process is known", || site.past().contains(&owned));
        wait_for("it is counted", || {
            site.record(&key).is_some_and(|flow| flow.packets == [3, 0])
        });
        told(2, Fact::Closing { sk });
        let sent = || {
            let now = crate::events::now_ns() / 1_000_000_000;
            let past = site.history.past(now - 600, now + 60, |_| true).expect("reads");
            past.flows
                .iter()
                .map(|(_, totals)| (totals.packets_out, totals.bytes_out))
                .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
        };
        wait_for("the history has what it sent", || sent() == (3, 3 * (14 + 40)));
        assert!(site.record(&key).is_none());
        assert_eq!(site.past(), [owned]);
    });
}
