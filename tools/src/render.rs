// SPDX-License-Identifier: GPL-3.0-only
//! Answers as text. Pure: values in, strings out.
//!
//! Names, paths and arguments come out of guests' memory, so whatever is shown of them is stripped of
//! control characters first: a guest must not be able to write to an administrator's terminal.

pub mod advice;
pub mod check;
pub mod doctor;
pub mod domain;
pub mod event;
pub mod flow;
pub mod graph;
pub mod guest;
pub mod measured;
pub mod past;
pub mod policy;
pub mod policy_history;
pub mod qos;
pub mod rollout;
pub mod route;
pub mod signal;
pub mod stats;
pub mod style;
pub mod table;
pub mod threat;
pub mod time;
pub mod trace;

/// One line without control characters; each is shown as an escape.
pub fn plain(text: &str) -> String {
    escape(text, |_| false)
}

/// The same, with line breaks left in: for texts of our own and documents.
pub fn multiline(text: &str) -> String {
    escape(text, |c| matches!(c, '\n' | '\t'))
}

fn escape(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if keep(c) || !(c.is_control() || turns(c)) {
            out.push(c);
        } else {
            out.extend(c.escape_default());
        }
    }
    out
}

/// Characters that change the order in which a terminal shows what follows.
fn turns(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A value, or `-` where there is none.
pub fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| v.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_cannot_write_to_the_terminal() {
        assert_eq!(plain("a\x1b[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        assert_eq!(plain("x\u{202e}y\u{9b}1m"), "x\\u{202e}y\\u{9b}1m");
        assert_eq!(plain("/usr/bin/wéb"), "/usr/bin/wéb");
        assert_eq!(multiline("a\n\x07b"), "a\n\\u{7}b");
    }
}
