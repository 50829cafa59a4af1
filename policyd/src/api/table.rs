// SPDX-License-Identifier: GPL-3.0-only
//! The table of routes. Each row has a path, the least role, and a handler; the router and the OpenAPI document are both
//! made from it, and there is no other way to add a route.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodFilter, on};
use axum::{Json, Router};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::browser;
use super::describe::{About, Described, Schemas, refusals};
use super::door::{Doorman, admit, authorise};
use super::grants::Role;
use super::handlers::{self, Answer};

/// A policy file may have 1 MiB; its JSON string at worst doubles.
const MAX_BODY: usize = 4 << 20;

/// One route.
pub struct Row {
    pub method: Method,
    /// As `/v1/domains/{domain}/check`.
    pub path: &'static str,
    /// The least role of a caller.
    pub role: Role,
    summary: &'static str,
    describe: fn(&mut About, &mut Schemas),
}

/// Routes whose handlers share a state.
pub struct Table<S = ()> {
    door: Arc<Doorman>,
    router: Router<S>,
    rows: Vec<Row>,
}

/// A method of [`Table`] for each of HTTP's.
macro_rules! verbs {
    ($($name:ident $method:ident),*) => {$(
        /// Adds a route that is asked by this method.
        pub fn $name<H, T, U>(self, path: &'static str, role: Role, summary: &'static str, handler: H) -> Self
        where
            H: Handler<T, S> + Described<U>,
            T: 'static,
        {
            self.row((Method::$method, MethodFilter::$method), path, role, summary, handler)
        }
    )*};
}

impl<S: Clone + Send + Sync + 'static> Table<S> {
    pub fn new(door: &Arc<Doorman>) -> Table<S> {
        Table {
            door: Arc::clone(door),
            router: Router::new(),
            rows: Vec::new(),
        }
    }

    verbs! { get GET, post POST, put PUT, delete DELETE }

    fn row<H, T, U>(
        mut self,
        (method, filter): (Method, MethodFilter),
        path: &'static str,
        role: Role,
        summary: &'static str,
        handler: H,
    ) -> Self
    where
        H: Handler<T, S> + Described<U>,
        T: 'static,
    {
        let guard = from_fn_with_state((Arc::clone(&self.door), role), authorise);
        self.router = self.router.route(path, on(filter, handler).route_layer(guard));
        self.rows.push(Row {
            method,
            path,
            role,
            summary,
            describe: H::describe,
        });
        self
    }

    /// The same, its handlers provided with their state.
    pub fn with_state(self, state: S) -> Table {
        Table {
            door: self.door,
            router: self.router.with_state(state),
            rows: self.rows,
        }
    }
}

/// The document, as it is served.
#[derive(Clone, Serialize, JsonSchema)]
#[serde(transparent)]
struct Document(Arc<Map<String, Value>>);

async fn document(State(document): State<Document>) -> Answer<Document> {
    Ok(Json(document))
}

impl Table {
    /// The rows of both.
    pub fn merge(mut self, other: Table) -> Table {
        self.router = self.router.merge(other.router);
        self.rows.extend(other.rows);
        self
    }

    /// Adds the document itself, and what holds for all routes. Gives the rows for whoever wants to walk them.
    pub fn finish(self) -> (Router, Vec<Row>) {
        let own = Table::new(&self.door).get(
            "/v1/openapi.json",
            Role::Viewer,
            "This API as an OpenAPI document.",
            document,
        );
        let mut rows = self.rows;
        rows.extend(own.rows);
        let served = Document(Arc::new(openapi(&rows)));
        let router = self
            .router
            .merge(own.router.with_state(served))
            .fallback(handlers::not_found)
            .method_not_allowed_fallback(handlers::not_allowed)
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .layer(from_fn(browser::guard))
            .layer(from_fn_with_state(self.door, admit));
        (router, rows)
    }
}

/// The OpenAPI document of these rows.
fn openapi(rows: &[Row]) -> Map<String, Value> {
    let mut schemas = Schemas::new();
    let mut paths: Map<String, Value> = Map::new();
    for row in rows {
        let operation = operation(row, &mut schemas);
        let path = paths.entry(row.path).or_insert_with(|| json!({}));
        path[row.method.as_str().to_lowercase()] = operation;
    }
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "policyd",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "GPL-3.0-only", "identifier": "GPL-3.0-only" },
            "description": "Served on a unix socket, where the kernel says who calls, and, if asked for, by TLS to who has a \
                certificate. `x-role` is the least role that a caller needs: viewer, operator or admin.",
        },
        "paths": paths,
        "components": { "schemas": schemas.shared() },
    });
    match document {
        Value::Object(document) => document,
        // `json!` with braces makes an object.
        _ => Map::new(),
    }
}

fn operation(row: &Row, schemas: &mut Schemas) -> Value {
    let mut segments = row
        .path
        .split('/')
        .filter_map(|s| s.strip_prefix('{')?.strip_suffix('}'));
    let mut about = About {
        segment: segments.next().map(str::to_owned),
        ..About::default()
    };
    (row.describe)(&mut about, schemas);
    let mut responses = refusals(&about, schemas);
    responses.extend(about.answer.take().map(|answer| ("200".to_owned(), answer)));
    let besides = about.besides.drain(..);
    responses.extend(besides.map(|(status, answer)| (status.to_string(), answer)));
    let path = match row.path {
        "/" => "page",
        path => path.trim_start_matches("/v1"),
    };
    let words = path.trim_start_matches('/').split(['/', '.']);
    let id: Vec<&str> = words.map(|word| word.trim_matches(['{', '}'])).collect();
    let mut operation = json!({
        "operationId": format!("{}_{}", row.method.as_str().to_lowercase(), id.join("_")),
        "summary": row.summary,
        "x-role": row.role.as_str(),
        "parameters": about.parameters,
        "responses": responses,
    });
    if let Some(body) = about.body {
        operation["requestBody"] = body;
    }
    operation
}
