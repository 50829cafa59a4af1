// SPDX-License-Identifier: GPL-3.0-only
//! One function a route.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use policyd_api::*;
use serde::Deserialize;

use crate::daemon::{Daemon, DaemonError};

/// An error as the API gives it.
pub struct Refusal(pub StatusCode, pub String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(ErrorBody { error: self.1 })).into_response()
    }
}

impl From<DaemonError> for Refusal {
    fn from(e: DaemonError) -> Refusal {
        let status = match &e {
            DaemonError::NoSuchDomain(_)
            | DaemonError::NoSuchPolicy(_)
            | DaemonError::NoSuchGeneration(_) => StatusCode::NOT_FOUND,
            DaemonError::Stale(_) => StatusCode::PRECONDITION_FAILED,
            DaemonError::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            DaemonError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            DaemonError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refusal(status, e.to_string())
    }
}

impl From<JsonRejection> for Refusal {
    fn from(e: JsonRejection) -> Refusal {
        Refusal(e.status(), e.body_text())
    }
}

/// What most handlers give.
pub type Answer<T> = Result<Json<T>, Refusal>;

/// Runs what may block away from the async threads.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DaemonError> + Send + 'static,
) -> Answer<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(Json(result?)),
        Err(e) => Err(Refusal(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the request failed inside: {e}"),
        )),
    }
}

pub async fn status(State(daemon): State<Arc<Daemon>>) -> Answer<Status> {
    blocking(move || Ok(daemon.status())).await
}

pub async fn domains(State(daemon): State<Arc<Daemon>>) -> Answer<Vec<Domain>> {
    blocking(move || daemon.domains()).await
}

pub async fn processes(
    State(daemon): State<Arc<Daemon>>,
    Path(domain): Path<String>,
) -> Answer<Vec<Process>> {
    blocking(move || daemon.processes(&domain)).await
}

pub async fn connections(
    State(daemon): State<Arc<Daemon>>,
    Path(domain): Path<String>,
) -> Answer<Vec<Connection>> {
    blocking(move || daemon.connections(&domain)).await
}

pub async fn check(State(daemon): State<Arc<Daemon>>, Path(domain): Path<String>) -> Answer<Check> {
    blocking(move || daemon.check(&domain)).await
}

pub async fn graph(State(daemon): State<Arc<Daemon>>, Path(domain): Path<String>) -> Answer<Graph> {
    blocking(move || daemon.graph(&domain)).await
}

/// Query of `/v1/flows`, `/v1/qos` and `/v1/stats`.
#[derive(Deserialize)]
pub struct FlowQuery {
    domain: Option<String>,
}

pub async fn flows(State(daemon): State<Arc<Daemon>>, Query(query): Query<FlowQuery>) -> Answer<Vec<Flow>> {
    blocking(move || daemon.flows(query.domain.as_deref())).await
}

pub async fn routes(State(daemon): State<Arc<Daemon>>) -> Answer<Vec<Route>> {
    blocking(move || daemon.routes()).await
}

pub async fn qos(State(daemon): State<Arc<Daemon>>, Query(query): Query<FlowQuery>) -> Answer<Qos> {
    blocking(move || daemon.qos(query.domain.as_deref())).await
}

pub async fn stats(State(daemon): State<Arc<Daemon>>, Query(query): Query<FlowQuery>) -> Answer<Stats> {
    blocking(move || daemon.stats(query.domain.as_deref())).await
}

pub async fn explain(
    State(daemon): State<Arc<Daemon>>,
    request: Result<Json<ExplainRequest>, JsonRejection>,
) -> Answer<Explained> {
    let Json(request) = request?;
    blocking(move || daemon.explain(&request)).await
}

pub async fn not_found(uri: Uri) -> Refusal {
    Refusal(
        StatusCode::NOT_FOUND,
        format!(
            "there is no {} here; tool and daemon may be of different versions",
            uri.path()
        ),
    )
}
