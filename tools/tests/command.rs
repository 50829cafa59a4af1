// SPDX-License-Identifier: GPL-3.0-only
//! The built command against a daemon that gives fixed answers on a real socket.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod daemon;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Output, Stdio};

use daemon::{Daemon, command, json, xmesh};
use policyd_api::{
    Applied, BackendState, Capabilities, ConnectionStats, Decision, Distribution, Domain, DomainStats,
    ErrorBody, Event, Explained, Flow, Label, Mode, PacketCounts, Party, PolicyDocument, PolicySummary,
    Probe, Process, Qos, Route, RouteBackend, Routed, ShapedClass, ShapedVif, Stats, Status, Verdict, Vif,
    What,
};

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn domain(name: &str, id: u16, mode: Mode) -> Domain {
    Domain {
        id,
        name: name.into(),
        uuid: "0f3a1c52-77aa-4b1e-9d10-ffee00112233".into(),
        state: "running".into(),
        mode,
        problems: Vec::new(),
        kernel: Some("6.1.0-18-amd64".into()),
        vcpus: 2,
        processes: 87,
        connections: 12,
        flows: 4,
        vifs: vec![Vif {
            name: format!("vif{id}.0"),
            mac: Some("00:16:3e:00:00:01".into()),
            covered: true,
        }],
        addresses: vec!["10.0.0.1".parse().unwrap()],
        probes: vec![Probe {
            function: "tcp_connect".into(),
            resume: "skip".into(),
            hits: 9,
            address: Some("0xffffffff81a00004".into()),
            mean_us: 12.25,
            p99_us: 50.0,
            max_us: 211.0,
            page_accesses: 3,
            share: 0.0125,
        }],
        traps: 1234,
        labels: vec![Label {
            key: "tier".into(),
            value: "front".into(),
            from: "set shop (\"web*\")".into(),
        }],
        guest_type: Some("pvh".into()),
        pool: Some("Pool-0".into()),
    }
}

#[test]
fn list_is_a_table_of_eighty_columns() {
    let mut late = domain("db1", 12, Mode::Vm);
    late.kernel = None;
    late.problems = vec!["no altp2m; set altp2m=\"external\" in its config".into()];
    let daemon = Daemon::start(move |_| json(&vec![domain("web1", 3, Mode::Altp2m), late.clone()]));
    let output = daemon.run(&["list"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        out(&output),
        "Name  ID  Mode    Kernel          Procs  Conns  Flows  State\n\
         web1   3  altp2m  6.1.0-18-amd64     87     12      4  running\n\
         db1   12  vm      -                  87     12      4  running\n"
    );
    assert_eq!(
        err(&output),
        "xmesh: not seen in full: db1; `xmesh list -v` says why\n"
    );
    assert!(out(&output).lines().all(|line| line.chars().count() <= 80));

    let verbose = daemon.run(&["list", "-v"]);
    assert!(out(&verbose).contains(
        "running\n    uuid 0f3a1c52-77aa-4b1e-9d10-ffee00112233; vcpus 2; traps 1234\n    type pvh; pool Pool-0\n    \
         label tier=front by set shop (\"web*\")\n    addresses 10.0.0.1\n    \
         vif12.0 00:16:3e:00:00:01 covered\n    probe tcp_connect skip hits 9\n    \
         problem: no altp2m; set altp2m=\"external\" in its config\n"
    ));
    assert_eq!(err(&verbose), "");
    let parsed: Vec<Domain> = serde_json::from_slice(&daemon.run(&["--json", "list"]).stdout).unwrap();
    assert_eq!(parsed[1].id, 12);
    assert_eq!(daemon.asked()[0], "GET /v1/domains");
}

#[test]
fn qos_lists_classes_the_shaper_and_what_is_not_shaped() {
    let class = |direction: &str, class: &str, priority: Option<&str>| ShapedClass {
        direction: direction.into(),
        class: class.into(),
        priority: priority.map(str::to_owned),
        rate: 10_000_000,
        ceiling: 1_000_000_000,
        bytes: 4096,
        packets: 3,
        drops: 2,
        backlog_bytes: 1500,
        backlog_packets: 1,
    };
    let qos = Qos {
        shaper: "htb+fq_codel, from guests by ifb".into(),
        vifs: vec![
            ShapedVif {
                domain: "web1".into(),
                vif: "vif3.0".into(),
                problem: None,
                classes: vec![
                    class("out", "total", None),
                    class("in", "shop/cache", Some("realtime")),
                ],
            },
            ShapedVif {
                domain: "db1".into(),
                vif: "vif4.0".into(),
                problem: Some("its root qdisc is of kind tbf".into()),
                classes: vec![],
            },
        ],
    };
    let daemon = Daemon::start(move |_| json(&qos));
    let output = daemon.run(&["qos", "web1"]);
    assert_eq!(
        out(&output),
        "Vif     Dir  Class       Priority    Rate   Ceil  Sent  Drops  Backlog  Domain\n\
         vif3.0  out  total       -         10mbit  1gbit  4.0K      2     1.5K  web1\n\
         vif3.0  in   shop/cache  realtime  10mbit  1gbit  4.0K      2     1.5K  web1\n\
         shaper: htb+fq_codel, from guests by ifb\n\
         problem of db1: its root qdisc is of kind tbf\n"
    );
    assert_eq!(daemon.asked(), ["GET /v1/qos?domain=web1"]);
}

#[test]
fn stats_are_two_tables_of_eighty_columns() {
    let none = Distribution::default();
    let of = |values, sum, p50, p90, p99| Distribution {
        values,
        sum,
        p50: Some(p50),
        p90: Some(p90),
        p99: Some(p99),
    };
    let stats = Stats {
        domains: vec![DomainStats {
            domain: "web1".into(),
            out: PacketCounts {
                passed: 1_234_567,
                passed_bytes: 987_654_321_012,
                denied: 3,
                forged: 2,
                events_lost: 7,
                ..Default::default()
            },
            into: PacketCounts {
                passed: 99,
                fragments: 1,
                ..Default::default()
            },
        }],
        connections: vec![
            ConnectionStats {
                domain: "web1".into(),
                outgoing: true,
                peer: Some("db1".into()),
                rule: "shop/cache".into(),
                setup_us: of(120, 9000, 127, 255, 2047),
                rtt_out_us: of(4000, 200_000, 63, 127, 1_048_575),
                rtt_in_us: none,
                retransmissions_out: of(118, 12, 0, 0, 7),
                retransmissions_in: of(118, 0, 0, 0, 0),
                zero_windows_out: none,
                zero_windows_in: of(118, 1, 0, 0, 1),
            },
            ConnectionStats {
                domain: "web1".into(),
                outgoing: false,
                peer: None,
                rule: "rule 3 of 6".into(),
                setup_us: of(1, 50, 63, 63, 63),
                rtt_out_us: none,
                rtt_in_us: none,
                retransmissions_out: none,
                retransmissions_in: none,
                zero_windows_out: none,
                zero_windows_in: none,
            },
        ],
        dry_runs: vec![policyd_api::DryRunStats {
            rule: "shop/no-telnet".into(),
            allow: 0,
            deny: 12,
        }],
    };
    let daemon = Daemon::start(move |_| json(&stats));
    let output = daemon.run(&["stats", "web1"]);
    assert_eq!(
        out(&output),
        "Domain  Count                  Out  In\n\
         web1    passed             1234567  99\n\
         web1    passed_bytes  987654321012   0\n\
         web1    denied                   3   0\n\
         web1    forged                   2   0\n\
         web1    fragments                0   1\n\
         web1    events_lost              7   0\n\
         \n\
         Domain  Dir  Peer  Rule         What      Values     P50     P90    P99  Total\n\
         web1    →    db1   shop/cache   setup        120  ≤127µs  ≤255µs   ≤3ms      -\n\
         web1    →    db1   shop/cache   rtt-out     4000   ≤63µs  ≤127µs    ≤2s      -\n\
         web1    →    db1   shop/cache   retr-out     118       0       0     ≤7     12\n\
         web1    →    db1   shop/cache   zwin-in      118       0       0     ≤1      1\n\
         web1    ←    -     rule 3 of 6  setup          1   ≤63µs   ≤63µs  ≤63µs      -\n\
         \n\
         Dry run         Would allow  Would deny\n\
         shop/no-telnet            0          12\n"
    );
    assert!(out(&output).lines().all(|line| line.chars().count() <= 80));
    assert_eq!(daemon.asked(), ["GET /v1/stats?domain=web1"]);
    let parsed: Stats = serde_json::from_slice(&daemon.run(&["--json", "stats"]).stdout).unwrap();
    assert_eq!(parsed.domains[0].out.forged, 2);
    assert_eq!(parsed.connections[0].setup_us.p99, Some(2047));
    assert_eq!(daemon.asked()[1], "GET /v1/stats");
}

fn process(pid: u32) -> Process {
    Process {
        pid,
        ppid: 1,
        uid: 1000,
        euid: 0,
        gid: 0,
        loginuid: None,
        comm: "sh".into(),
        exe: Some("/bin/sh".into()),
        exe_deleted: true,
        args: vec!["sh".into(), "-c".into(), "\x1b[2Jx".into()],
        container: Some("3f1c00000000ffff".into()),
        cgroup: Some("/docker/3f1c".into()),
        netns: 1,
        pidns: 2,
        mntns: 0,
        capabilities: Capabilities {
            effective: 0xa804_25fb,
            ..Capabilities::default()
        },
        start_time_ns: 5,
        parents: Vec::new(),
    }
}

#[test]
fn ps_shows_guests_words_without_their_control_characters() {
    let daemon = Daemon::start(|_| {
        let kernel = Process {
            exe: None,
            exe_deleted: false,
            args: Vec::new(),
            container: None,
            comm: "kthreadd".into(),
            ..process(2)
        };
        json(&vec![process(412), kernel])
    });
    assert_eq!(
        out(&daemon.run(&["ps", "my web"])),
        "PID  PPID  UID  Container     Exe                Args\n  \
           2     1    0  -             [kthreadd]         -\n\
         412     1    0  3f1c00000000  /bin/sh (deleted)  -c \\u{1b}[2Jx\n"
    );
    assert_eq!(daemon.asked(), ["GET /v1/domains/my%20web/processes"]);
}

#[test]
fn ps_shows_what_confines_a_process_where_it_is_asked_to() {
    let daemon = Daemon::start(|_| json(&vec![process(412)]));
    assert_eq!(
        out(&daemon.run(&["ps", "--wide", "web1"])),
        "PID  PPID  UID  Netns  Pidns  Mntns  Capabilities      Cgroup        Container     Exe                Args\n\
         412     1    0      1      2      -  00000000a80425fb  /docker/3f1c  3f1c00000000  /bin/sh (deleted)  -c \\u{1b}[2Jx\n"
    );
    let told: serde_json::Value = serde_json::from_str(&out(&daemon.run(&["--json", "ps", "web1"]))).unwrap();
    let of = |key: &str| told[0][key].to_string();
    assert_eq!(
        (of("pidns"), of("mntns"), of("cgroup")),
        ("2".into(), "0".into(), "\"/docker/3f1c\"".into())
    );
    assert_eq!(told[0]["capabilities"]["effective"], "00000000a80425fb");
}

fn event(seq: u64) -> String {
    let event = Event {
        seq,
        time_ns: seq * 1_000_000_000,
        domain: Some("web1".into()),
        domid: Some(3),
        what: What::Domain {
            change: "created".into(),
        },
    };
    serde_json::to_string(&event).unwrap() + "\n"
}

#[test]
fn events_are_sentences_or_lines_of_json() {
    let daemon = Daemon::start(|_| (200, event(1) + &event(2)));
    assert_eq!(
        out(&daemon.run(&["events", "-f", "--domain", "3", "--kind", "exec,verdict"])),
        "1970-01-01T00:00:01.000Z web1 (3) was created\n1970-01-01T00:00:02.000Z web1 (3) was created\n"
    );
    let lines = out(&daemon.run(&["events", "--json"]));
    assert_eq!(lines, event(1) + &event(2));
    assert_eq!(
        daemon.asked(),
        [
            "GET /v1/events?follow=true&domain=3&kind=exec,connect,refused",
            "GET /v1/events?follow=false"
        ]
    );
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let daemon = Daemon::start(|_| (200, (0..20_000).map(event).collect()));
    let mut child = command(&daemon.socket(), &["events"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    assert!(first.contains("web1"));
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), err(&output).as_str()), (Some(0), ""));
}

#[test]
fn a_full_disk_is_an_error() {
    let daemon = Daemon::start(|_| json(&vec![domain("web1", 3, Mode::Off)]));
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = command(&daemon.socket(), &["list"])
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).starts_with("xmesh: cannot write the answer: "),
        "{}",
        err(&output)
    );
}

fn party(domain: Option<&str>) -> Party {
    Party {
        domain: domain.map(str::to_owned),
        exe: Some("/usr/bin/curl".into()),
        pid: Some(4),
        uid: Some(1000),
        services: vec!["shop/client".into()],
        id: "spiffe://xmesh/vm/web1/exe/usr/bin/curl".into(),
    }
}

#[test]
fn flows_are_a_table() {
    let daemon = Daemon::start(|_| {
        json(&vec![Flow {
            domain: "web1".into(),
            protocol: "tcp".into(),
            local: "10.0.0.1:4000".parse().unwrap(),
            remote: "10.0.0.2:6379".parse().unwrap(),
            outgoing: true,
            route: Some(Routed {
                route: Some("shop/cache".into()),
                version: Some("v2".into()),
                backend: "10.0.0.3:6380".parse().unwrap(),
                instead: false,
            }),
            who: Some(party(Some("web1"))),
            decision: Decision {
                verdict: Verdict::Deny,
                rule: "default of db1".into(),
                generation: 4,
            },
            packets_out: 1,
            bytes_out: 60,
            packets_in: 0,
            bytes_in: 0,
            age_ms: 61_000,
            idle_ms: 3,
            timing: Default::default(),
            state: "new".into(),
        }])
    });
    assert_eq!(
        out(&daemon.run(&["flows", "-d", "web1"])),
        "Domain  Proto  Local          Dir  Remote         State  Out  In    Age  Verdict  Rule            Exe            Via\n\
         web1    tcp    10.0.0.1:4000  →    10.0.0.2:6379  new     60   0  1m01s  deny     default of db1  /usr/bin/curl  shop/cache v2 10.0.0.3:6380\n"
    );
    assert_eq!(daemon.asked(), ["GET /v1/flows?domain=web1"]);
}

#[test]
fn routes_are_a_table_of_their_backends() {
    let backend = |number: u8, version: &str, weight, state, why: Option<&str>| RouteBackend {
        address: ([10, 0, 0, number], 6379).into(),
        domain: (number < 9).then(|| format!("db{number}")),
        version: Some(version.into()),
        role: if version == "v3" { "failover" } else { "share" }.into(),
        weight,
        share: f64::from(weight) / 100.0,
        state,
        why: why.map(str::to_owned),
        flows: 2,
    };
    let route = Route {
        name: "shop/cache".into(),
        address: "10.0.0.100:6379".parse().unwrap(),
        protocol: "tcp".into(),
        affinity: false,
        backends: vec![
            backend(1, "v1", 80, BackendState::Up, None),
            backend(
                2,
                "v2",
                20,
                BackendState::Down,
                Some("nobody listens on its port"),
            ),
            backend(9, "v3", 0, BackendState::Up, None),
        ],
    };
    let none = Route {
        name: "shop/none".into(),
        address: "[fd00::100]:80".parse().unwrap(),
        backends: Vec::new(),
        ..route.clone()
    };
    let routes = vec![route, none];
    let daemon = Daemon::start(move |_| json(&routes));
    assert_eq!(
        out(&daemon.run(&["routes"])),
        "Route       Address          Proto  Version  Backend        Domain  Weight  Share  Flows  State\n\
         shop/cache  10.0.0.100:6379  tcp    v1       10.0.0.1:6379  db1         80    80%      2  up\n\
         shop/cache  10.0.0.100:6379  tcp    v2       10.0.0.2:6379  db2         20    20%      2  down: nobody listens on its port\n\
         shop/cache  10.0.0.100:6379  tcp    v3       10.0.0.9:6379  -            0     0%      2  up (failover)\n\
         shop/none   [fd00::100]:80   tcp    -        -              -            -      -      -  no backend\n"
    );
    assert_eq!(daemon.asked(), ["GET /v1/routes"]);
    let json: serde_json::Value = serde_json::from_slice(&daemon.run(&["--json", "routes"]).stdout).unwrap();
    assert_eq!(json[0]["backends"][1]["state"], "down");
}

fn write(daemon: &Daemon, name: &str, text: &str) -> String {
    let path = daemon.folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_policy_is_applied_after_its_own_problems_are_told() {
    let daemon = Daemon::start(|target| {
        if target.starts_with("DELETE") {
            let error = "no policy set is named `shop`; `xmesh policy-list` names them".into();
            return (404, serde_json::to_string(&ErrorBody { error }).unwrap());
        }
        json(&Applied {
            names: vec!["shop".into()],
            generation: 5,
            flows_changed: 1,
            dry_run: false,
        })
    });
    let bad = write(
        &daemon,
        "bad.yaml",
        "policy: shop\nruels: []\ndefault: { a: b }\n",
    );
    let output = daemon.run(&["policy-apply", &bad]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        err(&output),
        format!(
            "{bad}:2:1: unknown field `ruels` in a policy; did you mean `rules`?\n\
             {bad}:3:15: `b` is not an action; write allow, deny or audit\n"
        )
    );
    assert!(daemon.asked().is_empty(), "a bad document was sent");

    let good = write(&daemon, "good.yaml", "policy: shop\n");
    let output = daemon.run(&["policy-apply", &good]);
    assert_eq!(
        out(&output),
        "shop applied; generation 5 in force, 1 live flow changed\n"
    );
    let sent = &daemon.asked()[0];
    assert!(
        sent.starts_with("POST /v1/policies ") && sent.contains("\"dry_run\":false"),
        "{sent}"
    );
    assert!(sent.contains("policy: shop\\n"), "{sent}");

    let output = daemon.run(&["policy-delete", "shop"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        err(&output),
        "xmesh: no policy set is named `shop`; `xmesh policy-list` names them\n"
    );
}

#[test]
fn policy_sets_are_listed_and_shown() {
    let summary = PolicySummary {
        name: "shop".into(),
        description: None,
        services: 2,
        rules: 3,
        routes: 1,
        generation: 5,
        applied_ns: 1_500_000_000,
        by_uid: 0,
        by_name: None,
    };
    let daemon = Daemon::start(move |target| match target {
        "GET /v1/policies" => json(&vec![summary.clone()]),
        _ => json(&PolicyDocument {
            summary: summary.clone(),
            text: "policy: shop\t# mine".into(),
        }),
    });
    assert_eq!(
        out(&daemon.run(&["policy-list"])),
        "Name  Services  Rules  Routes  Generation  Applied               By  Description\n\
         shop         2      3       1           5  1970-01-01T00:00:01Z   0  -\n"
    );
    assert_eq!(
        out(&daemon.run(&["policy-show", "shop"])),
        "policy: shop\t# mine\n"
    );
}

#[test]
fn policy_check_needs_no_daemon() {
    let daemon = Daemon::start(|_| (500, String::new()));
    let none = Path::new("/nonexistent/socket");
    let good = write(&daemon, "good.yaml", "policy: shop\nservices: { a: { vm: b } }\n");
    let twin = write(&daemon, "twin.yaml", "policy: shop\n");
    let bad = write(&daemon, "bad.yaml", "policy: [\n");
    let output = xmesh(none, &["policy-check", &good]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(
        out(&output),
        format!("{good}: policy shop, 1 services, 0 rules, 0 routes, valid\n")
    );
    let output = xmesh(none, &["policy-check", &good, &twin]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).starts_with(&format!("{twin}:1:9: a second policy set named `shop`;")));
    let output = xmesh(none, &["policy-check", &bad, "/nonexistent.yaml", &good]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).starts_with(&format!("{bad}:1:9: not valid YAML")),
        "{}",
        err(&output)
    );
    assert!(err(&output).contains("xmesh: cannot read /nonexistent.yaml: "));
    assert!(out(&output).contains("valid"));

    let odd = daemon.folder.path().join("odd.yaml");
    let text = "policy: odd\nrules:\n- { name: all, from: any, to: { vm: db1 }, action: deny }\n\
                - { name: some, from: { vm: web1 }, to: { vm: db1 }, ports: 80, action: allow }\n";
    std::fs::write(&odd, text).unwrap();
    let odd = odd.display().to_string();
    let output = xmesh(none, &["policy-check", &good, &odd]);
    assert_eq!(output.status.code(), Some(4), "{}", err(&output));
    assert_eq!(
        out(&output),
        format!(
            "{good}: policy shop, 1 services, 0 rules, 0 routes, valid\n\
             {odd}: policy odd, 0 services, 2 rules, 0 routes, valid\n\
             {odd}:4:11: shadowed: odd/all decides every flow that this rule matches; narrow one of them, or remove this one\n"
        )
    );
    let output = xmesh(none, &["--json", "policy-check", "--vm", "db1", &odd]);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let kinds: Vec<&str> = told[0]["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| finding["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["shadowed", "unknown-vm"]);

    let schema = xmesh(none, &["policy-schema"]);
    let schema: serde_json::Value = serde_json::from_slice(&schema.stdout).unwrap();
    assert_eq!(schema["required"], serde_json::json!(["policy"]));

    let binary = daemon.folder.path().join("binary.yaml");
    std::fs::write(&binary, b"policy: shop\n# \xff\n").unwrap();
    let output = xmesh(none, &["policy-check", binary.to_str().unwrap()]);
    assert!(
        err(&output).contains("binary.yaml:2:3: a byte that is not UTF-8; save"),
        "{}",
        err(&output)
    );
}

/// What it says of this very host differs from one to the next; what it says of policyd does not.
#[test]
fn the_doctor_asks_the_daemon_too() {
    let status = Status {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: 4,
        guardian: None,
        uptime: 5,
        generation: 3,
        xen: "4.17.5".into(),
        events_lost: 0,
        datapath_events_lost: 0,
        lookups: Default::default(),
        flow_history: Default::default(),
        store: Default::default(),
    };
    let mut seen = domain("web1", 3, Mode::Altp2m);
    let mut dim = domain("db1", 4, Mode::Vm);
    dim.problems = vec!["its kernel has no BTF; boot one with CONFIG_DEBUG_INFO_BTF".into()];
    dim.vifs[0].covered = false;
    seen.vifs.clear();
    let daemon = Daemon::start(move |target| match target {
        "GET /v1/status" => json(&status),
        _ => json(&vec![seen.clone(), dim.clone()]),
    });
    let output = daemon.run(&["--json", "doctor"]);
    assert_eq!(output.status.code(), Some(1), "an interface is not covered");
    assert!(err(&output).contains("this host lacks"), "{}", err(&output));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let of = |check: &str| -> Vec<(String, String)> {
        let all = told.as_array().unwrap().iter();
        all.filter(|f| f["check"] == check)
            .map(|f| {
                (
                    f["level"].as_str().unwrap().into(),
                    f["found"].as_str().unwrap().into(),
                )
            })
            .collect()
    };
    assert_eq!(of("policyd")[0].0, "ok");
    assert_eq!(of("guardian")[0].0, "warn");
    assert_eq!(
        of("vifs"),
        [(
            "fail".into(),
            "vif4.0 of db1 is not covered: its traffic is not decided".into()
        )]
    );
    assert_eq!(
        of("sight"),
        [
            (
                "warn".into(),
                "db1 (mode vm): its kernel has no BTF; boot one with CONFIG_DEBUG_INFO_BTF".into()
            ),
            ("ok".into(), "1 of 2 domains are seen in full".into())
        ]
    );

    let away = xmesh(Path::new("/nonexistent/api.sock"), &["doctor"]);
    assert_eq!(away.status.code(), Some(1), "{}", err(&away));
    let text = out(&away);
    let at = text
        .find("policyd does not answer at /nonexistent/api.sock")
        .unwrap();
    assert!(text[at..].lines().nth(1).unwrap().contains("policyd"), "{text}");
}

#[test]
fn templates_are_what_policy_check_accepts() {
    let none = Path::new("/nonexistent/socket");
    let folder = tempfile::tempdir().unwrap();
    let listed: serde_json::Value =
        serde_json::from_slice(&xmesh(none, &["--json", "policy-template"]).stdout).unwrap();
    let names: Vec<&str> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["name"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), 7);
    for name in names {
        let printed = xmesh(none, &["policy-template", name]);
        assert_eq!(printed.status.code(), Some(0), "{name}");
        assert!(!out(&printed).contains("SPDX"), "{name}");
        let file = folder.path().join(name);
        std::fs::write(&file, &printed.stdout).unwrap();
        let checked = xmesh(none, &["policy-check", file.to_str().unwrap()]);
        assert_eq!(checked.status.code(), Some(0), "{name}: {}", err(&checked));
    }
    let table = out(&xmesh(none, &["policy-template"]));
    assert!(
        table
            .lines()
            .nth(1)
            .unwrap()
            .starts_with("audit-only       A start"),
        "{table}"
    );
    let wrong = xmesh(none, &["policy-template", "defalt-deny"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(err(&wrong).contains("default-deny"), "{}", err(&wrong));
}

#[test]
fn an_explanation_is_asked_and_told() {
    let daemon = Daemon::start(|_| {
        json(&Explained {
            decision: Decision {
                verdict: Verdict::Deny,
                rule: "default of db1".into(),
                generation: 4,
            },
            from: party(Some("web1")),
            to: Party {
                services: Vec::new(),
                id: "spiffe://xmesh/vm/db1".into(),
                ..party(Some("db1"))
            },
            why: vec!["all but matches: shop/r".into()],
        })
    });
    let asked = [
        "explain",
        "--from",
        "web1:/usr/bin/curl",
        "--to",
        "db1",
        "--port",
        "6379",
        "--uid",
        "33",
    ];
    assert_eq!(
        out(&daemon.run(&asked)),
        "deny by default of db1, generation 4\n\
         from  spiffe://xmesh/vm/web1/exe/usr/bin/curl (shop/client)\n\
         to    spiffe://xmesh/vm/db1 (no service)\n  \
           all but matches: shop/r\n"
    );
    let sent = daemon.asked()[0].clone();
    assert!(
        sent.contains("\"from\":\"web1\",\"exe\":\"/usr/bin/curl\",\"uid\":33"),
        "{sent}"
    );
    let output = daemon.run(&["explain", "--from", "web1:curl", "--to", "db1", "--port", "1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        err(&output).contains("--from web1:/usr/bin/curl"),
        "{}",
        err(&output)
    );
}

#[test]
fn exit_status_tells_usage_from_an_absent_daemon() {
    let none = Path::new("/nonexistent/api.sock");
    let output = xmesh(none, &["list"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(
        err(&output).contains("cannot reach policyd at /nonexistent/api.sock")
            && err(&output).contains("start it with"),
        "{}",
        err(&output)
    );
    for wrong in [
        &["lst"] as &[&str],
        &["ps"],
        &["events", "--kind", "x"],
        &["explain", "--port", "70000"],
        &[],
    ] {
        assert_eq!(xmesh(none, wrong).status.code(), Some(2), "{wrong:?}");
    }
    assert_eq!(xmesh(none, &["--help"]).status.code(), Some(0));
    let daemon = Daemon::start(|_| (200, "no json".into()));
    let output = daemon.run(&["list"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("different versions"), "{}", err(&output));
}
