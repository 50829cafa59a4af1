// SPDX-License-Identifier: GPL-3.0-only
//! What failed, once more and in few words: who sees only the end of a long run sees why.

/// Lines told of one test.
const LINES: usize = 12;
/// Characters told of a line.
const CHARACTERS: usize = 400;

/// Of each test that failed its name and what it said, without the stack.
pub fn of(output: &str) -> String {
    let mut told = String::new();
    let mut lines = output.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(name) = heading(line) else { continue };
        told.push_str(&format!("failed: {name}\n"));
        let mut said = 0;
        let mut in_stack = false;
        while let Some(line) = lines.next_if(|line| heading(line).is_none() && *line != "failures:") {
            in_stack |= line == "stack backtrace:";
            if !in_stack && !line.trim().is_empty() && said < LINES {
                told.extend(["    ", &shortened(line), "\n"]);
                said += 1;
            }
            in_stack &= !line.starts_with("note: ");
        }
    }
    told
}

/// The test whose words follow.
fn heading(line: &str) -> Option<&str> {
    line.strip_prefix("---- ")?.strip_suffix(" stdout ----")
}

fn shortened(line: &str) -> String {
    match line.char_indices().nth(CHARACTERS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "test a ... FAILED\n\nfailures:\n\n---- m::a stdout ----\n\nthread 'm::a' panicked at m.rs:1:2:\nleft 1\n\
        stack backtrace:\n   0: rust_begin_unwind\nnote: Some details are omitted\n\n---- b stdout ----\nError: \"no answer\"\n\n\n\
        failures:\n    m::a\n    b\n\ntest result: FAILED. 0 passed; 2 failed\n";

    #[test]
    fn each_failure_is_told_without_its_stack() {
        assert_eq!(
            of(OUTPUT),
            "failed: m::a\n    thread 'm::a' panicked at m.rs:1:2:\n    left 1\nfailed: b\n    Error: \"no answer\"\n"
        );
    }

    #[test]
    fn a_good_run_and_a_long_word() {
        assert_eq!(of("test a ... ok\n\ntest result: ok. 1 passed\n"), "");
        let long = format!("---- a stdout ----\n{}\n", "é".repeat(CHARACTERS + 1));
        assert_eq!(of(&long), format!("failed: a\n    {}…\n", "é".repeat(CHARACTERS)));
    }
}
