// SPDX-License-Identifier: GPL-3.0-only
//! The JSON Schema says what documents are, as far as a schema can.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use common::documents;
use jsonschema::Validator;
use policy::Document;
use policy::document::SCHEMA;
use proptest::prelude::*;
use serde_json::{Value, json};

fn validator() -> &'static Validator {
    static VALIDATOR: LazyLock<Validator> = LazyLock::new(|| {
        let schema: Value = serde_json::from_str(SCHEMA).unwrap();
        assert!(jsonschema::meta::is_valid(&schema));
        jsonschema::validator_for(&schema).unwrap()
    });
    &VALIDATOR
}

/// A document as the schema sees it; none where it is not YAML.
fn value(text: &str) -> Option<Value> {
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).ok()
}

/// What documentation shows.
fn examples() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let between = |text: &str, from: &str, to: &str| {
        let (_, after) = text.split_once(from).unwrap();
        let (inner, _) = after.split_once(to).unwrap();
        format!("policy: {inner}")
    };
    vec![
        between(&read("README.md"), "policy: ", "```"),
        between(&read("tools/man/xmesh-policy.5"), "\npolicy: ", ".Ed\n"),
        between(&read("policy/src/lib.rs"), "r#\"\n//! policy: ", "\"#").replace("\n//! ", "\n"),
        between(&read("policy/tests/never_panics.rs"), "r#\"policy: ", "\"#"),
    ]
}

#[test]
fn what_documentation_shows_is_valid() {
    let validator = validator();
    for text in examples() {
        Document::parse("example", &text).unwrap_or_else(|problems| panic!("{text}\n{problems}"));
        let errors: Vec<String> = validator
            .iter_errors(&value(&text).unwrap())
            .map(|e| format!("{}: {e}", e.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{text}\n{errors:?}");
    }
}

/// Of the bad files those that a schema can find; the others are wrong by what their parts say together, or as texts.
#[test]
fn bad_files_that_a_schema_can_find_are_found() {
    const BEYOND: [&str; 3] = ["duplicates.yaml", "merge.yaml", "two-documents.yaml"];
    let validator = validator();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad");
    let mut missed = BTreeSet::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "expected") {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if let Some(value) = value(&fs::read_to_string(&path).unwrap())
            && validator.is_valid(&value)
        {
            missed.insert(name);
        }
    }
    let beyond: BTreeSet<String> = BEYOND.map(str::to_owned).into();
    let unexpected: Vec<_> = missed.difference(&beyond).collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
}

/// One wrong thing each, by a path to it.
#[test]
fn what_is_wrong_is_neither_valid_nor_read() {
    let good = json!({
        "policy": "shop",
        "default": { "*": { "action": "deny", "refuse": "drop" } },
        "roles": { "admins": [{ "vm": "web*", "uid": 0 }] },
        "programs": { "p": { "exe": "/usr/bin/curl", "vm": "web*", "version": "7.88", "text": [{ "page": 4, "sha256": "A".repeat(43) + "=" }] } },
        "services": { "web": { "vm": "web1", "port": [80], "versions": { "v1": { "arg": "--new" } } } },
        "routes": { "r": { "address": "10.0.0.9", "port": 80, "backends": [{ "to": "web@v1", "weight": 1 }] } },
        "rules": [{
            "name": "a", "from": { "vm": "db1", "parent": "/sbin/init" }, "to": "web", "action": "allow",
            "require": { "authentication": "process", "role": "admins", "time": { "days": ["mon-fri"], "hours": "08:00-18:00" } },
        }],
        "qos": { "classes": [{ "name": "c", "from": "any", "to": "web", "priority": "bulk" }] },
    });
    let validator = validator();
    let both = |value: &Value| {
        (
            validator.is_valid(value),
            Document::parse("f", &value.to_string()).is_ok(),
        )
    };
    assert_eq!(
        both(&good),
        (true, true),
        "{:?}",
        Document::parse("f", &good.to_string())
    );
    let wrongs = [
        ("", json!({ "policy": "shop", "rulez": [] })),
        ("", json!({ "rules": [] })),
        ("", json!([])),
        ("/policy", json!("Shop")),
        ("/policy", json!(7)),
        ("/default/*", json!("reject")),
        ("/default/*", json!({ "action": "allow", "refuse": "rst" })),
        ("/roles/admins/0", json!({ "vm": "web1" })),
        ("/roles/admins/0/uid", json!("root")),
        ("/roles/admins", json!([])),
        ("/services/web", json!({})),
        ("/services/web/port", json!(0)),
        ("/services/web/vm", json!("web[12]")),
        ("/services/web/versions/v1", json!({ "versions": {} })),
        ("/services/web/vm", json!([])),
        ("/routes/r/port", json!("80")),
        ("/routes/r/backends", json!([])),
        ("/routes/r/backends/0/weight", json!(70000)),
        ("/rules/0/name", json!("a b")),
        ("/rules/0/from", json!({ "vm": "db1", "port": 80 })),
        ("/rules/0/from", json!({ "exe": "curl" })),
        ("/rules/0/action", json!("deny")),
        ("/rules/0/action", json!("drop")),
        ("/rules/0/require", json!({})),
        ("/rules/0/require/authentication", json!("tls")),
        ("/rules/0/require/authentication", json!({})),
        ("/rules/0/require/authentication", json!({ "by": "process" })),
        ("/programs/p/exe", json!("curl")),
        ("/programs/p/text", json!([])),
        ("/programs/p/text/0/page", json!("4")),
        ("/programs/p/text/0/sha256", json!("AAAA")),
        ("/programs/p", json!({ "exe": "/a" })),
        ("/rules/0/require/time/hours", json!("8-18")),
        ("/rules/0/require/time/days", json!("monday")),
        ("/rules/0/require/time", json!({ "zone": "+02:00" })),
        (
            "/qos/classes/0",
            json!({ "name": "c", "from": "any", "to": "web" }),
        ),
        ("/qos/classes/0/priority", json!("high")),
    ];
    for (at, wrong) in wrongs {
        let mut value = good.clone();
        *value.pointer_mut(at).unwrap() = wrong.clone();
        assert_eq!(both(&value), (false, false), "{at} {wrong}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    #[test]
    fn every_document_is_valid(documents in documents()) {
        let validator = validator();
        for document in &documents {
            let value = serde_json::to_value(document).unwrap();
            prop_assert!(validator.is_valid(&value), "{}", value);
        }
    }
}
