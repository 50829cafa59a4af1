// SPDX-License-Identifier: GPL-3.0-only
//! Reading single values: names, patterns, ports, user ids.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use super::fields::Reader;
use super::node::{Node, Value};
use crate::pattern::Pattern;
use crate::port::{PortRange, Protocol, Range, UidRange};
use crate::problem::{Place, nearest};

/// A name of a policy, a service or a rule: it travels in URLs, events and identities, so it is kept plain.
pub(super) fn name(reader: &Reader<'_>, node: &Node, of: &str) -> Option<String> {
    let text = reader.text(node, of)?;
    plain_name(reader, node.place, text, of)
}

pub(super) fn plain_name(reader: &Reader<'_>, place: Place, text: &str, of: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !text.is_empty() && text.len() <= 63 && text.chars().all(plain) {
        return Some(text.to_owned());
    }
    let better: String = text
        .to_lowercase()
        .chars()
        .map(|c| if plain(c) { c } else { '-' })
        .take(63)
        .collect();
    let better = better.trim_matches('-');
    let example = if better.is_empty() { "shop" } else { better };
    reader.problem(
        place,
        format_args!("`{}` is not {of}", shorten(text)),
        format_args!("use 1 to 63 of a-z, 0-9 and -, such as `{example}`"),
    );
    None
}

pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

pub(super) fn patterns<T>(
    reader: &Reader<'_>,
    node: Option<&Node>,
    of: &str,
    mut make: impl FnMut(Pattern) -> T,
) -> Vec<T> {
    values(reader, node, of).into_iter().map(&mut make).collect()
}

/// One or several texts, each parsed by its type.
pub(super) fn values<T: FromStr<Err: Display>>(reader: &Reader<'_>, node: Option<&Node>, of: &str) -> Vec<T> {
    node.map(|n| {
        reader.list(n, of, |one| {
            let text = reader.text(one, of)?;
            parsed(reader, one.place, text)
        })
    })
    .unwrap_or_default()
}

pub(super) fn parsed<T: FromStr<Err: Display>>(reader: &Reader<'_>, place: Place, text: &str) -> Option<T> {
    text.parse().map_err(|e| reader.error(place, e)).ok()
}

pub(super) fn protocol(reader: &Reader<'_>, node: &Node) -> Option<Protocol> {
    if let Value::Integer(n) = node.value {
        // As a text it is judged like one that was written in quotes.
        return parsed(reader, node.place, &n.to_string());
    }
    let text = reader.text(node, "`protocol`")?;
    if let Some(near) = nearest(text, Protocol::names()).filter(|_| text.parse::<Protocol>().is_err()) {
        reader.problem(
            node.place,
            format_args!("`{}` is not a protocol", shorten(text)),
            format_args!("did you mean `{near}`?"),
        );
        return None;
    }
    parsed(reader, node.place, text)
}

pub(super) fn ports(reader: &Reader<'_>, node: Option<&Node>, of: &str) -> Vec<PortRange> {
    node.map(|n| {
        reader.list(n, of, |one| {
            range(reader, one, "a port", "80 or 8000-8010", 1, u16::MAX)
        })
    })
    .unwrap_or_default()
}

/// Ids of users or groups, by the name of the field.
pub(super) fn ids(reader: &Reader<'_>, node: &Node, field: &str) -> Vec<UidRange> {
    let of = if field == "gid" { "a group id" } else { "a user id" };
    reader.list(node, &format!("`{field}`"), |one| {
        range(reader, one, of, "1000 or 1000-1999", 0, u32::MAX)
    })
}

/// A number, or two with a dash between them.
fn range<T>(reader: &Reader<'_>, node: &Node, of: &str, example: &str, least: T, most: T) -> Option<Range<T>>
where
    T: Copy + Ord + Display + TryFrom<i128>,
{
    let (first, last, text) = match &node.value {
        Value::Integer(n) => (Some(*n), Some(*n), n.to_string()),
        Value::Text(text) => {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            (number(first), number(last), text.clone())
        }
        other => {
            reader.problem(
                node.place,
                format_args!("{of} is {}", other.kind()),
                format_args!("write a number or a range, such as {example}"),
            );
            return None;
        }
    };
    let (Some(first), Some(last)) = (first, last) else {
        reader.problem(
            node.place,
            format_args!("`{}` is not {of} or a range", shorten(&text)),
            format_args!("write a number or a range, such as {example}"),
        );
        return None;
    };
    let within = |n: i128| T::try_from(n).ok().filter(|n| least <= *n && *n <= most);
    let (Some(low), Some(high)) = (within(first), within(last)) else {
        reader.problem(
            node.place,
            format_args!("{} is out of range for {of}", shorten(&text)),
            format_args!("use {least} to {most}"),
        );
        return None;
    };
    let range = Range::new(low, high);
    if range.is_none() {
        reader.problem(
            node.place,
            format_args!("the range {low}-{high} ends before it begins"),
            format_args!("write {high}-{low}"),
        );
    }
    range
}

/// A decimal number without sign or space around it.
fn number(text: &str) -> Option<i128> {
    let digits = !text.is_empty() && text.len() <= 20 && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// One of two or three words; `of` is what they are, with its article.
pub(super) fn one_of<T: Copy>(
    reader: &Reader<'_>,
    node: &Node,
    of: &str,
    all: &[T],
    word: impl Fn(T) -> &'static str,
) -> Option<T> {
    let text = reader.text(node, of)?;
    let found = all.iter().copied().find(|one| word(*one) == text);
    if found.is_none() {
        let mut words: Vec<&str> = all.iter().map(|one| word(*one)).collect();
        let remedy = match (nearest(text, words.iter().copied()), words.pop()) {
            (Some(near), _) => format!("did you mean `{near}`?"),
            (None, last) => format!("write {} or {}", words.join(", "), last.unwrap_or_default()),
        };
        reader.problem(
            node.place,
            format_args!("`{}` is not {of}", shorten(text)),
            remedy,
        );
    }
    found
}

/// `true` or `false`.
pub(super) fn boolean(reader: &Reader<'_>, node: &Node, of: impl Display) -> Option<bool> {
    match &node.value {
        Value::Bool(is) => Some(*is),
        other => {
            reader.problem(
                node.place,
                format_args!("{of} is {}, not true or false", other.kind()),
                "write true or false",
            );
            None
        }
    }
}

/// A whole number in these bounds.
pub(super) fn whole<T>(reader: &Reader<'_>, node: &Node, of: impl Display, least: T, most: T) -> Option<T>
where
    T: Copy + Ord + Display + TryFrom<i128>,
{
    let Value::Integer(n) = node.value else {
        reader.problem(
            node.place,
            format_args!("{of} is {}, not a number", node.value.kind()),
            format_args!("write a number from {least} to {most}"),
        );
        return None;
    };
    let within = T::try_from(n).ok().filter(|n| least <= *n && *n <= most);
    if within.is_none() {
        reader.problem(
            node.place,
            format_args!("{n} is out of range for {of}"),
            format_args!("use {least} to {most}"),
        );
    }
    within
}

/// `5s`, `500ms`, or a number of seconds.
pub(super) fn time(reader: &Reader<'_>, node: &Node, field: &str, least: u64, most: u64) -> Option<Duration> {
    let millis = match &node.value {
        Value::Integer(n) => u64::try_from(*n).ok().and_then(|n| n.checked_mul(1000)),
        Value::Text(text) => match (text.strip_suffix("ms"), text.strip_suffix('s')) {
            (Some(n), _) => n.parse().ok(),
            (None, Some(n)) => n.parse::<u64>().ok().and_then(|n| n.checked_mul(1000)),
            (None, None) => None,
        },
        _ => None,
    };
    let within = millis.filter(|n| (least..=most).contains(n));
    if within.is_none() {
        reader.problem(
            node.place,
            format_args!("`{field}` is not a time from {least}ms to {most}ms"),
            "write it as 5s or 500ms",
        );
    }
    within.map(Duration::from_millis)
}
