// SPDX-License-Identifier: GPL-3.0-only
//! A YAML text as a tree of nodes with their places.
//!
//! The tree is a step of its own so that the reader above it can collect every problem: a deserialiser that
//! goes straight into structs stops at the first.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy};
use serde_saphyr::{Location, Spanned};

use crate::problem::{Place, Problem};

/// How deep a document nests at the most; a valid one has five levels.
const MAX_DEPTH: usize = 24;
/// How many nodes are made at the most: a bound on what aliases can multiply.
const MAX_NODES: usize = 400_000;

/// A node and where it begins.
#[derive(Debug)]
pub(super) struct Node {
    pub place: Place,
    pub value: Value,
}

/// What a node is.
#[derive(Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// In the order written, duplicates included.
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping and where it stands.
#[derive(Debug)]
pub(super) struct Key {
    pub place: Place,
    pub text: String,
}

impl Value {
    /// The kind of the value as a person would call it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Integer(_) => "a number",
            Value::Float(_) => "a fraction",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// Reads the text; the problem says where it stops to be YAML.
pub(super) fn parse(file: &str, text: &str) -> Result<Node, Box<Problem>> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_documents: 2,
            max_aliases: 10_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_NODES,
            max_replay_stack_depth: 8,
        },
        // The reader reports duplicates itself, all of them.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        with_snippet: false,
        emit_comments: false,
    };
    let spanned: Spanned<Value> = serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| Box::new(problem(file, text, &error)))?;
    Ok(node(spanned))
}

fn node(spanned: Spanned<Value>) -> Node {
    Node {
        place: place(&spanned.referenced),
        value: spanned.value,
    }
}

fn place(location: &Location) -> Place {
    // An unknown location is line 0; the start of the file is the nearest truth.
    let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX).max(1);
    Place {
        line: number(location.line()),
        column: number(location.column()),
    }
}

fn problem(file: &str, text: &str, error: &serde_saphyr::Error) -> Problem {
    let place = error.location().map_or(Place::START, |l| place(&l));
    let rendered = error.render();
    // The renderer adds the location in words, and some errors advise programmers after a semicolon; the
    // problem shows the one as file:line:column already and the other is not for who writes a policy.
    let what = rendered.split(" at line ").next().unwrap_or(&rendered);
    let what = what.split("; ").next().unwrap_or(what);
    Problem {
        file: file.to_owned(),
        line: place.line,
        column: place.column,
        what: format!("not valid YAML: {}", what.trim_end_matches('.')),
        remedy: remedy(text, place, what).to_owned(),
    }
}

/// What most often is behind an error at this place.
fn remedy(text: &str, place: Place, what: &str) -> &'static str {
    let lines = text.lines().count();
    let line = text
        .lines()
        .nth(place.line.saturating_sub(1) as usize)
        .unwrap_or("");
    let what = what.to_lowercase();
    if what.contains("multiple") {
        "write one policy set a file, without a second `---`"
    } else if what.contains("merge") {
        "write the fields out; `<<` is not supported"
    } else if line.contains('*') && (what.contains("alias") || what.contains("anchor")) {
        "put a pattern that begins with * in quotes, as in \"*\""
    } else if line.contains('\t') {
        "indent with spaces, not tabs"
    } else if place.line as usize >= lines {
        "look whether the file was cut short, or a quote or bracket is not closed"
    } else {
        "look at the indentation, the quotes and the brackets here and on the line before"
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u128<E: serde::de::Error>(self, value: u128) -> Result<Value, E> {
        i128::try_from(value)
            .map(Value::Integer)
            .map_err(|_| E::custom("a number too large for anything in a policy"))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_bytes<E: serde::de::Error>(self, value: &[u8]) -> Result<Value, E> {
        std::str::from_utf8(value)
            .map(|text| Value::Text(text.to_owned()))
            .map_err(|_| E::custom("binary data, which nothing in a policy is"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = access.next_element::<Spanned<Value>>()? {
            list.push(node(element));
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = access.next_key::<Spanned<Value>>()? {
            let value = node(access.next_value()?);
            let text = match key.value {
                Value::Text(text) => text,
                Value::Integer(n) => n.to_string(),
                Value::Bool(b) => b.to_string(),
                Value::Float(n) => n.to_string(),
                Value::Null => "null".to_owned(),
                Value::List(_) | Value::Map(_) => {
                    return Err(A::Error::custom("a list or mapping as the name of a field"));
                }
            };
            map.push((
                Key {
                    place: place(&key.referenced),
                    text,
                },
                value,
            ));
        }
        Ok(Value::Map(map))
    }
}
