// SPDX-License-Identifier: GPL-3.0-only
//! What the demo shows, step by step.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;
use xmesh_rig::{Discard, Rig};

use super::checks::Checks;
use super::mesh;

/// The web server of db1.
const PAGE: &str = "http://10.0.0.12/";
/// Probes of the mesh in each guest.
const PROBES: usize = 14;
/// curl's exit status when a connection is refused.
const CURL_REFUSED: i32 = 7;
/// wget's exit status for a network failure.
const WGET_FAILED: i32 = 4;

/// Runs all steps.
pub fn run(rig: &Rig, checks: &mut Checks) -> anyhow::Result<()> {
    checks.heading("policyd goes into dom0");
    mesh::install(rig)?;
    let before = fetch(rig, "curl")?;
    mesh::start(rig)?;
    mesh::wait_for_sight(rig, &["web1", "db1"])?;
    print!("{}", rig.check("dom0", &["xmesh", "list"])?);
    probes(rig, checks)?;
    let after = fetch(rig, "curl")?;
    checks.check(
        "without a policy no traffic changes",
        expect(
            before == 0 && after == 0,
            format!("curl's exit status: {before} before, {after} with policyd"),
        ),
    );

    checks.heading("(a) processes: seen from outside and by the guest itself");
    processes(rig, checks, "web1")?;
    processes(rig, checks, "db1")?;

    checks.heading("(b) one guest, one destination, two programs");
    mesh::apply(rig, "shop.yaml")?;
    two_programs(rig, checks, "curl", "wget")?;

    checks.heading("(c) a change of policy, no restart");
    flip(rig, checks)?;

    checks.heading("(d) exec, listen and exit as events");
    events(rig, checks)?;

    checks.heading("(e) policyd is killed -9 under load");
    kill(rig, checks)?;

    checks.heading("(f) policyd starts again");
    mesh::start(rig)?;
    mesh::wait_for_sight(rig, &["web1", "db1"])?;
    processes(rig, checks, "web1")?;
    two_programs(rig, checks, "wget", "curl")?;
    rig.check("dom0", &["xmesh", "policy-delete", "shop"])?;
    let free = fetch(rig, "curl")?;
    checks.check(
        "with the policy deleted curl passes again",
        expect(free == 0, format!("exit status {free}")),
    );
    checks.heading("policyd is asked to end");
    let pid = mesh::pid(rig)?;
    rig.check("dom0", &["kill", &pid])?;
    let gone = mesh::wait_for("policyd ends", Duration::from_secs(30), || {
        Ok(!rig.exec("dom0", &["kill", "-0", &pid])?.success())
    });
    checks.check(
        "it ends on SIGTERM",
        gone.map(|()| String::new()).map_err(|e| e.to_string()),
    );
    alive(rig, checks);
    Ok(())
}

/// Every probe is armed, and on an instruction that needs one exit a trap.
fn probes(rig: &Rig, checks: &mut Checks) -> anyhow::Result<()> {
    let list = mesh::xmesh(rig, &["list"])?;
    let guests = ["web1", "db1"];
    let resumes: Vec<String> = list
        .as_array()
        .context("xmesh list prints a list")?
        .iter()
        .filter(|d| guests.iter().any(|guest| d["name"] == *guest))
        .flat_map(|d| d["probes"].as_array().cloned().unwrap_or_default())
        .map(|p| {
            format!(
                "{} {}",
                p["function"].as_str().unwrap_or("?"),
                p["resume"].as_str().unwrap_or("?")
            )
        })
        .collect();
    let held = resumes.len() == PROBES * guests.len() && resumes.iter().all(|r| r.ends_with(" skip"));
    checks.check(
        "every probe in each guest is armed and resumed with one exit",
        expect(held, resumes.join(", ")),
    );
    Ok(())
}

fn expect(held: bool, detail: String) -> Result<String, String> {
    if held { Ok(detail) } else { Err(detail) }
}

/// Fetches db1's page from web1 with `program`; its exit status.
fn fetch(rig: &Rig, program: &str) -> anyhow::Result<i32> {
    let argv: &[&str] = match program {
        "wget" => &["wget", "-q", "-O", "/dev/null", "-t", "1", "-T", "20", PAGE],
        _ => &["curl", "-s", "-o", "/dev/null", "-m", "20", PAGE],
    };
    Ok(rig.exec("web1", argv)?.status)
}

/// The processes of `domain` as `xmesh ps` has them and as its own /proc has them must be equal.
fn processes(rig: &Rig, checks: &mut Checks, domain: &str) -> anyhow::Result<()> {
    // Both lists are of one moment only if nothing comes or goes; a difference must show three times to count.
    let mut difference = Vec::new();
    let mut count = 0;
    for _ in 0..3 {
        let outside = seen_from_outside(rig, domain)?;
        let inside = seen_from_inside(rig, domain)?;
        count = inside.len();
        difference = compare(&outside, &inside);
        if difference.is_empty() {
            break;
        }
    }
    let claim = format!("`xmesh ps {domain}` equals the guest's own /proc");
    checks.check(
        &claim,
        match difference.as_slice() {
            [] => Ok(format!(
                "{count} processes: pid, parent, user and executable are the same"
            )),
            lines => Err(lines.join("\n")),
        },
    );
    Ok(())
}

/// Parent, user and executable by pid.
type Table = BTreeMap<u64, (u64, u64, String)>;

fn seen_from_outside(rig: &Rig, domain: &str) -> anyhow::Result<Table> {
    let list = mesh::xmesh(rig, &["ps", domain])?;
    let rows = list.as_array().context("xmesh ps prints a list")?;
    Ok(rows
        .iter()
        .map(|p| {
            let number = |key: &str| p[key].as_u64().unwrap_or(u64::MAX);
            (
                number("pid"),
                (
                    number("ppid"),
                    number("uid"),
                    p["exe"].as_str().unwrap_or("-").to_owned(),
                ),
            )
        })
        .collect())
}

/// The agent's own helpers come and go with each question, so the script leaves out itself and what it runs.
const READ_PROC: &str = r#"
for d in /proc/[0-9]*; do
    pid=${d#/proc/}
    [ "$pid" = $$ ] && continue
    exe=$(readlink "$d/exe" 2>/dev/null) || continue
    [ -n "$exe" ] || continue
    while read -r key value rest; do
        case $key in PPid:) ppid=$value ;; Uid:) uid=$value ;; esac
    done < "$d/status" || continue
    [ "$ppid" = $$ ] && continue
    echo "$pid $ppid $uid ${exe% (deleted)}"
done
"#;

fn seen_from_inside(rig: &Rig, domain: &str) -> anyhow::Result<Table> {
    let text = rig.check(domain, &["sh", "-c", READ_PROC])?;
    Ok(text
        .lines()
        .filter_map(|line| {
            let mut words = line.splitn(4, ' ');
            let pid = words.next()?.parse().ok()?;
            Some((
                pid,
                (
                    words.next()?.parse().ok()?,
                    words.next()?.parse().ok()?,
                    words.next()?.to_owned(),
                ),
            ))
        })
        .collect())
}

fn compare(outside: &Table, inside: &Table) -> Vec<String> {
    let mut lines = Vec::new();
    for (pid, row) in inside {
        match outside.get(pid) {
            Some(seen) if seen == row => {}
            seen => lines.push(format!("pid {pid}: /proc says {row:?}, xmesh {seen:?}")),
        }
    }
    for (pid, row) in outside.iter().filter(|(pid, _)| !inside.contains_key(pid)) {
        lines.push(format!("pid {pid}: only xmesh has it: {row:?}"));
    }
    lines
}

/// `allowed` reaches db1, `denied` is refused at once and not one packet of it reaches db1's vif.
fn two_programs(rig: &Rig, checks: &mut Checks, allowed: &str, denied: &str) -> anyhow::Result<()> {
    let status = fetch(rig, allowed)?;
    checks.check(
        &format!("{allowed} in web1 fetches from db1"),
        expect(status == 0, format!("exit status {status}")),
    );

    let vif = vif_of(rig, "db1")?;
    let capture = "/tmp/at-db1.pcap";
    let start =
        format!("tcpdump -i {vif} -U -w {capture} 'tcp and host 10.0.0.11' 2>/tmp/tcpdump.err & echo $!");
    let tcpdump = rig.check("dom0", &["sh", "-c", &start])?.trim().to_owned();
    mesh::wait_for("tcpdump listens", Duration::from_secs(20), || {
        Ok(rig
            .exec("dom0", &["grep", "-q", "listening", "/tmp/tcpdump.err"])?
            .success())
    })?;
    let timed =
        "start=$(date +%s%N); \"$@\"; status=$?; echo $status $(( ($(date +%s%N) - start) / 1000000 ))";
    let argv: &[&str] = match denied {
        "wget" => &[
            "sh",
            "-c",
            timed,
            "sh",
            "wget",
            "-q",
            "-O",
            "/dev/null",
            "-t",
            "1",
            "-T",
            "20",
            PAGE,
        ],
        _ => &[
            "sh",
            "-c",
            timed,
            "sh",
            "curl",
            "-s",
            "-o",
            "/dev/null",
            "-m",
            "20",
            PAGE,
        ],
    };
    let text = rig.check("web1", argv)?;
    let mut words = text.split_whitespace();
    let status: i32 = words.next().and_then(|w| w.parse().ok()).unwrap_or(-1);
    let ms: u64 = words.next().and_then(|w| w.parse().ok()).unwrap_or(u64::MAX);
    let refused = if denied == "wget" {
        WGET_FAILED
    } else {
        CURL_REFUSED
    };
    checks.check(
        &format!("{denied} in web1, to the same address and port, is refused on its first SYN"),
        // Without a RST a client waits for its SYN's time-out: a second at the very least.
        expect(
            status == refused && ms < 1000,
            format!("exit status {status} after {ms} ms"),
        ),
    );
    let refusals = mesh::xmesh_lines(rig, &["events", "--domain", "web1", "--kind", "connect"])?;
    let last = refusals
        .iter()
        .rev()
        .find(|e| e["process"]["exe"].as_str().is_some_and(|x| x.ends_with(denied)));
    checks.check(
        &format!("the event names {denied}, the verdict and the rule"),
        match last {
            Some(e) if e["decision"]["verdict"] == "deny" => Ok(format!(
                "{} (pid {}, uid {}) → {}: {} by {}",
                e["process"]["exe"],
                e["process"]["pid"],
                e["process"]["uid"],
                e["remote"],
                e["decision"]["verdict"],
                e["decision"]["rule"]
            )),
            other => Err(format!("{other:?}")),
        },
    );
    rig.check(
        "dom0",
        &["sh", "-c", &format!("sleep 1; kill {tcpdump}; sleep 1")],
    )?;
    let packets = rig.check("dom0", &["tcpdump", "-n", "-r", capture])?;
    checks.check(
        &format!("no packet of {denied} reached db1's vif"),
        expect(
            packets.trim().is_empty(),
            format!("capture at {vif}: {} packets\n{packets}", packets.lines().count()),
        ),
    );
    Ok(())
}

fn vif_of(rig: &Rig, domain: &str) -> anyhow::Result<String> {
    let list = mesh::xmesh(rig, &["list"])?;
    let all = list.as_array().context("xmesh list prints a list")?;
    let entry = all
        .iter()
        .find(|d| d["name"] == domain)
        .context("the domain is in the list")?;
    Ok(entry["vifs"][0]["name"]
        .as_str()
        .context("it has a vif")?
        .to_owned())
}

/// The other policy in force: both programs change places within a second.
fn flip(rig: &Rig, checks: &mut Checks) -> anyhow::Result<()> {
    let pid = mesh::pid(rig)?;
    let start = Instant::now();
    mesh::apply(rig, "shop-flipped.yaml")?;
    let took = start.elapsed();
    two_programs(rig, checks, "wget", "curl")?;
    checks.check(
        "the change was in force when it was acknowledged, with no restart",
        expect(
            mesh::pid(rig)? == pid,
            format!("push and `xmesh policy-apply` took {} ms", took.as_millis()),
        ),
    );
    Ok(())
}

/// A program of a user of its own execs, listens and ends; each must be told with who it is.
fn events(rig: &Rig, checks: &mut Checks) -> anyhow::Result<()> {
    let program = "setpriv --reuid 1000 --regid 1000 --clear-groups timeout 3 nc -l -p 7777";
    rig.exec("web1", &["sh", "-c", program])?;
    std::thread::sleep(Duration::from_secs(1));
    let events = mesh::xmesh_lines(rig, &["events", "--domain", "web1", "--kind", "exec,listen,exit"])?;
    let nc = |kind: &str| {
        events.iter().rev().find(|e| {
            e["kind"] == kind
                && e["process"]["exe"]
                    .as_str()
                    .is_some_and(|exe| exe.contains("nc") && !exe.contains("sync"))
                && e["process"]["uid"] == 1000
        })
    };
    let listen = nc("listen");
    let pid = listen.map_or(Value::Null, |e| e["process"]["pid"].clone());
    for kind in ["exec", "listen", "exit"] {
        let event = nc(kind).filter(|e| e["process"]["pid"] == pid);
        checks.check(
            &format!("the {kind} of nc is an event with path, pid, uid and parent"),
            match event {
                Some(e) if e["process"]["parents"].as_array().is_some_and(|p| !p.is_empty()) => Ok(format!(
                    "{} pid {} uid {} parents {} {}",
                    e["process"]["exe"],
                    e["process"]["pid"],
                    e["process"]["uid"],
                    e["process"]["parents"],
                    e.get("local").unwrap_or(&Value::Null)
                )),
                other => Err(format!("{other:?} among {} events", events.len())),
            },
        );
    }
    Ok(())
}

/// Connect load in web1 while the daemon is killed.
fn kill(rig: &Rig, checks: &mut Checks) -> anyhow::Result<()> {
    let load = "for i in $(seq 400); do curl -s -o /dev/null -m 2 http://10.0.0.12/; wget -q -O /dev/null -t 1 -T 2 http://10.0.0.12/; done";
    let job = rig.spawn("web1", &["sh", "-c", load], Discard)?;
    std::thread::sleep(Duration::from_secs(3));
    let pid = mesh::pid(rig)?;
    rig.check("dom0", &["kill", "-9", &pid])?;
    // The guardian has a moment; then nothing may be held.
    std::thread::sleep(Duration::from_secs(3));
    alive(rig, checks);
    let status = fetch(rig, "curl")?;
    checks.check(
        "what was denied stays denied without policyd",
        expect(status == CURL_REFUSED, format!("curl's exit status: {status}")),
    );
    let _ = rig.exec("web1", &["pkill", "-f", "seq 400"]);
    drop(job);
    Ok(())
}

/// Both guests answer, no vCPU is held, no undo record is left.
fn alive(rig: &Rig, checks: &mut Checks) {
    for domain in ["web1", "db1"] {
        let answer = rig.exec_timeout(
            domain,
            &["sh", "-c", "cat /proc/uptime; nproc"],
            Duration::from_secs(20),
        );
        checks.check(
            &format!("{domain} runs on"),
            match answer {
                Ok(output) if output.success() => Ok(output.text().trim().replace('\n', ", vCPUs: ")),
                other => Err(format!("{other:?}")),
            },
        );
        // Work on every vCPU must advance: a held one would stop its share.
        let spin = "echo $(nproc); for c in $(seq 0 $(($(nproc) - 1))); do taskset -c $c sh -c \
            'i=0; while [ $i -lt 1000 ]; do i=$((i+1)); done; echo cpu ok' & done; wait";
        let work = rig.exec_timeout(domain, &["sh", "-c", spin], Duration::from_secs(30));
        checks.check(
            &format!("every vCPU of {domain} does work"),
            match work {
                Ok(output) if output.success() => {
                    let text = output.text();
                    let all = text.lines().next().and_then(|n| n.trim().parse::<usize>().ok());
                    let ok = text.lines().filter(|line| line.contains("cpu ok")).count();
                    expect(all == Some(ok), format!("{ok} vCPUs answered of {all:?}"))
                }
                other => Err(format!("{other:?}")),
            },
        );
    }
    let records = rig.exec("dom0", &["ls", "-A", "/run/policyd/undo"]);
    checks.check(
        "nothing is left to undo in any guest",
        match records {
            Ok(output) => expect(output.text().trim().is_empty(), output.text()),
            Err(e) => Err(e.to_string()),
        },
    );
}
