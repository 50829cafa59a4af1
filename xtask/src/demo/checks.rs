// SPDX-License-Identifier: GPL-3.0-only
//! The list of what was checked and how it came out.

use std::time::Instant;

/// Results so far.
pub struct Checks {
    start: Instant,
    done: Vec<(String, Result<String, String>)>,
}

impl Checks {
    /// No check yet.
    pub fn new() -> Checks {
        Checks {
            start: Instant::now(),
            done: Vec::new(),
        }
    }

    /// A heading before some checks.
    pub fn heading(&self, text: &str) {
        println!("\n[{:>5.1}s] {text}", self.start.elapsed().as_secs_f64());
    }

    /// Notes and prints one result: `Ok` with the evidence, or `Err` with what was seen instead.
    pub fn check(&mut self, claim: &str, outcome: Result<String, String>) {
        let (mark, detail) = match &outcome {
            Ok(evidence) => ("ok  ", evidence),
            Err(seen) => ("FAIL", seen),
        };
        println!("  {mark}  {claim}");
        for line in detail.lines().take(12) {
            println!("          {line}");
        }
        self.done.push((claim.to_owned(), outcome));
    }

    /// How many did not hold.
    pub fn failed(&self) -> u64 {
        self.done.iter().filter(|(_, outcome)| outcome.is_err()).count() as u64
    }

    /// How many held.
    pub fn held(&self) -> u64 {
        self.done.len() as u64 - self.failed()
    }

    /// Those that did not hold, and what was seen instead.
    pub fn failures(&self) -> impl Iterator<Item = (&str, &str)> {
        self.done
            .iter()
            .filter_map(|(claim, outcome)| Some((claim.as_str(), outcome.as_ref().err()?.as_str())))
    }

    /// Prints the table.
    pub fn summary(&self) {
        println!("\n{:<6} check", "result");
        for (claim, outcome) in &self.done {
            println!("{:<6} {claim}", if outcome.is_ok() { "ok" } else { "FAIL" });
        }
        let failed = self.failed();
        println!(
            "{} checks held, {failed} did not, in {:.0} s",
            self.held(),
            self.start.elapsed().as_secs_f64()
        );
    }
}
