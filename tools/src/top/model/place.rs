// SPDX-License-Identifier: GPL-3.0-only
//! Where one is: a view of something, and where in it.

use crate::render::plain;
use crate::top::rows::flows::Of;
use crate::top::view::View;

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All domains.
    Domains,
    /// The processes of a domain; without a name, of the first one.
    Processes(String),
    /// All pairs.
    Pairs,
    /// Flows.
    Flows(Of),
    /// Threats.
    Threats,
    /// Findings.
    Findings,
}

impl Scope {
    /// By which view it is shown.
    pub fn view(&self) -> View {
        match self {
            Scope::Domains => View::Domains,
            Scope::Processes(_) => View::Processes,
            Scope::Pairs => View::Pairs,
            Scope::Flows(_) => View::Flows,
            Scope::Threats => View::Threats,
            Scope::Findings => View::Findings,
        }
    }

    /// Its name, for people: fit for a terminal.
    pub fn title(&self) -> String {
        let title = match self {
            Scope::Processes(domain) if !domain.is_empty() => format!("Processes of {domain}"),
            Scope::Flows(Of::Domain(domain)) => format!("Flows of {domain}"),
            Scope::Flows(Of::Process(domain, pid, exe)) => format!("Flows of {domain}:{exe} ({pid})"),
            Scope::Flows(Of::Pair(ends)) => {
                let port = ends.port.map(|port| format!(" port {port}")).unwrap_or_default();
                format!("Flows of {} → {}{port}", ends.from.name, ends.to.name)
            }
            other => other.view().title().to_owned(),
        };
        plain(&title)
    }
}

/// A view of something, and where in it one is.
#[derive(Debug)]
pub struct Place {
    /// What is looked at.
    pub scope: Scope,
    /// What rows must have in them.
    pub filter: String,
    /// The key of the row that was chosen; none while nobody chose.
    pub marked: Option<String>,
    /// The index of the marked row.
    pub index: usize,
    /// The index of the first row on the screen.
    pub first: usize,
    /// Columns that are scrolled out at the left.
    pub skipped: usize,
}

impl Place {
    /// At the top of it.
    pub fn new(scope: Scope) -> Place {
        Place {
            scope,
            filter: String::new(),
            marked: None,
            index: 0,
            first: 0,
            skipped: 0,
        }
    }
}
