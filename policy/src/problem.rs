// SPDX-License-Identifier: GPL-3.0-only
//! What is wrong with a document, where, and what to do about it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A place in a file. Lines and columns count characters from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl Place {
    /// The first character of a file: where problems of the whole file are shown.
    pub const START: Place = Place { line: 1, column: 1 };
}

/// One thing wrong at one place; prints as `file:line:column: what; remedy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{file}:{line}:{column}: {what}; {remedy}")]
pub struct Problem {
    /// The name the document was read under, usually a path.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub remedy: String,
}

/// Every problem found, in the order of the file; never empty. Prints one a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// The problems, in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }

    /// `Err` with what was collected, `Ok` when nothing was.
    pub(crate) fn or(mut collected: Vec<Problem>) -> Result<(), Problems> {
        if collected.is_empty() {
            return Ok(());
        }
        collected
            .sort_by(|a, b| (&a.file, a.line, a.column, &a.what).cmp(&(&b.file, b.line, b.column, &b.what)));
        collected.dedup();
        Err(Problems(collected))
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Problems(vec![problem])
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// The candidate nearest to a misspelt word, when it is near enough to be what was meant.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A third of the letters may be wrong: "protcol" is near to "protocol", "vm" to nothing else.
    let allowed = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|c| (strsim::damerau_levenshtein(&word.to_lowercase(), c), c))
        .filter(|(distance, c)| *distance <= allowed && *distance < c.chars().count())
        .min()
        .map(|(_, c)| c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_typos_and_nothing_else() {
        let fields = ["services", "default", "rules", "vm"];
        assert_eq!(nearest("service", fields), Some("services"));
        assert_eq!(nearest("ruels", fields), Some("rules"));
        assert_eq!(nearest("Default", fields), Some("default"));
        assert_eq!(nearest("colour", fields), None);
        assert_eq!(nearest("x", fields), None);
    }

    #[test]
    fn problems_come_sorted_and_once() {
        let at = |line, what: &str| Problem {
            file: "f".into(),
            line,
            column: 1,
            what: what.into(),
            remedy: "r".into(),
        };
        let all = Problems::or(vec![at(9, "b"), at(2, "a"), at(9, "b")]).unwrap_err();
        assert_eq!(all.to_string(), "f:2:1: a; r\nf:9:1: b; r");
        assert!(Problems::or(Vec::new()).is_ok());
    }
}
