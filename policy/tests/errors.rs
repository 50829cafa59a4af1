// SPDX-License-Identifier: GPL-3.0-only
//! What people are told about bad files: each file in `bad/` with its messages in a `.expected` beside it.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::Path;

use policy::document::{MAX_RULES, MAX_TEXT};
use policy::{Document, Ruleset};

/// With `BLESS=1` the messages are written instead of compared; look at the diff before committing it.
#[test]
fn every_bad_file_is_told_what_where_and_what_to_do() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad");
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e != "expected"))
        .collect();
    files.sort();
    assert!(files.len() >= 15, "the corpus is gone: {} files", files.len());
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let problems = Document::parse(name, &text).expect_err(name);
        let told = format!("{problems}\n");
        for line in told.lines() {
            let mut parts = line.splitn(4, ':');
            assert_eq!(parts.next(), Some(name), "{line}");
            assert!(parts.next().unwrap().parse::<u32>().unwrap() > 0, "{line}");
            assert!(parts.next().unwrap().parse::<u32>().unwrap() > 0, "{line}");
            assert!(parts.next().unwrap().contains("; "), "no remedy: {line}");
        }
        let expected = folder.join(format!("{name}.expected"));
        if std::env::var_os("BLESS").is_some() {
            fs::write(&expected, &told).unwrap();
        }
        assert_eq!(told, fs::read_to_string(&expected).unwrap(), "{name}");
    }
}

#[test]
fn absurd_sizes_are_refused_at_once() {
    let long = format!("policy: a\ndescription: {}\n", "x".repeat(MAX_TEXT));
    let told = Document::parse("f", &long).unwrap_err().to_string();
    assert!(told.contains("the limit is 1048576; split it"), "{told}");

    let rule = "- {name: a, from: any, to: any, action: deny}\n";
    let many = format!("policy: a\nrules:\n{}", rule.repeat(MAX_RULES + 1));
    let told = Document::parse("f", &many).unwrap_err().to_string();
    assert_eq!(
        told,
        "f:3:3: 10001 rules, the limit is 10000; join rules: `from` and `to` take lists"
    );

    let ports = vec!["1"; 1001].join(",");
    let list = format!("policy: a\nservices: {{ a: {{ port: [{ports}] }} }}\n");
    let told = Document::parse("f", &list).unwrap_err().to_string();
    assert!(told.contains("list of 1001 values; use at most 1000"), "{told}");
}

#[test]
fn aliases_cannot_multiply_without_bound() {
    let mut text = String::from("policy: a\nservices:\n  a0: &a0 { vm: [x, x, x, x, x, x, x, x] }\n");
    for i in 1..12 {
        let previous = vec![format!("*a{}", i - 1); 8].join(", ");
        text.push_str(&format!("  a{i}: &a{i} {{ vm: [{previous}] }}\n"));
    }
    let problems = Document::parse("f", &text).unwrap_err();
    assert!(problems.to_string().contains("not valid YAML"), "{problems}");
}

#[test]
fn sets_that_meet_are_checked_together() {
    let one = Document::parse("one.yaml", "policy: shop\n").unwrap();
    let two = Document::parse("two.yaml", "# the same\npolicy: shop\n").unwrap();
    let told = Ruleset::compile(&[one, two], 1).unwrap_err().to_string();
    assert_eq!(
        told,
        "two.yaml:2:9: a second policy set named `shop`; rename one; the other is at one.yaml:1:9"
    );
}
