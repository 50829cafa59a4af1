// SPDX-License-Identifier: GPL-3.0-only
//! History, rollback, exports and the audit log, as the tool asks for them and tells them.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod daemon;
#[path = "control/edit.rs"]
mod edit;

use std::fs;
use std::path::Path;
use std::process::Output;

use daemon::{Daemon, json, xmesh};
use policyd_api::chain::{Anchor, Attempt, AuditEntry, Chain, Outcome, sha256};
use policyd_api::export::{Export, ExportedSet};
use policyd_api::{
    Action, Applied, AuditCheck, AuditPage, Author, Edit, ErrorBody, Generation, HistoryPage, SetsAt, Status,
    StoreStatus, Version,
};

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn root() -> Author {
    Author {
        uid: 0,
        name: Some("root".into()),
    }
}

fn version(text: &str) -> Option<Version> {
    Some(Version {
        text: sha256(text.as_bytes()),
        file: "shop.yaml".into(),
    })
}

fn generations() -> Vec<Generation> {
    let edit = |set: &str, before, after| Edit {
        set: set.into(),
        before,
        after,
    };
    let generation = |generation, action, to, message: Option<&str>, edits| Generation {
        generation,
        time_ns: generation * 1_000_000_000,
        by: root(),
        action,
        to,
        message: message.map(str::to_owned),
        edits,
        stage: None,
    };
    vec![
        generation(
            3,
            Action::Rollback,
            Some(1),
            Some("it closed the shop\nreally"),
            vec![edit("db", version("d"), None)],
        ),
        generation(
            2,
            Action::Apply,
            None,
            None,
            vec![
                edit("db", None, version("d")),
                edit("shop", version("a"), version("b")),
            ],
        ),
    ]
}

fn applied(names: &[&str], generation: u64, dry_run: bool) -> Applied {
    Applied {
        names: names.iter().map(|n| (*n).to_owned()).collect(),
        generation,
        flows_changed: 2,
        dry_run,
    }
}

fn history(_: &str) -> daemon::Answer {
    json(&HistoryPage {
        generation: 3,
        oldest: 0,
        generations: generations(),
        next: Some(2),
    })
}

#[test]
fn the_history_is_a_table_and_goes_on() {
    let daemon = Daemon::start(history);
    assert_eq!(
        out(&daemon.run(&["policy-history", "shop", "--limit", "2", "--before", "4"])),
        "Generation  Time                  By    Action      Sets      Why\n         \
                  3  1970-01-01T00:00:03Z  root  rollback 1  -db       it closed the shop …\n         \
                  2  1970-01-01T00:00:02Z  root  apply       +db shop  -\n\
         more with --before 2\n"
    );
    let page: HistoryPage =
        serde_json::from_slice(&daemon.run(&["policy-history", "--json"]).stdout).unwrap();
    assert_eq!(page.generations, generations());
    assert_eq!(
        daemon.asked(),
        [
            "GET /v1/history?before=4&limit=2&set=shop",
            "GET /v1/history?limit=100"
        ]
    );
    assert_eq!(
        daemon.run(&["policy-history", "--limit", "1001"]).status.code(),
        Some(2)
    );
}

#[test]
fn a_diff_is_unified_and_of_the_last_change_unless_told() {
    let daemon = Daemon::start(|target| {
        let sets = |generation, sets: &[(&str, &str)]| {
            let sets = sets.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
            json(&SetsAt { generation, sets })
        };
        match target {
            "GET /v1/history/2" => sets(2, &[("db", "policy: db\n"), ("shop", "policy: shop\n# 1\n")]),
            "GET /v1/history/3" => sets(3, &[("new", "\x1b[2J\n"), ("shop", "policy: shop\n# 2\n")]),
            other => history(other),
        }
    });
    let all = "--- db\tgeneration 2\n+++ /dev/null\tgeneration 3\n@@ -1 +0,0 @@\n-policy: db\n\
         --- /dev/null\tgeneration 2\n+++ new\tgeneration 3\n@@ -0,0 +1 @@\n+\\u{1b}[2J\n\
         --- shop\tgeneration 2\n+++ shop\tgeneration 3\n@@ -1,2 +1,2 @@\n policy: shop\n-# 1\n+# 2\n";
    for args in [
        &["policy-diff"] as &[&str],
        &["policy-diff", "2"],
        &["policy-diff", "2", "3"],
    ] {
        let output = daemon.run(args);
        assert_eq!(out(&output), all, "{args:?}: {}", err(&output));
    }
    let shop = out(&daemon.run(&["policy-diff", "shop", "2", "3"]));
    assert!(shop.starts_with("--- shop") && !shop.contains("db"), "{shop}");
    let parsed: serde_json::Value =
        serde_json::from_slice(&daemon.run(&["--json", "policy-diff", "shop"]).stdout).unwrap();
    assert_eq!((&parsed["from"], &parsed["to"]), (&2.into(), &3.into()));
    assert_eq!(parsed["sets"][0]["after"], "policy: shop\n# 2\n");
    assert!(
        daemon
            .asked()
            .contains(&"GET /v1/history?limit=1&set=shop".to_owned())
    );
    let output = daemon.run(&["policy-diff", "shop", "x"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("`x` is no generation"), "{}", err(&output));
}

#[test]
fn changes_say_why_and_on_which_generation_they_stand() {
    let daemon = Daemon::start(|target| match target {
        t if t.starts_with("POST /v1/history/9/") => {
            let error = "generation 9 is not kept".to_owned();
            (404, serde_json::to_string(&ErrorBody { error }).unwrap())
        }
        t if t.contains("dry_run=true") => json(&applied(&["db", "shop"], 4, true)),
        _ => json(&applied(&["db", "shop"], 5, false)),
    });
    let write = |name: &str| {
        let path = daemon.folder.path().join(format!("{name}.yaml"));
        fs::write(&path, format!("policy: {name}\n")).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (db, shop) = (write("db"), write("shop"));
    let output = daemon.run(&[
        "policy-apply",
        "-m",
        "two at once",
        "--if-generation",
        "4",
        &db,
        &shop,
    ]);
    assert_eq!(
        out(&output),
        "db, shop applied; generation 5 in force, 2 live flows changed\n",
        "{}",
        err(&output)
    );
    assert_eq!(
        out(&daemon.run(&["policy-rollback", "1", "-m", "why & how"])),
        "db, shop brought back to generation 1; generation 5 in force, 2 live flows changed\n"
    );
    assert_eq!(
        out(&daemon.run(&["policy-rollback", "-n", "1"])),
        "db, shop are valid and would change; generation 4 stays in force\n"
    );
    daemon.run(&["policy-delete", "shop", "--if-generation", "7"]);
    let asked = daemon.asked();
    assert!(
        asked[0].starts_with("POST /v1/policies if-match: \"4\" {\"documents\":[{"),
        "{}",
        asked[0]
    );
    assert!(
        asked[0].ends_with("\"dry_run\":false,\"message\":\"two at once\"}"),
        "{}",
        asked[0]
    );
    assert_eq!(
        asked[1..],
        [
            "POST /v1/history/1/rollback?message=why%20%26%20how",
            "POST /v1/history/1/rollback?dry_run=true",
            "DELETE /v1/policies/shop if-match: \"7\"",
        ]
    );
    let output = daemon.run(&["policy-rollback", "9"]);
    assert_eq!(
        (output.status.code(), err(&output).as_str()),
        (Some(1), "xmesh: generation 9 is not kept\n")
    );
}

fn chain() -> Chain {
    let mut chain = Chain::default();
    let outcomes = [
        Outcome::Stored { generation: 1 },
        Outcome::Refused {
            why: "shop.yaml:1:1: no\nand more".into(),
        },
    ];
    for (n, outcome) in (1..).zip(outcomes) {
        let attempt = Attempt {
            time_ns: n * 1_000_000_000,
            by: root(),
            action: Action::Apply,
            what: "shop".into(),
            message: None,
            outcome,
            edits: Vec::new(),
        };
        let entry = AuditEntry::after(&chain.head, attempt);
        chain.head = entry.anchor();
        chain.entries.push(entry);
    }
    chain
}

fn export() -> Export {
    let text = "policy: shop\n";
    let id = sha256(text.as_bytes());
    let set = ExportedSet {
        version: version(text).unwrap(),
        generation: 1,
        applied_ns: 1,
        by: root(),
    };
    Export {
        generation: 1,
        made_ns: 1,
        sets: [("shop".to_owned(), set)].into(),
        history: Vec::new(),
        texts: [(id.clone(), vec![id.clone()])].into(),
        parts: [(id, text.to_owned())].into(),
        audit: chain(),
    }
}

#[test]
fn an_export_is_written_whole_and_read_before_it_is_sent() {
    let file = String::from_utf8(export().to_bytes().unwrap()).unwrap();
    let answer = file.clone();
    let daemon = Daemon::start(move |target| match target {
        "GET /v1/export" => (200, answer.clone()),
        _ => json(&applied(&["shop"], 2, false)),
    });
    let path = daemon.folder.path().join("backup.json");
    let at = path.to_str().unwrap();
    let output = daemon.run(&["policy-export", at]);
    assert_eq!(
        out(&output),
        format!(
            "{at}: generation 1, 1 sets, 0 generations, 2 audit entries, {} bytes\n",
            file.len()
        ),
        "{}",
        err(&output)
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), file);
    assert!(!daemon.folder.path().join("backup.json.partial").exists());
    assert_eq!(out(&daemon.run(&["policy-export", "-"])), file);
    assert_eq!(
        out(&daemon.run(&["policy-import", at])),
        "shop imported; generation 2 in force, 2 live flows changed\n"
    );
    assert_eq!(daemon.asked().last().unwrap(), &format!("POST /v1/import {file}"));
    let asked = daemon.asked().len();
    fs::write(&path, file.replace("policy: shop", "policy: chop")).unwrap();
    let output = daemon.run(&["policy-import", at]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("checksum is wrong"), "{}", err(&output));
    assert_eq!(daemon.asked().len(), asked, "a damaged export was sent");
    let output = daemon.run(&["policy-export", "/nonexistent/backup.json"]);
    assert!(
        err(&output).starts_with("xmesh: cannot write /nonexistent/backup.json: "),
        "{}",
        err(&output)
    );
}

#[test]
fn the_audit_log_is_listed_and_checked_in_the_daemon() {
    let daemon = Daemon::start(|target| {
        let chain = chain();
        if target.starts_with("GET /v1/audit/check") {
            return json(&AuditCheck::of(
                &chain,
                target.split_once("head=").map(|(_, h)| h),
            ));
        }
        json(&AuditPage {
            head: chain.head,
            entries: chain.entries.into_iter().rev().collect(),
            next: None,
        })
    });
    assert_eq!(
        out(&daemon.run(&["audit"])),
        "Entry  Time                  By    Action  What  Outcome\n    \
             2  1970-01-01T00:00:02Z  root  apply   shop  refused: shop.yaml:1:1: no …\n    \
             1  1970-01-01T00:00:01Z  root  apply   shop  generation 1\n"
    );
    let head = chain().head.hash;
    let output = daemon.run(&["audit", "--verify"]);
    assert_eq!(
        out(&output),
        format!("the audit log is whole: 2 entries, head 2 {head}\n")
    );
    assert_eq!(
        daemon.run(&["audit", "--verify", "--head", &head]).status.code(),
        Some(0)
    );
    let output = daemon.run(&["audit", "--verify", "--head", "abc"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("no entry of the audit log has the hash abc"),
        "{}",
        err(&output)
    );
    assert_eq!(daemon.run(&["audit", "--head", "abc"]).status.code(), Some(2));
}

#[test]
fn the_audit_log_of_an_export_needs_no_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let none = Path::new("/nonexistent/socket");
    let save = |name: &str, audit: Chain| {
        let path = dir.path().join(name);
        let export = Export { audit, ..export() };
        fs::write(&path, export.to_bytes().unwrap()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let whole = save("whole", chain());
    let output = xmesh(none, &["audit", "--verify", &whole]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let listed = out(&xmesh(none, &["audit", "--limit", "1", &whole]));
    assert!(
        listed.contains("refused") && listed.ends_with("more with --before 2\n"),
        "{listed}"
    );
    let mut changed = chain();
    changed.entries[0].attempt.by = Author { uid: 7, name: None };
    let output = xmesh(none, &["audit", "--verify", &save("changed", changed)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output)
            .starts_with("xmesh: the audit log is broken at entry 1: its text is not what its hash says"),
        "{}",
        err(&output)
    );
    let mut cut = chain();
    cut.entries.pop();
    let output = xmesh(none, &["audit", "--verify", &save("cut", cut.clone())]);
    assert!(err(&output).contains("the end was cut off"), "{}", err(&output));
    cut.head = Anchor {
        seq: 1,
        hash: cut.entries[0].hash.clone(),
    };
    let output = xmesh(
        none,
        &[
            "audit",
            "--verify",
            "--head",
            &chain().head.hash,
            &save("cut", cut),
        ],
    );
    assert_eq!(output.status.code(), Some(1), "{}", out(&output));
}

#[test]
fn info_tells_the_head_of_the_audit_log_and_what_is_wrong_with_the_store() {
    let daemon = Daemon::start(|_| {
        json(&Status {
            version: "1".into(),
            pid: 4,
            guardian: None,
            uptime: 5,
            generation: 3,
            xen: "4.17.5".into(),
            events_lost: 0,
            datapath_events_lost: 21,
            lookups: Default::default(),
            flow_history: Default::default(),
            store: StoreStatus {
                audit_entries: 2,
                audit_head: chain().head.hash,
                last_export: Some("/x/generation-3.json".into()),
                problems: vec!["the store was damaged".into()],
            },
        })
    });
    let told = out(&daemon.run(&["info"]));
    let head = chain().head.hash;
    let end = format!(
        "audit_head   : 2 {head}\nlast_export  : /x/generation-3.json\nproblem      : the store was damaged\n"
    );
    assert!(told.ends_with(&end), "{told}");
    assert!(told.contains("vif_lost     : 21\n"), "{told}");
}
