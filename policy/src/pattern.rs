// SPDX-License-Identifier: GPL-3.0-only
//! Patterns over names and paths.
//!
//! `*` stands for any run of characters but `/`, `**` for any run at all, `?` for one character but `/`,
//! and a backslash takes the next character as itself. Everything else is literal. Matching is over bytes
//! (a guest's path need not be UTF-8 to be compared), takes no memory, and costs at most the length of the
//! text times the length of the pattern per `**`.

mod relation;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The longest pattern, in bytes; the longest path component of Linux is 255.
pub const MAX_PATTERN: usize = 512;

/// A compiled pattern. Equality and order are those of the text.
#[derive(Clone)]
pub struct Pattern {
    text: Box<str>,
    matcher: Matcher,
}

#[derive(Clone)]
enum Matcher {
    /// No wildcard: most patterns, and one comparison.
    Exact(Box<[u8]>),
    Glob(Box<[Token]>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    Byte(u8),
    /// One character but `/`: a UTF-8 sequence, or one byte where the text is not UTF-8.
    One,
    /// `*`
    Run,
    /// `**`
    Deep,
}

/// Why a text is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Nothing to match.
    #[error("a pattern is empty; write a name, or \"*\" for every one")]
    Empty,
    /// More than [`MAX_PATTERN`] bytes.
    #[error("a pattern of {0} bytes; use at most {MAX_PATTERN}")]
    Long(usize),
    /// A class or an alternative, which this crate does not know and must not take as literal unasked.
    #[error(
        "`{0}` has no meaning in a pattern here; write a list of patterns, or \\{0} for the character itself"
    )]
    Unsupported(char),
    /// A backslash with nothing after it.
    #[error("a pattern ends in a backslash; write \\\\ for the character itself")]
    Backslash,
    /// A control character, which no name of a VM or a program that one would list has.
    #[error("a pattern has a control character; remove it")]
    Control,
}

impl Pattern {
    /// Whether the text matches.
    pub fn matches(&self, text: &str) -> bool {
        match &self.matcher {
            Matcher::Exact(bytes) => **bytes == *text.as_bytes(),
            Matcher::Glob(tokens) => glob(tokens, text.as_bytes()),
        }
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The one text that matches, when there is only one.
    pub fn exact(&self) -> Option<&str> {
        match &self.matcher {
            // Escapes only remove ASCII backslashes, so what is left is UTF-8 still.
            Matcher::Exact(bytes) => std::str::from_utf8(bytes).ok(),
            Matcher::Glob(_) => None,
        }
    }

    /// How much a pattern says: an exact one more than any other, the rest by their literal bytes.
    pub(crate) fn specificity(&self) -> usize {
        match &self.matcher {
            Matcher::Exact(_) => usize::MAX,
            Matcher::Glob(tokens) => tokens.iter().filter(|t| matches!(t, Token::Byte(_))).count(),
        }
    }
}

/// Matches with two levels of memory, the last `*` and the last `**`. That is enough: an earlier wildcard
/// never needs to take more than its shortest, as the later one can take the rest; only where a `*` meets a
/// `/` it must not cross does the `**` before it have to move.
fn glob(tokens: &[Token], text: &[u8]) -> bool {
    let (mut t, mut i) = (0, 0);
    let mut run: Option<(usize, usize)> = None;
    let mut deep: Option<(usize, usize)> = None;
    loop {
        match tokens.get(t) {
            Some(Token::Deep) => {
                t += 1;
                deep = Some((t, i));
                run = None;
                continue;
            }
            Some(Token::Run) => {
                t += 1;
                run = Some((t, i));
                continue;
            }
            Some(Token::Byte(b)) if text.get(i) == Some(b) => {
                t += 1;
                i += 1;
                continue;
            }
            Some(Token::One) if text.get(i).is_some_and(|b| *b != b'/') => {
                t += 1;
                i += character(text, i);
                continue;
            }
            None if i == text.len() => return true,
            _ => {}
        }
        if let Some((after, at)) = run
            && text.get(at).is_some_and(|b| *b != b'/')
        {
            let at = at + character(text, at);
            run = Some((after, at));
            (t, i) = (after, at);
        } else if let Some((after, at)) = deep
            && at < text.len()
        {
            let at = at + character(text, at);
            deep = Some((after, at));
            run = None;
            (t, i) = (after, at);
        } else {
            return false;
        }
    }
}

/// The length in bytes of the character at `i`: its UTF-8 continuation bytes belong to it.
fn character(text: &[u8], i: usize) -> usize {
    1 + text[i + 1..].iter().take_while(|b| **b & 0xc0 == 0x80).count()
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > MAX_PATTERN {
            return Err(PatternError::Long(text.len()));
        }
        let mut tokens = Vec::with_capacity(text.len());
        let mut characters = text.chars();
        while let Some(c) = characters.next() {
            let literal = match c {
                '*' => {
                    match tokens.last() {
                        Some(Token::Run) => *tokens.last_mut().ok_or(PatternError::Empty)? = Token::Deep,
                        Some(Token::Deep) => {}
                        _ => tokens.push(Token::Run),
                    }
                    continue;
                }
                '?' => {
                    tokens.push(Token::One);
                    continue;
                }
                '[' | ']' | '{' | '}' => return Err(PatternError::Unsupported(c)),
                c if c.is_control() => return Err(PatternError::Control),
                '\\' => characters.next().ok_or(PatternError::Backslash)?,
                c => c,
            };
            let mut buffer = [0; 4];
            tokens.extend(literal.encode_utf8(&mut buffer).bytes().map(Token::Byte));
        }
        let exact: Option<Box<[u8]>> = tokens
            .iter()
            .map(|t| match t {
                Token::Byte(b) => Some(*b),
                _ => None,
            })
            .collect();
        Ok(Pattern {
            text: text.into(),
            matcher: exact.map_or_else(|| Matcher::Glob(tokens.into()), Matcher::Exact),
        })
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl PartialOrd for Pattern {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pattern {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, text: &str) -> bool {
        pattern.parse::<Pattern>().unwrap().matches(text)
    }

    #[test]
    fn star_stays_within_a_component() {
        assert!(matches("/usr/bin/redis-*", "/usr/bin/redis-server"));
        assert!(matches("/usr/bin/redis-*", "/usr/bin/redis-"));
        assert!(!matches("/usr/bin/redis-*", "/usr/bin/redis-x/evil"));
        assert!(!matches("/home/*/app", "/home/a/tmp/app"));
        assert!(matches("/home/*/app", "/home/a/app"));
        assert!(matches("*", "web1"));
    }

    #[test]
    fn two_stars_cross_components() {
        assert!(matches("/opt/**", "/opt/a/b"));
        assert!(matches("**/app.py", "/srv/x/app.py"));
        assert!(matches("/a/**/b*c", "/a/x/bc/y/bxc"));
        assert!(!matches("/a/**/b*c", "/a/x/bc/y/bx"));
        assert!(matches("***", "/a/b"));
    }

    #[test]
    fn one_is_a_character_and_no_slash() {
        assert!(matches("w?b", "web"));
        assert!(matches("w?b", "wéb"));
        assert!(!matches("w?b", "w/b"));
        assert!(!matches("w?b", "wb"));
    }

    #[test]
    fn escapes_are_literal() {
        assert!(matches(r"a\*b", "a*b"));
        assert!(!matches(r"a\*b", "axb"));
        assert_eq!(r"a\[1\]".parse::<Pattern>().unwrap().exact(), Some("a[1]"));
    }

    #[test]
    fn errors() {
        let error = |text: &str| text.parse::<Pattern>().unwrap_err();
        assert_eq!(error(""), PatternError::Empty);
        assert_eq!(error("web[12]"), PatternError::Unsupported('['));
        assert_eq!(error("web\\"), PatternError::Backslash);
        assert_eq!(error("a\nb"), PatternError::Control);
        assert_eq!(error(&"x".repeat(513)), PatternError::Long(513));
    }

    /// The meaning, written as plainly as it goes: each wildcard tries every length.
    fn reference(pattern: &[char], text: &[char]) -> bool {
        match pattern {
            [] => text.is_empty(),
            ['*', '*', rest @ ..] => (0..=text.len()).any(|n| reference(rest, &text[n..])),
            ['*', rest @ ..] => (0..=text.len())
                .take_while(|n| *n == 0 || text[n - 1] != '/')
                .any(|n| reference(rest, &text[n..])),
            ['?', rest @ ..] => text.first().is_some_and(|c| *c != '/') && reference(rest, &text[1..]),
            [c, rest @ ..] => text.first() == Some(c) && reference(rest, &text[1..]),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn agrees_with_the_reference(pattern in "[ab/*?é]{1,10}", text in "[ab/é]{0,12}") {
            let p: Vec<char> = pattern.chars().collect();
            let t: Vec<char> = text.chars().collect();
            prop_assert_eq!(matches(&pattern, &text), reference(&p, &t));
        }
    }
}
