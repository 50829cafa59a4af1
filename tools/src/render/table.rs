// SPDX-License-Identifier: GPL-3.0-only
//! Tables as `xl` prints them: a header, columns two spaces apart, no lines.
//!
//! Into a pipe a row is one line, whole. On a terminal that is too narrow long texts are cut, and what still has no room goes to a
//! second line of the row.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::plain;
use super::style::{self, Style, Tone};

/// Spaces between two columns.
const GAP: usize = 2;
/// Spaces before what goes to a second line.
const INDENT: usize = 4;
/// Texts up to so many characters are never cut.
const LONG: usize = 24;
/// Columns whose first word says how something stands: these are coloured.
const STANDS: [&str; 5] = ["Verdict", "State", "Mode", "Outcome", "Level"];
/// Columns of paths.
const PATHS: [&str; 1] = ["Exe"];

/// On which side of its column a cell stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Texts.
    Left,
    /// Numbers.
    Right,
}

/// A table that is filled row by row.
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns; their names are part of the interface that scripts use.
    pub fn new(columns: &[(&'static str, Align)]) -> Self {
        Table {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row: a cell for each column. An empty cell is shown as `-`, so that fields can be counted.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells = cells
            .into_iter()
            .map(|cell| {
                if cell.is_empty() {
                    "-".to_owned()
                } else {
                    plain(&cell)
                }
            })
            .collect();
        self.rows.push(cells);
    }

    /// The table as text, a line a row, each with a line break.
    pub fn render(&self) -> String {
        self.lines().into_iter().map(|line| line + "\n").collect()
    }

    /// The header, then each row; in the style of this process. A row that is too wide for it is more than one line.
    pub fn lines(&self) -> Vec<String> {
        self.styled(style::current())
    }

    fn styled(&self, style: Style) -> Vec<String> {
        let header: Vec<String> = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        let widths = self.widths(&header, style.width);
        let parts = parts(&widths, style.width);
        let mut lines = vec![style.paint(Tone::Head, &self.line(&header, &widths, &parts, Style::default()))];
        lines.extend(self.rows.iter().map(|row| self.line(row, &widths, &parts, style)));
        lines
    }

    /// The widths of the columns. Where all together are too wide, long texts are cut; addresses never are.
    fn widths(&self, header: &Vec<String>, limit: Option<usize>) -> Vec<usize> {
        let cells = |i: usize| {
            std::iter::once(header)
                .chain(&self.rows)
                .filter_map(move |row| row.get(i))
        };
        let natural = |i| cells(i).map(|cell| cell.chars().count()).max().unwrap_or(0);
        let mut widths: Vec<usize> = (0..self.columns.len()).map(natural).collect();
        let gaps = GAP * widths.len().saturating_sub(1);
        let Some(limit) = limit else { return widths };
        for (i, (_, align)) in self.columns.iter().enumerate() {
            let all = widths.iter().sum::<usize>() + gaps;
            let Some(width) = widths.get_mut(i) else { continue };
            let texts = *align == Align::Left && *width > LONG && !cells(i).any(|cell| is_address(cell));
            if all > limit && texts {
                *width = width.saturating_sub(all - limit).max(LONG);
            }
        }
        widths
    }

    fn line(&self, row: &[String], widths: &[usize], parts: &[Range<usize>], style: Style) -> String {
        let part = |part: &Range<usize>| {
            let cells: Vec<String> = part
                .clone()
                .filter_map(|i| {
                    let (cell, (name, align)) = (row.get(i)?, self.columns.get(i)?);
                    let width = *widths.get(i)?;
                    let cell = cut(cell, width, PATHS.contains(name));
                    let room = " ".repeat(width.saturating_sub(cell.chars().count()));
                    let cell = match STANDS
                        .contains(name)
                        .then(|| style::tone(first_word(&cell)))
                        .flatten()
                    {
                        Some(tone) => style.paint(tone, &cell),
                        None => cell,
                    };
                    Some(match align {
                        Align::Left => cell + &room,
                        Align::Right => room + &cell,
                    })
                })
                .collect();
            cells.join(&" ".repeat(GAP)).trim_end().to_owned()
        };
        let lines: Vec<String> = parts.iter().map(part).collect();
        lines.join(&format!("\n{}", " ".repeat(INDENT)))
    }
}

/// Which columns stand on which line of a row: as many as there is room for.
fn parts(widths: &[usize], limit: Option<usize>) -> Vec<Range<usize>> {
    let limit = limit.unwrap_or(usize::MAX);
    let (mut parts, mut start, mut used) = (Vec::new(), 0, 0);
    for (i, width) in widths.iter().enumerate() {
        let wanted = if i == start {
            used + width
        } else {
            used + GAP + width
        };
        if wanted > limit && i > start {
            parts.push(start..i);
            (start, used) = (i, INDENT + width);
        } else {
            used = wanted;
        }
    }
    parts.push(start..widths.len());
    parts
}

/// As much of a cell as there is room for; of a path its end, which tells more.
fn cut(cell: &str, width: usize, path: bool) -> String {
    let length = cell.chars().count();
    if length <= width || width == 0 {
        return cell.to_owned();
    }
    if path {
        let rest: String = cell.chars().skip(length - (width - 1)).collect();
        return format!("…{rest}");
    }
    let begin: String = cell.chars().take(width - 1).collect();
    format!("{begin}…")
}

fn is_address(cell: &str) -> bool {
    cell.parse::<SocketAddr>().is_ok() || cell.parse::<IpAddr>().is_ok()
}

fn first_word(cell: &str) -> &str {
    cell.split([' ', ':', ',']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&[
            ("Name", Align::Left),
            ("ID", Align::Right),
            ("State", Align::Left),
        ]);
        table.row(["web1".into(), "3".into(), "running".into()]);
        table.row(["a-long-name".into(), "12".into(), String::new()]);
        assert_eq!(
            table.render(),
            "Name         ID  State\n\
             web1          3  running\n\
             a-long-name  12  -\n"
        );
    }

    #[test]
    fn a_table_without_rows_is_its_header() {
        assert_eq!(Table::new(&[("Name", Align::Left)]).render(), "Name\n");
    }

    #[test]
    fn cells_cannot_break_the_line() {
        let mut table = Table::new(&[("Name", Align::Left)]);
        table.row(["a\nb".into()]);
        assert_eq!(table.lines(), ["Name", "a\\nb"]);
    }

    fn wide() -> Table {
        let mut table = Table::new(&[
            ("Domain", Align::Left),
            ("Remote", Align::Left),
            ("Verdict", Align::Left),
            ("Exe", Align::Left),
            ("N", Align::Right),
        ]);
        table.row([
            "web1".into(),
            "[2001:db8:1111:2222:3333:4444:5555:6666]:44300".into(),
            "deny".into(),
            "/opt/a/very/long/path/to/some/program".into(),
            "7".into(),
        ]);
        table
    }

    fn style(width: usize) -> Style {
        Style {
            color: false,
            width: Some(width),
        }
    }

    #[test]
    fn a_table_grows_with_its_terminal() {
        let whole = wide().lines();
        let natural = whole[1].chars().count();
        assert_eq!(wide().styled(style(natural)), whole);
        // Cut: the path, at its beginning.
        assert_eq!(
            wide().styled(style(natural - 3))[1],
            "web1    [2001:db8:1111:2222:3333:4444:5555:6666]:44300  deny     …/a/very/long/path/to/some/program  7"
        );
        assert_eq!(
            wide().styled(style(80)),
            [
                "Domain  Remote                                          Verdict\n    Exe                       N",
                "web1    [2001:db8:1111:2222:3333:4444:5555:6666]:44300  deny\n    …ng/path/to/some/program  7",
            ]
        );
        for width in 60..natural {
            for line in wide().styled(style(width)).join("\n").lines() {
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
        }
    }

    #[test]
    fn colours_take_no_room() {
        let style = Style {
            color: true,
            width: Some(200),
        };
        let lines = wide().styled(style);
        assert!(lines[0].starts_with("\x1b[1mDomain"), "{:?}", lines[0]);
        assert!(
            lines[1].contains("\x1b[31mdeny\x1b[0m     /opt"),
            "{:?}",
            lines[1]
        );
        let bare: Vec<String> = lines
            .iter()
            .map(|l| {
                ["\x1b[1m", "\x1b[31m", "\x1b[0m"]
                    .iter()
                    .fold(l.clone(), |l, code| l.replace(code, ""))
            })
            .collect();
        assert_eq!(bare, wide().lines());
    }
}
