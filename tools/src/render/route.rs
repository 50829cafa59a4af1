// SPDX-License-Identifier: GPL-3.0-only
//! Routes and their backends.

use policyd_api::{Route, RouteBackend, Routed};

use super::table::{Align::Left, Align::Right, Table};

/// `xmesh routes`.
pub fn table(routes: &[Route]) -> String {
    let mut table = Table::new(&[
        ("Route", Left),
        ("Address", Left),
        ("Proto", Left),
        ("Version", Left),
        ("Backend", Left),
        ("Domain", Left),
        ("Weight", Right),
        ("Share", Right),
        ("Flows", Right),
        ("State", Left),
    ]);
    for route in routes {
        for backend in &route.backends {
            table.row(row(route, Some(backend)));
        }
        // A route that nobody serves must not be missing.
        if route.backends.is_empty() {
            table.row(row(route, None));
        }
    }
    table.render()
}

fn row(route: &Route, backend: Option<&RouteBackend>) -> [String; 10] {
    let of = |cell: fn(&RouteBackend) -> String| backend.map(cell).unwrap_or_default();
    [
        route.name.clone(),
        route.address.to_string(),
        route.protocol.clone(),
        of(|b| b.version.clone().unwrap_or_default()),
        of(|b| b.address.to_string()),
        of(|b| b.domain.clone().unwrap_or_default()),
        of(|b| b.weight.to_string()),
        of(|b| format!("{:.0}%", b.share * 100.0)),
        of(|b| b.flows.to_string()),
        match backend {
            Some(backend) => state(backend),
            None => "no backend".into(),
        },
    ]
}

/// How it stands and why; of one that stands ready for a case, for which.
fn state(backend: &RouteBackend) -> String {
    let word = backend.state.as_str();
    match (&backend.why, backend.role.as_str()) {
        (Some(why), _) => format!("{word}: {why}"),
        (None, "share") => word.to_owned(),
        (None, role) => format!("{word} ({role})"),
    }
}

/// ` via shop/cache v2 10.0.0.12:6379`: what is said of a flow that goes to a backend; ` instead to 10.0.0.13:22` of one that a
/// rule denies and sends there.
pub fn via(routed: Option<&Routed>) -> String {
    let Some(routed) = routed else {
        return String::new();
    };
    if routed.instead {
        return format!(" instead to {}", routed.backend);
    }
    let mut said = String::from(" via");
    for part in [&routed.route, &routed.version].into_iter().flatten() {
        said.push(' ');
        said.push_str(part);
    }
    said.push_str(&format!(" {}", routed.backend));
    said
}
