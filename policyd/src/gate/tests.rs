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
            dry_run: None,
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
        mm: 1,
        leader: linux::TaskAddr(0),
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
        let id = VmId::new(name, [number; 16]);
        Vm {
            claimed: vec![[10, 0, 0, number].into()],
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
        vlan: Vlan::NONE,
    };
    let stage = match backend {
        Some(end) => Stage::Under { end, instead: false },
        None => Stage::Opening,
    };
    judge(&world(), &way, &running(exe), stage)
}

#[test]
fn a_verdict_of_a_trap_bears_the_copies_of_its_rule() {
    let text = "policy: a\nrules: [{ name: r, from: { vm: web1, exe: /bin/c }, to: { vm: db1 }, action: allow, mirror: { to: ids, share: 5% } }]\n";
    let document = Document::parse("t", text).expect("sound");
    let rules = Arc::new(Ruleset::compile(&[document], 1).expect("compiles"));
    let vm = |name: &str, number: u8| Vm {
        claimed: vec![[10, 0, 0, number].into()],
        trapped: true,
        ..Vm::new(VmId::new(name, [number; 16]), number.into())
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
        let judged = judge(&world, &way, &running(exe), Stage::Opening);
        let mirror = judged.verdict(&world, origin, peer).mark.mirror;
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
        (judged.passes(), judged.backend.map(|end| end.to_string()))
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
    assert_eq!((none.passes(), none.backend, none.choice), (false, None, None));
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
    assert!(!judged.passes() && judged.backend == Some(v3) && judged.choice.is_none());
    // It began before there was a route.
    let plain = "10.0.0.100:80".parse().expect("an address");
    let judged = to([10, 0, 0, 100], "/bin/a", Some(plain));
    assert!(judged.passes() && judged.backend.is_none() && judged.choice.is_none());
}

/// web1 may not reach db1; where it goes instead is for `rest` to say.
fn watched(rest: &str, guests: &[(&str, u8)]) -> World {
    let text = format!(
        "policy: p
services: {{ pot: {{ vm: pot, exe: /bin/pot, port: 22, protocol: tcp }} }}
routes: {{ r: {{ address: 10.0.0.100, port: 80, backends: [{{ to: {{ vm: db1 }}, version: v1 }}, {{ to: 192.0.2.9, version: v2 }}], denied: v2 }} }}
{rest}"
    );
    let document = Document::parse("t", &text).unwrap_or_else(|p| panic!("{p}"));
    let rules = Arc::new(Ruleset::compile(&[document], 3).expect("compiles"));
    let guests = guests.iter().map(|(name, number)| Vm {
        claimed: vec![
            [10, 0, 0, *number].into(),
            [0xfd00, 0, 0, 0, 0, 0, 0, u16::from(*number)].into(),
        ],
        macs: vec![([0, 0, 0, 0, 0, *number], vec![])],
        trapped: true,
        ..Vm::new(VmId::new(*name, [*number; 16]), (*number).into())
    });
    World::new(rules, guests.collect()).with_routes(&Nothing)
}

const GUESTS: [(&str, u8); 3] = [("web1", 11), ("db1", 12), ("pot", 13)];
const LURED: &str =
    "rules: [{ name: lured, from: { exe: /bin/a }, to: { vm: db1 }, action: deny, instead: pot }]";

fn way(remote: &str) -> Way {
    let remote: SocketAddr = remote.parse().expect("an address");
    let local = match remote {
        SocketAddr::V4(_) => ([10, 0, 0, 11], 4000).into(),
        SocketAddr::V6(_) => "[fd00::b]:4000".parse().expect("an address"),
    };
    Way {
        scope: 11,
        protocol: Protocol::TCP,
        local,
        remote,
        vlan: Vlan::NONE,
    }
}

fn opens(world: &World, remote: &str) -> Judged {
    judge(world, &way(remote), &running("/bin/a"), Stage::Opening)
}

/// Passes or not, and where it goes.
fn told(judged: &Judged) -> (bool, Option<String>) {
    (judged.passes(), judged.backend.map(|end| end.to_string()))
}

fn at(end: &str) -> Option<String> {
    Some(end.to_owned())
}

#[test]
fn what_a_rule_sends_elsewhere_passes_there_and_counts_as_denied() {
    let world = watched(LURED, &GUESTS);
    for (remote, pot) in [("10.0.0.12:80", "10.0.0.13:22"), ("[fd00::c]:80", "[fd00::d]:22")] {
        let judged = opens(&world, remote);
        assert_eq!(told(&judged), (true, at(pot)));
        assert_eq!(judged.decision.verdict, policy::Verdict::Deny);
        assert_eq!(judged.decision.by, Decider::Rule(RuleId(0)));
        assert_eq!(
            judged.choice.map(|target| target.mac),
            Some(Some([0, 0, 0, 0, 0, 13]))
        );
        // At both vifs, and back from there.
        let verdict = judged.verdict(&world, Direction::ToGuest, way(remote).local.ip());
        assert_eq!(verdict.action, Action::Allow);
        assert!(is_instead(verdict.rule) && decider(verdict.rule) == judged.decision.by);
    }
    let other = judge(&world, &way("10.0.0.12:80"), &running("/bin/b"), Stage::Opening);
    assert_eq!(told(&other), (true, None), "the rule is not for it");
    assert!(!is_instead(other.rule_number()));
    let seen = judge(&world, &way("10.0.0.12:80"), &running("/bin/a"), Stage::Seen);
    assert_eq!(told(&seen), (false, None), "its first packet met the tables");
    // A route's backend is denied likewise, and the rule comes before the version for what is denied.
    assert_eq!(told(&opens(&world, "10.0.0.100:80")), (true, at("10.0.0.13:22")));
}

#[test]
fn where_nobody_is_there_instead_a_flow_is_denied_as_it_would_be() {
    let gone = watched(LURED, &GUESTS[..2]);
    assert_eq!(told(&opens(&gone, "10.0.0.12:80")), (false, None));
    assert_eq!(
        told(&opens(&gone, "10.0.0.100:80")),
        (true, at("192.0.2.9:80")),
        "the route's own"
    );
    let mut paused = watched(LURED, &GUESTS).vms().to_vec();
    paused[2].paused = true;
    let world = watched(LURED, &GUESTS);
    let again = World::new(Arc::clone(&world.rules), paused).with_routes(&Nothing);
    assert_eq!(
        told(&opens(&again, "10.0.0.12:80")),
        (false, None),
        "it is paused"
    );
    // Not to where it was denied to go, nor back to who opens it.
    let to = |target: &str| {
        let rest = format!("rules: [{{ name: r, from: any, to: any, action: deny, instead: {target} }}]");
        watched(&rest, &GUESTS)
    };
    assert_eq!(
        told(&opens(&to("{ vm: db1, port: 80 }"), "10.0.0.12:80")),
        (false, None)
    );
    assert_eq!(told(&opens(&to("{ vm: web1 }"), "10.0.0.12:80")), (false, None));
    // Several are there; a guest always meets the same. The port is the flow's own where none is said.
    let one = told(&opens(&to("{ vm: [db1, pot] }"), "192.0.2.1:81"));
    assert!(
        [at("10.0.0.12:81"), at("10.0.0.13:81")].contains(&one.1),
        "{one:?}"
    );
    // Outside of this host it goes by the gateway, which no flow to a guest takes.
    let page = to("{ address: 192.0.2.7, port: 8080 }");
    assert_eq!(told(&opens(&page, "10.0.0.12:80")), (false, None));
    assert_eq!(told(&opens(&page, "192.0.2.1:80")), (true, at("192.0.2.7:8080")));
}

#[test]
fn a_flow_that_was_sent_elsewhere_stays_while_its_rule_says_so() {
    let pot: SocketAddr = "10.0.0.13:22".parse().expect("an address");
    let under = |world: &World, instead| {
        let stage = Stage::Under { end: pot, instead };
        judge(world, &way("10.0.0.12:80"), &running("/bin/a"), stage)
    };
    let world = watched(LURED, &GUESTS);
    let kept = under(&world, true);
    assert_eq!(told(&kept), (true, at("10.0.0.13:22")));
    assert!(kept.choice.is_none() && kept.instead());
    // Found by an inventory, which does not know why it went there.
    assert_eq!(under(&world, false), kept);
    for rest in [
        "",
        "rules: [{ name: lured, from: { exe: /bin/a }, to: { vm: db1 }, action: deny }]",
        "rules: [{ name: lured, from: { exe: /bin/a }, to: { vm: db1 }, action: deny, instead: { vm: pot, port: 23 } }]",
    ] {
        let ended = under(&watched(rest, &GUESTS), true);
        assert_eq!(told(&ended), (false, at("10.0.0.13:22")), "{rest}");
        assert_eq!(ended.action(), Action::Deny(Refuse::Reset), "{rest}");
        // It stays known as one that was sent there.
        assert!(is_instead(ended.rule_number()), "{rest}");
        assert_eq!(decider(ended.rule_number()), Decider::Unserved);
    }
    assert!(
        !under(&watched(LURED, &GUESTS[..2]), true).passes(),
        "its guest is gone"
    );
    // One that was under way when the rule came is denied where it is.
    let end = "10.0.0.12:80".parse().expect("an address");
    let late = judge(
        &world,
        &way("10.0.0.12:80"),
        &running("/bin/a"),
        Stage::Under { end, instead: false },
    );
    assert_eq!(told(&late), (false, None));
}
