// SPDX-License-Identifier: GPL-3.0-only
//! The event stream: newline-delimited JSON, from the ring at the reader's pace.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::marker::PhantomData;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::channel::{Channel, Sender};
use policyd_api::{Event, EventFilter, What};
use schemars::JsonSchema;
use serde_json::json;
use tokio::sync::watch;

use super::describe::{About, Gives, Schemas, response};
use super::handlers::Refusal;
use super::inputs::Asked;
use crate::daemon::{Daemon, DaemonError};
use crate::events::{EventLog, now_ns};

/// Chunks on their way to one reader; past that the reader's loop waits, and the ring goes on without it.
const CHUNKS: usize = 4;

/// An answer that is a line of JSON for each `T`.
pub struct Lines<T>(Body, PhantomData<T>);

impl<T> Lines<T> {
    /// `body`: whole lines.
    pub fn new(body: Channel<Bytes, Infallible>) -> Lines<T> {
        Lines(Body::new(body), PhantomData)
    }
}

impl<T> IntoResponse for Lines<T> {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, "application/x-ndjson")], self.0).into_response()
    }
}

impl<T: JsonSchema> Gives for Result<Lines<T>, Refusal> {
    fn describe(about: &mut About, schemas: &mut Schemas) {
        // Which schema each line has, OpenAPI has no word for before 3.2: it is the one that it has there.
        let mut answer = response(
            "A line of JSON each; empty lines only say that the stream lives.",
            "application/x-ndjson",
            &json!({ "type": "string" }),
        );
        answer["content"]["application/x-ndjson"]["x-itemSchema"] = schemas.answer::<T>();
        about.answer = Some(answer);
        about
            .refusals
            .insert(422, "What is asked makes no sense; the text says why.");
    }
}

/// `GET /v1/events`.
pub async fn events(
    State(daemon): State<Arc<Daemon>>,
    Asked(filter): Asked<EventFilter>,
) -> Result<Lines<Event>, Refusal> {
    let (sender, body) = Channel::<Bytes, Infallible>::new(CHUNKS);
    let selection = Selection::new(&daemon, &filter)?;
    let log = Arc::clone(&daemon.events);
    let stop = daemon.stopping();
    tokio::spawn(feed(
        log,
        stop,
        selection,
        filter.after.unwrap_or(0),
        filter.follow,
        sender,
    ));
    Ok(Lines::new(body))
}

/// Sends what the ring has, then waits for more; ends with the reader, or with the daemon.
async fn feed(
    log: Arc<EventLog>,
    mut stop: watch::Receiver<bool>,
    selection: Selection,
    mut after: u64,
    follow: bool,
    mut sender: Sender<Bytes>,
) {
    let mut news = log.subscribe();
    let mut first = true;
    loop {
        news.mark_unchanged();
        let batch = log.since(after);
        let mut lines = BytesMut::new();
        // What left the ring before this reader came is history, not loss.
        if batch.missed > 0 && !(first && after == 0) {
            log.count_missed(batch.missed);
            write_line(&mut lines, &lost(after, batch.missed));
        }
        first = false;
        for event in batch.events {
            after = event.seq;
            if selection.wants(&event) {
                write_line(&mut lines, &event);
            }
        }
        if !lines.is_empty() && sender.send_data(lines.freeze()).await.is_err() {
            return;
        }
        if !follow {
            return;
        }
        tokio::select! {
            changed = news.changed() => if changed.is_err() { return },
            _ = stop.wait_for(|stopping| *stopping) => return,
        }
    }
}

fn lost(after: u64, count: u64) -> Event {
    Event {
        seq: after.saturating_add(count),
        time_ns: now_ns(),
        domain: None,
        domid: None,
        what: What::Lost {
            count,
            place: "this reader was too slow".into(),
        },
    }
}

fn write_line(out: &mut BytesMut, event: &Event) {
    // Events are plain data with string keys; serialising them into memory cannot fail. Were it to, the event is
    // left out rather than half written.
    if let Ok(line) = serde_json::to_vec(event) {
        out.put_slice(&line);
        out.put_u8(b'\n');
    }
}

/// The kinds in a list with commas.
fn kinds(list: &str) -> Result<BTreeSet<&'static str>, DaemonError> {
    list.split(',')
        .map(|asked| {
            let known = What::KINDS.into_iter().find(|kind| *kind == asked.trim());
            known.ok_or_else(|| {
                DaemonError::Invalid(format!(
                    "there is no kind of event {asked:?}; there are {}",
                    What::KINDS.join(", ")
                ))
            })
        })
        .collect()
}

/// The reader's filter, resolved once.
struct Selection {
    domain: Option<Vec<String>>,
    kinds: Option<BTreeSet<&'static str>>,
}

impl Selection {
    fn new(daemon: &Daemon, filter: &EventFilter) -> Result<Selection, DaemonError> {
        Ok(Selection {
            // An id stands for the name it has now, so that the events of a rebooted domain stay in the stream.
            domain: filter.domain.as_ref().map(|d| {
                let mut names = vec![d.clone()];
                names.extend(daemon.domain_name(d));
                names
            }),
            kinds: filter.kind.as_deref().map(kinds).transpose()?,
        })
    }

    fn wants(&self, event: &Event) -> bool {
        let domain = match (&self.domain, &event.domain) {
            (None, _) => true,
            (Some(names), Some(name)) => names.contains(name),
            (Some(_), None) => false,
        };
        domain
            && self
                .kinds
                .as_ref()
                .is_none_or(|kinds| kinds.contains(event.what.kind()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_kind_is_refused_with_the_known_ones() {
        assert_eq!(
            kinds("exec, accept").expect("both are known"),
            BTreeSet::from(["accept", "exec"])
        );
        let refused = kinds("exec,verdict").expect_err("that is none");
        assert!(refused.to_string().contains("\"verdict\""), "{refused}");
        for kind in What::KINDS {
            assert!(refused.to_string().contains(kind), "{refused}");
        }
    }
}
