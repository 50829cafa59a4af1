// SPDX-License-Identifier: GPL-3.0-only
//! The schema names every field that is read, and no other.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{SCHEMA, labels, programs, qos, read, read_routes, require, roles};

#[test]
fn the_schema_names_the_fields_that_are_read() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let named = |at: &str| -> BTreeSet<String> {
        let properties = schema.pointer(at).unwrap()["properties"].as_object().unwrap();
        properties.keys().cloned().collect()
    };
    let read: [(&str, &[&str]); 14] = [
        ("", &read::DOCUMENT),
        ("/$defs/conditions", &read::SELECTOR),
        ("/$defs/xen", &labels::XEN),
        ("/$defs/rule", &read::RULE),
        ("/$defs/users", &roles::USERS),
        ("/$defs/program", &programs::PROGRAM),
        ("/$defs/run", &programs::RUN),
        ("/$defs/require", &require::REQUIRE),
        ("/$defs/authentication", &require::ENDS),
        ("/$defs/time", &require::TIME),
        ("/$defs/route", &read_routes::ROUTE),
        ("/$defs/backend", &read_routes::BACKEND),
        ("/$defs/health", &read_routes::HEALTH),
        ("/$defs/class", &qos::read::CLASS),
    ];
    for (at, fields) in read {
        let fields: BTreeSet<String> = fields.iter().map(|field| (*field).to_owned()).collect();
        assert_eq!(named(at), fields, "{at}");
    }
}
