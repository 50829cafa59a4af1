// SPDX-License-Identifier: GPL-3.0-only
//! The stream of one trace: newline-delimited JSON, for as long as its reader is there.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::channel::{Channel, Sender};
use policyd_api::{TraceFilter, TraceItem};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::handlers::Refusal;
use super::inputs::{Asked, Segment};
use super::stream::Lines;
use crate::daemon::{Daemon, DaemonError};
use crate::traces::Trace;

/// Chunks on their way to the reader.
const CHUNKS: usize = 16;
/// How long a domain's thread may take to find and arm the probes.
const PATIENCE: Duration = Duration::from_secs(60);
/// How soon a reader that has gone is noticed, since it is sent an empty line so often.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// A trace without an end: longer than any host runs.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// `GET /v1/domains/{domain}/trace`. Answers when the probes are armed.
pub async fn trace(
    State(daemon): State<Arc<Daemon>>,
    Segment(domain): Segment<String>,
    Asked(filter): Asked<TraceFilter>,
) -> Result<Lines<TraceItem>, Refusal> {
    let mut trace = daemon.trace(&domain, &filter)?;
    let first = match tokio::time::timeout(PATIENCE, trace.next()).await {
        Ok(Some(TraceItem::End { why })) => {
            return Err(DaemonError::Invalid(why.unwrap_or_else(|| "the domain has gone".into())).into());
        }
        Ok(Some(first)) => first,
        Ok(None) | Err(_) => {
            return Err(
                DaemonError::Unavailable(format!("{domain} is too busy to be traced; try again")).into(),
            );
        }
    };
    let (sender, body) = Channel::<Bytes, Infallible>::new(CHUNKS);
    tokio::spawn(feed(trace, first, filter, daemon.stopping(), sender));
    Ok(Lines::new(body))
}

/// Sends what the trace tells until it, its reader, its time or the daemon is at an end.
async fn feed(
    mut trace: Trace,
    first: TraceItem,
    filter: TraceFilter,
    mut stop: watch::Receiver<bool>,
    mut sender: Sender<Bytes>,
) {
    let lasts = filter
        .duration
        .map_or(FOR_EVER, Duration::from_secs)
        .min(FOR_EVER);
    let end = tokio::time::sleep_until(Instant::now() + lasts);
    tokio::pin!(end);
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut left = filter.count.unwrap_or(u64::MAX);
    let mut next = Some(first);
    loop {
        let mut lines = BytesMut::new();
        let mut over = false;
        if let Some(item) = next.take() {
            match item {
                TraceItem::Call(_) => left = left.saturating_sub(1),
                TraceItem::End { .. } => over = true,
                _ => {}
            }
            write_line(&mut lines, &item);
        }
        let lost = trace.lost();
        if lost > 0 {
            write_line(&mut lines, &TraceItem::Lost { count: lost });
        }
        if left == 0 && !over {
            over = true;
            write_line(&mut lines, &TraceItem::End { why: None });
        }
        if lines.is_empty() {
            lines.put_u8(b'\n');
        }
        if sender.send_data(lines.freeze()).await.is_err() || over {
            return;
        }
        tokio::select! {
            item = trace.next() => match item {
                Some(item) => next = Some(item),
                None => return,
            },
            _ = heartbeat.tick() => {}
            () = &mut end => next = Some(TraceItem::End { why: None }),
            _ = stop.wait_for(|stopping| *stopping) => next = Some(TraceItem::End { why: Some("policyd ends".into()) }),
        }
    }
}

fn write_line(out: &mut BytesMut, item: &TraceItem) {
    // Plain data with string keys: serialising it into memory cannot fail. Were it to, the item is left out.
    if let Ok(line) = serde_json::to_vec(item) {
        out.put_slice(&line);
        out.put_u8(b'\n');
    }
}
