// SPDX-License-Identifier: GPL-3.0-only
//! A policy that was learned from real connections lets them pass again, and nothing else.

use crate::support::{Mesh, Outcome};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// curl under another name, that nothing else in the rig runs.
fn program(mesh: &Mesh, name: &str) -> Fallible<String> {
    let path = format!("/usr/local/bin/{name}");
    mesh.0.check("web1", &["cp", "/usr/bin/curl", &path])?;
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

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn what_was_learned_passes_and_a_new_program_does_not() -> Outcome {
    let mesh = Mesh::up()?;
    let (known, new) = (program(&mesh, "known-client")?, program(&mesh, "new-client")?);
    for _ in 0..5 {
        assert!(reaches(&mesh, &known)?);
    }
    let learn =
        "xmesh suggest --since 10m --vm web1 --vm db1 -o /tmp/suggested.yaml && cat /tmp/suggested.yaml";
    let learned = |mesh: &Mesh| mesh.0.check("dom0", &["sh", "-c", learn]);
    // A flow is in the history within seconds.
    mesh.wait("the client is in what is suggested", |mesh| {
        Ok(learned(mesh)?.contains(&known))
    })?;
    let text = learned(&mesh)?;
    println!("{text}");
    assert!(!text.contains(&new), "{text}");
    assert!(reaches(&mesh, &new)?, "nothing denies it yet");

    mesh.0
        .check("dom0", &["xmesh", "policy-apply", "/tmp/suggested.yaml"])?;
    assert!(reaches(&mesh, &known)?, "what was seen passes: {text}");
    assert!(!reaches(&mesh, &new)?, "what was not does not: {text}");
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
