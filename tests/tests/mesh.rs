// SPDX-License-Identifier: GPL-3.0-only
//! policyd and xmesh on a real Xen, where things go wrong: bad input, guests that cannot be watched, guests and daemons that die.
//! What goes right is shown and checked by `cargo xtask demo`.

use std::net::Ipv4Addr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use xmesh_rig::{Discard, DomainSpec, Progress, Rig, programs};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// The rig with a running policyd in dom0.
struct Mesh(Rig);

impl Mesh {
    /// Puts policyd into dom0 once, and starts it unless it runs.
    fn up() -> Result<Mesh, Box<dyn std::error::Error>> {
        static INSTALLED: OnceLock<()> = OnceLock::new();
        let rig = Rig::for_test()?;
        if INSTALLED.get().is_none() {
            // A daemon that runs would keep its file busy.
            rig.exec("dom0", &["pkill", "-x", "policyd"])?;
            for program in programs::build(&Progress::new(true))? {
                let name = program
                    .file_name()
                    .ok_or("a program has a name")?
                    .to_string_lossy()
                    .into_owned();
                let new = format!("/usr/local/bin/{name}.new");
                rig.push(&program, "dom0", &new)?;
                rig.check("dom0", &["mv", "-f", &new, &format!("/usr/local/bin/{name}")])?;
            }
            INSTALLED.get_or_init(|| ());
        }
        let mesh = Mesh(rig);
        mesh.start()?;
        Ok(mesh)
    }

    fn start(&self) -> Outcome {
        if !self.0.exec("dom0", &["xmesh", "info"])?.success() {
            let start = "setsid policyd >> /run/policyd.log 2>&1 < /dev/null &";
            self.0.check("dom0", &["sh", "-c", start])?;
        }
        self.wait("web1 and db1 are seen by altp2m", |mesh| {
            Ok(["web1", "db1"]
                .iter()
                .all(|name| mesh.mode(name).is_ok_and(|mode| mode == "altp2m")))
        })
    }

    fn json(&self, arguments: &[&str]) -> Result<Value, Box<dyn std::error::Error>> {
        let mut argv = vec!["xmesh", "--json"];
        argv.extend(arguments);
        Ok(serde_json::from_str(&self.0.check("dom0", &argv)?)?)
    }

    fn domain(&self, name: &str) -> Result<Value, Box<dyn std::error::Error>> {
        let list = self.json(&["list"])?;
        let found = list
            .as_array()
            .and_then(|all| all.iter().find(|d| d["name"] == name))
            .cloned();
        found.ok_or_else(|| format!("{name} is not in the list").into())
    }

    fn mode(&self, name: &str) -> Result<String, Box<dyn std::error::Error>> {
        Ok(self.domain(name)?["mode"].as_str().unwrap_or_default().to_owned())
    }

    fn wait(&self, what: &str, is_so: impl Fn(&Mesh) -> Result<bool, Box<dyn std::error::Error>>) -> Outcome {
        let end = Instant::now() + Duration::from_secs(180);
        while !is_so(self).unwrap_or(false) {
            if Instant::now() > end {
                let log = self.0.check("dom0", &["tail", "-n", "30", "/run/policyd.log"])?;
                return Err(format!("in vain waited for: {what}\n{log}").into());
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    }

    fn daemon(&self) -> Result<String, Box<dyn std::error::Error>> {
        Ok(self
            .0
            .check("dom0", &["cat", "/run/policyd/lock"])?
            .trim()
            .to_owned())
    }

    fn guardian(&self) -> Result<u64, Box<dyn std::error::Error>> {
        self.json(&["info"])?["guardian"]
            .as_u64()
            .ok_or_else(|| "no guardian".into())
    }

    fn generation(&self) -> Result<u64, Box<dyn std::error::Error>> {
        self.json(&["info"])?["generation"]
            .as_u64()
            .ok_or_else(|| "no generation".into())
    }

    /// Both guests run programs.
    fn guests_run(&self) -> Outcome {
        for guest in ["web1", "db1"] {
            let output = self
                .0
                .exec_timeout(guest, &["sh", "-c", "exec true"], Duration::from_secs(30))?;
            assert!(output.success(), "{guest} runs nothing: {output:?}");
        }
        Ok(())
    }

    fn apply_text(&self, text: &str) -> Result<xmesh_rig::Output, Box<dyn std::error::Error>> {
        self.0.write("dom0", "/tmp/test.yaml", 0o644, text.as_bytes())?;
        Ok(self
            .0
            .exec("dom0", &["xmesh", "policy-apply", "/tmp/test.yaml"])?)
    }
}

/// Ends a domain however its test ends.
struct Domain<'a>(&'a Rig, &'a str);

impl Drop for Domain<'_> {
    fn drop(&mut self) {
        let _ = self.0.xl(&["destroy", self.1]);
    }
}

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
    assert_eq!(mesh.mode("web1")?, "altp2m");
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
        Ok(["lookup", "altp2m"].contains(&mesh.mode("plain")?.as_str()))
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
    mesh.wait("the dead domain is forgotten", |mesh| {
        Ok(mesh.domain("brief").is_err())
    })?;
    // A mapping kept would hold the domain as a zombie.
    let list = mesh.0.xl(&["list"])?;
    assert!(!list.contains("(null)"), "{list}");
    assert_eq!(mesh.daemon()?, daemon);
    mesh.guests_run()?;
    assert_eq!(mesh.mode("web1")?, "altp2m");
    Ok(())
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_guest_with_more_vcpus_than_the_ring_has_places_is_read_but_not_trapped() -> Outcome {
    let mesh = Mesh::up()?;
    // Nine it may have, one it brings up: the emulator has one processor for all.
    let spec = DomainSpec {
        cmdline: "maxcpus=1".into(),
        config: "vcpus = 9".into(),
        ..DomainSpec::new("wide", Ipv4Addr::new(10, 0, 0, 32))
    };
    mesh.0.create_domain(&spec)?;
    let _guard = Domain(&mesh.0, "wide");
    mesh.0.wait_for("wide")?;
    mesh.wait("wide is read", |mesh| Ok(mesh.mode("wide")? == "lookup"))?;
    let entry = mesh.domain("wide")?;
    assert!(entry["problems"].to_string().contains("9 vCPUs"), "{entry}");
    assert!(
        mesh.json(&["ps", "wide"])?
            .as_array()
            .is_some_and(|p| !p.is_empty())
    );
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
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(mesh.probe_hits("web1", "tcp_connect")?, before + 200);
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

impl Mesh {
    fn probe_hits(&self, domain: &str, function: &str) -> Result<u64, Box<dyn std::error::Error>> {
        let entry = self.domain(domain)?;
        let probe = entry["probes"]
            .as_array()
            .and_then(|all| all.iter().find(|p| p["function"] == function));
        probe
            .and_then(|p| p["hits"].as_u64())
            .ok_or_else(|| format!("no probe {function}").into())
    }
}
