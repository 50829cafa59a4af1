// SPDX-License-Identifier: GPL-3.0-only
//! Routes on real vifs: an address that no host has, served by two versions of a small web server in db1.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::support::{Domain, Mesh, Outcome};
use serde_json::Value;
use xmesh_rig::{Discard, DomainSpec, Output};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

const PORTS: [u16; 2] = [8001, 8002];
/// Answers whatever it is asked with its version, after so many seconds, as often as it is asked.
const SERVER: &str = "
import os, signal, socket, sys, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
text = sys.argv[2].encode()
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('0.0.0.0', int(sys.argv[1])))
s.listen(99)
while True:
    c, _ = s.accept()
    if os.fork() == 0:
        s.close()
        while c.recv(999):
            time.sleep(float(sys.argv[3]))
            c.sendall(b'HTTP/1.0 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s' % (len(text), text))
        os._exit(0)
    c.close()
";
/// Connects again and again, and prints each answer.
const CLIENT: &str = "
import socket, sys
for i in range(int(sys.argv[1])):
    s = socket.create_connection(('10.0.0.100', 80), 60)
    s.sendall(b'?')
    print(s.recv(999).split()[-1].decode())
    s.close()
";
/// Asks on one connection each time that a file appears, and tells how that ends.
const ASKER: &str = "
import os, socket, time
s = socket.create_connection(('10.0.0.100', 80), 60)
for n in range(9):
    while not os.path.exists('/tmp/ask%d' % n):
        time.sleep(0.1)
    try:
        s.sendall(b'?')
        answer = s.recv(999).split()[-1].decode()
    except OSError as e:
        answer = type(e).__name__
    with open('/tmp/answer%d.new' % n, 'w') as f:
        f.write(answer)
    os.rename('/tmp/answer%d.new' % n, '/tmp/answer%d' % n)
";

/// What differs between the policies here.
struct Shop {
    v2: &'static str,
    rest: &'static str,
    rules: &'static str,
}

const SHOP: Shop = Shop {
    v2: "weight: 20",
    rest: "",
    rules: "",
};

impl Shop {
    /// db1 is closed but for what the rules let in: they speak of its ports, and of the route's nothing.
    fn text(&self) -> String {
        let Shop { v2, rest, rules } = self;
        format!(
            "policy: shop
default: {{ db1: deny }}
services:
  v1: {{ vm: db1, port: 8001, protocol: tcp }}
  v2: {{ vm: db1, port: 8002, protocol: tcp }}
  buyer: {{ vm: web1, exe: [/usr/bin/curl, \"/usr/bin/python*\"] }}
routes:
  shop:
    address: 10.0.0.100
    port: 80
    backends:
      - {{ to: v1, version: v1, weight: 80 }}
      - {{ to: v2, version: v2, {v2} }}
    canary:
      - {{ from: {{ vm: web1, exe: /usr/bin/curl }}, to: v2 }}
{rest}
rules:
  - {{ name: may-buy, from: buyer, to: [v1, v2], action: allow }}
{rules}
"
        )
    }
}

/// The shop is open: both versions run, and the policy is in force until this is dropped.
struct Open<'m>(&'m Mesh);

impl<'m> Open<'m> {
    fn with(mesh: &'m Mesh, shop: &Shop) -> Fallible<Open<'m>> {
        let open = Open(mesh);
        open.close_servers()?;
        for version in ["v1", "v2"] {
            open.serve(version)?;
        }
        open.apply(shop)?;
        Ok(open)
    }

    fn apply(&self, shop: &Shop) -> Outcome {
        let applied = self.0.apply_text(&shop.text())?;
        assert!(applied.success(), "{applied:?}");
        Ok(())
    }

    fn serve(&self, version: &str) -> Outcome {
        self.serve_after(version, "0")
    }

    /// Its answers take so many seconds.
    fn serve_after(&self, version: &str, seconds: &str) -> Outcome {
        let port = PORTS[usize::from(version == "v2")].to_string();
        self.0
            .0
            .write("db1", "/tmp/server.py", 0o644, SERVER.as_bytes())?;
        let start = format!(
            "setsid python3 /tmp/server.py {port} {version} {seconds} > /dev/null 2>&1 < /dev/null &"
        );
        self.0.0.check("db1", &["sh", "-c", &start])?;
        self.0.wait(&format!("{version} listens"), |mesh| {
            let found = mesh.json(&["conns", "db1"])?.to_string();
            Ok(found.contains(&format!("0.0.0.0:{port}")))
        })
    }

    fn kill(&self, version: &str) -> Outcome {
        let server = format!("server.py [0-9]+ {version}");
        self.0.0.check("db1", &["pkill", "-9", "-f", &server])?;
        Ok(())
    }

    fn close_servers(&self) -> Outcome {
        self.0.0.exec("db1", &["pkill", "-9", "-f", "server.py"])?;
        Ok(())
    }

    /// The answers to so many connects of one program.
    fn visits(&self, count: u32) -> Fallible<Vec<String>> {
        let argv = ["python3", "-c", CLIENT, &count.to_string()];
        // Slow servers are slower still where two emulated machines share a processor.
        let output = self.0.0.exec_timeout("web1", &argv, Duration::from_secs(900))?;
        assert!(output.success(), "{output:?}");
        Ok(output.text().lines().map(str::to_owned).collect())
    }

    /// The state of a version's backend, and why.
    fn state(&self, version: &str) -> Fallible<(String, String)> {
        let routes = self.0.json(&["routes"])?;
        let backends = routes[0]["backends"].as_array().cloned().unwrap_or_default();
        let found = backends.iter().find(|b| b["version"] == version);
        let found = found.ok_or_else(|| format!("no {version} in {routes}"))?;
        let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
        Ok((text("state"), text("why")))
    }

    fn wait_for(&self, version: &str, state: &str, why: &str) -> Outcome {
        self.0.wait(&format!("{version} is {state}"), |_| {
            let (is, because) = self.state(version)?;
            Ok(is == state && because.contains(why))
        })
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let _ = self.0.0.exec("dom0", &["xmesh", "policy-delete", "shop"]);
        let _ = self.close_servers();
    }
}

fn fetch(mesh: &Mesh, program: &[&str], url: &str) -> Fallible<Output> {
    let argv = [program, &[url]].concat();
    Ok(mesh.0.exec_timeout("web1", &argv, Duration::from_secs(120))?)
}

const CURL: &[&str] = &["curl", "-s", "-m", "60"];
const WGET: &[&str] = &["wget", "-q", "-O", "-", "-t", "1", "-T", "60"];
const SHOP_URL: &str = "http://10.0.0.100/";

fn count(answers: &[String], version: &str) -> usize {
    answers.iter().filter(|answer| *answer == version).count()
}

fn events(mesh: &Mesh, kind: &str) -> Fallible<Vec<Value>> {
    let text = mesh
        .0
        .check("dom0", &["xmesh", "--json", "events", "--kind", kind])?;
    Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn flows_are_shared_by_weight_and_judged_by_their_backend() -> Outcome {
    let mesh = Mesh::up()?;
    let shop = Open::with(&mesh, &SHOP)?;

    // By weight: a standard deviation of 4 among 100.
    let answers = shop.visits(100)?;
    let (v1, v2) = (count(&answers, "v1"), count(&answers, "v2"));
    assert_eq!(v1 + v2, 100, "{answers:?}");
    assert!((64..=96).contains(&v1), "{v1} of 100 went to v1");

    // By who it is: curl gets nothing else.
    for _ in 0..6 {
        let page = fetch(&mesh, CURL, SHOP_URL)?;
        assert_eq!(page.text(), "v2", "{page:?}");
    }

    // No rule lets wget to a backend, so none lets it to the route: it is refused at once.
    let refused = fetch(&mesh, WGET, SHOP_URL)?;
    assert_eq!(refused.status, 4, "{refused:?}");

    let connects = events(&mesh, "connect")?;
    let told = |exe: &str, version: &str, verdict: &str| {
        connects.iter().any(|e| {
            e["remote"] == "10.0.0.100:80"
                && e["process"]["exe"]
                    .as_str()
                    .is_some_and(|path| path.ends_with(exe))
                && e["route"]["route"] == "shop/shop"
                && e["route"]["version"] == version
                && e["decision"]["verdict"] == verdict
                && e["to"]["domain"] == "db1"
        })
    };
    assert!(told("curl", "v2", "allow"), "{connects:?}");
    assert!(
        told("wget", "v1", "deny") || told("wget", "v2", "deny"),
        "{connects:?}"
    );
    // The server is told of its client, not of an address that nobody has.
    let accepts = events(&mesh, "accept")?;
    assert!(
        accepts.iter().any(|e| e["local"] == "10.0.0.12:8002"
            && e["from"]["exe"].as_str().is_some_and(|exe| exe.ends_with("curl"))),
        "{accepts:?}"
    );

    let why = |program: &str| -> Fallible<Value> {
        mesh.json(&["explain", "--from", &format!("web1:{program}"), "--to", "shop"])
    };
    let curl = why("/usr/bin/curl")?;
    assert_eq!(curl["decision"]["verdict"], "allow", "{curl}");
    assert!(curl["why"].to_string().contains("for version v2"), "{curl}");
    assert_eq!(why("/usr/bin/wget")?["decision"]["verdict"], "deny");
    Ok(())
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_slow_version_is_named() -> Outcome {
    let mesh = Mesh::up()?;
    let even = Shop {
        v2: "weight: 80",
        ..SHOP
    };
    let shop = Open::with(&mesh, &even)?;
    shop.kill("v2")?;
    shop.serve_after("v2", "1.5")?;
    shop.wait_for("v2", "up", "")?;
    shop.visits(40)?;
    mesh.wait("the slow version is named", |mesh| {
        let signals = mesh.json(&["signals", "--to", "shop/v2"])?;
        let findings = signals["findings"].as_array().cloned().unwrap_or_default();
        let is = |f: &Value| f["version"] == "v2" && f["culprit"] == "server";
        if findings.iter().any(is) {
            println!("{findings:#?}");
        }
        Ok(findings.iter().any(is))
    })?;
    let signals = mesh.json(&["signals"])?;
    let findings = signals["findings"].as_array().cloned().unwrap_or_default();
    // An emulator that the host starves can make others slower than they were, but none as slow as this.
    // dom0's own checks, of which others fail on purpose, are of no version.
    let of_versions = |f: &&Value| f["culprit"] == "server" && f["version"].is_string();
    let worst = findings.iter().find(of_versions);
    assert!(worst.is_some_and(|f| f["version"] == "v2"), "{findings:#?}");
    let pairs = signals["pairs"].as_array().cloned().unwrap_or_default();
    let first_byte = |version: &str| {
        let pair = pairs.iter().find(|p| p["version"] == version);
        pair.and_then(|p| p["window"]["first_byte_us"]["p50"].as_f64())
    };
    assert!(first_byte("v2") > Some(1_400_000.0), "{pairs:#?}");
    assert!(first_byte("v1") < first_byte("v2"), "{pairs:#?}");
    Ok(())
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_server_that_is_killed_leaves_and_comes_back() -> Outcome {
    let mesh = Mesh::up()?;
    let shop = Open::with(&mesh, &SHOP)?;
    shop.wait_for("v2", "up", "")?;
    shop.kill("v2")?;
    shop.wait_for("v2", "down", "nobody listens")?;
    let answers = shop.visits(20)?;
    assert_eq!(count(&answers, "v1"), 20, "{answers:?}");
    // A canary is for its version or for none.
    let refused = fetch(&mesh, CURL, SHOP_URL)?;
    assert_eq!(refused.status, 7, "{refused:?}");
    let last = events(&mesh, "connect")?.pop().unwrap_or_default();
    assert_eq!(last["decision"]["rule"], "no backend of shop/shop", "{last}");
    shop.serve("v2")?;
    shop.wait_for("v2", "up", "")?;
    assert_eq!(fetch(&mesh, CURL, SHOP_URL)?.text(), "v2");
    let told = events(&mesh, "backend")?;
    for state in ["down", "up"] {
        assert!(told.iter().any(|e| e["state"] == state), "{told:?}");
    }

    // The same by dom0's own checks, in spite of a default of deny.
    shop.apply(&Shop {
        rest: "    health: { check: tcp, interval: 500ms, fall: 2, passive: false, listener: false }",
        ..SHOP
    })?;
    shop.kill("v2")?;
    shop.wait_for("v2", "down", "dom0's checks")?;
    assert_eq!(shop.state("v1")?.0, "up");
    shop.serve("v2")?;
    shop.wait_for("v2", "up", "")?;

    // And by what becomes of guests' connects alone.
    shop.apply(&Shop {
        rest: "    health: { fall: 2, listener: false }",
        ..SHOP
    })?;
    shop.kill("v2")?;
    for _ in 0..2 {
        assert_eq!(shop.state("v2")?.0, "up");
        assert_eq!(fetch(&mesh, CURL, SHOP_URL)?.status, 7);
    }
    shop.wait_for("v2", "down", "connects to it were refused")?;
    shop.wait_for("v2", "up", "")
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn what_is_denied_goes_to_a_version_of_its_own() -> Outcome {
    let mesh = Mesh::up()?;
    let shop = Open::with(&mesh, &SHOP)?;
    let text = "policy: shop
default: { db1: deny }
services:
  real: { vm: db1, port: 8001, protocol: tcp }
  decoy: { vm: db1, port: 8002, protocol: tcp }
routes:
  shop:
    address: 10.0.0.100
    port: 80
    backends: [{ to: real, version: v1 }, { to: decoy, version: v2 }]
    denied: v2
rules:
  - { name: buys, from: { vm: web1, exe: /usr/bin/curl }, to: real, action: allow }
  - { name: is-watched, from: { vm: web1, exe: /usr/bin/wget }, to: decoy, action: allow }
";
    let applied = shop.0.apply_text(text)?;
    assert!(applied.success(), "{applied:?}");
    for _ in 0..4 {
        assert_eq!(fetch(&mesh, CURL, SHOP_URL)?.text(), "v1");
        assert_eq!(fetch(&mesh, WGET, SHOP_URL)?.text(), "v2");
    }
    // Whom no rule lets to the decoy is denied as before.
    let other = ["python3", "-c", CLIENT, "1"];
    let denied = mesh.0.exec_timeout("web1", &other, Duration::from_secs(120))?;
    assert!(denied.error_text().contains("ConnectionRefused"), "{denied:?}");
    Ok(())
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn what_a_rule_denies_goes_where_it_says_instead() -> Outcome {
    const REAL_URL: &str = "http://10.0.0.12:8001/";
    let mesh = Mesh::up()?;
    let shop = Open::with(&mesh, &SHOP)?;
    let text = "policy: shop
services:
  pot: { vm: db1, port: 8002, protocol: tcp }
rules:
  - { name: lured, from: { vm: web1, exe: /usr/bin/wget }, to: { vm: db1 }, ports: 8001, action: deny, instead: pot }
";
    let applied = shop.0.apply_text(text)?;
    assert!(applied.success(), "{applied:?}");
    for _ in 0..4 {
        assert_eq!(fetch(&mesh, CURL, REAL_URL)?.text(), "v1");
        assert_eq!(fetch(&mesh, WGET, REAL_URL)?.text(), "v2");
    }
    // Without the target it is denied like any.
    let applied = shop.0.apply_text(&text.replace(", instead: pot", ""))?;
    assert!(applied.success(), "{applied:?}");
    assert!(!fetch(&mesh, WGET, REAL_URL)?.success());
    Ok(())
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_guest_that_comes_serves_and_one_that_goes_ends_its_flows() -> Outcome {
    let mesh = Mesh::up()?;
    let shop = Open::with(&mesh, &SHOP)?;
    let text = "policy: shop
routes:
  shop: { address: 10.0.0.100, port: 80, backends: { to: { vm: brief } } }
";
    let applied = shop.0.apply_text(text)?;
    assert!(applied.success(), "{applied:?}");
    assert_eq!(
        fetch(&mesh, CURL, SHOP_URL)?.status,
        7,
        "refused at once: there is no backend"
    );
    let spec = DomainSpec {
        services: vec!["http".into()],
        ..DomainSpec::new("brief", Ipv4Addr::new(10, 0, 0, 33))
    };
    mesh.0.create_domain(&spec)?;
    let brief = Domain(&mesh.0, "brief");
    mesh.0.wait_for("brief")?;
    mesh.wait("brief serves the shop", |mesh| {
        Ok(fetch(mesh, CURL, SHOP_URL)?.success())
    })?;
    // The server waits for a request's end, which does not come.
    let hold = "
import socket, time
s = socket.create_connection(('10.0.0.100', 80), 60)
s.sendall(b'GET / HTTP/1.0\\r\\n')
open('/tmp/held', 'w')
try:
    while True:
        s.sendall(b'X: y\\r\\n')
        time.sleep(1)
except OSError as e:
    open('/tmp/ended', 'w').write(type(e).__name__)
";
    mesh.0.check("web1", &["rm", "-f", "/tmp/held", "/tmp/ended"])?;
    let _holder = mesh.0.spawn("web1", &["python3", "-c", hold], Discard)?;
    let there = |mesh: &Mesh, file: &str| -> Fallible<bool> {
        Ok(mesh.0.exec("web1", &["test", "-s", file])?.success())
    };
    mesh.wait("a connection is held", |mesh| {
        Ok(mesh.0.exec("web1", &["test", "-e", "/tmp/held"])?.success())
    })?;
    assert!(!there(&mesh, "/tmp/ended")?);
    drop(brief);
    mesh.wait("the connection is over", |mesh| there(mesh, "/tmp/ended"))?;
    let ended = mesh.0.check("web1", &["cat", "/tmp/ended"])?;
    assert!(
        ["ConnectionResetError", "BrokenPipeError"].contains(&ended.trim()),
        "{ended}"
    );
    let routes = mesh.json(&["routes"])?;
    assert_eq!(routes[0]["backends"][0]["state"], "gone", "{routes}");
    assert_eq!(fetch(&mesh, CURL, SHOP_URL)?.status, 7);
    Ok(())
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_live_connection_stays_until_a_rule_ends_it() -> Outcome {
    let mesh = Mesh::up()?;
    // All to v2, so that the one connection is with it.
    let all_v2 = Shop {
        rest: "      - { from: any, to: v2 }",
        ..SHOP
    };
    let shop = Open::with(&mesh, &all_v2)?;
    mesh.0
        .check("web1", &["sh", "-c", "rm -f /tmp/ask* /tmp/answer*"])?;
    let _asker = mesh.0.spawn("web1", &["python3", "-c", ASKER], Discard)?;
    let ask = |number: u32| -> Fallible<String> {
        mesh.0.check("web1", &["touch", &format!("/tmp/ask{number}")])?;
        let file = format!("/tmp/answer{number}");
        mesh.wait("an answer", |mesh| {
            Ok(mesh.0.exec("web1", &["test", "-e", &file])?.success())
        })?;
        Ok(mesh.0.check("web1", &["cat", &file])?)
    };
    assert_eq!(ask(0)?, "v2");

    shop.apply(&Shop {
        v2: "weight: 20, drain: true",
        ..SHOP
    })?;
    shop.wait_for("v2", "draining", "")?;
    let answers = shop.visits(10)?;
    assert_eq!(count(&answers, "v1"), 10, "{answers:?}");
    assert_eq!(ask(1)?, "v2", "the connection stays where it was");
    let flows = mesh.json(&["flows", "-d", "web1"])?;
    let live = flows.as_array().and_then(|all| {
        all.iter()
            .find(|f| f["route"]["version"] == "v2" && f["state"] == "established")
    });
    assert!(live.is_some(), "{flows}");

    shop.apply(&Shop {
        rules: "  - { name: closed, from: any, to: v2, action: deny }",
        ..SHOP
    })?;
    assert_eq!(ask(2)?, "ConnectionResetError");

    // An address of a guest is no route's, and a refused change changes nothing.
    let generation = mesh.generation()?;
    let bad = mesh.apply_text(&SHOP.text().replace("10.0.0.100", "10.0.0.12"))?;
    assert!(
        !bad.success() && bad.error_text().contains("an address of db1"),
        "{bad:?}"
    );
    assert_eq!(mesh.generation()?, generation);

    drop(shop);
    assert_eq!(mesh.json(&["routes"])?, Value::Array(Vec::new()));
    let gone = fetch(&mesh, &["curl", "-s", "-m", "5"], SHOP_URL)?;
    assert!(!gone.success(), "{gone:?}");
    assert!(fetch(&mesh, CURL, "http://10.0.0.12/")?.success());
    Ok(())
}
