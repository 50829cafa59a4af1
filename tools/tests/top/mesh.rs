// SPDX-License-Identifier: GPL-3.0-only
//! A small mesh in which something happens between any two looks.

use std::cell::Cell;

use serde_json::{Value as Json, json};

use crate::daemon::{Answer, json as answered};

/// A daemon's answers; each look at counters finds them further on.
pub fn answer() -> impl Fn(&str) -> Answer + Send + 'static {
    let looks = Cell::new(0u64);
    move |target| {
        let path = target
            .trim_start_matches("GET ")
            .split('?')
            .next()
            .unwrap_or_default();
        let value = match path {
            "/v1/status" => {
                looks.set(looks.get() + 1);
                status()
            }
            "/v1/domains" => domains(),
            "/v1/stats" => stats(looks.get()),
            "/v1/signals" => signals(looks.get()),
            "/v1/threats" => threats(),
            "/v1/domains/web1/processes" => processes(),
            "/v1/flows" => flows(looks.get()),
            // A tool that was ended in the midst of its question.
            "" => return (400, String::new()),
            other => return (404, json!({ "error": format!("no {other}") }).to_string()),
        };
        answered(&value)
    }
}

fn status() -> Json {
    json!({ "version": "0.1.0", "pid": 4, "guardian": 5, "uptime": 273_600, "generation": 12, "xen": "4.17.5", "events_lost": 0 })
}

fn domains() -> Json {
    let domain = |id: u16, name: &str, mode: &str, flows: usize| {
        json!({ "id": id, "name": name, "uuid": "", "state": "running", "mode": mode, "problems": [],
                "kernel": null, "vcpus": 2, "processes": 12, "connections": 3, "flows": flows,
                "vifs": [], "addresses": [format!("10.0.0.{id}")], "probes": [], "traps": 0 })
    };
    json!([
        domain(1, "web1", "altp2m", 3),
        domain(2, "db1", "altp2m", 2),
        domain(3, "evil\u{1b}[2J", "vm", 0)
    ])
}

fn stats(looks: u64) -> Json {
    let domain =
        |name: &str, out: u64| json!({ "domain": name, "out": { "passed_bytes": out * looks }, "in": {} });
    json!({ "domains": [domain("web1", 1 << 20), domain("db1", 1 << 10)], "connections": [] })
}

fn signals(looks: u64) -> Json {
    let none = json!({ "count": 0, "mean": 0.0, "p50": 0.0, "p90": 0.0, "p99": 0.0, "max": 0.0 });
    let some =
        json!({ "count": 60, "mean": 120.0, "p50": 120.0, "p90": 240.0, "p99": 1080.0, "max": 1200.0 });
    let counts = json!({ "connections": 40 + looks, "denied": 0, "failed": 0, "packets_out": looks, "packets_in": looks,
        "bytes_out": looks, "bytes_in": looks, "retransmissions_out": 0, "retransmissions_in": 0,
        "zero_windows_out": 0, "zero_windows_in": 0 });
    let mut window = counts.clone();
    window["setup_us"] = some;
    for what in ["server_rtt_us", "client_rtt_us", "first_byte_us"] {
        window[what] = none.clone();
    }
    let from = json!({ "name": "shop/front", "kind": "service" });
    let to = json!({ "name": "db1", "kind": "domain" });
    json!({ "since": 1000, "until": 1300, "folded": 0,
        "pairs": [{ "from": from, "to": to, "protocol": "tcp", "port": 5432, "open": 2, "total": counts, "window": window }],
        "findings": [{ "from": from, "to": to, "port": 5432, "culprit": "server", "factor": 9.5,
                       "evidence": "the first byte comes late" }] })
}

fn threats() -> Json {
    json!({ "forgotten": 0, "missed": 0, "threats": [{ "domain": "web1", "domid": 1, "first_ns": 0, "last_ns": 1, "count": 2,
        "rule": "reverse-shell", "severity": "alert", "technique": "T1059.004", "title": "/bin/sh talks", "evidence": [] }] })
}

fn processes() -> Json {
    json!([{ "pid": 400, "ppid": 1, "uid": 33, "euid": 33, "gid": 33, "loginuid": null, "comm": "nginx",
        "exe": "/usr/sbin/nginx", "exe_deleted": false, "args": [], "container": null, "netns": 1, "start_time_ns": 0,
        "parents": [] }])
}

fn flows(looks: u64) -> Json {
    json!([{ "domain": "web1", "protocol": "tcp", "local": "10.0.0.1:40000", "remote": "10.0.0.2:5432", "outgoing": true,
        "who": { "domain": "web1", "exe": "/usr/sbin/nginx", "pid": 400, "uid": 33, "services": [], "id": "spiffe://x" },
        "decision": { "verdict": "allow", "rule": "shop/r", "generation": 12 }, "packets_out": 1, "bytes_out": 2048 * looks,
        "packets_in": 1, "bytes_in": 0, "age_ms": 60_000, "idle_ms": 3, "state": "established" }])
}
