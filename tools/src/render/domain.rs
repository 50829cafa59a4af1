// SPDX-License-Identifier: GPL-3.0-only
//! Domains, their processes and their sockets.

use policyd_api::{Connection, Domain, Label, Process, Status};

use super::table::{Align::Left, Align::Right, Table};
use super::time::{bytes, duration};
use super::{or_dash, plain};

/// `xmesh list`.
pub fn list(domains: &[Domain], verbose: bool) -> String {
    let mut table = Table::new(&[
        ("Name", Left),
        ("ID", Right),
        ("Mode", Left),
        ("Kernel", Left),
        ("Procs", Right),
        ("Conns", Right),
        ("Flows", Right),
        ("State", Left),
    ]);
    for d in domains {
        table.row([
            d.name.clone(),
            d.id.to_string(),
            d.mode.as_str().to_owned(),
            or_dash(d.kernel.as_ref()),
            d.processes.to_string(),
            d.connections.to_string(),
            d.flows.to_string(),
            d.state.clone(),
        ]);
    }
    if !verbose {
        return table.render();
    }
    let mut lines = table.lines().into_iter();
    let mut out: String = lines.next().map(|header| header + "\n").unwrap_or_default();
    for (line, domain) in lines.zip(domains) {
        out.push_str(&line);
        out.push('\n');
        for detail in details(domain) {
            out.push_str(&format!("    {}\n", plain(&detail)));
        }
    }
    out
}

fn details(d: &Domain) -> Vec<String> {
    let mut details = vec![format!("uuid {}; vcpus {}; traps {}", d.uuid, d.vcpus, d.traps)];
    let guest_type = d.guest_type.as_ref().map(|is| format!("type {is}"));
    let pool = d.pool.as_ref().map(|is| format!("pool {is}"));
    let of_xen: Vec<String> = guest_type.into_iter().chain(pool).collect();
    if !of_xen.is_empty() {
        details.push(of_xen.join("; "));
    }
    let label = |label: &Label| format!("label {}={} by {}", label.key, label.value, label.from);
    details.extend(d.labels.iter().map(label));
    if !d.addresses.is_empty() {
        let addresses: Vec<String> = d.addresses.iter().map(ToString::to_string).collect();
        details.push(format!("addresses {}", addresses.join(", ")));
    }
    details.extend(d.vifs.iter().map(|vif| {
        let covered = if vif.covered { "covered" } else { "NOT covered" };
        format!("{} {} {covered}", vif.name, or_dash(vif.mac.as_ref()))
    }));
    details.extend(
        d.probes
            .iter()
            .map(|p| format!("probe {} {} hits {}", p.function, p.resume, p.hits)),
    );
    details.extend(d.problems.iter().map(|problem| format!("problem: {problem}")));
    details
}

/// A remark for `xmesh list` without `-v`, when there is more to say.
pub fn remark(domains: &[Domain]) -> Option<String> {
    let names: Vec<String> = domains
        .iter()
        .filter(|d| !d.problems.is_empty())
        .map(|d| plain(&d.name))
        .collect();
    (!names.is_empty()).then(|| {
        format!(
            "xmesh: not seen in full: {}; `xmesh list -v` says why",
            names.join(", ")
        )
    })
}

/// `xmesh ps`.
pub fn processes(processes: &[Process], wide: bool) -> String {
    let mut columns = vec![("PID", Right), ("PPID", Right), ("UID", Right)];
    if wide {
        columns.extend([
            ("Netns", Right),
            ("Pidns", Right),
            ("Mntns", Right),
            ("Capabilities", Left),
            ("Cgroup", Left),
        ]);
    }
    columns.extend([("Container", Left), ("Exe", Left), ("Args", Left)]);
    let mut table = Table::new(&columns);
    for p in processes {
        // As in /proc: what is in brackets has no executable.
        let mut exe = p.exe.clone().unwrap_or_else(|| format!("[{}]", p.comm));
        if p.exe_deleted {
            exe.push_str(" (deleted)");
        }
        // Zero is what is not known; no namespace has that number.
        let namespace = |inode: u32| or_dash((inode != 0).then_some(inode));
        let mut row = vec![p.pid.to_string(), p.ppid.to_string(), p.euid.to_string()];
        if wide {
            row.extend([
                namespace(p.netns),
                namespace(p.pidns),
                namespace(p.mntns),
                format!("{:016x}", p.capabilities.effective),
                or_dash(p.cgroup.as_ref()),
            ]);
        }
        row.extend([
            // The first twelve digits are what container tools show.
            or_dash(
                p.container
                    .as_ref()
                    .map(|c| c.chars().take(12).collect::<String>()),
            ),
            exe,
            p.args.get(1..).unwrap_or_default().join(" "),
        ]);
        table.row(row);
    }
    table.render()
}

/// `xmesh probes`.
pub fn probes(domains: &[Domain]) -> String {
    let mut table = Table::new(&[
        ("Domain", Left),
        ("Probe", Left),
        ("Address", Left),
        ("Hits", Right),
        ("US/Hit", Right),
        ("P99", Right),
        ("Max", Right),
        ("Accesses", Right),
        ("Share", Right),
        ("Resume", Left),
    ]);
    for d in domains {
        for p in &d.probes {
            table.row([
                d.name.clone(),
                p.function.clone(),
                or_dash(p.address.as_ref()),
                p.hits.to_string(),
                format!("{:.1}", p.mean_us),
                format!("{:.0}", p.p99_us),
                format!("{:.0}", p.max_us),
                p.page_accesses.to_string(),
                format!("{:.2}%", p.share * 100.0),
                p.resume.clone(),
            ]);
        }
    }
    table.render()
}

/// `xmesh conns`.
pub fn connections(connections: &[Connection]) -> String {
    let mut table = Table::new(&[
        ("Proto", Left),
        ("Local", Left),
        ("Remote", Left),
        ("State", Left),
        ("PID", Right),
        ("UID", Right),
        ("Exe", Left),
    ]);
    for c in connections {
        table.row([
            c.protocol.clone(),
            c.local.to_string(),
            or_dash(c.remote),
            c.state.clone(),
            or_dash(c.pid),
            or_dash(c.uid),
            or_dash(c.exe.as_ref()),
        ]);
    }
    table.render()
}

/// `xmesh info`.
pub fn status(status: &Status) -> String {
    let lookups = &status.lookups;
    let facts = [
        ("policyd", status.version.clone()),
        ("pid", status.pid.to_string()),
        ("guardian", or_dash(status.guardian)),
        ("uptime", duration(status.uptime)),
        ("generation", status.generation.to_string()),
        ("xen", status.xen.clone()),
        ("events_lost", status.events_lost.to_string()),
        ("vif_lost", status.datapath_events_lost.to_string()),
        (
            "lookups",
            format!(
                "{} made, {} found, {} dropped, {:.0} µs each",
                lookups.made, lookups.found, lookups.dropped, lookups.mean_us
            ),
        ),
        (
            "first_packets",
            format!(
                "{} held, {} let go after {:.0} µs each; dropped: {} late, {} unowned, {} without room, {} lost",
                lookups.held,
                lookups.released,
                lookups.wait_mean_us,
                lookups.late,
                lookups.unowned,
                lookups.no_room,
                lookups.lost
            ),
        ),
    ];
    let store = &status.store;
    let of_store = [
        (
            "audit_head",
            format!("{} {}", store.audit_entries, store.audit_head),
        ),
        ("last_export", or_dash(store.last_export.as_ref())),
    ];
    let history = &status.flow_history;
    let of_history = history.kept.then(|| {
        (
            "flow_history",
            format!(
                "{} of {}, {} kinds of flow, {} notes lost, {} minutes not written",
                bytes(history.bytes),
                bytes(history.limit),
                history.names,
                history.lost,
                history.unwritten
            ),
        )
    });
    let all = store.problems.iter().chain(&history.problem);
    let problems = all.map(|problem| ("problem", problem.clone()));
    facts
        .into_iter()
        .chain(of_store)
        .chain(of_history)
        .chain(problems)
        .map(|(name, value)| format!("{name:<12} : {}\n", plain(&value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn probes_are_shown_with_their_cost_and_those_that_are_away_with_the_reason() {
        let probe = |function: &str, resume: &str, address: Option<&str>| {
            json!({ "function": function, "resume": resume, "address": address, "hits": 1200, "mean_us": 4.25,
                    "p99_us": 11.6, "max_us": 250.2, "page_accesses": 7, "share": 0.0123 })
        };
        let domain = json!({ "id": 1, "name": "web1", "uuid": "", "state": "running", "mode": "altp2m", "problems": [], "kernel": null, "vcpus": 2,
            "processes": 12, "connections": 3, "flows": 3, "vifs": [], "addresses": [], "traps": 2400, "probes": [
            probe("tcp_connect", "skip", Some("0xffffffff81a00010")),
            probe("finalize_exec", "rests: over the budget", None),
        ] });
        let domain: Domain = serde_json::from_value(domain).expect("a domain");
        assert_eq!(
            probes(&[domain]),
            "Domain  Probe          Address             Hits  US/Hit  P99  Max  Accesses  Share  Resume\n\
             web1    tcp_connect    0xffffffff81a00010  1200     4.2   12  250         7  1.23%  skip\n\
             web1    finalize_exec  -                   1200     4.2   12  250         7  1.23%  rests: over the budget\n"
        );
    }
}
