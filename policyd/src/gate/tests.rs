// SPDX-License-Identifier: GPL-3.0-only
//! Verdicts of the gate in a World that is made up.

use super::*;

#[test]
fn deciders_come_back_from_their_numbers() {
    let by = [
        Decider::Rule(RuleId(0)),
        Decider::Rule(RuleId(99_999)),
        Decider::Default(Side::Source),
        Decider::Default(Side::Destination),
        Decider::Nothing,
        Decider::Unserved,
    ];
    for by in by {
        let decision = Decision {
            verdict: policy::Verdict::Deny,
            refuse: policy::Refuse::Rst,
            audit: false,
            by,
            class: None,
            mirror: None,
            generation: 1,
        };
        assert_ne!(rule_number(&decision), 0);
        assert_eq!(decider(rule_number(&decision)), by);
    }
}

use policy::{Document, Ruleset, VmId};

use crate::routes::{Condition as Known, Departed};
use crate::world::Vm;

struct Nothing;

impl Known for Nothing {
    fn checked(&self, _: Protocol, _: SocketAddr) -> Option<bool> {
        None
    }
    fn is_shunned(&self, _: Protocol, _: SocketAddr) -> bool {
        false
    }
    fn gone(&self) -> &[Departed] {
        &[]
    }
}

/// A process that runs this.
pub(crate) fn running(exe: &str) -> Subject {
    let process = linux::Process {
        task: linux::TaskAddr(0),
        pid: 7,
        tgid: 7,
        ppid: 1,
        comm: String::new(),
        exe: Some(exe.into()),
        exe_deleted: false,
        chroot: None,
        args: Vec::new(),
        uid: 0,
        euid: 0,
        gid: 0,
        credentials: Credentials::default(),
        loginuid: 0,
        start_time_ns: 0,
        netns: 0,
        pidns: 0,
        mntns: 0,
        cgroup: None,
        container: None,
        kthread: false,
    };
    Subject {
        process,
        parents: Vec::new(),
    }
}

fn world() -> World {
    let text = "policy: shop
default: { db1: deny }
routes:
  shop:
    address: 10.0.0.100
    port: 80
    backends: [{ to: { vm: db1 }, version: v1 }, { to: 192.0.2.7, version: v2, weight: 0 }, { to: { vm: db1 }, port: 81, version: v3 }]
    canary: [{ from: { exe: /bin/c }, to: v2 }, { from: { exe: /bin/none }, to: v4 }]
    denied: v3
  none: { address: 10.0.0.101, port: 80, refuse: drop, backends: { to: { vm: nobody } } }
rules:
  - { name: buys, from: { vm: web1, exe: /bin/a }, to: { vm: db1 }, ports: 80, action: allow }
  - { name: lured, from: { vm: web1, exe: /bin/b }, to: { vm: db1 }, ports: 81, action: allow }
";
    let text = text.replace(
        "v2, weight: 0 }",
        "v2, weight: 0 }, { to: { vm: nobody }, version: v4 }",
    );
    let document = Document::parse("t", &text).unwrap_or_else(|p| panic!("{p}"));
    let rules = Arc::new(Ruleset::compile(&[document], 3).expect("compiles"));
    let vm = |name: &str, number: u8| {
        let id = VmId {
            name: name.into(),
            uuid: [number; 16],
        };
        Vm {
            addresses: vec![[10, 0, 0, number].into()],
            trapped: true,
            ..Vm::new(id, number.into())
        }
    };
    World::new(rules, vec![vm("web1", 11), vm("db1", 12)]).with_routes(&Nothing)
}

fn to(address: [u8; 4], exe: &str, backend: Option<SocketAddr>) -> Judged {
    let way = Way {
        scope: 11,
        protocol: Protocol::TCP,
        local: ([10, 0, 0, 11], 4000).into(),
        remote: (address, 80).into(),
        vlan: netback_filter::Vlan::NONE,
    };
    judge(&world(), &way, &running(exe), backend)
}

#[test]
fn a_verdict_of_a_trap_bears_the_copies_of_its_rule() {
    let text = "policy: a\nrules: [{ name: r, from: { vm: web1, exe: /bin/c }, to: { vm: db1 }, action: allow, mirror: { to: ids, share: 5% } }]\n";
    let document = Document::parse("t", text).expect("sound");
    let rules = Arc::new(Ruleset::compile(&[document], 1).expect("compiles"));
    let vm = |name: &str, number: u8| Vm {
        addresses: vec![[10, 0, 0, number].into()],
        trapped: true,
        ..Vm::new(
            VmId {
                name: name.into(),
                uuid: [number; 16],
            },
            number.into(),
        )
    };
    let world = World::new(rules, vec![vm("web1", 11), vm("db1", 12), vm("ids", 13)]);
    let way = Way {
        scope: 11,
        protocol: Protocol::TCP,
        local: ([10, 0, 0, 11], 4000).into(),
        remote: ([10, 0, 0, 12], 80).into(),
        vlan: Vlan::NONE,
    };
    let mirror = |exe, origin, peer| {
        let judged = judge(&world, &way, &running(exe), None);
        let mirror = datapath_verdict(&world, &judged.decision, origin, peer)
            .mark
            .mirror;
        mirror.map(|mirror| (mirror.scope(), mirror.share().hundredths()))
    };
    let (local, remote) = (way.local.ip(), way.remote.ip());
    assert_eq!(mirror("/bin/c", Direction::FromGuest, remote), Some((13, 500)));
    assert_eq!(
        mirror("/bin/c", Direction::ToGuest, local),
        None,
        "once is enough"
    );
    assert_eq!(
        mirror("/bin/d", Direction::FromGuest, remote),
        None,
        "by another process"
    );
}

#[test]
fn a_flow_to_a_route_is_judged_by_the_backend_that_it_is_sent_to() {
    let told = |judged: Judged| {
        let same = judged.choice.map(|target| target.end) == judged.backend;
        assert!(same, "{judged:?}");
        (judged.is_allowed(), judged.backend.map(|end| end.to_string()))
    };
    let shop = |exe: &str| told(to([10, 0, 0, 100], exe, None));
    let at = |end: &str| Some(end.to_owned());
    assert_eq!(shop("/bin/a"), (true, at("10.0.0.12:80")));
    assert_eq!(
        shop("/bin/b"),
        (true, at("10.0.0.12:81")),
        "denied, and let to the decoy"
    );
    assert_eq!(shop("/bin/c"), (true, at("192.0.2.7:80")), "a canary");
    assert_eq!(shop("/bin/d"), (false, at("10.0.0.12:80")), "let to neither");
}

#[test]
fn a_route_without_a_backend_refuses_in_its_own_way() {
    let none = to([10, 0, 0, 101], "/bin/a", None);
    assert_eq!(
        (none.is_allowed(), none.backend, none.choice),
        (false, None, None)
    );
    assert_eq!(none.decision.by, Decider::Unserved);
    assert_eq!(none.decision.refuse, policy::Refuse::Drop);
    let strict = to([10, 0, 0, 100], "/bin/none", None);
    assert_eq!(
        strict.decision.by,
        Decider::Unserved,
        "a canary is for its version or none"
    );
}

#[test]
fn what_is_under_way_keeps_its_backend_and_is_judged_by_it() {
    let v3: SocketAddr = "10.0.0.12:81".parse().expect("an address");
    let judged = to([10, 0, 0, 100], "/bin/a", Some(v3));
    assert!(!judged.is_allowed() && judged.backend == Some(v3) && judged.choice.is_none());
    // It began before there was a route.
    let plain = "10.0.0.100:80".parse().expect("an address");
    let judged = to([10, 0, 0, 100], "/bin/a", Some(plain));
    assert!(judged.is_allowed() && judged.backend.is_none() && judged.choice.is_none());
}
