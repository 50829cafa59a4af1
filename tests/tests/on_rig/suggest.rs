// SPDX-License-Identifier: GPL-3.0-only
//! A policy that was learned from real connections lets them pass again, and nothing else.
//!
//! `XMESH_LEARN_MINUTES` says for how long the guests talk before it is learned; it is one minute unless told.

use std::time::{Duration, Instant};

use crate::support::{Mesh, Outcome, echo};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

const MINUTES: &str = "XMESH_LEARN_MINUTES";

/// In web1, as any program that runs it: each of the ways to db1 once, and what came of it. `PORT`: of TCP; UDP's is the next.
const CLIENT: &str = r#"
import socket, sys
def tcp(port):
    s = socket.create_connection(("10.0.0.12", port), 60); s.sendall(b"x"); assert s.recv(9) == b"x"
def udp(port):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(20); s.connect(("10.0.0.12", port))
    s.send(b"y"); assert s.recv(9) == b"y"
def tried(way, port):
    try: way(port); return "yes"
    except OSError: return "no"
print(tried(tcp, 7300), tried(udp, 7301))
"#;

/// A program under another name, that nothing else in the rig runs.
fn program(mesh: &Mesh, of: &str, name: &str) -> Fallible<String> {
    let path = format!("/usr/local/bin/{name}");
    mesh.0.check("web1", &["cp", of, &path])?;
    Ok(path)
}

/// Whether a program in web1 reaches db1's web server; no other answer than that, or a refusal at once.
fn reaches(mesh: &Mesh, program: &str) -> Fallible<bool> {
    let argv = [program, "-s", "-o", "/dev/null", "-m", "60", "http://10.0.0.12/"];
    match mesh.0.exec("web1", &argv)?.status {
        0 => Ok(true),
        7 => Ok(false),
        status => Err(format!("{program}: status {status}").into()),
    }
}

/// What came of a program's connection and of its datagram, as this user.
fn speaks(mesh: &Mesh, program: &str, uid: &str) -> Fallible<String> {
    let argv = ["setpriv", "--reuid", uid, "--clear-groups", program, "-c", CLIENT];
    Ok(mesh.0.check("web1", &argv)?.trim().to_owned())
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn what_was_learned_passes_and_a_new_program_does_not() -> Outcome {
    let minutes: u64 = match std::env::var(MINUTES) {
        Ok(text) => text.parse()?,
        Err(_) => 1,
    };
    let mesh = Mesh::up()?;
    let _server = echo::serve(&mesh, "db1", &[], 7300, 7301)?;
    let (known, new) = (
        program(&mesh, "/usr/bin/curl", "known-client")?,
        program(&mesh, "/usr/bin/curl", "new-client")?,
    );
    let (worker, intruder) = (
        program(&mesh, "/usr/bin/python3.11", "known-worker")?,
        program(&mesh, "/usr/bin/python3.11", "new-worker")?,
    );
    let begun = Instant::now();
    let mut rounds = 0;
    while rounds < 3 || begun.elapsed() < Duration::from_secs(60 * minutes) {
        assert!(reaches(&mesh, &known)?);
        assert_eq!(speaks(&mesh, &worker, "33")?, "yes yes");
        mesh.0
            .check("web1", &["ping", "-n", "-c", "1", "-W", "20", "10.0.0.12"])?;
        rounds += 1;
    }
    println!("{rounds} rounds in {} s", begun.elapsed().as_secs());
    let since = format!("{}m", minutes + 10);
    let learn = format!(
        "xmesh suggest --since {since} --vm web1 --vm db1 -o /tmp/suggested.yaml && cat /tmp/suggested.yaml"
    );
    let learned = |mesh: &Mesh| mesh.0.check("dom0", &["sh", "-c", &learn]);
    // A flow is in the history within seconds, and what it sent a little later.
    mesh.wait("all of it is in what is suggested", |mesh| {
        let text = learned(mesh)?;
        Ok(text.contains(&known) && text.contains("udp") && text.matches(&worker).count() >= 3)
    })?;
    let text = learned(&mesh)?;
    println!("{text}");
    assert!(!text.contains(&new) && !text.contains(&intruder), "{text}");
    assert!(reaches(&mesh, &new)?, "nothing denies it yet");

    mesh.0
        .check("dom0", &["xmesh", "policy-apply", "/tmp/suggested.yaml"])?;
    assert!(reaches(&mesh, &known)?, "what was seen passes: {text}");
    assert_eq!(speaks(&mesh, &worker, "33")?, "yes yes", "{text}");
    mesh.0
        .check("web1", &["ping", "-n", "-c", "1", "-W", "20", "10.0.0.12"])?;
    // What was not does not: another program, another user, another way.
    assert!(!reaches(&mesh, &new)?, "{text}");
    assert_eq!(speaks(&mesh, &intruder, "33")?, "no no", "{text}");
    assert_eq!(speaks(&mesh, &worker, "0")?, "no no", "{text}");
    let web = "import socket; socket.create_connection((\"10.0.0.12\", 80), 60)";
    let argv = ["setpriv", "--reuid", "33", "--clear-groups", &worker, "-c", web];
    let other = mesh.0.exec("web1", &argv)?;
    assert!(
        String::from_utf8_lossy(&other.stderr).contains("refused"),
        "{other:?}"
    );
    let why = mesh.json(&[
        "explain",
        "--from",
        &format!("web1:{new}"),
        "--to",
        "db1",
        "--port",
        "80",
    ])?;
    assert_eq!(why["decision"]["verdict"], "deny", "{why}");
    mesh.0.check("dom0", &["xmesh", "policy-delete", "suggested"])?;
    assert!(reaches(&mesh, &new)?);
    Ok(())
}
