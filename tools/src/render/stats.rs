// SPDX-License-Identifier: GPL-3.0-only
//! What the datapath counted and measured.

use policyd_api::{ConnectionStats, Distribution, DomainStats, DryRunStats, Stats};

use super::or_dash;
use super::table::{Align::Left, Align::Right, Table};

/// Counts that are shown also where there are none.
const ALWAYS: [&str; 3] = ["passed", "passed_bytes", "denied"];
/// The end of the last interval, which holds all above as well.
const MOST: u64 = (1 << 31) - 1;

/// `xmesh stats`.
pub fn tables(stats: &Stats) -> String {
    let mut out = counts(&stats.domains);
    if !stats.connections.is_empty() {
        out.push('\n');
        out.push_str(&measurements(&stats.connections));
    }
    if !stats.dry_runs.is_empty() {
        out.push('\n');
        out.push_str(&dry_runs(&stats.dry_runs));
    }
    out
}

fn dry_runs(all: &[DryRunStats]) -> String {
    let mut table = Table::new(&[("Dry run", Left), ("Would allow", Right), ("Would deny", Right)]);
    for one in all {
        table.row([one.rule.clone(), one.allow.to_string(), one.deny.to_string()]);
    }
    table.render()
}

fn counts(domains: &[DomainStats]) -> String {
    let mut table = Table::new(&[("Domain", Left), ("Count", Left), ("Out", Right), ("In", Right)]);
    for domain in domains {
        for ((name, out), (_, into)) in domain.out.named().into_iter().zip(domain.into.named()) {
            if out > 0 || into > 0 || ALWAYS.contains(&name) {
                table.row([
                    domain.domain.clone(),
                    name.to_owned(),
                    out.to_string(),
                    into.to_string(),
                ]);
            }
        }
    }
    table.render()
}

fn measurements(connections: &[ConnectionStats]) -> String {
    let mut table = Table::new(&[
        ("Domain", Left),
        ("Dir", Left),
        ("Peer", Left),
        ("Rule", Left),
        ("What", Left),
        ("Values", Right),
        ("P50", Right),
        ("P90", Right),
        ("P99", Right),
        ("Total", Right),
    ]);
    for c in connections {
        let times = [
            ("setup", &c.setup_us),
            ("rtt-out", &c.rtt_out_us),
            ("rtt-in", &c.rtt_in_us),
        ];
        let numbers = [
            ("retr-out", &c.retransmissions_out),
            ("retr-in", &c.retransmissions_in),
            ("zwin-out", &c.zero_windows_out),
            ("zwin-in", &c.zero_windows_in),
        ];
        let times = times.into_iter().filter(|(_, of)| of.values > 0);
        let numbers = numbers.into_iter().filter(|(_, of)| of.sum > 0);
        let rows = times
            .map(|(what, of)| (what, of, micros as fn(u64) -> String, String::new()))
            .chain(numbers.map(|(what, of)| (what, of, number as fn(u64) -> String, of.sum.to_string())));
        for (what, of, shown, total) in rows {
            let Distribution {
                values,
                p50,
                p90,
                p99,
                ..
            } = *of;
            table.row([
                c.domain.clone(),
                (if c.outgoing { "→" } else { "←" }).to_owned(),
                or_dash(c.peer.as_ref()),
                c.rule.clone(),
                what.to_owned(),
                values.to_string(),
                or_dash(p50.map(shown)),
                or_dash(p90.map(shown)),
                or_dash(p99.map(shown)),
                total,
            ]);
        }
    }
    table.render()
}

/// An upper bound of a number.
fn number(most: u64) -> String {
    match most {
        0 => "0".into(),
        MOST.. => ">1G".into(),
        most => format!("≤{most}"),
    }
}

/// An upper bound of a time in µs, rounded up to a unit.
fn micros(most: u64) -> String {
    match most {
        MOST.. => ">17m".into(),
        0..1000 => format!("≤{most}µs"),
        1000..1_000_000 => format!("≤{}ms", most.div_ceil(1000)),
        _ => format!("≤{}s", most.div_ceil(1_000_000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_never_below_what_it_bounds() {
        let shown = [0, 127, 1023, 1_048_575, MOST].map(micros);
        assert_eq!(shown, ["≤0µs", "≤127µs", "≤2ms", "≤2s", ">17m"]);
        assert_eq!([0, 1, 1023, MOST].map(number), ["0", "≤1", "≤1023", ">1G"]);
    }
}
