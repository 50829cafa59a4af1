// SPDX-License-Identifier: GPL-3.0-only
//! What `check` finds, and what it does not find.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{documents, flow, time};
use policy::{Decider, Document, Finding, Kind, Ruleset, check};
use proptest::prelude::*;

fn found(text: &str) -> Vec<Finding> {
    let document = Document::parse("p.yaml", text).unwrap_or_else(|problems| panic!("{problems}"));
    check(&[document], &[]).unwrap()
}

/// Rules, one a line, as `from, to, rest`; what is found of them as `kind rule (other)`.
fn of(rules: &[&str]) -> Vec<String> {
    let mut text = String::from(
        "policy: p\nroles: { admins: { vm: web1, uid: 0 } }\nservices: { redis: { vm: db1, port: 6379, protocol: tcp } }\nrules:\n",
    );
    for (i, rule) in rules.iter().enumerate() {
        text.push_str(&format!("- {{ name: r{i}, {rule} }}\n"));
    }
    let shown = |f: Finding| {
        let other = f.other.map_or(String::new(), |other| format!(" {other}"));
        format!("{} {}{other}", f.kind.as_str(), f.rule)
    };
    found(&text).into_iter().map(shown).collect()
}

#[test]
fn a_denial_and_an_allow_that_cross_are_a_conflict() {
    let allow = "from: { vm: \"web*\" }, to: { vm: db1 }, action: allow, ports: 80";
    let crossing = "from: { vm: web1 }, to: { vm: \"db*\" }, action: deny";
    assert_eq!(of(&[allow, crossing]), ["conflict p/r1 p/r0"]);
    // An exception, and the ground that one is made from, are none.
    assert!(of(&[allow, "from: { vm: web1 }, to: { vm: db1 }, action: deny"]).is_empty());
    assert!(
        of(&[
            allow,
            "from: any, to: any, ports: 1-100, protocol: udp, action: deny"
        ])
        .is_empty()
    );
    // Of different ends, ports, protocols, or in dry run.
    assert!(of(&[allow, "from: { vm: \"app*\" }, to: { vm: \"db*\" }, action: deny"]).is_empty());
    assert!(of(&[allow, &format!("{crossing}, ports: 443")]).is_empty());
    assert!(of(&[allow, &format!("{crossing}, protocol: icmp")]).is_empty());
    assert!(of(&[allow, &format!("{crossing}, dry_run: true")]).is_empty());
    // With the same ends the ports tell.
    let same = "from: { vm: \"web*\" }, to: { vm: db1 }";
    let ports = |a: &str, d: &str| {
        of(&[
            &format!("{same}, action: allow, ports: {a}"),
            &format!("{same}, action: deny, ports: {d}"),
        ])
    };
    assert_eq!(ports("80-90", "85-99"), ["conflict p/r1 p/r0"]);
    assert!(ports("80-90", "85").is_empty());
}

#[test]
fn labels_are_compared_pair_by_pair() {
    let front = "from: { label: { tier: front } }, to: redis, action: allow";
    let of_shop = "from: { label: { app: shop, tier: front } }, to: redis, action: allow";
    // What asks for more is within what asks for less.
    assert_eq!(
        of(&[
            "from: { label: { tier: \"f*\" } }, to: redis, action: deny",
            of_shop
        ]),
        ["shadowed p/r1 p/r0"]
    );
    assert!(of(&[of_shop, front]).is_empty());
    assert_eq!(
        of(&[
            "from: { xen: { type: [pvh, hvm] } }, to: redis, action: deny",
            "from: { xen: { type: pvh, pool: fast } }, to: redis, action: allow"
        ]),
        ["shadowed p/r1 p/r0"]
    );
    // Some guest may have both labels; none has two values of one.
    let crossing = "from: { label: { app: shop } }, to: redis, ports: 6379, action: deny";
    assert_eq!(of(&[front, crossing]), ["conflict p/r1 p/r0"]);
    assert!(of(&[front, &crossing.replace("app: shop", "tier: back")]).is_empty());
    // Outside nobody has a label.
    assert!(of(&["from: world, to: redis, action: allow", crossing]).is_empty());
    assert_eq!(
        of(&["from: world, to: { label: { tier: front } }, action: allow"]),
        ["too-wide p/r0"]
    );
}

#[test]
fn a_rule_whose_flows_another_decides_is_shadowed() {
    let narrow = "from: { vm: web1, exe: /usr/bin/curl }, to: redis, action: allow";
    assert_eq!(
        of(&[
            narrow,
            "from: { vm: \"web?\", exe: \"/usr/**\" }, to: [{ vm: db2 }, redis], action: allow"
        ]),
        Vec::<String>::new(),
        "the first of equals decides"
    );
    assert_eq!(
        of(&[
            "from: { vm: \"web?\", exe: \"/usr/**\" }, to: [{ vm: db2 }, redis], action: audit",
            narrow
        ]),
        ["shadowed p/r1 p/r0"]
    );
    assert_eq!(
        of(&[narrow, "from: any, to: { vm: db1 }, action: deny"]),
        ["shadowed p/r0 p/r1"]
    );
    // It may be that these do not decide.
    for other in [
        "from: any, to: { vm: db1 }, action: deny, dry_run: true",
        "from: any, to: { vm: db1 }, action: deny, require: { time: { hours: 08:00-18:00 } }",
        "from: any, to: { vm: db1 }, action: deny, ports: 6380",
        "from: { vm: web1, exe: /usr/bin/curl, uid: 0 }, to: { vm: db1 }, action: deny",
        "from: any, to: { vm: db1, exe: /usr/bin/redis-server }, action: deny",
    ] {
        let found = of(&[narrow, other]);
        assert!(
            !found.iter().any(|found| found.starts_with("shadowed")),
            "{other}: {found:?}"
        );
    }
}

#[test]
fn what_no_flow_can_match_is_told() {
    for rule in [
        "from: any, to: redis, ports: 80, action: audit",
        "from: any, to: redis, protocol: udp, action: audit",
        "from: any, to: { vm: db1, port: 80 }, protocol: icmp, action: audit",
        "from: world, to: world, action: audit",
        "from: world, to: redis, require: { authentication: network }, action: audit",
        "from: unattributed, to: redis, require: { authentication: process }, action: audit",
        "from: { role: admins, uid: 1000 }, to: redis, action: audit",
        "from: { vm: web2 }, to: redis, require: { role: admins }, action: audit",
    ] {
        assert_eq!(of(&[rule]), ["never-matches p/r0"], "{rule}");
    }
    for rule in [
        "from: any, to: [redis, { vm: db2 }], ports: 80, action: audit",
        "from: unattributed, to: redis, require: { authentication: network }, action: audit",
        "from: { role: admins, uid: 0-9 }, to: redis, action: audit",
        "from: { vm: \"web*\" }, to: redis, require: { role: admins }, action: audit",
    ] {
        assert!(of(&[rule]).is_empty(), "{rule}");
    }
}

#[test]
fn what_lets_too_much_pass_is_told() {
    for rule in [
        "from: any, to: any, action: allow",
        "from: world, to: { vm: db1 }, action: allow",
        "from: { address: 0.0.0.0/0 }, to: { vm: db1 }, action: allow",
        "from: any, to: { vm: db1 }, action: allow",
    ] {
        assert_eq!(of(&[rule]), ["too-wide p/r0"], "{rule}");
    }
    for rule in [
        "from: any, to: any, action: audit",
        "from: any, to: any, ports: 53, action: allow",
        "from: any, to: redis, action: allow",
        "from: any, to: any, action: allow, require: { authentication: process }",
        "from: { vm: web1 }, to: any, action: allow",
        "from: any, to: world, action: allow",
    ] {
        assert!(of(&[rule]).is_empty(), "{rule}");
    }
}

#[test]
fn a_finding_tells_where_what_and_what_to_do() {
    let text = "policy: p\nrules:\n  - name: a\n    from: world\n    to: world\n    action: deny\n";
    let told: Vec<String> = found(text).iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "p.yaml:3:11: never-matches: a flow between two ends outside of this host passes no interface of it; change or remove it"
        ]
    );
    let document = Document::parse(
        "p.yaml",
        "policy: p\nrules:\n- { name: a, from: { vm: wbe1 }, to: { vm: \"db*\" }, action: deny }\n",
    );
    let vms = ["web1".to_owned(), "db1".to_owned()];
    let told = check(&[document.unwrap()], &vms).unwrap();
    assert_eq!(
        (told.len(), told[0].kind, told[0].kind.is_note()),
        (1, Kind::UnknownVm, true)
    );
    assert!(told[0].what.contains("wbe1"));
}

/// A failing case is printed in full, so no file of seeds is kept.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(cases)
    }
}

proptest! {
    #![proptest_config(config(60))]

    /// What is said of a rule is so: it decides no flow.
    #[test]
    fn what_is_said_to_decide_nothing_decides_nothing(
        documents in documents(),
        flows in proptest::collection::vec(flow(), 100),
        time in time(),
    ) {
        let findings = check(&documents, &[]).unwrap();
        let nothing: Vec<&str> = findings
            .iter()
            .filter(|f| matches!(f.kind, Kind::Shadowed | Kind::NeverMatches))
            .map(|f| f.rule.as_str())
            .collect();
        let ruleset = Ruleset::compile(&documents, 1).unwrap().at(time);
        for owned in &flows {
            // A flow between two ends outside is asked here, and met by no interface.
            let known = owned.known(&ruleset);
            let flow = known.flow();
            if flow.source.vm.is_none() && flow.destination.vm.is_none() {
                continue;
            }
            if let Decider::Rule(id) = ruleset.decide(&flow).by {
                let name = ruleset.rule_name(id).unwrap().to_string();
                prop_assert!(!nothing.contains(&name.as_str()), "{} {:?}", name, owned);
            }
        }
    }
}
