// SPDX-License-Identifier: GPL-3.0-only
//! Following a list whose entries are numbered and only come at one end.

use std::thread;
use std::time::Duration;

use policyd_api::PageQuery;

use crate::error::ToolError;

/// How often is looked for new entries.
const INTERVAL: Duration = Duration::from_secs(1);
/// Entries asked for at once: as many as the daemon gives.
const MOST: usize = 1000;

/// A page: its entries, the newest first, and where the next one begins.
pub type Part<T> = (Vec<T>, Option<u64>);

/// Tells the last `limit` entries, then each that comes, the oldest first; ends only by an error.
pub fn follow<T>(
    limit: usize,
    set: Option<&str>,
    ask: impl Fn(&PageQuery) -> Result<Part<T>, ToolError>,
    number: impl Fn(&T) -> u64,
    mut tell: impl FnMut(&T) -> Result<(), ToolError>,
) -> Result<(), ToolError> {
    let query = |before, limit| PageQuery {
        before,
        limit: Some(limit),
        set: set.map(str::to_owned),
    };
    let mut entries = ask(&query(None, limit))?.0;
    let mut last = None;
    loop {
        for entry in entries.iter().rev() {
            tell(entry)?;
            last = Some(number(entry));
        }
        thread::sleep(INTERVAL);
        entries = since(last, |before| ask(&query(before, MOST)), &number)?;
    }
}

/// All entries that are newer than `last`, the newest first.
fn since<T>(
    last: Option<u64>,
    ask: impl Fn(Option<u64>) -> Result<Part<T>, ToolError>,
    number: impl Fn(&T) -> u64,
) -> Result<Vec<T>, ToolError> {
    let mut all = Vec::new();
    let mut before = None;
    loop {
        let (entries, next) = ask(before)?;
        for entry in entries {
            if last.is_some_and(|last| number(&entry) <= last) {
                return Ok(all);
            }
            all.push(entry);
        }
        if next.is_none() {
            return Ok(all);
        }
        before = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list of the numbers up to `newest`, given out three at a time.
    fn page(newest: u64, before: Option<u64>) -> Part<u64> {
        let below = before.unwrap_or(newest + 1);
        let entries: Vec<u64> = (1..below).rev().take(3).collect();
        let next = entries.last().copied().filter(|n| *n > 1);
        (entries, next)
    }

    #[test]
    fn nothing_new_is_left_out_or_told_twice() {
        for (last, expected) in [
            (None, (1..=8).rev().collect::<Vec<u64>>()),
            (Some(1), (2..=8).rev().collect()),
            (Some(5), vec![8, 7, 6]),
            (Some(7), vec![8]),
            (Some(8), vec![]),
        ] {
            let new = since(last, |before| Ok(page(8, before)), |n| *n).unwrap_or_default();
            assert_eq!(new, expected, "{last:?}");
        }
    }

    #[test]
    fn the_last_are_told_first_then_what_comes() {
        let (newest, told) = (std::cell::Cell::new(5), std::cell::RefCell::new(Vec::new()));
        let ask = |query: &PageQuery| {
            let (mut entries, next) = page(newest.get(), query.before);
            entries.truncate(query.limit.unwrap_or(MOST));
            Ok((entries, next))
        };
        let end = follow(
            2,
            None,
            ask,
            |n| *n,
            |n| {
                told.borrow_mut().push(*n);
                newest.set(8);
                match n {
                    8 => Err(ToolError::ReaderGone),
                    _ => Ok(()),
                }
            },
        );
        assert!(matches!(end, Err(ToolError::ReaderGone)));
        assert_eq!(*told.borrow(), [4, 5, 6, 7, 8]);
    }
}
