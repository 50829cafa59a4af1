// SPDX-License-Identifier: GPL-3.0-only
//! What policyd costs while nothing happens: instructions of the whole machine in a time of its own. A processor of an emulated machine that has
//! nothing to do carries out none.

use anyhow::Context;
use xmesh_rig::{Progress, Rig};

use super::daemon;
use super::report::{Row, Section, median};

const COUNTERS: &str = "/tmp/bench-trap";
/// Looks at what policyd's threads do.
const THREADS: &str = "/tmp/bench-threads";
/// How long one look lasts, in the machine's own time: once a minute kernels are checked, and each look has one check of each.
const SECONDS: u32 = 60;
/// Until all that is done at the beginning is over.
const SETTLES: u32 = 20;
/// A policy as small as any.
const POLICY: &str = "policy: bench
default: { db1: deny }
rules:
  - { name: r, from: { vm: web1 }, to: { vm: db1, port: 80 }, action: allow }
";
/// Prints for how many nanoseconds each of policyd's threads had the processor in a number of seconds.
const LOOK: &str = r#"
import os, subprocess, sys, time
pid = subprocess.check_output(["pgrep", "-o", "-x", "policyd"], text=True).strip()
def times():
    found = {}
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            name = open(f"/proc/{pid}/task/{task}/comm").read().strip()
            found[task] = name, int(open(f"/proc/{pid}/task/{task}/schedstat").read().split()[0])
        except OSError: pass
    return found
before = times(); time.sleep(float(sys.argv[1])); after = times()
for task, (name, ns) in after.items(): print(name.replace(" ", "-"), ns - before.get(task, (name, 0))[1])
"#;

/// Measures.
///
/// # Errors
/// Where the rig's emulator does not count, or something in it fails.
pub fn in_rig(rig: &Rig, runs: u32) -> anyhow::Result<Vec<Section>> {
    let progress = Progress::new(false);
    daemon::install(rig, COUNTERS, &progress)?;
    rig.write("dom0", THREADS, 0o644, LOOK.as_bytes())?;
    let ways = [
        ("without policyd", None, None),
        ("with it, no policy", Some(""), None),
        ("with it, and a policy", Some(""), Some(POLICY)),
        (
            "the same, kernels not checked each minute",
            Some("--check-every 0"),
            Some(POLICY),
        ),
    ];
    let mut rows = Vec::new();
    let mut base = None;
    let mut threads = Vec::new();
    for (title, options, policy) in ways {
        progress.say(title);
        daemon::begin(rig, options, policy)?;
        daemon::sleep(rig, SETTLES)?;
        let all = (0..runs)
            .map(|_| daemon::at_rest(rig, COUNTERS, SECONDS))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let value = median(all).context("no run")?;
        let row = Row::new(title, value, "instructions/s");
        rows.push(match base {
            Some(base) => row.against("without policyd", base),
            None => row,
        });
        base = base.or(Some(value));
        if policy.is_some() && threads.is_empty() {
            threads = thread_rows(&rig.check("dom0", &["python3", THREADS, &SECONDS.to_string()])?);
        }
    }
    daemon::end(rig)?;
    Ok(vec![
        Section {
            title: "two guests that do nothing".to_owned(),
            method: format!(
                "instructions of the emulated machine, all of them, in {SECONDS} s of its time; medians of {runs} runs"
            ),
            rows,
        },
        Section {
            title: "by thread, with a policy".to_owned(),
            method: format!("time that each had dom0's emulated processor, in one look of {SECONDS} s"),
            rows: threads,
        },
    ])
}

/// The ten that take most.
fn thread_rows(text: &str) -> Vec<Row> {
    let mut threads: Vec<(&str, f64)> = text
        .lines()
        .filter_map(|line| {
            let (name, ns) = line.split_once(' ')?;
            Some((name, ns.parse::<f64>().ok()? / 1000.0 / f64::from(SECONDS)))
        })
        .collect();
    threads.sort_by(|a, b| b.1.total_cmp(&a.1));
    threads.truncate(10);
    let row = |(name, us): (&str, f64)| Row::new(name, us, "µs/s");
    threads.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_come_by_what_they_take() {
        let rows = thread_rows("a 60000\nb 6000000000\nnonsense\n");
        let told = serde_json::to_value(&rows).expect("plain values");
        let expected = [Row::new("b", 100_000.0, "µs/s"), Row::new("a", 1.0, "µs/s")];
        assert_eq!(told, serde_json::to_value(expected).expect("plain values"));
    }
}
