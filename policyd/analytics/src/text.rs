// SPDX-License-Identifier: GPL-3.0-only
//! Processes whose program is not what its file has: other code was put in its place.

use policyd_api::{Measured, Process, Severity, Text, Threat};

use crate::catalog;
use crate::who;

/// The name of the rule.
pub(crate) const ID: &str = "text-changed";

/// What a look at a process's text says, if it says that it was tampered with.
pub(crate) fn look(process: &Process, text: &Text) -> Option<(Threat, String)> {
    let exe = process.exe.as_deref().unwrap_or(&process.comm);
    let changed = text.measured == Measured::Changed;
    let written = text.changed.iter().any(|page| text.private.contains(page));
    let (severity, title) = match (changed, text.unmapped, text.private.is_empty()) {
        (_, true, _) => (
            Severity::Warning,
            format!("{exe} runs something else than its file"),
        ),
        (true, false, false) if written => (
            Severity::Alert,
            format!("other code was put into a process of {exe}"),
        ),
        (_, false, false) => (
            Severity::Warning,
            format!("somebody wrote to the text of a process of {exe}"),
        ),
        (true, false, true) => (
            Severity::Notice,
            format!("{exe} is none of the programs that policy has for it"),
        ),
        (false, false, true) => return None,
    };
    let mut evidence = vec![who(process)];
    let mut pages = |what: &str, offsets: &[u64]| {
        if !offsets.is_empty() {
            let at: Vec<String> = offsets.iter().map(|at| format!("{at:#x}")).collect();
            evidence.push(format!("pages {what}, by offset in the file: {}", at.join(", ")));
        }
    };
    pages("that this process alone has", &text.private);
    pages("that no program of the policy has", &text.changed);
    if text.unmapped {
        evidence.push("its executable is mapped nowhere in its memory".into());
    }
    let threat = Threat {
        severity,
        ..catalog::threat(ID, title, evidence, Some(process))
    };
    Some((threat, format!("{exe} {} {}", process.pid, process.start_time_ns)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process() -> Process {
        serde_json::from_value(serde_json::json!({
            "pid": 17, "ppid": 1, "uid": 0, "euid": 0, "gid": 0, "loginuid": null, "comm": "curl", "exe": "/usr/bin/curl",
            "exe_deleted": false, "args": [], "container": null, "netns": 1, "start_time_ns": 5, "parents": [],
        }))
        .expect("a process")
    }

    #[test]
    fn it_is_as_bad_as_what_shows_it() {
        let severity = |measured, changed: &[u64], private: &[u64], unmapped| {
            let text = Text {
                measured,
                changed: changed.to_vec(),
                private: private.to_vec(),
                unmapped,
                ..Text::default()
            };
            look(&process(), &text).map(|(threat, _)| threat.severity)
        };
        assert_eq!(severity(Measured::Same, &[], &[], false), None);
        assert_eq!(severity(Measured::Unregistered, &[], &[], false), None);
        // A new version of its package.
        assert_eq!(
            severity(Measured::Changed, &[4096, 8192], &[], false),
            Some(Severity::Notice)
        );
        assert_eq!(
            severity(Measured::Changed, &[4096, 8192], &[8192], false),
            Some(Severity::Alert)
        );
        // A debugger, until it is known better.
        assert_eq!(
            severity(Measured::Unregistered, &[], &[8192], false),
            Some(Severity::Warning)
        );
        assert_eq!(
            severity(Measured::Same, &[], &[8192], false),
            Some(Severity::Warning)
        );
        assert_eq!(
            severity(Measured::Unregistered, &[], &[], true),
            Some(Severity::Warning)
        );
    }
}
