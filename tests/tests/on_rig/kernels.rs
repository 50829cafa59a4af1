// SPDX-License-Identifier: GPL-3.0-only
//! What is seen of a guest is what the guest itself says: its processes, its sockets, its namespace, where its functions are. With
//! the kernel of the rig's own guests and with others, and with nothing told about any.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use crate::support::proc_net::{self, Socket};
use crate::support::{Domain, Mesh, Outcome};
use serde_json::Value;
use xmesh_rig::DomainSpec;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn every_rig_guest_is_seen_wholly() -> Outcome {
    is_seen_wholly(&Mesh::up()?, "web1")
}

/// One guest with two other kernels, the second as after an upgrade: it boots that one when it reboots.
#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_guest_with_linux_7_2_that_reboots_into_6_12_is_seen_wholly_each_time() -> Outcome {
    let mesh = Mesh::up()?;
    boots_next(&mesh, "7.2.")?;
    let spec = DomainSpec {
        kernel: Some("next".to_owned()),
        ..DomainSpec::new(GUEST, Ipv4Addr::new(10, 0, 0, 40))
    };
    mesh.0.create_domain(&spec)?;
    let _guard = Domain(&mesh.0, GUEST);
    has_kernel(&mesh, "7.2.")?;
    is_seen_wholly(&mesh, GUEST)?;

    let (first, told) = (mesh.domain(GUEST)?, told_sight(&mesh)?.len());
    boots_next(&mesh, "6.12.")?;
    mesh.0.xl(&["reboot", GUEST])?;
    mesh.wait("the guest is another domain", |mesh| {
        Ok(mesh.domain(GUEST)?["id"] != first["id"])
    })?;
    has_kernel(&mesh, "6.12.")?;
    is_seen_wholly(&mesh, GUEST)?;
    let modes = told_sight(&mesh)?;
    let new = modes.get(told..).unwrap_or_default();
    assert!(
        new.iter().any(|mode| mode == mesh.trapped()),
        "{modes:?}, {told} of them before"
    );
    mesh.0
        .check("dom0", &["rm", "/run/rig/kernel-next", "/run/rig/initramfs-next"])?;
    Ok(())
}

const GUEST: &str = "other";

/// What the guest boots from now on.
fn boots_next(mesh: &Mesh, series: &str) -> Outcome {
    let (kernel, initramfs) = mesh.0.bring_kernel(series)?;
    let copy = format!("cp {kernel} /run/rig/kernel-next; cp {initramfs} /run/rig/initramfs-next");
    mesh.0.check("dom0", &["sh", "-ec", &copy])?;
    Ok(())
}

/// It runs that kernel, and is trapped, with nothing to say about it.
fn has_kernel(mesh: &Mesh, series: &str) -> Outcome {
    mesh.0.wait_for(GUEST)?;
    mesh.wait("the guest is seen by traps", |mesh| {
        Ok(mesh.mode(GUEST)? == mesh.trapped())
    })?;
    let entry = mesh.domain(GUEST)?;
    let release = mesh.0.check(GUEST, &["uname", "-r"])?;
    assert!(release.starts_with(series), "{release}");
    assert_eq!(entry["kernel"], release.as_str());
    if mesh.0.cpu().has_altp2m() {
        assert_eq!(entry["problems"], serde_json::json!([]), "{entry}");
    }
    Ok(())
}

/// What became of the sight of the guest: the modes told, in order.
fn told_sight(mesh: &Mesh) -> Fallible<Vec<String>> {
    let argv = ["xmesh", "--json", "events", "--domain", GUEST, "--kind", "sight"];
    let text = mesh.0.check("dom0", &argv)?;
    Ok(text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|event| Some(event["mode"].as_str()?.to_owned()))
        .collect())
}

fn is_seen_wholly(mesh: &Mesh, guest: &str) -> Outcome {
    probes_are_in_their_functions(mesh, guest)?;
    same_processes(mesh, guest)?;
    same_sockets(mesh, guest)?;
    a_program_is_told_with_its_connection(mesh, guest)
}

/// Names the function that each address given as an argument is in, by the guest's own list of symbols.
const FUNCTIONS: &str = r#"
import bisect, sys
table = sorted((int(w[0], 16), w[2]) for w in map(str.split, open("/proc/kallsyms")) if w[1] in "tT")
for address in sys.argv[1:]:
    start = table[bisect.bisect_right(table, (int(address, 16), "~")) - 1][0]
    print(*(name for at, name in table[bisect.bisect_left(table, (start, "")):] if at == start))
"#;

/// The guest's own symbols have each probe within the function that it is for.
fn probes_are_in_their_functions(mesh: &Mesh, guest: &str) -> Outcome {
    let entry = mesh.domain(guest)?;
    let probes: Vec<(&str, &str)> = entry["probes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|p| Some((p["function"].as_str()?, p["address"].as_str()?)))
        .collect();
    assert!(probes.len() > 10, "{entry}");
    let mut argv = vec!["python3", "-c", FUNCTIONS];
    argv.extend(probes.iter().map(|(_, address)| *address));
    let inside = mesh.0.check(guest, &argv)?;
    assert_eq!(inside.lines().count(), probes.len(), "{inside}");
    for ((function, address), names) in probes.into_iter().zip(inside.lines()) {
        assert!(
            names.split(' ').any(|name| name == function),
            "{function} at {address} is in {names}"
        );
    }
    Ok(())
}

/// pid, parent, user, network namespace, executable.
type Process = (u64, u64, u64, u64, String);

/// Calls something until it finds both sides equal: they are of one moment only if nothing comes or goes.
fn agree<T: Ord + std::fmt::Debug>(sides: impl Fn() -> Fallible<(BTreeSet<T>, BTreeSet<T>)>) -> Outcome {
    let mut last = String::new();
    for _ in 0..3 {
        let (outside, inside) = sides()?;
        if outside == inside {
            return Ok(());
        }
        let only = |here: &BTreeSet<T>, there| {
            here.difference(there)
                .map(|one| format!("{one:?}\n"))
                .collect::<String>()
        };
        last = format!(
            "outside alone:\n{}inside alone:\n{}",
            only(&outside, &inside),
            only(&inside, &outside)
        );
    }
    Err(last.into())
}

/// What `xmesh ps` has of each process, and what the guest's /proc has.
fn same_processes(mesh: &Mesh, guest: &str) -> Outcome {
    agree(|| {
        let outside: BTreeSet<Process> = mesh
            .json(&["ps", guest])?
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|p| {
                let of = |name: &str| p[name].as_u64();
                let exe = p["exe"].as_str().unwrap_or_default().to_owned();
                Some((of("pid")?, of("ppid")?, of("uid")?, of("netns")?, exe))
            })
            .collect();
        let script = r#"for p in /proc/[0-9]*; do
            [ "$p" = "/proc/$$" ] && continue
            set -- $(sed -n 's/^PPid:\t*//p; s/^Uid:\t*\([0-9]*\).*/\1/p' "$p/status" 2>/dev/null)
            [ "$1" = "$$" ] && continue
            [ -n "$2" ] && echo "${p#/proc/} $1 $2 $(readlink "$p/ns/net" | tr -dc 0-9) $(readlink "$p/exe")"
        done"#;
        let inside: BTreeSet<Process> = mesh
            .0
            .check(guest, &["bash", "-c", script])?
            .lines()
            // Threads of the kernel have no executable, and `xmesh ps` leaves them out.
            .filter(|line| line.contains(" /"))
            .filter_map(|line| {
                let mut words = line.split(' ');
                let mut number = || words.next()?.parse().ok();
                let (pid, ppid, uid, netns) = (number()?, number()?, number()?, number()?);
                let exe = words.next().unwrap_or_default().to_owned();
                Some((pid, ppid, uid, netns, exe))
            })
            .collect();
        assert!(inside.len() > 1, "{inside:?}");
        Ok((outside, inside))
    })
}

/// Every socket as `xmesh conns` has it, and as the guest's /proc has it: listeners of each family and a connection's two ends.
fn same_sockets(mesh: &Mesh, guest: &str) -> Outcome {
    // The shell holds the connection for as long as it runs.
    let listen = "socat -u TCP4-LISTEN:7001,fork /dev/null & socat -u TCP6-LISTEN:7002,ipv6only=1,fork /dev/null & \
                  socat -u UDP4-RECV:7003 /dev/null & until exec 3<>/dev/tcp/127.0.0.1/7001; do sleep 1; done; wait";
    let _job = mesh.0.spawn(guest, &["bash", "-c", listen], xmesh_rig::Discard)?;
    let outside = || -> Fallible<Vec<Socket>> {
        let conns = mesh.json(&["conns", guest])?;
        let all = conns.as_array().into_iter().flatten();
        Ok(all.filter_map(proc_net::of_conns).collect())
    };
    mesh.wait("listeners and a connection", |_| {
        let all = outside()?;
        let is_there = |port: u16| all.iter().any(|s| s.local.port() == port);
        Ok(is_there(7001) && is_there(7002) && is_there(7003) && all.iter().any(|s| s.state == "ESTAB"))
    })?;
    agree(|| {
        let mut outside = outside()?;
        let inside = proc_net::read(mesh, guest)?;
        // Of several processes that hold a socket, `xmesh conns` names one.
        let holds = |s: &Socket| {
            inside
                .iter()
                .any(|i| i.same_as(s) && s.pids.iter().all(|pid| i.pids.contains(pid)))
        };
        for socket in outside.iter_mut().filter(|s| !s.pids.is_empty() && holds(s)) {
            socket.pids = inside
                .iter()
                .find(|i| i.same_as(socket))
                .map(|i| i.pids.clone())
                .unwrap_or_default();
        }
        Ok((outside.into_iter().collect(), inside.into_iter().collect()))
    })
}

/// An exec and a connect are told with everything that is known of the process.
fn a_program_is_told_with_its_connection(mesh: &Mesh, guest: &str) -> Outcome {
    let command = "su app -s /bin/sh -c 'curl -s -o /dev/null -m 60 http://10.0.0.12/'";
    mesh.0.check(guest, &["sh", "-c", command])?;
    mesh.wait("curl's connection is told", |mesh| {
        let text = mesh.0.check(
            "dom0",
            &[
                "xmesh",
                "--json",
                "events",
                "--domain",
                guest,
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
