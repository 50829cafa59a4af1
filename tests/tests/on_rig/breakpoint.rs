// SPDX-License-Identifier: GPL-3.0-only
//! Where there is no altp2m: breakpoints in a guest's own memory, which the guest must not stumble over, and which nothing may
//! leave behind.

/// Of a rig with an AMD processor: `cargo xtask test` runs them there, and leaves them out elsewhere.
mod amd {
    use std::time::Duration;

    use crate::support::web1::{connects_are_seen, load, probed, unharmed};
    use crate::support::{Mesh, Outcome};

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
        // Nobody is left to free the guest but the next daemon. The load has done its part: beside it a daemon starts for minutes.
        drop(job);
        mesh.start()?;
        mesh.end()?;
        clean(&mesh, "a daemon that was killed with its guardian")?;

        mesh.start()?;
        let daemon = mesh.daemon()?;
        let job = load(&mesh)?;
        mesh.0.check("dom0", &["kill", "-STOP", &daemon])?;
        mesh.wait("another daemon serves", |mesh| Ok(mesh.daemon()? != daemon))?;
        drop(job);
        mesh.start()?;
        mesh.end()?;
        clean(&mesh, "a daemon that was stopped, and replaced")
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
