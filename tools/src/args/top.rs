// SPDX-License-Identifier: GPL-3.0-only
//! The live view.

use std::time::Duration;

use clap::Args as ClapArgs;

use crate::completion;
use crate::top::view::View;

/// What to watch, and how.
#[derive(Debug, ClapArgs)]
pub struct Top {
    /// Begin with the processes of this domain, by name or id; with --view flows with its flows.
    #[arg(add = completion::domains())]
    pub domain: Option<String>,
    /// Print tables instead of a full screen.
    #[arg(short, long)]
    pub batch: bool,
    /// With --batch: end after so many tables.
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub iterations: Option<u64>,
    /// Seconds from one look to the next, 0.5 to 3600.
    #[arg(short, long, value_name = "SECONDS", default_value = "3", value_parser = delay)]
    pub delay: Duration,
    /// The view to begin with.
    #[arg(short = 'V', long, value_enum)]
    pub view: Option<View>,
}

impl Top {
    /// The view to begin with: a domain alone means its processes.
    pub fn first_view(&self) -> View {
        match (self.view, &self.domain) {
            (Some(view), _) => view,
            (None, Some(_)) => View::Processes,
            (None, None) => View::Domains,
        }
    }
}

/// Reads a number of seconds between two looks.
///
/// # Errors
/// What is no number from 0.5 to 3600: a look asks the daemon several questions, and a screen that is an hour old is no live one.
pub fn delay(text: &str) -> Result<Duration, String> {
    match text.trim().parse::<f64>() {
        Ok(seconds) if (0.5..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("a number of seconds from 0.5 to 3600".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_bounded() {
        assert_eq!(delay("1.5"), Ok(Duration::from_millis(1500)));
        for bad in ["0", "0.4", "3601", "-1", "NaN", "inf", "", "x"] {
            assert!(delay(bad).is_err(), "{bad}");
        }
    }
}
