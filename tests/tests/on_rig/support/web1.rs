// SPDX-License-Identifier: GPL-3.0-only
//! web1 under load, and whether it is well.

use std::time::Duration;

use xmesh_rig::{Discard, Job};

use super::{Mesh, Outcome};

/// Port 9 of db1 listens to nobody: a connect is one SYN and one trap, whoever decides.
const CONNECT: &str = "(echo > /dev/tcp/10.0.0.12/9) 2>/dev/null";
/// Programs that come, connect and go, on both vCPUs at once.
const LOAD: &str = "for cpu in 0 1; do taskset -c $cpu bash -c \
    'while :; do (echo > /dev/tcp/10.0.0.12/9) 2>/dev/null; /bin/true; done' & done; wait";
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

/// Runs a script in web1; its output.
pub fn in_web1(mesh: &Mesh, script: &str) -> Result<String, Box<dyn std::error::Error>> {
    Ok(mesh.0.check("web1", &["bash", "-c", script])?)
}

/// Load in web1, for as long as this is kept.
pub fn load(mesh: &Mesh) -> Result<Job, Box<dyn std::error::Error>> {
    Ok(mesh.0.spawn("web1", &["bash", "-c", LOAD], Discard)?)
}

/// Functions of web1 with a probe.
pub fn probed(mesh: &Mesh) -> Result<Vec<String>, Box<dyn std::error::Error>> {
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
pub fn unharmed(mesh: &Mesh) -> Outcome {
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
pub fn connects_are_seen(mesh: &Mesh, count: u64) -> Outcome {
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
