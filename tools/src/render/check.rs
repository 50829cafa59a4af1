// SPDX-License-Identifier: GPL-3.0-only
//! What a check found: a sentence a finding, then how far it went.

use policyd_api::Check;

use super::plain;

/// `xmesh check`.
pub fn report(check: &Check) -> String {
    let mut out = String::new();
    for finding in &check.findings {
        out.push_str(&format!(
            "{}: {}: {}\n",
            finding.severity.as_str(),
            finding.kind,
            plain(&finding.message)
        ));
    }
    for what in &check.unchecked {
        out.push_str(&format!("not checked: {}\n", plain(what)));
    }
    let found = match check.findings.len() {
        0 => "nothing found".to_owned(),
        1 => "1 finding".to_owned(),
        some => format!("{some} findings"),
    };
    // The first check has nothing to compare the code with.
    let compared = match check.functions {
        0 => "code remembered, to be compared from now on".to_owned(),
        functions => format!("{functions} functions as they were"),
    };
    out.push_str(&format!(
        "{}: {found}; looked at {} tasks, {} sockets, {} modules, {} system calls, {} entry registers, {} interrupt gates, \
         {} patched places, {} tables of operations, {} KiB of code ({compared}), in {} ms\n",
        plain(&check.domain),
        check.tasks,
        check.sockets,
        check.modules,
        check.system_calls,
        check.registers,
        check.gates,
        check.sites,
        check.operations,
        check.text / 1024,
        check.took_ms,
    ));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use policyd_api::{Finding, Severity};

    fn check(findings: Vec<Finding>) -> Check {
        Check {
            domain: "web1".into(),
            findings,
            unchecked: vec!["kernel probes: this kernel has no symbol `kprobe_table`".into()],
            tasks: 85,
            sockets: 12,
            modules: 2,
            system_calls: 463,
            registers: 2,
            gates: 256,
            sites: 61_292,
            operations: 1157,
            text: 16 << 20,
            functions: 0,
            took_ms: 60,
        }
    }

    #[test]
    fn a_clean_domain() {
        assert_eq!(
            report(&check(Vec::new())),
            "not checked: kernel probes: this kernel has no symbol `kprobe_table`\n\
             web1: nothing found; looked at 85 tasks, 12 sockets, 2 modules, 463 system calls, 2 entry registers, 256 interrupt \
             gates, 61292 patched places, 1157 tables of operations, 16384 KiB of code (code remembered, to be \
             compared from now on), in 60 ms\n"
        );
    }

    #[test]
    fn a_finding_is_one_line_whatever_the_guest_writes() {
        let finding = Finding {
            severity: Severity::Alert,
            kind: "hidden-process".into(),
            message: "process 7 (\x1b[2J\n) hides".into(),
            pid: Some(7),
            name: Some("\x1b[2J\n".into()),
            seen_in: Vec::new(),
            missing_in: Vec::new(),
        };
        let text = report(&check(vec![finding]));
        assert!(text.starts_with("alert: hidden-process: process 7 ("), "{text}");
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(
            text.contains("web1: 1 finding;") && !text.contains('\x1b'),
            "{text}"
        );
    }
}
