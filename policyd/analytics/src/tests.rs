// SPDX-License-Identifier: GPL-3.0-only
//! Each rule with what it is for, and with what an honest machine does that is like it.

use policyd_api::{FlowName, FlowTotals};
use serde_json::{Value, json};

use super::*;

const SECOND: u64 = 1_000_000_000;
const DAY: u64 = 86_400 * SECOND;

fn process(pid: u32, ppid: u32, exe: &str, args: &[&str]) -> Value {
    json!({
        "pid": pid, "ppid": ppid, "uid": 1000, "euid": 1000, "gid": 1000, "loginuid": null,
        "comm": exe.rsplit('/').next(), "exe": exe, "exe_deleted": false, "args": args, "container": null,
        "netns": 1, "start_time_ns": 1, "parents": ["/usr/bin/parent"],
    })
}

fn event(at_s: u64, kind: &str, what: Value) -> Event {
    let mut event = json!({"seq": 1, "time_ns": at_s * SECOND, "domain": "web1", "domid": 1, "kind": kind});
    if let (Some(event), Value::Object(what)) = (event.as_object_mut(), what) {
        event.extend(what);
    }
    serde_json::from_value(event).expect("an event")
}

fn exec(process: Value) -> Event {
    event(1, "exec", json!({"process": process}))
}

fn connect(at_s: u64, process: Value, remote: &str, to: Option<&str>) -> Event {
    let to = json!({"domain": to, "exe": null, "pid": null, "uid": null, "services": [], "id": ""});
    let decision = json!({"verdict": "allow", "rule": "default (from)", "generation": 1});
    event(
        at_s,
        "connect",
        json!({
            "process": process, "protocol": "tcp", "local": "10.0.0.11:40000", "remote": remote, "to": to,
            "decision": decision,
        }),
    )
}

fn rules_of(outcome: &Outcome) -> Vec<&str> {
    outcome.found.iter().map(|f| f.threat.rule.as_str()).collect()
}

/// As many rules as events found, in order.
fn seen(events: impl IntoIterator<Item = Event>) -> Vec<String> {
    let mut detector = Detector::default();
    let outcomes = events.into_iter().map(|event| detector.observe(&event));
    outcomes
        .flat_map(|outcome| outcome.found)
        .map(|found| found.threat.rule)
        .collect()
}

fn socket(fd: u32, remote: &str) -> Descriptor {
    Descriptor {
        fd,
        local: "10.0.0.11:40000".parse().expect("an address"),
        remote: Some(remote.parse().expect("an address")),
    }
}

#[test]
fn a_shell_on_a_connection_that_its_parent_opened_is_a_reverse_shell() {
    let mut detector = Detector::default();
    let python = process(10, 1, "/usr/bin/python3.11", &["python3", "-c", "…"]);
    let asked = detector.observe(&connect(1, python, "192.0.2.9:4444", None));
    assert_eq!(asked.questions.len(), 3, "python itself may make it its input");
    let shell = exec(process(11, 10, "/usr/bin/dash", &["/bin/sh", "-i"]));
    let asked = detector.observe(&shell).questions;
    assert_eq!((asked.len(), asked[0].after_ms), (1, 0));
    let sockets = [socket(0, "192.0.2.9:4444"), socket(1, "192.0.2.9:4444")];
    let found = detector
        .answered(&asked[0], Answer::Sockets(&sockets))
        .expect("a threat");
    assert_eq!(found.threat.rule, "reverse-shell");
    assert_eq!((found.threat.severity, found.domid), (Severity::Alert, Some(1)));
    // Input from a socket and output to a file is no shell that somebody talks with.
    assert!(
        detector
            .answered(&asked[0], Answer::Sockets(&sockets[..1]))
            .is_none()
    );
    // A socket of which nobody told is not said to go out.
    let other = [socket(0, "192.0.2.9:1"), socket(1, "192.0.2.9:1")];
    assert!(detector.answered(&asked[0], Answer::Sockets(&other)).is_none());
}

#[test]
fn a_shell_that_a_listener_gave_its_connection_is_a_bind_shell() {
    let mut detector = Detector::default();
    let from = json!({"domain": null, "exe": null, "pid": null, "uid": null, "services": [], "id": ""});
    let nc = process(10, 1, "/usr/bin/nc", &["nc", "-l"]);
    let accept = json!({"process": nc, "local": "10.0.0.11:40000", "remote": "192.0.2.9:5", "from": from});
    detector.observe(&event(1, "accept", accept));
    let asked = detector
        .observe(&exec(process(10, 1, "/usr/bin/bash", &["bash"])))
        .questions;
    let sockets = [socket(0, "192.0.2.9:5"), socket(1, "192.0.2.9:5")];
    let found = detector.answered(&asked[0], Answer::Sockets(&sockets));
    assert_eq!(found.expect("a threat").threat.rule, "bind-shell");
}

#[test]
fn shells_of_who_has_no_connection_are_not_asked_about() {
    let mut detector = Detector::default();
    detector.observe(&connect(
        1,
        process(10, 1, "/usr/bin/curl", &[]),
        "192.0.2.9:80",
        None,
    ));
    let shell = exec(process(20, 1, "/usr/bin/bash", &["bash"]));
    assert!(detector.observe(&shell).questions.is_empty());
    // What is no interpreter is not asked about at all.
    let child = exec(process(21, 10, "/usr/bin/ls", &["ls"]));
    assert!(detector.observe(&child).questions.is_empty());
    // A family that leads in a circle ends.
    let mut looped = Detector::default();
    for (pid, ppid) in [(30, 31), (31, 30)] {
        looped.observe(&exec(process(pid, ppid, "/usr/bin/bash", &[])));
    }
    let circle = exec(process(30, 31, "/usr/bin/bash", &[]));
    assert!(looped.observe(&circle).questions.is_empty());
}

#[test]
fn programs_by_where_they_come_from() {
    let of = |exe: &str| seen([exec(process(5, 1, exe, &["x"]))]);
    assert_eq!(of("/memfd:x"), ["fileless-program"]);
    assert_eq!(of("/dev/shm/x"), ["fileless-program"]);
    assert_eq!(of("/tmp/a/x"), ["temporary-program"]);
    assert_eq!(of("/var/tmp/x"), ["temporary-program"]);
    for honest in [
        "/usr/bin/tmp/x",
        "/tmpx/y",
        "/memfd:runc_cloned:/proc/self/exe",
        "/usr/sbin/nginx",
    ] {
        assert!(of(honest).is_empty(), "{honest}");
    }
    let mut deleted = process(5, 1, "/usr/bin/x", &[]);
    deleted["exe_deleted"] = true.into();
    assert_eq!(seen([exec(deleted)]), ["deleted-program"]);
}

#[test]
fn miners_by_name_and_arguments() {
    let of = |exe: &str, args: &[&str]| seen([exec(process(5, 1, exe, args))]);
    assert_eq!(of("/opt/xmrig", &["xmrig"]), ["miner"]);
    assert_eq!(
        of(
            "/usr/bin/httpd",
            &["httpd", "-o", "stratum+tcp://pool.example:3333"]
        ),
        ["miner"]
    );
    for arguments in [
        ["x", "--url=stratum+ssl://pool.example:1"],
        ["x", "-ostratum+tcp://pool.example:1"],
        ["x", "--donate-level"],
        ["x", "--donate-level=1"],
        ["x", "--randomx-mode=fast"],
    ] {
        assert_eq!(of("/usr/bin/kworker", &arguments), ["miner"], "{arguments:?}");
    }
    for honest in [
        ["curl", "https://example.org/xmrig"],
        ["grep", "stratum+tcp://"],
        ["sh", "echo stratum+tcp://pool.example:1 is blocked"],
        ["sh", "echo never use --donate-level=1"],
        ["x", "--donate-levels"],
    ] {
        assert!(of("/usr/bin/honest", &honest).is_empty(), "{honest:?}");
    }
}

#[test]
fn only_who_has_no_right_to_become_root_is_told() {
    let of = |uid: u32, permitted: u64, to: u32| {
        let credentials = |uid: u32, permitted: u64| json!({"uid": uid, "euid": uid, "gid": 1, "egid": 1, "permitted": permitted, "effective": permitted});
        seen([event(
            1,
            "cred",
            json!({
                "process": process(5, 1, "/usr/bin/x", &[]),
                "before": credentials(uid, permitted), "after": credentials(to, u64::MAX >> 23),
            }),
        )])
    };
    assert_eq!(of(1000, 0, 0), ["privilege"]);
    // A setuid program that had given root up; root that gives it up; a service that changes its user.
    assert!(of(1000, 1 << 7, 0).is_empty());
    assert!(of(0, u64::MAX >> 23, 1000).is_empty());
    assert!(of(1000, 0, 1001).is_empty());
}

/// A process with credentials: user, effective user, and whether it may take others.
fn user(pid: u32, ppid: u32, exe: &str, ids: [u32; 2], setuid: bool) -> Value {
    let mut process = process(pid, ppid, exe, &[exe]);
    let zero = "0000000000000000";
    let permitted = if setuid { "0000000000000080" } else { zero };
    (process["uid"], process["euid"]) = (ids[0].into(), ids[1].into());
    process["capabilities"] = json!({
        "inheritable": zero, "permitted": permitted, "effective": zero, "bounding": zero, "ambient": zero,
    });
    process
}

#[test]
fn who_is_root_without_having_become_it_is_told() {
    let fork = |process: Value| event(1, "fork", json!({"process": process}));
    let connects = |process: Value| connect(1, process, "10.0.0.12:80", Some("db1"));
    let own = |ids: [u32; 2]| user(5, 1, "/usr/bin/x", ids, false);
    assert_eq!(seen([exec(own([1000; 2])), connects(own([0; 2]))]), ["privilege"]);
    assert_eq!(
        seen([connects(own([1000; 2])), connects(own([1000, 0]))]),
        ["privilege"]
    );
    let child = |ids: [u32; 2]| fork(user(6, 5, "/usr/bin/x", ids, false));
    assert_eq!(seen([exec(own([1000; 2])), child([0; 2])]), ["privilege"]);
    let honest = [
        // Another program: setuid, as told with its exec.
        vec![
            exec(own([1000; 2])),
            exec(user(5, 1, "/usr/bin/su", [1000, 0], true)),
            connects(user(5, 1, "/usr/bin/su", [1000, 0], true)),
        ],
        // The same without its exec: that may not have been told.
        vec![
            exec(own([1000; 2])),
            connects(user(5, 1, "/usr/bin/su", [1000, 0], true)),
        ],
        // It gave root up for a while.
        vec![
            exec(user(5, 1, "/usr/bin/x", [1000; 2], true)),
            connects(own([0; 2])),
        ],
        // One of its threads never did.
        vec![exec(own([0; 2])), connects(own([1000; 2])), connects(own([0; 2]))],
        // Another process of that number, by its start.
        vec![exec(own([1000; 2])), {
            let mut other = own([0; 2]);
            other["start_time_ns"] = 99.into();
            connects(other)
        }],
        // It ended, and another got its number.
        vec![
            exec(own([1000; 2])),
            event(1, "exit", json!({"process": own([1000; 2]), "code": 0})),
            connects(own([0; 2])),
        ],
        // What happened in between was not told.
        vec![
            exec(own([1000; 2])),
            event(1, "lost", json!({"count": 3, "place": "x"})),
            connects(own([0; 2])),
        ],
        vec![
            exec(own([1000; 2])),
            event(1, "sight", json!({"mode": "altp2m", "message": "exec rests"})),
            connects(own([0; 2])),
        ],
        vec![exec(own([1000; 2])), child([1000; 2]), connects(own([1000; 2]))],
    ];
    for events in honest {
        assert!(seen(events.clone()).is_empty(), "{events:#?}");
    }
    // What it asked for is looked at by itself.
    let credentials = |uid: u32, permitted: u64| json!({"uid": uid, "euid": uid, "gid": 1, "egid": 1, "permitted": permitted, "effective": permitted});
    let asked =
        json!({"process": own([1000; 2]), "before": credentials(1000, 1 << 7), "after": credentials(0, 0)});
    assert!(
        seen([
            exec(own([1000; 2])),
            event(1, "cred", asked),
            connects(own([0; 2]))
        ])
        .is_empty()
    );
}

#[test]
fn a_scan_is_many_ports_and_a_sweep_many_addresses() {
    let nmap = || process(5, 1, "/usr/bin/nmap", &["nmap"]);
    let ports = (1..=30u16).map(|port| connect(1, nmap(), &format!("10.0.0.12:{port}"), Some("db1")));
    assert_eq!(seen(ports), ["port-scan"]);
    let addresses = (1..=60).map(|host| connect(1, nmap(), &format!("10.0.1.{host}:22"), None));
    assert_eq!(seen(addresses), ["sweep"]);
    // The same over hours, and the same few again and again.
    let slowly =
        (1..=30u16).map(|port| connect(u64::from(port) * 60, nmap(), &format!("10.0.0.12:{port}"), None));
    assert!(seen(slowly).is_empty());
    let again = (1..=500u16).map(|n| connect(1, nmap(), &format!("10.0.0.12:{}", n % 20 + 1), Some("db1")));
    assert!(seen(again).is_empty());
    // Monitoring meets its hosts again each minute.
    let rounds = (0..5u64).flat_map(|round| (1..=40).map(move |host| (round, host)));
    let monitor =
        rounds.map(|(round, host)| connect(1 + round * 60, nmap(), &format!("10.0.1.{host}:9100"), None));
    assert!(seen(monitor).is_empty());
}

#[test]
fn a_scan_from_outside_is_told_by_what_is_refused() {
    let refused = |port: u16| {
        let decision = json!({"verdict": "deny", "rule": "default (to)", "generation": 1});
        event(
            1,
            "refused",
            json!({
                "direction": "in", "protocol": "tcp", "local": format!("10.0.0.11:{port}"),
                "remote": "192.0.2.66:40000", "who": null, "decision": decision,
            }),
        )
    };
    assert_eq!(seen((1..=30).map(refused)), ["port-scan"]);
    assert!(seen((1..=20).map(refused)).is_empty());
}

#[test]
fn what_nobody_owns_is_told_but_not_who_asks_for_an_address() {
    let unowned = |protocol: &str, local: &str, remote: &str| {
        let ends = json!({"protocol": protocol, "local": local, "remote": remote});
        seen([event(1, "unowned", ends)])
    };
    assert!(unowned("udp", "0.0.0.0:68", "255.255.255.255:67").is_empty());
    for (protocol, local, remote) in [
        ("udp", "10.0.0.11:33333", "10.0.0.12:7777"),
        ("udp", "10.0.0.11:68", "192.0.2.9:67"),
        ("udp", "10.0.0.11:53", "255.255.255.255:67"),
        ("tcp", "10.0.0.11:68", "255.255.255.255:67"),
    ] {
        assert_eq!(unowned(protocol, local, remote), ["unowned-traffic"]);
    }
}

#[test]
fn a_udp_socket_that_is_connected_and_sends_nothing_is_no_beacon() {
    let found = |sends: bool, seen: &str| {
        let mut detector = Detector::default();
        let mut found = Vec::new();
        let mut asked = 0;
        for n in 0..13u64 {
            let mut event = connect(
                1000 + n * 60,
                process(5, 1, "/usr/bin/ping", &[]),
                "192.0.2.9:1025",
                None,
            );
            if let What::Connect {
                protocol, seen: how, ..
            } = &mut event.what
            {
                *protocol = "udp".into();
                *how = serde_json::from_value(json!(seen)).unwrap();
            }
            let outcome = detector.observe(&event);
            found.extend(rules_of(&outcome).into_iter().map(str::to_owned));
            for question in &outcome.questions {
                asked += 1;
                assert!(question.after_ms < 5000 && question.about != About::StandardSockets);
                let answered = detector.answered(question, Answer::Packets(sends));
                found.extend(answered.map(|found| found.threat.rule));
            }
        }
        found.retain(|rule| rule == "beacon");
        (found.len(), asked)
    };
    assert_eq!(found(false, "trap"), (0, 13));
    assert_eq!(found(true, "trap"), (1, 13));
    // A lookup is made for a packet.
    assert_eq!(found(true, "lookup"), (1, 0));
}

#[test]
fn regular_intervals_are_a_beacon_and_others_are_none() {
    let implant = |at: u64| connect(at, process(5, 1, "/usr/bin/x", &[]), "192.0.2.9:443", None);
    let regular = (0..13u64).map(|n| implant(1000 + n * 60 + n % 3));
    assert_eq!(seen(regular), ["beacon"]);
    let irregular = (0..40u64).map(|n| implant(1000 + n * 60 + (n * n * 37) % 50));
    assert!(seen(irregular).is_empty());
    let quick = (0..40u64).map(|n| implant(1000 + n));
    assert!(seen(quick).is_empty());
    let inside = (0..40u64).map(|n| {
        connect(
            1000 + n * 60,
            process(5, 1, "/x", &[]),
            "10.0.0.12:80",
            Some("db1"),
        )
    });
    assert!(seen(inside).is_empty());
}

#[test]
fn what_is_new_is_told_where_what_is_usual_is_known() {
    let curl = || process(5, 1, "/usr/bin/curl", &[]);
    let day = DAY / SECOND;
    let events = [
        connect(day, curl(), "10.0.0.12:80", Some("db1")),
        // Within the first day everything is new.
        connect(day + 100, curl(), "192.0.2.1:443", None),
        connect(3 * day, curl(), "10.0.0.12:80", Some("db1")),
        connect(3 * day, curl(), "192.0.2.2:443", None),
        connect(3 * day, process(6, 1, "/usr/bin/nc", &[]), "192.0.2.2:443", None),
        connect(3 * day, process(6, 1, "/usr/bin/nc", &[]), "192.0.2.3:443", None),
    ];
    assert_eq!(seen(events), ["new-destination", "new-program"]);
    // Who goes everywhere goes nowhere new.
    let browser = (0..40u64).map(|n| connect(day + n, curl(), &format!("192.0.2.{n}:443"), None));
    let later = connect(9 * day, curl(), "203.0.113.9:443", None);
    assert!(seen(browser.chain([later])).is_empty());
}

#[test]
fn what_a_guest_says_to_itself_goes_nowhere() {
    let day = DAY / SECOND;
    let curl = || process(5, 1, "/usr/bin/curl", &[]);
    // Its own address: as it is outside of all guests where the guest's vif is not known yet.
    let itself = |remote: &str| connect(9 * day, process(6, 1, "/usr/bin/app", &[]), remote, None);
    let known = connect(day, curl(), "10.0.0.12:80", Some("db1"));
    let inside = [
        "127.0.0.1:80",
        "[::1]:80",
        "[::ffff:127.0.0.1]:80",
        "0.0.0.0:80",
        "10.0.0.11:80",
    ];
    assert!(seen([known.clone()].into_iter().chain(inside.map(itself))).is_empty());
    assert_eq!(seen([known, itself("10.0.0.12:80")]), ["new-program"]);
}

/// What a daemon that begins again finds, with a history of flows from a week ago.
fn seen_after(past: &[FlowName], events: impl IntoIterator<Item = Event>) -> Vec<String> {
    let totals = FlowTotals {
        flows: 1,
        first: DAY / SECOND,
        ..FlowTotals::default()
    };
    let mut detector = Detector::new(Baseline::learned(past.iter().map(|name| (name, totals))));
    let outcomes = events.into_iter().map(|event| detector.observe(&event));
    let found = outcomes.flat_map(|outcome| outcome.found);
    found.map(|found| found.threat.rule).collect()
}

fn went(exe: &str, to: Value, port: Option<u16>) -> FlowName {
    serde_json::from_value(json!({
        "from": {"domain": "web1", "exe": exe}, "to": to, "protocol": "tcp", "port": port, "verdict": "allow",
        "rule": "default", "by_policy": true,
    }))
    .expect("a name")
}

#[test]
fn what_the_history_does_not_tell_apart_is_known_all_the_same() {
    let week = 8 * DAY / SECOND;
    let past = [
        went(
            "/usr/bin/app",
            json!({"address": "192.0.2.0", "prefix": 24}),
            Some(443),
        ),
        went(
            "/usr/bin/app",
            json!({"domain": "db1", "address": "10.0.0.12"}),
            None,
        ),
        went(
            "/usr/bin/app",
            json!({"address": "2001:db8:1::", "prefix": 48}),
            None,
        ),
    ];
    let app = |remote: &str, to: Option<&str>| connect(week, process(5, 1, "/usr/bin/app", &[]), remote, to);
    let usual = [
        app("192.0.2.77:443", None),
        app("10.0.0.12:9999", Some("db1")),
        app("[2001:db8:1:5::9]:80", None),
    ];
    assert!(seen_after(&past, usual).is_empty());
    let unusual = [
        app("192.0.2.77:444", None),
        app("192.0.3.77:443", None),
        app("[2001:db8:2::9]:80", None),
    ];
    assert_eq!(seen_after(&past, unusual), ["new-destination"; 3]);
}

#[test]
fn monitoring_sweeps_nothing_after_a_restart_and_others_do() {
    let week = 8 * DAY / SECOND;
    let host = |n: u32| format!("10.0.1.{n}");
    let past: Vec<FlowName> = (1..=60)
        .map(|n| went("/usr/bin/monitor", json!({"address": host(n)}), Some(9100)))
        .collect();
    let round = |exe: &'static str, port: u16| {
        (1..=60).map(move |n| {
            connect(
                week,
                process(5, 1, exe, &[]),
                &format!("{}:{port}", host(n)),
                Some("x"),
            )
        })
    };
    assert!(seen_after(&past, round("/usr/bin/monitor", 9100)).is_empty());
    let only_sweeps = |found: Vec<String>| -> Vec<String> {
        let is_new = |rule: &String| rule.starts_with("new-");
        found.into_iter().filter(|rule| !is_new(rule)).collect()
    };
    assert_eq!(
        only_sweeps(seen_after(&past, round("/usr/bin/monitor", 22))),
        ["sweep"]
    );
    assert_eq!(only_sweeps(seen_after(&past, round("/tmp/x", 9100))), ["sweep"]);
    // Of one address that it knows it may try all ports.
    let ports = (1..=30u16).map(|port| {
        connect(
            week,
            process(5, 1, "/usr/bin/monitor", &[]),
            &format!("10.0.1.1:{port}"),
            None,
        )
    });
    assert_eq!(only_sweeps(seen_after(&past, ports)), ["port-scan"]);
}

#[test]
fn a_kernels_findings_are_threats_of_their_own_severity() {
    let finding =
        |severity: &str| json!({"finding": {"severity": severity, "kind": "x", "message": "hooked"}});
    let mut detector = Detector::default();
    let hidden = detector.observe(&event(1, "hidden", finding("alert")));
    assert_eq!(rules_of(&hidden), ["hidden"]);
    let traced = detector.observe(&event(1, "integrity", finding("notice")));
    assert_eq!(rules_of(&traced), ["kernel-changed"]);
    assert_eq!(traced.found[0].threat.severity, Severity::Notice);
}

fn sent(domain: &str, exe: &str, port: u16, packets: u64, bytes: u64) -> (FlowName, FlowTotals) {
    let name = json!({
        "from": {"domain": domain, "exe": exe}, "to": {"address": "192.0.2.9"}, "protocol": "tcp", "port": port,
        "verdict": "allow", "rule": "default", "by_policy": true,
    });
    let totals = FlowTotals {
        flows: 1,
        packets_out: packets,
        bytes_out: bytes,
        ..FlowTotals::default()
    };
    (serde_json::from_value(name).expect("a name"), totals)
}

#[test]
fn far_more_than_ever_is_told_and_the_usual_is_not() {
    let hours = |bytes: u64| {
        let mut volume = Volume::default();
        let (name, totals) = sent("web1", "/usr/bin/rsync", 22, 10, bytes);
        for hour in 0..30 {
            volume.learn(hour * 3600, [(&name, totals)]);
        }
        volume
    };
    let (name, much) = sent("web1", "/usr/bin/rsync", 22, 10, 300 << 20);
    let look = |volume: &Volume, now: u64| -> Vec<String> {
        let found = volume.look(now, [(&name, much)]);
        found.into_iter().map(|f| f.threat.rule).collect()
    };
    assert_eq!(look(&hours(1 << 20), 30 * 3600), ["exfiltration"]);
    assert!(look(&hours(200 << 20), 30 * 3600).is_empty());
    // Nobody knows what is usual on the first day.
    assert!(look(&hours(1 << 20), 3600).is_empty());
}

#[test]
fn questions_that_carry_data_are_told() {
    let rules = |packets: u64, bytes: u64| -> Vec<String> {
        let (name, totals) = sent("web1", "/usr/bin/x", 53, packets, bytes);
        let found = Volume::default().look(1, [(&name, totals)]);
        found.into_iter().map(|f| f.threat.rule).collect()
    };
    assert_eq!(rules(500, 500 * 220), ["dns-tunnel"]);
    assert_eq!(rules(30_000, 30_000 * 80), ["dns-tunnel"]);
    assert!(rules(500, 500 * 85).is_empty());
    assert!(rules(50, 50 * 300).is_empty());
}

#[test]
fn every_rule_that_is_used_is_in_the_catalog_once() {
    let all = rules();
    let mut names: Vec<&str> = all.iter().map(|rule| rule.id.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all.len());
    for source in [
        include_str!("lib.rs"),
        include_str!("shell.rs"),
        include_str!("program.rs"),
        include_str!("privilege.rs"),
        include_str!("scan.rs"),
        include_str!("beacon.rs"),
        include_str!("novelty.rs"),
        include_str!("volume.rs"),
    ] {
        for part in source.split("threat(").skip(1) {
            let first = part.trim_start();
            if let Some(id) = first.strip_prefix('"').and_then(|rest| rest.split('"').next()) {
                assert!(names.contains(&id), "{id}");
            }
        }
    }
}
