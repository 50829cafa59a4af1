// SPDX-License-Identifier: GPL-3.0-only
//! Routes of policy: changes, history, audit log, exports.
//!
//! Answers about the policy have its generation as ETag; a change with `If-Match` is refused (412) when another is in force.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, JsonRejection};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use policyd_api::*;
use serde::{Deserialize, Serialize};

use super::Caller;
use super::handlers::{Answer, Refusal, blocking};
use crate::control::{Control, author};
use crate::enforcer::{Request, Wish};

/// An export has all texts that are kept; parts that versions share are in it once.
const MAX_IMPORT: usize = 256 << 20;

/// The routes.
pub fn routes<S>(control: Arc<Control>) -> Router<S> {
    Router::new()
        .route("/v1/policies", get(policies).post(apply))
        .route("/v1/policies/{name}", get(policy).delete(delete))
        .route("/v1/history", get(history))
        .route("/v1/history/{generation}", get(sets_at))
        .route("/v1/history/{generation}/rollback", post(rollback))
        .route("/v1/audit", get(audit))
        .route("/v1/audit/check", get(audit_check))
        .route("/v1/export", get(export))
        .route(
            "/v1/import",
            post(import).layer(DefaultBodyLimit::max(MAX_IMPORT)),
        )
        .with_state(control)
}

/// An answer with the generation as its ETag.
struct Tagged<T>(u64, T);

impl<T: Serialize> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        ([(header::ETAG, format!("\"{}\"", self.0))], Json(self.1)).into_response()
    }
}

type Reply<T> = Result<Tagged<T>, Refusal>;

fn changed(applied: Applied) -> Tagged<Applied> {
    Tagged(applied.generation, applied)
}

/// The generation of `If-Match`; none for any.
fn if_match(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let Some(value) = headers.get(header::IF_MATCH) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let number = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
    match number.and_then(|n| n.parse().ok()) {
        Some(generation) => Ok(Some(generation)),
        None => Err(Refusal(
            StatusCode::BAD_REQUEST,
            "If-Match is to have a generation in quotes, as an ETag of this API gives it: \"12\"".into(),
        )),
    }
}

async fn policies(State(control): State<Arc<Control>>) -> Reply<Vec<PolicySummary>> {
    let Json((generation, sets)) = blocking(move || control.policies()).await?;
    Ok(Tagged(generation, sets))
}

async fn policy(State(control): State<Arc<Control>>, Path(name): Path<String>) -> Reply<PolicyDocument> {
    let Json((generation, set)) = blocking(move || control.policy(&name)).await?;
    Ok(Tagged(generation, set))
}

async fn change(
    control: Arc<Control>,
    caller: Caller,
    headers: &HeaderMap,
    wish: Wish,
    options: ChangeOptions,
) -> Reply<Applied> {
    let if_generation = if_match(headers)?;
    let work = move || {
        control.change(Request {
            wish,
            by: author(caller.uid),
            message: options.message,
            if_generation,
            dry_run: options.dry_run,
        })
    };
    let Json(applied) = blocking(work).await?;
    Ok(changed(applied))
}

async fn apply(
    State(control): State<Arc<Control>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    headers: HeaderMap,
    request: Result<Json<ApplyRequest>, JsonRejection>,
) -> Reply<Applied> {
    let Json(request) = request?;
    let options = ChangeOptions {
        dry_run: request.dry_run,
        message: request.message,
    };
    change(control, caller, &headers, Wish::Apply(request.documents), options).await
}

async fn delete(
    State(control): State<Arc<Control>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Path(name): Path<String>,
    Query(options): Query<ChangeOptions>,
    headers: HeaderMap,
) -> Reply<Applied> {
    change(control, caller, &headers, Wish::Delete(name), options).await
}

async fn rollback(
    State(control): State<Arc<Control>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Path(generation): Path<u64>,
    Query(options): Query<ChangeOptions>,
    headers: HeaderMap,
) -> Reply<Applied> {
    change(control, caller, &headers, Wish::Rollback(generation), options).await
}

async fn import(
    State(control): State<Arc<Control>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Query(options): Query<ChangeOptions>,
    headers: HeaderMap,
    file: Result<Bytes, BytesRejection>,
) -> Reply<Applied> {
    let file = file.map_err(|e| Refusal(e.status(), e.body_text()))?;
    let if_generation = if_match(&headers)?;
    let work = move || control.import(&file, options, if_generation, author(caller.uid));
    let Json(applied) = blocking(work).await?;
    Ok(changed(applied))
}

async fn export(State(control): State<Arc<Control>>) -> Result<Response, Refusal> {
    let Json(file) = blocking(move || control.export()).await?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], file).into_response())
}

async fn history(State(control): State<Arc<Control>>, Query(query): Query<PageQuery>) -> Reply<HistoryPage> {
    let Json(page) = blocking(move || control.history(&query)).await?;
    Ok(Tagged(page.generation, page))
}

async fn sets_at(State(control): State<Arc<Control>>, Path(generation): Path<u64>) -> Answer<SetsAt> {
    blocking(move || control.sets_at(generation)).await
}

async fn audit(State(control): State<Arc<Control>>, Query(query): Query<PageQuery>) -> Answer<AuditPage> {
    blocking(move || control.audit(&query)).await
}

/// Query of `/v1/audit/check`.
#[derive(Deserialize)]
struct Noted {
    head: Option<String>,
}

async fn audit_check(State(control): State<Arc<Control>>, Query(noted): Query<Noted>) -> Answer<AuditCheck> {
    blocking(move || control.audit_check(noted.head.as_deref())).await
}

#[cfg(test)]
mod tests;
