// SPDX-License-Identifier: GPL-3.0-only
//! What a run of `cargo test` comes to.

/// Tests that passed and tests that failed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// Tests.
    pub passed: u64,
    /// Tests, and test programs that could not be built or did not come to their end.
    pub failed: u64,
}

impl Count {
    /// Reads a run's output, errors and success.
    pub fn of(output: &str, errors: &str, success: bool) -> Count {
        let mut count = Count::default();
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
        count
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Count) {
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

    #[test]
    fn results_of_all_programs_are_added() {
        let count = Count::of(&[GOOD, BAD].concat(), LIST, false);
        assert_eq!(
            count,
            Count {
                passed: 16,
                failed: 2
            }
        );
    }

    #[test]
    fn what_does_not_build_has_failed() {
        let errors = "error: could not compile `policy` (lib) due to 1 previous error\n";
        assert_eq!(Count::of("", errors, false), Count { passed: 0, failed: 1 });
    }

    #[test]
    fn a_program_that_dies_has_failed() {
        assert_eq!(
            Count::of(GOOD, LIST, false),
            Count {
                passed: 12,
                failed: 1
            }
        );
        assert_eq!(
            Count::of(
                &[GOOD, BAD].concat(),
                "    `-p a --lib`\n    `-p b --lib`\n",
                false
            )
            .failed,
            3
        );
    }

    #[test]
    fn a_good_run_has_no_failure() {
        assert_eq!(
            Count::of(GOOD, "", true),
            Count {
                passed: 12,
                failed: 0
            }
        );
    }
}
