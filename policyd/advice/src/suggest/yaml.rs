// SPDX-License-Identifier: GPL-3.0-only
//! Texts in a document. Paths and names come from guests: whatever is in them, what is written is one pattern, or a part of one comment.

use policy::pattern::MAX_PATTERN;

/// Bytes of a pattern from where on it is cut and left open.
const LONG: usize = MAX_PATTERN - 16;
/// Characters of a guest's text in a comment.
const SHOWN: usize = 160;

/// A pattern that matches this text and, unless it is very long or has control characters, nothing else.
pub fn pattern(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for c in text.chars() {
        if pattern.len() > LONG {
            pattern.push_str("**");
            break;
        }
        match c {
            '*' | '?' | '[' | ']' | '{' | '}' | '\\' => pattern.extend(['\\', c]),
            // No pattern may have one.
            c if c.is_control() => pattern.push('?'),
            c => pattern.push(c),
        }
    }
    pattern
}

/// The same for the path of an executable, which begins with a slash in every document.
pub fn path(text: &str) -> String {
    match text.chars().next() {
        Some('/') | None => pattern(text),
        Some(first) => format!("?{}", pattern(&text[first.len_utf8()..])),
    }
}

/// The same for a guest's name, which is a name even if it looks like a UUID.
pub fn guest(text: &str) -> String {
    let pattern = pattern(text);
    let is_uuid = pattern.len() == 36 && pattern.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    match is_uuid {
        true => format!("\\{pattern}"),
        false => pattern,
    }
}

/// A scalar: as it is where that is a text to every reader of YAML, else in quotes.
pub fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let starts = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '/');
    let words = [
        "true", "false", "null", "yes", "no", "on", "off", "y", "n", "none",
    ];
    if starts && text.chars().all(plain) && !words.contains(&text) {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            ' '..='~' => quoted.push(c),
            c if c.is_alphanumeric() => quoted.push(c),
            c => match u32::from(c) {
                code @ 0..=0xffff => quoted += &format!("\\u{code:04X}"),
                code => quoted += &format!("\\U{code:08X}"),
            },
        }
    }
    quoted.push('"');
    quoted
}

/// A list, in one line; of one value the value.
pub fn list(texts: &[String]) -> String {
    match texts {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// A text as a part of a comment: it ends no line and hides nothing.
pub fn comment(text: &str) -> String {
    let mut shown = String::new();
    for (n, c) in text.chars().enumerate() {
        match c {
            _ if n == SHOWN => {
                shown.push('…');
                break;
            }
            ' '..='~' => shown.push(c),
            c if c.is_alphanumeric() => shown.push(c),
            c => shown.extend(c.escape_unicode()),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::pattern::Pattern;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_plain_text_is_quoted() {
        assert_eq!(scalar("/usr/bin/curl"), "/usr/bin/curl");
        assert_eq!(scalar("web*"), "\"web*\"");
        assert_eq!(scalar("no"), "\"no\"");
        assert_eq!(scalar("1e3"), "\"1e3\"");
        assert_eq!(
            scalar("a\"\\\u{2028}\u{1f980}"),
            "\"a\\\"\\\\\\u2028\\U0001F980\""
        );
        assert_eq!(comment("a\n- b\u{2028}"), "a\\u{a}- b\\u{2028}");
    }

    proptest! {
        #[test]
        fn a_pattern_of_any_text_matches_it(text in "\\PC{1,40}|[a/*?\\[\\]{}\\\\\n\u{85}]{1,20}|[*]{600}|[a]{600}", other in "[a/*]{1,5}") {
            let written: Pattern = pattern(&text).parse().expect("a pattern");
            prop_assert!(written.matches(&text));
            if text.len() < 200 && other != text && !text.chars().any(char::is_control) {
                prop_assert!(!written.matches(&other));
            }
            let of_path: Pattern = path(&text).parse().expect("a pattern");
            prop_assert!(of_path.as_str().starts_with(['/', '?']));
            prop_assert!(of_path.matches(&text) || text.starts_with(|c: char| c.is_control()));
        }

        #[test]
        fn a_scalar_is_read_as_it_was(text in "\\PC{1,40}|[-a/*?\"'#: {}\\[\\]\\\\]{1,20}") {
            let document = format!("policy: a\ndescription: {}\n", scalar(&text));
            let read = policy::Document::parse("a.yaml", &document).expect("valid");
            prop_assert_eq!(read.description(), Some(text.as_str()));
        }
    }
}
