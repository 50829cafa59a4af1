// SPDX-License-Identifier: GPL-3.0-only
//! The document says what the API does: every route is asked, and every answer held against it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;

const POLICY: &str = "policy: shop
default: { db1: deny }
services:
  web: { vm: web1, exe: /usr/bin/curl }
rules:
  - { name: read, from: web, to: { vm: db1 }, ports: 80, action: allow }
  - { name: tried, from: web, to: { vm: db1 }, ports: 81, action: deny, dry_run: true }
routes:
  pages: { address: 10.0.0.100, port: 80, backends: [{ to: { vm: db1 }, version: v1, weight: 80 }] }
qos:
  vms: { web1: { to_guest: 100mbit, from_guest: 50mbit } }
  classes: [{ name: reads, from: web, to: { vm: db1 }, priority: realtime }]
";

/// The document, and what was asked of it.
struct Contract<'a> {
    served: &'a Served,
    document: Value,
    walked: BTreeSet<String>,
}

impl Contract<'_> {
    /// Asks a route with these words for what varies in its path, and holds the answer against the document.
    fn ask(&mut self, route: &str, word: &str, query: &str, body: &[u8], status: u16) -> Answer {
        let (method, path) = route.split_once(' ').expect("a method");
        let operation = &self.document["paths"][path][method.to_lowercase()];
        assert!(operation.is_object(), "{route} is not in the document");
        let place = match (path.find('{'), path.find('}')) {
            (Some(start), Some(end)) => format!("{}{word}{}", &path[..start], &path[end + 1..]),
            _ => path.to_owned(),
        };
        let kind = operation["requestBody"]["content"].as_object();
        let kind = kind.and_then(|kinds| kinds.keys().next());
        let kind = kind
            .map(|kind| format!("\ncontent-type: {kind}"))
            .unwrap_or_default();
        let request = format!("{method} {place}{query}{kind}");
        let answer = ask(&self.served.socket, &request, body);
        let text = String::from_utf8_lossy(&answer.body);
        assert_eq!(answer.status, status, "{request}: {text}");
        let said = &operation["responses"][status.to_string()];
        assert!(
            said.is_object(),
            "{route} does not say that it may answer {status}"
        );
        let kind = answer.header("content-type").expect("a type");
        let content = &said["content"][kind];
        assert!(content.is_object(), "{route} does not say that it answers {kind}");
        for name in said["headers"]
            .as_object()
            .into_iter()
            .flat_map(|headers| headers.keys())
        {
            // `Link` is there where there is more.
            assert!(
                name == "Link" || answer.header(name).is_some(),
                "{request}: no {name}"
            );
        }
        match kind {
            "application/json" => self.holds(route, &content["schema"], &answer.json()),
            "application/x-ndjson" => {
                for line in text.lines().filter(|line| !line.is_empty()) {
                    let item = serde_json::from_str(line).expect("JSON");
                    self.holds(route, &content["x-itemSchema"], &item);
                }
            }
            _ => {}
        }
        self.walked.insert(route.to_owned());
        answer
    }

    fn holds(&self, route: &str, schema: &Value, value: &Value) {
        let schema = json!({ "allOf": [schema], "components": self.document["components"] });
        let validator = jsonschema::draft202012::new(&schema).unwrap_or_else(|e| panic!("{route}: {e}"));
        let problems: Vec<String> = validator
            .iter_errors(value)
            .map(|e| format!("{}: {e}", e.instance_path()))
            .collect();
        assert!(problems.is_empty(), "{route}: {problems:#?} in {value:#}");
    }
}

/// A connection that never was.
fn measured(signals: &crate::signals::Signals) {
    let peer = |name: &str, kind| policyd_api::Peer {
        name: name.into(),
        kind,
    };
    let pair = policyd_analytics::signals::Pair {
        from: peer("shop/web", policyd_api::PeerKind::Service),
        to: peer("db1", policyd_api::PeerKind::Domain),
        route: None,
        version: None,
        protocol: "tcp".into(),
        port: Some(80),
    };
    let micros = |us| Some(std::time::Duration::from_micros(us));
    let now = crate::events::now_ns() / 1_000_000_000;
    let record = netback_filter::FlowRecord {
        setup: micros(300),
        first_byte: micros(4000),
        rtt: [micros(300), micros(50)],
        ..crate::recorder::tests::out(4000, [300, 700])
    };
    let end = |domain: &str| policyd_api::FlowEnd {
        domain: Some(domain.into()),
        ..Default::default()
    };
    let name = policyd_api::FlowName {
        from: end("web1"),
        to: end("db1"),
        protocol: "tcp".into(),
        port: Some(80),
        verdict: policyd_api::Verdict::Allow,
        rule: "shop/read".into(),
        by_policy: true,
    };
    let mut told = signals.begin(&name, pair, now, true, 1);
    signals.look(&mut told, now, &record, record.packets, record.bytes);
}

#[test]
fn every_route_answers_as_the_document_says() {
    let served = Served::new(&[]);
    let document = served.ask("GET /v1/openapi.json").json();
    let mut contract = Contract {
        served: &served,
        document,
        walked: BTreeSet::new(),
    };
    let c = &mut contract;
    let apply = |dry_run: bool, text: &str| {
        let document = json!({ "file": "shop.yaml", "text": text });
        json!({ "documents": [document], "dry_run": dry_run, "message": "why" })
            .to_string()
            .into_bytes()
    };
    c.ask("POST /v1/policies", "", "", &apply(true, POLICY), 200);
    c.ask("POST /v1/policies", "", "", &apply(false, POLICY), 200);
    c.ask("POST /v1/policies", "", "", &apply(false, "policy: ["), 422);
    c.ask("POST /v1/policies", "", "", b"{", 400);
    c.ask(
        "POST /v1/policies",
        "",
        "",
        br#"{"documents": [], "dry": true}"#,
        422,
    );
    c.ask("POST /v1/policies", "", "", &vec![b' '; (4 << 20) + 1], 413);
    c.ask("GET /v1/policies", "", "", b"", 200);
    c.ask("GET /v1/policies/{name}", "shop", "", b"", 200);
    c.ask("GET /v1/policies/{name}", "none", "", b"", 404);
    c.ask("GET /v1/status", "", "", b"", 200);
    c.ask("GET /v1/openapi.json", "", "", b"", 200);
    let domains = c.ask("GET /v1/domains", "", "", b"", 200).json();
    assert_eq!(domains.as_array().map(Vec::len), Some(2), "{domains}");
    let page = c.ask("GET /v1/domains", "", "?limit=1", b"", 200);
    let next = page
        .header("link")
        .and_then(|l| l.strip_prefix('<')?.split_once('>'));
    let (next, _) = next.expect("there is more");
    let rest = c.ask("GET /v1/domains", "", next, b"", 200);
    // In the order of ids.
    assert_eq!(
        (&page.json()[0]["name"], &rest.json()[0]["name"]),
        (&json!("web1"), &json!("db1"))
    );
    assert_eq!(rest.header("link"), None);
    c.ask("GET /v1/domains", "", "?limit=0", b"", 422);
    c.ask("GET /v1/domains", "", "?limit=x", b"", 400);
    // There is no sight without Xen: what these say of a guest is held against the document below.
    for what in ["processes", "connections", "check", "graph"] {
        let route = format!("GET /v1/domains/{{domain}}/{what}");
        c.ask(&route, "web1", "", b"", 503);
        c.ask(&route, "none", "", b"", 404);
    }
    c.ask(
        "GET /v1/domains/{domain}/trace",
        "none",
        "?syscall=read",
        b"",
        404,
    );
    c.ask("GET /v1/domains/{domain}/trace", "web1", "", b"", 400);
    let flows = c.ask("GET /v1/flows", "", "?domain=web1", b"", 200).json();
    assert_eq!(flows.as_array().map(Vec::len), Some(5), "{flows}");
    c.ask("GET /v1/flows", "", "?limit=2&domain=11", b"", 200);
    c.ask("GET /v1/flows", "", "?domain=none", b"", 404);
    let routes = c.ask("GET /v1/routes", "", "", b"", 200).json();
    assert_eq!(routes[0]["name"], "shop/pages", "{routes}");
    c.ask("GET /v1/qos", "", "", b"", 200);
    c.ask("GET /v1/stats", "", "", b"", 200);
    c.ask("GET /v1/threats", "", "?severity=alert", b"", 200);
    c.ask("GET /v1/threats/rules", "", "", b"", 200);
    c.ask("GET /v1/measured", "", "?domain=web1", b"", 200);
    c.ask("GET /v1/measured", "", "?domain=none", b"", 404);
    c.ask("GET /v1/signals", "", "?window=60&from=web1&to=world", b"", 200);
    measured(&served.harness.daemon.signals);
    let metrics = c.ask("GET /metrics", "", "", b"", 200);
    if let Ok(path) = std::env::var("XMESH_METRICS") {
        // For `tests/promtool.sh`.
        std::fs::write(path, &metrics.body).expect("is written");
    }
    let text = String::from_utf8_lossy(&metrics.body);
    for sample in [
        "xmesh_build_info{",
        "xmesh_domain_processes{domain=\"web1\"}",
        "xmesh_vif_packets_total{domain=\"web1\",direction=\"out\",fate=\"passed\"}",
        "xmesh_first_byte_seconds_bucket{from=\"shop/web\",to=\"db1\",protocol=\"tcp\",port=\"80\",le=\"0.005\"} 1",
        "xmesh_backend_up{route=\"shop/pages\",version=\"v1\",domain=\"db1\"",
    ] {
        assert!(
            text.lines().any(|line| line.starts_with(sample)),
            "{sample} in {text}"
        );
    }
    c.ask("GET /v1/signals", "", "?window=59", b"", 422);
    let events = c.ask("GET /v1/events", "", "", b"", 200);
    assert!(
        events.body.iter().filter(|b| **b == b'\n').count() >= 2,
        "{events:?}"
    );
    c.ask("GET /v1/events", "", "?kind=nothing", b"", 422);
    let question = br#"{"from": "web1", "exe": "/usr/bin/curl", "to": "db1", "port": 80}"#;
    let told = c.ask("POST /v1/explain", "", "", question, 200).json();
    assert_eq!(told["decision"]["rule"], "shop/read", "{told}");
    let past = c.ask("GET /v1/flows/history", "", "", b"", 200).json();
    assert_eq!(past["flows"][0]["flows"], 3, "{past}");
    let closed = json!({ "documents": [{ "file": "a", "text": "policy: a\ndefault: { web1: deny }\n" }] });
    let closed = closed.to_string().into_bytes();
    let replay = c.ask("POST /v1/replay", "", "", &closed, 200).json();
    assert_eq!(replay["cut"], 3, "{replay}");
    let learned = c
        .ask("GET /v1/suggest", "", "?name=learned&vm=web*", b"", 200)
        .json();
    assert_eq!(learned["usage"]["unused"][0]["rule"], "shop/read", "{learned}");
    let since = learned["usage"]["unused"][0]["in_force_since"].as_u64();
    assert!(since.is_some_and(|since| since > 1_700_000_000), "{learned}");
    // No program was seen to open it, as the flow of the past is made up.
    assert_eq!(learned["left_out"][0]["flows"], 3, "{learned}");
    let learned = c
        .ask("GET /v1/suggest", "", "?unknown=true&exact=false", b"", 200)
        .json();
    assert_eq!(
        (&learned["rules"][0]["flows"], &learned["effect"]["cut"]),
        (&json!(3), &json!(0)),
        "{learned}"
    );
    c.ask("GET /v1/suggest", "", "?name=No", b"", 422);
    c.ask("GET /v1/suggest", "", "?widest=33", b"", 422);
    c.ask("GET /v1/suggest", "", "?exact=perhaps", b"", 400);
    c.ask("PUT /v1/shadow", "", "", &closed, 200);
    c.ask("GET /v1/shadow", "", "", b"", 200);
    c.ask("GET /v1/history", "", "?limit=1", b"", 200);
    c.ask("GET /v1/history/{generation}", "1", "", b"", 200);
    c.ask("GET /v1/history/{generation}", "77", "", b"", 404);
    c.ask("GET /v1/history/{generation}", "x", "", b"", 400);
    c.ask(
        "POST /v1/history/{generation}/rollback",
        "0",
        "?dry_run=true",
        b"",
        200,
    );
    let file = c.ask("GET /v1/export", "", "", b"", 200).body;
    c.ask("DELETE /v1/policies/{name}", "shop", "?message=why", b"", 200);
    c.ask("POST /v1/import", "", "", &file, 200);
    c.ask("POST /v1/import", "", "", b"nonsense", 422);
    let log = c.ask("GET /v1/audit", "", "", b"", 200).json();
    assert_eq!(log["entries"].as_array().map(Vec::len), Some(5), "{log}");
    c.ask("GET /v1/audit/check", "", "?head=00", b"", 200);
    c.ask("GET /v1/rollout", "", "", b"", 200);
    c.ask("POST /v1/rollout/promote", "", "", b"", 422);
    let staged = json!({
        "documents": [{ "file": "shop.yaml", "text": POLICY.replace("action: allow", "action: audit") }],
        "stage": { "vms": ["web*"], "seconds": 3600 },
    });
    c.ask("POST /v1/policies", "", "", staged.to_string().as_bytes(), 200);
    let rollout = c.ask("GET /v1/rollout", "", "", b"", 200).json();
    assert_eq!(rollout["stage"]["edits"][0]["set"], "shop", "{rollout}");
    c.ask("POST /v1/rollout/abandon", "", "?message=no", b"", 200);
    c.ask("POST /v1/policies", "", "", staged.to_string().as_bytes(), 200);
    c.ask("POST /v1/rollout/promote", "", "", b"", 200);
    c.ask("GET /", "", "", b"", 200);
    c.ask("GET /web/{file}", "app.js", "", b"", 200);
    c.ask("GET /web/{file}", "app.css", "", b"", 200);
    c.ask("GET /web/{file}", "none", "", b"", 404);

    let mut rows = BTreeSet::new();
    for (path, operations) in contract.document["paths"].as_object().expect("paths") {
        let methods = operations.as_object().expect("operations").keys();
        rows.extend(methods.map(|method| format!("{} {path}", method.to_uppercase())));
    }
    assert_eq!(contract.walked, rows, "a route that nobody has asked");
    contract.samples();
}

impl Contract<'_> {
    /// What only a guest that is seen would give, as the daemon's own types write it.
    fn samples(&self) {
        let process = crate::present::process(&crate::gate::tests::running("/usr/bin/curl"));
        let connection = policyd_api::Connection {
            protocol: "tcp".into(),
            local: ([10, 0, 0, 1], 80).into(),
            remote: None,
            state: "LISTEN".into(),
            pid: Some(1),
            uid: None,
            exe: None,
            netns: 1,
        };
        let graph = policyd_api::Graph {
            domain: "web1".into(),
            nodes: Vec::new(),
            edges: Vec::new(),
        };
        // The API's threads are not in the network namespace of the vifs, so it sees none of their classes.
        let qos = policyd_api::Qos {
            shaper: "htb".into(),
            vifs: vec![policyd_api::ShapedVif {
                domain: "web1".into(),
                vif: "vif11.0".into(),
                problem: None,
                classes: Vec::new(),
            }],
        };
        let qos_schema = &self.document["paths"]["/v1/qos"]["get"]["responses"]["200"]["content"]["application/json"]
            ["schema"];
        self.holds("qos", qos_schema, &json!(qos));
        for (what, value) in [
            ("processes", json!([process])),
            ("connections", json!([connection])),
            ("graph", json!(graph)),
        ] {
            let path = format!("/v1/domains/{{domain}}/{what}");
            let answer = &self.document["paths"][&path]["get"]["responses"]["200"];
            self.holds(&path, &answer["content"]["application/json"]["schema"], &value);
            let wrong = json!({ "domain": 1 });
            let schema = json!({ "allOf": [answer["content"]["application/json"]["schema"]], "components": self.document["components"] });
            let validator = jsonschema::draft202012::new(&schema).expect("a schema");
            assert!(!validator.is_valid(&wrong), "{path}: anything goes");
        }
    }
}

#[test]
fn what_is_not_there_is_refused_in_json() {
    let served = Served::new(&[]);
    let none = served.ask("GET /v1/none");
    assert_eq!(none.status, 404);
    assert!(none.text().contains("/v1/none"), "{}", none.text());
    let wrong = served.ask("PUT /v1/policies");
    assert_eq!(wrong.status, 405);
    assert_eq!(wrong.header("allow"), Some("GET,HEAD,POST"), "{wrong:?}");
    assert!(wrong.text().contains("PUT"), "{}", wrong.text());
    let query = served.ask("GET /v1/qos?domian=web1");
    assert_eq!(query.status, 400);
    assert!(
        query.text().contains("`domian`") && query.text().contains("`domain`"),
        "{}",
        query.text()
    );
}

/// For `tests/schemathesis.sh`, which wants a daemon to ask and ends it by closing its standard input.
#[test]
#[ignore = "serves until its standard input ends"]
fn serves_for_schemathesis() {
    let dir =
        std::env::var("XMESH_CERTIFICATES").expect("XMESH_CERTIFICATES names a directory for certificates");
    let address = std::env::var("XMESH_LISTEN").expect("XMESH_LISTEN is an address and port");
    let dir = Path::new(&dir);
    let made = tls::Authority::new("ca");
    made.write(dir, "ca");
    made.leaf("policyd", &["localhost", "127.0.0.1"])
        .write(dir, "server");
    made.leaf("tester", &[]).write(dir, "client");
    let file = |name: &str| dir.join(name).to_str().expect("UTF-8").to_owned();
    let (cert, key, ca) = (file("server.pem"), file("server.key"), file("ca.pem"));
    let served = Served::new(&[
        "--listen",
        &address,
        "--tls-cert",
        &cert,
        "--tls-key",
        &key,
        "--client-ca",
        &ca,
        "--grant",
        "admin=cert:CN=tester",
        "--rate-limit",
        "0",
    ]);
    let applied = json!({ "documents": [{ "file": "shop.yaml", "text": POLICY }] }).to_string();
    let answer = ask(
        &served.socket,
        "POST /v1/policies\ncontent-type: application/json",
        applied.as_bytes(),
    );
    assert_eq!(answer.status, 200, "{answer:?}");
    std::fs::write(dir.join("ready"), "").expect("is written");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
