// SPDX-License-Identifier: GPL-3.0-only
//! `/metrics`: what is counted and measured, for Prometheus. Names and labels are an interface: dashboards and alerts know them.
//!
//! Labels have few values: domains, services of policy (at most so many pairs), names of rules about threats. What processes and
//! addresses there are is for the API to tell.

mod families;

use policyd_analytics::signals::SinceBegin;
use policyd_api as api;

use crate::daemon::{Daemon, DaemonError};
use families::Families;

impl Daemon {
    /// `GET /metrics`.
    ///
    /// # Errors
    /// What cannot be read of the datapath.
    pub fn metrics(&self) -> Result<String, DaemonError> {
        let mut families = Families::default();
        of_daemon(&mut families, &self.status(), *self.events.subscribe().borrow());
        of_domains(&mut families, &self.domains()?);
        of_vifs(&mut families, &self.stats(None)?.domains);
        self.signals.since_begin(|pair| of_pair(&mut families, &pair));
        of_qos(&mut families, &self.qos(None)?);
        of_routes(&mut families, &self.routes()?);
        of_threats(&mut families, &self.threats.list(None, None));
        families
            .text()
            .map_err(|e| DaemonError::Internal(format!("the metrics: {e}")))
    }
}

fn of_daemon(f: &mut Families, status: &api::Status, events: u64) {
    let labels = [("version", status.version.as_str()), ("xen", status.xen.as_str())];
    f.gauge(
        "xmesh_build_info",
        "Versions of the daemon and of Xen.",
        &labels,
        1.0,
    );
    f.gauge(
        "xmesh_uptime_seconds",
        "Time since the daemon started.",
        &[],
        status.uptime as f64,
    );
    f.gauge(
        "xmesh_guardian_up",
        "Whether the daemon has a guardian that frees guests should it die.",
        &[],
        f64::from(u8::from(status.guardian.is_some())),
    );
    f.gauge(
        "xmesh_policy_generation",
        "Generation of the policy in force.",
        &[],
        status.generation as f64,
    );
    f.gauge(
        "xmesh_store_problems",
        "What is wrong with the store of policies: `xmesh info` says what.",
        &[],
        status.store.problems.len() as f64,
    );
    f.counter("xmesh_events_total", "Events of the log.", &[], events);
    for (reader, lost) in [
        ("api", status.events_lost),
        ("datapath", status.datapath_events_lost),
        ("history", status.flow_history.lost),
        ("held", status.lookups.lost),
    ] {
        f.counter(
            "xmesh_events_lost_total",
            "What found no room on its way, by where: slow readers of the API, the rings of the vifs, the history of flows, held packets.",
            &[("where", reader)],
            lost,
        );
    }
    let lookups = &status.lookups;
    for (result, count) in [
        ("found", lookups.found),
        ("unowned", lookups.made.saturating_sub(lookups.found)),
        ("dropped", lookups.dropped),
    ] {
        f.counter(
            "xmesh_lookups_total",
            "Owners of flows that were looked up in guests' memory, since no trap told them.",
            &[("result", result)],
            count,
        );
    }
    f.gauge(
        "xmesh_flow_history_bytes",
        "Bytes of the history of flows on the disk.",
        &[],
        status.flow_history.bytes as f64,
    );
}

fn of_domains(f: &mut Families, domains: &[api::Domain]) {
    for domain in domains {
        let of = [("domain", domain.name.as_str())];
        f.gauge(
            "xmesh_domain_info",
            "A domain with its degree of sight.",
            &[
                ("domain", &domain.name),
                ("sight", domain.mode.as_str()),
                ("kernel", domain.kernel.as_deref().unwrap_or_default()),
            ],
            1.0,
        );
        f.gauge(
            "xmesh_domain_problems",
            "Why sight of a domain is not better, or what is not covered: `xmesh list -v` says what.",
            &of,
            domain.problems.len() as f64,
        );
        f.gauge(
            "xmesh_domain_processes",
            "Processes.",
            &of,
            domain.processes as f64,
        );
        f.gauge(
            "xmesh_domain_flows",
            "Flows that the vifs remember.",
            &of,
            domain.flows as f64,
        );
        f.counter("xmesh_domain_traps_total", "Traps handled.", &of, domain.traps);
        for probe in &domain.probes {
            f.counter(
                "xmesh_probe_hits_total",
                "Traps of a probe.",
                &[("domain", &domain.name), ("function", &probe.function)],
                probe.hits,
            );
        }
    }
}

fn of_vifs(f: &mut Families, domains: &[api::DomainStats]) {
    for domain in domains {
        for (direction, counts) in [("out", &domain.out), ("in", &domain.into)] {
            for (name, count) in counts.named() {
                let labels = [("domain", domain.domain.as_str()), ("direction", direction)];
                match name {
                    "passed_bytes" => f.counter(
                        "xmesh_vif_bytes_total",
                        "Bytes that passed a domain's vifs, Ethernet headers included; `out` is from the guest.",
                        &labels,
                        count,
                    ),
                    _ => f.counter(
                        "xmesh_vif_packets_total",
                        "Packets at a domain's vifs. Each is passed, denied or held; other fates say why, or what was not counted.",
                        &[labels[0], labels[1], ("fate", name)],
                        count,
                    ),
                }
            }
        }
    }
}

fn of_pair(f: &mut Families, signals: &SinceBegin<'_>) {
    let pair = signals.pair;
    let port = pair.port.map(|port| port.to_string()).unwrap_or_default();
    let labels = [
        ("from", pair.from.name.as_str()),
        ("to", pair.to.name.as_str()),
        ("route", pair.route.as_deref().unwrap_or_default()),
        ("version", pair.version.as_deref().unwrap_or_default()),
        ("protocol", pair.protocol.as_str()),
        ("port", port.as_str()),
    ];
    let with = |name, value| [&labels[..], &[(name, value)]].concat();
    let total = signals.total;
    f.gauge(
        "xmesh_connections_open",
        "Flows that are open, by service or domain.",
        &labels,
        signals.open as f64,
    );
    for (result, count) in [
        ("allowed", total.connections.saturating_sub(total.denied)),
        ("denied", total.denied),
    ] {
        f.counter(
            "xmesh_connections_total",
            "Flows that were opened, by service or domain and by what policy said.",
            &with("verdict", result),
            count,
        );
    }
    f.counter(
        "xmesh_connections_failed_total",
        "Allowed TCP connections that the server refused or did not answer.",
        &labels,
        total.failed,
    );
    for (direction, bytes, twice, shut) in [
        (
            "out",
            total.bytes_out,
            total.retransmissions_out,
            total.zero_windows_out,
        ),
        (
            "in",
            total.bytes_in,
            total.retransmissions_in,
            total.zero_windows_in,
        ),
    ] {
        let labels = with("direction", direction);
        f.counter(
            "xmesh_connection_bytes_total",
            "Bytes of flows; `out` is from who opened them.",
            &labels,
            bytes,
        );
        f.counter(
            "xmesh_retransmissions_total",
            "TCP segments that came twice; `out` is from who opened them.",
            &labels,
            twice,
        );
        f.counter(
            "xmesh_zero_windows_total",
            "TCP segments whose sender takes no more; `out` is from who opened them.",
            &labels,
            shut,
        );
    }
    f.times(
        "xmesh_connection_setup_seconds",
        "From SYN to SYN-ACK.",
        &labels,
        signals.setup,
    );
    f.times(
        "xmesh_server_round_trip_seconds",
        "From the client's data to the server's ACK; one value a look at the flow.",
        &labels,
        signals.server_rtt,
    );
    f.times(
        "xmesh_first_byte_seconds",
        "From the client's first data to the server's first.",
        &labels,
        signals.first_byte,
    );
}

fn of_qos(f: &mut Families, qos: &api::Qos) {
    for vif in &qos.vifs {
        for class in &vif.classes {
            let labels = [
                ("domain", vif.domain.as_str()),
                ("vif", vif.vif.as_str()),
                ("direction", class.direction.as_str()),
                ("class", class.class.as_str()),
            ];
            f.counter(
                "xmesh_class_bytes_total",
                "Bytes that a class of a vif sent.",
                &labels,
                class.bytes,
            );
            f.counter(
                "xmesh_class_drops_total",
                "Packets of a class that were dropped since too many waited.",
                &labels,
                class.drops.into(),
            );
            f.gauge(
                "xmesh_class_backlog_bytes",
                "Bytes of a class that wait.",
                &labels,
                class.backlog_bytes.into(),
            );
            f.gauge(
                "xmesh_class_ceiling_bits_per_second",
                "What a class does not go beyond.",
                &labels,
                class.ceiling as f64,
            );
        }
    }
}

fn of_routes(f: &mut Families, routes: &[api::Route]) {
    for route in routes {
        for backend in &route.backends {
            let address = backend.address.to_string();
            let labels = [
                ("route", route.name.as_str()),
                ("version", backend.version.as_deref().unwrap_or_default()),
                ("domain", backend.domain.as_deref().unwrap_or_default()),
                ("backend", address.as_str()),
            ];
            f.gauge(
                "xmesh_backend_up",
                "Whether a backend of a route takes flows.",
                &labels,
                f64::from(u8::from(backend.state == api::BackendState::Up)),
            );
            f.gauge(
                "xmesh_backend_share",
                "The share of new flows that a backend gets, 0 to 1.",
                &labels,
                backend.share,
            );
            f.gauge(
                "xmesh_backend_flows",
                "Flows that a backend has.",
                &labels,
                backend.flows as f64,
            );
        }
    }
}

fn of_threats(f: &mut Families, threats: &api::Threats) {
    // Several of one rule in one domain are one metric.
    let mut counts = std::collections::BTreeMap::new();
    for threat in &threats.threats {
        let domain = threat.domain.clone().unwrap_or_default();
        let severity = threat.threat.severity.as_str();
        *counts
            .entry((domain, threat.threat.rule.clone(), severity))
            .or_insert(0) += threat.count;
    }
    for ((domain, rule, severity), count) in counts {
        f.counter(
            "xmesh_threats_total",
            "What looked like an attack, as often as it was found.",
            &[("domain", &domain), ("rule", &rule), ("severity", severity)],
            count,
        );
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    /// Names of metrics in a text, without what a histogram adds to its own.
    fn names(text: &str) -> BTreeSet<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let metrics = words.filter(|word| word.starts_with("xmesh_"));
        metrics
            .map(|word| word.trim_end_matches("_bucket").to_owned())
            .collect()
    }

    #[test]
    fn dashboard_and_alerts_ask_for_metrics_that_there_are() {
        let served = names(include_str!("metrics.rs"));
        for text in [
            include_str!("../../packaging/monitoring/grafana-dashboard.json"),
            include_str!("../../packaging/monitoring/prometheus-alerts.yml"),
        ] {
            let asked = names(text);
            assert!(asked.len() > 5, "{asked:?}");
            let unknown: Vec<_> = asked.difference(&served).collect();
            assert!(unknown.is_empty(), "{unknown:?}");
        }
    }
}
