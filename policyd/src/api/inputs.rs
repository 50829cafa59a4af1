// SPDX-License-Identifier: GPL-3.0-only
//! What handlers take: as axum's extractors, but each refuses in JSON and can say what it takes.

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::describe::{About, Schemas, Takes};
use super::handlers::Refusal;

/// The segment of the path that varies.
pub struct Segment<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Segment<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = Path::from_request_parts(parts, state).await;
        let Path(segment) = path.map_err(|e| Refusal::new(e.status(), e.body_text()))?;
        Ok(Segment(segment))
    }
}

impl<T: JsonSchema> Takes for Segment<T> {
    fn describe(about: &mut About, schemas: &mut Schemas) {
        // A segment is never empty: that would be another path.
        let mut schema = schemas.question::<T>();
        if schema["type"] == "string" {
            schema["minLength"] = 1.into();
        }
        let name = about.segment.take();
        about
            .parameters
            .push(json!({ "name": name, "in": "path", "required": true, "schema": schema }));
        about
            .refusals
            .insert(400, "The path or the query has something else than it should.");
        about
            .refusals
            .insert(404, "There is none of that name or number.");
    }
}

/// The query.
pub struct Asked<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let query = Query::from_request_parts(parts, state).await;
        let Query(asked) = query.map_err(|e| Refusal::new(e.status(), e.body_text()))?;
        Ok(Asked(asked))
    }
}

impl<T: JsonSchema> Takes for Asked<T> {
    fn describe(about: &mut About, schemas: &mut Schemas) {
        let schema = schemas.question::<T>();
        let required = |name: &str| {
            let list = schema["required"].as_array();
            list.is_some_and(|list| list.iter().any(|n| n == name))
        };
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let mut property = without_null(property.clone());
            let description = property.as_object_mut().and_then(|p| p.remove("description"));
            let mut parameter =
                json!({ "name": name, "in": "query", "required": required(name), "schema": property });
            if let Some(description) = description {
                parameter["description"] = description;
            }
            about.parameters.push(parameter);
        }
        about
            .refusals
            .insert(400, "The path or the query has something else than it should.");
        about
            .refusals
            .insert(404, "There is none of that name or number.");
        about
            .refusals
            .insert(422, "What is asked makes no sense; the text says why.");
    }
}

/// In a query what is not there is left out; nothing stands for null.
fn without_null(mut schema: Value) -> Value {
    if let Some(types) = schema["type"].as_array_mut() {
        types.retain(|t| t != "null");
        if let [only] = types.as_slice() {
            schema["type"] = only.clone();
        }
    }
    if let Some(values) = schema["enum"].as_array_mut() {
        values.retain(|v| !v.is_null());
    }
    if let Some(any) = schema["anyOf"].as_array_mut() {
        any.retain(|s| s["type"] != "null");
        if let [only] = any.as_slice() {
            let mut only = only.clone();
            if let Some(description) = schema.get("description") {
                only["description"] = description.clone();
            }
            return only;
        }
    }
    if let Some(schema) = schema.as_object_mut() {
        schema.remove("default");
        // `schema["x"]` of what is not there has put a null there.
        schema.retain(|_, value| !value.is_null());
    }
    schema
}

/// A body in JSON.
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let body = Json::from_request(request, state).await;
        let Json(body) = body.map_err(|e| Refusal::new(e.status(), e.body_text()))?;
        Ok(Body(body))
    }
}

impl<T: JsonSchema> Takes for Body<T> {
    fn describe(about: &mut About, schemas: &mut Schemas) {
        let schema = schemas.question::<T>();
        about.body =
            Some(json!({ "required": true, "content": { "application/json": { "schema": schema } } }));
        about.refusals.insert(400, "The body is not JSON.");
        about
            .refusals
            .insert(404, "There is none of that name or number.");
        about.refusals.insert(413, "The body is too large.");
        about
            .refusals
            .insert(415, "`Content-Type` is not application/json.");
        about.refusals.insert(
            422,
            "The body is not as it should be, or makes no sense; the text says where and why.",
        );
    }
}

/// An export has all texts that are kept; parts that versions share are in it once.
const MAX_UPLOAD: usize = 256 << 20;

/// A body that is a file, of 256 MiB at most.
pub struct Upload(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for Upload {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let bytes = axum::body::to_bytes(request.into_body(), MAX_UPLOAD).await;
        let bytes = bytes.map_err(|e| {
            Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the file was not taken: {e}; it may have 256 MiB"),
            )
        })?;
        Ok(Upload(bytes))
    }
}

impl Takes for Upload {
    fn describe(about: &mut About, _: &mut Schemas) {
        about.body =
            Some(json!({ "required": true, "content": { "application/octet-stream": { "schema": {} } } }));
        about.refusals.insert(413, "The file is too large.");
        about.refusals.insert(
            422,
            "The file is no export that can be trusted; the text says why.",
        );
    }
}

/// The generation of `If-Match`; none for any.
pub struct IfMatch(pub Option<u64>);

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let Some(value) = parts.headers.get(header::IF_MATCH) else {
            return Ok(IfMatch(None));
        };
        let text = value.to_str().unwrap_or_default().trim();
        if text == "*" {
            return Ok(IfMatch(None));
        }
        let number = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
        match number.and_then(|n| n.parse().ok()) {
            Some(generation) => Ok(IfMatch(Some(generation))),
            None => Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                "If-Match is to have a generation in quotes, as an ETag of this API gives it: \"12\"",
            )),
        }
    }
}

impl Takes for IfMatch {
    fn describe(about: &mut About, _: &mut Schemas) {
        about.parameters.push(json!({
            "name": "If-Match",
            "in": "header",
            "required": false,
            "description": "The generation that the caller has seen, in quotes, as an `ETag` has it; if another is in force nothing is changed.",
            "schema": { "type": "string", "pattern": "^(\"[0-9]{1,19}\"|\\*)$" },
        }));
        about.refusals.insert(
            400,
            "If-Match, the path, the query or the body is not as it should be.",
        );
        about.refusals.insert(
            412,
            "Another generation is in force than `If-Match` says: somebody else has changed the policy.",
        );
    }
}

/// The tags of `If-None-Match`: what the caller has already.
pub struct IfNoneMatch(String);

impl IfNoneMatch {
    /// Whether it has what this tag names.
    pub fn has(&self, tag: &str) -> bool {
        let tags = self.0.split(',').map(|t| t.trim().trim_start_matches("W/"));
        tags.into_iter().any(|t| t == "*" || t == tag)
    }
}

impl<S: Sync> FromRequestParts<S> for IfNoneMatch {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let value = parts.headers.get(header::IF_NONE_MATCH);
        // What cannot be read is none of ours.
        let text = value.and_then(|value| value.to_str().ok()).unwrap_or_default();
        Ok(IfNoneMatch(text.to_owned()))
    }
}

impl Takes for IfNoneMatch {
    fn describe(about: &mut About, _: &mut Schemas) {
        about.parameters.push(json!({
            "name": "If-None-Match",
            "in": "header",
            "required": false,
            "description": "Tags of what the caller has, as an `ETag` has them; if what is asked for is among them, 304.",
            "schema": { "type": "string" },
        }));
    }
}
