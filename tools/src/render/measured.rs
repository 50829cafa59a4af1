// SPDX-License-Identifier: GPL-3.0-only
//! What programs are, by their text.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use policyd_api::{Measured as Word, MeasuredProcesses, Text};
use vmi_xen::linux::PageDigests;

use super::plain;
use super::table::{Align::Left, Align::Right, Table};
use crate::args::measure::Measure;

/// Characters of a line of digests.
const LINE: usize = 88;

/// A program that was measured.
pub struct Program {
    pub name: String,
    pub exe: String,
    pub digests: PageDigests,
}

/// The policy set that `xmesh measure` writes.
pub fn document(asked: &Measure, programs: &[Program]) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut text = format!(
        "# What the text of programs is, page by page. Written by `xmesh measure`; measure again with each new version.\n\
         policy: {}\nprograms:\n",
        asked.policy
    );
    for program in programs {
        text += &format!(
            "  {}:\n    exe: {}\n",
            program.name,
            quoted(&literal(&program.exe))
        );
        if !asked.vm.is_empty() {
            let vms: Vec<String> = asked.vm.iter().map(|vm| quoted(vm)).collect();
            text += &format!("    vm: [{}]\n", vms.join(", "));
        }
        if let Some(label) = &asked.label {
            text += &format!("    version: {}\n", quoted(label));
        }
        text += "    text:\n";
        for (page, digests) in runs(&program.digests) {
            text += &format!("      - page: {page}\n        sha256: |\n");
            let encoded = STANDARD.encode(digests);
            for line in encoded.as_bytes().chunks(LINE) {
                text += &format!("          {}\n", String::from_utf8_lossy(line));
            }
        }
    }
    text
}

/// The path as a pattern that is it alone.
fn literal(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for c in path.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

/// Digests of pages that follow on one another, by the number of the first.
fn runs(digests: &PageDigests) -> Vec<(u64, Vec<u8>)> {
    let mut runs: Vec<(u64, u64, Vec<u8>)> = Vec::new();
    for (page, sha256) in digests.pages() {
        match runs.last_mut() {
            Some((_, next, bytes)) if *next == page => {
                bytes.extend_from_slice(sha256);
                *next += 1;
            }
            _ => runs.push((page, page + 1, sha256.to_vec())),
        }
    }
    runs.into_iter().map(|(page, _, bytes)| (page, bytes)).collect()
}

/// `xmesh measured`.
pub fn table(found: &MeasuredProcesses) -> String {
    let mut table = Table::new(&[
        ("Domain", Left),
        ("PID", Right),
        ("Executable", Left),
        ("Text", Left),
        ("Pages", Right),
        ("Program", Left),
        ("Odd", Left),
    ]);
    for one in &found.processes {
        table.row([
            one.domain.clone(),
            one.process.pid.to_string(),
            one.process.exe.clone().unwrap_or_default(),
            one.text.measured.as_str().to_owned(),
            one.text.pages.to_string(),
            one.text.program.clone().unwrap_or_else(|| "-".into()),
            odd(&one.text).unwrap_or_else(|| "-".into()),
        ]);
    }
    let mut text = table.render();
    if found.dropped > 0 {
        text += &format!("{} processes found no room to be looked at\n", found.dropped);
    }
    text
}

/// What a look at a process showed that should not be.
fn odd(text: &Text) -> Option<String> {
    let first = |offsets: &[u64]| {
        offsets
            .first()
            .map_or(String::new(), |at| format!(" from {at:#x} on"))
    };
    let pages = |what: &str, offsets: &[u64]| {
        let many = match offsets.len() {
            16.. => "16 pages or more".to_owned(),
            1 => "1 page".to_owned(),
            n => format!("{n} pages"),
        };
        (!offsets.is_empty()).then(|| format!("{many} {what}{}", first(offsets)))
    };
    let unmapped = text
        .unmapped
        .then(|| "its executable is mapped nowhere".to_owned());
    let said = [
        unmapped,
        pages("not as in the program", &text.changed),
        pages("written to in its memory", &text.private),
    ];
    let said: Vec<String> = said.into_iter().flatten().collect();
    (!said.is_empty()).then(|| said.join("; "))
}

/// As an event, behind who it is.
pub fn sentence(text: &Text) -> String {
    let is = match (text.measured, &text.program) {
        (Word::Same, Some(program)) => format!("runs {}", plain(program)),
        (Word::Changed, _) => "runs none of the programs that the policy has for it".to_owned(),
        _ => "runs its program".to_owned(),
    };
    match odd(text) {
        Some(odd) => format!("{is}: {odd}"),
        None => format!("{is}, as its file has it"),
    }
}

#[cfg(test)]
mod tests {
    use policy::{Document, Ruleset, VmId};

    use super::*;

    #[test]
    fn what_is_written_is_read_as_what_was_measured() {
        let digests: PageDigests = [(4, [7; 32]), (5, [8; 32]), (6, [1; 32]), (9, [9; 32])]
            .into_iter()
            .collect();
        let asked = Measure {
            files: Vec::new(),
            root: None,
            at: None,
            vm: vec!["web*".into()],
            label: Some("1.0 \"final\": {x}".into()),
            policy: "programs".into(),
        };
        let programs = [Program {
            name: "curl".into(),
            exe: "/opt/a*b/curl".into(),
            digests: digests.clone(),
        }];
        let text = document(&asked, &programs);
        let document = Document::parse("written", &text).unwrap_or_else(|why| panic!("{text}\n{why}"));
        let program = &document.programs()["curl"];
        assert_eq!(program.version.as_deref(), Some("1.0 \"final\": {x}"));
        let read: PageDigests = program
            .pages()
            .map(|(page, sha256)| (u64::from(page), *sha256))
            .collect();
        assert_eq!(read, digests);
        let rules = Ruleset::compile(&[document], 1).expect("rules");
        let vm = |name: &str| VmId {
            name: name.into(),
            uuid: [1; 16],
            facts: std::sync::Arc::default(),
        };
        assert_eq!(rules.programs_for(&vm("web1"), "/opt/a*b/curl").count(), 1);
        assert_eq!(rules.programs_for(&vm("web1"), "/opt/axb/curl").count(), 0);
        assert_eq!(rules.programs_for(&vm("db1"), "/opt/a*b/curl").count(), 0);
    }

    #[test]
    fn what_is_odd_is_told() {
        let mut text = Text {
            measured: Word::Changed,
            changed: vec![0x4000],
            private: vec![0x4000, 0x5000],
            ..Text::default()
        };
        assert_eq!(
            sentence(&text),
            "runs none of the programs that the policy has for it: 1 page not as in the program from 0x4000 on; 2 pages written to in its \
             memory from 0x4000 on"
        );
        text = Text {
            measured: Word::Same,
            program: Some("programs/curl".into()),
            ..Text::default()
        };
        assert_eq!(sentence(&text), "runs programs/curl, as its file has it");
    }
}
