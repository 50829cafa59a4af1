// SPDX-License-Identifier: GPL-3.0-only
//! How services fare with one another.

use policyd_api::{Bottleneck, Culprit, PairSignals, Quantiles, Signals};

use super::table::{Align::Left, Align::Right, Table};
use super::time::bytes;
use super::{or_dash, plain};

/// `xmesh signals`: rates of each pair, what was measured of it, and what makes pairs slow.
pub fn tables(signals: &Signals) -> String {
    // The window may have begun this very second.
    let seconds = signals.until.saturating_sub(signals.since).max(1) as f64;
    let mut out = rates(&signals.pairs, seconds);
    if signals.pairs.iter().any(|pair| !measured(pair).is_empty()) {
        out.push('\n');
        out.push_str(&measurements(&signals.pairs));
    }
    if !signals.findings.is_empty() {
        out.push('\n');
        out.push_str(&findings(&signals.findings));
    }
    if signals.folded > 0 {
        out.push_str(&format!(
            "\n{} kinds of flow found no room of their own and are counted as (others)\n",
            signals.folded
        ));
    }
    out
}

fn rates(pairs: &[PairSignals], seconds: f64) -> String {
    let mut table = Table::new(&[
        ("From", Left),
        ("To", Left),
        ("Route", Left),
        ("Version", Left),
        ("Proto", Left),
        ("Port", Right),
        ("Open", Right),
        ("Conn/s", Right),
        ("Denied/s", Right),
        ("Failed/s", Right),
        ("Out/s", Right),
        ("In/s", Right),
        ("Retr/s", Right),
        ("Zwin/s", Right),
    ]);
    for pair in pairs {
        let counts = &pair.window.counts;
        let per_second = |count: u64| count as f64 / seconds;
        let retransmissions = counts
            .retransmissions_out
            .saturating_add(counts.retransmissions_in);
        let zero_windows = counts.zero_windows_out.saturating_add(counts.zero_windows_in);
        table.row([
            pair.from.name.clone(),
            pair.to.name.clone(),
            or_dash(pair.route.as_ref()),
            or_dash(pair.version.as_ref()),
            pair.protocol.clone(),
            or_dash(pair.port),
            pair.open.to_string(),
            rate(per_second(counts.connections)),
            rate(per_second(counts.denied)),
            rate(per_second(counts.failed)),
            bytes(per_second(counts.bytes_out) as u64),
            bytes(per_second(counts.bytes_in) as u64),
            rate(per_second(retransmissions)),
            rate(per_second(zero_windows)),
        ]);
    }
    table.render()
}

/// What there are values of, by name.
fn measured(pair: &PairSignals) -> Vec<(&'static str, &Quantiles)> {
    let window = &pair.window;
    [
        ("setup", &window.setup_us),
        ("server-rtt", &window.server_rtt_us),
        ("client-rtt", &window.client_rtt_us),
        ("first-byte", &window.first_byte_us),
    ]
    .into_iter()
    .filter(|(_, of)| of.count > 0)
    .collect()
}

fn measurements(pairs: &[PairSignals]) -> String {
    let mut table = Table::new(&[
        ("From", Left),
        ("To", Left),
        ("Route", Left),
        ("Version", Left),
        ("Port", Right),
        ("What", Left),
        ("Values", Right),
        ("P50", Right),
        ("P90", Right),
        ("P99", Right),
        ("Max", Right),
    ]);
    for pair in pairs {
        for (what, of) in measured(pair) {
            table.row([
                pair.from.name.clone(),
                pair.to.name.clone(),
                or_dash(pair.route.as_ref()),
                or_dash(pair.version.as_ref()),
                or_dash(pair.port),
                what.to_owned(),
                of.count.to_string(),
                micros(of.p50),
                micros(of.p90),
                micros(of.p99),
                micros(of.max),
            ]);
        }
    }
    table.render()
}

/// `xmesh signals --findings`: a line each, the evidence below it.
pub fn findings(found: &[Bottleneck]) -> String {
    let line = |one: &Bottleneck| {
        let version = one.version.as_ref().map(|v| format!(" {v}")).unwrap_or_default();
        let port = one.port.map(|port| format!(" port {port}")).unwrap_or_default();
        let head = format!(
            "{} → {}{version}{port}: {} makes it {} times as slow",
            one.from.name,
            one.to.name,
            culprit_in_full(one.culprit),
            rate(one.factor)
        );
        format!("{}\n    {}\n", plain(&head), plain(&one.evidence))
    };
    found.iter().map(line).collect()
}

fn culprit_in_full(culprit: Culprit) -> &'static str {
    match culprit {
        Culprit::Client => "the client",
        Culprit::Network => "the network",
        Culprit::Server => "the server",
        Culprit::Qos => "a rate of policy",
    }
}

/// The lower-case word used in tables and JSON.
pub fn culprit(culprit: Culprit) -> &'static str {
    match culprit {
        Culprit::Client => "client",
        Culprit::Network => "network",
        Culprit::Server => "server",
        Culprit::Qos => "qos",
    }
}

/// A number of things a second, or any other that is not whole: with as many digits as tell something.
pub fn rate(value: f64) -> String {
    match value {
        v if v <= 0.0 || !v.is_finite() => "0".to_owned(),
        v if v < 0.095 => format!("{v:.2}"),
        v if v < 9.95 => format!("{v:.1}"),
        v if v < 9999.5 => format!("{v:.0}"),
        v if v < 9_999_500.0 => format!("{:.0}k", v / 1e3),
        v => format!("{:.0}M", v / 1e6),
    }
}

/// A time in µs, in the unit that people read: `850 µs`, `1.2 ms`, `34 ms`, `1.2 s`.
pub fn micros(us: f64) -> String {
    match us {
        us if us <= 0.0 || !us.is_finite() => "0 µs".to_owned(),
        us if us < 9.95 => format!("{us:.1} µs"),
        us if us < 999.5 => format!("{us:.0} µs"),
        us if us < 9_950.0 => format!("{:.1} ms", us / 1e3),
        us if us < 999_500.0 => format!("{:.0} ms", us / 1e3),
        us if us < 99_950_000.0 => format!("{:.1} s", us / 1e6),
        us => format!("{:.0} s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_have_the_unit_that_people_read() {
        let shown = [
            0.0,
            4.25,
            850.4,
            999.6,
            1_234.0,
            34_400.0,
            999_600.0,
            1_240_000.0,
            120_000_000.0,
        ]
        .map(micros);
        assert_eq!(
            shown,
            [
                "0 µs", "4.2 µs", "850 µs", "1.0 ms", "1.2 ms", "34 ms", "1.0 s", "1.2 s", "120 s"
            ]
        );
    }

    #[test]
    fn rates_have_as_many_digits_as_tell_something() {
        let shown = [
            0.0,
            0.004,
            0.5,
            9.96,
            123.4,
            9_999.9,
            12_345.0,
            12_000_000.0,
            -1.0,
            f64::NAN,
        ]
        .map(rate);
        assert_eq!(
            shown,
            ["0", "0.00", "0.5", "10", "123", "10k", "12k", "12M", "0", "0"]
        );
    }

    fn signals() -> Signals {
        let quantiles = |p50: f64| json!({ "count": 12, "mean": p50, "p50": p50, "p90": p50 * 2.0, "p99": p50 * 10.0, "max": p50 * 20.0 });
        let none = json!({ "count": 0, "mean": 0.0, "p50": 0.0, "p90": 0.0, "p99": 0.0, "max": 0.0 });
        let counts = json!({ "connections": 600, "denied": 3, "failed": 0, "packets_out": 1, "packets_in": 1, "bytes_out": 307_200, "bytes_in": 3_072_000,
            "retransmissions_out": 2, "retransmissions_in": 1, "zero_windows_out": 0, "zero_windows_in": 0 });
        let mut window = counts.clone();
        window["setup_us"] = quantiles(120.0);
        window["server_rtt_us"] = quantiles(90.0);
        window["client_rtt_us"] = none;
        window["first_byte_us"] = quantiles(1_200.0);
        let (from, to) = (
            json!({ "name": "shop/front", "kind": "service" }),
            json!({ "name": "db1\u{1b}[2J", "kind": "domain" }),
        );
        let signals = json!({ "since": 1000, "until": 1300, "folded": 2,
            "pairs": [{ "from": from, "to": to, "route": "shop/r", "version": "v2", "protocol": "tcp", "port": 5432, "open": 7,
                        "total": counts, "window": window }],
            "findings": [{ "from": from, "to": to, "version": "v2", "port": 5432, "culprit": "server",
                           "evidence": "first byte after 1.2 ms, set up in 120 µs", "factor": 9.96 }] });
        serde_json::from_value(signals).expect("signals")
    }

    #[test]
    fn pairs_have_rates_then_quantiles_then_findings_with_their_evidence() {
        assert_eq!(
            tables(&signals()),
            "From        To            Route   Version  Proto  Port  Open  Conn/s  Denied/s  Failed/s  Out/s  In/s  Retr/s  Zwin/s\n\
             shop/front  db1\\u{1b}[2J  shop/r  v2       tcp    5432     7     2.0      0.01         0   1.0K   10K    0.01       0\n\
             \n\
             From        To            Route   Version  Port  What        Values     P50     P90     P99     Max\n\
             shop/front  db1\\u{1b}[2J  shop/r  v2       5432  setup           12  120 µs  240 µs  1.2 ms  2.4 ms\n\
             shop/front  db1\\u{1b}[2J  shop/r  v2       5432  server-rtt      12   90 µs  180 µs  900 µs  1.8 ms\n\
             shop/front  db1\\u{1b}[2J  shop/r  v2       5432  first-byte      12  1.2 ms  2.4 ms   12 ms   24 ms\n\
             \n\
             shop/front → db1\\u{1b}[2J v2 port 5432: the server makes it 10 times as slow\n    \
             first byte after 1.2 ms, set up in 120 µs\n\
             \n\
             2 kinds of flow found no room of their own and are counted as (others)\n"
        );
    }

    #[test]
    fn a_window_of_no_time_at_all_divides_by_nothing() {
        let mut signals = signals();
        signals.until = signals.since;
        assert!(tables(&signals).contains("   600 "), "{}", tables(&signals));
    }
}
