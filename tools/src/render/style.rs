// SPDX-License-Identifier: GPL-3.0-only
//! How answers look where they go: colours, and how wide a line may be.

use std::io::{IsTerminal, stdout};
use std::sync::OnceLock;

use clap::ValueEnum;

/// A terminal that does not say how wide it is.
const USUAL: usize = 80;

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set or TERM is dumb.
    Auto,
    /// Wherever it goes.
    Always,
    /// Nowhere.
    Never,
}

/// How answers look. As default: no colours, lines of any length, which is what scripts get.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Style {
    /// Whether to colour.
    pub color: bool,
    /// Columns that a line of a table should not go beyond.
    pub width: Option<usize>,
}

/// What a word is painted with: SGR codes of eight colours, which every terminal has and each theme makes readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// To be looked at.
    Odd,
    /// Refused, gone, broken.
    Bad,
    /// Above a table.
    Head,
    /// Where a part begins.
    Part,
}

static STYLE: OnceLock<Style> = OnceLock::new();

/// Settles the style of this process, once, before anything is rendered. Where that is not done it is the default.
pub fn settle(choice: Color) {
    let env = |name: &str| std::env::var(name).unwrap_or_default();
    let terminal = stdout().is_terminal();
    let style = Style {
        color: colored(choice, terminal, &env("NO_COLOR"), &env("TERM")),
        width: terminal.then(width),
    };
    let _ = STYLE.set(style);
}

/// The style of this process.
pub fn current() -> Style {
    STYLE.get().copied().unwrap_or_default()
}

fn colored(choice: Color, terminal: bool, no_color: &str, term: &str) -> bool {
    match choice {
        Color::Always => true,
        Color::Never => false,
        // As <https://no-color.org> has it: set, and not to nothing.
        Color::Auto => terminal && no_color.is_empty() && term != "dumb",
    }
}

fn width() -> usize {
    match terminal_size::terminal_size() {
        Some((terminal_size::Width(0), _)) | None => USUAL,
        Some((terminal_size::Width(width), _)) => width.into(),
    }
}

impl Style {
    /// The text in a tone, if this style has colours.
    pub fn paint(self, tone: Tone, text: &str) -> String {
        if !self.color || text.is_empty() {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => 32,
            Tone::Odd => 33,
            Tone::Bad => 31,
            Tone::Head => 1,
            Tone::Part => 36,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// A unified diff.
    pub fn diff(self, text: &str) -> String {
        if !self.color {
            return text.to_owned();
        }
        let line = |line: &str| {
            let (body, end) = line.strip_suffix('\n').map_or((line, ""), |body| (body, "\n"));
            let tone = match body.as_bytes() {
                [b'+', b'+', b'+', ..] | [b'-', b'-', b'-', ..] => Some(Tone::Head),
                [b'+', ..] => Some(Tone::Good),
                [b'-', ..] => Some(Tone::Bad),
                [b'@', b'@', ..] => Some(Tone::Part),
                _ => None,
            };
            match tone {
                Some(tone) => self.paint(tone, body) + end,
                None => line.to_owned(),
            }
        };
        text.split_inclusive('\n').map(line).collect()
    }
}

/// The tone of a word that says how something stands.
pub fn tone(word: &str) -> Option<Tone> {
    match word {
        "allow" | "allowed" | "up" | "altp2m" | "ok" => Some(Tone::Good),
        "audit" | "breakpoint" | "lookup" | "vm" | "draining" | "paused" | "warning" | "warn" => {
            Some(Tone::Odd)
        }
        "deny" | "denied" | "down" | "gone" | "refused" | "alert" | "fail" | "dying" => Some(Tone::Bad),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAINTED: Style = Style {
        color: true,
        width: None,
    };

    #[test]
    fn colours_are_for_terminals_whose_users_want_them() {
        let auto = |terminal, no_color, term| colored(Color::Auto, terminal, no_color, term);
        assert!(auto(true, "", "xterm"));
        assert!(!auto(false, "", "xterm"));
        assert!(!auto(true, "1", "xterm"));
        assert!(!auto(true, "", "dumb"));
        assert!(colored(Color::Always, false, "1", "dumb"));
        assert!(!colored(Color::Never, true, "", "xterm"));
    }

    #[test]
    fn a_diff_is_painted_by_line() {
        let diff = "--- a\n+++ b\n@@ -1 +1 @@\n-x\n+y\n z\n";
        assert_eq!(
            PAINTED.diff(diff),
            "\x1b[1m--- a\x1b[0m\n\x1b[1m+++ b\x1b[0m\n\x1b[36m@@ -1 +1 @@\x1b[0m\n\x1b[31m-x\x1b[0m\n\x1b[32m+y\x1b[0m\n z\n"
        );
        assert_eq!(Style::default().diff(diff), diff);
    }
}
