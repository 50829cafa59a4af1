// SPDX-License-Identifier: GPL-3.0-only
//! What each key does.

use super::{Effect, Mode, Model, Place, Scope, Sort};
use crate::args::top::delay;
use crate::top::key::Key;
use crate::top::rows::flows::Of;
use crate::top::table::Leads;
use crate::top::view::View;

/// The longest filter: what has no room on a line is a mistake.
const LONGEST: usize = 100;

/// The help, a line each; no line is wider than 78.
pub const HELP: &[&str] = &[
    "Keys",
    "  1-6, Tab       view: domains, processes, pairs, flows, threats, findings",
    "  Enter          into what is marked: domain, process, pair; last its flows",
    "  f              flows of the marked domain",
    "  Esc            back",
    "  arrows, PgUp, PgDn, Home, End    another row; left and right: other columns",
    "  s, F           choose the column to sort by      < >   the one beside it",
    "  r              reverse the order",
    "  /              show only rows with these words; Esc there shows all again",
    "  d              seconds from one look to the next",
    "  p, space       pause",
    "  Ctrl-L         draw anew      Ctrl-Z  to the background",
    "  q, Ctrl-C      end",
    "",
    "What is shown",
    "  Rates are of the time between the last two looks, those of pairs and of the",
    "  header's flows of ten seconds at least; - is not known (yet).",
    "  Domains: New/s are TCP connections set up at its interfaces, both ways;",
    "  Denied/s are packets; Out is from the guest.",
    "  Pairs: counts a second are flows, Denied/s too; times are of the daemon's",
    "  window of five minutes: Setup from SYN to SYN-ACK, half of all are at most",
    "  that; p99 of the same; RTT to the server; 1st byte of the answer.",
    "  Flows of a pair are those that its ends, port and version fit.",
    "  3 min: bytes, or of pairs connections, drawn to the height of their highest.",
    "  In the header: flows opened and denied, and bytes, of all the host.",
];

impl Model {
    /// Takes a key.
    pub fn key(&mut self, key: Key) -> Effect {
        self.remark = None;
        match (key, self.mode.clone()) {
            (Key::Ctrl('c'), _) => Effect::Quit,
            (Key::Ctrl('z'), _) => Effect::Suspend,
            (key, Mode::Looking) => self.look_around(key),
            (key, Mode::Sorting(at)) => self.choose_sort(key, at),
            (key, Mode::Filtering) => self.type_filter(key),
            (key, Mode::Delaying(text)) => self.type_delay(key, text),
            (key, Mode::Helping(line)) => self.read_help(key, line),
        }
    }

    fn look_around(&mut self, key: Key) -> Effect {
        let (index, page) = (self.place().index, self.page);
        match key {
            Key::Char('q') | Key::F(10) => return Effect::Quit,
            Key::Char('?' | 'h') | Key::F(1) => self.mode = Mode::Helping(0),
            Key::Char(c @ '1'..='6') => return self.show(View::ALL[c as usize - '1' as usize]),
            Key::Tab => return self.show(View::ALL[(self.view().index() + 1) % View::ALL.len()]),
            Key::BackTab => {
                let before = self.view().index() + View::ALL.len() - 1;
                return self.show(View::ALL[before % View::ALL.len()]);
            }
            Key::Enter => return self.enter_marked(),
            Key::Char('f') => return self.flows_of_marked(),
            Key::Esc | Key::Backspace => return self.back(),
            Key::Up | Key::Char('k') => self.mark(index.saturating_sub(1)),
            Key::Down | Key::Char('j') => self.mark(index + 1),
            Key::PageUp => self.mark(index.saturating_sub(page)),
            Key::PageDown => self.mark(index + page),
            Key::Home => self.mark(0),
            Key::End => self.mark(usize::MAX),
            Key::Left => self.place_mut().skipped = self.place().skipped.saturating_sub(1),
            Key::Right => {
                // One column at least stays beside the first.
                let most = self.view().columns().len().saturating_sub(2);
                self.place_mut().skipped = (self.place().skipped + 1).min(most);
            }
            Key::Char('s' | 'F') | Key::F(6) => self.mode = Mode::Sorting(self.sorted().column),
            Key::Char('<') => self.sort_beside(self.view().columns().len() - 1),
            Key::Char('>') => self.sort_beside(1),
            Key::Char('r' | 'R' | 'I') => {
                let sort = self.sorted();
                self.sort_by(Sort {
                    descending: !sort.descending,
                    ..sort
                });
            }
            Key::Char('/') | Key::F(4) => self.mode = Mode::Filtering,
            Key::Char('d') => self.mode = Mode::Delaying(String::new()),
            Key::Char('p' | ' ') => {
                self.paused = !self.paused;
                return Effect::Ask;
            }
            _ => {}
        }
        Effect::Draw
    }

    /// Shows a view as if one had begun with it.
    fn show(&mut self, view: View) -> Effect {
        let scope = match view {
            View::Domains => Scope::Domains,
            View::Processes => Scope::Processes(self.domain().unwrap_or_default()),
            View::Pairs => Scope::Pairs,
            View::Flows => Scope::Flows(Of::All),
            View::Threats => Scope::Threats,
            View::Findings => Scope::Findings,
        };
        // Where one began stays: from there the domain is known, and Esc leads there.
        self.places.truncate(1);
        match self.places[0].scope == scope {
            true => self.settle(),
            false => self.enter(scope),
        }
        Effect::Ask
    }

    /// The domain that one looks at: here, or on the way here.
    fn domain(&self) -> Option<String> {
        self.places.iter().rev().enumerate().find_map(|(back, place)| {
            match (&place.scope, back) {
                (Scope::Processes(domain), _) if !domain.is_empty() => Some(domain.clone()),
                (Scope::Flows(of), _) => of.domain().map(str::to_owned),
                // The rows are those of where one is.
                (Scope::Domains | Scope::Threats, 0) => match &self.marked()?.into {
                    Leads::Domain(domain) => Some(domain.clone()),
                    _ => None,
                },
                (Scope::Domains, _) => place.marked.clone(),
                _ => None,
            }
        })
    }

    fn enter_marked(&mut self) -> Effect {
        let scope = match self.marked().map(|row| row.into.clone()) {
            Some(Leads::Domain(domain)) => Scope::Processes(domain),
            Some(Leads::Process(domain, pid, exe)) => Scope::Flows(Of::Process(domain, pid, exe)),
            Some(Leads::Pair(ends)) => Scope::Flows(Of::Pair(ends)),
            Some(Leads::Nothing) | None => return Effect::Draw,
        };
        self.enter(scope);
        Effect::Ask
    }

    fn flows_of_marked(&mut self) -> Effect {
        match self.domain() {
            Some(domain) => {
                self.enter(Scope::Flows(Of::Domain(domain)));
                Effect::Ask
            }
            None => Effect::Draw,
        }
    }

    /// First from what was typed, then from where one is.
    fn back(&mut self) -> Effect {
        if !self.place().filter.is_empty() {
            self.filter(String::new());
            return Effect::Draw;
        }
        if self.places.len() > 1 {
            self.places.pop();
            self.settle();
            return Effect::Ask;
        }
        Effect::Draw
    }

    fn sort_by(&mut self, sort: Sort) {
        self.sorts[self.view().index()] = sort;
        self.settle();
    }

    /// By the column so many further on, around the end.
    fn sort_beside(&mut self, steps: usize) {
        let columns = self.view().columns();
        let column = (self.sorted().column + steps) % columns.len();
        self.sort_by(Sort::by(columns, column));
    }

    fn choose_sort(&mut self, key: Key, at: usize) -> Effect {
        let columns = self.view().columns();
        let last = columns.len() - 1;
        match key {
            Key::Up | Key::Char('k') => self.mode = Mode::Sorting(at.saturating_sub(1)),
            Key::Down | Key::Char('j') => self.mode = Mode::Sorting((at + 1).min(last)),
            Key::Home | Key::PageUp => self.mode = Mode::Sorting(0),
            Key::End | Key::PageDown => self.mode = Mode::Sorting(last),
            Key::Enter => {
                self.mode = Mode::Looking;
                self.sort_by(Sort::by(columns, at));
            }
            Key::Esc | Key::Char('q' | 's' | 'F') => self.mode = Mode::Looking,
            _ => {}
        }
        Effect::Draw
    }

    fn filter(&mut self, filter: String) {
        self.place_mut().filter = filter;
        self.settle();
    }

    fn type_filter(&mut self, key: Key) -> Effect {
        let mut filter = self.place().filter.clone();
        match key {
            Key::Enter => self.mode = Mode::Looking,
            Key::Esc => {
                self.mode = Mode::Looking;
                self.filter(String::new());
            }
            Key::Backspace => {
                filter.pop();
                self.filter(filter);
            }
            Key::Ctrl('u') => self.filter(String::new()),
            Key::Char(c) if filter.chars().count() < LONGEST => {
                filter.push(c);
                self.filter(filter);
            }
            // One sees what it leaves while one types.
            Key::Up => self.mark(self.place().index.saturating_sub(1)),
            Key::Down => self.mark(self.place().index + 1),
            _ => {}
        }
        Effect::Draw
    }

    fn type_delay(&mut self, key: Key, mut text: String) -> Effect {
        match key {
            Key::Char(c @ ('0'..='9' | '.')) if text.len() < 8 => text.push(c),
            Key::Backspace => {
                text.pop();
            }
            Key::Esc => {
                self.mode = Mode::Looking;
                return Effect::Draw;
            }
            Key::Enter => {
                self.mode = Mode::Looking;
                match delay(&text) {
                    Ok(delay) => self.delay = delay,
                    // Nothing typed changes nothing.
                    Err(_) if text.is_empty() => {}
                    Err(wanted) => self.remark = Some(format!("`{text}` is no delay: write {wanted}")),
                }
                return Effect::Ask;
            }
            _ => {}
        }
        self.mode = Mode::Delaying(text);
        Effect::Draw
    }

    fn read_help(&mut self, key: Key, line: usize) -> Effect {
        let last = HELP.len() - 1;
        self.mode = match key {
            Key::Down | Key::Char('j') => Mode::Helping((line + 1).min(last)),
            Key::Up | Key::Char('k') => Mode::Helping(line.saturating_sub(1)),
            Key::PageDown => Mode::Helping((line + self.page).min(last)),
            Key::PageUp => Mode::Helping(line.saturating_sub(self.page)),
            Key::Home => Mode::Helping(0),
            Key::End => Mode::Helping(last),
            _ => Mode::Looking,
        };
        Effect::Draw
    }
}

/// The ways from where one began to here, as `Domains > Processes of web1`.
pub fn path(places: &[Place]) -> String {
    let titles: Vec<String> = places.iter().map(|place| place.scope.title()).collect();
    titles.join(" > ")
}
