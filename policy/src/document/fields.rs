// SPDX-License-Identifier: GPL-3.0-only
//! Reading nodes while collecting every problem.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Display;

use super::MAX_LIST;
use super::node::{Key, Node, Value};
use crate::problem::{Place, Problem, nearest};

/// Collects the problems of one file.
pub(super) struct Reader<'f> {
    file: &'f str,
    problems: RefCell<Vec<Problem>>,
}

impl<'f> Reader<'f> {
    pub(super) fn new(file: &'f str) -> Self {
        Reader {
            file,
            problems: RefCell::new(Vec::new()),
        }
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }

    /// Notes a problem.
    pub(super) fn problem(&self, place: Place, what: impl Display, remedy: impl Display) {
        self.problems.borrow_mut().push(Problem {
            file: self.file.to_owned(),
            line: place.line,
            column: place.column,
            what: what.to_string(),
            remedy: remedy.to_string(),
        });
    }

    /// Notes an error whose text is `what; remedy`, as those of this crate's value types are.
    pub(super) fn error(&self, place: Place, error: impl Display) {
        let text = error.to_string();
        match text.split_once("; ") {
            Some((what, remedy)) => self.problem(place, what, remedy),
            None => self.problem(place, text, "see the description of the format"),
        }
    }

    /// The entries of a mapping whose keys the author chooses; the first of equal keys counts.
    pub(super) fn entries<'n>(&self, node: &'n Node, of: &str) -> Vec<(&'n Key, &'n Node)> {
        let Value::Map(map) = &node.value else {
            self.problem(
                node.place,
                format_args!("{of} is {}, not a mapping", node.value.kind()),
                format_args!("write {of} as `name: value` pairs"),
            );
            return Vec::new();
        };
        let mut seen: HashMap<&str, Place> = HashMap::new();
        let mut entries = Vec::with_capacity(map.len());
        for (key, value) in map {
            match seen.get(key.text.as_str()) {
                Some(first) => self.problem(
                    key.place,
                    format_args!("`{}` again in {of}", key.text),
                    format_args!("keep one; the first is at {}:{}", first.line, first.column),
                ),
                None => {
                    seen.insert(&key.text, key.place);
                    entries.push((key, value));
                }
            }
        }
        entries
    }

    /// The fields of a mapping with a known set of them. Unknown ones are problems.
    pub(super) fn fields<'n>(&self, node: &'n Node, of: &str, known: &[&str]) -> Fields<'n> {
        let mut fields = Vec::new();
        for (key, value) in self.entries(node, of) {
            if known.contains(&key.text.as_str()) {
                fields.push((key.text.as_str(), value));
            } else {
                let remedy = match nearest(&key.text, known.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("the fields are {}", known.join(", ")),
                };
                self.problem(
                    key.place,
                    format_args!("unknown field `{}` in {of}", key.text),
                    remedy,
                );
            }
        }
        Fields {
            place: node.place,
            fields,
        }
    }

    /// A text.
    pub(super) fn text<'n>(&self, node: &'n Node, of: &str) -> Option<&'n str> {
        match &node.value {
            Value::Text(text) => Some(text),
            Value::Integer(n) => {
                self.problem(
                    node.place,
                    format_args!("{of} is a number, not a text"),
                    format_args!("put it in quotes: \"{n}\""),
                );
                None
            }
            Value::Null => {
                self.problem(
                    node.place,
                    format_args!("{of} has no value"),
                    "write one after the colon, or remove the field",
                );
                None
            }
            other => {
                self.problem(
                    node.place,
                    format_args!("{of} is {}, not a text", other.kind()),
                    "write a text; if it is one, put it in quotes",
                );
                None
            }
        }
    }

    /// A value or a list of values; each element is read by `one`.
    pub(super) fn list<T>(&self, node: &Node, of: &str, mut one: impl FnMut(&Node) -> Option<T>) -> Vec<T> {
        match &node.value {
            Value::List(list) if list.is_empty() => {
                self.problem(
                    node.place,
                    format_args!("{of} is an empty list, which nothing matches"),
                    "write at least one value, or remove the field",
                );
                Vec::new()
            }
            Value::List(list) if list.len() > MAX_LIST => {
                self.problem(
                    node.place,
                    format_args!("{of} is a list of {} values", list.len()),
                    format_args!("use at most {MAX_LIST}: a pattern, range or block may say it"),
                );
                Vec::new()
            }
            Value::List(list) => list.iter().filter_map(one).collect(),
            _ => one(node).into_iter().collect(),
        }
    }
}

/// The known fields of one mapping.
pub(super) struct Fields<'n> {
    pub place: Place,
    fields: Vec<(&'n str, &'n Node)>,
}

impl<'n> Fields<'n> {
    pub(super) fn get(&self, name: &str) -> Option<&'n Node> {
        self.fields
            .iter()
            .find(|(field, _)| *field == name)
            .map(|(_, node)| *node)
    }

    /// A field that must be there.
    pub(super) fn require(
        &self,
        reader: &Reader<'_>,
        name: &str,
        of: &str,
        example: &str,
    ) -> Option<&'n Node> {
        let node = self.get(name);
        if node.is_none() {
            reader.problem(
                self.place,
                format_args!("{of} has no `{name}`"),
                format_args!("add one, such as `{name}: {example}`"),
            );
        }
        node
    }
}
