// SPDX-License-Identifier: GPL-3.0-only
//! What no trap shows is looked up: all of a guest that cannot be trapped, and of one that can what its probes do not see.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::containers;
use crate::support::{Domain, Mesh, Outcome};
use serde_json::Value;
use xmesh_rig::{Discard, DomainSpec, Output};

const GUEST: &str = "wide";
const AT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 32);
/// Two programs ask the same of the same port; one of them may.
const POLICY: &str = "policy: looked-up
default: { db1: deny }
services:
  asks: { vm: [wide, web1], exe: /usr/bin/curl }
  answers: { vm: db1, port: 80, protocol: tcp }
rules:
  - { name: may-ask, from: asks, to: answers, action: allow }
";
/// Asks for a page with Python in curl's place.
const OTHER: &str = "import socket; s = socket.create_connection(('10.0.0.12', 80), 20); s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n'); print(s.recv(9))";
/// Answers on port 8080.
const SERVER: &str = "
import socket
s = socket.socket()
s.bind(('0.0.0.0', 8080))
s.listen()
while True:
    c, _ = s.accept()
    c.recv(999)
    c.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\nyes')
    c.close()
";

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// Takes [`POLICY`] back however its test ends.
struct Policy<'m>(&'m Mesh);

impl Drop for Policy<'_> {
    fn drop(&mut self) {
        let _ = self.0.0.exec("dom0", &["xmesh", "policy-delete", "looked-up"]);
    }
}

fn events(mesh: &Mesh, domain: &str, kind: &str) -> Fallible<Vec<Value>> {
    let argv = ["xmesh", "--json", "events", "--domain", domain, "--kind", kind];
    let text = mesh.0.check("dom0", &argv)?;
    Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

/// What became of packets that waited for their process to be looked up.
#[derive(Debug)]
struct FirstPackets {
    held: u64,
    released: u64,
    late: u64,
    lost: u64,
}

fn first_packets(mesh: &Mesh) -> Fallible<FirstPackets> {
    let lookups = mesh.json(&["info"])?["lookups"].clone();
    let count = |name: &str| {
        lookups[name]
            .as_u64()
            .ok_or_else(|| format!("no {name} in {lookups}"))
    };
    Ok(FirstPackets {
        held: count("held")?,
        released: count("released")?,
        late: count("late")?,
        lost: count("lost")?,
    })
}

fn run(mesh: &Mesh, guest: &str, argv: &[&str]) -> Fallible<Output> {
    Ok(mesh.0.exec_timeout(guest, argv, Duration::from_secs(300))?)
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_guest_that_cannot_be_trapped_is_judged_by_its_processes_all_the_same() -> Outcome {
    let mesh = Mesh::up()?;
    // More vCPUs than the ring has places. Nine it may have, one it brings up: the emulator has one processor for all.
    let spec = DomainSpec {
        cmdline: "maxcpus=1".into(),
        config: "vcpus = 9".into(),
        ..DomainSpec::new(GUEST, AT)
    };
    mesh.0.create_domain(&spec)?;
    let _guard = Domain(&mesh.0, GUEST);
    mesh.0.wait_for(GUEST)?;
    mesh.wait("it is read", |mesh| Ok(mesh.mode(GUEST)? == "lookup"))?;
    let entry = mesh.domain(GUEST)?;
    assert!(entry["problems"].to_string().contains("9 vCPUs"), "{entry}");
    assert!(
        mesh.json(&["ps", GUEST])?
            .as_array()
            .is_some_and(|p| !p.is_empty())
    );

    let applied = mesh.apply_text(POLICY)?;
    assert!(applied.success(), "{applied:?}");
    let _policy = Policy(&mesh);
    // Its first packet waits for the answer who it is, and goes on: no SYN is sent again. Where the emulator takes longer for that than a
    // packet is held, it is lost and TCP sends it again, as what is counted says; of some connections one makes it.
    let before = first_packets(&mesh)?;
    mesh.wait("a first packet goes on", |mesh| {
        let asked = [
            "curl",
            "-s",
            "-m",
            "120",
            "-o",
            "/dev/null",
            "-w",
            "%{time_connect}",
            "http://10.0.0.12/",
        ];
        let earlier = first_packets(mesh)?;
        let allowed = run(mesh, GUEST, &asked)?;
        assert!(allowed.success(), "{allowed:?}");
        let now = first_packets(mesh)?;
        assert!(now.held > earlier.held, "a first packet is held: {now:?}");
        assert_eq!(now.lost, 0, "{now:?}");
        if now.late == earlier.late {
            let took: f64 = String::from_utf8_lossy(&allowed.stdout).trim().parse()?;
            assert!(took < 1.0, "as if its SYN had been lost: {took} s, {now:?}");
        }
        Ok(now.released > earlier.released)
    })?;
    // One that may not is told so when its process is known: it waits for no time-out of its own.
    let denied = run(&mesh, GUEST, &["python3", "-c", OTHER])?;
    assert!(!denied.success(), "{denied:?}");
    let after = first_packets(&mesh)?;
    assert!(after.held > before.held + 1, "{before:?} {after:?}");
    if after.late == before.late {
        let error = String::from_utf8_lossy(&denied.stderr);
        assert!(error.contains("ConnectionRefusedError"), "{error}");
    }
    let told = |exe: &str, verdict: &str| -> Fallible<bool> {
        Ok(events(&mesh, GUEST, "connect")?.iter().any(|event| {
            event["remote"] == "10.0.0.12:80"
                && event["process"]["exe"]
                    .as_str()
                    .is_some_and(|path| path.starts_with(exe))
                && event["decision"]["verdict"] == verdict
                && event["seen"] == "lookup"
        }))
    };
    mesh.wait("both are told", |_| {
        Ok(told("/usr/bin/curl", "allow")? && told("/usr/bin/python3", "deny")?)
    })?;

    // What comes to it belongs to who listens.
    let _server = mesh.0.spawn(GUEST, &["python3", "-c", SERVER], Discard)?;
    mesh.wait("it serves", |mesh| {
        let asked = run(
            mesh,
            "web1",
            &[
                "curl",
                "-s",
                "-m",
                "60",
                "-o",
                "/dev/null",
                "http://10.0.0.32:8080/",
            ],
        )?;
        Ok(asked.success())
    })?;
    // Each connection is looked up while it lasts, and this machine is slow: one of some is enough.
    mesh.wait("its accept is told", |mesh| {
        let again = [
            "curl",
            "-s",
            "-m",
            "60",
            "-o",
            "/dev/null",
            "http://10.0.0.32:8080/",
        ];
        run(mesh, "web1", &again)?;
        Ok(events(mesh, GUEST, "accept")?.iter().any(|event| {
            event["local"] == "10.0.0.32:8080"
                && event["seen"] == "lookup"
                && event["process"]["exe"]
                    .as_str()
                    .is_some_and(|exe| exe.starts_with("/usr/bin/python3"))
                && event["from"]["exe"] == "/usr/bin/curl"
        }))
    })?;
    let lookups = mesh.json(&["info"])?["lookups"].clone();
    assert!(
        lookups["found"].as_u64().is_some_and(|found| found >= 3),
        "{lookups}"
    );
    containers::translated_flows_are_looked_up(&mesh, GUEST)
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn datagrams_of_sockets_that_do_not_connect_have_an_owner_and_raw_packets_have_none() -> Outcome {
    const SOCKETS: u16 = 50;
    let mesh = Mesh::up()?;
    // Flows that an earlier run left are not new: each has ports of its own.
    let run_number = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() / 20;
    let first = 10_000 + u16::try_from(run_number % 400)? * 100;
    // Sockets that live for one datagram each, and one with two peers; then a datagram that the program has made itself,
    // header and all, from a port nobody has.
    let raw = first + SOCKETS;
    let script = format!(
        "
import socket, struct
for port in range({first}, {raw}):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(('10.0.0.11', port))
    s.sendto(b'?', ('10.0.0.12', 7001))
    if port == {first}: s.sendto(b'?', ('10.0.0.12', 7002))
    s.close()
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
raw.sendto(struct.pack('!HHHH', {raw}, 7003, 8, 0), ('10.0.0.12', 0))
"
    );
    let output = run(&mesh, "web1", &["python3", "-c", &script])?;
    assert!(output.success(), "{output:?}");
    let mut awaited: Vec<(u16, u16)> = (first..raw).map(|port| (port, 7001)).collect();
    awaited.push((first, 7002));
    let is_told = |event: &Value, (from, to): (u16, u16)| {
        event["protocol"] == "udp"
            && event["local"] == format!("10.0.0.11:{from}")
            && event["remote"] == format!("10.0.0.12:{to}")
    };
    mesh.wait("the datagrams are told", |mesh| {
        let told = events(mesh, "web1", "connect")?;
        Ok(awaited.iter().all(|flow| {
            told.iter().any(|event| {
                is_told(event, *flow)
                    && event["process"]["exe"]
                        .as_str()
                        .is_some_and(|exe| exe.starts_with("/usr/bin/python3"))
            })
        }))
    })?;
    mesh.wait("the raw packet is told", |mesh| {
        let told = events(mesh, "web1", "unowned")?;
        Ok(told.iter().any(|event| is_told(event, (raw, 7003))))
    })?;
    let unowned = events(&mesh, "web1", "unowned")?;
    let wrong = unowned
        .iter()
        .find(|event| awaited.iter().any(|flow| is_told(event, *flow)));
    assert!(wrong.is_none(), "{wrong:?}");
    Ok(())
}

/// A verdict by process ends with the socket that it was for.
#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn another_process_on_the_same_udp_port_gets_no_verdict_of_the_first() -> Outcome {
    let mesh = Mesh::up()?;
    let policy = "policy: looked-up\ndefault: { db1: deny }\nservices:\n  may: { vm: web1, exe: \"/usr/bin/python3*\" }\nrules:\n  - { name: r, from: may, to: { vm: db1 }, protocol: udp, ports: 7100, action: allow }\n";
    let applied = mesh.apply_text(policy)?;
    assert!(applied.success(), "{applied:?}");
    let _policy = Policy(&mesh);
    let receive = "
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('0.0.0.0', 7100))
out = open('/root/got', 'wb', buffering=0)
while True: out.write(s.recv(9))
";
    let _receiver = mesh.0.spawn("db1", &["python3", "-c", receive], Discard)?;
    mesh.0.check("web1", &["cp", "/usr/bin/python3", "/root/other"])?;
    mesh.wait("somebody receives", |mesh| {
        Ok(!mesh.0.read("db1", "/root/got")?.contains(&b'x'))
    })?;
    let send = |program: &str, what: &str| -> Fallible<Vec<u8>> {
        let script = format!(
            "
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('10.0.0.11', 5454))
for _ in range(8):
    s.sendto(b'{what}', ('10.0.0.12', 7100))
    time.sleep(0.5)
"
        );
        let output = run(&mesh, "web1", &[program, "-c", &script])?;
        assert!(output.success(), "{output:?}");
        std::thread::sleep(Duration::from_secs(1));
        Ok(mesh.0.read("db1", "/root/got")?)
    };
    let first = send("/usr/bin/python3", "a")?;
    assert!(first.contains(&b'a'), "the first may: {first:?}");
    let second = send("/root/other", "b")?;
    assert!(!second.contains(&b'b'), "the other may not: {second:?}");
    Ok(())
}
