// SPDX-License-Identifier: GPL-3.0-only
//! The web page as it is served.

use super::*;

#[test]
fn the_page_and_its_files_are_served_with_strict_headers() {
    let served = Served::new(&[]);
    for (path, kind) in [("/", "text/html"), ("/web/app.js", "text/javascript")] {
        let answer = served.ask(&format!("GET {path}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("content-type"), Some(kind));
        let policy = answer.header("content-security-policy").expect("is there");
        assert!(policy.contains("default-src 'none'"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("cache-control"), Some("no-cache"));
        let tag = answer.header("etag").expect("is there");
        let again = served.ask(&format!("GET {path}\nif-none-match: \"x\", {tag}"));
        assert_eq!((again.status, again.body.len()), (304, 0), "{again:?}");
        assert_eq!(again.header("etag"), Some(tag));
        let other = served.ask(&format!("GET {path}\nif-none-match: \"x\""));
        assert_eq!(other.status, 200);
    }
    let none = served.ask("GET /web/none.js");
    assert_eq!(none.status, 404);
    assert!(none.text().contains("none.js"), "{none:?}");
    assert_eq!(served.ask("GET /web/..%2fCargo.toml").status, 404);
}

#[test]
fn data_is_kept_in_no_browser() {
    let served = Served::new(&[]);
    for path in ["/v1/status", "/v1/none"] {
        let answer = served.ask(&format!("GET {path}"));
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{answer:?}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
}

#[test]
fn a_browser_looks_and_changes_nothing() {
    let served = Served::new(&[]);
    let own = "sec-fetch-site: same-origin";
    assert_eq!(served.ask(&format!("GET /v1/status\n{own}")).status, 200);
    let change = served.ask(&format!("DELETE /v1/policies/none\n{own}"));
    assert_eq!(change.status, 403, "{change:?}");
    assert!(change.text().contains("xmesh"), "{change:?}");
    let rollback = served.ask("POST /v1/history/0/rollback\norigin: https://example.org");
    assert_eq!(rollback.status, 403, "{rollback:?}");
    let other = served.ask("GET /v1/status\nsec-fetch-site: cross-site");
    assert_eq!(other.status, 403, "{other:?}");
}
