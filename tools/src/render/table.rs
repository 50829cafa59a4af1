// SPDX-License-Identifier: GPL-3.0-only
//! Tables as `xl` prints them: a header, columns two spaces apart, no lines.

use super::plain;

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

    /// The lines: the header, then one for each row.
    pub fn lines(&self) -> Vec<String> {
        let header: Vec<String> = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        let width = |i: usize| {
            std::iter::once(&header)
                .chain(&self.rows)
                .filter_map(|row| row.get(i))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        std::iter::once(&header)
            .chain(&self.rows)
            .map(|row| self.line(row, &widths))
            .collect()
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let cells: Vec<String> = row
            .iter()
            .zip(&self.columns)
            .zip(widths)
            .map(|((cell, (_, align)), width)| match align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            })
            .collect();
        cells.join("  ").trim_end().to_owned()
    }
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
}
