// SPDX-License-Identifier: GPL-3.0-only
//! The one route whose answer is for Prometheus.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::describe::{About, Gives, Schemas, response};
use super::handlers::{Refusal, blocking};
use crate::daemon::Daemon;

/// Prometheus' text format.
const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Metrics as text.
pub struct Exposition(String);

impl IntoResponse for Exposition {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, TYPE)], self.0).into_response()
    }
}

impl Gives for Result<Exposition, Refusal> {
    fn describe(about: &mut About, _: &mut Schemas) {
        about.answer = Some(response("The metrics.", TYPE, &json!({ "type": "string" })));
    }
}

pub async fn metrics(State(daemon): State<Arc<Daemon>>) -> Result<Exposition, Refusal> {
    blocking(move || daemon.metrics())
        .await
        .map(|Json(text)| Exposition(text))
}
