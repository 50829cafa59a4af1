// SPDX-License-Identifier: GPL-3.0-only
//! A small mesh for the tests of this room.

use std::time::Duration;

use policyd_api::{Domain, Flow, Process, Signals, Stats, Status, Threats};
use serde_json::{Value as Json, from_value, json};

use super::look::{Look, Told};
use super::model::Model;
use super::view::View;
use crate::args::top::Top;

/// A name that would clear the screen and turn it red, if it could.
pub const HOSTILE: &str = "evil\u{1b}[2J\u{1b}[31m\u{202e}";

/// What stands on the command line.
pub fn asked(view: View, domain: Option<&str>) -> Top {
    Top {
        domain: domain.map(str::to_owned),
        batch: false,
        iterations: None,
        delay: Duration::from_secs(3),
        view: Some(view),
    }
}

/// A model of the sample, after two looks two seconds apart.
pub fn model(view: View, domain: Option<&str>) -> Model {
    let mut model = Model::new("dom0".into(), &asked(view, domain));
    model.take(look(10, 0, &model));
    model.take(look(12, 2, &model));
    model
}

/// A look at this second, after so many seconds of traffic; with all that the model wants.
pub fn look(at: u64, traffic: u64, model: &Model) -> Look {
    let at = Duration::from_secs(at);
    fn told<T>(at: Duration, answer: T) -> Option<Told<T>> {
        Some(Told {
            at,
            answer: Ok(answer),
        })
    }
    let wants = model.wants();
    Look {
        at,
        away: None,
        status: told(at, status()),
        domains: told(at, domains()),
        stats: told(at, stats(traffic)),
        signals: told(at, signals(traffic)),
        threats: told(at, threats()),
        processes: wants.processes.map(|domain| {
            let answer = Ok(processes(&domain));
            (domain, Told { at, answer })
        }),
        flows: wants.flows.map(|domain| {
            let answer = Ok(flows(domain.as_deref(), traffic));
            (domain, Told { at, answer })
        }),
    }
}

fn of<T: serde::de::DeserializeOwned>(value: Json) -> T {
    from_value(value).expect("a value of the API")
}

fn status() -> Status {
    of(
        json!({ "version": "0.1.0", "pid": 4, "guardian": 5, "uptime": 273_600, "generation": 12, "xen": "4.17.5",
               "events_lost": 0 }),
    )
}

fn domains() -> Vec<Domain> {
    let domain = |id: u16, name: &str, mode: &str, flows: usize, problems: Json| {
        json!({ "id": id, "name": name, "uuid": "", "state": "running", "mode": mode, "problems": problems,
                "kernel": "6.1.0-50-cloud-amd64", "vcpus": 2, "processes": 12, "connections": 3, "flows": flows,
                "vifs": [], "addresses": [format!("10.0.0.{id}")], "probes": [], "traps": 0 })
    };
    of(json!([
        domain(1, "web1", "altp2m", 3, json!([])),
        domain(2, "db1", "altp2m", 2, json!([])),
        domain(
            3,
            HOSTILE,
            "vm",
            0,
            json!(["its kernel has no BTF; boot one with CONFIG_DEBUG_INFO_BTF"])
        ),
    ]))
}

fn stats(traffic: u64) -> Stats {
    let domain = |name: &str, out: u64, into: u64, denied: u64| {
        json!({ "domain": name, "out": { "passed_bytes": 5000 + out * traffic, "denied": denied * traffic },
                "in": { "passed_bytes": 9000 + into * traffic } })
    };
    let connections = |name: &str, setups: u64| {
        let none = json!({ "values": 0, "sum": 0, "p50": null, "p90": null, "p99": null });
        let setup =
            json!({ "values": 7 + setups * traffic, "sum": 0, "p50": null, "p90": null, "p99": null });
        json!({ "domain": name, "outgoing": true, "peer": "db1", "rule": "shop/r", "setup_us": setup,
                "rtt_out_us": none, "rtt_in_us": none, "retransmissions_out": none, "retransmissions_in": none,
                "zero_windows_out": none, "zero_windows_in": none })
    };
    of(json!({
        "domains": [domain("web1", 1 << 20, 3 << 20, 1), domain("db1", 3 << 20, 1 << 20, 0), domain(HOSTILE, 0, 0, 0)],
        "connections": [connections("web1", 4), connections("web1", 1), connections("db1", 5)],
    }))
}

fn signals(traffic: u64) -> Signals {
    let none = json!({ "count": 0, "mean": 0.0, "p50": 0.0, "p90": 0.0, "p99": 0.0, "max": 0.0 });
    let some = |us: f64| json!({ "count": 60, "mean": us, "p50": us, "p90": us * 2.0, "p99": us * 9.0, "max": us * 10.0 });
    let pair = |from: Json, to: Json, port: Option<u16>, connections: u64, denied: u64, slow: Option<f64>| {
        let counts = json!({ "connections": 40 + connections * traffic, "denied": denied * traffic, "failed": 0, "packets_out": 1, "packets_in": 1,
            "bytes_out": 2048 * connections * traffic, "bytes_in": 65536 * connections * traffic,
            "retransmissions_out": 0, "retransmissions_in": traffic, "zero_windows_out": 0, "zero_windows_in": 0 });
        let mut window = counts.clone();
        window["setup_us"] = slow.map_or(none.clone(), |_| some(120.0));
        window["server_rtt_us"] = slow.map_or(none.clone(), |_| some(95.0));
        window["client_rtt_us"] = none.clone();
        window["first_byte_us"] = slow.map_or(none.clone(), some);
        json!({ "from": from, "to": to, "protocol": "tcp", "port": port, "open": 2, "total": counts, "window": window })
    };
    let service = json!({ "name": "shop/front", "kind": "service" });
    let db = json!({ "name": "db1", "kind": "domain" });
    let world = json!({ "name": "world", "kind": "world" });
    of(json!({
        "since": 1000, "until": 1300, "folded": 0,
        "pairs": [
            pair(service.clone(), db.clone(), Some(5432), 4, 0, Some(1_200.0)),
            pair(json!({ "name": HOSTILE, "kind": "domain" }), world, Some(443), 1, 1, None),
        ],
        "findings": [{ "from": service, "to": db, "port": 5432, "culprit": "server", "factor": 9.5,
            "evidence": "the first byte comes 1.2 ms after the question, and the network takes 0.1 ms of that" }],
    }))
}

fn threats() -> Threats {
    let threat = |domain: &str, rule: &str, severity: &str, title: &str, last: u64| {
        json!({ "domain": domain, "domid": 1, "first_ns": 0, "last_ns": last * 1_000_000_000, "count": 2,
                "rule": rule, "severity": severity, "technique": "T1059.004", "title": title,
                "evidence": ["standard input of /bin/sh is the socket to 203.0.113.9:4444",
                             format!("it was started by {HOSTILE}")] })
    };
    of(json!({ "forgotten": 0, "missed": 0, "threats": [
        threat("web1", "reverse-shell", "alert", "/bin/sh talks to 203.0.113.9:4444", 45_296),
        threat("db1", "new-destination", "notice", "/usr/bin/psql goes where it never went", 45_000),
    ] }))
}

fn processes(domain: &str) -> Vec<Process> {
    if domain != "web1" {
        return Vec::new();
    }
    let process = |pid: u32, exe: Option<&str>, args: Json, container: Option<&str>| {
        json!({ "pid": pid, "ppid": 1, "uid": 0, "euid": 33, "gid": 0, "loginuid": null, "comm": "kworker", "exe": exe,
                "exe_deleted": false, "args": args, "container": container, "netns": 1, "start_time_ns": 0,
                "parents": ["/usr/sbin/init"] })
    };
    of(json!([
        process(2, None, json!([]), None),
        process(
            400,
            Some("/usr/sbin/nginx"),
            json!(["nginx", "-g", "daemon off;"]),
            Some("0123456789abcdef")
        ),
        process(401, Some(HOSTILE), json!(["x", "\u{9b}31m"]), None),
    ]))
}

fn flows(domain: Option<&str>, traffic: u64) -> Vec<Flow> {
    let flow = |domain: &str,
                local: &str,
                remote: &str,
                outgoing: bool,
                pid: u32,
                service: &str,
                verdict: &str| {
        json!({ "domain": domain, "protocol": "tcp", "local": local, "remote": remote, "outgoing": outgoing,
                "who": { "domain": domain, "exe": "/usr/sbin/nginx", "pid": pid, "uid": 33,
                         "services": if service.is_empty() { json!([]) } else { json!([service]) }, "id": "spiffe://x" },
                "decision": { "verdict": verdict, "rule": "shop/front-reads", "generation": 12 },
                "packets_out": 1, "bytes_out": 1000 + 2048 * traffic, "packets_in": 1, "bytes_in": 1000 + 1024 * traffic,
                "age_ms": 61_000 + traffic * 1000, "idle_ms": 3, "state": "established",
                "timing": { "setup_us": 120, "rtt_out_us": 95, "rtt_in_us": null, "retransmissions_out": 0,
                            "retransmissions_in": 0, "zero_windows_out": 0, "zero_windows_in": 0 } })
    };
    let all = [
        flow(
            "web1",
            "10.0.0.1:40000",
            "10.0.0.2:5432",
            true,
            400,
            "shop/front",
            "allow",
        ),
        flow(
            "web1",
            "10.0.0.1:40001",
            "10.0.0.2:5432",
            true,
            400,
            "shop/front",
            "allow",
        ),
        flow(
            "web1",
            "10.0.0.1:40002",
            "203.0.113.9:4444",
            true,
            401,
            "",
            "deny",
        ),
        flow("db1", "10.0.0.2:5432", "10.0.0.1:40000", false, 7, "", "allow"),
        flow("db1", "10.0.0.2:22", "203.0.113.9:50000", false, 8, "", "allow"),
    ];
    let flows: Vec<Flow> = of(Json::Array(all.into()));
    flows
        .into_iter()
        .filter(|flow| domain.is_none_or(|domain| flow.domain == domain))
        .collect()
}
