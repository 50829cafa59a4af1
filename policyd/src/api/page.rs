// SPDX-License-Identifier: GPL-3.0-only
//! Routes of the web page: its files, out of the program itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use policyd_web::Asset;
use serde_json::{Map, Value, json};

use super::describe::{About, Gives, Schemas};
use super::door::Doorman;
use super::grants::Role::Viewer;
use super::handlers::Refusal;
use super::inputs::{IfNoneMatch, Segment};
use super::table::Table;

/// The routes.
pub fn routes(door: &Arc<Doorman>) -> Table {
    Table::new(door).get("/", Viewer, "The web page.", index).get(
        "/web/{file}",
        Viewer,
        "A file of the web page.",
        file,
    )
}

/// A file of the page, or only that the caller has it already.
struct File {
    asset: &'static Asset,
    known: bool,
}

impl File {
    fn named(name: &str, known: &IfNoneMatch) -> Result<File, Refusal> {
        let asset = policyd_web::asset(name);
        let asset = asset.ok_or_else(|| {
            Refusal::new(
                StatusCode::NOT_FOUND,
                format!("the page has no file `{name}`; load it anew"),
            )
        })?;
        Ok(File {
            asset,
            known: known.has(asset.etag),
        })
    }
}

async fn index(known: IfNoneMatch) -> Result<File, Refusal> {
    File::named("index.html", &known)
}

async fn file(Segment(name): Segment<String>, known: IfNoneMatch) -> Result<File, Refusal> {
    File::named(&name, &known)
}

impl IntoResponse for File {
    fn into_response(self) -> Response {
        let mut response = match self.known {
            true => StatusCode::NOT_MODIFIED.into_response(),
            false => self.asset.bytes.into_response(),
        };
        let headers = response.headers_mut();
        if !self.known {
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static(self.asset.content_type),
            );
        }
        headers.insert(header::ETAG, HeaderValue::from_static(self.asset.etag));
        // Kept, and asked about each time: another daemon may have another page.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        for (name, value) in policyd_web::headers() {
            if let Ok(name) = HeaderName::try_from(name) {
                headers.insert(name, HeaderValue::from_static(value));
            }
        }
        response
    }
}

impl Gives for Result<File, Refusal> {
    fn describe(about: &mut About, _: &mut Schemas) {
        let tag = json!({ "ETag": { "description": "Names the content.", "schema": { "type": "string" } } });
        let kinds: BTreeSet<&str> = policyd_web::assets().iter().map(|a| a.content_type).collect();
        let content = kinds
            .into_iter()
            .map(|kind| (kind.to_owned(), json!({ "schema": { "type": "string" } })));
        let content: Map<String, Value> = content.collect();
        about.answer = Some(json!({ "description": "The file.", "headers": tag, "content": content }));
        about.besides.push((
            304,
            json!({ "description": "The caller has it already.", "headers": tag }),
        ));
    }
}
