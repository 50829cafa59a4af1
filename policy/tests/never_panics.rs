// SPDX-License-Identifier: GPL-3.0-only
//! Whatever a file holds, the answer is a document or located problems.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use policy::{Document, Ruleset};
use proptest::prelude::*;

const GOOD: &str = r#"policy: shop
description: text
default: { db1: deny, "*": { action: deny, refuse: drop } }
lock: { web1: address }
frames: { "web*": { tagged: judge, other: deny }, db1: { tagged: deny }, "*": { other: allow } }
roles:
  admins: { uid: 0 }
  staff: [{ vm: "web*", gid: [33, 100-199] }, { loginuid: 1000 }]
services:
  client: { vm: web1, exe: /usr/bin/curl, uid: [0, 10-20] }
  web: { exe: /usr/bin/web, versions: { v1: { vm: web1 }, v2: { vm: web2, parent: /sbin/init } } }
  redis: { vm: db1, exe: "/usr/bin/redis-*", port: 6379, protocol: tcp }
  office: &o { address: [192.168.7.0/24, 2001:db8::/32] }
  again: *o
routes:
  cache:
    address: [10.0.0.100, "fd00::100"]
    port: 6379
    affinity: true
    backends:
      - { to: redis, version: v1, weight: 80 }
      - { to: [{ vm: db2 }, 192.0.2.1], version: v2, drain: true }
    canary: { from: client, to: v2 }
    failover: v2
    health: { check: tcp, interval: 500ms }
rules:
  - { name: four, from: { role: staff }, to: web@v2, action: allow, dry_run: true, require: { authentication: process, role: [admins, staff], time: { days: mon-fri, hours: 08:00-18:00, zone: "+02:00" } } }
  - name: one
    from: [client, { vm: "web*" }]
    to: redis
    action: allow
    mirror: { to: ids, share: 5% }
  - { name: three, from: any, to: world, action: audit, mirror: { to: client } }
  - { name: two, from: any, to: world, ports: [1, 2-3], action: deny, refuse: drop }
"#;

/// Parses, and holds what is said of every answer.
fn read(text: &str) {
    match Document::parse("f", text) {
        Ok(document) => {
            assert!(Ruleset::compile(std::slice::from_ref(&document), 1).is_ok());
            let json = serde_json::to_string(&document).unwrap();
            assert_eq!(Document::parse("f", &json).unwrap(), document, "{text}");
        }
        Err(problems) => {
            assert!(problems.iter().count() > 0);
            for problem in &problems {
                assert!(problem.line >= 1 && problem.column >= 1);
                assert!(!problem.what.is_empty() && !problem.remedy.is_empty());
            }
        }
    }
}

#[test]
fn the_good_one_is_good() {
    Document::parse("f", GOOD).unwrap();
}

#[test]
fn a_file_cut_anywhere() {
    for end in 0..GOOD.len() {
        read(&GOOD[..end]);
    }
}

/// A failing case is printed in full, so no file of seeds is kept.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 2_000,
        ..ProptestConfig::with_cases(cases)
    }
}

proptest! {
    #![proptest_config(config(3_000))]

    #[test]
    fn any_text(text in "\\PC{0,200}") {
        read(&text);
    }

    #[test]
    fn any_bytes_that_are_text(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        read(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn text_of_yaml_and_policy_words(words in proptest::collection::vec(
        proptest::sample::select(vec![
            "policy", "rules", "services", "default", "vm", "exe", "port", "from", "to", "action", "any", "deny",
            ": ", ":", "- ", "\n", "\n  ", "\n    ", "[", "]", "{", "}", ", ", "\"", "'", "*", "&a", "*a", "a",
            "80", "-1", "1-2", "10.0.0.0/8", "|", ">", "#", "---", "...", "!!binary", "!x", "<<", "~", "null",
            "1e999", "0x1F", ".nan", "99999999999999999999999999999999999999999", "\t", "\u{0}", "\u{feff}", "?",
        ]), 0..60)) {
        read(&words.concat());
    }

    #[test]
    fn a_good_file_with_some_bytes_changed(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<char>()), 1..6),
    ) {
        let mut text: Vec<char> = GOOD.chars().collect();
        for (at, with) in changes {
            let at = at.index(text.len());
            text[at] = with;
        }
        read(&text.into_iter().collect::<String>());
    }
}
