// SPDX-License-Identifier: GPL-3.0-only
//! policyd and xmesh on a real Xen, where things go wrong: bad input, guests that cannot be watched, guests and daemons that die.
//! What goes right is shown and checked by `cargo xtask demo`.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::support::{Domain, Mesh, Outcome};
use xmesh_rig::{Discard, DomainSpec};

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_second_policyd_is_refused_and_the_first_goes_on() -> Outcome {
    let mesh = Mesh::up()?;
    let first = mesh.daemon()?;
    let second = mesh.0.exec("dom0", &["policyd"])?;
    assert!(!second.success());
    assert!(
        second
            .error_text()
            .contains(&format!("another policyd runs here (pid {first}")),
        "{second:?}"
    );
    assert_eq!(mesh.daemon()?, first);
    assert_eq!(mesh.mode("web1")?, mesh.trapped());
    Ok(())
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_bad_policy_changes_nothing_and_says_where() -> Outcome {
    let mesh = Mesh::up()?;
    let before = mesh.generation()?;
    for (text, says) in [
        ("policy: x\ndefault: {db1: de", ":2:"),
        (
            "policy: x\nrules:\n  - {name: r, from: nobody, to: any, action: allow}\n",
            "no service is named `nobody`",
        ),
        ("", ""),
    ] {
        let output = mesh.apply_text(text)?;
        assert_eq!(output.status, 1, "{output:?}");
        assert!(output.error_text().contains(says), "{output:?}");
    }
    assert_eq!(mesh.generation()?, before);
    Ok(())
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_policy_survives_the_death_of_the_daemon() -> Outcome {
    let mesh = Mesh::up()?;
    let applied = mesh.apply_text("policy: kept\ndefault: { db1: allow }\n")?;
    assert!(applied.success(), "{applied:?}");
    let generation = mesh.generation()?;
    mesh.0.check("dom0", &["kill", "-9", &mesh.daemon()?])?;
    mesh.start()?;
    assert_eq!(mesh.generation()?, generation);
    let list = mesh.json(&["policy-list"])?;
    assert!(
        list.as_array()
            .is_some_and(|sets| sets.iter().any(|s| s["name"] == "kept")),
        "{list}"
    );
    mesh.0.check("dom0", &["xmesh", "policy-delete", "kept"])?;
    Ok(())
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn daemon_and_guardian_killed_together_leave_nothing_that_the_next_cannot_undo() -> Outcome {
    let mesh = Mesh::up()?;
    let (daemon, guardian) = (mesh.daemon()?, mesh.guardian()?);
    mesh.0.check("dom0", &["kill", "-9", &guardian.to_string()])?;
    mesh.wait("another guardian", |mesh| Ok(mesh.guardian()? != guardian))?;
    let load = "for i in $(seq 50); do curl -s -o /dev/null -m 5 http://10.0.0.12/; done";
    let job = mesh.0.spawn("web1", &["sh", "-c", load], Discard)?;
    std::thread::sleep(Duration::from_secs(1));
    mesh.0
        .check("dom0", &["kill", "-9", &daemon, &mesh.guardian()?.to_string()])?;
    // Nobody is left to free the guests but the next daemon.
    mesh.start()?;
    mesh.guests_run()?;
    assert_eq!(job.wait()?, 0);
    Ok(())
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_domain_without_altp2m_is_listed_with_the_reason() -> Outcome {
    let mesh = Mesh::up()?;
    let spec = DomainSpec {
        altp2m: false,
        ..DomainSpec::new("plain", Ipv4Addr::new(10, 0, 0, 30))
    };
    mesh.0.create_domain(&spec)?;
    let _guard = Domain(&mesh.0, "plain");
    mesh.0.wait_for("plain")?;
    // Xen before 4.19 lets altp2m be switched on later; from then on the domain can only be read.
    mesh.wait("plain is read", |mesh| {
        Ok(["lookup", mesh.trapped()].contains(&mesh.mode("plain")?.as_str()))
    })?;
    let entry = mesh.domain("plain")?;
    if entry["mode"] == "lookup" {
        assert!(entry["problems"].to_string().contains("altp2m"), "{entry}");
    }
    assert_eq!(entry["vifs"][0]["covered"], true, "{entry}");
    let processes = mesh.json(&["ps", "plain"])?;
    assert!(
        processes
            .as_array()
            .is_some_and(|p| p.iter().any(|p| p["pid"] == 1)),
        "{processes}"
    );
    Ok(())
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_domain_that_dies_while_it_boots_or_is_watched_hurts_nobody() -> Outcome {
    let mesh = Mesh::up()?;
    let daemon = mesh.daemon()?;
    for pause in [0, 2, 6] {
        let spec = DomainSpec::new("brief", Ipv4Addr::new(10, 0, 0, 31));
        mesh.0.create_domain(&spec)?;
        let guard = Domain(&mesh.0, "brief");
        std::thread::sleep(Duration::from_secs(pause));
        drop(guard);
    }
    // And in the middle of traps, which come as fast as they can on both its vCPUs.
    mesh.0
        .create_domain(&DomainSpec::new("brief", Ipv4Addr::new(10, 0, 0, 31)))?;
    let guard = Domain(&mesh.0, "brief");
    mesh.0.wait_for("brief")?;
    mesh.wait("the guest is trapped", |mesh| {
        Ok(mesh.mode("brief")? == mesh.trapped())
    })?;
    let load = "for cpu in 0 1; do taskset -c $cpu sh -c 'while :; do /bin/true; done' & done; wait";
    let job = mesh.0.spawn("brief", &["sh", "-c", load], Discard)?;
    mesh.wait(
        "traps",
        |mesh| Ok(mesh.probe_hits("brief", "finalize_exec")? > 50),
    )?;
    drop(guard);
    drop(job);
    mesh.wait("the dead domain is forgotten", |mesh| {
        Ok(mesh.domain("brief").is_err())
    })?;
    // A mapping kept would hold the domain as a zombie.
    let list = mesh.0.xl(&["list"])?;
    assert!(!list.contains("(null)"), "{list}");
    assert_eq!(mesh.daemon()?, daemon);
    mesh.guests_run()?;
    assert_eq!(mesh.mode("web1")?, mesh.trapped());
    Ok(())
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn every_connect_is_told_once() -> Outcome {
    let mesh = Mesh::up()?;
    // Port 9 of db1 listens to nobody: each connect is one SYN and one event, from both vCPUs at once.
    let load = "for j in 1 2; do (for i in $(seq 100); do (echo > /dev/tcp/10.0.0.12/9) 2>/dev/null; done) & done; wait";
    let before = mesh.probe_hits("web1", "tcp_connect")?;
    mesh.0.exec("web1", &["bash", "-c", load])?;
    mesh.wait("200 connects", |mesh| {
        Ok(mesh.probe_hits("web1", "tcp_connect")? >= before + 200)
    })?;
    // Others of the guest may connect, too: these are told apart by the port.
    std::thread::sleep(Duration::from_secs(2));
    let text = mesh.0.check(
        "dom0",
        &[
            "sh",
            "-c",
            "xmesh --json events --domain web1 --kind connect | grep -c '\"remote\":\"10.0.0.12:9\"'",
        ],
    )?;
    assert_eq!(text.trim(), "200");
    Ok(())
}

/// Applies a policy for one test.
fn with_policy(mesh: &Mesh, text: &str, name: &str, test: impl FnOnce() -> Outcome) -> Outcome {
    let applied = mesh.apply_text(text)?;
    assert!(applied.success(), "{applied:?}");
    let outcome = test();
    mesh.0.check("dom0", &["xmesh", "policy-delete", name])?;
    outcome
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_refused_datagram_is_an_error_in_the_guest() -> Outcome {
    let mesh = Mesh::up()?;
    let script = "
import errno, socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(60)
s.connect(('10.0.0.12', 5300))
s.send(b'?')
try:
    s.recv(9)
except OSError as e:
    print(errno.errorcode.get(e.errno, e))
";
    let policy = "policy: no-datagrams\nrules:\n  - { name: r, from: any, to: { vm: db1 }, protocol: udp, action: deny }\n";
    with_policy(&mesh, policy, "no-datagrams", || {
        let output = mesh
            .0
            .exec_timeout("web1", &["python3", "-c", script], Duration::from_secs(120))?;
        assert_eq!(output.text().trim(), "EHOSTUNREACH", "{output:?}");
        Ok(())
    })
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_locked_guest_sends_from_its_own_address_alone() -> Outcome {
    let mesh = Mesh::up()?;
    let fetch = |from: &str| {
        let argv = [
            "curl",
            "-s",
            "-m",
            "15",
            "-o",
            "/dev/null",
            "--interface",
            from,
            "http://10.0.0.12/",
        ];
        mesh.0.exec_timeout("web1", &argv, Duration::from_secs(120))
    };
    mesh.0
        .check("web1", &["ip", "address", "add", "10.0.0.77/24", "dev", "eth0"])?;
    let outcome = with_policy(
        &mesh,
        "policy: locked\nlock: { web1: address }\n",
        "locked",
        || {
            assert!(fetch("10.0.0.11")?.success(), "its own address");
            assert!(!fetch("10.0.0.77")?.success(), "another address");
            mesh.wait("the refusal is told", |mesh| {
                let argv = [
                    "xmesh", "--json", "events", "--domain", "web1", "--kind", "refused",
                ];
                Ok(mesh
                    .0
                    .check("dom0", &argv)?
                    .contains("locked/lock (address of web1)"))
            })
        },
    );
    let before = fetch("10.0.0.77")?;
    mesh.0
        .check("web1", &["ip", "address", "del", "10.0.0.77/24", "dev", "eth0"])?;
    outcome?;
    assert!(before.success(), "without the lock it may: {before:?}");
    Ok(())
}
