// SPDX-License-Identifier: GPL-3.0-only
//! Policy from behaviour, and canaries, as the tool asks for, shows and applies them.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod daemon;

use std::fs;

use daemon::{Answer, Daemon, json};
use policyd_api::*;

fn out(output: &std::process::Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &std::process::Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn suggested() -> Suggested {
    let excess = |of, allowed, used, open_ended, says: &str| Excess {
        of,
        allowed,
        used,
        open_ended,
        says: says.into(),
    };
    Suggested {
        since: 0,
        until: 600,
        suggestion: Suggestion {
            name: "shop".into(),
            text: "# learned\npolicy: shop\n".into(),
            flows: 12,
            covered: vec!["web1".into()],
            rules: vec![SuggestedRule::default()],
            ..Suggestion::default()
        },
        tried: 0,
        effect: Differences {
            flows: 20,
            cut: 3,
            ..Differences::default()
        },
        usage: PolicyUsage {
            unused: vec![
                UnusedRule {
                    rule: "shop/old".into(),
                    action: "allow".into(),
                    in_force_since: Some(60),
                    or_longer: true,
                },
                UnusedRule {
                    rule: "shop/older".into(),
                    action: "deny".into(),
                    in_force_since: None,
                    or_longer: false,
                },
            ],
            wide: vec![WideRule {
                rule: "shop/reads".into(),
                totals: FlowTotals {
                    flows: 9,
                    ..FlowTotals::default()
                },
                factor: 24.0,
                excess: vec![
                    excess(
                        Dimension::FromVm,
                        3,
                        1,
                        false,
                        "from 3 domains: only web1 used it",
                    ),
                    excess(
                        Dimension::FromProgram,
                        8,
                        1,
                        true,
                        "from any program of web1: only /usr/bin/psql",
                    ),
                ],
            }],
        },
    }
}

#[test]
fn a_document_goes_to_standard_output_or_to_a_file() {
    let daemon = Daemon::start(|_| json(&suggested()));
    let output = daemon.run(&[
        "suggest", "--since", "10m", "--vm", "web*", "--vm", "db1", "--name", "shop", "--exact",
    ]);
    assert_eq!(out(&output), "# learned\npolicy: shop\n", "{}", err(&output));
    let asked = daemon.asked().remove(0);
    assert!(asked.starts_with("GET /v1/suggest?since="), "{asked}");
    assert!(
        asked.contains("&vm=web%2A,db1&name=shop&exact=true&widest=24&widest6=48&tried="),
        "{asked}"
    );
    let path = daemon.folder.path().join("shop.yaml");
    let output = daemon.run(&["suggest", "-o", path.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "# learned\npolicy: shop\n");
    assert_eq!(
        out(&output).replace(path.to_str().unwrap(), "FILE"),
        "FILE: 1 rules, from 12 flows seen from 1970-01-01T00:00:00Z to 1970-01-01T00:10:00Z; default deny for 1 domains\n\
         on flows since 1970-01-01T00:00:00Z: of 20 flows 3 would be cut, 0 opened\n"
    );
    let output = daemon.run(&["suggest", "-o", "/nonexistent/x.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("cannot write /nonexistent/x.yaml"));
    let output = daemon.run(&["--json", "suggest"]);
    let parsed: Suggested = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(parsed, suggested());
    for wrong in [
        &["suggest", "--vm", "a,b"] as &[&str],
        &["suggest", "--widest", "33"],
    ] {
        assert_eq!(daemon.run(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn what_of_the_policy_was_used_is_told() {
    let daemon = Daemon::start(|_| json(&suggested()));
    let output = daemon.run(&["suggest", "--unused", "--wide", "--effect"]);
    assert_eq!(
        out(&output),
        "Unused      Action  In force since\n\
         shop/old    allow   1970-01-01T00:01:00Z or longer\n\
         shop/older  deny    -\n\
         Wide        Times  Flows  In            Allowed  Used  How\n\
         shop/reads   24.0      9  from-vm             3     1  from 3 domains: only web1 used it\n\
         shop/reads   24.0      9  from-program       8+     1  from any program of web1: only /usr/bin/psql\n\
         on flows since 1970-01-01T00:00:00Z: of 20 flows 3 would be cut, 0 opened\n",
        "{}",
        err(&output)
    );
}

const TEXT: &str = "policy: shop # ours
routes:
  pages:
    address: 10.0.0.100
    port: 80
    backends:
      - { to: 10.0.0.1, version: v1, weight: 90 } # the old one
      - { to: 10.0.0.2, version: v2, weight: 10 }
";

/// Signals of which the canary has so many failures of 200.
fn signals(failed: u64) -> Signals {
    let pair = |version: &str, connections, failed| {
        let mut times = Times::default();
        (0..connections).for_each(|n| times.setup_us.record(100.0 + (n % 50) as f64));
        PairSignals {
            version: Some(version.into()),
            route: Some("shop/pages".into()),
            protocol: "tcp".into(),
            port: Some(80),
            window: Window {
                counts: Totals {
                    connections,
                    failed,
                    ..Totals::default()
                },
                ..Window::default()
            },
            times: Some(times),
            ..PairSignals::default()
        }
    };
    Signals {
        pairs: vec![pair("v1", 2000, 4), pair("v2", 200, failed)],
        ..Signals::default()
    }
}

fn answer(target: &str, failed: u64) -> Answer {
    match target.split('?').next().unwrap() {
        "GET /v1/routes" => json(&vec![Route {
            name: "shop/pages".into(),
            address: "10.0.0.100:80".parse().unwrap(),
            protocol: "tcp".into(),
            affinity: false,
            backends: Vec::new(),
        }]),
        "GET /v1/policies/shop" => json(&PolicyDocument {
            summary: PolicySummary {
                name: "shop".into(),
                description: None,
                services: 0,
                rules: 0,
                routes: 1,
                generation: 3,
                applied_ns: 0,
                by_uid: 0,
                by_name: None,
            },
            text: TEXT.into(),
        }),
        "GET /v1/signals" => json(&signals(failed)),
        "POST /v1/policies" => json(&Applied {
            names: vec!["shop".into()],
            generation: 8,
            flows_changed: 0,
            dry_run: false,
        }),
        other => panic!("{other}"),
    }
}

/// The text that was applied, and the header that it came with.
fn applied(daemon: &Daemon) -> Option<(String, String, String)> {
    let asked = daemon.asked();
    let last = asked.last()?.strip_prefix("POST /v1/policies ")?;
    let (head, body) = last.split_once(" {")?;
    let request: ApplyRequest = serde_json::from_str(&format!("{{{body}")).unwrap();
    Some((
        head.to_owned(),
        request.documents[0].text.clone(),
        request.message.unwrap(),
    ))
}

#[test]
fn a_canary_that_is_no_worse_gets_more() {
    let daemon = Daemon::start_tagged(7, |target| answer(target, 0));
    let output = daemon.run(&["canary", "pages"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(
        out(&output),
        "Signal    Baseline  Canary  BaselineN  CanaryN       P   Below  Verdict\n\
         failures     0.20%   0.00%       2000      200  1.0000  0.0050  same\n\
         setup        125us   125us       2000      200  1.0000       -  same\n\
         shop/pages: v2, with 10 % of the flows, against v1 in 300 s: same\n\
         proposed: v2 gets 25 %; --apply does it\n"
    );
    assert_eq!(daemon.asked().last().unwrap(), "GET /v1/signals?window=300");
    let output = daemon.run(&["canary", "shop/pages", "--apply"]);
    assert!(
        out(&output).ends_with("done: v2 gets 25 %; generation 8\n"),
        "{}",
        out(&output)
    );
    let (head, text, message) = applied(&daemon).unwrap();
    assert_eq!(head, "if-match: \"7\"");
    assert_eq!(
        text,
        TEXT.replace("weight: 90", "weight: 75")
            .replace("weight: 10", "weight: 25")
    );
    assert_eq!(message, "canary shop/pages: v2 from 10 % to 25 %, same");
}

#[test]
fn a_canary_that_is_worse_gets_nothing_and_the_exit_status_says_so() {
    let daemon = Daemon::start_tagged(7, |target| answer(target, 20));
    let output = daemon.run(&["canary", "pages", "--apply", "-m", "v2 fails"]);
    assert_eq!(
        (output.status.code(), &*err(&output)),
        (Some(4), "xmesh: v2 fares worse\n")
    );
    let (_, text, message) = applied(&daemon).unwrap();
    assert_eq!(
        text,
        TEXT.replace("weight: 90", "weight: 100")
            .replace("weight: 10 ", "weight: 0 ")
    );
    assert_eq!(message, "v2 fails");
    let output = daemon.run(&["--json", "canary", "pages"]);
    assert_eq!(output.status.code(), Some(4));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&report["verdict"], &report["proposal"]),
        (&"worse".into(), &"rollback".into())
    );
    assert_eq!(report["signals"][0]["canary"], 0.1);
}

#[test]
fn what_is_not_plain_is_not_guessed() {
    let daemon = Daemon::start_tagged(7, |target| match target {
        "POST /v1/policies" => (
            412,
            serde_json::to_string(&ErrorBody {
                error: "generation 9 is in force, not 7".into(),
            })
            .unwrap(),
        ),
        target => answer(target, 0),
    });
    let output = daemon.run(&["canary", "pages", "--least", "1000", "--apply"]);
    assert!(
        out(&output).ends_with("nothing is to be done until there is more to judge by\n"),
        "{}",
        out(&output)
    );
    assert_eq!(applied(&daemon), None);
    // Somebody else was faster.
    let output = daemon.run(&["canary", "pages", "--apply"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("generation 9 is in force"));
    for (args, why) in [
        (&["canary", "page"] as &[&str], "no route is named \"page\""),
        (
            &["canary", "pages", "--canary", "v3"],
            "no version that shares the flows of this route is `v3`; it has v1, v2",
        ),
        (&["canary", "pages", "--alpha", "1"], "over 0 and under 1"),
    ] {
        let output = daemon.run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(err(&output).contains(why), "{}", err(&output));
    }
}
