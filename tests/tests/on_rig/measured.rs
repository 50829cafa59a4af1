// SPDX-License-Identifier: GPL-3.0-only
//! Programs are held against what policy knows of their text, and who is changed while it runs loses what it has open.

use std::time::Duration;

use serde_json::Value;
use xmesh_rig::Output;

use crate::support::{Mesh, Outcome};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// Where dom0 has the disk that guests boot from.
const DISK: &str = "/rig/domu";

/// To db1's port 80 goes curl, and to 4445, where nobody says anything.
const POLICY: &str = "policy: known
default: { db1: deny }
lock: { web1: address }
rules:
  - name: curl-may
    from: { vm: web1 }
    to: { vm: db1 }
    ports: [80, 4445]
    protocol: tcp
    action: allow
    require: { authentication: { from: measured } }
";

/// Writes to a page of the text of a process's executable, as a debugger does.
const TAMPER: &str = "
import sys
pid = sys.argv[1]
for line in open('/proc/%s/maps' % pid):
    if 'r-xp' in line and line.rstrip().endswith('/curl'):
        start, end = (int(part, 16) for part in line.split()[0].split('-'))
        break
# Far from what a waiting program runs.
at = end - 4096 * 2 + 64
with open('/proc/%s/mem' % pid, 'r+b', buffering=0) as memory:
    memory.seek(at)
    byte = memory.read(1)
    memory.seek(at)
    memory.write(bytes([byte[0] ^ 0xff]))
";

fn curl(mesh: &Mesh, program: &str, url: &str) -> Fallible<Output> {
    let argv = [program, "-s", "-o", "/dev/null", "-m", "60", url];
    Ok(mesh.0.exec_timeout("web1", &argv, Duration::from_secs(120))?)
}

fn measured(mesh: &Mesh) -> Fallible<Vec<Value>> {
    // Its exit status says whether any is changed.
    let output = mesh.0.exec("dom0", &["xmesh", "--json", "measured", "web1"])?;
    let list: Value = serde_json::from_slice(&output.stdout)?;
    Ok(list["processes"].as_array().cloned().unwrap_or_default())
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn only_what_policy_knows_connects_and_only_as_long_as_it_is_that() -> Outcome {
    let mesh = Mesh::up()?;
    let write =
        format!("xmesh measure --root {DISK} /usr/bin/curl --label 'of the disk' > /tmp/programs.yaml");
    mesh.0.check("dom0", &["sh", "-c", &write])?;
    mesh.0
        .check("dom0", &["xmesh", "policy-apply", "/tmp/programs.yaml"])?;
    let applied = mesh.apply_text(POLICY)?;
    assert!(applied.success(), "{applied:?}");
    let outcome = tried(&mesh);
    for set in ["known", "programs"] {
        mesh.0.check("dom0", &["xmesh", "policy-delete", set])?;
    }
    outcome
}

fn tried(mesh: &Mesh) -> Outcome {
    const PAGE: &str = "http://10.0.0.12/";
    // Each time it is another process, so each time its packet waits for the look at it.
    for _ in 0..3 {
        let fetched = curl(mesh, "/usr/bin/curl", PAGE)?;
        assert!(fetched.success(), "{fetched:?}");
    }
    let copied = "cp /usr/bin/curl /tmp/curl && printf '\\0' >> /tmp/curl";
    mesh.0.check("web1", &["sh", "-c", copied])?;
    let other = curl(mesh, "/tmp/curl", PAGE)?;
    assert_eq!(other.status, 7, "policy knows no program there: {other:?}");
    let ask = "import socket; socket.create_connection(('10.0.0.12', 80), 60)";
    let argv = ["python3", "-c", ask];
    let python = mesh.0.exec_timeout("web1", &argv, Duration::from_secs(120))?;
    assert!(python.error_text().contains("ConnectionRefused"), "{python:?}");

    // Another file at the place of the known one is not it.
    let over = "mount --bind /tmp/other /usr/bin/curl";
    let forged = "cp /usr/bin/wget /tmp/other && chmod 755 /tmp/other";
    mesh.0
        .check("web1", &["sh", "-c", &format!("{forged} && {over}")])?;
    let argv = ["/usr/bin/curl", "-q", "-O", "-", "-t", "1", "-T", "60", PAGE];
    let fake = mesh.0.exec_timeout("web1", &argv, Duration::from_secs(120));
    mesh.0.check("web1", &["umount", "/usr/bin/curl"])?;
    let fake = fake?;
    assert_eq!(fake.status, 4, "{fake:?}");

    // One that is changed while it waits for an answer.
    let listen = "timeout 600 nc -lk -p 4445 > /dev/null 2>&1 < /dev/null & sleep 1";
    mesh.0.check("db1", &["sh", "-c", listen])?;
    let begin = "nohup curl -s -m 600 http://10.0.0.12:4445/ > /dev/null 2>&1 & echo $!";
    let pid = mesh.0.check("web1", &["sh", "-c", begin])?.trim().to_owned();
    let number: u64 = pid.parse()?;
    let is_its = |one: &Value| one["process"]["pid"] == number;
    mesh.wait("it runs what policy knows", |mesh| {
        let all = measured(mesh)?;
        let found = all.iter().find(|one| is_its(one)).ok_or("not there")?;
        Ok(found["text"]["measured"] == "same" && found["text"]["program"] == "programs/curl")
    })?;
    mesh.0.check("web1", &["python3", "-c", TAMPER, &pid])?;
    mesh.wait("its connection ends", |mesh| {
        let alive = mesh.0.exec("web1", &["kill", "-0", &pid])?;
        Ok(!alive.success())
    })?;
    let argv = [
        "xmesh", "--json", "events", "--domain", "web1", "--kind", "measured",
    ];
    let events = mesh.0.check("dom0", &argv)?;
    let told: Vec<Value> = events
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let told = told.iter().find(|event| is_its(event)).ok_or("not told")?;
    assert_eq!(told["text"]["measured"], "changed", "{told}");
    assert_eq!(told["text"]["changed"], told["text"]["private"], "{told}");
    let threats = mesh.0.exec("dom0", &["xmesh", "--json", "threats", "web1"])?;
    let threats: Value = serde_json::from_slice(&threats.stdout)?;
    let threats = threats["threats"].as_array().cloned().unwrap_or_default();
    let found = threats
        .iter()
        .find(|threat| threat["rule"] == "text-changed" && is_its(threat))
        .ok_or_else(|| format!("no threat in {threats:?}"))?;
    assert_eq!(found["severity"], "alert", "{found}");

    // The file is as it was: who is started now is let through.
    let fetched = curl(mesh, "/usr/bin/curl", PAGE)?;
    assert!(fetched.success(), "{fetched:?}");
    Ok(())
}
