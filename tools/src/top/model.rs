// SPDX-License-Identifier: GPL-3.0-only
//! What is on the screen and where in it one is: a state machine over keys and looks. It neither draws nor asks.

mod keys;
mod place;

use std::time::Duration;

use policyd_api::Domain;

use super::look::{Look, Wants};
use super::picture::Picture;
use super::rows;
use super::rows::flows::Of;
use super::table::{Row, Sort, sort};
use super::view::View;
use crate::args::top::Top;

pub use keys::{HELP, path};
pub use place::{Place, Scope};

/// Rows of a page until the screen has said how many there is room for.
const PAGE: usize = 20;

/// What keys are for at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Looking around.
    Looking,
    /// Choosing the column to sort by; this one is marked.
    Sorting(usize),
    /// Typing what rows must have in them.
    Filtering,
    /// Typing seconds between looks.
    Delaying(String),
    /// Reading the help, from this line on.
    Helping(usize),
}

/// What a key asks of those who run the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing but to be drawn.
    Draw,
    /// To ask for what is wanted now.
    Ask,
    /// To end.
    Quit,
    /// To go to the background, as Ctrl-Z means it.
    Suspend,
}

/// Everything that is on the screen.
#[derive(Debug)]
pub struct Model {
    /// Where the daemon is.
    pub host: String,
    /// What is known.
    pub picture: Picture,
    /// Between two looks.
    pub delay: Duration,
    /// Nobody looks.
    pub paused: bool,
    /// What keys are for.
    pub mode: Mode,
    /// Something to tell once.
    pub remark: Option<String>,
    /// Why the daemon does not answer.
    pub away: Option<String>,
    /// When it told all that it was asked, last.
    pub told: Option<Duration>,
    sorts: [Sort; View::ALL.len()],
    places: Vec<Place>,
    rows: Vec<Row>,
    hidden: usize,
    page: usize,
}

impl Model {
    /// A model that knows nothing yet.
    pub fn new(host: String, asked: &Top) -> Model {
        let scope = match (asked.first_view(), asked.domain.clone()) {
            (View::Processes, Some(domain)) => Scope::Processes(domain),
            (View::Flows, Some(domain)) => Scope::Flows(Of::Domain(domain)),
            (View::Flows, None) => Scope::Flows(Of::All),
            // Of the first domain, once it is known which that is.
            (View::Processes, None) => Scope::Processes(String::new()),
            (View::Domains, _) => Scope::Domains,
            (View::Pairs, _) => Scope::Pairs,
            (View::Threats, _) => Scope::Threats,
            (View::Findings, _) => Scope::Findings,
        };
        let sorts = View::ALL.map(|view| {
            let columns = view.columns();
            let by = columns.iter().position(|column| column.name == view.sorted_by());
            Sort::by(columns, by.unwrap_or_default())
        });
        Model {
            host,
            picture: Picture::default(),
            delay: asked.delay,
            paused: false,
            mode: Mode::Looking,
            remark: None,
            away: None,
            told: None,
            sorts,
            places: vec![Place::new(scope)],
            rows: Vec::new(),
            hidden: 0,
            page: PAGE,
        }
    }

    /// Takes what a look told.
    pub fn take(&mut self, look: Look) {
        self.away = look.away.clone();
        if look.away.is_none() {
            self.told = Some(look.at);
        }
        self.picture.take(look);
        self.settle();
    }

    /// Takes the domains that there are, before any look.
    pub fn know(&mut self, domains: Vec<Domain>) {
        self.picture.domains = Ok(domains);
        self.settle();
    }

    /// What is wanted for what is shown.
    pub fn wants(&self) -> Wants {
        let mut wants = Wants::default();
        match &self.place().scope {
            Scope::Processes(domain) if !domain.is_empty() => {
                wants.processes = Some(domain.clone());
                wants.flows = Some(Some(domain.clone()));
            }
            Scope::Flows(of) => wants.flows = Some(of.domain().map(str::to_owned)),
            Scope::Threats => wants.threats_now = true,
            Scope::Processes(_) | Scope::Domains | Scope::Pairs | Scope::Findings => {}
        }
        wants
    }

    /// Where one is.
    pub fn place(&self) -> &Place {
        // There is always the place where one began.
        &self.places[self.places.len() - 1]
    }

    fn place_mut(&mut self) -> &mut Place {
        let last = self.places.len() - 1;
        &mut self.places[last]
    }

    /// The ways here, from where Esc ends.
    pub fn path(&self) -> &[Place] {
        &self.places
    }

    /// The view that is shown.
    pub fn view(&self) -> View {
        self.place().scope.view()
    }

    /// By what it is sorted.
    pub fn sorted(&self) -> Sort {
        self.sorts[self.view().index()]
    }

    /// The rows of the view, sorted, without those that the filter hides.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// How many rows the filter hides.
    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// The row that is marked.
    pub fn marked(&self) -> Option<&Row> {
        self.rows.get(self.place().index)
    }

    /// The rows that are on the screen, and the index of the first.
    pub fn visible(&self) -> (usize, &[Row]) {
        let first = self.place().first.min(self.rows.len());
        let end = (first + self.page).min(self.rows.len());
        (first, &self.rows[first..end])
    }

    /// Why there is nothing to see, if the daemon refused it.
    pub fn refused(&self) -> Option<&str> {
        let picture = &self.picture;
        let why = match &self.place().scope {
            Scope::Domains => picture.domains.as_ref().err(),
            Scope::Pairs | Scope::Findings => picture.signals.as_ref().err(),
            Scope::Threats => picture.threats.as_ref().err(),
            Scope::Processes(domain) => match &picture.processes {
                Some((of, answer)) if of == domain => answer.as_ref().err(),
                _ => None,
            },
            Scope::Flows(_) => picture
                .flows
                .as_ref()
                .and_then(|(_, answer)| answer.as_ref().err()),
        };
        why.map(String::as_str)
    }

    /// Whether what this view shows has been told at all.
    pub fn looked(&self) -> bool {
        let picture = &self.picture;
        match &self.place().scope {
            Scope::Processes(domain) => picture.processes.as_ref().is_some_and(|(of, _)| of == domain),
            Scope::Flows(of) => {
                let asked = picture.flows.as_ref().map(|(asked, _)| asked.as_deref());
                asked == Some(of.domain())
            }
            Scope::Domains | Scope::Pairs | Scope::Threats | Scope::Findings => self.told.is_some(),
        }
    }

    /// How many rows there is room for.
    pub fn resize(&mut self, page: usize) {
        self.page = page.max(1);
        self.scroll();
    }

    /// Makes the rows anew, and finds the marked one among them.
    fn settle(&mut self) {
        self.find_domain();
        let picture = &self.picture;
        let mut rows = match &self.place().scope {
            Scope::Domains => rows::domains::rows(picture),
            Scope::Processes(domain) => rows::processes::rows(picture, domain),
            Scope::Pairs => rows::pairs::rows(picture),
            Scope::Flows(of) => rows::flows::rows(picture, of),
            Scope::Threats => rows::threats::rows(picture),
            Scope::Findings => rows::findings::rows(picture),
        };
        let all = rows.len();
        let filter = self.place().filter.clone();
        rows.retain(|row| row.fits(&filter));
        self.hidden = all - rows.len();
        sort(&mut rows, self.sorted());
        self.rows = rows;
        let place = self.place();
        let found = place
            .marked
            .as_ref()
            .and_then(|key| self.rows.iter().position(|row| row.key == *key));
        let index = match (&place.marked, found) {
            // Who has not chosen sees what comes first.
            (None, _) => 0,
            (Some(_), Some(found)) => found,
            // It is gone; one stays where it was.
            (Some(_), None) => place.index,
        };
        self.place_mut().index = index.min(self.rows.len().saturating_sub(1));
        self.scroll();
    }

    /// Whoever has given an id means the domain that has it; processes of nobody are those of the first one that there is.
    fn find_domain(&mut self) {
        let named = match &self.place().scope {
            Scope::Processes(domain) | Scope::Flows(Of::Domain(domain)) => domain,
            _ => return,
        };
        let domains = self.picture.all_domains();
        let found = match named.is_empty() {
            true => domains.first(),
            false => find(domains, named),
        };
        let Some(name) = found.map(|found| found.name.clone()) else {
            return;
        };
        if let Scope::Processes(domain) | Scope::Flows(Of::Domain(domain)) = &mut self.place_mut().scope {
            *domain = name;
        }
    }

    /// Keeps the marked row on the screen.
    fn scroll(&mut self) {
        let (page, rows) = (self.page, self.rows.len());
        let place = self.place_mut();
        let last = rows.saturating_sub(page);
        let least = (place.index + 1).saturating_sub(page);
        place.first = place.first.clamp(least, place.index).min(last.max(least));
    }

    /// Marks a row by its index.
    fn mark(&mut self, index: usize) {
        let index = index.min(self.rows.len().saturating_sub(1));
        let key = self.rows.get(index).map(|row| row.key.clone());
        let place = self.place_mut();
        place.index = index;
        // At the very top one sees again whoever comes first.
        place.marked = key.filter(|_| index > 0);
        self.scroll();
    }

    /// Goes into another place.
    fn enter(&mut self, scope: Scope) {
        self.places.push(Place::new(scope));
        self.settle();
    }
}

/// The domain of that name, else, as xl has it, of that id.
pub fn find<'d>(domains: &'d [Domain], name: &str) -> Option<&'d Domain> {
    let mut named = domains.iter().filter(|domain| domain.name == name);
    named
        .next()
        .or_else(|| domains.iter().find(|domain| domain.id.to_string() == name))
}

#[cfg(test)]
mod tests;
