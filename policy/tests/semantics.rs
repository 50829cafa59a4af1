// SPDX-License-Identifier: GPL-3.0-only
//! The meaning of a policy, one sentence of the crate's documentation at a time.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use policy::{
    Decider, Document, Endpoint, Facts, Flow, GuestType, Label, LabelFrom, Lock, Measured, Other, Owner,
    Priority, Process, Protocol, Rate, Refuse, RuleId, Ruleset, Side, Tagged, Verdict, VmId,
};

fn vm(name: &str) -> VmId {
    VmId::new(name, [7; 16])
}

fn document(text: &str) -> Document {
    Document::parse("test.yaml", text).unwrap_or_else(|problems| panic!("{problems}"))
}

fn ruleset(text: &str) -> Ruleset {
    Ruleset::compile(&[document(text)], 9).unwrap()
}

const CURL: Process<'static> = Process {
    exe: Some("/usr/bin/curl"),
    args: &[],
    uid: 1000,
    gid: 1000,
    groups: &[],
    loginuid: None,
    container: None,
    parents: &[],
    measured: Measured::Unknown,
};

fn flow<'a>(source: Endpoint<'a>, destination: Endpoint<'a>, port: u16) -> Flow<'a> {
    Flow {
        protocol: Protocol::TCP,
        source,
        destination,
        port,
    }
}

fn at<'a>(vm: &'a VmId, address: &str) -> Endpoint<'a> {
    Endpoint::guest(vm, address.parse().unwrap())
}

fn world(address: &str) -> Endpoint<'static> {
    Endpoint::world(address.parse().unwrap())
}

#[test]
fn without_policy_all_passes() {
    let web = vm("web1");
    let decision = Ruleset::empty(3).decide(&flow(at(&web, "10.0.0.1"), world("1.1.1.1"), 80));
    assert_eq!(decision.verdict, Verdict::Allow);
    assert_eq!(decision.by, Decider::Nothing);
    assert_eq!(decision.generation, 3);
}

#[test]
fn deny_beats_audit_beats_allow() {
    let rules = |actions: &[&str]| {
        let mut text = String::from("policy: p\nrules:\n");
        for (i, action) in actions.iter().enumerate() {
            text.push_str(&format!(
                "- {{ name: r{i}, from: any, to: any, action: {action} }}\n"
            ));
        }
        ruleset(&text).decide(&flow(world("1.1.1.1"), world("1.1.1.2"), 80))
    };
    let decision = rules(&["allow", "audit", "deny, refuse: drop", "deny"]);
    assert_eq!((decision.verdict, decision.refuse), (Verdict::Deny, Refuse::Drop));
    assert_eq!(decision.by, Decider::Rule(RuleId(2)));
    assert!(!decision.audit);
    let decision = rules(&["allow", "audit"]);
    assert_eq!((decision.verdict, decision.audit), (Verdict::Allow, true));
    assert_eq!(decision.by, Decider::Rule(RuleId(1)));
    assert_eq!(rules(&["allow", "allow"]).by, Decider::Rule(RuleId(0)));
}

#[test]
fn the_most_specific_lock_counts_and_of_equal_ones_the_strictest() {
    let sets = [
        "policy: a\nlock: { \"*\": mac, router: off, \"web*\": mac }\n",
        "policy: b\nlock: { \"web*\": address }\n",
    ];
    let documents = sets.map(|text| Document::parse("t", text).unwrap());
    let rules = Ruleset::compile(&documents, 1).unwrap();
    let lock = |name: &str| rules.lock_of(&vm(name)).map(|said| said.value);
    assert_eq!(lock("db1"), Some(Lock::Mac));
    assert_eq!(lock("router"), Some(Lock::Off));
    assert_eq!(lock("web1"), Some(Lock::Address));
    let none = ruleset("policy: a\n");
    assert!(none.lock_of(&vm("db1")).is_none());
}

#[test]
fn copies_are_said_by_the_rule_that_decides() {
    let rules = ruleset(
        "policy: p\nservices:\n  ids: { vm: [sensor, \"ids*\"], exe: /bin/ids }\nrules:\n- { name: a, from: any, to: world, ports: 80, action: audit, mirror: { to: ids, share: 2.5% } }\n- { name: b, from: any, to: world, ports: [80, 81], action: allow, mirror: { to: tap } }\n- { name: c, from: any, to: world, ports: 82, action: allow }\n- { name: d, from: any, to: world, ports: 81, protocol: udp, action: deny }\n",
    );
    let source = vm("web1");
    let asked = |port| {
        flow(
            Endpoint::guest(&source, "10.0.0.1".parse().unwrap()),
            world("192.0.2.1"),
            port,
        )
    };
    let said = |port| {
        let mirror = rules.decide(&asked(port)).mirror?;
        Some((
            rules.mirror_name(mirror.to)?.to_owned(),
            mirror.share.hundredths(),
        ))
    };
    assert_eq!(said(80), Some(("p/ids".to_owned(), 250)));
    assert_eq!(said(81), Some(("tap".to_owned(), 10_000)));
    assert_eq!(said(82), None);
    assert_eq!(said(83), None);
    let denied = Flow {
        protocol: Protocol::UDP,
        ..asked(81)
    };
    assert_eq!(rules.decide(&denied).mirror, None);
    let to = rules.decide(&asked(80)).mirror.unwrap().to;
    let gets: Vec<bool> = ["sensor", "ids7", "tap", "web1"]
        .map(|name| rules.gets_copies(&vm(name), to))
        .into();
    assert_eq!(gets, [true, true, false, false]);
    let told = rules.explain(&asked(80)).to_string();
    assert!(
        told.contains("\nmirrored: 2.50% of such flows, to p/ids\n"),
        "{told}"
    );
}

/// Each by itself: a set that is strict in one loosens nothing in the other.
#[test]
fn the_most_specific_word_on_frames_counts_and_of_equal_ones_the_strictest() {
    let sets = [
        "policy: a\nframes: { \"*\": { tagged: judge, other: deny }, \"web*\": { tagged: deny, other: allow }, old: { tagged: allow } }\n",
        "policy: b\nframes: { \"web*\": { tagged: judge, other: deny }, old: { tagged: judge } }\n",
    ];
    let documents = sets.map(|text| Document::parse("t", text).unwrap());
    let rules = Ruleset::compile(&documents, 1).unwrap();
    let said = |name: &str| {
        let vm = vm(name);
        let (tagged, other) = (rules.tagged_of(&vm), rules.other_of(&vm));
        (tagged.map(|said| said.value), other.map(|said| said.value))
    };
    assert_eq!(said("db1"), (Some(Tagged::Judge), Some(Other::Deny)));
    assert_eq!(said("web1"), (Some(Tagged::Deny), Some(Other::Deny)));
    // What a more specific pattern does not say is what a wider one says.
    assert_eq!(said("old"), (Some(Tagged::Judge), Some(Other::Deny)));
    assert!(ruleset("policy: a\n").tagged_of(&vm("db1")).is_none());
}

#[test]
fn a_default_of_deny_at_either_end_blocks_unless_a_rule_allows() {
    let rules = ruleset(
        "policy: p
default: { db1: deny, quiet: { action: deny, refuse: drop }, seen: audit }
rules:
- { name: dns, from: any, to: any, ports: 53, action: allow }
",
    );
    let (db, quiet, seen, other) = (vm("db1"), vm("quiet"), vm("seen"), vm("other"));
    let decide =
        |from: &VmId, to: &VmId, port| rules.decide(&flow(at(from, "10.0.0.1"), at(to, "10.0.0.2"), port));
    assert_eq!(decide(&db, &other, 80).by, Decider::Default(Side::Source));
    let decision = decide(&other, &quiet, 80);
    assert_eq!(decision.by, Decider::Default(Side::Destination));
    assert_eq!((decision.verdict, decision.refuse), (Verdict::Deny, Refuse::Drop));
    let decision = decide(&other, &seen, 80);
    assert_eq!((decision.verdict, decision.audit), (Verdict::Allow, true));
    assert_eq!(decide(&seen, &db, 80).verdict, Verdict::Deny);
    assert_eq!(decide(&db, &quiet, 53).verdict, Verdict::Allow);
    assert_eq!(decide(&other, &other, 80).by, Decider::Nothing);
}

#[test]
fn the_most_specific_default_counts_and_of_equals_the_stricter() {
    let one = document("policy: a\ndefault: { \"*\": deny, web1: allow, \"db*\": allow }\n");
    let two = document("policy: b\ndefault: { \"db*\": deny, \"db-test*\": allow }\n");
    let rules = Ruleset::compile(&[two, one], 1).unwrap();
    let action = |name: &str| rules.default_of(&vm(name)).unwrap().value.as_str();
    assert_eq!(action("web1"), "allow");
    assert_eq!(action("web2"), "deny");
    assert_eq!(action("db1"), "deny");
    assert_eq!(action("db-test1"), "allow");
}

#[test]
fn every_protocol_that_is_named_is_known() {
    let rules = ruleset(
        "policy: a\nservices:\n  s: { vm: db1, protocol: 253 }\nrules:\n  - { name: r, from: any, to: { vm: db1, protocol: 0 }, action: deny }\n  - { name: q, from: any, to: any, protocol: 47, action: allow }\nroutes:\n  p: { address: 10.0.0.9, port: 53, protocol: udp, backends: [{ to: 192.0.2.1 }] }\nqos:\n  classes:\n    - { name: c, from: any, to: any, protocol: icmp, priority: bulk }\n",
    );
    let named: Vec<u8> = rules.protocols().into_iter().map(|p| p.0).collect();
    assert_eq!(named, [0, 1, 17, 47, 253]);
    assert!(Ruleset::empty(1).protocols().is_empty());
}

#[test]
fn an_unknown_process_matches_no_process_selector_for_allow_or_deny() {
    let web = vm("web1");
    let to = world("1.1.1.1");
    let known = flow(at(&web, "10.0.0.1").with_process(CURL), to, 80);
    let unknown = flow(at(&web, "10.0.0.1"), to, 80);
    for condition in ["exe: /usr/bin/curl", "uid: 1000", "container: none"] {
        for (action, verdict) in [("allow", Verdict::Allow), ("deny", Verdict::Deny)] {
            let rules = ruleset(&format!(
                "policy: p\nrules:\n- {{ name: r, from: {{ {condition} }}, to: any, action: {action} }}\n"
            ));
            let decision = rules.decide(&known);
            assert_eq!(
                (decision.verdict, decision.by),
                (verdict, Decider::Rule(RuleId(0)))
            );
            assert_eq!(rules.decide(&unknown).by, Decider::Nothing, "{condition}");
            let sure = rules.decide_for_any_process(&unknown).is_some();
            assert_eq!(sure, action == "allow", "{condition} {action}");
        }
    }
}

#[test]
fn words_name_what_they_say() {
    let rules = ruleset(
        "policy: p
rules:
- { name: from-world, from: world, to: any, ports: 1, action: deny }
- { name: hidden, from: unattributed, to: any, ports: 2, action: deny }
",
    );
    let web = vm("web1");
    let guest = at(&web, "10.0.0.1");
    let hidden = Endpoint {
        owner: Owner::Unattributed,
        ..guest
    };
    let verdict = |from, port| rules.decide(&flow(from, guest, port)).verdict;
    assert_eq!(verdict(world("1.1.1.1"), 1), Verdict::Deny);
    assert_eq!(verdict(guest, 1), Verdict::Allow);
    assert_eq!(verdict(hidden, 2), Verdict::Deny);
    assert_eq!(verdict(guest, 2), Verdict::Allow);
    assert_eq!(verdict(guest.with_process(CURL), 2), Verdict::Allow);
    // What is no guest has no owner to lack.
    assert_eq!(verdict(world("1.1.1.1"), 2), Verdict::Allow);
}

#[test]
fn conditions_of_a_selector_join_and_lists_choose() {
    let args = ["/usr/bin/python3".to_owned(), "/srv/app.py".to_owned()];
    let app = Process {
        exe: Some("/usr/bin/python3.11"),
        args: &args,
        uid: 33,
        container: Some("3f1c"),
        ..CURL
    };
    let web = vm("web1");
    let holds = |selector: &str| {
        let rules = ruleset(&format!(
            "policy: p\nrules:\n- {{ name: r, from: {{ {selector} }}, to: any, action: deny }}\n"
        ));
        let from = at(&web, "10.0.0.1").with_process(app);
        rules.decide(&flow(from, world("1.1.1.1"), 80)).verdict == Verdict::Deny
    };
    assert!(holds("exe: \"/usr/bin/python3.*\", arg: \"*/*/app.py\""));
    assert!(!holds("exe: \"/usr/bin/python3.*\", arg: \"*/other.py\""));
    assert!(holds("uid: [1-10, 33], vm: [db1, \"web?\"]"));
    assert!(!holds("uid: 34, vm: web1"));
    assert!(holds("container: \"3f*\""));
    assert!(!holds("container: none"));
    assert!(holds("address: [192.168.0.0/16, 10.0.0.0/30]"));
    assert!(!holds("address: 10.0.0.2"));
    assert!(holds("vm: 07070707-0707-0707-0707-070707070707"));
    assert!(!holds("vm: 07070707-0707-0707-0707-070707070708"));
}

#[test]
fn mapped_addresses_are_ipv4() {
    let rules =
        ruleset("policy: p\nrules:\n- { name: r, from: any, to: { address: 10.0.0.0/8 }, action: deny }\n");
    let decision = rules.decide(&flow(world("1.1.1.1"), world("::ffff:10.1.2.3"), 80));
    assert_eq!(decision.verdict, Verdict::Deny);
}

#[test]
fn ports_of_service_and_rule_both_narrow() {
    let rules = ruleset(
        "policy: p
services: { web: { vm: web1, port: 80-90, protocol: tcp } }
rules:
- { name: r, from: any, to: web, ports: [85, 443], action: deny }
",
    );
    let web = vm("web1");
    let mut asked = flow(world("1.1.1.1"), at(&web, "10.0.0.1"), 85);
    assert_eq!(rules.decide(&asked).verdict, Verdict::Deny);
    for port in [80, 443] {
        asked.port = port;
        assert_eq!(rules.decide(&asked).verdict, Verdict::Allow);
    }
    asked.port = 85;
    asked.protocol = Protocol::UDP;
    assert_eq!(rules.decide(&asked).verdict, Verdict::Allow);
}

#[test]
fn a_protocol_without_ports_matches_no_port() {
    let rules = ruleset(
        "policy: p
rules:
- { name: ports, from: any, to: any, ports: 1-65535, action: deny }
- { name: ping, from: any, to: any, protocol: icmp, action: audit }
",
    );
    let mut ping = flow(world("1.1.1.1"), world("1.1.1.2"), 0);
    ping.protocol = Protocol::ICMP;
    assert_eq!(rules.decide(&ping).by, Decider::Rule(RuleId(1)));
}

#[test]
fn services_are_local_to_their_set_and_rules_keep_their_names() {
    let one = document(
        "policy: a\nservices: { x: { vm: web1 } }\nrules:\n- { name: r, from: x, to: any, action: deny }\n",
    );
    let two = document(
        "policy: b\nservices: { x: { vm: db1 } }\nrules:\n- { name: r, from: any, to: x, action: deny }\n",
    );
    let rules = Ruleset::compile(&[two, one], 1).unwrap();
    let names: Vec<String> = rules.rule_names().map(|n| n.to_string()).collect();
    assert_eq!(names, ["a/r", "b/r"]);
    let (web, db, other) = (vm("web1"), vm("db1"), vm("other"));
    let by = |from, to| {
        rules
            .decide(&flow(at(from, "10.0.0.1"), at(to, "10.0.0.2"), 1))
            .by
    };
    assert_eq!(by(&web, &other), Decider::Rule(RuleId(0)));
    assert_eq!(by(&other, &db), Decider::Rule(RuleId(1)));
    assert_eq!(by(&db, &web), Decider::Nothing);
    assert_eq!(rules.rule_name(RuleId(2)), None);
}

#[test]
fn identities_name_services_and_escape_paths() {
    let rules = ruleset(
        "policy: p
services:
  client: { vm: web1, exe: /usr/bin/curl }
  cache: { vm: web1, port: 6379 }
  all-web: { vm: \"web*\" }
",
    );
    let web = vm("web1");
    let end = at(&web, "10.0.0.1");
    let services = |end, listens| -> Vec<String> {
        rules
            .identity(&end, listens)
            .services
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    assert_eq!(services(end.with_process(CURL), None), ["p/all-web", "p/client"]);
    assert_eq!(services(end, None), ["p/all-web"]);
    assert_eq!(
        services(end, Some((Protocol::TCP, 6379))),
        ["p/all-web", "p/cache"]
    );

    let id = |end: Endpoint<'_>| rules.identity(&end, None).id;
    assert_eq!(
        id(end.with_process(CURL)),
        "spiffe://xmesh/vm/web1/exe/usr/bin/curl"
    );
    let odd = Process {
        exe: Some("/opt/../a b%"),
        container: Some("3f1c"),
        ..CURL
    };
    assert_eq!(
        id(end.with_process(odd)),
        "spiffe://xmesh/vm/web1/container/3f1c/exe/opt/%2E%2E/a%20b%25"
    );
    assert_eq!(id(end), "spiffe://xmesh/vm/web1");
    assert_eq!(id(world("::ffff:10.0.0.9")), "spiffe://xmesh/address/10.0.0.9");
}

#[test]
fn the_daemon_can_ask_what_a_policy_mentions() {
    let rules = ruleset(
        "policy: p
services:
  client: { vm: web1, exe: /usr/bin/curl }
  office: { address: [192.168.7.0/24, 10.9.9.9] }
  dns: { port: 53, protocol: udp }
rules:
- { name: r, from: client, to: office, ports: [80, 8000-8010], protocol: tcp, action: allow }
",
    );
    let blocks: Vec<String> = rules.address_blocks().iter().map(ToString::to_string).collect();
    assert_eq!(blocks, ["10.9.9.9", "192.168.7.0/24"]);
    let ports: Vec<String> = rules
        .ports()
        .iter()
        .map(|(protocol, range)| format!("{} {range}", protocol.unwrap()))
        .collect();
    assert_eq!(ports, ["tcp 80", "tcp 8000-8010", "udp 53"]);
    assert!(rules.depends_on_process(&vm("web1"), Side::Source));
    assert!(!rules.depends_on_process(&vm("web1"), Side::Destination));
    assert!(!rules.depends_on_process(&vm("db1"), Side::Source));
}

#[test]
fn explanations_name_rules_misses_and_defaults() {
    let rules = ruleset(
        "policy: p
default: { \"db*\": deny }
services:
  client: { vm: web1, exe: /usr/bin/curl }
  db: { vm: db1, port: 5432 }
rules:
- { name: no-telnet, from: any, to: any, ports: 23, action: deny }
- { name: query, from: client, to: db, action: allow }
- { name: watched, from: client, to: { address: 10.0.0.0/8 }, action: audit }
- { name: far, from: world, to: world, action: deny }
",
    );
    let (web, db) = (vm("web1"), vm("db1"));
    let mut asked = flow(at(&web, "10.0.0.1").with_process(CURL), at(&db, "10.0.0.2"), 5432);
    assert_eq!(
        rules.explain(&asked).to_string(),
        "allow with an event by rule p/watched (from client to { address: 10.0.0.0/8 }); generation 9
also matches: p/query (allow, from client to db)
all but matches: p/no-telnet (deny): port must be 23, is 5432
default of web1: allow (no set says otherwise)
default of db1: deny (set p, \"db*\")"
    );
    asked.source = at(&web, "10.0.0.1");
    let explanation = rules.explain(&asked);
    let text = explanation.to_string();
    assert!(
        text.starts_with("deny by the default of db1, as no rule matches; generation 9\n"),
        "{text}"
    );
    assert!(
        text.contains(
            "p/query (allow): from exe must be /usr/bin/curl, is not known: the process has not been seen"
        ),
        "{text}"
    );
    let json = serde_json::to_string(&explanation).unwrap();
    assert_eq!(
        serde_json::from_str::<policy::Explanation>(&json).unwrap(),
        explanation
    );
}

const QOS: &str = "policy: p
default: { db2: deny }
services:
  curl: { vm: web1, exe: /usr/bin/curl }
  redis: { vm: db1, port: 6379 }
qos:
  vms:
    \"web*\": { to_guest: 1gbit, from_guest: 200mbit }
    web2: { from_guest: 10mbit }
  classes:
  - { name: cache, from: curl, to: redis, bandwidth: { guarantee: 10mbit, ceiling: 100mbit }, priority: realtime, dscp: ef }
  - { name: any-cache, from: any, to: redis, priority: interactive }
  - { name: out, from: { vm: \"web*\" }, to: world, priority: bulk, dscp: 8 }
";

/// The rule that decides says where the flow goes; one that matches beside it says nothing.
#[test]
fn what_a_rule_denies_goes_where_that_rule_says() {
    let ruleset = ruleset(
        "policy: p
services: { pot: { vm: trap1, port: 22, protocol: tcp } }
rules:
- { name: watched, from: any, to: { vm: db1 }, ports: 22, action: deny, instead: pot }
- { name: page, from: any, to: { vm: db1 }, ports: 80, action: deny, instead: { address: 192.0.2.7, port: 8080 } }
- { name: closed, from: any, to: { vm: db1 }, ports: [22, 23], action: deny, refuse: drop }
",
    );
    let (web, db) = (vm("web1"), vm("db1"));
    let to = |port| flow(at(&web, "10.0.0.1"), at(&db, "10.0.0.2"), port);
    let instead = |port| ruleset.instead(ruleset.decide(&to(port)).by);
    let pot = instead(22).unwrap();
    assert_eq!((&*pot.name, pot.who.port()), ("pot", Some(22)));
    let trap = vm("trap1");
    assert!(pot.who.selects(&at(&trap, "10.0.0.9")) && !pot.who.selects(&at(&db, "10.0.0.2")));
    let page = instead(80).unwrap();
    assert_eq!(
        page.who.addresses().collect::<Vec<_>>(),
        ["192.0.2.7".parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(page.who.port(), Some(8080));
    assert!(instead(23).is_none() && instead(24).is_none());
    let told = ruleset.explain(&to(22)).to_string();
    let first =
        "deny by rule p/watched (from any to { vm: db1 }), which sends it to pot instead; generation 9\n";
    assert!(told.starts_with(first), "{told}");
    assert_eq!(ruleset.diverting().count(), 2);
}

#[test]
fn a_flow_that_passes_is_in_the_first_class_that_it_matches() {
    let rules = ruleset(QOS);
    let (web1, web2, db1, db2) = (vm("web1"), vm("web2"), vm("db1"), vm("db2"));
    let end = |vm| Endpoint::guest(vm, [10, 0, 0, 1].into());
    let class = |flow: &Flow<'_>| {
        let id = rules.decide(flow).class?;
        Some(rules.class(id).unwrap().to_string())
    };
    let to_cache = |source| class(&flow(source, end(&db1), 6379));
    assert_eq!(
        to_cache(end(&web1).with_process(CURL)).as_deref(),
        Some("p/cache")
    );
    let cached = flow(end(&web1).with_process(CURL), end(&db1), 6379);
    let explained = rules.explain(&cached).to_string();
    let said = "\nclass: p/cache (realtime, guarantee 10mbit, ceiling 100mbit, dscp ef)\n";
    assert!(explained.contains(said), "{explained}");
    // Not known to be curl, it is what any is.
    assert_eq!(to_cache(end(&web1)).as_deref(), Some("p/any-cache"));
    assert_eq!(class(&flow(end(&web1), end(&db1), 80)), None);
    let world = Endpoint::world([192, 0, 2, 1].into());
    assert_eq!(class(&flow(end(&web2), world, 80)).as_deref(), Some("p/out"));
    // What does not pass is in none.
    assert_eq!(class(&flow(end(&web1), end(&db2), 6379)), None);

    let first = rules.classes().next().unwrap().treatment;
    assert_eq!(first.bandwidth.guarantee.unwrap().bits(), 10_000_000);
    assert_eq!(
        (first.priority, first.dscp.unwrap().value()),
        (Priority::Realtime, 46)
    );
    let of = |vm| {
        rules
            .classes_of(vm)
            .map(|class| class.name.to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(of(&web1), ["cache", "any-cache", "out"]);
    assert_eq!(of(&db1), ["cache", "any-cache"]);
    assert_eq!(of(&db2), ["any-cache"]);
    assert!(rules.ports().iter().any(|(_, range)| range.contains(6379)));
}

#[test]
fn the_total_of_a_vm_is_that_of_the_most_specific_pattern_and_of_equal_ones_the_lower() {
    let other = "policy: q\nqos: { vms: { \"web*\": { to_guest: 500mbit } } }\n";
    let rules = Ruleset::compile(&[document(QOS), document(other)], 9).unwrap();
    let of = |name: &str| {
        rules
            .totals_of(&vm(name))
            .map(|said| (said.value.to_guest, said.value.from_guest))
    };
    let rate = |text: &str| text.parse::<Rate>().ok();
    assert_eq!(of("web1"), Some((rate("500mbit"), None)));
    assert_eq!(of("web2"), Some((None, rate("10mbit"))));
    assert_eq!(of("db1"), None);
}

#[test]
fn the_canonical_form_is_read_back() {
    let original = document(
        "policy: p
description: said
default: { \"*\": deny, web1: { action: deny, refuse: drop }, x: audit }
services:
  ver: { port: 80, versions: { v1: { vm: web1 }, v2: { vm: web2, exe: /x } } }
  a: { vm: [web1, 07070707-0707-0707-0707-070707070707], exe: '/x\\*', arg: -v, uid: [1, 5-9], container: [none, \"3*\"], port: [1, 2-3], protocol: 47 }
rules:
- { name: r, description: why, from: [any, a2], to: [{ address: 10.0.0.0/8 }, world], ports: 80-90, protocol: tcp, action: deny, refuse: drop }
- { name: s, from: a2, to: unattributed, action: audit }
- { name: u, from: any, to: any, action: allow, require: { authentication: { from: measured } } }
- { name: v, from: any, to: any, action: allow, require: { authentication: { from: measured, to: process } } }
- { name: t, from: { role: [staff, root], parent: /sbin/init }, to: ver@v2, action: audit, dry_run: true, require: { authentication: network, role: root, time: [{ days: [mon, sat-sun], hours: 22:00-06:00, zone: \"-03:30\" }, { days: wed }] } }
programs:
  curl: { exe: [/usr/bin/curl, \"/opt/*/curl\"], vm: \"web*\", version: 7.88.1-10, text: [{ page: 9, sha256: BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBA= }, { page: 4, sha256: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= }] }
  sh: { exe: \"**/sh\", text: { page: 0, sha256: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA== } }
roles:
  staff: [{ vm: \"web*\", uid: [1, 5-9], gid: 4 }, { loginuid: 1000-1999 }]
  root: { uid: 0 }
qos:
  vms: { \"web*\": { to_guest: 1gbit, from_guest: 1.5mbit }, db1: { from_guest: 8kbit } }
  classes:
  - { name: c, description: why, from: any, to: a2, ports: [1, 5-9], protocol: tcp, bandwidth: { guarantee: 12345bit }, priority: bulk, dscp: 3 }
  - { name: d, from: any, to: world, dscp: EF }
"
        .replace("protocol: 47", "protocol: sctp")
        .replace("rules:", "  a2: { uid: 0 }\nrules:")
        .as_str(),
    );
    let json = serde_json::to_string(&original).unwrap();
    assert_eq!(document(&json), original, "{json}");
    let pretty = serde_json::to_string_pretty(&original).unwrap();
    assert_eq!(document(&pretty), original);
}

#[test]
fn a_role_is_who_the_user_is_wherever_the_guest_says_so() {
    let rules = ruleset(
        "policy: p
roles:
  admins: { uid: 0 }
  web-staff:
    - { vm: \"web*\", gid: [33, 100-199] }
    - { vm: db1, loginuid: 1000 }
rules:
- { name: a, from: { role: admins }, to: any, ports: 1, action: audit }
- { name: w, from: { role: [admins, web-staff], exe: /usr/bin/curl }, to: any, ports: 2, action: audit }
",
    );
    let (web, db) = (vm("web1"), vm("db1"));
    let groups = [7, 150];
    let audited = |at_vm: &VmId, process: Process<'_>, port| {
        rules
            .decide(&flow(
                at(at_vm, "10.0.0.1").with_process(process),
                world("1.1.1.1"),
                port,
            ))
            .audit
    };
    let with = |uid, gid, groups, loginuid| Process {
        uid,
        gid,
        groups,
        loginuid,
        ..CURL
    };
    assert!(audited(&web, with(0, 0, &[], None), 1) && !audited(&web, with(1, 0, &[], None), 1));
    assert!(audited(&web, with(1, 33, &[], None), 2));
    assert!(audited(&web, with(1, 1, &groups, None), 2));
    assert!(!audited(&db, with(1, 33, &groups, None), 2));
    assert!(audited(&db, with(0, 1, &[], Some(1000)), 2) && audited(&db, with(5, 1, &[], Some(1000)), 2));
    assert!(!audited(&db, with(5, 1, &[], Some(1001)), 2));
    // Not known, it may be anybody.
    let unknown = flow(at(&web, "10.0.0.1"), world("1.1.1.1"), 1);
    assert!(!rules.decide(&unknown).audit && rules.decide_for_any_process(&unknown).is_none());
    assert!(rules.depends_on_process(&web, Side::Source));
    let told = rules.explain(&flow(
        at(&web, "10.0.0.1").with_process(with(5, 6, &groups, Some(8))),
        world("1.1.1.1"),
        1,
    ));
    let told = told.to_string();
    assert!(
        told.contains("p/a (audit): from role must be admins, is uid 5, gid 6, groups 7 150, login 8"),
        "{told}"
    );
}

#[test]
fn a_version_is_its_service_and_what_it_has_besides() {
    let rules = ruleset(
        "policy: p
services:
  web:
    exe: /usr/bin/web
    port: 80
    versions: { v1: { vm: web1 }, v2: { vm: web2, parent: \"**/runner\" } }
rules:
- { name: a, from: any, to: web@v1, action: audit }
- { name: b, from: web@v2, to: world, action: audit }
",
    );
    let (web1, web2) = (vm("web1"), vm("web2"));
    let server = Process {
        exe: Some("/usr/bin/web"),
        ..CURL
    };
    let to = |vm, port| {
        rules
            .decide(&flow(
                world("1.1.1.1"),
                at(vm, "10.0.0.1").with_process(server),
                port,
            ))
            .audit
    };
    assert!(to(&web1, 80) && !to(&web1, 81) && !to(&web2, 80));
    let parents = ["/usr/bin/sh".into(), "/opt/runner".into()];
    let from = |parents| {
        let process = Process { parents, ..server };
        rules
            .decide(&flow(
                at(&web2, "10.0.0.2").with_process(process),
                world("1.1.1.1"),
                443,
            ))
            .audit
    };
    assert!(from(&parents) && !from(&parents[..1]) && !from(&[]));
    let end = at(&web1, "10.0.0.1").with_process(server);
    let services = rules.identity(&end, Some((Protocol::TCP, 80))).services;
    let names: Vec<String> = services.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["p/web", "p/web@v1"]);
}

#[test]
fn what_a_rule_requires_must_hold_too() {
    let rules = ruleset(
        "policy: p
default: { \"*\": deny }
roles: { staff: { uid: 1000 } }
rules:
- { name: net, from: any, to: { vm: db1 }, ports: 1, action: allow, require: { authentication: network } }
- { name: proc, from: any, to: { vm: db1 }, ports: 2, action: allow, require: { authentication: process } }
- { name: staff, from: any, to: { vm: db1 }, ports: 3, action: allow, require: { role: staff } }
",
    );
    let (web, db) = (vm("web1"), vm("db1"));
    let (from, to) = (at(&web, "10.0.0.1"), at(&db, "10.0.0.2"));
    let passes = |from, to, port| rules.decide(&flow(from, to, port)).verdict == Verdict::Allow;
    assert!(passes(from.proven(), to.proven(), 1));
    for (from, to) in [
        (from, to.proven()),
        (from.proven(), to),
        (world("1.1.1.1").proven(), to.proven()),
    ] {
        assert!(!passes(from, to, 1));
    }
    let (client, server) = (from.proven().with_process(CURL), to.proven().with_process(CURL));
    assert!(passes(client, server, 2));
    let hidden = Endpoint {
        owner: Owner::Unattributed,
        ..client
    };
    for (from, to) in [(from.proven(), server), (client, to.proven()), (hidden, server)] {
        assert!(!passes(from, to, 2));
    }
    // What is not known yet may turn out to be so; what is hidden, or not proven, may not.
    assert!(
        rules
            .decide_for_any_process(&flow(from.proven(), server, 2))
            .is_none()
    );
    assert!(rules.decide_for_any_process(&flow(hidden, server, 2)).is_some());
    assert!(rules.decide_for_any_process(&flow(from, server, 2)).is_some());
    assert!(rules.depends_on_process(&db, Side::Destination));
    assert!(passes(from.with_process(CURL), to, 3));
    let root = Process { uid: 0, ..CURL };
    assert!(!passes(from.with_process(root), to, 3));

    let told = rules
        .explain(&flow(from.with_process(CURL), server, 1))
        .to_string();
    assert!(
        told.contains(
            "p/net (allow): from authentication must be network, is 10.0.0.1, which no lock holds it to"
        ),
        "{told}"
    );
}

#[test]
fn a_program_is_measured_where_its_text_is_the_policys() {
    let rules = ruleset(
        "policy: p
default: { \"*\": deny }
programs:
  curl: { exe: /usr/bin/curl, vm: web1, text: { page: 0, sha256: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA== } }
rules:
- { name: from, from: { vm: web1 }, to: any, ports: 1, action: allow, require: { authentication: { from: measured } } }
- { name: both, from: { vm: web1 }, to: any, ports: 2, action: allow, require: { authentication: measured } }
",
    );
    let (web, db) = (vm("web1"), vm("db1"));
    let of = |measured| {
        at(&web, "10.0.0.1")
            .proven()
            .with_process(Process { measured, ..CURL })
    };
    let outside = world("1.1.1.1");
    let passes = |from, to, port| rules.decide(&flow(from, to, port)).verdict == Verdict::Allow;
    let sure = |from, port| rules.decide_for_any_process(&flow(from, outside, port)).is_some();
    assert!(passes(of(Measured::Same), outside, 1));
    assert!(
        sure(of(Measured::Same), 1) && sure(of(Measured::Changed), 1) && sure(of(Measured::Unregistered), 1)
    );
    for measured in [Measured::Unknown, Measured::Unregistered, Measured::Changed] {
        assert!(!passes(of(measured), outside, 1), "{measured:?}");
    }
    assert!(!sure(of(Measured::Unknown), 1), "it may turn out to be");
    let moved = Endpoint {
        proven: false,
        ..of(Measured::Same)
    };
    assert!(!passes(moved, outside, 1), "it may be another guest's");
    assert!(
        !passes(of(Measured::Same), outside, 2),
        "the other end is not measured"
    );
    let same = Process {
        measured: Measured::Same,
        ..CURL
    };
    assert!(passes(
        of(Measured::Same),
        at(&db, "10.0.0.2").proven().with_process(same),
        2
    ));

    let told = rules
        .explain(&flow(of(Measured::Changed), outside, 1))
        .to_string();
    assert!(
        told.contains(
            "from authentication must be measured, is process: its text is that of no program of the policy"
        ),
        "{told}"
    );
    assert!(rules.asks_measured() && rules.has_programs());
    let programs = |vm, exe| {
        rules
            .programs_for(vm, exe)
            .map(|(name, _)| name.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(programs(&web, "/usr/bin/curl"), ["p/curl"]);
    assert!(programs(&db, "/usr/bin/curl").is_empty() && programs(&web, "/usr/bin/curl2").is_empty());
    let (_, curl) = rules.programs_for(&web, "/usr/bin/curl").next().unwrap();
    assert_eq!(curl.pages().map(|(page, _)| page).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn rules_hold_at_their_times_and_at_no_other() {
    let rules = ruleset(
        "policy: p
rules:
- { name: night, from: any, to: any, action: deny, require: { time: { hours: 22:00-06:00, zone: \"+02:00\" } } }
- { name: always, from: any, to: any, action: audit }
",
    );
    let asked = flow(world("1.1.1.1"), world("1.1.1.2"), 80);
    let by = |rules: &Ruleset| rules.decide(&asked).by;
    // Nobody has said what time it is.
    assert_eq!(by(&rules), Decider::Rule(RuleId(1)));
    let hour = 3600;
    let (noon, night) = (rules.at(12 * hour), rules.at(23 * hour));
    assert_eq!(by(&noon), Decider::Rule(RuleId(1)));
    assert_eq!(by(&night), Decider::Rule(RuleId(0)));
    assert!(noon.is_at(13 * hour) && !noon.is_at(23 * hour));
    assert!(!noon.same_hours(&night) && noon.same_hours(&rules.at(13 * hour)));
    assert_eq!(noon.next_change(12 * hour), Some(20 * hour));
    assert_eq!(by(&rules.at(20 * hour - 1)), Decider::Rule(RuleId(1)));
    assert_eq!(by(&rules.at(20 * hour)), Decider::Rule(RuleId(0)));
    let told = noon.explain(&asked).to_string();
    assert!(
        told.contains("p/night (deny): time must be 22:00-06:00 +02:00, is another time"),
        "{told}"
    );
    assert_eq!(ruleset("policy: p\n").next_change(0), None);
}

#[test]
fn a_dry_run_decides_nothing_and_is_told() {
    let rules = ruleset(
        "policy: p
default: { db1: deny }
rules:
- { name: allowed, from: any, to: any, ports: 80, action: allow }
- { name: closing, from: any, to: any, ports: [80, 81], action: deny, dry_run: true }
- { name: opening, from: any, to: any, ports: 82, action: allow, dry_run: true }
- { name: same, from: any, to: any, ports: 83, action: allow, dry_run: true }
- { name: before, from: any, to: any, ports: 84, action: deny }
- { name: after, from: any, to: any, ports: 84, action: audit, dry_run: true }
",
    );
    let (web, db) = (vm("web1"), vm("db1"));
    let decide = |to: &VmId, port| rules.decide(&flow(at(&web, "10.0.0.1"), at(to, "10.0.0.2"), port));
    let would = |to: &VmId, port| {
        let would = decide(to, port).dry_run?;
        Some((rules.rule_name(would.rule).unwrap().to_string(), would.verdict))
    };
    assert_eq!(decide(&web, 80).by, Decider::Rule(RuleId(0)));
    assert_eq!(would(&web, 80), Some(("p/closing".to_owned(), Verdict::Deny)));
    assert_eq!(decide(&web, 81).by, Decider::Nothing);
    assert_eq!(would(&web, 81), Some(("p/closing".to_owned(), Verdict::Deny)));
    assert_eq!(decide(&db, 82).verdict, Verdict::Deny);
    assert_eq!(would(&db, 82), Some(("p/opening".to_owned(), Verdict::Allow)));
    assert_eq!(would(&web, 83), None, "it would be the same");
    assert_eq!(would(&web, 84), None, "another decides before it");
    let dry: Vec<String> = rules.dry_runs().map(|name| name.to_string()).collect();
    assert_eq!(dry, ["p/closing", "p/opening", "p/same", "p/after"]);
    let told = rules
        .explain(&flow(at(&web, "10.0.0.1"), at(&web, "10.0.0.2"), 80))
        .to_string();
    assert!(
        told.contains("also matches: p/closing (deny, in dry run, from any to any)\nwithout dry run: deny by rule p/closing"),
        "{told}"
    );
}

/// A guest with labels of xenstore.
fn labelled(name: &str, given: &[(&str, &str)]) -> VmId {
    let from = |key: &str| LabelFrom::Xenstore(format!("/local/domain/7/xmesh/labels/{key}").into());
    let labels = given
        .iter()
        .map(|(key, value)| Label::new(key, value, from(key)).unwrap());
    VmId {
        facts: std::sync::Arc::new(Facts::new(
            Some(GuestType::Pvh),
            Some("Pool-0".into()),
            labels.collect(),
        )),
        ..vm(name)
    }
}

#[test]
fn labels_of_documents_are_by_pattern_and_beat_those_of_xenstore() {
    let documents = [
        document(
            "policy: b\nlabels: { \"web*\": { tier: b-web, app: shop }, web1: { role: first }, \"*\": { zone: all } }\n",
        ),
        document(
            "policy: a\nlabels: { \"web*\": { tier: a-web }, 07070707-0707-0707-0707-070707070707: { role: by-uuid } }\n",
        ),
    ];
    let rules = Ruleset::compile(&documents, 1).unwrap();
    let web = rules.known(&labelled("web1", &[("app", "given"), ("rack", "r7")]));
    let shown: Vec<String> = web
        .facts
        .labels()
        .iter()
        .map(|label| format!("{label} by {}", label.from()))
        .collect();
    assert_eq!(
        shown,
        [
            "app=shop by set b (\"web*\")",
            "rack=r7 by /local/domain/7/xmesh/labels/rack",
            "role=by-uuid by set a (\"07070707-0707-0707-0707-070707070707\")",
            "tier=a-web by set a (\"web*\")",
            "zone=all by set b (\"*\")",
        ]
    );
    // Asked again, it is the same; and a ruleset that says nothing leaves what xenstore says.
    assert_eq!(rules.known(&web), web);
    let bare = Ruleset::empty(2).known(&web);
    assert_eq!(bare, labelled("web1", &[("app", "given"), ("rack", "r7")]));
}

#[test]
fn selectors_ask_for_labels_and_for_what_xen_says() {
    let rules = ruleset(
        "policy: p
default: { \"*\": deny }
labels: { db1: { tier: back, app: shop } }
services:
  fronts: { label: { tier: front } }
  shop: { label: { app: [shop, \"pay-*\"] }, xen: { type: [pvh, hvm] }, port: 80 }
rules:
- { name: a, from: fronts, to: shop, action: allow }
- { name: b, from: { xen: { pool: \"Pool-*\" }, address: 10.0.0.1 }, to: world, ports: 443, action: allow }
",
    );
    let (front, back) = (
        labelled("web1", &[("tier", "front")]),
        labelled("web2", &[("tier", "back")]),
    );
    let db = rules.known(&labelled("db1", &[("tier", "front")]));
    let decide = |from: &VmId, to| rules.decide(&flow(at(from, "10.0.0.1"), to, 80));
    assert_eq!(decide(&front, at(&db, "10.0.0.2")).by, Decider::Rule(RuleId(0)));
    assert_eq!(decide(&back, at(&db, "10.0.0.2")).verdict, Verdict::Deny);
    assert_eq!(
        decide(&db, at(&db, "10.0.0.2")).verdict,
        Verdict::Deny,
        "what a document says beats xenstore"
    );
    let pool = rules.decide(&flow(at(&back, "10.0.0.1"), world("1.1.1.1"), 443));
    assert_eq!(pool.by, Decider::Rule(RuleId(1)));
    let unknown = vm("web3");
    assert_eq!(
        rules
            .decide(&flow(at(&unknown, "10.0.0.1"), world("1.1.1.1"), 443))
            .verdict,
        Verdict::Deny
    );
    let told = |from: &VmId, to, port| rules.explain(&flow(at(from, "10.0.0.1"), to, port)).to_string();
    let said = told(&back, at(&db, "10.0.0.2"), 80);
    assert!(
        said.contains("all but matches: p/a (allow): from label must be tier=front, is tier=back\n"),
        "{said}"
    );
    let said = told(&unknown, world("1.1.1.1"), 443);
    assert!(
        said.contains("p/b (allow): from xen must be pool Pool-*, is pool not known\n"),
        "{said}"
    );
    let said = told(&front, at(&back, "10.0.0.2"), 80);
    assert!(
        said.contains("p/a (allow): to label must be app=shop or pay-*, is without app\n"),
        "{said}"
    );
    let services = rules.identity(&at(&front, "10.0.0.1"), None).services;
    assert_eq!(
        services.iter().map(|s| s.to_string()).collect::<Vec<_>>(),
        ["p/fronts"]
    );
}

#[test]
fn a_label_of_a_guest_says_whether_its_process_matters() {
    let rules = ruleset(
        "policy: p\nrules: [{ name: r, from: { label: { tier: front }, exe: /usr/bin/curl }, to: any, action: deny }]\n",
    );
    let (front, back) = (
        labelled("web1", &[("tier", "front")]),
        labelled("web2", &[("tier", "back")]),
    );
    assert!(rules.depends_on_process(&front, Side::Source));
    assert!(!rules.depends_on_process(&back, Side::Source));
}

#[test]
fn guests_with_many_labels_are_found_by_each() {
    let mut text = String::from("policy: p\nrules:\n");
    for n in 0..40 {
        text.push_str(&format!(
            "- {{ name: r{n}, from: {{ label: {{ k{n}: v }} }}, to: {{ label: {{ k{}: v }} }}, ports: {}, action: deny }}\n",
            39 - n,
            100 + n
        ));
    }
    let rules = ruleset(&text);
    let all: Vec<String> = (0..40).map(|n| format!("k{n}")).collect();
    let given: Vec<(&str, &str)> = all.iter().map(|key| (key.as_str(), "v")).collect();
    let many = labelled("web1", &given);
    for n in 0..40 {
        let asked = flow(at(&many, "10.0.0.1"), at(&many, "10.0.0.2"), 100 + n);
        assert_eq!(rules.decide(&asked).by, Decider::Rule(RuleId(n.into())), "{n}");
    }
    // Without a port of its own each rule is under one key of many.
    let rules = ruleset(&text.replace("ports: ", "description: p"));
    let asked = flow(at(&many, "10.0.0.1"), at(&many, "10.0.0.2"), 9);
    assert_eq!(rules.decide(&asked).by, Decider::Rule(RuleId(0)));
    let (last, first) = (labelled("a", &[("k39", "v")]), labelled("b", &[("k0", "v")]));
    let asked = flow(at(&last, "10.0.0.1"), at(&first, "10.0.0.2"), 9);
    assert_eq!(rules.decide(&asked).by, Decider::Rule(RuleId(39)));
}

#[test]
fn keys_of_labels_are_bounded_over_all_sets() {
    let set = |name: &str, from: usize, to: usize| {
        let labels: Vec<String> = (from..to).map(|n| format!("k{n}: v")).collect();
        document(&format!(
            "policy: {name}\nlabels: {{ \"*\": {{ {} }} }}\n",
            labels.join(", ")
        ))
    };
    assert!(Ruleset::compile(&[set("a", 0, 40), set("b", 20, 64)], 1).is_ok());
    let told = Ruleset::compile(&[set("a", 0, 40), set("b", 20, 65)], 1)
        .unwrap_err()
        .to_string();
    assert_eq!(
        told,
        "test.yaml:1:9: 65 keys of labels in all sets together, the limit is 64; use one key for what is of one kind, \
         and tell it apart by values"
    );
}
