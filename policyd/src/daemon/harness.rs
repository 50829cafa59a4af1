// SPDX-License-Identifier: GPL-3.0-only
//! A daemon on a host without Xen: the store, the enforcer, the datapath on the vifs of two guests in a network namespace, the
//! history of flows. What is missing is sight into guests. Needs root.

use std::path::PathBuf;
use std::process::Command;
use std::thread::JoinHandle;

use netback_filter::VifConfig;
use policy::VmId;
use policyd_api::{Mode, Vif};

use super::*;
use crate::enforcer::send_syn;
use crate::events::now_ns;
use crate::signals::Signals;

/// The guests, by name and id.
pub const GUESTS: [(&str, u8); 2] = [("web1", 11), ("db1", 12)];

/// The daemon, until this is dropped.
pub struct Harness {
    /// As the API has it.
    pub daemon: Arc<Daemon>,
    /// Ends what waits for [`Daemon::stopping`].
    pub stop: watch::Sender<bool>,
    /// Where its files are.
    pub dir: tempfile::TempDir,
    end: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Harness {
    /// Starts it.
    pub fn start() -> Harness {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().to_owned();
        let (ready, is_ready) = bounded(1);
        let (end, ended) = bounded(1);
        let (stop, stopping) = watch::channel(false);
        // The threads that it starts are in its network namespace, too.
        let thread = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("needs root");
            let bpffs = path.join("bpf");
            std::fs::create_dir(&bpffs).expect("made");
            run(&format!("mount -t bpf bpf {}", bpffs.display()));
            let (daemon, threads) = site(&path, &bpffs.join("xmesh"), stopping);
            let orders = daemon.orders.clone();
            ready.send(Arc::new(daemon)).expect("is waited for");
            let _ = ended.recv();
            let _ = orders.send(Order::Stop);
            for thread in threads {
                let _ = thread.join();
            }
            run(&format!("umount {}", bpffs.display()));
        });
        let daemon = is_ready.recv().expect("it has started");
        Harness {
            daemon,
            stop,
            dir,
            end,
            thread: Some(thread),
        }
    }

    /// A path in its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        let _ = self.end.send(());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(words: &str) {
    let mut words = words.split_whitespace();
    let mut command = Command::new(words.next().expect("a program"));
    let output = command.args(words).output().expect("it runs");
    assert!(output.status.success(), "{command:?}: {output:?}");
}

fn site(path: &Path, pins: &Path, stopping: watch::Receiver<bool>) -> (Daemon, Vec<JoinHandle<()>>) {
    let config = policyd_store::Config {
        reserve: 0,
        ballast: 0,
        ..policyd_store::Config::default()
    };
    let store = Store::open(&path.join("store"), config).expect("opens");
    let flows = FlowConfig {
        reserve: 0,
        ..FlowConfig::default()
    };
    let history = FlowStore::open(&path.join("flows"), flows).expect("opens");
    let datapath = Datapath::open(DatapathConfig {
        pin_dir: pins.to_owned(),
        ..DatapathConfig::default()
    });
    let datapath = Arc::new(Mutex::new(datapath.expect("opens")));
    let world = World::new(Arc::new(Ruleset::empty(0)), Vec::new());
    let world = Arc::new(ArcSwap::from_pointee(world));
    let (events, owners) = (Arc::new(EventLog::new(EVENT_LOG)), Arc::new(Owners::default()));
    let (lookups, _) = Lookups::new(Holding::open(Limits::default()));
    let (measures, _) = Measures::new();
    let (orders, orders_in) = bounded(ORDERS);
    let shape_problems = shapes::Problems::default();
    let mut enforcer = Enforcer::new(
        Policies::load(store.clone()).expect("loads").0,
        Arc::clone(&datapath),
        Arc::clone(&world),
        Arc::clone(&events),
        Arc::clone(&owners),
        Readers {
            lookups: lookups.clone(),
            measures: measures.clone(),
        },
        Shapes::new(Arc::clone(&shape_problems)),
    )
    .expect("in force");
    let (classes, dry_runs) = (enforcer.classes(), enforcer.dry_runs());
    let shadow = Arc::new(Shadow::load(&history));
    let (notes, notes_in) = Notes::new();
    let lost = notes.lost();
    enforcer.record(notes, Arc::clone(&shadow));
    let signals = Arc::new(Signals::default());
    let recorder = Recorder::new(
        Some(history.clone()),
        Arc::clone(&signals),
        Arc::clone(&world),
        Arc::clone(&owners),
        Arc::clone(&shadow),
        monotonic_ns(),
    );
    let threads = vec![
        std::thread::spawn(move || {
            // Nobody tells it of facts, but somebody could.
            let (_facts, facts_in) = bounded(1);
            enforcer.run(&orders_in, &facts_in);
        }),
        std::thread::spawn(move || recorder.run(&notes_in)),
    ];
    let control = Arc::new(Control::new(store, orders.clone(), Arc::clone(&signals.refused)));
    let registry = Arc::new(Registry::default());
    let daemon = Daemon {
        threats: Arc::default(),
        signals,
        saturation: Mutex::default(),
        events,
        past: Arc::new(PastFlows::new(
            Ok(history.clone()),
            shadow,
            Arc::clone(&control),
            Arc::clone(&world),
            lost,
        )),
        control,
        registry,
        world,
        owners,
        lookups,
        measures,
        datapath,
        classes,
        dry_runs,
        orders,
        supervisor: Arc::new(Supervisor::none()),
        shape_problems,
        stopping,
        started: Instant::now(),
        xen: "4.17.5".into(),
    };
    for (name, number) in GUESTS {
        daemon.add_guest(name, number);
    }
    daemon.something_to_tell(&history);
    (daemon, threads)
}

impl Daemon {
    /// A guest with one vif.
    fn add_guest(&self, name: &str, number: u8) {
        let (vif, scope) = (format!("vif{number}.0"), u32::from(number));
        run(&format!("ip link add {vif} type veth peer name eth{number}"));
        run(&format!("ip link set {vif} up"));
        run(&format!("ip link set eth{number} up"));
        let (ready, is_ready) = bounded(1);
        let vm = VmId::new(name, [number; 16]);
        let send = |order| self.orders.send(order).expect("the enforcer runs");
        send(Order::GuestUp {
            scope,
            vm: vm.clone(),
            ready,
        });
        is_ready.recv().expect("an answer");
        let mac = [0, 0x16, 0x3e, 0, 0, number];
        let address = [10, 0, 0, number].into();
        send(Order::Vifs {
            scope,
            vifs: vec![(Some(mac), vec![address])],
        });
        let config = VifConfig {
            scope,
            mac: Some(mac),
        };
        lock(&self.datapath).attach(&vif, config).expect("attached");
        send(Order::Covered);
        let entry = DomainEntry::new(number.into(), vm);
        {
            let mut sight = entry.sight();
            sight.mode = Mode::Vm;
            sight.vcpus = 1;
            sight.vifs = vec![Vif {
                name: vif,
                mac: Some("00:16:3e:00:00:0b".into()),
                covered: true,
            }];
        }
        self.registry.insert(Arc::new(entry));
    }

    /// Flows at a vif, one of the past, an event.
    fn something_to_tell(&self, history: &FlowStore) {
        let [(web, from), (_, to)] = GUESTS;
        let mac = |number| [0, 0x16, 0x3e, 0, 0, number];
        for port in 40_000..40_005 {
            let (local, remote) = (([10, 0, 0, from], port).into(), ([10, 0, 0, to], 80).into());
            send_syn(&format!("eth{from}"), local, remote, [mac(to), mac(from)]);
        }
        let at = now_ns() / 1_000_000_000 - 60;
        let name = api::FlowName {
            from: api::FlowEnd {
                domain: Some(web.into()),
                exe: Some("/usr/bin/curl".into()),
                ..api::FlowEnd::default()
            },
            to: api::FlowEnd {
                address: Some([192, 0, 2, 7].into()),
                ..api::FlowEnd::default()
            },
            protocol: "tcp".into(),
            port: Some(80),
            verdict: api::Verdict::Allow,
            rule: "no rule".into(),
            by_policy: true,
        };
        let totals = api::FlowTotals {
            flows: 3,
            first: at,
            last: at,
            ..api::FlowTotals::default()
        };
        history.add(&Arc::new(name), totals);
        let change = "created".to_owned();
        self.events
            .publish(Some((from.into(), web)), api::What::Domain { change });
    }
}
