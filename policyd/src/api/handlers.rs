// SPDX-License-Identifier: GPL-3.0-only
//! One function a route.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use policyd_api::*;
use schemars::JsonSchema;
use serde::Deserialize;

use super::inputs::{Asked, Body, Segment};
use super::paging::{Page, Part};
use crate::daemon::{Daemon, DaemonError};

/// An error as the API gives it.
pub struct Refusal {
    status: StatusCode,
    text: String,
    /// The generation in force, where another was expected.
    generation: Option<u64>,
}

impl Refusal {
    /// `text`: what is wrong and what to do, one problem a line.
    pub fn new(status: StatusCode, text: impl Into<String>) -> Refusal {
        Refusal {
            status,
            text: text.into(),
            generation: None,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(ErrorBody { error: self.text })).into_response();
        if let Some(generation) = self.generation {
            tag(&mut response, generation);
        }
        response
    }
}

/// Gives an answer the generation in force as its ETag.
pub fn tag(response: &mut Response, generation: u64) {
    // Digits in quotes are always a header's value.
    if let Ok(value) = HeaderValue::from_str(&format!("\"{generation}\"")) {
        response.headers_mut().insert(header::ETAG, value);
    }
}

impl From<DaemonError> for Refusal {
    fn from(e: DaemonError) -> Refusal {
        let status = match &e {
            DaemonError::NoSuchDomain(_)
            | DaemonError::NoSuchPolicy(_)
            | DaemonError::NoSuchGeneration(_) => StatusCode::NOT_FOUND,
            DaemonError::Stale { .. } => StatusCode::PRECONDITION_FAILED,
            DaemonError::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            DaemonError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            DaemonError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refusal {
            status,
            text: e.to_string(),
            generation: match e {
                DaemonError::Stale { generation, .. } => Some(generation),
                _ => None,
            },
        }
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
        Err(e) => Err(Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the request failed inside: {e}"),
        )),
    }
}

/// The same for a part of a list.
pub async fn page<T: Send + 'static>(
    work: impl FnOnce() -> Result<Page<T>, DaemonError> + Send + 'static,
) -> Result<Page<T>, Refusal> {
    blocking(work).await.map(|Json(page)| page)
}

pub async fn status(State(daemon): State<Arc<Daemon>>) -> Answer<Status> {
    blocking(move || Ok(daemon.status())).await
}

pub async fn domains(
    State(daemon): State<Arc<Daemon>>,
    Asked(part): Asked<Part>,
) -> Result<Page<Domain>, Refusal> {
    page(move || part.of(daemon.domains()?, &[])).await
}

pub async fn processes(
    State(daemon): State<Arc<Daemon>>,
    Segment(domain): Segment<String>,
    Asked(part): Asked<Part>,
) -> Result<Page<Process>, Refusal> {
    page(move || part.of(daemon.processes(&domain)?, &[])).await
}

pub async fn connections(
    State(daemon): State<Arc<Daemon>>,
    Segment(domain): Segment<String>,
    Asked(part): Asked<Part>,
) -> Result<Page<Connection>, Refusal> {
    page(move || part.of(daemon.connections(&domain)?, &[])).await
}

pub async fn check(State(daemon): State<Arc<Daemon>>, Segment(domain): Segment<String>) -> Answer<Check> {
    blocking(move || daemon.check(&domain)).await
}

pub async fn graph(State(daemon): State<Arc<Daemon>>, Segment(domain): Segment<String>) -> Answer<Graph> {
    blocking(move || daemon.graph(&domain)).await
}

/// Query of `/v1/qos` and `/v1/stats`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DomainQuery {
    /// Only of this domain, by name or id.
    domain: Option<String>,
}

/// Query of `/v1/flows`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FlowQuery {
    /// Only of this domain, by name or id.
    domain: Option<String>,
    /// At most so many, in an order that stays; all without it, those with the last packets first.
    #[schemars(range(min = 1, max = 10_000))]
    limit: Option<usize>,
    /// Where to go on: from the `Link` of the page before.
    cursor: Option<String>,
}

pub async fn flows(
    State(daemon): State<Arc<Daemon>>,
    Asked(query): Asked<FlowQuery>,
) -> Result<Page<Flow>, Refusal> {
    page(move || {
        let flows = daemon.flows(query.domain.as_deref())?;
        let part = Part {
            limit: query.limit,
            cursor: query.cursor,
        };
        part.of(flows, &[("domain", query.domain)])
    })
    .await
}

pub async fn routes(State(daemon): State<Arc<Daemon>>) -> Answer<Vec<Route>> {
    blocking(move || daemon.routes()).await
}

pub async fn qos(State(daemon): State<Arc<Daemon>>, Asked(query): Asked<DomainQuery>) -> Answer<Qos> {
    blocking(move || daemon.qos(query.domain.as_deref())).await
}

pub async fn stats(State(daemon): State<Arc<Daemon>>, Asked(query): Asked<DomainQuery>) -> Answer<Stats> {
    blocking(move || daemon.stats(query.domain.as_deref())).await
}

pub async fn measured(
    State(daemon): State<Arc<Daemon>>,
    Asked(query): Asked<MeasuredQuery>,
) -> Answer<MeasuredProcesses> {
    blocking(move || daemon.measured(query.domain.as_deref())).await
}

pub async fn threats(State(daemon): State<Arc<Daemon>>, Asked(query): Asked<ThreatQuery>) -> Answer<Threats> {
    blocking(move || daemon.threats(&query)).await
}

pub async fn signals(
    State(daemon): State<Arc<Daemon>>,
    Asked(query): Asked<SignalsQuery>,
) -> Answer<Signals> {
    blocking(move || daemon.signals(&query)).await
}

pub async fn threat_rules(State(_): State<Arc<Daemon>>) -> Answer<Vec<ThreatRule>> {
    Ok(Json(policyd_analytics::rules()))
}

pub async fn explain(
    State(daemon): State<Arc<Daemon>>,
    Body(request): Body<ExplainRequest>,
) -> Answer<Explained> {
    blocking(move || daemon.explain(&request)).await
}

pub async fn not_found(uri: Uri) -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        format!(
            "there is no {} here; tool and daemon may be of different versions",
            uri.path()
        ),
    )
}

pub async fn not_allowed(method: Method, uri: Uri) -> Refusal {
    Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{} is not asked by {method}; `Allow` says by what", uri.path()),
    )
}
