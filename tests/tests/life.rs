// SPDX-License-Identifier: GPL-3.0-only
//! What happens to a guest in its life: sight comes back by itself, and the guest runs on.

mod support;

use std::net::Ipv4Addr;
use std::time::Duration;

use support::{Domain, Mesh, Outcome};
use xmesh_rig::{Discard, DomainSpec};

const GUEST: &str = "phoenix";

/// A guest of the test's own, seen by traps.
fn born(mesh: &Mesh) -> Result<Domain<'_>, Box<dyn std::error::Error>> {
    let spec = DomainSpec::new(GUEST, Ipv4Addr::new(10, 0, 0, 50));
    mesh.0.create_domain(&spec)?;
    let guard = Domain(&mesh.0, GUEST);
    mesh.0.wait_for(GUEST)?;
    seen(mesh)?;
    Ok(guard)
}

fn seen(mesh: &Mesh) -> Outcome {
    mesh.wait("the guest is seen by traps", |mesh| {
        Ok(["altp2m", "breakpoint"].contains(&mesh.mode(GUEST)?.as_str()))
    })
}

/// A program that the guest runs is told, on whichever vCPU: one for each.
fn tells_what_runs(mesh: &Mesh) -> Outcome {
    let before = mesh.probe_hits(GUEST, "finalize_exec")?;
    for cpu in ["0", "1"] {
        // A vCPU that is off takes nothing: then the other does.
        let both = format!("taskset -c {cpu} true || true");
        let output = mesh
            .0
            .exec_timeout(GUEST, &["sh", "-c", &both], Duration::from_secs(120))?;
        assert!(output.success(), "{output:?}");
    }
    mesh.wait("what the guest runs is told", |mesh| {
        Ok(mesh.probe_hits(GUEST, "finalize_exec")? >= before + 3)
    })
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_guest_that_reboots_is_seen_again() -> Outcome {
    let mesh = Mesh::up()?;
    let _guard = born(&mesh)?;
    let first = mesh.domain(GUEST)?["id"].clone();
    mesh.0.xl(&["reboot", GUEST])?;
    mesh.wait("the guest is another domain", |mesh| {
        Ok(mesh.domain(GUEST)?["id"] != first)
    })?;
    mesh.0.wait_for(GUEST)?;
    seen(&mesh)?;
    tells_what_runs(&mesh)
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn vcpus_memory_and_pauses_come_and_go_under_traps() -> Outcome {
    let mesh = Mesh::up()?;
    let _guard = born(&mesh)?;
    let load = "while :; do true | cat > /dev/null; done";
    let _job = mesh.0.spawn(GUEST, &["sh", "-c", load], Discard)?;
    for vcpus in ["1", "2"] {
        // The emulator has one processor for all.
        mesh.0.xl(&["vcpu-set", "--ignore-host", GUEST, vcpus])?;
        tells_what_runs(&mesh)?;
    }
    for memory in ["176", "224"] {
        mesh.0.xl(&["mem-set", GUEST, memory])?;
        std::thread::sleep(Duration::from_secs(3));
        tells_what_runs(&mesh)?;
    }
    mesh.0.xl(&["pause", GUEST])?;
    std::thread::sleep(Duration::from_secs(3));
    mesh.0.xl(&["unpause", GUEST])?;
    tells_what_runs(&mesh)?;
    assert!(["altp2m", "breakpoint"].contains(&mesh.mode(GUEST)?.as_str()));
    Ok(())
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_guest_that_is_saved_and_restored_is_seen_again() -> Outcome {
    let mesh = Mesh::up()?;
    let _guard = born(&mesh)?;
    let first = mesh.domain(GUEST)?["id"].clone();
    mesh.0.xl(&["save", GUEST, "/run/phoenix.save"])?;
    mesh.0.xl(&["restore", "/run/phoenix.save"])?;
    mesh.0.check("dom0", &["rm", "/run/phoenix.save"])?;
    mesh.wait("the guest is another domain", |mesh| {
        Ok(mesh.domain(GUEST)?["id"] != first)
    })?;
    mesh.0.wait_for(GUEST)?;
    seen(&mesh)?;
    tells_what_runs(&mesh)
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_daemon_that_is_stopped_holds_no_guest_and_another_takes_its_place() -> Outcome {
    let mesh = Mesh::up()?;
    let daemon = mesh.daemon()?;
    let load = "for i in $(seq 40); do curl -s -o /dev/null -m 100 http://10.0.0.12/; done";
    let job = mesh.0.spawn("web1", &["sh", "-c", load], Discard)?;
    mesh.0.check("dom0", &["kill", "-STOP", &daemon])?;
    // Traps of the load wait for nobody until the guardian has noticed.
    mesh.wait("another daemon serves", |mesh| Ok(mesh.daemon()? != daemon))?;
    assert_eq!(job.wait()?, 0);
    mesh.guests_run()?;
    mesh.start()?;
    let alive = mesh.0.exec("dom0", &["kill", "-0", &daemon])?;
    assert!(!alive.success(), "the stopped daemon is still there");
    Ok(())
}

/// What dies in a round.
const DEATHS: [&str; 4] = ["daemon", "guardian", "both", "daemon stopped"];

/// `XMESH_KILL_ROUNDS` sets how many; each dies at another moment.
#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn daemon_and_guardian_die_at_any_moment_and_the_guest_runs_on() -> Outcome {
    let rounds = std::env::var("XMESH_KILL_ROUNDS").ok();
    let rounds: usize = rounds.map_or(Ok(DEATHS.len()), |text| text.parse())?;
    let mesh = Mesh::up()?;
    mesh.end()?;
    mesh.keep_text()?;
    mesh.start()?;
    // Traps on both vCPUs all the time.
    let load = "for cpu in 0 1; do taskset -c $cpu sh -c 'while :; do /bin/true; curl -s -o /dev/null -m 100 http://10.0.0.12/; sleep 0.1; done' & done; wait";
    let job = mesh.0.spawn("web1", &["sh", "-c", load], Discard)?;
    let mut random = rounds as u64 ^ std::process::id() as u64;
    for round in 0..rounds {
        let death = DEATHS[round % DEATHS.len()];
        // A moment within the two seconds from when both guests are trapped.
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis((random >> 33) % 2000));
        let (daemon, guardian) = (mesh.daemon()?, mesh.guardian()?);
        eprintln!("round {round}: {death} (daemon {daemon}, guardian {guardian})");
        let guardian_text = guardian.to_string();
        match death {
            "daemon" => {
                mesh.0.check("dom0", &["kill", "-9", &daemon])?;
            }
            "guardian" => {
                mesh.0.check("dom0", &["kill", "-9", &guardian_text])?;
                mesh.wait("another guardian", |mesh| Ok(mesh.guardian()? != guardian))?;
            }
            "both" => {
                mesh.0.check("dom0", &["kill", "-9", &daemon, &guardian_text])?;
            }
            _ => {
                mesh.0.check("dom0", &["kill", "-STOP", &daemon])?;
                mesh.wait("another daemon serves", |mesh| Ok(mesh.daemon()? != daemon))?;
            }
        }
        if death != "both" {
            // Before anybody starts another daemon: the guardian alone has freed the guests.
            mesh.guests_run()?;
        }
        mesh.start()?;
        mesh.guests_run()?;
    }
    drop(job);
    // Without a daemon, so that nothing stands between the guest and its text.
    mesh.end()?;
    assert_eq!(mesh.changed_text()?, "", "the guest's kernel text");
    mesh.start()
}
