// SPDX-License-Identifier: GPL-3.0-only
//! Traffic between two guests over their real vifs, in instructions of the whole machine: both guests, Xen and dom0. An emulator's times say
//! nothing; on one processor that has nothing else to do a stream is as fast as these are few.
//!
//! What policyd does by the clock, traffic or none, is taken off: the emulated processor is a thirtieth of a real one's, and that would be
//! thirty times as large beside a packet as it is. `bench idle` has it.

use std::time::Duration;

use anyhow::{Context, ensure};
use xmesh_rig::{Discard, Job, Progress, Rig, programs};

use super::counters::Counts;
use super::daemon;
use super::report::{Row, Section, median};
use crate::demo::mesh;

/// Where programs are put.
const COUNTERS: &str = "/tmp/bench-trap";
const STREAMS: &str = "/root/bench-streams";
const SERVER: &str = "10.0.0.12:7200";
/// Of a small run.
const KIB: u32 = 4 << 10;
const QUESTIONS: u32 = 150;
/// So many times as much is a large one.
const MORE: u32 = 5;
/// Until all that is done at the beginning is over, and then for how long nothing is done; of the machine's own time.
const SETTLES: u32 = 20;
const RESTS: u32 = 20;
/// A policy whose rules decide each flow, by process and by port.
const POLICY: &str = "policy: bench
default: { db1: deny }
services:
  asks: { vm: web1, exe: /root/bench-streams }
  answers: { vm: db1, port: 7200, protocol: tcp }
rules:
  - { name: may, from: asks, to: answers, action: allow }
";

/// A way for packets to go.
struct Way {
    title: &'static str,
    /// Options of policyd; none: without it, and without its programs at the vifs.
    policyd: Option<&'static str>,
    policy: Option<&'static str>,
}

const WAYS: [Way; 4] = [
    Way {
        title: "bare bridge",
        policyd: None,
        policy: None,
    },
    Way {
        title: "no policy, straight from vif to vif",
        policyd: Some("--check-every 0"),
        policy: None,
    },
    Way {
        title: "a rule by process, straight from vif to vif",
        policyd: Some("--check-every 0"),
        policy: Some(POLICY),
    },
    Way {
        title: "a rule by process, by the bridge",
        policyd: Some("--check-every 0 --no-direct"),
        policy: Some(POLICY),
    },
];

/// Measures.
///
/// # Errors
/// Where the rig's emulator does not count, or something in it fails.
pub fn in_rig(rig: &Rig, runs: u32) -> anyhow::Result<Vec<Section>> {
    let progress = Progress::new(false);
    daemon::install(rig, COUNTERS, &progress)?;
    let streams = programs::guest("streams")?;
    for guest in ["web1", "db1"] {
        rig.push(&streams, guest, STREAMS)?;
    }
    let _server = serve(rig)?;
    let (mut stream, mut question, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    for way in &WAYS {
        progress.say(way.title);
        daemon::begin(rig, way.policyd, way.policy)?;
        daemon::sleep(rig, SETTLES)?;
        let at_rest = daemon::at_rest(rig, COUNTERS, RESTS)?;
        rest.push(Row::new(way.title, at_rest, "instructions/s"));
        stream.push((way.title, costs(rig, runs, at_rest, "send", KIB)?));
        question.push((way.title, costs(rig, runs, at_rest, "ask", QUESTIONS)?));
    }
    daemon::end(rig)?;
    let section = |title: &str, what: &str, costs: Vec<(&str, f64)>| Section {
        title: title.to_owned(),
        method: format!(
            "instructions of the emulated machine, all but those of as much time at rest, for one {what} more on an open connection; medians \
             of {runs} runs; segmentation left to the vifs"
        ),
        rows: rows(costs),
    };
    Ok(vec![
        section("a stream between two guests", "KiB", stream),
        section("a question of a byte, and its answer", "question", question),
        Section {
            title: "at rest".to_owned(),
            method: format!(
                "instructions of the emulated machine in {RESTS} s of its time, kernels not checked; what was taken off above"
            ),
            rows: rest,
        },
    ])
}

fn serve(rig: &Rig) -> anyhow::Result<Job> {
    let server = rig.spawn("db1", &[STREAMS, "serve", "7200"], Discard)?;
    let listens = ["grep", "-q", ":1C20 00000000:0000 0A", "/proc/net/tcp"];
    mesh::wait_for("the server listens", Duration::from_secs(60), || {
        Ok(rig.exec("db1", &listens)?.success())
    })?;
    Ok(server)
}

/// What one more of them costs: the medians of a small and a large number of them, the one less the other. What is done once, as to start
/// the program and to open its connection, is in both.
fn costs(rig: &Rig, runs: u32, at_rest: f64, what: &str, count: u32) -> anyhow::Result<f64> {
    let few = median_of(rig, runs, at_rest, what, count)?;
    let many = median_of(rig, runs, at_rest, what, count * MORE)?;
    ensure!(
        many > few,
        "more of them cost no more: the emulator counted nothing"
    );
    Ok((many - few) / f64::from(count * (MORE - 1)))
}

fn median_of(rig: &Rig, runs: u32, at_rest: f64, what: &str, count: u32) -> anyhow::Result<f64> {
    let count = count.to_string();
    let command = [STREAMS, what, SERVER, &count];
    // The first meets cold caches.
    rig.check("web1", &command)?;
    let run = |_| {
        let (before, begun) = (Counts::now(rig, COUNTERS)?, clock(rig)?);
        rig.check("web1", &command)?;
        let (ended, after) = (clock(rig)?, Counts::now(rig, COUNTERS)?);
        let spent = after.since(&before).get("instructions") as f64;
        anyhow::Ok(spent - at_rest * (ended - begun))
    };
    let all = (0..runs).map(run).collect::<anyhow::Result<Vec<_>>>()?;
    median(all).context("no run")
}

/// The machine's own time, in seconds.
fn clock(rig: &Rig) -> anyhow::Result<f64> {
    let text = rig.check("dom0", &["cat", "/proc/uptime"])?;
    let seconds = text.split_whitespace().next().context("/proc/uptime is empty")?;
    Ok(seconds.parse()?)
}

/// Each beside the first.
fn rows(costs: Vec<(&str, f64)>) -> Vec<Row> {
    let base = costs.first().map(|(_, value)| *value);
    costs
        .into_iter()
        .enumerate()
        .map(|(index, (what, value))| {
            let row = Row::new(what, value, "instructions");
            match base {
                Some(base) if index > 0 => row.against("the bare bridge", base),
                _ => row,
            }
        })
        .collect()
}
