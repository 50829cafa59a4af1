// SPDX-License-Identifier: GPL-3.0-only
//! Flows of the past, and policies that are tried on them, as the tool asks for and shows them.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod daemon;

use std::fs;

use daemon::{Daemon, json};
use policyd_api::*;

fn flow(verdict: Verdict, rule: &str) -> PastFlow {
    let end = |domain: &str, exe: Option<&str>| FlowEnd {
        domain: Some(domain.into()),
        exe: exe.map(str::to_owned),
        ..FlowEnd::default()
    };
    PastFlow {
        name: FlowName {
            from: end("web1", Some("/usr/bin/wget")),
            to: end("db1", None),
            protocol: "tcp".into(),
            port: Some(80),
            verdict,
            rule: rule.into(),
            by_policy: true,
        },
        totals: FlowTotals {
            flows: 12,
            refused: 3,
            bytes_out: 2048,
            bytes_in: 10,
            first: 1,
            last: 61,
            ..FlowTotals::default()
        },
    }
}

fn differences(unsure: Option<&str>) -> Differences {
    Differences {
        flows: 100,
        not_judged: 4,
        cut: 12,
        opened: 0,
        differences: vec![Difference {
            flow: flow(Verdict::Allow, "no rule"),
            would: Verdict::Deny,
            would_rule: "default (to)".into(),
            now: Verdict::Allow,
            unsure: unsure.map(str::to_owned),
            example: None,
        }],
        left_out: 0,
    }
}

fn out(output: &std::process::Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A document, and its path.
fn document(daemon: &Daemon) -> String {
    let path = daemon.folder.path().join("shop.yaml");
    fs::write(&path, "policy: shop\n").unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn flows_of_the_past_are_a_table_that_goes_on() {
    let daemon = Daemon::start(|_| {
        json(&PastPage {
            since: 0,
            until: 3600,
            all: 5,
            flows: vec![flow(Verdict::Deny, "default (to)")],
            next: Some(1),
        })
    });
    let output = daemon.run(&[
        "flows",
        "--since",
        "2h",
        "--from",
        "web1",
        "--to",
        "db1",
        "--port",
        "80",
        "--verdict",
        "denied",
    ]);
    assert_eq!(
        out(&output),
        "From                To   Port    Verdict  Rule          Flows  Refused   Out  In  Last\n\
         web1:/usr/bin/wget  db1  tcp/80  deny     default (to)     12        3  2.0K  10  1970-01-01T00:01:01Z\n\
         1 of 5; more with --skip 1\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let asked = daemon.asked().remove(0);
    let (since, rest) = asked
        .strip_prefix("GET /v1/flows/history?since=")
        .and_then(|rest| rest.split_once('&'))
        .unwrap();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    assert!(now - since.parse::<u64>().unwrap() - 7200 < 60);
    assert_eq!(rest, "from=web1&to=db1&port=80&verdict=deny&limit=100");
    // The words of the past ask for a time.
    for wrong in [
        &["flows", "--from", "web1"] as &[&str],
        &["flows", "-f", "--since", "1h"],
    ] {
        assert_eq!(daemon.run(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn a_replay_says_by_its_exit_status_whether_anything_changes() {
    let same = Daemon::start(|_| {
        let differences = Differences {
            flows: 100,
            ..Differences::default()
        };
        json(&Replay {
            since: 0,
            until: 60,
            differences,
        })
    });
    let output = same.run(&["policy-replay", &document(&same)]);
    assert_eq!(
        (output.status.code(), &*out(&output)),
        (
            Some(0),
            "from 1970-01-01T00:00:00Z to 1970-01-01T00:01:00Z: of 100 flows 0 would be cut, 0 opened\n"
        )
    );
    let other = Daemon::start(|_| {
        json(&Replay {
            since: 0,
            until: 60,
            differences: differences(Some("arguments of the program are not kept")),
        })
    });
    let file = document(&other);
    let output = other.run(&["policy-replay", "--since", "1d", &file]);
    assert_eq!(output.status.code(), Some(4));
    assert_eq!(
        out(&output),
        "Would  From                To   Port    Flows  Last                  By            Was by   Now\n\
         cut?   web1:/usr/bin/wget  db1  tcp/80     12  1970-01-01T00:01:01Z  default (to)  no rule  allow\n\
         ? arguments of the program are not kept\n\
         from 1970-01-01T00:00:00Z to 1970-01-01T00:01:00Z: of 100 flows 12 would be cut, 0 opened; 4 are not for rules to decide\n"
    );
    let output = other.run(&["--json", "policy-replay", &file]);
    assert_eq!(output.status.code(), Some(4));
    let parsed: Replay = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(parsed.differences.cut, 12);
    assert!(other.asked()[0].starts_with("POST /v1/replay {\"documents\":[{\"file\":"));
    fs::write(&file, "policy: shop\nrulez: 1\n").unwrap();
    let output = other.run(&["policy-replay", &file]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(other.asked().len(), 2, "a document that is not valid was sent");
}

#[test]
fn a_policy_beside_is_set_shown_and_taken_away() {
    let daemon = Daemon::start(|target| {
        json(&match target {
            "GET /v1/shadow" => ShadowStatus::default(),
            _ => ShadowStatus {
                files: vec!["shop.yaml".into()],
                since: 60,
                problem: Some("t.yaml:1:1: no".into()),
                differences: differences(None),
                ..ShadowStatus::default()
            },
        })
    });
    let file = document(&daemon);
    assert_eq!(
        out(&daemon.run(&["policy-shadow", &file])),
        "Would  From                To   Port    Flows  Last                  By            Was by   Now\n\
         cut    web1:/usr/bin/wget  db1  tcp/80     12  1970-01-01T00:01:01Z  default (to)  no rule  allow\n\
         shop.yaml beside the policy in force since 1970-01-01T00:01:00Z: of 100 flows 12 would be cut, 0 opened; 4 are not for rules to decide\n\
         it does not run: beside the sets that are in force now it is not valid: t.yaml:1:1: no\n"
    );
    assert_eq!(
        out(&daemon.run(&["policy-shadow"])),
        "no policy runs beside the one in force\n"
    );
    daemon.run(&["policy-shadow", "--off"]);
    let asked = daemon.asked();
    assert!(asked[0].starts_with("PUT /v1/shadow {\"documents\":[{"));
    assert_eq!(
        asked[1..],
        ["GET /v1/shadow", "PUT /v1/shadow {\"documents\":[]}"]
    );
    assert_eq!(
        daemon.run(&["policy-shadow", "--off", &file]).status.code(),
        Some(2)
    );
}
