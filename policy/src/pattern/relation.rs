// SPDX-License-Identifier: GPL-3.0-only
//! What two patterns have in common.

use super::{Matcher, Pattern, Token};

/// A pattern by characters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Is(char),
    One,
    Run,
    Deep,
}

impl Unit {
    fn repeats(self) -> bool {
        matches!(self, Unit::Run | Unit::Deep)
    }

    /// Whether some character is both.
    fn meets(self, other: Unit) -> bool {
        match (self, other) {
            (Unit::Is(a), Unit::Is(b)) => a == b,
            (Unit::Is(a), Unit::One | Unit::Run) | (Unit::One | Unit::Run, Unit::Is(a)) => a != '/',
            _ => true,
        }
    }
}

impl Pattern {
    /// Whether some text matches both.
    pub(crate) fn overlaps(&self, other: &Pattern) -> bool {
        match (self.exact(), other.exact()) {
            (Some(text), _) => other.matches(text),
            (None, Some(text)) => self.matches(text),
            (None, None) => overlap(&self.units(), &other.units()),
        }
    }

    /// Whether every text that matches `other` surely matches this.
    pub(crate) fn covers(&self, other: &Pattern) -> bool {
        match other.exact() {
            Some(text) => self.matches(text),
            None => self.exact().is_none() && cover(&self.units(), &other.units()),
        }
    }

    fn units(&self) -> Vec<Unit> {
        let tokens: Vec<Token> = match &self.matcher {
            Matcher::Exact(bytes) => bytes.iter().map(|byte| Token::Byte(*byte)).collect(),
            Matcher::Glob(tokens) => tokens.to_vec(),
        };
        let mut units = Vec::with_capacity(tokens.len());
        let mut literal = Vec::new();
        // What stands between wildcards is whole characters, so nothing is replaced.
        let flush = |literal: &mut Vec<u8>, units: &mut Vec<Unit>| {
            units.extend(String::from_utf8_lossy(literal).chars().map(Unit::Is));
            literal.clear();
        };
        for token in tokens {
            let unit = match token {
                Token::Byte(byte) => {
                    literal.push(byte);
                    continue;
                }
                Token::One => Unit::One,
                Token::Run => Unit::Run,
                Token::Deep => Unit::Deep,
            };
            flush(&mut literal, &mut units);
            units.push(unit);
        }
        flush(&mut literal, &mut units);
        units
    }
}

/// Walks both at once: which places in `b` can be reached together with the place in `a`.
fn overlap(a: &[Unit], b: &[Unit]) -> bool {
    let mut reached = vec![vec![false; b.len() + 1]; a.len() + 1];
    reached[0][0] = true;
    // Every step goes forward in one of them, so one pass in order meets all.
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            if !reached[i][j] {
                continue;
            }
            let (left, right) = (a.get(i), b.get(j));
            if left.is_some_and(|unit| unit.repeats()) {
                reached[i + 1][j] = true;
            }
            if right.is_some_and(|unit| unit.repeats()) {
                reached[i][j + 1] = true;
            }
            if let (Some(left), Some(right)) = (left, right)
                && left.meets(*right)
            {
                // Where both repeat, taking a character leads to where they are.
                let (next_i, next_j) = (
                    i + usize::from(!left.repeats()),
                    j + usize::from(!right.repeats()),
                );
                reached[next_i][next_j] = true;
            }
        }
    }
    reached[a.len()][b.len()]
}

/// Takes `b` as a text of which some characters are not known. What it says is so; there are patterns of which it does not see it.
fn cover(a: &[Unit], b: &[Unit]) -> bool {
    let mut covers = vec![vec![false; b.len() + 1]; a.len() + 1];
    for i in (0..=a.len()).rev() {
        for j in (0..=b.len()).rev() {
            covers[i][j] = match (a.get(i), b.get(j)) {
                (None, rest) => rest.is_none(),
                (Some(unit), None) => unit.repeats() && covers[i + 1][j],
                (Some(Unit::Deep), Some(_)) => covers[i + 1][j] || covers[i][j + 1],
                (Some(Unit::Run), Some(taken)) => {
                    let within = !matches!(taken, Unit::Deep | Unit::Is('/'));
                    covers[i + 1][j] || (within && covers[i][j + 1])
                }
                (Some(Unit::One), Some(taken)) => {
                    !taken.repeats() && *taken != Unit::Is('/') && covers[i + 1][j + 1]
                }
                (Some(Unit::Is(a)), Some(taken)) => *taken == Unit::Is(*a) && covers[i + 1][j + 1],
            };
        }
    }
    covers[0][0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    #[test]
    fn some_that_meet_and_some_that_do_not() {
        let meet = |a: &str, b: &str| {
            assert_eq!(pattern(a).overlaps(&pattern(b)), pattern(b).overlaps(&pattern(a)));
            pattern(a).overlaps(&pattern(b))
        };
        assert!(meet("web*", "*1") && meet("web*", "**") && meet("a?c", "?b?") && meet("/usr/**", "**/curl"));
        assert!(
            !meet("web*", "db*") && !meet("/usr/*", "/usr/bin/*") && !meet("a?", "a") && !meet("é?", "é")
        );
        let covers = |a: &str, b: &str| pattern(a).covers(&pattern(b));
        assert!(
            covers("**", "/usr/**") && covers("web*", "web1*") && covers("*", "a?c") && covers("*b*", "aab*")
        );
        assert!(!covers("*", "**") && !covers("web1*", "web*") && !covers("?", "*") && !covers("a", "a*"));
    }

    proptest! {
        /// Over few letters random patterns and texts meet.
        #[test]
        fn relations_agree_with_what_matches(
            a in "[ab/]{0,2}(\\*{1,2}|\\?|)[ab/]{0,2}(\\*{1,2}|)[ab]",
            b in "[ab/]{0,2}(\\*{1,2}|\\?|)[ab/]{0,2}(\\*{1,2}|)[ab]",
            texts in proptest::collection::vec("[ab/]{0,6}", 60),
        ) {
            let (a, b) = (pattern(&a), pattern(&b));
            for text in &texts {
                prop_assert!(!(a.matches(text) && b.matches(text)) || a.overlaps(&b), "{} {} {}", a, b, text);
                prop_assert!(!(a.covers(&b) && b.matches(text)) || a.matches(text), "{} {} {}", a, b, text);
            }
            prop_assert!(a.covers(&a) && a.overlaps(&a));
        }
    }
}
