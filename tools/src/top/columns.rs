// SPDX-License-Identifier: GPL-3.0-only
//! Which columns are drawn where, on a screen of so many columns.

use super::table::{Column, Row, Value};

/// Spaces between two columns.
const GAP: u16 = 1;

/// A column on the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Its index.
    pub column: usize,
    /// Where it begins.
    pub x: u16,
    /// How wide it is.
    pub width: u16,
}

/// Places as many columns as there is room for: the first and the one that is sorted by, then by rank. `skipped` columns after the
/// first are scrolled out at the left. Columns grow to what these rows have, as far as there is room.
pub fn place(columns: &[Column], rows: &[Row], room: u16, skipped: usize, sorted: usize) -> Vec<Placed> {
    let natural = |i: usize| natural(&columns[i], rows.iter().filter_map(|row| row.cells.get(i)));
    let least = |i: usize| natural(i).min(columns[i].min).max(1);
    let rank = |i: &usize| match *i {
        0 => (0, 0),
        i if i == sorted => (0, 1),
        i => (columns[i].rank + 1, i),
    };
    let mut wanted: Vec<usize> = (0..columns.len()).filter(|i| *i == 0 || *i > skipped).collect();
    wanted.sort_by_key(rank);
    let mut used = 0u16;
    let mut chosen: Vec<(usize, u16)> = Vec::new();
    for i in wanted {
        let gap = if chosen.is_empty() { 0 } else { GAP };
        let more = used.saturating_add(gap).saturating_add(least(i));
        if more <= room || chosen.is_empty() {
            used = more;
            chosen.push((i, least(i)));
        }
    }
    // In the order of rank, still: who comes first grows first. The last minutes take what is left.
    let spark = |i: usize| rows.iter().any(|row| is_spark(row, i));
    chosen.sort_by_key(|(i, _)| (spark(*i), rank(i)));
    let mut left = room.saturating_sub(used);
    for (i, width) in &mut chosen {
        let more = natural(*i).saturating_sub(*width).min(left);
        *width += more;
        left -= more;
    }
    chosen.sort_by_key(|(i, _)| *i);
    let mut x = 0;
    let placed = chosen.into_iter().map(|(column, width)| {
        let width = width.min(room.saturating_sub(x));
        let placed = Placed { column, x, width };
        x = x.saturating_add(width).saturating_add(GAP);
        placed
    });
    placed.filter(|placed| placed.width > 0).collect()
}

fn is_spark(row: &Row, column: usize) -> bool {
    row.cells
        .get(column)
        .is_some_and(|cell| cell.value == Value::Spark)
}

/// How wide a column would be with room for all.
fn natural<'c>(column: &Column, cells: impl Iterator<Item = &'c super::table::Cell>) -> u16 {
    if column.min == column.max {
        return column.max;
    }
    let head = column.name.chars().count();
    let mut widest = head;
    for cell in cells {
        if cell.value == Value::Spark {
            return column.max;
        }
        widest = widest.max(cell.shown.chars().count());
    }
    u16::try_from(widest).unwrap_or(u16::MAX).min(column.max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::table::{Cell, Leads};

    const COLUMNS: [Column; 5] = [
        Column::text("Name", "name", 6, 20, 0),
        Column::number("N", "n", 5, 1),
        Column::text("What", "what", 8, 30, 2),
        Column::number("M", "m", 5, 3),
        Column::text("Line", "line", 8, 60, 4),
    ];

    fn rows(name: &str, what: &str) -> Vec<Row> {
        let cells = vec![
            Cell::text(name),
            Cell::count(1),
            Cell::text(what),
            Cell::count(2),
            Cell::spark(),
        ];
        vec![Row {
            key: "k".into(),
            cells,
            into: Leads::Nothing,
            detail: Vec::new(),
        }]
    }

    fn placed(room: u16, skipped: usize, sorted: usize) -> Vec<(usize, u16)> {
        let rows = rows("a-name-of-15-ch", "what there is to say");
        place(&COLUMNS, &rows, room, skipped, sorted)
            .into_iter()
            .map(|p| (p.column, p.width))
            .collect()
    }

    #[test]
    fn columns_come_by_rank_and_grow_with_the_room() {
        assert_eq!(placed(12, 0, 0), [(0, 6), (1, 5)]);
        assert_eq!(placed(21, 0, 0), [(0, 6), (1, 5), (2, 8)]);
        assert_eq!(placed(36, 0, 0), [(0, 6), (1, 5), (2, 8), (3, 5), (4, 8)]);
        assert_eq!(placed(40, 0, 0), [(0, 10), (1, 5), (2, 8), (3, 5), (4, 8)]);
        assert_eq!(placed(200, 0, 0), [(0, 15), (1, 5), (2, 20), (3, 5), (4, 60)]);
    }

    #[test]
    fn the_column_that_is_sorted_by_is_there_and_others_can_be_scrolled_out() {
        assert_eq!(placed(12, 0, 3), [(0, 6), (3, 5)]);
        assert_eq!(placed(21, 2, 0), [(0, 6), (3, 5), (4, 8)]);
    }

    #[test]
    fn nothing_is_beyond_the_room() {
        for room in 0..120 {
            for skipped in 0..5 {
                let rows = rows("a-name", "what there is to say");
                for p in place(&COLUMNS, &rows, room, skipped, 2) {
                    assert!(p.x + p.width <= room, "{room} {skipped} {p:?}");
                }
            }
        }
    }
}
