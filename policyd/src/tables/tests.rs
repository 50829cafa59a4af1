// SPDX-License-Identifier: GPL-3.0-only
use std::sync::Arc;

use netback_filter::{Action, Lock, Protocol as Proto, Refuse};
use policy::{Document, Ruleset, VmId};

use super::*;

fn vm(name: &str, scope: u32, address: &str) -> Vm {
    let id = VmId::new(name, [scope as u8; 16]);
    Vm {
        claimed: vec![address.parse().expect("an address")],
        trapped: true,
        ..Vm::new(id, scope)
    }
}

fn compiled(world: &World) -> Result<Tables, DaemonError> {
    compile(world, &mut ClassNumbers::after(0))
}

fn tables(text: &str) -> Result<Tables, DaemonError> {
    let document = Document::parse("test.yaml", text).expect("a sound document");
    let rules = Arc::new(Ruleset::compile(&[document], 7).expect("compiles"));
    let world = World::new(rules, vec![vm("web1", 1, "10.0.0.11"), vm("db1", 2, "10.0.0.12")]);
    let tables = compiled(&world)?;
    tables.rules.check().expect("the datapath takes them");
    Ok(tables)
}

/// What the datapath would do, by its own order of precision.
fn ask(t: &Tables, scope: u32, direction: Direction, remote: &str, protocol: Protocol, port: u16) -> Action {
    let remote: IpAddr = remote.parse().expect("an address");
    let class = t
        .rules
        .peers
        .iter()
        .filter(|p| Block::new(p.address, p.prefix_bits).contains(remote))
        .max_by_key(|p| p.prefix_bits)
        .expect("every address has a class")
        .class;
    let find = |protocol: Option<Proto>, port: Option<u16>| {
        t.rules.rules.iter().find(|r| {
            r.scope == scope
                && r.direction == direction
                && r.peer == PeerMatch::Class(class)
                && r.protocol == protocol
                && r.port == port
        })
    };
    let protocol = Some(Proto(protocol.0));
    find(protocol, Some(port))
        .or_else(|| find(protocol, None))
        .or_else(|| find(None, None))
        .expect("every class has a rule")
        .action
}

const BY_PROCESS: &str = "policy: a\ndefault: { db1: deny }\nservices:\n  c: { vm: web1, exe: /bin/c }\n  d: { vm: db1, port: 80, protocol: tcp }\nrules:\n  - { name: r, from: c, to: d, action: allow }\n";

#[test]
fn an_unknown_process_is_let_through_by_no_rule_for_a_process() {
    let t = tables(BY_PROCESS).expect("fits");
    for (scope, direction, remote) in [
        (1, Direction::FromGuest, "10.0.0.12"),
        (2, Direction::ToGuest, "10.0.0.11"),
    ] {
        assert_eq!(
            ask(&t, scope, direction, remote, Protocol::TCP, 80),
            Action::Deny(Refuse::Reset)
        );
    }
    // What the rules do not touch passes by default.
    assert_eq!(
        ask(&t, 1, Direction::FromGuest, "192.0.2.1", Protocol::TCP, 80),
        Action::Allow
    );
    assert!(matches!(
        ask(&t, 2, Direction::ToGuest, "192.0.2.1", Protocol::TCP, 80),
        Action::Deny(_)
    ));
}

#[test]
fn a_guest_without_addresses_of_dom0_is_held_to_its_mac() {
    let document = Document::parse("t", "policy: a\nlock: { web1: address, db1: mac }\n").expect("sound");
    let rules = Arc::new(Ruleset::compile(&[document], 7).expect("compiles"));
    let given = Vm {
        configured: vec!["10.0.0.11".parse().expect("an address")],
        ..vm("web1", 1, "10.0.0.11")
    };
    let guests = vec![
        given,
        vm("web1", 2, "10.0.0.12"),
        vm("db1", 3, "10.0.0.13"),
        vm("x", 4, "10.0.0.14"),
    ];
    let t = compiled(&World::new(rules, guests)).expect("fits");
    let locks: Vec<Lock> = t.scopes.values().map(|config| config.lock).collect();
    assert_eq!(locks, [Lock::Address, Lock::Mac, Lock::Mac, Lock::Off]);
    assert_eq!(t.addresses[&1].len(), 1);
}

#[test]
fn the_network_is_proven_by_locks_and_a_process_by_nothing_that_a_table_knows() {
    let given = |name: &str, scope: u32, address: &str| Vm {
        configured: vec![address.parse().expect("an address")],
        ..vm(name, scope, address)
    };
    let asked = |locks: &str, level: &str| {
        let text = format!(
            "policy: a\nlock: {{ {locks} }}\ndefault: {{ db1: deny }}\nrules:\n\
             - {{ name: r, from: {{ vm: web1 }}, to: {{ vm: db1 }}, protocol: tcp, action: allow, require: {{ authentication: {level} }} }}\n"
        );
        let document = Document::parse("t", &text).expect("sound");
        let rules = Arc::new(Ruleset::compile(&[document], 7).expect("compiles"));
        let guests = vec![given("web1", 1, "10.0.0.11"), given("db1", 2, "10.0.0.12")];
        let t = compiled(&World::new(rules, guests)).expect("fits");
        [
            ask(&t, 1, Direction::FromGuest, "10.0.0.12", Protocol::TCP, 80),
            ask(&t, 2, Direction::ToGuest, "10.0.0.11", Protocol::TCP, 80),
        ]
    };
    assert_eq!(asked("\"*\": address", "network"), [Action::Allow; 2]);
    for (locks, level) in [
        ("web1: address, db1: mac", "network"),
        ("\"*\": address", "process"),
    ] {
        assert!(
            asked(locks, level)
                .iter()
                .all(|action| matches!(action, Action::Deny(_))),
            "{locks} {level}"
        );
    }
}

#[test]
fn an_unknown_process_is_stopped_by_a_deny_that_might_be_for_it() {
    let text = "policy: a\nservices:\n  c: { vm: web1, exe: /bin/c }\nrules:\n  - { name: r, from: c, to: any, protocol: tcp, ports: 22, action: deny }\n";
    let t = tables(text).expect("fits");
    assert!(matches!(
        ask(&t, 1, Direction::FromGuest, "192.0.2.1", Protocol::TCP, 22),
        Action::Deny(_)
    ));
    assert_eq!(
        ask(&t, 1, Direction::FromGuest, "192.0.2.1", Protocol::TCP, 23),
        Action::Allow
    );
    assert_eq!(
        ask(&t, 1, Direction::FromGuest, "192.0.2.1", Protocol::UDP, 22),
        Action::Allow
    );
}

#[test]
fn ranges_and_blocks_hold_at_their_edges() {
    let text = "policy: a\ndefault: { db1: deny }\nrules:\n  - { name: r, from: { address: 192.0.2.0/25 }, to: { vm: db1 }, protocol: tcp, ports: 8000-8010, action: allow }\n";
    let t = tables(text).expect("fits");
    for (remote, port, allowed) in [
        ("192.0.2.0", 8000, true),
        ("192.0.2.127", 8010, true),
        ("192.0.2.128", 8000, false),
        ("192.0.2.1", 7999, false),
        ("192.0.2.1", 8011, false),
    ] {
        let action = ask(&t, 2, Direction::ToGuest, remote, Protocol::TCP, port);
        assert_eq!(action == Action::Allow, allowed, "{remote} port {port}");
    }
}

#[test]
fn a_port_without_a_protocol_is_of_every_protocol_that_has_ports() {
    let text = "policy: a\ndefault: { db1: deny }\nrules:\n  - { name: r, from: { vm: web1 }, to: { vm: db1, port: 80 }, action: allow }\n";
    let t = tables(text).expect("compiles");
    for protocol in KNOWN {
        for port in [80, 81] {
            let allowed = protocol.has_ports() && port == 80;
            let action = ask(&t, 1, Direction::FromGuest, "10.0.0.12", protocol, port);
            assert_eq!(action == Action::Allow, allowed, "{protocol} {port}");
        }
    }
}

/// What the tables say of every protocol, at port 80 of those that have ports: whether db1 is allowed to talk, and web1 to it.
fn every_protocol(text: &str) -> Vec<[bool; 2]> {
    let t = tables(text).expect("fits");
    let allows =
        |scope, direction, remote, protocol| ask(&t, scope, direction, remote, protocol, 80) == Action::Allow;
    (0..=u8::MAX)
        .map(Protocol)
        .map(|protocol| {
            [
                allows(1, Direction::FromGuest, "10.0.0.12", protocol),
                allows(2, Direction::ToGuest, "10.0.0.11", protocol),
            ]
        })
        .collect()
}

#[test]
fn a_protocol_by_its_number_is_decided_apart_from_all_others() {
    for number in [0, 2, 47, 253, 255] {
        for (default, action) in [("allow", "deny"), ("deny", "allow")] {
            let by_rule = format!(
                "policy: a\ndefault: {{ \"*\": {default} }}\nrules:\n  - {{ name: r, from: {{ vm: web1 }}, to: {{ vm: db1 }}, protocol: {number}, action: {action} }}\n"
            );
            let by_service = format!(
                "policy: a\ndefault: {{ \"*\": {default} }}\nservices:\n  s: {{ vm: db1, protocol: {number} }}\nrules:\n  - {{ name: r, from: {{ vm: web1 }}, to: s, action: {action} }}\n"
            );
            let expected: Vec<[bool; 2]> = (0..=u8::MAX)
                .map(|p| [if p == number { action } else { default } == "allow"; 2])
                .collect();
            assert_eq!(every_protocol(&by_rule), expected, "{number} {action}, by rule");
            assert_eq!(
                every_protocol(&by_service),
                expected,
                "{number} {action}, by service"
            );
        }
    }
}

#[test]
fn protocols_that_are_all_named_leave_no_others() {
    let is_allowed = |number: u8| number.is_multiple_of(3);
    let mut text = "policy: a\ndefault: { \"*\": deny }\nrules:\n".to_owned();
    for number in 0..=u8::MAX {
        let action = if is_allowed(number) { "allow" } else { "deny" };
        text += &format!(
            "  - {{ name: r{number}, from: {{ vm: web1 }}, to: {{ vm: db1 }}, protocol: {number}, action: {action} }}\n"
        );
    }
    let expected: Vec<[bool; 2]> = (0..=u8::MAX).map(|n| [is_allowed(n); 2]).collect();
    assert_eq!(every_protocol(&text), expected);
}

/// A route is denied to whom one of its serving backends is; other ports of its address are what they were.
#[test]
fn a_route_is_allowed_as_its_backends_are() {
    let text = "policy: a\ndefault: { db1: deny }\nroutes:\n  r:\n    address: 10.0.0.100\n    port: 80\n    backends: [{ to: 192.0.2.1, port: 8081 }, { to: { vm: db1 }, port: 8080, weight: W }]\nrules:\n  - { name: r, from: { vm: web1 }, to: { vm: db1 }, ports: P, action: allow }\n";
    struct Nothing;
    impl crate::routes::Condition for Nothing {
        fn checked(&self, _: Protocol, _: SocketAddr) -> Option<bool> {
            None
        }
        fn is_shunned(&self, _: Protocol, _: SocketAddr) -> bool {
            false
        }
        fn gone(&self) -> &[crate::routes::Departed] {
            &[]
        }
    }
    let actions = |weight: &str, port: &str| {
        let text = text.replace('W', weight).replace('P', port);
        let document = Document::parse("test.yaml", &text).expect("a sound document");
        let rules = Arc::new(Ruleset::compile(&[document], 7).expect("compiles"));
        let guests = vec![vm("web1", 1, "10.0.0.11"), vm("db1", 2, "10.0.0.12")];
        let t = compiled(&World::new(rules, guests).with_routes(&Nothing)).expect("fits");
        [80, 81].map(|port| {
            let action = ask(&t, 1, Direction::FromGuest, "10.0.0.100", Protocol::TCP, port);
            action == Action::Allow
        })
    };
    assert_eq!(actions("1", "8080"), [true, true]);
    assert_eq!(
        actions("1", "80"),
        [false, true],
        "rules are asked of the backend's port"
    );
    assert_eq!(actions("0", "80"), [true, true], "who has no share is not asked");
}

#[test]
fn an_example_lies_outside_of_the_inner_blocks() {
    let block = |text: &str| text.parse::<Block>().expect("a block");
    let all = BTreeSet::from([block("10.0.0.0/8"), block("10.0.0.0/9"), block("10.128.0.0/16")]);
    assert_eq!(example(block("10.0.0.0/8"), &all), "10.129.0.0".parse().ok());
    let covered = BTreeSet::from([block("10.0.0.0/31"), block("10.0.0.0"), block("10.0.0.1")]);
    assert_eq!(example(block("10.0.0.0/31"), &covered), None);
}

#[test]
fn copies_are_made_where_a_flow_begins_for_a_guest_that_is_here() {
    let text = "policy: a\nrules:\n  - { name: r, from: any, to: any, protocol: tcp, ports: 80, action: allow, mirror: { to: \"ids*\", share: 5% } }\n";
    let mirrors = |guests: Vec<Vm>| {
        let document = Document::parse("t", text).expect("sound");
        let rules = Arc::new(Ruleset::compile(&[document], 7).expect("compiles"));
        let t = compiled(&World::new(rules, guests)).expect("fits");
        move |scope, direction, remote: &str| {
            let remote: IpAddr = remote.parse().expect("an address");
            let peers = t.rules.peers.iter();
            let class = peers
                .filter(|p| Block::new(p.address, p.prefix_bits).contains(remote))
                .max_by_key(|p| p.prefix_bits)?
                .class;
            let mut all = t.rules.rules.iter();
            let rule = all.find(|r| {
                (r.scope, r.direction, r.port) == (scope, direction, Some(80))
                    && r.peer == PeerMatch::Class(class)
            });
            let mirror = rule?.mark.mirror?;
            Some((mirror.scope(), mirror.share().hundredths()))
        }
    };
    let (web, db, ids) = (
        vm("web1", 1, "10.0.0.11"),
        vm("db1", 2, "10.0.0.12"),
        vm("ids1", 3, "10.0.0.13"),
    );
    let with = mirrors(vec![web.clone(), db.clone(), ids]);
    let copies = Some((3, 500));
    assert_eq!(with(1, Direction::FromGuest, "10.0.0.12"), copies);
    assert_eq!(
        with(2, Direction::ToGuest, "10.0.0.11"),
        None,
        "they are made there"
    );
    assert_eq!(with(1, Direction::FromGuest, "192.0.2.1"), copies);
    assert_eq!(with(2, Direction::ToGuest, "192.0.2.1"), copies);
    assert_eq!(
        with(1, Direction::FromGuest, "10.0.0.13"),
        None,
        "it gets them anyhow"
    );
    let without = mirrors(vec![web, db]);
    assert_eq!(
        without(1, Direction::FromGuest, "192.0.2.1"),
        None,
        "nobody is there"
    );
}

#[test]
fn what_is_said_of_frames_holds_and_of_the_rest_the_default_does() {
    let text = "policy: a\ndefault: { web1: deny, x: deny }\nframes: { web1: { tagged: deny, other: allow }, db1: { tagged: allow, other: deny } }\n";
    let document = Document::parse("t", text).expect("sound");
    let rules = Arc::new(Ruleset::compile(&[document], 7).expect("compiles"));
    let names = ["web1", "db1", "x", "y"];
    let guests = names
        .iter()
        .zip(1u32..)
        .map(|(name, n)| vm(name, n, &format!("10.0.0.{n}")));
    let t = compiled(&World::new(rules, guests.collect())).expect("fits");
    let frames: Vec<_> = t
        .scopes
        .values()
        .map(|c| (c.tagged, c.other, c.foreign))
        .collect();
    assert_eq!(
        frames,
        [
            (Tagged::Deny, true, false),
            (Tagged::Allow, false, true),
            (Tagged::Judge, false, false),
            (Tagged::Judge, true, true),
        ]
    );
}

#[test]
fn what_waits_for_its_process_to_be_looked_up_is_held() {
    let document = Document::parse("test.yaml", BY_PROCESS).expect("a sound document");
    let rules = Arc::new(Ruleset::compile(&[document], 7).expect("compiles"));
    let to_db = |port, opaque| {
        let read = Vm {
            trapped: false,
            opaque,
            ..vm("web1", 1, "10.0.0.11")
        };
        let world = World::new(Arc::clone(&rules), vec![read, vm("db1", 2, "10.0.0.12")]);
        let t = compiled(&world).expect("fits");
        ask(&t, 1, Direction::FromGuest, "10.0.0.12", Protocol::TCP, port)
    };
    assert_eq!(to_db(80, false), Action::Deny(Refuse::Hold));
    assert_eq!(to_db(81, false), Action::Deny(Refuse::Reset), "no process may");
    assert_eq!(to_db(80, true), Action::Deny(Refuse::Reset), "nothing will tell");
}

#[test]
fn what_no_trap_shows_is_held_where_it_comes_from_and_where_it_goes_to() {
    let text = "policy: a\ndefault: { db1: deny }\nservices:\n  c: { vm: web1, exe: /bin/c }\n  s: { vm: db1, exe: /bin/s }\nrules:\n  - { name: r, from: c, to: s, ports: 53, action: allow }\n  - { name: w, from: { address: 192.0.2.0/24 }, to: s, ports: 53, action: allow }\n";
    let document = Document::parse("test.yaml", text).expect("a sound document");
    let rules = Arc::new(Ruleset::compile(&[document], 7).expect("compiles"));
    let actions = |trapped| {
        let guest = |name: &str, scope: u32, address: &str| Vm {
            trapped,
            ..vm(name, scope, address)
        };
        let guests = vec![guest("web1", 1, "10.0.0.11"), guest("db1", 2, "10.0.0.12")];
        let t = compiled(&World::new(Arc::clone(&rules), guests)).expect("fits");
        [Protocol::TCP, Protocol::UDP, Protocol::SCTP].map(|protocol| {
            let sent = ask(&t, 1, Direction::FromGuest, "10.0.0.12", protocol, 53);
            let taken = ask(&t, 2, Direction::ToGuest, "192.0.2.1", protocol, 53);
            [sent, taken].map(|action| action == Action::Deny(Refuse::Hold))
        })
    };
    // Of a guest with traps, only what a socket sends that is not connected.
    assert_eq!(actions(true), [[false, false], [true, false], [false, false]]);
    assert_eq!(actions(false), [[true, true], [true, true], [false, false]]);
}
