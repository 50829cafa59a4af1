// SPDX-License-Identifier: GPL-3.0-only
//! What holds for browsers. One that has a certificate shows it for whatever page asks, so what it asks is looked at more closely:
//! it may look and change nothing, and only the page that is served here may have it look.

use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::handlers::Refusal;

/// Browsers say by it which page has them ask, and no page can say otherwise.
const SITE: &str = "sec-fetch-site";

/// Every request passes here once its caller is known; every answer passes on its way back.
pub async fn guard(request: Request, next: Next) -> Response {
    let refusal = refused(request.method(), request.uri().path(), request.headers());
    let mut response = match refusal {
        Some(why) => Refusal::new(StatusCode::FORBIDDEN, why).into_response(),
        None => next.run(request).await,
    };
    let headers = response.headers_mut();
    // No copy of what guests do is left in a browser. The page's own files say otherwise of themselves.
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    headers
        .entry(X_CONTENT_TYPE_OPTIONS)
        .or_insert(HeaderValue::from_static("nosniff"));
    response
}

/// Why a browser may not ask that; none if it may, or if this is no browser.
fn refused(method: &Method, path: &str, headers: &HeaderMap) -> Option<&'static str> {
    let site = headers.get(SITE);
    let browser = site.is_some() || headers.contains_key(ORIGIN);
    if browser && !matches!(*method, Method::GET | Method::HEAD) {
        return Some("browsers may look, and change nothing; use xmesh for that");
    }
    // A link to the page may be anywhere: what it shows is its own.
    let foreign = site.is_some_and(|site| site != "same-origin" && site != "none");
    (foreign && path != "/").then_some("another page asks that; open the page of policyd itself")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(method: Method, path: &str, header: Option<(&'static str, &str)>) -> bool {
        let mut headers = HeaderMap::new();
        if let Some((name, value)) = header {
            headers.insert(name, value.parse().expect("a value"));
        }
        refused(&method, path, &headers).is_none()
    }

    #[test]
    fn tools_may_do_all_and_browsers_look() {
        for method in [Method::GET, Method::POST, Method::DELETE] {
            assert!(may(method, "/v1/policies", None));
        }
        for site in ["same-origin", "none"] {
            assert!(may(Method::GET, "/v1/status", Some((SITE, site))));
            assert!(!may(Method::POST, "/v1/policies", Some((SITE, site))));
        }
        for method in [Method::POST, Method::PUT, Method::DELETE] {
            let origin = "https://dom0.example.org";
            assert!(!may(method, "/v1/import", Some(("origin", origin))));
        }
    }

    #[test]
    fn other_pages_get_nothing_but_the_page() {
        for site in ["cross-site", "same-site", "anything"] {
            assert!(!may(Method::GET, "/v1/domains/web1/trace", Some((SITE, site))));
            assert!(!may(Method::GET, "/web/app.js", Some((SITE, site))));
            assert!(may(Method::GET, "/", Some((SITE, site))));
        }
    }
}
