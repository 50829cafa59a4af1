// SPDX-License-Identifier: GPL-3.0-only
//! A guest patches its own kernel, where probes are and beside them, while both its vCPUs run through it: it gets what it wrote, and
//! the probes go on.

use crate::support::web1::{connects_are_seen, in_web1, load, probed, unharmed};
use crate::support::{Mesh, Outcome};
use xmesh_rig::programs;

/// Where web1 has the kernel's own tracing.
const TRACEFS: &str =
    "mountpoint -q /sys/kernel/tracing || mount -t tracefs t /sys/kernel/tracing; cd /sys/kernel/tracing";

/// Runs a script in web1's tracing folder; its output.
fn in_tracefs(mesh: &Mesh, script: &str) -> Result<String, Box<dyn std::error::Error>> {
    in_web1(mesh, &format!("set -e; {TRACEFS}; {script}"))
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn patched_by_ftrace_a_guest_is_not_upset() -> Outcome {
    let mesh = Mesh::up()?;
    let filter = probed(&mesh)?.join(" ");
    in_tracefs(
        &mesh,
        &format!(
            "echo nop > current_tracer; echo > trace; for f in {filter}; do echo $f; done > set_ftrace_filter"
        ),
    )?;
    // To and fro, while both vCPUs run through what is patched.
    let job = load(&mesh)?;
    in_tracefs(
        &mesh,
        "for i in $(seq 5); do echo function > current_tracer; echo nop > current_tracer; done",
    )?;
    drop(job);
    unharmed(&mesh)?;
    connects_are_seen(&mesh, 20)?;
    // With the tracer on, the sites are calls, which are carried out for each trap: both see each connect.
    in_tracefs(&mesh, "echo function > current_tracer; echo > trace")?;
    connects_are_seen(&mesh, 20)?;
    let theirs = in_tracefs(&mesh, "grep -c 'tcp_connect <-' trace")?;
    assert!(theirs.parse::<u32>()? >= 21, "{theirs} traced");
    in_tracefs(&mesh, "echo nop > current_tracer; echo > set_ftrace_filter")?;
    unharmed(&mesh)?;
    connects_are_seen(&mesh, 20)
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn patched_by_kprobes_a_guest_is_not_upset() -> Outcome {
    let mesh = Mesh::up()?;
    let job = load(&mesh)?;
    in_tracefs(
        &mesh,
        "echo > kprobe_events; echo 'p:entry tcp_connect' > kprobe_events; echo 'r:back tcp_connect' >> kprobe_events; \
         for i in 1 2 3; do echo 1 > events/kprobes/enable; echo 0 > events/kprobes/enable; done; \
         echo > trace; echo 1 > events/kprobes/enable",
    )?;
    drop(job);
    unharmed(&mesh)?;
    in_tracefs(&mesh, "echo > trace")?;
    connects_are_seen(&mesh, 20)?;
    let counts = in_tracefs(&mesh, "grep -c entry: trace; grep -c back: trace")?;
    assert!(
        counts.lines().all(|n| n.parse::<u32>().is_ok_and(|n| n >= 21)),
        "{counts}"
    );
    in_tracefs(&mesh, "echo 0 > events/kprobes/enable; echo > kprobe_events")?;
    unharmed(&mesh)?;
    connects_are_seen(&mesh, 20)
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn patched_by_static_keys_and_modules_a_guest_is_not_upset() -> Outcome {
    let mesh = Mesh::up()?;
    let job = load(&mesh)?;
    // sched_schedstats is a static key of the scheduler's; that of an event lies in the function that tells it.
    in_tracefs(
        &mesh,
        "for i in $(seq 5); do \
             for on in 1 0; do \
                 echo $on > /proc/sys/kernel/sched_schedstats; \
                 echo $on > events/sched/sched_process_exit/enable; \
                 echo $on > events/sched/sched_process_exec/enable; \
             done; \
             modprobe dummy; modprobe -r dummy; \
         done",
    )?;
    drop(job);
    unharmed(&mesh)?;
    connects_are_seen(&mesh, 20)
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_guests_own_breakpoint_reaches_the_guest() -> Outcome {
    let mesh = Mesh::up()?;
    let program = programs::guest("breaks")?;
    mesh.0.push(&program, "web1", "/root/breaks")?;
    let output = mesh.0.exec("web1", &["/root/breaks"])?;
    // SIGTRAP.
    assert_eq!(output.status, 128 + 5, "{output:?}");
    Ok(())
}
