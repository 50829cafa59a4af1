// SPDX-License-Identifier: GPL-3.0-only
//! What happens in a guest is told as it happens: each once, in order, by a stream that is followed live.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Mesh, Outcome};
use xmesh_rig::programs;

/// Execs, TCP connects and UDP connects of each of the two workers; `XMESH_FACTS` sets another number, up to 10,000.
fn count() -> u64 {
    std::env::var("XMESH_FACTS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(200)
}

/// The emulator may be slow, and the machine it runs on busy.
fn patience() -> Duration {
    Duration::from_secs(600 + 3 * count())
}

const PORTS: [u64; 2] = [20_000, 40_000];
const ACCEPTS: usize = 200;
/// Port of what is done over IPv6.
const SIX: u16 = 5398;
const STREAM: &str = "/run/facts.json";

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// Follows web1's events into a file of dom0, from now on.
fn follow(mesh: &Mesh) -> Outcome {
    let start = format!(
        "kill $(cat /run/facts.pid) 2>/dev/null; rm -f {STREAM}; \
         setsid xmesh --json events -f --domain web1 > {STREAM} 2>&1 < /dev/null & echo $! > /run/facts.pid"
    );
    mesh.0.check("dom0", &["sh", "-c", &start])?;
    Ok(())
}

/// What the stream has told, once `last`, a part of a line, was among it.
fn told(mesh: &Mesh, last: &str) -> Fallible<Vec<Value>> {
    let end = Instant::now() + patience();
    while !mesh.0.exec("dom0", &["grep", "-qF", last, STREAM])?.success() {
        assert!(Instant::now() < end, "{last} was never told");
        std::thread::sleep(Duration::from_secs(1));
    }
    mesh.0
        .check("dom0", &["sh", "-c", "kill $(cat /run/facts.pid)"])?;
    let text = String::from_utf8(mesh.0.read("dom0", STREAM)?)?;
    // The last line may be cut short.
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines
        .iter()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
}

fn of_kind<'e>(events: &'e [Value], kind: &str) -> Vec<&'e Value> {
    events.iter().filter(|event| event["kind"] == kind).collect()
}

/// Ports of the connects of one process over one protocol, in the order told.
fn knocks(events: &[Value], protocol: &str, from: u64) -> Vec<u64> {
    of_kind(events, "connect")
        .into_iter()
        .filter(|event| event["protocol"] == protocol)
        .filter_map(|event| event["remote"].as_str()?.strip_prefix("10.0.0.12:")?.parse().ok())
        .filter(|port| (from..from + count()).contains(port))
        .collect()
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn every_fact_is_told_once_and_in_order() -> Outcome {
    let mesh = Mesh::up()?;
    mesh.0.push(&programs::guest("facts")?, "web1", "/run/facts")?;
    follow(&mesh)?;
    let count = count();
    let script = format!(
        "taskset -c 0 /run/facts work a {count} {} & taskset -c 1 /run/facts work b {count} {} & wait; \
         /run/facts accept {ACCEPTS}; /run/facts orphan 10001; sleep 4; /run/facts setuid 4321; \
         /run/facts bind 5399; /run/facts six {SIX}; /run/facts nothing the-end",
        PORTS[0], PORTS[1]
    );
    let output = mesh
        .0
        .exec_timeout("web1", &["bash", "-c", &script], patience())?;
    assert!(output.success(), "{output:?}");
    // Two arguments: the shell has the same words in one, from the beginning.
    let events = told(&mesh, r#""nothing","the-end""#)?;

    assert_eq!(
        of_kind(&events, "lost").len(),
        0,
        "{:?}",
        of_kind(&events, "lost")
    );
    let numbers: Vec<u64> = events.iter().filter_map(|event| event["seq"].as_u64()).collect();
    assert!(numbers.is_sorted(), "the stream is in order");
    let all: Vec<u64> = (0..count).collect();
    for (worker, port) in ["a", "b"].into_iter().zip(PORTS) {
        let execs: Vec<&Value> = of_kind(&events, "exec")
            .into_iter()
            .filter(|event| event["process"]["args"][1] == "nothing" && event["process"]["args"][2] == worker)
            .collect();
        let told: Vec<u64> = execs
            .iter()
            .filter_map(|event| event["process"]["args"][3].as_str()?.parse().ok())
            .collect();
        assert_eq!(told, all, "execs of {worker}");
        for exec in execs {
            let pid = &exec["process"]["pid"];
            let life: Vec<&str> = events
                .iter()
                .filter(|event| event["process"]["pid"] == *pid)
                .filter_map(|event| event["kind"].as_str())
                .collect();
            assert_eq!(life, ["fork", "exec", "exit"], "the life of {pid}");
        }
        let ports: Vec<u64> = (port..port + count).collect();
        assert_eq!(knocks(&events, "tcp", port), ports, "TCP connects of {worker}");
        assert_eq!(knocks(&events, "udp", port), ports, "UDP connects of {worker}");
    }
    accepts_are_the_connects(&events);
    a_process_ends_with_its_last_thread(&events);
    all_of_it_over_ipv6(&events);

    let cred = of_kind(&events, "cred")
        .into_iter()
        .find(|event| event["after"]["euid"] == 4321);
    let Some(cred) = cred else {
        let told: Vec<&Value> = events
            .iter()
            .filter(|event| event["process"]["args"][1] == "setuid")
            .collect();
        let domain = mesh.domain("web1")?;
        return Err(format!("no change of credentials: {told:#?}\n{domain:#}").into());
    };
    assert_eq!(cred["before"]["uid"], 0);
    assert_eq!(cred["after"]["uid"], 4321);
    assert_ne!(cred["before"]["effective"], 0);
    assert_eq!(cred["after"]["effective"], 0);
    for kind in ["bind", "close"] {
        let count = of_kind(&events, kind)
            .into_iter()
            .filter(|event| event["local"] == "0.0.0.0:5399")
            .count();
        assert_eq!(count, 1, "{kind}");
    }
    Ok(())
}

/// Of the connections over the loopback, both ends were told.
fn accepts_are_the_connects(events: &[Value]) {
    let ends = |kind: &str, end: &str| -> Vec<String> {
        of_kind(events, kind)
            .into_iter()
            .filter(|event| event["process"]["args"][1] == "accept")
            .filter_map(|event| event[end].as_str().map(str::to_owned))
            .collect()
    };
    let opened = ends("connect", "local");
    assert_eq!(opened.len(), ACCEPTS);
    assert_eq!(ends("accept", "remote"), opened);
}

/// Its first thread had ended two seconds before it connected.
fn a_process_ends_with_its_last_thread(events: &[Value]) {
    let life: Vec<&Value> = events
        .iter()
        .filter(|event| event["process"]["args"][1] == "orphan")
        .filter(|event| ["connect", "exit"].iter().any(|kind| event["kind"] == *kind))
        .collect();
    assert_eq!(life.len(), 2, "{life:?}");
    assert_eq!(life[0]["kind"], "connect", "{life:?}");
    assert_eq!(life[0]["process"]["exe"], "/run/facts", "{life:?}");
    assert_eq!(life[1]["kind"], "exit", "{life:?}");
    assert_eq!(life[1]["code"], 7 << 8, "{life:?}");
}

/// A listener that comes and goes, its connection seen from both ends, and a UDP socket that is connected.
fn all_of_it_over_ipv6(events: &[Value]) {
    let at = format!("[::1]:{SIX}");
    let told: Vec<&str> = events
        .iter()
        .filter(|event| event["process"]["args"][1] == "six")
        .filter(|event| ["local", "remote"].iter().any(|end| event[end] == at))
        .filter_map(|event| event["kind"].as_str())
        .collect();
    // The last is that of the UDP socket.
    let expected = ["listen", "connect", "accept", "close", "connect"];
    assert_eq!(told, expected);
}
