// SPDX-License-Identifier: GPL-3.0-only
//! Flows as they are told, and what the history has of them.

use std::net::SocketAddr;

use netback_filter::{Action, DecidedBy, EventKind, FlowKey, Mark, Refuse, Vlan};
use policy::{Document, Ruleset, VmId};
use policyd_store::FlowConfig;

use super::*;
use crate::gate::tests::running;
use crate::gate::{Stage, judge};
use crate::world::Vm;

const WEB: u32 = 1;
const DB: u32 = 2;
const AT: u64 = 1_000_000_000;
const BEGAN: u64 = 1000;
const POLICY: &str = "policy: shop
default: { db1: deny }
rules:
  - { name: reads, from: { vm: web1, exe: /bin/a }, to: { vm: db1 }, ports: 80, action: allow }
";

fn world(text: &str, generation: u64) -> World {
    let documents = [Document::parse("t.yaml", text).expect("valid")];
    let rules = Arc::new(Ruleset::compile(&documents, generation).expect("valid"));
    let vm = |name: &str, scope: u32, address: &str| {
        let id = VmId::new(name, [scope as u8; 16]);
        Vm {
            claimed: vec![address.parse().expect("an address")],
            trapped: true,
            ..Vm::new(id, scope)
        }
    };
    World::new(
        rules,
        vec![vm("web1", WEB, "10.0.0.11"), vm("db1", DB, "10.0.0.12")],
    )
}

struct Site {
    _dir: tempfile::TempDir,
    recorder: Recorder,
    store: FlowStore,
}

impl Site {
    fn new() -> Site {
        let dir = tempfile::tempdir().expect("a directory");
        let config = FlowConfig {
            reserve: 0,
            ..FlowConfig::default()
        };
        let store = FlowStore::open(&dir.path().join("flows"), config).expect("opens");
        let world = Arc::new(ArcSwap::from_pointee(world(POLICY, 3)));
        let recorder = Recorder::new(
            Some(store.clone()),
            Arc::default(),
            world,
            Arc::default(),
            Arc::default(),
            BEGAN,
        );
        Site {
            _dir: dir,
            recorder,
            store,
        }
    }

    /// A program in web1 connects from this port.
    fn opens(&mut self, exe: &str, port: u16) {
        let way = way(port);
        let who = running(exe);
        let judged = judge(&self.recorder.world.load(), &way, &who, Stage::Opening);
        let who = Arc::new(who);
        self.recorder.owners.insert(way, &who, None);
        let fresh = true;
        self.recorder.take(
            AT,
            Note::Opened {
                way,
                who,
                judged,
                fresh,
            },
        );
    }

    fn tells(&mut self, note: Note) {
        self.recorder.take(AT + 1, note);
    }

    /// What was counted: program or other end, verdict, rule, flows, refusals, bytes out and in.
    fn counted(&self) -> Vec<(String, Verdict, String, u64, u64, u64, u64)> {
        let past = self.store.past(AT - 60, AT + 60, |_| true).expect("reads");
        let mut counted: Vec<_> = past
            .flows
            .iter()
            .map(|(name, t)| {
                let ends = format!("{} {}", name.from.label(), name.to.label());
                (
                    ends,
                    name.verdict,
                    name.rule.clone(),
                    t.flows,
                    t.refused,
                    t.bytes_out,
                    t.bytes_in,
                )
            })
            .collect();
        counted.sort_by(|a, b| a.0.cmp(&b.0));
        counted
    }
}

fn way(port: u16) -> Way {
    Way {
        scope: WEB,
        protocol: policy::Protocol::TCP,
        local: SocketAddr::from(([10, 0, 0, 11], port)),
        remote: SocketAddr::from(([10, 0, 0, 12], 80)),
        vlan: Vlan::NONE,
    }
}

fn record(key: FlowKey, origin: Direction, action: Action, bytes: [u64; 2]) -> FlowRecord {
    FlowRecord {
        key,
        verdict: netback_filter::Verdict {
            action,
            origin,
            rule: 1,
            generation: 3,
            mark: Mark::default(),
        },
        decided_by: DecidedBy::Userspace,
        backend: None,
        packets: bytes.map(|b| b / 100),
        bytes,
        first_ns: BEGAN + 1,
        last_ns: BEGAN + 2,
        established: true,
        ended: false,
        setup: None,
        first_byte: None,
        rtt: [None; 2],
        retransmissions: [0; 2],
        zero_windows: [0; 2],
    }
}

pub fn out(port: u16, bytes: [u64; 2]) -> FlowRecord {
    record(way(port).key(), Direction::FromGuest, Action::Allow, bytes)
}

fn row(
    ends: &str,
    verdict: Verdict,
    rule: &str,
    numbers: [u64; 4],
) -> (String, Verdict, String, u64, u64, u64, u64) {
    let [flows, refused, sent, received] = numbers;
    (ends.into(), verdict, rule.into(), flows, refused, sent, received)
}

#[test]
fn a_flow_is_counted_once_and_its_bytes_as_they_come() {
    let mut site = Site::new();
    site.opens("/bin/a", 4000);
    site.opens("/bin/a", 4001);
    let at_db = way(4000).seen_by(DB).key();
    let mirror = record(at_db, Direction::ToGuest, Action::Allow, [700, 300]);
    site.tells(Note::Live(vec![out(4000, [300, 700]), out(4001, [0, 0]), mirror]));
    site.tells(Note::Live(vec![
        out(4000, [500, 900]),
        out(4001, [100, 0]),
        mirror,
    ]));
    site.tells(Note::Ended(Box::new(out(4000, [600, 1000]))));
    site.tells(Note::Ended(Box::new(mirror)));
    // It stays in the map for a while.
    let ended = FlowRecord {
        ended: true,
        ..out(4000, [600, 1000])
    };
    site.tells(Note::Live(vec![ended, out(4001, [100, 0])]));
    let expected = row("web1:/bin/a db1", Verdict::Allow, "shop/reads", [2, 0, 700, 1000]);
    assert_eq!(site.counted(), [expected]);
    // The port again.
    site.opens("/bin/a", 4000);
    site.tells(Note::Live(vec![out(4000, [50, 0])]));
    let expected = row("web1:/bin/a db1", Verdict::Allow, "shop/reads", [3, 0, 750, 1000]);
    assert_eq!(site.counted(), [expected]);
    assert_eq!(site.recorder.open.len(), 1, "flows that are gone are let go");
}

#[test]
fn what_is_denied_is_counted_with_its_refusals() {
    let mut site = Site::new();
    site.opens("/bin/b", 4000);
    let mut event = Event {
        kind: EventKind::Refused,
        ns: BEGAN + 1,
        direction: Direction::FromGuest,
        enforced: true,
        tagged: false,
        flow: record(
            way(4000).key(),
            Direction::FromGuest,
            Action::Deny(Refuse::Reset),
            [0, 0],
        ),
        sender: None,
        sequence: 0,
    };
    let refuse = |site: &mut Site, event: &Event| {
        site.tells(Note::Refused {
            event: Box::new(*event),
            who: None,
        });
    };
    refuse(&mut site, &event);
    let denied = row("web1:/bin/b db1", Verdict::Deny, "default (to)", [1, 1, 0, 0]);
    assert_eq!(site.counted(), std::slice::from_ref(&denied));
    // From outside, at db1's vif; told twice, as the client tries again.
    event.flow.key = FlowKey {
        remote: "192.0.2.7:999".parse().expect("an address"),
        ..way(1).seen_by(DB).key()
    };
    event.flow.verdict.origin = Direction::ToGuest;
    event.flow.verdict.rule = crate::gate::rule_number(&judged_default());
    refuse(&mut site, &event);
    refuse(&mut site, &event);
    let outside = row("192.0.2.7 db1", Verdict::Deny, "default (to)", [1, 2, 0, 0]);
    assert_eq!(site.counted(), [outside.clone(), denied.clone()]);
    // A scope that only watches refuses nothing.
    event.enforced = false;
    refuse(&mut site, &event);
    assert_eq!(site.counted(), [outside, denied]);
}

fn judged_default() -> policy::Decision {
    let world = world(POLICY, 3);
    judge(&world, &way(1), &running("/bin/b"), Stage::Opening).decision
}

#[test]
fn what_nobody_told_of_is_found_and_what_was_before_is_not_counted_again() {
    let mut site = Site::new();
    let outside = FlowKey {
        remote: "192.0.2.7:999".parse().expect("an address"),
        ..way(1).seen_by(DB).key()
    };
    let incoming = record(outside, Direction::ToGuest, Action::Allow, [30, 200]);
    let before = FlowRecord {
        first_ns: BEGAN - 1,
        ..out(4002, [5000, 5000])
    };
    let undecided = FlowRecord {
        first_ns: 0,
        ..out(4003, [0, 0])
    };
    site.tells(Note::Live(vec![incoming, before, undecided]));
    let more = FlowRecord {
        bytes: [5100, 5000],
        packets: [51, 50],
        ..before
    };
    site.tells(Note::Live(vec![incoming, more]));
    // Who opens a connection from outside has sent what came to the guest.
    assert_eq!(
        site.counted(),
        [
            row("192.0.2.7 db1", Verdict::Allow, "shop/reads", [1, 0, 200, 30]),
            row("web1 db1", Verdict::Allow, "shop/reads", [0, 0, 100, 0]),
        ]
    );
}

#[test]
fn a_flow_that_a_change_denies_goes_on_under_its_new_verdict() {
    let mut site = Site::new();
    site.opens("/bin/a", 4000);
    site.tells(Note::Live(vec![out(4000, [100, 0])]));
    site.recorder
        .world
        .store(Arc::new(world("policy: shop\ndefault: { db1: deny }\n", 4)));
    let mut denied = out(4000, [300, 0]);
    denied.verdict.action = Action::Deny(Refuse::Reset);
    (denied.verdict.generation, denied.verdict.rule) = (4, crate::gate::rule_number(&judged_default()));
    site.tells(Note::Live(vec![denied]));
    assert_eq!(
        site.counted(),
        [
            row("web1:/bin/a db1", Verdict::Allow, "shop/reads", [1, 0, 100, 0]),
            row("web1:/bin/a db1", Verdict::Deny, "default (to)", [0, 0, 200, 0]),
        ]
    );
}

#[test]
fn the_thread_ends_with_those_who_tell_and_writes_what_it_has() {
    let site = Site::new();
    let (notes, notes_in) = Notes::new();
    let world = site.recorder.world.load_full();
    let (way, who) = (way(4000), Arc::new(running("/bin/a")));
    let judged = judge(&world, &way, &who, Stage::Opening);
    for _ in 0..NOTES + 5 {
        let who = Arc::clone(&who);
        let fresh = true;
        notes.tell(Note::Opened {
            way,
            who,
            judged,
            fresh,
        });
    }
    assert_eq!(notes.lost().load(Ordering::Relaxed), 5, "nobody waits");
    let thread = std::thread::spawn(move || site.recorder.run(&notes_in));
    drop(notes);
    thread.join().expect("ends");
    let now = now_ns() / 1_000_000_000;
    let past = site.store.past(now - 600, now + 60, |_| true).expect("reads");
    assert_eq!(past.flows[0].1.flows, NOTES as u64);
}

/// Signals of the pair that is told of in this test.
fn signals(site: &Site) -> policyd_api::PairSignals {
    let mut pairs = site.recorder.signals.report(&Default::default()).pairs;
    assert_eq!(pairs.len(), 1, "{pairs:?}");
    pairs.remove(0)
}

#[test]
fn signals_have_what_is_new_of_each_flow_once() {
    let mut site = Site::new();
    let micros = |us| Some(Duration::from_micros(us));
    site.opens("/bin/a", 4000);
    let first = FlowRecord {
        setup: micros(300),
        rtt: [micros(400), None],
        retransmissions: [2, 0],
        ..out(4000, [300, 700])
    };
    site.tells(Note::Live(vec![first]));
    let second = FlowRecord {
        first_byte: micros(5000),
        rtt: [micros(500), micros(90)],
        retransmissions: [2, 1],
        zero_windows: [0, 4],
        bytes: [400, 900],
        packets: [4, 9],
        ..first
    };
    site.tells(Note::Live(vec![second]));
    // Nothing moved: no round trip is told again.
    site.tells(Note::Live(vec![second]));
    assert_eq!(signals(&site).open, 1);
    site.tells(Note::Ended(Box::new(FlowRecord {
        ended: true,
        ..second
    })));
    site.tells(Note::Live(vec![]));
    let told = signals(&site);
    assert_eq!((told.from.name.as_str(), told.to.name.as_str()), ("web1", "db1"));
    assert_eq!(
        (told.port, told.protocol.as_str(), told.open),
        (Some(80), "tcp", 0)
    );
    let expected = policyd_api::Totals {
        connections: 1,
        packets_out: 4,
        packets_in: 9,
        bytes_out: 400,
        bytes_in: 900,
        retransmissions_out: 2,
        retransmissions_in: 1,
        zero_windows_in: 4,
        ..Default::default()
    };
    assert_eq!(told.total, expected);
}

#[test]
fn signals_of_times_are_those_of_the_sides() {
    let micros = |us| Some(Duration::from_micros(us));
    let times = |looks: &[FlowRecord]| {
        let mut site = Site::new();
        let now = now_ns() / 1_000_000_000;
        for record in looks {
            site.recorder.take(now, Note::Live(vec![*record]));
        }
        let window = signals(&site).window;
        let all = [
            window.setup_us,
            window.first_byte_us,
            window.server_rtt_us,
            window.client_rtt_us,
        ];
        all.map(|q| (q.count, q.max as u64))
    };
    let outgoing = FlowRecord {
        setup: micros(300),
        first_byte: micros(5000),
        rtt: [micros(400), micros(90)],
        ..out(4000, [300, 700])
    };
    assert_eq!(times(&[outgoing]), [(1, 300), (1, 5000), (1, 400), (1, 90)]);
    // From outside: what goes to the guest goes to the server.
    let outside = FlowKey {
        remote: "192.0.2.7:999".parse().expect("an address"),
        ..way(1).seen_by(DB).key()
    };
    let mut incoming = FlowRecord {
        key: outside,
        ..outgoing
    };
    incoming.verdict.origin = Direction::ToGuest;
    assert_eq!(times(&[incoming]), [(1, 300), (1, 5000), (1, 90), (1, 400)]);
    // What was measured before the daemon began was told by another.
    let before = FlowRecord {
        first_ns: BEGAN - 1,
        ..outgoing
    };
    let more = FlowRecord {
        packets: [4, 8],
        ..before
    };
    assert_eq!(times(&[before, more]), [(0, 0), (0, 0), (1, 400), (1, 90)]);
}

#[test]
fn signals_tell_what_was_denied_and_what_did_not_come_about() {
    let mut site = Site::new();
    site.opens("/bin/b", 3999);
    for port in 4000..4004 {
        site.opens("/bin/a", port);
    }
    let syn_sent = |port| FlowRecord {
        established: false,
        ..out(port, [60, 0])
    };
    let live = vec![
        out(4000, [60, 60]),
        syn_sent(4001),
        syn_sent(4002),
        syn_sent(4003),
    ];
    site.tells(Note::Live(live));
    assert_eq!((signals(&site).total.failed, signals(&site).open), (0, 4));
    // One is refused, one is given up, one is answered after all.
    let refused = FlowRecord {
        ended: true,
        ..syn_sent(4001)
    };
    site.tells(Note::Ended(Box::new(refused)));
    site.tells(Note::Live(vec![out(4000, [60, 60]), out(4003, [120, 60])]));
    site.tells(Note::Live(vec![]));
    let total = signals(&site).total;
    assert_eq!((total.connections, total.denied, total.failed), (5, 1, 2));
}

#[test]
fn a_name_keeps_what_policy_can_ask_of_a_process() {
    let site = Site::new();
    let mut guests = site.recorder.world.load().vms().to_vec();
    guests[0].configured = vec!["10.0.0.11".parse().expect("an address")];
    let world = World::new(Arc::clone(&site.recorder.world.load().rules), guests);
    let mut who = running("/bin/a");
    who.process.credentials.gid.effective = 100;
    who.process.credentials.groups = vec![27, 200];
    who.process.loginuid = 1000;
    who.parents = vec!["/bin/dash".into(), "/usr/sbin/cron".into()];
    let judged = judge(&world, &way(1), &who, Stage::Opening);
    let name = describe::opened(&world, &way(1), &who, &judged);
    let user = name.from.user.expect("a user");
    assert_eq!(
        (user.gid, user.groups, user.loginuid),
        (100, vec![27, 200], Some(1000))
    );
    let parents = name.from.parents.expect("ancestors");
    assert_eq!(parents, ["/bin/dash", "/usr/sbin/cron"]);
    assert_eq!((name.from.given, name.to.given), (Some(true), Some(false)));
    assert_eq!(
        (name.to.user, name.to.parents),
        (None, None),
        "nobody is known to listen"
    );
}
