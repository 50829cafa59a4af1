// SPDX-License-Identifier: GPL-3.0-only

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use policyd_api::FlowEnd;

fn guest(name: &str, exe: Option<&str>) -> FlowEnd {
    FlowEnd {
        domain: Some(name.into()),
        exe: exe.map(str::to_owned),
        uid: exe.map(|_| 0),
        address: Some([10, 0, 0, 1].into()),
        ..FlowEnd::default()
    }
}

fn outside(address: &str) -> FlowEnd {
    let (address, prefix) = match address.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix.parse().unwrap())),
        None => (address, None),
    };
    FlowEnd {
        address: address.parse().ok(),
        prefix,
        ..FlowEnd::default()
    }
}

type Flows = Vec<(Arc<FlowName>, FlowTotals)>;

/// So many flows, seen between 1000 and 2000.
fn flow(from: FlowEnd, to: FlowEnd, port: u16, verdict: Verdict, flows: u64) -> (Arc<FlowName>, FlowTotals) {
    let name = FlowName {
        from,
        to,
        protocol: "tcp".into(),
        port: Some(port),
        verdict,
        rule: "no rule".into(),
        by_policy: true,
    };
    let totals = FlowTotals {
        flows,
        packets_out: flows,
        first: 1000,
        last: 2000,
        ..FlowTotals::default()
    };
    (Arc::new(name), totals)
}

fn allowed(from: FlowEnd, to: FlowEnd, port: u16) -> (Arc<FlowName>, FlowTotals) {
    flow(from, to, port, Verdict::Allow, 1)
}

fn there(names: &[&str]) -> Vec<Guest> {
    names
        .iter()
        .map(|name| Guest {
            name: (*name).to_owned(),
            uuid: [0; 16],
            facts: std::sync::Arc::default(),
            sighted: true,
        })
        .collect()
}

fn learned(flows: &Flows, options: &Options) -> Suggestion {
    let guests = there(&["web1", "web2", "db1", "db2"]);
    suggest(flows, (1000, 2000), &guests, &Ruleset::empty(0), options).unwrap_or_else(|e| panic!("{e}"))
}

fn document(suggestion: &Suggestion) -> (Document, Candidate) {
    let document =
        Document::parse("s.yaml", &suggestion.text).unwrap_or_else(|e| panic!("{e}\n{}", suggestion.text));
    let rules = Ruleset::compile(std::slice::from_ref(&document), 1).unwrap_or_else(|e| panic!("{e}"));
    let candidate = Candidate::new(rules.into(), std::iter::once(&document));
    (document, candidate)
}

fn verdict(candidate: &Candidate, name: &FlowName) -> Option<Verdict> {
    candidate.judge(name).map(|judged| judged.verdict)
}

/// The lines that say something.
fn said(suggestion: &Suggestion) -> Vec<&str> {
    let lines = suggestion
        .text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    lines.filter(|line| !line.starts_with("description")).collect()
}

const CURL: Option<&str> = Some("/usr/bin/curl");
const HTTPD: Option<&str> = Some("/usr/sbin/httpd");

#[test]
fn a_document_is_as_a_person_would_write_it() {
    let mut flows = vec![
        flow(guest("web1", CURL), guest("db1", HTTPD), 80, Verdict::Allow, 7),
        flow(guest("web2", CURL), guest("db1", HTTPD), 80, Verdict::Allow, 5),
        flow(guest("web1", CURL), outside("192.0.2.7"), 443, Verdict::Allow, 2),
        flow(
            guest("web1", Some("/usr/bin/wget")),
            guest("db1", HTTPD),
            80,
            Verdict::Deny,
            3,
        ),
    ];
    let suggestion = learned(&flows, &Options::default());
    assert_eq!(
        suggestion.text,
        "# The least that allows the 14 flows (3 kinds) seen from 1970-01-01T00:16:40Z to 1970-01-01T00:33:20Z.
# What is done less often than that is not in it; what was wrong then is. Read it before it is applied.
# A default of deny also refuses frames that are neither IP nor ARP.
policy: suggested
description: \"Learned from what was seen from 1970-01-01T00:16:40Z to 1970-01-01T00:33:20Z.\"
default:
  db1: deny
  web1: deny
  web2: deny
services:
  db1-httpd: { vm: db1, exe: /usr/sbin/httpd, port: 80, protocol: tcp }
  web-curl: { vm: \"web*\", exe: /usr/bin/curl, uid: 0 }
  web1-curl: { vm: web1, exe: /usr/bin/curl, uid: 0 }
rules:
  # 12 flows, first 1970-01-01T00:16:40Z, last 1970-01-01T00:33:20Z; 2 of 2 pairs were seen
  # domains web*: 2 do this, and no other has such a name
  # web1:/usr/bin/curl (uid 0) -> db1:/usr/sbin/httpd tcp/80: 7 flows
  # web2:/usr/bin/curl (uid 0) -> db1:/usr/sbin/httpd tcp/80: 5 flows
  - { name: web-curl-to-db1-httpd, from: web-curl, to: db1-httpd, action: allow }
  # 2 flows, first 1970-01-01T00:16:40Z, last 1970-01-01T00:33:20Z
  # web1:/usr/bin/curl (uid 0) -> 192.0.2.7 tcp/443: 2 flows
  - { name: web1-curl-to-outside-tcp-443, from: web1-curl, to: { address: 192.0.2.7 }, ports: 443, protocol: tcp, action: allow }
# Was refused, and stays so:
#   web1:/usr/bin/wget -> db1:/usr/sbin/httpd tcp/80: 3 flows, last 1970-01-01T00:33:20Z; by no rule
"
    );
    assert_eq!(suggestion.covered, ["db1", "web1", "web2"]);
    assert_eq!((suggestion.flows, suggestion.refused.len()), (14, 1));
    let rule = &suggestion.rules[0];
    assert_eq!((rule.totals.flows, rule.pairs, rule.pairs_seen), (12, 2, 2));
    // In whatever order the history tells.
    flows.reverse();
    assert_eq!(learned(&flows, &Options::default()), suggestion);
}

#[test]
fn a_pattern_matches_nobody_who_does_not_do_it() {
    let flows = vec![
        allowed(guest("web1", CURL), guest("db1", HTTPD), 80),
        allowed(guest("web2", CURL), guest("db1", HTTPD), 80),
        allowed(guest("web-admin", Some("/bin/ssh")), guest("db1", HTTPD), 80),
    ];
    let suggestion = learned(&flows, &Options::default());
    assert!(
        suggestion.text.contains("web-curl: { vm: [web1, web2], exe"),
        "{}",
        suggestion.text
    );
    // Nor one who is there and does nothing.
    let guests = there(&["web1", "web2", "web3"]);
    let idle = suggest(
        &flows[..2],
        (0, 1),
        &guests,
        &Ruleset::empty(0),
        &Options::default(),
    )
    .unwrap();
    assert!(idle.text.contains("vm: [web1, web2]"), "{}", idle.text);
}

#[test]
fn replicas_share_somebody() {
    let flows = vec![
        allowed(guest("web1", CURL), guest("db1", HTTPD), 80),
        allowed(guest("web2", CURL), guest("db2", HTTPD), 80),
    ];
    let across = flow(guest("web1", CURL), guest("db2", HTTPD), 80, Verdict::Allow, 1);
    let apart = learned(&flows, &Options::default());
    assert_eq!(
        verdict(&document(&apart).1, &across.0),
        Some(Verdict::Deny),
        "{}",
        apart.text
    );
    let mut shared = flows.clone();
    shared.push(allowed(guest("web2", CURL), guest("db1", HTTPD), 80));
    let together = learned(&shared, &Options::default());
    assert_eq!(
        verdict(&document(&together).1, &across.0),
        Some(Verdict::Allow),
        "{}",
        together.text
    );
    assert_eq!((together.rules[0].pairs_seen, together.rules[0].pairs), (3, 4));
    let exact = Options {
        exact: true,
        ..Options::default()
    };
    let exact = learned(&shared, &exact);
    assert_eq!(
        verdict(&document(&exact).1, &across.0),
        Some(Verdict::Deny),
        "{}",
        exact.text
    );
}

#[test]
fn what_was_refused_is_in_no_generalisation() {
    let mut flows = vec![
        allowed(guest("web1", CURL), guest("db1", HTTPD), 80),
        allowed(guest("web1", CURL), guest("db2", HTTPD), 80),
        allowed(guest("web2", CURL), guest("db1", HTTPD), 80),
    ];
    let refused = flow(guest("web2", CURL), guest("db2", HTTPD), 80, Verdict::Deny, 1);
    flows.push(refused.clone());
    // One user may what another may not.
    let mut other = guest("db1", CURL);
    other.uid = Some(1000);
    flows.push(allowed(guest("db1", CURL), guest("db2", HTTPD), 80));
    let other = flow(other, guest("db2", HTTPD), 80, Verdict::Deny, 1);
    flows.push(other.clone());
    // A port in the midst of those that were contacted.
    let ports = (0..12).map(|n| allowed(guest("db2", CURL), guest("web1", HTTPD), 8000 + 2 * n));
    flows.extend(ports);
    let port = flow(guest("db2", CURL), guest("web1", HTTPD), 8001, Verdict::Deny, 1);
    flows.push(port.clone());
    let suggestion = learned(&flows, &Options::default());
    let (_, candidate) = document(&suggestion);
    for name in [&refused.0, &other.0, &port.0] {
        assert_eq!(
            verdict(&candidate, name),
            Some(Verdict::Deny),
            "{name:?} {}",
            suggestion.text
        );
    }
    assert_eq!(suggestion.opened, []);
    for (name, _) in flows.iter().filter(|(name, _)| name.verdict == Verdict::Allow) {
        assert_eq!(
            verdict(&candidate, name),
            Some(Verdict::Allow),
            "{name:?} {}",
            suggestion.text
        );
    }
}

#[test]
fn what_no_rule_can_tell_apart_is_told() {
    let mut job = guest("web1", Some("/usr/bin/python3"));
    job.args = Some(vec!["good.py".into()]);
    let mut bad = job.clone();
    bad.args = Some(vec!["bad.py".into()]);
    let mut denied = flow(bad, guest("db1", HTTPD), 80, Verdict::Deny, 4);
    // Refused before the other was allowed, else none of it would be.
    denied.1.last = 1500;
    let flows = vec![allowed(job, guest("db1", HTTPD), 80), denied];
    let suggestion = learned(&flows, &Options::default());
    assert_eq!(suggestion.opened.len(), 1, "{}", suggestion.text);
    assert!(
        suggestion
            .text
            .contains("# Was refused, and passes by this all the same")
    );
    assert!(
        suggestion
            .text
            .contains("any script that /usr/bin/python3 is given; seen as `good.py`")
    );
}

#[test]
fn what_was_refused_last_is_not_allowed() {
    let mut denied = flow(guest("web1", CURL), guest("db1", HTTPD), 80, Verdict::Deny, 1);
    denied.1.last = 2001;
    let flows = vec![
        allowed(guest("web1", CURL), guest("db1", HTTPD), 80),
        denied.clone(),
    ];
    let suggestion = learned(&flows, &Options::default());
    assert_eq!(suggestion.rules, []);
    assert!(
        suggestion.left_out[0]
            .why
            .starts_with("refused since 1970-01-01T00:33:21Z")
    );
    // That its process was not known was nobody's wish.
    let name = FlowName {
        rule: "process unknown".into(),
        ..(*denied.0).clone()
    };
    denied.0 = Arc::new(name);
    let flows = vec![allowed(guest("web1", CURL), guest("db1", HTTPD), 80), denied];
    assert_eq!(learned(&flows, &Options::default()).rules.len(), 1);
}

#[test]
fn users_and_containers_count_where_they_make_a_difference() {
    let user = |uid| FlowEnd {
        uid: Some(uid),
        ..guest("web1", CURL)
    };
    // What one user ran is no other's.
    let of_one = learned(
        &vec![allowed(user(33), guest("db1", HTTPD), 80)],
        &Options::default(),
    );
    for (uid, verdict_of) in [(33, Verdict::Allow), (0, Verdict::Deny)] {
        let flow = allowed(user(uid), guest("db1", HTTPD), 80);
        assert_eq!(
            verdict(&document(&of_one).1, &flow.0),
            Some(verdict_of),
            "{}",
            of_one.text
        );
    }
    let mut flows = vec![
        allowed(user(0), guest("db1", HTTPD), 80),
        allowed(user(33), guest("db1", HTTPD), 80),
    ];
    let alike = learned(&flows, &Options::default());
    assert!(!alike.text.contains("uid:"), "{}", alike.text);
    flows.push(allowed(user(0), guest("db1", HTTPD), 443));
    let differ = learned(&flows, &Options::default());
    assert!(
        differ
            .text
            .contains("web1-curl-uid-0: { vm: web1, exe: /usr/bin/curl, uid: 0 }"),
        "{}",
        differ.text
    );
    let by_other = allowed(user(33), guest("db1", HTTPD), 443);
    assert_eq!(verdict(&document(&differ).1, &by_other.0), Some(Verdict::Deny));
    // Containers are asked for in guests that have some.
    let inside = FlowEnd {
        container: Some("3f00".into()),
        ..guest("web1", Some("/app"))
    };
    flows.push(allowed(inside, guest("db1", HTTPD), 5432));
    let contained = learned(&flows, &Options::default());
    assert!(
        contained.text.contains("exe: /app, uid: 0, container: \"**\" }"),
        "{}",
        contained.text
    );
    assert!(
        contained.text.contains("uid: 0, container: none }"),
        "{}",
        contained.text
    );
}

#[test]
fn what_no_program_was_seen_for_is_by_guest_only_where_none_can_be_seen() {
    let flows = vec![allowed(guest("web1", None), guest("db1", HTTPD), 80)];
    let suggestion = learned(&flows, &Options::default());
    assert_eq!(suggestion.rules, [], "{}", suggestion.text);
    assert!(
        suggestion.left_out[0]
            .why
            .contains("no program was seen to open it")
    );
    let asked = Options {
        unknown: true,
        ..Options::default()
    };
    assert_eq!(learned(&flows, &asked).rules.len(), 1);
    let blind = [Guest {
        name: "web1".into(),
        uuid: [0; 16],
        facts: std::sync::Arc::default(),
        sighted: false,
    }];
    let suggestion = suggest(&flows, (0, 1), &blind, &Ruleset::empty(0), &Options::default()).unwrap();
    assert_eq!(
        verdict(&document(&suggestion).1, &flows[0].0),
        Some(Verdict::Allow)
    );
    // One that did the same is taken to be it.
    let both = vec![
        flows[0].clone(),
        allowed(guest("web1", CURL), guest("db1", HTTPD), 80),
    ];
    let suggestion = learned(&both, &Options::default());
    assert_eq!((suggestion.rules.len(), suggestion.assumed.len()), (1, 1));
    assert!(suggestion.text.contains("exe: /usr/bin/curl"));
}

#[test]
fn a_scan_is_not_allowed() {
    let scan = |ports: u16| (1..=ports).map(|port| allowed(guest("web1", CURL), guest("db1", None), port));
    let many: Flows = scan(17).collect();
    let suggestion = learned(&many, &Options::default());
    assert_eq!((suggestion.rules.len(), suggestion.left_out.len()), (0, 17));
    let few: Flows = scan(16).collect();
    assert_eq!(learned(&few, &Options::default()).rules.len(), 1);
    // A port where somebody listens is none of a scan's.
    let mut served = many;
    served.push(allowed(guest("web2", CURL), guest("db1", HTTPD), 1));
    let suggestion = learned(&served, &Options::default());
    assert_eq!(
        (suggestion.rules.len(), suggestion.left_out.len()),
        (2, 0),
        "{}",
        suggestion.text
    );
}

#[test]
fn only_the_domains_asked_for_are_covered() {
    let flows = vec![
        allowed(guest("web1", CURL), guest("db1", HTTPD), 80),
        allowed(guest("web2", CURL), guest("db2", HTTPD), 80),
    ];
    let options = Options {
        vms: vec!["db1".parse().unwrap(), "none".parse().unwrap()],
        name: "only".into(),
        ..Options::default()
    };
    let suggestion = learned(&flows, &options);
    assert_eq!(suggestion.covered, ["db1"]);
    assert_eq!(
        said(&suggestion),
        [
            "policy: only",
            "default:",
            "  db1: deny",
            "services:",
            "  db1-httpd: { vm: db1, exe: /usr/sbin/httpd, port: 80, protocol: tcp }",
            "  web1-curl: { vm: web1, exe: /usr/bin/curl, uid: 0 }",
            "rules:",
            "  - { name: web1-curl-to-db1-httpd, from: web1-curl, to: db1-httpd, action: allow }",
        ]
    );
}

#[test]
fn services_keep_the_names_they_have() {
    let text = "policy: shop\nservices:\n  pages: { vm: db1, port: 80 }\n  buyer: { vm: web1, exe: \"/usr/bin/c*\" }\n";
    let in_force = Ruleset::compile(&[Document::parse("shop.yaml", text).unwrap()], 1).unwrap();
    let flows = vec![allowed(guest("web1", CURL), guest("db1", HTTPD), 80)];
    let guests = there(&["web1", "db1"]);
    let suggestion = suggest(&flows, (0, 1), &guests, &in_force, &Options::default()).unwrap();
    assert_eq!(suggestion.rules[0].name, "buyer-to-pages", "{}", suggestion.text);
}

#[test]
fn addresses_that_are_known_too_roughly_are_left_out() {
    let flows = vec![
        allowed(guest("web1", CURL), outside("198.51.100.0/24"), 443),
        allowed(outside("2001:db8:7::/48"), guest("db1", HTTPD), 80),
        allowed(guest("web1", CURL), FlowEnd::default(), 443),
    ];
    let all = learned(&flows, &Options::default());
    assert_eq!((all.rules.len(), all.left_out.len()), (2, 1));
    assert!(all.text.contains("address: \"2001:db8:7::/48\""), "{}", all.text);
    let narrow = Options {
        widest: (28, 48),
        ..Options::default()
    };
    let narrow = learned(&flows, &narrow);
    assert_eq!((narrow.rules.len(), narrow.left_out.len()), (1, 2));
}

#[test]
fn a_socket_that_was_connected_and_sent_nothing_needs_no_rule() {
    let of = |packets: u64| {
        let (name, totals) = allowed(guest("web1", CURL), guest("db1", None), 1025);
        let name = FlowName {
            protocol: "udp".into(),
            ..(*name).clone()
        };
        let totals = FlowTotals {
            packets_out: packets,
            ..totals
        };
        let all = learned(&vec![(Arc::new(name), totals)], &Options::default());
        (all.rules.len(), all.left_out.len())
    };
    assert_eq!([of(0), of(1)], [(0, 1), (1, 0)]);
}

#[test]
fn a_guest_cannot_write_into_the_document() {
    let evil = "/bin/x\n  - { name: open, from: any, to: any, action: allow }\n# ${}*\u{2028}\"'";
    let mut flows = vec![allowed(guest("web1", Some(evil)), guest("db1", HTTPD), 80)];
    flows.push(flow(
        guest("web1", Some(&format!("{evil}2"))),
        guest("db1", HTTPD),
        80,
        Verdict::Deny,
        1,
    ));
    let suggestion = learned(&flows, &Options::default());
    let (document, candidate) = document(&suggestion);
    assert_eq!(document.rules().len(), 1, "{}", suggestion.text);
    assert_eq!(
        verdict(&candidate, &flows[0].0),
        Some(Verdict::Allow),
        "{}",
        suggestion.text
    );
    assert_eq!(verdict(&candidate, &flows[1].0), Some(Verdict::Deny));
}

#[test]
fn what_fits_in_no_document_is_refused() {
    let name = Options {
        name: "Not A Name".into(),
        ..Options::default()
    };
    let error = suggest(&[], (0, 1), &[], &Ruleset::empty(0), &name).unwrap_err();
    assert!(error.to_string().contains("use 1 to 63 of a-z"), "{error}");
    let flows: Flows = (0..10_001)
        .map(|n| allowed(guest("web1", Some(&format!("/bin/{n}"))), guest("db1", HTTPD), 80))
        .collect();
    let error = suggest(&flows, (0, 1), &[], &Ruleset::empty(0), &Options::default()).unwrap_err();
    assert!(error.to_string().contains("10001 rules"), "{error}");
}

#[test]
fn a_long_history_takes_seconds() {
    let flows: Flows = (0..100_000u32)
        .map(|n| {
            let from = guest(&format!("web{}", n % 40), Some(&format!("/usr/bin/p{}", n % 50)));
            let to = match n % 3 {
                0 => guest(&format!("db{}", n % 7), HTTPD),
                1 => outside(&format!("198.51.{}.{}", n / 256 % 256, n % 256)),
                _ => outside(&format!("203.{}.{}.0/24", n / 256 % 256, n % 256)),
            };
            let verdict = if n % 11 == 0 {
                Verdict::Deny
            } else {
                Verdict::Allow
            };
            flow(from, to, (n % 1000) as u16 + 1, verdict, 1)
        })
        .collect();
    let began = std::time::Instant::now();
    let result = suggest(&flows, (0, 1), &[], &Ruleset::empty(0), &Options::default());
    let took = began.elapsed();
    let what = result.map(|s| s.text.len());
    // Unoptimised, on a machine that others use, too.
    assert!(took.as_secs() < 60, "{took:?} {what:?}");
    println!("{took:?} {what:?}");
}

const EXES: [&str; 4] = ["/usr/bin/curl", "/usr/bin/wget", "/opt/a*p", "/opt/{x}\\y"];

fn end() -> impl Strategy<Value = FlowEnd> {
    let guest = (
        select(vec![
            "web1",
            "web2",
            "web3",
            "db1",
            "db2",
            "00000000-0000-0000-0000-000000000001",
        ]),
        proptest::option::weighted(0.85, (select(&EXES[..]), select(vec![0u32, 33, 1000]))),
        proptest::option::weighted(0.2, select(vec!["3f00", "a/b"])),
    );
    let guest = guest.prop_map(|(domain, process, container)| FlowEnd {
        domain: Some(domain.into()),
        address: Some([10, 0, 0, 1].into()),
        exe: process.map(|(exe, _)| exe.to_owned()),
        uid: process.map(|(_, uid)| uid),
        container: container.filter(|_| process.is_some()).map(str::to_owned),
        ..FlowEnd::default()
    });
    let outside = (
        0u8..60,
        proptest::bool::weighted(0.1),
        proptest::bool::weighted(0.2),
    )
        .prop_map(|(n, block, v6)| FlowEnd {
            address: Some(match (block, v6) {
                (true, false) => [192, 0, 2, 0].into(),
                (false, false) => [192, 0, n % 3, n * 4].into(),
                (true, true) => "2001:db8::".parse().unwrap(),
                (false, true) => format!("2001:db8::{n}").parse().unwrap(),
            }),
            prefix: block.then_some(if v6 { 48 } else { 24 }),
            ..FlowEnd::default()
        });
    prop_oneof![4 => guest, 1 => outside]
}

fn history() -> impl Strategy<Value = Flows> {
    let port = prop_oneof![
        4 => select(vec![Some(80u16), Some(443)]),
        3 => (8000u16..8030).prop_map(Some),
        2 => (32_768u16..=u16::MAX).prop_map(Some),
        1 => Just(None),
    ];
    let one = (
        end(),
        end(),
        select(vec!["tcp", "udp", "icmp", "47"]),
        port,
        proptest::bool::weighted(0.8),
        1u64..5,
        1000u64..2000,
    );
    let one = one.prop_map(|(from, to, protocol, port, allow, flows, last)| {
        let has_ports = matches!(protocol, "tcp" | "udp");
        let name = FlowName {
            from,
            to,
            protocol: protocol.into(),
            port: if has_ports { port } else { Some(0) },
            verdict: if allow { Verdict::Allow } else { Verdict::Deny },
            rule: "no rule".into(),
            by_policy: true,
        };
        let totals = FlowTotals {
            flows,
            packets_out: flows,
            first: 1000,
            last,
            ..FlowTotals::default()
        };
        (Arc::new(name), totals)
    });
    proptest::collection::vec(one, 0..60).prop_map(|flows| {
        // A name is there once.
        let flows: BTreeMap<FlowName, FlowTotals> = flows
            .into_iter()
            .map(|(name, totals)| ((*name).clone(), totals))
            .collect();
        flows
            .into_iter()
            .map(|(name, totals)| (Arc::new(name), totals))
            .collect()
    })
}

proptest! {
    // A failing case is printed in full, so no file of seeds is kept.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]
    #[test]
    fn what_was_learned_passes_and_a_new_program_does_not(
        flows in history(),
        exact in any::<bool>(),
        blind in any::<bool>(),
        widest in select(vec![16u8, 24, 30]),
        order in any::<u64>(),
    ) {
        let options = Options { exact, widest: (widest, 48), ..Options::default() };
        let mut guests = there(&["web1", "web2", "web3", "db1", "db2", "00000000-0000-0000-0000-000000000001"]);
        guests[3].sighted = !blind;
        let suggestion = suggest(&flows, (1000, 2000), &guests, &Ruleset::empty(0), &options).expect("fits");
        let mut shuffled = flows.clone();
        let turn = order as usize % shuffled.len().max(1);
        shuffled.rotate_left(turn);
        let again = suggest(&shuffled, (1000, 2000), &guests, &Ruleset::empty(0), &options).expect("fits");
        prop_assert_eq!(&again, &suggestion);
        let (document, candidate) = document(&suggestion);
        prop_assert_eq!(document.rules().len(), suggestion.rules.len());
        let besides: BTreeSet<&FlowName> = suggestion.left_out.iter().map(|left| &left.flow.name)
            .chain(suggestion.assumed.iter().map(|flow| &flow.name))
            .chain(suggestion.opened.iter().map(|flow| &flow.name))
            .collect();
        for (name, _) in &flows {
            if name.from.domain.is_none() && name.to.domain.is_none() || besides.contains(&**name) {
                continue;
            }
            // What the history did not keep is judged by each port and address that it may have been.
            let mut each = vec![(**name).clone()];
            if name.port.is_none() {
                each = each.iter().flat_map(|name| [1u16, 1024, 32_768, u16::MAX].map(|port| FlowName { port: Some(port), ..name.clone() })).collect();
                let kept = suggestion.rules.iter().flat_map(|rule| &rule.generalised).any(|why| why.contains("more than the history keeps"));
                prop_assert!(kept || name.verdict == Verdict::Deny);
                each.retain(|name| verdict(&candidate, name) == Some(Verdict::Allow));
                prop_assert!(!each.is_empty() || name.verdict == Verdict::Deny, "{:?}\n{}", name, suggestion.text);
            }
            for name in each {
                prop_assert_eq!(verdict(&candidate, &name), Some(name.verdict), "{:?}\n{}", name, suggestion.text);
            }
            // The same by a program that nobody has seen.
            let of_programs = matches!(&*name.protocol, "tcp" | "udp");
            let sighted = match name.from.domain.as_deref() {
                Some("db1") => !blind,
                domain => domain.is_some(),
            };
            if of_programs && sighted {
                let mut new = (**name).clone();
                new.from.exe = Some("/usr/bin/new".into());
                new.from.uid = Some(0);
                prop_assert_eq!(verdict(&candidate, &new), Some(Verdict::Deny), "{:?}\n{}", new, suggestion.text);
            }
        }
        for service in document.services().values() {
            for block in &service.selector.address {
                prop_assert!(block.length() >= options.shortest(block.address()));
            }
        }
        for peer in document.rules().iter().flat_map(|rule| rule.from.iter().chain(&rule.to)) {
            if let policy::document::Peer::Inline(selector) = peer {
                for block in &selector.address {
                    prop_assert!(block.length() >= options.shortest(block.address()), "{}", suggestion.text);
                }
            }
        }
    }
}
