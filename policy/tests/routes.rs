// SPDX-License-Identifier: GPL-3.0-only
//! What routes mean, as far as no backend need be known for it.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use policy::document::Check;
use policy::{Document, Endpoint, Process, Protocol, Role, Route, Ruleset, VmId};

const SHOP: &str = r#"
policy: shop
services:
  web:     { vm: "web*", port: 8080, protocol: tcp, exe: /usr/sbin/nginx }
  outside: { address: [192.0.2.7, 192.0.2.8, 198.51.100.0/24] }
  testers: { vm: app1, uid: 1000 }
routes:
  shop:
    address: [10.0.0.100, fd00::100]
    port: 80
    backends:
      - { to: web, version: v1, weight: 80 }
      - { to: [{ vm: db1 }, 192.0.2.9], port: 81, version: v2, weight: 20 }
      - { to: outside, version: spare }
      - { to: 192.0.2.99, version: trap, weight: 0, drain: true }
    canary:
      - { from: testers, to: v2 }
      - { from: { vm: app1, exe: "/opt/**" }, to: trap }
      - { from: { vm: app2 }, to: v1 }
    failover: spare
    denied: trap
    health: { check: tcp, interval: 500ms, timeout: 1 }
"#;

fn vm(name: &str) -> VmId {
    VmId::new(name, [0; 16])
}

fn with_shop<T>(test: impl FnOnce(&Route) -> T) -> T {
    let document = Document::parse("shop.yaml", SHOP).unwrap_or_else(|p| panic!("{p}"));
    let ruleset = Ruleset::compile(&[document], 1).unwrap();
    test(&ruleset.routes()[0])
}

#[test]
fn the_first_canary_that_matches_says_the_version() {
    with_shop(|route| {
        let version = |name: &str, process: Option<Process<'_>>| {
            let vm = vm(name);
            let end = Endpoint::guest(&vm, "10.0.0.1".parse().unwrap());
            let end = process.map_or(end, |process| end.with_process(process));
            route
                .canary(&end)
                .map(|version| route.version_name(version).to_owned())
        };
        let process = |exe: &'static str, uid| {
            Some(Process {
                exe: Some(exe),
                uid,
                ..Process::default()
            })
        };
        assert_eq!(version("app1", process("/opt/a/b", 1000)).as_deref(), Some("v2"));
        assert_eq!(version("app1", process("/opt/a/b", 0)).as_deref(), Some("trap"));
        assert_eq!(version("app1", process("/bin/a", 0)), None);
        assert_eq!(version("app1", None), None, "nobody knows whether it is one");
        assert_eq!(
            version("app2", None).as_deref(),
            Some("v1"),
            "no process is asked"
        );
    });
}

#[test]
fn backends_have_ports_and_roles() {
    with_shop(|route| {
        let ports: Vec<Vec<u16>> = route
            .backends
            .iter()
            .map(|b| b.targets.iter().map(|t| t.port).collect())
            .collect();
        assert_eq!(ports, [vec![8080], vec![81, 81], vec![80], vec![80]]);
        let roles: Vec<Role> = route.backends.iter().map(|b| b.role).collect();
        assert_eq!(roles, [Role::Share, Role::Share, Role::Failover, Role::Decoy]);
        assert_eq!(route.health.check, Check::Tcp);
        assert_eq!(route.health.interval.as_millis(), 500);
        assert_eq!(route.health.timeout.as_millis(), 1000);
        assert_eq!(route.health.fall, 3);
    });
}

#[test]
fn guests_are_chosen_by_name_and_contradicted_by_who_listens() {
    with_shop(|route| {
        let (web, db) = (&route.backends[0].targets[0], &route.backends[1].targets[0]);
        let (web2, db1) = (vm("web2"), vm("db1"));
        let at = |vm| Endpoint::guest(vm, "10.0.0.2".parse().unwrap());
        assert!(web.who.selects(&at(&web2)) && !web.who.selects(&at(&db1)));
        assert!(!db.who.selects(&at(&web2)) && db.who.selects(&at(&db1)));
        let runs = |exe| {
            at(&web2).with_process(Process {
                exe: Some(exe),
                ..Process::default()
            })
        };
        assert!(
            !web.who.contradicts(&at(&web2), Protocol::TCP, web.port),
            "not known yet"
        );
        assert!(
            !web.who
                .contradicts(&runs("/usr/sbin/nginx"), Protocol::TCP, web.port)
        );
        assert!(web.who.contradicts(&runs("/bin/nc"), Protocol::TCP, web.port));
        assert!(
            web.who
                .contradicts(&runs("/usr/sbin/nginx"), Protocol::UDP, web.port)
        );
        let outside = |i: usize| route.backends[i].targets.iter().flat_map(|t| t.who.addresses());
        let text = |i| outside(i).map(|a| a.to_string()).collect::<Vec<_>>();
        assert_eq!(text(0), [""; 0]);
        assert_eq!(text(1), ["192.0.2.9"]);
        assert_eq!(text(2), ["192.0.2.7", "192.0.2.8"], "a block is no host");
    });
}

#[test]
fn two_routes_of_one_address_are_told_where() {
    let set = |name: &str, protocol: &str| {
        let text = format!(
            "policy: {name}\nroutes:\n  r: {{ address: 10.0.0.100, port: 80, protocol: {protocol}, backends: {{ to: 10.0.0.1 }} }}\n"
        );
        Document::parse(&format!("{name}.yaml"), &text).unwrap_or_else(|p| panic!("{p}"))
    };
    assert!(Ruleset::compile(&[set("a", "tcp"), set("b", "udp")], 1).is_ok());
    let told = Ruleset::compile(&[set("b", "tcp"), set("a", "tcp")], 1).unwrap_err();
    assert_eq!(
        told.to_string(),
        "b.yaml:3:3: route `r` has the address of another, 10.0.0.100:80 over tcp; \
         give it another address or port; the other is a/r"
    );
}

#[test]
fn a_route_reads_back_as_it_was_written() {
    let document = Document::parse("shop.yaml", SHOP).unwrap();
    let text = serde_json::to_string(&document).unwrap();
    assert_eq!(Document::parse("canonical", &text).unwrap(), document);
}

#[test]
fn too_many_routes_are_refused() {
    let routes: String = (0..129)
        .map(|i| format!("  r{i}: {{ address: 10.0.1.{i}, port: 80, backends: {{ to: 10.0.0.1 }} }}\n"))
        .collect();
    let told = Document::parse("f", &format!("policy: a\nroutes:\n{routes}")).unwrap_err();
    assert!(
        told.to_string().contains("129 routes, the limit is 128"),
        "{told}"
    );
}
