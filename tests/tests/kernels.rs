// SPDX-License-Identifier: GPL-3.0-only
//! Guests with other kernels than the one that the rig's own guests run: each is seen as wholly, with nothing told about it.

mod support;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde_json::Value;
use support::{Domain, Mesh, Outcome};
use xmesh_rig::DomainSpec;

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_guest_with_linux_6_12_is_seen_wholly() -> Outcome {
    seen_wholly("6.12.", Ipv4Addr::new(10, 0, 0, 40))
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_guest_with_linux_7_2_is_seen_wholly() -> Outcome {
    seen_wholly("7.2.", Ipv4Addr::new(10, 0, 0, 41))
}

fn seen_wholly(series: &str, ip: Ipv4Addr) -> Outcome {
    let mesh = Mesh::up()?;
    let spec = DomainSpec {
        kernel: Some(series.to_owned()),
        ..DomainSpec::new("other", ip)
    };
    mesh.0.create_domain(&spec)?;
    let _guard = Domain(&mesh.0, "other");
    mesh.0.wait_for("other")?;
    mesh.wait("the guest is seen by altp2m", |mesh| {
        Ok(mesh.mode("other")? == "altp2m")
    })?;
    let entry = mesh.domain("other")?;
    let release = mesh.0.check("other", &["uname", "-r"])?;
    assert!(release.starts_with(series), "{release}");
    assert_eq!(entry["kernel"], release.as_str());
    assert_eq!(entry["problems"], serde_json::json!([]), "{entry}");

    same_processes(&mesh)?;
    same_sockets(&mesh)?;
    a_program_is_told_with_its_connection(&mesh)
}

/// pid → parent, user, executable.
type Processes = BTreeMap<u64, (u64, u64, String)>;

/// What `xmesh ps` has of each process, and what the guest's /proc has.
fn same_processes(mesh: &Mesh) -> Outcome {
    // Of one moment only if nothing comes or goes: a difference must show three times to count.
    let mut last = (Processes::new(), Processes::new());
    for _ in 0..3 {
        let outside: Processes = mesh
            .json(&["ps", "other"])?
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|p| {
                Some((
                    p["pid"].as_u64()?,
                    (
                        p["ppid"].as_u64()?,
                        p["uid"].as_u64()?,
                        p["exe"].as_str().unwrap_or_default().to_owned(),
                    ),
                ))
            })
            .collect();
        let script = r#"for p in /proc/[0-9]*; do
            [ "$p" = "/proc/$$" ] && continue
            set -- $(sed -n 's/^PPid:\t*//p; s/^Uid:\t*\([0-9]*\).*/\1/p' "$p/status" 2>/dev/null)
            [ "$1" = "$$" ] && continue
            [ -n "$2" ] && echo "${p#/proc/} $1 $2 $(readlink "$p/exe")"
        done"#;
        let inside: Processes = mesh
            .0
            .check("other", &["bash", "-c", script])?
            .lines()
            // Threads of the kernel have no executable, and `xmesh ps` leaves them out.
            .filter(|line| line.contains(" /"))
            .filter_map(|line| {
                let mut words = line.split(' ');
                let mut number = || words.next()?.parse().ok();
                Some((
                    number()?,
                    (number()?, number()?, words.next().unwrap_or_default().to_owned()),
                ))
            })
            .collect();
        if outside == inside && inside.len() > 1 {
            return Ok(());
        }
        last = (outside, inside);
    }
    Err(format!("outside: {:?}\ninside: {:?}", last.0, last.1).into())
}

/// A listener of each family, as `xmesh conns` has it and as the guest's /proc/net has it.
fn same_sockets(mesh: &Mesh) -> Outcome {
    let listen = "socat -u TCP4-LISTEN:7001,fork /dev/null & socat -u TCP6-LISTEN:7002,ipv6only=1,fork /dev/null & \
                  socat -u UDP4-RECV:7003 /dev/null & wait";
    let _job = mesh.0.spawn("other", &["sh", "-c", listen], xmesh_rig::Discard)?;
    mesh.wait("the listeners are there", |mesh| {
        let conns = mesh.json(&["conns", "other"])?;
        let has = |protocol: &str, local: &str| {
            conns.as_array().into_iter().flatten().any(|c| {
                c["protocol"] == protocol
                    && c["local"] == local
                    && c["exe"]
                        .as_str()
                        .is_some_and(|exe| exe.starts_with("/usr/bin/socat"))
                    && c["uid"] == 0
            })
        };
        Ok(has("tcp", "0.0.0.0:7001") && has("tcp", "[::]:7002") && has("udp", "0.0.0.0:7003"))
    })
}

/// An exec and a connect are told with everything that is known of the process.
fn a_program_is_told_with_its_connection(mesh: &Mesh) -> Outcome {
    let command = "su app -s /bin/sh -c 'curl -s -o /dev/null -m 60 http://10.0.0.12/'";
    mesh.0.check("other", &["sh", "-c", command])?;
    mesh.wait("curl's connection is told", |mesh| {
        let text = mesh.0.check(
            "dom0",
            &[
                "xmesh",
                "--json",
                "events",
                "--domain",
                "other",
                "--kind",
                "connect,exec",
            ],
        )?;
        let events: Vec<Value> = text
            .lines()
            .filter_map(|l| serde_json::from_str(l).ok())
            .collect();
        let by_curl = |kind: &str| {
            events.iter().find(|e| {
                e["kind"] == kind && e["process"]["exe"] == "/usr/bin/curl" && e["process"]["uid"] == 1000
            })
        };
        let connected = by_curl("connect").is_some_and(|e| e["remote"] == "10.0.0.12:80");
        let parents = by_curl("exec").is_some_and(|e| {
            e["process"]["parents"]
                .as_array()
                .is_some_and(|parents| !parents.is_empty())
        });
        Ok(connected && parents)
    })
}
