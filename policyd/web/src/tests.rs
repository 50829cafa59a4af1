// SPDX-License-Identifier: GPL-3.0-only

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::*;

fn text(asset: &Asset) -> &str {
    std::str::from_utf8(asset.bytes).unwrap()
}

/// The page's own files, without what comes from npm.
fn own() -> impl Iterator<Item = &'static Asset> {
    assets().iter().filter(|a| !a.name.starts_with("cytoscape"))
}

#[test]
fn every_file_that_the_page_names_is_there() {
    let mut named = BTreeSet::new();
    for asset in own() {
        for (start, end) in [("/web/", '"'), ("from './", '\''), ("import('./", '\'')] {
            let parts = text(asset).split(start).skip(1);
            named.extend(parts.filter_map(|part| Some(part.split_once(end)?.0)));
        }
    }
    assert!(named.contains("app.js") && named.contains("app.css"), "{named:?}");
    for name in named {
        assert!(asset(name).is_some(), "{name}");
    }
    assert_eq!(asset("nothing.js"), None);
}

#[test]
fn tags_tell_contents_apart() {
    let tags: BTreeSet<&str> = assets().iter().map(|a| a.etag).collect();
    assert_eq!(tags.len(), assets().len());
    assert!(tags.iter().all(|t| t.starts_with('"') && t.ends_with('"')));
}

/// Names of programs and arguments come from guests. Nothing that reads markup may be in the page's own code, and nothing
/// that the headers forbid.
#[test]
fn nothing_makes_markup_of_text() {
    for asset in own() {
        for way in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "javascript:",
            " style=\"",
            " onclick",
        ] {
            assert!(!text(asset).contains(way), "{}: {way}", asset.name);
        }
    }
}

#[test]
fn nothing_of_another_origin_is_allowed_or_named() {
    let policy = headers().find(|(name, _)| *name == "Content-Security-Policy");
    let (_, policy) = policy.expect("is there");
    for part in policy.split("; ") {
        let (_, sources) = part.split_once(' ').expect("a directive and its sources");
        assert!(matches!(sources, "'none'" | "'self'"), "{part}");
    }
    for part in ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"] {
        assert!(policy.contains(part), "{part}");
    }
    for asset in own() {
        // The name of a namespace is no address.
        let text = text(asset).replace("http://www.w3.org/2000/svg", "");
        assert!(
            !text.contains("http://") && !text.contains("https://"),
            "{}",
            asset.name
        );
    }
}

/// The answers that the page is tried with in a browser are answers of this API.
#[test]
fn the_answers_for_its_tests_are_the_apis() {
    fn is<T: DeserializeOwned>(name: &str) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/web/answers");
        let text = fs::read_to_string(folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        serde_json::from_str::<T>(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    is::<policyd_api::Status>("status.json");
    is::<Vec<policyd_api::Domain>>("domains.json");
    is::<Vec<policyd_api::Process>>("processes.json");
    is::<Vec<policyd_api::Flow>>("flows.json");
    is::<policyd_api::Signals>("signals.json");
    is::<policyd_api::Threats>("threats.json");
    is::<Vec<policyd_api::Route>>("routes.json");
    is::<Vec<policyd_api::PolicySummary>>("policies.json");
    is::<policyd_api::HistoryPage>("history.json");
    is::<Vec<policyd_api::SetsAt>>("sets.json");
    is::<policyd_api::PastPage>("past.json");
    is::<Vec<policyd_api::Event>>("events.json");
}
