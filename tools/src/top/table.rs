// SPDX-License-Identifier: GPL-3.0-only
//! Rows of cells, as all views have them: sorting and filtering. How wide they are drawn is `columns`' business.

use std::cmp::Ordering;

use serde_json::Value as Json;

use crate::render::plain;
use crate::render::style::Tone;
use crate::render::table::Align;

/// A column of a view.
#[derive(Debug)]
pub struct Column {
    /// Above it.
    pub name: &'static str,
    /// In JSON.
    pub json: &'static str,
    /// On which side its cells stand.
    pub align: Align,
    /// Characters below which it is not drawn at all.
    pub min: u16,
    /// Characters that it grows to where there is room.
    pub max: u16,
    /// Columns of a smaller rank are drawn first where there is no room for all.
    pub rank: u8,
    /// Paths are cut at their beginning: the end tells more.
    pub path: bool,
}

impl Column {
    /// A column of texts.
    pub const fn text(name: &'static str, json: &'static str, min: u16, max: u16, rank: u8) -> Column {
        Column {
            name,
            json,
            align: Align::Left,
            min,
            max,
            rank,
            path: false,
        }
    }

    /// A column of paths.
    pub const fn path(name: &'static str, json: &'static str, min: u16, max: u16, rank: u8) -> Column {
        Column {
            path: true,
            ..Column::text(name, json, min, max, rank)
        }
    }

    /// A column of numbers, always so wide.
    pub const fn number(name: &'static str, json: &'static str, width: u16, rank: u8) -> Column {
        Column {
            align: Align::Right,
            ..Column::text(name, json, width, width, rank)
        }
    }

    /// Whether large values come first when it is sorted by: who is largest is what people look for.
    pub fn large_first(&self) -> bool {
        self.align == Align::Right
    }
}

/// What a cell says.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing: not known, or not there.
    None,
    /// A number: sorted by it, whatever is shown.
    Number(f64),
    /// A text as it came, which may be a guest's.
    Text(String),
    /// The last minutes as a line; drawn from the history of the row's key.
    Spark,
}

/// A cell.
#[derive(Debug, Clone)]
pub struct Cell {
    /// As people read it; nothing in it can move a cursor.
    pub shown: String,
    /// What it says.
    pub value: Value,
    /// How it stands.
    pub tone: Option<Tone>,
}

impl Cell {
    /// A text, from wherever it comes.
    pub fn text(text: impl Into<String>) -> Cell {
        let text = text.into();
        if text.is_empty() {
            return Cell::none();
        }
        Cell {
            shown: plain(&text),
            value: Value::Text(text),
            tone: None,
        }
    }

    /// A text that may not be there.
    pub fn maybe(text: Option<impl Into<String>>) -> Cell {
        text.map_or_else(Cell::none, Cell::text)
    }

    /// A word that says how something stands, in its tone.
    pub fn word(word: &str) -> Cell {
        Cell {
            tone: crate::render::style::tone(word),
            ..Cell::text(word)
        }
    }

    /// A number, and how it is shown.
    pub fn number(value: f64, shown: String) -> Cell {
        Cell {
            shown,
            value: Value::Number(value),
            tone: None,
        }
    }

    /// A number of things.
    pub fn count(count: u64) -> Cell {
        Cell::number(count as f64, count.to_string())
    }

    /// A number that may not be known, and how it is shown.
    pub fn measured(value: Option<f64>, show: impl Fn(f64) -> String) -> Cell {
        value.map_or_else(Cell::none, |value| Cell::number(value, show(value)))
    }

    /// The last minutes.
    pub fn spark() -> Cell {
        Cell {
            shown: String::new(),
            value: Value::Spark,
            tone: None,
        }
    }

    /// Not known, or not there.
    pub fn none() -> Cell {
        Cell {
            shown: "-".to_owned(),
            value: Value::None,
            tone: None,
        }
    }

    /// The same in a tone, if it is above zero.
    pub fn bad_above_zero(mut self, tone: Tone) -> Cell {
        if matches!(self.value, Value::Number(n) if n > 0.0) {
            self.tone = Some(tone);
        }
        self
    }

    fn json(&self) -> Option<Json> {
        match &self.value {
            Value::None => Some(Json::Null),
            Value::Number(n) => Some(serde_json::Number::from_f64(*n).map_or(Json::Null, Json::Number)),
            Value::Text(text) => Some(Json::String(text.clone())),
            Value::Spark => None,
        }
    }
}

/// A row of a view.
#[derive(Debug, Clone)]
pub struct Row {
    /// What tells it from others, from one look to the next.
    pub key: String,
    /// A cell for each column.
    pub cells: Vec<Cell>,
    /// What Enter leads to.
    pub into: Leads,
    /// More about it, a line each; shown below the table.
    pub detail: Vec<String>,
}

/// What Enter leads to from a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leads {
    /// Nothing.
    Nothing,
    /// The processes of a domain.
    Domain(String),
    /// The flows of a process: domain, process id, executable.
    Process(String, u32, String),
    /// The flows of a pair.
    Pair(Box<Ends>),
}

/// Between whom a pair's flows are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ends {
    /// Who opens them.
    pub from: End,
    /// Who they go to.
    pub to: End,
    /// The route, where it is known.
    pub route: Option<String>,
    /// Version of a route.
    pub version: Option<String>,
    /// Port of the server.
    pub port: Option<u16>,
    /// Protocol, where it is known.
    pub protocol: Option<String>,
}

/// One end of a pair.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct End {
    /// Its name in signals.
    pub name: String,
    /// What the name is of.
    pub kind: policyd_api::PeerKind,
}

impl Row {
    /// Whether a filter lets it stay: all its words are in some cell, in any case of letters.
    pub fn fits(&self, filter: &str) -> bool {
        filter.split_whitespace().all(|word| {
            let word = word.to_lowercase();
            self.cells
                .iter()
                .any(|cell| cell.shown.to_lowercase().contains(&word))
        })
    }

    /// As an object; columns that only draw are left out.
    pub fn json(&self, columns: &[Column]) -> Json {
        columns
            .iter()
            .zip(&self.cells)
            .filter_map(|(column, cell)| Some((column.json.to_owned(), cell.json()?)))
            .collect()
    }
}

/// By which column, and which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sort {
    /// Its index.
    pub column: usize,
    /// The largest first, or of texts the last of the alphabet.
    pub descending: bool,
}

impl Sort {
    /// By this column, its usual way.
    pub fn by(columns: &[Column], column: usize) -> Sort {
        Sort {
            column,
            descending: columns.get(column).is_some_and(Column::large_first),
        }
    }
}

/// Sorts rows. What is not known comes last either way; equals stand by their keys, so that rows do not dance.
pub fn sort(rows: &mut [Row], sort: Sort) {
    rows.sort_by(|a, b| {
        let cells = (a.cells.get(sort.column), b.cells.get(sort.column));
        let order = match cells {
            (Some(a), Some(b)) => compare(&a.value, &b.value, sort.descending),
            _ => Ordering::Equal,
        };
        order.then_with(|| a.key.cmp(&b.key))
    });
}

fn compare(a: &Value, b: &Value, descending: bool) -> Ordering {
    let turned = |order: Ordering| if descending { order.reverse() } else { order };
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => turned(a.total_cmp(b)),
        (Value::Text(a), Value::Text(b)) => turned(a.cmp(b)),
        (Value::Number(_), Value::Text(_)) => turned(Ordering::Less),
        (Value::Text(_), Value::Number(_)) => turned(Ordering::Greater),
        (Value::Number(_) | Value::Text(_), _) => Ordering::Less,
        (_, Value::Number(_) | Value::Text(_)) => Ordering::Greater,
        _ => Ordering::Equal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str, cells: [Cell; 2]) -> Row {
        Row {
            key: key.into(),
            cells: cells.into(),
            into: Leads::Nothing,
            detail: Vec::new(),
        }
    }

    fn rows() -> Vec<Row> {
        let number = |n: f64| Cell::number(n, n.to_string());
        vec![
            row("b", [Cell::text("beta"), number(9.0)]),
            row("n", [Cell::none(), Cell::none()]),
            row("c", [Cell::text("gamma"), number(10.0)]),
            row("a", [Cell::text("alpha"), number(9.0)]),
        ]
    }

    fn sorted(column: usize, descending: bool) -> String {
        let mut rows = rows();
        sort(&mut rows, Sort { column, descending });
        rows.iter().map(|row| row.key.as_str()).collect()
    }

    #[test]
    fn numbers_are_sorted_as_numbers_and_the_unknown_come_last_either_way() {
        assert_eq!(sorted(1, true), "cabn");
        assert_eq!(sorted(1, false), "abcn");
        assert_eq!(sorted(0, false), "abcn");
        assert_eq!(sorted(0, true), "cban");
    }

    #[test]
    fn a_filter_is_words_that_all_must_be_somewhere() {
        let row = row("k", [Cell::text("Web1"), Cell::text("/usr/bin/curl")]);
        assert!(row.fits("") && row.fits("curl") && row.fits("WEB curl"));
        assert!(!row.fits("web2") && !row.fits("curl wget"));
    }

    #[test]
    fn what_a_guest_says_cannot_move_the_cursor_and_is_whole_in_json() {
        const COLUMNS: [Column; 2] = [
            Column::text("Name", "name", 4, 9, 0),
            Column::number("N", "n", 4, 0),
        ];
        let row = row("k", [Cell::text("a\u{1b}[2J\nb"), Cell::count(3)]);
        assert_eq!(row.cells[0].shown, "a\\u{1b}[2J\\nb");
        assert_eq!(row.json(&COLUMNS)["name"], "a\u{1b}[2J\nb");
        assert_eq!(row.json(&COLUMNS)["n"], 3.0);
    }
}
