// SPDX-License-Identifier: GPL-3.0-only
//! What a run of `cargo test` comes to.

use super::recap;

/// Tests that passed and tests that failed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Count {
    /// Tests.
    pub passed: u64,
    /// Tests, and test programs that could not be built or did not come to their end.
    pub failed: u64,
    /// What those that failed said, in short.
    pub recap: String,
}

impl Count {
    /// Reads a run's output, errors and success.
    pub fn of(output: &str, errors: &str, success: bool) -> Count {
        let mut count = Count {
            recap: recap::of(output),
            ..Count::default()
        };
        let mut failed_programs = 0;
        for line in output.lines() {
            let Some(result) = line.trim_start().strip_prefix("test result: ") else {
                continue;
            };
            count.passed += number_before(result, " passed");
            count.failed += number_before(result, " failed");
            failed_programs += u64::from(result.starts_with("FAILED"));
        }
        // cargo lists every program that failed; one that died has printed no result of its own.
        let listed = errors.lines().filter(|line| line.starts_with("    `-p ")).count() as u64;
        count.failed += listed.saturating_sub(failed_programs);
        if !success && count.failed == 0 {
            count.failed = 1;
        }
        if count.failed > 0 && count.recap.is_empty() {
            count.recap =
                String::from("failed: a program that did not build or did not end by itself; see above\n");
        }
        count
    }

    /// A thing that failed other than as a test, and what is told of it.
    pub fn failure(told: &str) -> Count {
        Count {
            passed: 0,
            failed: 1,
            recap: format!("failed: {told}\n"),
        }
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Count) {
        self.recap.push_str(&other.recap);
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

fn number_before(text: &str, word: &str) -> u64 {
    let digits = text
        .split(word)
        .next()
        .and_then(|before| before.split(' ').next_back());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out\n";
    const BAD: &str = "test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out\n";
    const LIST: &str = "error: 1 target failed:\n    `-p policy --lib`\n";

    fn of(output: &str, errors: &str, success: bool) -> (u64, u64) {
        let count = Count::of(output, errors, success);
        assert_eq!(count.failed > 0, !count.recap.is_empty(), "{count:?}");
        (count.passed, count.failed)
    }

    #[test]
    fn results_of_all_programs_are_added() {
        assert_eq!(of(&[GOOD, BAD].concat(), LIST, false), (16, 2));
    }

    #[test]
    fn what_does_not_build_has_failed() {
        let errors = "error: could not compile `policy` (lib) due to 1 previous error\n";
        assert_eq!(of("", errors, false), (0, 1));
    }

    #[test]
    fn a_program_that_dies_has_failed() {
        assert_eq!(of(GOOD, LIST, false), (12, 1));
        let two = "    `-p a --lib`\n    `-p b --lib`\n";
        assert_eq!(of(&[GOOD, BAD].concat(), two, false), (16, 3));
    }

    #[test]
    fn a_good_run_has_no_failure() {
        assert_eq!(of(GOOD, "", true), (12, 0));
    }
}
