// SPDX-License-Identifier: GPL-3.0-only
//! A policyd in the rig that is measured with, and without.

use std::time::Duration;

use anyhow::Context;
use xmesh_rig::{Progress, Rig, programs};

use super::counters::Counts;
use crate::demo::mesh;

/// Brings policyd, and the program that reads the emulator's counters as `counters`.
///
/// # Errors
/// Where something does not build, or the rig's emulator does not count.
pub fn install(rig: &Rig, counters: &str, progress: &Progress) -> anyhow::Result<()> {
    mesh::install(rig)?;
    let reader = programs::example(rig.xen(), "vmi-xen", "trap", progress)?;
    rig.push(&reader, "dom0", counters)?;
    Counts::now(rig, counters).context("only the Bochs that the rig builds counts")?;
    Ok(())
}

/// Instructions of the whole machine in a second of its own time, over so many seconds in which nothing is asked of it. `counters`: where the
/// reader of counters is.
///
/// # Errors
/// Where something in the rig fails.
pub fn at_rest(rig: &Rig, counters: &str, seconds: u32) -> anyhow::Result<f64> {
    let before = Counts::now(rig, counters)?;
    sleep(rig, seconds)?;
    let spent = Counts::now(rig, counters)?.since(&before);
    Ok(spent.get("instructions") as f64 / f64::from(seconds))
}

/// Lets so many seconds of the machine's own time go by.
///
/// # Errors
/// Where something in the rig fails.
pub fn sleep(rig: &Rig, seconds: u32) -> anyhow::Result<()> {
    rig.check("dom0", &["sleep", &seconds.to_string()])?;
    Ok(())
}

/// Takes all of ours away, and starts what is asked for. `options` of policyd; none: without it, and without its programs at the vifs.
/// `policy`: the text of a policy that is put in force.
///
/// # Errors
/// Where policyd does not start, or does not see the guests within minutes.
pub fn begin(rig: &Rig, options: Option<&str>, policy: Option<&str>) -> anyhow::Result<()> {
    end(rig)?;
    let Some(options) = options else { return Ok(()) };
    let start = format!(
        "setsid policyd --store /run/bench-store --budget 100 {options} >> /run/policyd.log 2>&1 < /dev/null & echo started"
    );
    rig.check("dom0", &["sh", "-c", &start])?;
    mesh::wait_for("policyd answers", Duration::from_secs(300), || {
        Ok(mesh::xmesh(rig, &["list"]).is_ok())
    })?;
    mesh::wait_for_sight(rig, &["web1", "db1"])?;
    if let Some(policy) = policy {
        rig.write("dom0", "/tmp/bench.yaml", 0o644, policy.as_bytes())?;
        rig.check("dom0", &["xmesh", "policy-apply", "/tmp/bench.yaml"])?;
    }
    Ok(())
}

/// Ends policyd, and takes its programs off the vifs.
///
/// # Errors
/// Where it does not end.
pub fn end(rig: &Rig) -> anyhow::Result<()> {
    mesh::end(rig)?;
    rig.check(
        "dom0",
        &["sh", "-c", "policyd --detach; rm -rf /run/bench-store*"],
    )?;
    Ok(())
}
