// SPDX-License-Identifier: GPL-3.0-only
//! Where there is no altp2m: breakpoints in a guest's own memory, which the guest must not stumble over, and which nothing may
//! leave behind.

mod support;

/// Of a rig with an AMD processor: `cargo xtask test` runs them there, and leaves them out elsewhere.
mod amd {
    use std::time::Duration;

    use xmesh_rig::{Discard, Job, Progress, programs};

    use crate::support::{Mesh, Outcome};

    /// Port 9 of db1 listens to nobody: a connect is one SYN and one trap, whoever decides.
    const CONNECT: &str = "(echo > /dev/tcp/10.0.0.12/9) 2>/dev/null";
    /// Programs that come, connect and go, on both vCPUs at once.
    const LOAD: &str = "for cpu in 0 1; do taskset -c $cpu bash -c \
        'while :; do (echo > /dev/tcp/10.0.0.12/9) 2>/dev/null; /bin/true; done' & done; wait";
    /// Where web1 has the kernel's own tracing.
    const TRACEFS: &str =
        "mountpoint -q /sys/kernel/tracing || mount -t tracefs t /sys/kernel/tracing; cd /sys/kernel/tracing";
    /// What a kernel that stumbled says of it, or of a process that did.
    const FAULTS: &[&str] = &[
        "WARNING: CPU",
        "BUG:",
        "Oops",
        "ftrace failed",
        "int3:",
        "detected stall",
        "segfault",
        "invalid opcode",
        "general protection",
    ];
    const KILL9: &str = "/usr/local/bin/kill9";

    /// Runs a script in web1; its output.
    fn in_web1(mesh: &Mesh, script: &str) -> Result<String, Box<dyn std::error::Error>> {
        Ok(mesh.0.check("web1", &["bash", "-c", script])?)
    }

    /// Runs a script in web1's tracing folder; its output.
    fn in_tracefs(mesh: &Mesh, script: &str) -> Result<String, Box<dyn std::error::Error>> {
        in_web1(mesh, &format!("set -e; {TRACEFS}; {script}"))
    }

    /// Load in web1, for as long as this is kept.
    fn load(mesh: &Mesh) -> Result<Job, Box<dyn std::error::Error>> {
        Ok(mesh.0.spawn("web1", &["bash", "-c", LOAD], Discard)?)
    }

    /// Functions of web1 with a probe.
    fn probed(mesh: &Mesh) -> Result<Vec<String>, Box<dyn std::error::Error>> {
        let entry = mesh.domain("web1")?;
        let functions: Vec<String> = entry["probes"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|probe| Some(probe["function"].as_str()?.to_owned()))
            .collect();
        assert!(functions.len() > 10, "{entry}");
        Ok(functions)
    }

    /// Both vCPUs of web1 work, nothing in its log speaks of a fault, and ftrace has not switched itself off.
    fn unharmed(mesh: &Mesh) -> Outcome {
        let work = "for cpu in 0 1; do taskset -c $cpu sh -c 'exec true' || exit 1; done; dmesg";
        let output = mesh
            .0
            .exec_timeout("web1", &["sh", "-c", work], Duration::from_secs(120))?;
        assert!(output.success(), "{output:?}");
        let log = output.text();
        let bad = |line: &&str| FAULTS.iter().any(|word| line.contains(word));
        let faults: Vec<&str> = log.lines().filter(bad).collect();
        assert!(faults.is_empty(), "{faults:#?}");
        assert_eq!(in_web1(mesh, "cat /proc/sys/kernel/ftrace_enabled")?, "1");
        Ok(())
    }

    /// So many connects are so many traps, once the breakpoints are in place.
    fn connects_are_seen(mesh: &Mesh, count: u64) -> Outcome {
        let hits = || mesh.probe_hits("web1", "tcp_connect");
        // After the guest patched its text they come back by themselves.
        mesh.wait("a connect traps", |_| {
            let before = hits()?;
            in_web1(mesh, &format!("{CONNECT}; true"))?;
            std::thread::sleep(Duration::from_secs(2));
            Ok(hits()? > before)
        })?;
        let before = hits()?;
        let half = count / 2;
        in_web1(
            mesh,
            &format!("for j in 1 2; do (for i in $(seq {half}); do {CONNECT}; done) & done; wait"),
        )?;
        mesh.wait("as many traps as connects", |_| Ok(hits()? >= before + count))?;
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(hits()?, before + count);
        Ok(())
    }

    /// Nothing is left of the engine, and the guest is well.
    fn clean(mesh: &Mesh, after: &str) -> Outcome {
        let changed = mesh.changed_text()?;
        assert_eq!(changed, "", "after {after}");
        let records = mesh.0.check("dom0", &["ls", "-A", "/run/policyd/undo"])?;
        assert_eq!(records, "", "after {after}");
        unharmed(mesh)
    }

    #[test]
    #[ignore = "needs a rig with an AMD processor: cargo xtask test"]
    fn guests_are_seen_by_breakpoints_and_told_what_that_means() -> Outcome {
        let mesh = Mesh::up()?;
        for name in ["web1", "db1"] {
            let entry = mesh.domain(name)?;
            assert_eq!(entry["mode"], "breakpoint", "{entry}");
            assert!(
                entry["problems"].to_string().contains("the guest could see"),
                "{entry}"
            );
            let skipped = entry["probes"]
                .as_array()
                .is_some_and(|all| all.iter().all(|p| p["resume"] == "skip"));
            assert!(skipped, "{entry}");
        }
        connects_are_seen(&mesh, 20)
    }

    #[test]
    #[ignore = "needs a rig with an AMD processor: cargo xtask test"]
    fn a_guest_that_traces_the_probed_functions_is_not_upset() -> Outcome {
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
            "for i in $(seq 10); do echo function > current_tracer; echo nop > current_tracer; done",
        )?;
        drop(job);
        unharmed(&mesh)?;
        connects_are_seen(&mesh, 20)?;
        // With the tracer on, the sites are calls, which Xen's emulator carries out for each trap: both see each connect.
        in_tracefs(&mesh, "echo function > current_tracer; echo > trace")?;
        connects_are_seen(&mesh, 20)?;
        let theirs = in_tracefs(&mesh, "grep -c 'tcp_connect <-' trace")?;
        assert!(theirs.parse::<u32>()? >= 21, "{theirs} traced");
        in_tracefs(&mesh, "echo nop > current_tracer; echo > set_ftrace_filter")?;
        unharmed(&mesh)?;
        connects_are_seen(&mesh, 20)
    }

    #[test]
    #[ignore = "needs a rig with an AMD processor: cargo xtask test"]
    fn a_guest_can_put_kprobes_into_the_probed_functions() -> Outcome {
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
    #[ignore = "needs a rig with an AMD processor: cargo xtask test"]
    fn a_guest_that_switches_static_keys_and_loads_modules_is_not_upset() -> Outcome {
        let mesh = Mesh::up()?;
        let job = load(&mesh)?;
        // sched_schedstats is a static key of the scheduler's; that of an event lies in the function that tells it.
        in_tracefs(
            &mesh,
            "for i in $(seq 8); do \
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
    #[ignore = "needs a rig with an AMD processor: cargo xtask test"]
    fn a_guests_own_breakpoint_reaches_the_guest() -> Outcome {
        let mesh = Mesh::up()?;
        let program = programs::guest("breaks")?;
        mesh.0.push(&program, "web1", "/root/breaks")?;
        let output = mesh.0.exec("web1", &["/root/breaks"])?;
        // SIGTRAP.
        assert_eq!(output.status, 128 + 5, "{output:?}");
        Ok(())
    }

    #[test]
    #[ignore = "needs a rig with an AMD processor: cargo xtask test"]
    fn no_breakpoint_outlives_the_daemon() -> Outcome {
        let mesh = Mesh::up()?;
        mesh.end()?;
        mesh.keep_text()?;

        mesh.start()?;
        let seen = mesh.changed_text()?;
        for function in probed(&mesh)? {
            assert!(seen.contains(&format!("{function}+")), "{function}: {seen}");
        }
        let job = load(&mesh)?;
        mesh.end()?;
        drop(job);
        clean(&mesh, "a daemon that was asked to end")?;

        mesh.start()?;
        let job = load(&mesh)?;
        std::thread::sleep(Duration::from_secs(2));
        mesh.0.check("dom0", &["kill", "-9", &mesh.daemon()?])?;
        mesh.gone()?;
        drop(job);
        clean(&mesh, "a daemon that was killed")?;

        mesh.start()?;
        let job = load(&mesh)?;
        std::thread::sleep(Duration::from_secs(2));
        mesh.0.check(
            "dom0",
            &["kill", "-9", &mesh.daemon()?, &mesh.guardian()?.to_string()],
        )?;
        // Nobody is left to free the guest but the next daemon.
        mesh.start()?;
        mesh.end()?;
        drop(job);
        clean(&mesh, "a daemon that was killed with its guardian")?;

        mesh.start()?;
        let daemon = mesh.daemon()?;
        let job = load(&mesh)?;
        mesh.0.check("dom0", &["kill", "-STOP", &daemon])?;
        mesh.wait("another daemon serves", |mesh| Ok(mesh.daemon()? != daemon))?;
        mesh.start()?;
        mesh.end()?;
        drop(job);
        clean(&mesh, "a daemon that was stopped, and replaced")
    }

    #[test]
    #[ignore = "needs a rig with an AMD processor: cargo xtask test"]
    fn a_guest_runs_on_whenever_its_watcher_is_killed() -> Outcome {
        let mesh = Mesh::up()?;
        mesh.end()?;
        let program = programs::example("vmi-xen", "kill9", &Progress::new(true))?;
        mesh.0.push(&program, "dom0", KILL9)?;
        let domid = mesh.0.domain("web1")?.ok_or("web1 is there")?.id.to_string();
        let job = load(&mesh)?;
        // Functions of every process; each round fails that does not leave the guest as it was, with both vCPUs trapping.
        let told = mesh.0.check(
            "dom0",
            &[
                KILL9,
                "--breakpoint",
                &domid,
                "wake_up_new_task",
                "12",
                "do_exit",
                "tcp_connect",
            ],
        )?;
        drop(job);
        assert!(told.contains("all 12 rounds passed"), "{told}");
        println!("{told}");
        unharmed(&mesh)?;
        mesh.start()
    }

    #[test]
    #[ignore = "needs a rig with an AMD processor: cargo xtask test"]
    fn guests_that_nobody_gave_leave_for_are_only_read() -> Outcome {
        let mesh = Mesh::up()?;
        mesh.end()?;
        mesh.0.check(
            "dom0",
            &[
                "sh",
                "-c",
                "setsid policyd >> /run/policyd.log 2>&1 < /dev/null &",
            ],
        )?;
        mesh.wait("web1 is only read", |mesh| Ok(mesh.mode("web1")? == "lookup"))?;
        let entry = mesh.domain("web1")?;
        assert!(entry["probes"].as_array().is_some_and(Vec::is_empty), "{entry}");
        mesh.end()?;
        mesh.start()
    }
}
