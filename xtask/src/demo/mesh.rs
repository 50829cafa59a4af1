// SPDX-License-Identifier: GPL-3.0-only
//! policyd and xmesh in the rig's dom0.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;
use xmesh_rig::{Progress, Rig, programs};

/// Where the daemon logs in dom0.
const LOG: &str = "/run/policyd.log";

/// Builds policyd and xmesh and puts them into dom0.
pub fn install(rig: &Rig) -> anyhow::Result<()> {
    for program in programs::build(rig.xen(), &Progress::new(false))? {
        let name = program
            .file_name()
            .context("a program has a name")?
            .to_string_lossy()
            .into_owned();
        rig.push(&program, "dom0", &format!("/usr/local/bin/{name}"))?;
    }
    // One of another build would be in the way, and seem to answer for this one.
    end(rig)
}

/// Ends the daemon, if one runs, and waits until its guests are free and its guardian is gone.
pub fn end(rig: &Rig) -> anyhow::Result<()> {
    let end =
        "pkill -x policyd; while pgrep -f '^(policyd|/proc/self/exe)( |$)' > /dev/null; do sleep 0.2; done";
    rig.exec("dom0", &["sh", "-c", end])?;
    Ok(())
}

/// Starts the daemon and waits until its API answers.
pub fn start(rig: &Rig) -> anyhow::Result<()> {
    // Traps take long where the processor is emulated: by the usual budget probes would rest under the demo's load.
    let command =
        format!("setsid policyd --breakpoints --budget 100 >> {LOG} 2>&1 < /dev/null & echo started");
    rig.check("dom0", &["sh", "-c", &command])?;
    // The kernel's verifier takes long where the processor is emulated, and the machine may be busy.
    wait_for("policyd answers", Duration::from_secs(300), || {
        Ok(xmesh(rig, &["list"]).is_ok())
    })
}

/// Runs `xmesh --json …` and reads what it prints.
pub fn xmesh(rig: &Rig, arguments: &[&str]) -> anyhow::Result<Value> {
    let mut argv = vec!["xmesh", "--json"];
    argv.extend(arguments);
    let text = rig.check("dom0", &argv)?;
    serde_json::from_str(&text).with_context(|| format!("xmesh {arguments:?} printed: {text}"))
}

/// As [`xmesh`] for streams of one JSON value a line.
pub fn xmesh_lines(rig: &Rig, arguments: &[&str]) -> anyhow::Result<Vec<Value>> {
    let mut argv = vec!["xmesh", "--json"];
    argv.extend(arguments);
    let text = rig.check("dom0", &argv)?;
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| serde_json::from_str(line).with_context(|| format!("xmesh printed: {line}")))
        .collect()
}

/// Applies a policy file of `tests/scenario`.
pub fn apply(rig: &Rig, file: &str) -> anyhow::Result<()> {
    let local = programs::workspace().join("tests/scenario").join(file);
    let remote = format!("/tmp/{file}");
    rig.push(&local, "dom0", &remote)?;
    rig.check("dom0", &["xmesh", "policy-apply", &remote])?;
    Ok(())
}

/// The daemon's process id, from its lock.
pub fn pid(rig: &Rig) -> anyhow::Result<String> {
    Ok(rig
        .check("dom0", &["cat", "/run/policyd/lock"])?
        .trim()
        .to_owned())
}

/// Waits until all of `domains` are watched by traps.
pub fn wait_for_sight(rig: &Rig, domains: &[&str]) -> anyhow::Result<()> {
    let sight = rig.cpu().sight();
    wait_for(
        &format!("{domains:?} are seen by {sight}"),
        Duration::from_secs(120),
        || {
            let list = xmesh(rig, &["list"])?;
            let seen = |name: &&str| {
                list.as_array()
                    .is_some_and(|all| all.iter().any(|d| d["name"] == **name && d["mode"] == sight))
            };
            Ok(domains.iter().all(seen))
        },
    )
}

/// Asks again and again until it is so.
pub fn wait_for(
    what: &str,
    patience: Duration,
    mut is_so: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let end = Instant::now() + patience;
    loop {
        if is_so()? {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("waited {patience:?} for this in vain: {what}");
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// Prints the end of the daemon's log.
pub fn show_log(rig: &Rig) {
    if let Ok(text) = rig.check("dom0", &["tail", "-n", "40", LOG]) {
        println!("\nthe last lines of policyd's log:\n{text}");
    }
}
