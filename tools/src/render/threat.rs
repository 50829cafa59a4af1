// SPDX-License-Identifier: GPL-3.0-only
//! What looks like an attack.

use policyd_api::{ThreatRule, Threats};

use super::plain;
use super::table::{Align::Left, Align::Right, Table};
use super::time::timestamp;

/// `xmesh threats`.
pub fn table(found: &Threats) -> String {
    let mut table = Table::new(&[
        ("Last", Left),
        ("Domain", Left),
        ("Severity", Left),
        ("Rule", Left),
        ("Count", Right),
        ("What", Left),
    ]);
    for known in &found.threats {
        table.row([
            timestamp(known.last_ns),
            known.domain.clone().unwrap_or_default(),
            known.threat.severity.as_str().to_owned(),
            known.threat.rule.clone(),
            known.count.to_string(),
            known.threat.title.clone(),
        ]);
    }
    table.render() + &remarks(found)
}

/// `xmesh threats -v`.
pub fn in_full(found: &Threats) -> String {
    let mut text = String::new();
    for known in &found.threats {
        let threat = &known.threat;
        let domain = known.domain.as_deref().unwrap_or("-");
        text += &format!(
            "{} {}: {} [{}, {}]\n",
            plain(domain),
            threat.severity.as_str(),
            plain(&threat.title),
            plain(&threat.rule),
            plain(&threat.technique)
        );
        for evidence in &threat.evidence {
            text += &format!("    {}\n", plain(evidence));
        }
        if let Some(answer) = &threat.answer {
            text += &format!("    answer: {}\n", plain(answer));
        }
        text += &format!(
            "    seen {} times, first {}, last {}\n",
            known.count,
            timestamp(known.first_ns),
            timestamp(known.last_ns)
        );
    }
    text + &remarks(found)
}

fn remarks(found: &Threats) -> String {
    let mut text = String::new();
    if found.forgotten > 0 {
        text += &format!("{} older ones were let go for room\n", found.forgotten);
    }
    if found.missed > 0 {
        text += &format!("{} events came too fast to be looked at\n", found.missed);
    }
    text
}

/// `xmesh threats --rules`.
pub fn rules(rules: &[ThreatRule]) -> String {
    let mut text = String::new();
    for rule in rules {
        text += &format!(
            "{} ({}, {})\n    {}.\n    Honestly: {}.\n",
            plain(&rule.id),
            rule.severity.as_str(),
            plain(&rule.technique),
            plain(&rule.about),
            plain(&rule.benign)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use policyd_api::{KnownThreat, Severity, Threat};

    use super::*;

    fn found() -> Threats {
        Threats {
            threats: vec![KnownThreat {
                domain: Some("web1".into()),
                domid: Some(3),
                first_ns: 0,
                last_ns: 1_000_000_000,
                count: 2,
                threat: Threat {
                    rule: "miner".into(),
                    severity: Severity::Alert,
                    technique: "T1496".into(),
                    // What a guest says may be made to look like something else.
                    title: "/opt/\u{1b}[2Jxmrig mines".into(),
                    evidence: vec!["the executable is called `xmrig`".into()],
                    process: None,
                    answer: Some("web1 is quarantined".into()),
                },
            }],
            forgotten: 0,
            missed: 7,
        }
    }

    #[test]
    fn a_row_each_and_what_was_missed() {
        let text = table(&found());
        assert!(text.starts_with("Last"), "{text}");
        assert!(
            text.contains("web1") && text.contains("miner") && !text.contains('\u{1b}'),
            "{text}"
        );
        assert!(
            text.ends_with("7 events came too fast to be looked at\n"),
            "{text}"
        );
    }

    #[test]
    fn in_full_there_is_the_evidence_and_the_answer() {
        let text = in_full(&found());
        assert!(text.contains("    the executable is called `xmrig`\n"), "{text}");
        assert!(
            text.contains("    answer: web1 is quarantined\n    seen 2 times"),
            "{text}"
        );
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}
