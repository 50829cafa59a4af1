// SPDX-License-Identifier: GPL-3.0-only
//! What the user sees while a rig comes up.

use std::time::Instant;

/// Says what is going on, with the seconds since it began, on standard error.
pub struct Progress {
    begun: Instant,
    quiet: bool,
}

impl Progress {
    /// Starts the clock.
    pub fn new(quiet: bool) -> Progress {
        Progress {
            begun: Instant::now(),
            quiet,
        }
    }

    /// One line.
    pub fn say(&self, what: impl AsRef<str>) {
        if !self.quiet {
            eprintln!("[{:6.1} s] {}", self.begun.elapsed().as_secs_f64(), what.as_ref());
        }
    }
}
