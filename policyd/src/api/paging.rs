// SPDX-License-Identifier: GPL-3.0-only
//! Parts of lists that may be long and that change meanwhile: in the order of a key that stays, from where the last part ended.

use axum::Json;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use policyd_api::{Connection, Domain, Flow, Process, escape};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::describe::{About, Gives, Schemas, header as header_object, response};
use super::handlers::Refusal;
use crate::daemon::DaemonError;

/// Most items in a part.
const MAX: usize = 10_000;

/// Which part of a list is wanted.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// At most so many; all without it.
    #[schemars(range(min = 1, max = 10_000))]
    pub limit: Option<usize>,
    /// Where to go on: from the `Link` of the page before.
    pub cursor: Option<String>,
}

/// What can be listed in parts.
pub trait Listed {
    /// What names it among the others. Where several have the same, they are told apart by their number.
    fn key(&self) -> String;
}

impl Listed for Domain {
    fn key(&self) -> String {
        format!("{:05}", self.id)
    }
}

impl Listed for Process {
    fn key(&self) -> String {
        format!("{:010}", self.pid)
    }
}

impl Listed for Connection {
    fn key(&self) -> String {
        let remote = self.remote.map(|r| r.to_string()).unwrap_or_default();
        format!(
            "{} {} {} {:?} {}",
            self.protocol, self.local, remote, self.pid, self.netns
        )
    }
}

impl Listed for Flow {
    fn key(&self) -> String {
        format!(
            "{} {} {} {} {}",
            self.domain, self.protocol, self.local, self.remote, self.outgoing
        )
    }
}

/// A part of a list.
#[derive(Debug)]
pub struct Page<T> {
    items: Vec<T>,
    /// The query of the next part; none at the end.
    next: Option<String>,
}

impl Part {
    /// This part of a list. `query`: what else was asked, for the next part.
    ///
    /// # Errors
    /// A limit or cursor that makes no sense.
    pub fn of<T: Listed>(
        self,
        mut items: Vec<T>,
        query: &[(&str, Option<String>)],
    ) -> Result<Page<T>, DaemonError> {
        if self.limit.is_none() && self.cursor.is_none() {
            return Ok(Page { items, next: None });
        }
        let limit = self.limit.unwrap_or(MAX);
        if !(1..=MAX).contains(&limit) {
            return Err(DaemonError::Invalid(format!(
                "a limit is 1 to {MAX}, not {limit}; the rest is under `Link`"
            )));
        }
        items.sort_by_cached_key(Listed::key);
        if let Some(cursor) = &self.cursor {
            let (given, key) = parse(cursor)?;
            let before = items.partition_point(|item| item.key().as_str() < key);
            let same = items[before..].partition_point(|item| item.key() == key);
            items.drain(..before + same.min(given));
        }
        if items.len() <= limit {
            return Ok(Page { items, next: None });
        }
        items.truncate(limit);
        let key = items.last().map(Listed::key).unwrap_or_default();
        let mut given = items.iter().rev().take_while(|item| item.key() == key).count();
        // A part that is all of one key may go on with it.
        if given == items.len()
            && let Some((before, last)) = self.cursor.as_deref().and_then(|c| parse(c).ok())
            && last == key
        {
            given = given.saturating_add(before);
        }
        let mut parts: Vec<String> = query
            .iter()
            .filter_map(|(name, value)| Some(format!("{name}={}", escape(value.as_deref()?))))
            .collect();
        parts.push(format!("limit={limit}"));
        parts.push(format!("cursor={}", escape(&format!("{given}.{key}"))));
        Ok(Page {
            items,
            next: Some(parts.join("&")),
        })
    }
}

/// How many with the last key were given, and that key.
fn parse(cursor: &str) -> Result<(usize, &str), DaemonError> {
    let parts = cursor.split_once('.');
    let parts = parts.and_then(|(given, key)| Some((given.parse().ok()?, key)));
    parts.ok_or_else(|| {
        DaemonError::Invalid("this cursor is none of ours; take it from `Link` of the page before".into())
    })
}

impl<T: Serialize> IntoResponse for Page<T> {
    fn into_response(self) -> Response {
        let mut response = Json(self.items).into_response();
        // What was escaped is a header's value.
        let next = self.next.map(|query| format!("<?{query}>; rel=\"next\""));
        if let Some(Ok(value)) = next.map(|text| HeaderValue::from_str(&text)) {
            response.headers_mut().insert(header::LINK, value);
        }
        response
    }
}

impl<T: JsonSchema> Gives for Result<Page<T>, Refusal> {
    fn describe(about: &mut About, schemas: &mut Schemas) {
        let mut answer = response(
            "The list, or a part of it.",
            "application/json",
            &schemas.answer::<Vec<T>>(),
        );
        answer["headers"] = header_object(
            "Link",
            "Where the next part is, as `<?limit=N&cursor=…>; rel=\"next\"`; not there at the end.",
            &json!({ "type": "string" }),
        );
        about.answer = Some(answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Listed for u32 {
        fn key(&self) -> String {
            format!("{:03} ä&?", self / 10)
        }
    }

    fn part(query: &str) -> Part {
        let value = |name: &str| {
            let mut parts = query.split('&').filter_map(|p| p.split_once('='));
            parts.find(|(n, _)| *n == name).map(|(_, v)| v.to_owned())
        };
        Part {
            limit: value("limit").map(|l| l.parse().expect("a number")),
            cursor: value("cursor").map(|c| decoded(&c)),
        }
    }

    fn decoded(text: &str) -> String {
        let mut bytes = Vec::new();
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            bytes.push(match byte {
                b'%' => {
                    let digits: String = rest.by_ref().take(2).map(char::from).collect();
                    u8::from_str_radix(&digits, 16).expect("a byte")
                }
                byte => byte,
            });
        }
        String::from_utf8(bytes).expect("text")
    }

    /// Ten share each key, so that parts end amid them.
    #[test]
    fn parts_make_the_whole_whatever_their_size() {
        let all: Vec<u32> = (0..95).collect();
        for limit in [1, 3, 7, 10, 30, 94, 95, 200] {
            let (mut seen, mut next) = (Vec::new(), Some(format!("limit={limit}")));
            while let Some(query) = next {
                let mut shuffled = all.clone();
                shuffled.rotate_left(40);
                shuffled.sort_by_key(|n| n % 10);
                let page = part(&query)
                    .of(shuffled, &[("domain", Some("a b".into()))])
                    .expect("a part");
                assert!(page.items.len() <= limit);
                seen.extend(page.items);
                next = page.next;
                assert!(
                    next.as_ref().is_none_or(|n| n.starts_with("domain=a%20b&limit=")),
                    "{next:?}"
                );
            }
            seen.sort_unstable();
            assert_eq!(seen, all, "{limit}");
        }
    }

    #[test]
    fn what_comes_and_goes_meanwhile_moves_nothing_else() {
        let page = part("limit=2").of(vec![10, 20, 30, 40], &[]).expect("a part");
        let next = page.next.expect("there is more");
        let page = part(&next).of(vec![5, 10, 30, 35, 40], &[]).expect("a part");
        assert_eq!(page.items, [30, 35]);
    }

    #[test]
    fn nonsense_is_refused() {
        for query in ["limit=0", "limit=10001", "cursor=x", "cursor=.a"] {
            assert!(
                matches!(part(query).of(vec![1u32], &[]), Err(DaemonError::Invalid(_))),
                "{query}"
            );
        }
    }
}
