// SPDX-License-Identifier: GPL-3.0-only
//! What happens to a guest in its life: sight comes back by itself, and the guest runs on.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::support::web1::{load, unharmed};
use crate::support::{Domain, Mesh, Outcome, tell};
use xmesh_rig::{Cpu, Discard, DomainSpec, Progress, programs};

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
    // A copy of it is saved, and it goes on as the same domain.
    mesh.0.xl(&["save", "-c", GUEST, "/run/phoenix.save"])?;
    mesh.0.check("dom0", &["rm", "/run/phoenix.save"])?;
    seen(&mesh)?;
    tells_what_runs(&mesh)?;
    assert_eq!(mesh.domain(GUEST)?["id"], first);

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

/// kexec: Xen resets the domain, and it starts with the kernel that the guest left in its own memory. xl does so for HVM guests alone.
#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn an_hvm_guest_that_starts_its_next_kernel_by_itself_is_seen_again() -> Outcome {
    let mesh = Mesh::up()?;
    if !mesh
        .0
        .exec(
            "dom0",
            &[
                "sh",
                "-c",
                "test -x /usr/libexec/xen-qemu-system-i386 || test -x /usr/lib/xen/bin/qemu-system-i386",
            ],
        )?
        .success()
    {
        tell("no HVM guest was tried: the mirror that dom0 was made from lacks qemu-system-xen");
        return Ok(());
    }
    let spec = DomainSpec {
        hvm: true,
        ..DomainSpec::new(GUEST, Ipv4Addr::new(10, 0, 0, 50))
    };
    mesh.0.create_domain(&spec)?;
    let _guard = Domain(&mesh.0, GUEST);
    mesh.0.wait_for(GUEST)?;
    seen(&mesh)?;
    tells_what_runs(&mesh)?;
    let entry = mesh.domain(GUEST)?;
    let connects = "(echo > /dev/tcp/10.0.0.12/80) && cat /proc/sys/kernel/random/boot_id";
    let first = mesh.0.check(GUEST, &["bash", "-c", connects])?;

    mesh.0.push(&programs::guest("kexec")?, GUEST, "/root/kexec")?;
    let initramfs = mesh.0.read("dom0", "/rig/domu-initramfs")?;
    mesh.0.write(GUEST, "/root/initramfs", 0o644, &initramfs)?;
    let _gone = mesh.0.spawn(
        GUEST,
        &["/root/kexec", "/boot/kernel", "/root/initramfs"],
        Discard,
    )?;
    mesh.wait("another kernel runs", |mesh| {
        let short = Duration::from_secs(30);
        let output = mesh.0.exec_timeout(GUEST, &["bash", "-c", connects], short)?;
        Ok(output.success() && output.text() != first)
    })?;
    let id = entry["id"].to_string();
    let told = mesh
        .0
        .check("dom0", &["xmesh", "events", "--domain", &id, "--kind", "sight"])?;
    assert!(told.contains("shut down"), "{told}");
    seen(&mesh)?;
    let again = mesh.domain(GUEST)?;
    assert_eq!(again["id"], entry["id"], "in the same domain");
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

/// The engine alone, without the daemon: each round takes a second, not twenty; with breakpoints several, since each watcher
/// looks for what patches the guest's text. `XMESH_KILL_ROUNDS` times as many.
#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_guest_runs_on_whenever_its_watcher_is_killed() -> Outcome {
    const KILL9: &str = "/usr/local/bin/kill9";
    let factor = std::env::var("XMESH_KILL_ROUNDS").map_or(Ok(1), |rounds| rounds.parse::<u64>())?;
    let mesh = Mesh::up()?;
    let amd = mesh.0.cpu() == Cpu::Amd;
    let rounds = factor * if amd { 12 } else { 24 };
    mesh.end()?;
    let program = programs::example(mesh.0.xen(), "vmi-xen", "kill9", &Progress::new(true))?;
    mesh.0.push(&program, "dom0", KILL9)?;
    let job = load(&mesh)?;
    let mut command = vec![KILL9.to_owned()];
    command.extend(amd.then(|| "--breakpoint".to_owned()));
    command.push(mesh.0.domain("web1")?.ok_or("web1 is there")?.id.to_string());
    command.push(rounds.to_string());
    // Functions of every process; each round fails that does not leave the guest as it was, with both vCPUs trapping.
    command.extend(["wake_up_new_task", "do_exit", "tcp_connect"].map(str::to_owned));
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let patience = Duration::from_secs(600 + 60 * rounds);
    let output = mesh.0.exec_timeout("dom0", &command, patience)?;
    drop(job);
    let told = output.text();
    println!("{told}");
    assert!(
        output.success() && told.contains(&format!("all {rounds} rounds passed")),
        "{output:?}"
    );
    unharmed(&mesh)?;
    mesh.start()
}

/// Kills in dom0; see there.
const KILL_ROUNDS: &[u8] = include_bytes!("../../guest/kill-rounds");

/// `XMESH_KILL_ROUNDS` sets how many; each dies at another moment.
#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn daemon_and_guardian_die_at_any_moment_and_the_guest_runs_on() -> Outcome {
    let rounds = std::env::var("XMESH_KILL_ROUNDS").unwrap_or_else(|_| "4".into());
    let seconds = 120 * rounds.parse::<u64>()?;
    let mesh = Mesh::up()?;
    mesh.end()?;
    mesh.keep_text()?;
    // Traps on all vCPUs, again and again; but an emulated processor must have time for the daemon.
    let load = |what: &str| {
        format!("for cpu in 0 1; do taskset -c $cpu sh -c 'while :; do {what}; sleep 0.3; done' & done; wait")
    };
    let connects = load("curl -s -o /dev/null -m 100 http://10.0.0.12/");
    let jobs = [
        mesh.0.spawn("web1", &["sh", "-c", &connects], Discard)?,
        mesh.0.spawn("db1", &["sh", "-c", &load("/bin/true")], Discard)?,
    ];
    mesh.0.write("dom0", "/tmp/kill-rounds", 0o755, KILL_ROUNDS)?;
    let seed = std::process::id().to_string();
    let killed = mesh.0.exec_timeout(
        "dom0",
        &["/tmp/kill-rounds", &rounds, &seed, "web1", "db1"],
        Duration::from_secs(seconds),
    )?;
    eprintln!("{}", String::from_utf8_lossy(&killed.stdout));
    assert!(killed.success(), "seed {seed}: {killed:?}");
    drop(jobs);
    mesh.guests_run()?;
    // Without a daemon, so that nothing stands between the guest and its text.
    assert_eq!(mesh.changed_text()?, "", "the guest's kernel text");
    unharmed(&mesh)?;
    mesh.start()
}
