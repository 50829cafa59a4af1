// SPDX-License-Identifier: GPL-3.0-only
//! A core that `xl dump-core` wrote shows the same guest as the running domain did.

mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::Value;
use support::{Mesh, Outcome};
use xmesh_rig::{Discard, Rig};

const CORE: &str = "/tmp/web1.core";

/// web1 stands still, so that all who look see the same; whatever happens it goes on.
struct Paused<'a>(&'a Rig);

impl<'a> Paused<'a> {
    fn new(rig: &'a Rig) -> Result<Self, Box<dyn std::error::Error>> {
        rig.xl(&["pause", "web1"])?;
        Ok(Self(rig))
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        let _ = self.0.xl(&["unpause", "web1"]);
        let _ = self.0.exec("dom0", &["rm", "-f", CORE]);
    }
}

fn rows(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// What both tell of a process.
fn process(row: &Value) -> String {
    let keys = [
        "pid",
        "ppid",
        "uid",
        "gid",
        "euid",
        "comm",
        "exe",
        "args",
        "netns",
        "container",
        "loginuid",
    ];
    keys.map(|key| row[key].to_string()).join(" ")
}

/// An address, without the mark of IPv4 over an IPv6 socket.
fn address(text: &Value) -> Option<SocketAddr> {
    let address: SocketAddr = text.as_str()?.parse().ok()?;
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// Protocol, both ends, state, namespace.
type Row = (String, Option<SocketAddr>, Option<SocketAddr>, String, u64);

fn socket(protocol: &Value, row: &Value) -> Row {
    let remote = address(&row["remote"]).filter(|remote| remote.port() != 0);
    (
        protocol.to_string(),
        address(&row["local"]),
        remote,
        row["state"].to_string(),
        row["netns"].as_u64().unwrap_or(0),
    )
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_core_of_xl_shows_what_the_running_domain_showed() -> Outcome {
    let mesh = Mesh::up()?;
    let rig = &mesh.0;
    // A connection that lasts.
    let _client = rig.spawn("web1", &["sh", "-c", "sleep 1000 | nc 10.0.0.12 6379"], Discard)?;
    mesh.wait("a connection to db1", |mesh| {
        let conns = mesh.json(&["conns", "web1"])?;
        Ok(rows(&conns).iter().any(|row| row["remote"] == "10.0.0.12:6379"))
    })?;
    let release = mesh.domain("web1")?["kernel"].clone();

    let paused = Paused::new(rig)?;
    let processes = mesh.json(&["ps", "web1"])?;
    let conns = mesh.json(&["conns", "web1"])?;
    rig.xl(&["dump-core", "web1", CORE])?;
    let core = mesh.json(&["inspect", CORE])?;
    drop(paused);

    assert_eq!(core["image"]["format"], "Xen ELF core");
    assert_eq!(core["image"]["missing"], 0);
    assert_eq!(core["kernel"]["release"], release);
    assert!(rows(&core["gaps"]).is_empty(), "{}", core["gaps"]);

    let live: BTreeSet<_> = rows(&processes).iter().map(process).collect();
    let seen: BTreeSet<_> = rows(&core["processes"]).iter().map(process).collect();
    assert_eq!(seen, live);
    assert!(live.len() > 10);

    let live: BTreeSet<_> = rows(&conns)
        .iter()
        .map(|row| (socket(&row["protocol"], row), row["pid"].as_u64()))
        .collect();
    let held: Vec<_> = rows(&core["sockets"])
        .iter()
        .filter(|row| !rows(&row["pids"]).is_empty())
        .map(|row| (socket(&row["proto"], row), rows(&row["pids"])))
        .collect();
    for (socket, pid) in &live {
        let found = held.iter().find(|(seen, _)| seen == socket);
        let pids = found
            .map(|(_, pids)| pids)
            .ok_or_else(|| format!("{socket:?} is not in the core"))?;
        assert!(
            pids.iter().any(|seen| seen.as_u64() == *pid),
            "{socket:?} {pid:?} {pids:?}"
        );
    }
    for (socket, _) in &held {
        assert!(
            live.iter().any(|(seen, _)| seen == socket),
            "{socket:?} is in the core only"
        );
    }
    assert!(
        live.iter()
            .any(|(row, _)| row.2.is_some_and(|remote| remote.port() == 6379))
    );
    Ok(())
}
