// SPDX-License-Identifier: GPL-3.0-only
//! A change that holds for one guest first, on real connections.

use crate::support::{Mesh, Outcome, tell};

const CLOSES: &str = "policy: closing\ndefault: { \"*\": deny }\n";

/// Whether a guest reaches the web server of another.
fn reaches(mesh: &Mesh, from: &str, address: &str) -> Result<bool, Box<dyn std::error::Error>> {
    let url = format!("http://{address}/");
    let argv = ["curl", "-s", "-o", "/dev/null", "-m", "60", &url];
    // 7: refused at once.
    match mesh.0.exec(from, &argv)?.status {
        0 => Ok(true),
        7 => Ok(false),
        status => Err(format!("curl in {from}: status {status}").into()),
    }
}

fn stage(mesh: &Mesh, options: &str) -> Outcome {
    mesh.0
        .write("dom0", "/tmp/closing.yaml", 0o644, CLOSES.as_bytes())?;
    let staged = format!("xmesh policy-apply --stage {options} /tmp/closing.yaml");
    mesh.0.check("dom0", &["sh", "-c", &staged])?;
    Ok(())
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_change_for_one_guest_first_is_taken_back_when_it_cuts_too_much() -> Outcome {
    let mesh = Mesh::up()?;
    assert!(reaches(&mesh, "web1", "10.0.0.12")?);
    stage(&mesh, "nobody-*,nothing --for 1h")?;
    assert!(reaches(&mesh, "web1", "10.0.0.12")?, "it is for others");
    mesh.0.check("dom0", &["xmesh", "policy-abandon"])?;

    stage(&mesh, "web1")?;
    assert!(!reaches(&mesh, "web1", "10.0.0.12")?, "it is for web1");
    let rollout = mesh.json(&["policy-rollout"])?;
    assert_eq!(rollout["stage"]["vms"][0], "web1", "{rollout}");
    // Nobody says that it is wrong, but what happens.
    for _ in 0..8 {
        if !mesh.json(&["policy-rollout"])?["stage"].is_object() {
            break;
        }
        reaches(&mesh, "web1", "10.0.0.12")?;
    }
    let taken_back = mesh.wait("it is taken back", |mesh| {
        Ok(!mesh.json(&["policy-rollout"])?["stage"].is_object())
    });
    if taken_back.is_err() {
        // What it is judged by.
        tell(&mesh.json(&["policy-rollout"])?.to_string());
    }
    taken_back?;
    assert!(reaches(&mesh, "web1", "10.0.0.12")?, "as before");
    let history = mesh.json(&["policy-history"])?;
    let last = &history["generations"][0];
    assert_eq!(
        (&last["action"], &last["by"]["name"]),
        (&"abandon".into(), &"policyd".into())
    );
    let why = last["message"].as_str().unwrap_or_default();
    assert!(why.contains("flows were refused"), "{last}");

    // One that cuts nothing holds for all after its time.
    let harmless = "policy: closing\ndescription: harmless\n";
    mesh.0
        .write("dom0", "/tmp/closing.yaml", 0o644, harmless.as_bytes())?;
    let staged = "xmesh policy-apply --stage web1 --for 5s /tmp/closing.yaml";
    mesh.0.check("dom0", &["sh", "-c", staged])?;
    mesh.wait("it holds for all", |mesh| {
        Ok(mesh.json(&["policy-history"])?["generations"][0]["action"] == "promote")
    })?;
    mesh.0.check("dom0", &["xmesh", "policy-delete", "closing"])?;
    Ok(())
}
