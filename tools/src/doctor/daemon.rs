// SPDX-License-Identifier: GPL-3.0-only
//! The daemon, and what it says of itself and of the domains.

use policyd_api::{Client, ClientError, Domain, Mode, Status};

use super::{Finding, Host};

/// Asks policyd, if it runs.
pub fn check(host: &impl Host, client: &Client) -> Vec<Finding> {
    match client.status().and_then(|status| Ok((status, client.domains()?))) {
        Ok((status, domains)) => {
            let mut findings = itself(&status);
            findings.extend(sight(&domains));
            findings
        }
        Err(error) => vec![away(host, &error)],
    }
}

fn away(host: &impl Host, error: &ClientError) -> Finding {
    let found = match error {
        ClientError::Unreachable { path, source } => {
            format!("policyd does not answer at {}: {source}", path.display())
        }
        other => other.to_string(),
    };
    const UNITS: [&str; 2] = [
        "/usr/lib/systemd/system/policyd.service",
        "/lib/systemd/system/policyd.service",
    ];
    let unit = UNITS.iter().any(|path| host.exists(path)) && host.exists("/run/systemd/system");
    let remedy = if unit {
        "systemctl start policyd; what keeps it from that: journalctl -u policyd"
    } else {
        "run `policyd` as root in dom0; its log says what keeps it from that"
    };
    Finding::fail("policyd", found, remedy)
}

fn itself(status: &Status) -> Vec<Finding> {
    let ours = env!("CARGO_PKG_VERSION");
    let mut findings = vec![match status.version == ours {
        true => Finding::ok(
            "policyd",
            format!(
                "policyd {} runs (pid {}), generation {} in force",
                status.version, status.pid, status.generation
            ),
        ),
        false => Finding::warn(
            "policyd",
            format!("policyd is {}, and this command {ours}", status.version),
            "install both of one version, then restart policyd",
        ),
    }];
    if status.guardian.is_none() {
        findings.push(Finding::warn(
            "guardian",
            "policyd's guardian does not run: nobody would free the guests if policyd died now",
            "policyd starts another within a second; if not, its log says why",
        ));
    }
    findings.extend(status.store.problems.iter().map(|problem| {
        Finding::fail(
            "store",
            problem.clone(),
            "xmesh info says which export is in force; xmesh policy-import says what is to hold",
        )
    }));
    findings
}

/// Domains that are seen in less than full, and why, in the daemon's own words: these name the remedy.
fn sight(domains: &[Domain]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for domain in domains {
        let (name, mode) = (&domain.name, domain.mode.as_str());
        for vif in domain.vifs.iter().filter(|vif| !vif.covered) {
            findings.push(Finding::fail(
                "vifs",
                format!(
                    "{} of {name} is not covered: its traffic is not decided",
                    vif.name
                ),
                format!(
                    "`xmesh list -v` and policyd's log say what is in the way of {}",
                    vif.name
                ),
            ));
        }
        for problem in &domain.problems {
            findings.push(Finding {
                remedy: None,
                ..Finding::warn("sight", format!("{name} (mode {mode}): {problem}"), "")
            });
        }
    }
    let full = domains
        .iter()
        .filter(|d| d.mode >= Mode::Breakpoint && d.problems.is_empty());
    let (full, all) = (
        full.count(),
        domains.iter().filter(|d| d.mode > Mode::Off).count(),
    );
    findings.push(Finding::ok(
        "sight",
        format!("{full} of {all} domains are seen in full"),
    ));
    findings
}
