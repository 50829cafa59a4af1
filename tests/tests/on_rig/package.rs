// SPDX-License-Identifier: GPL-3.0-only
//! The packages as an administrator has them: dpkg installs them into a dom0 that systemd manages, the unit's sandbox lets policyd do all
//! that it has to, and a purge leaves neither probes nor programs nor files.
//!
//! The rig's dom0 has an init of its own; systemd is the first process of a PID namespace there.

use std::path::Path;
use std::time::Duration;

use xmesh_rig::{Output, Progress, programs};

use crate::support::{Mesh, Outcome};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// Starts it, and prints its process ID in dom0 once it takes commands.
const BOOT: &str = r#"
cd /
# A container's systemd leaves the machine's own devices and clock alone; this target has no second set of the daemons that run here.
setsid unshare --pid --mount --fork --kill-child \
    sh -c 'mount -t proc proc /proc; exec env container=rig /lib/systemd/systemd --system --unit=basic.target' \
    > /run/systemd.log 2>&1 < /dev/null &
until pid=$(pgrep -o -x systemd) && nsenter -t "$pid" -m -p -- systemctl is-system-running --wait > /run/systemd.state; do
    case $(cat /run/systemd.state) in degraded) break ;; esac
    sleep 0.5
done
echo "$pid"
"#;
/// Where its packages are: systemd empties /tmp.
const FOLDER: &str = "/root/packages";
const POLICY: &str = "policy: packaged
default: { db1: deny }
services:
  asks: { vm: web1, exe: /usr/bin/curl }
  pages: { vm: db1, port: 80, protocol: tcp }
rules:
  - { name: may-ask, from: asks, to: pages, action: allow }
";

/// A systemd in dom0, ended with all that it started.
struct Booted<'m> {
    mesh: &'m Mesh,
    pid: String,
}

impl<'m> Booted<'m> {
    fn boot(mesh: &'m Mesh) -> Fallible<Booted<'m>> {
        let output = mesh
            .0
            .exec_timeout("dom0", &["sh", "-c", BOOT], Duration::from_secs(400))?;
        let booted = Booted {
            mesh,
            pid: output.text(),
        };
        match output.success() {
            true => Ok(booted),
            false => Err(format!("systemd does not start: {output:?}").into()),
        }
    }

    /// A program beside it.
    fn run(&self, argv: &[&str]) -> Fallible<Output> {
        let inside = ["nsenter", "-t", &self.pid, "-m", "-p", "--"];
        Ok(self.mesh.0.exec("dom0", &[&inside, argv].concat())?)
    }

    fn check(&self, argv: &[&str]) -> Fallible<String> {
        let output = self.run(argv)?;
        if !output.success() {
            let journal = self.run(&["journalctl", "--no-pager", "-n", "30", "-u", "policyd"])?;
            return Err(format!("{argv:?}: {}\n{}", output.error_text(), journal.text()).into());
        }
        Ok(output.text())
    }

    fn property(&self, name: &str) -> Fallible<String> {
        self.check(&["systemctl", "show", "--value", "--property", name, "policyd"])
    }
}

impl Drop for Booted<'_> {
    fn drop(&mut self) {
        // Where it says that systemd runs, other programs would believe it.
        let end = format!("kill -9 {} || pkill -9 -x systemd; rm -rf /run/systemd", self.pid);
        let _ = self.mesh.0.exec("dom0", &["sh", "-c", &end]);
    }
}

fn fetches(mesh: &Mesh, program: &str) -> Fallible<bool> {
    let argv = match program {
        "curl" => ["curl", "-s", "-o", "/dev/null", "-m", "60"].as_slice(),
        _ => ["wget", "-q", "-O", "/dev/null", "-t", "1", "-T", "60"].as_slice(),
    };
    let output = mesh.0.exec("web1", &[argv, &["http://10.0.0.12/"]].concat())?;
    Ok(output.success())
}

/// Both guests are seen as far as can be, which is also when the verdicts of an earlier daemon are this one's.
fn seen(mesh: &Mesh) -> Outcome {
    mesh.wait("both guests are seen", |mesh| {
        let all_seen = ["web1", "db1"]
            .iter()
            .all(|name| mesh.mode(name).is_ok_and(|mode| mode == "altp2m"));
        Ok(all_seen)
    })
}

fn one_may(mesh: &Mesh) -> Outcome {
    assert!(fetches(mesh, "curl")?, "the policy allows it");
    assert!(!fetches(mesh, "wget")?, "nothing allows it");
    Ok(())
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn installed_it_runs_in_its_sandbox_and_purged_it_was_never_there() -> Outcome {
    let mesh = Mesh::up()?;
    let packages = programs::packages(mesh.0.xen(), &Progress::new(true))?;
    mesh.end()?;
    mesh.0.check("dom0", &["policyd", "--detach"])?;
    mesh.0.check("dom0", &["mkdir", "-p", FOLDER])?;
    let mut install = vec!["dpkg".to_owned(), "--install".to_owned()];
    for package in &packages {
        let name = package.file_name().map(Path::new).ok_or("a package has a name")?;
        let there = Path::new(FOLDER).join(name).display().to_string();
        mesh.0.push(package, "dom0", &there)?;
        install.push(there);
    }
    let booted = Booted::boot(&mesh)?;
    booted.check(&install.iter().map(String::as_str).collect::<Vec<_>>())?;
    assert_eq!(
        booted.property("ActiveState")?,
        "active",
        "an installation starts it"
    );
    assert_eq!(booted.property("UnitFileState")?, "enabled");
    seen(&mesh)?;
    assert!(fetches(&mesh, "wget")?, "without a policy no traffic changes");
    assert!(mesh.apply_text(POLICY)?.success());
    one_may(&mesh)?;

    // It dies, and is back.
    let died = booted.property("MainPID")?;
    booted.check(&["kill", "-9", &died])?;
    mesh.wait("another runs", |_| {
        Ok(booted.property("MainPID")? != died && booted.property("ActiveState")? == "active")
    })?;
    seen(&mesh)?;
    one_may(&mesh)?;
    // An administrator has it started anew, as an upgrade does.
    booted.check(&["systemctl", "restart", "policyd"])?;
    seen(&mesh)?;
    one_may(&mesh)?;

    // Removed, it leaves the policies, and no probe and no program at a vif.
    booted.check(&["dpkg", "--remove", "xmesh", "policyd"])?;
    let left = "pgrep -f '^(/usr/sbin/policyd|/proc/self/exe)( |$)'; ls /sys/fs/bpf; \
        for vif in /sys/class/net/vif*; do tc filter show dev ${vif##*/} ingress; tc filter show dev ${vif##*/} egress; done";
    assert_eq!(mesh.0.check("dom0", &["sh", "-c", &format!("{left}; true")])?, "");
    assert!(fetches(&mesh, "wget")?, "nobody denies it any more");
    mesh.guests_run()?;
    mesh.0.check("dom0", &["test", "-d", "/var/lib/policyd/store"])?;
    booted.check(&["dpkg", "--purge", "xmesh", "policyd"])?;
    let files = "ls -d /etc/default/policyd /etc/systemd/system/*/policyd.service /usr/sbin/policyd /usr/bin/xmesh /run/policyd \
        /var/lib/policyd/* 2>/dev/null";
    let output = mesh.0.exec("dom0", &["sh", "-c", files])?;
    assert_eq!(output.text(), "");
    Ok(())
}
