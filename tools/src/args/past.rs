// SPDX-License-Identifier: GPL-3.0-only
//! Flows of the past, and policies that are tried.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args as ClapArgs;
use policyd_api::{PastQuery, Verdict};

/// A time that is so long ago, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ago(u64);

impl Ago {
    /// How long, in seconds.
    pub fn seconds(self) -> u64 {
        self.0
    }

    /// Seconds since 1970.
    pub fn time(self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(0, |now| now.as_secs()).saturating_sub(self.0)
    }
}

/// Reads `90s`, `2h`, `1d12h`.
pub(super) fn ago(text: &str) -> Result<Ago, String> {
    let wrong = || "a number with s, m, h, d or w behind it, as 2h or 1d12h".to_owned();
    let (mut all, mut number) = (0u64, None::<u64>);
    for c in text.chars() {
        if let Some(digit) = c.to_digit(10) {
            let before = number.unwrap_or(0).checked_mul(10);
            number = Some(
                before
                    .and_then(|n| n.checked_add(digit.into()))
                    .ok_or_else(wrong)?,
            );
            continue;
        }
        let unit = match c {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            'w' => 7 * 86_400,
            _ => return Err(wrong()),
        };
        let part = number
            .take()
            .and_then(|n| n.checked_mul(unit))
            .ok_or_else(wrong)?;
        all = all.checked_add(part).ok_or_else(wrong)?;
    }
    match (text.is_empty(), number) {
        (false, None) => Ok(Ago(all)),
        _ => Err(wrong()),
    }
}

fn verdict(text: &str) -> Result<Verdict, String> {
    match text {
        "allow" | "allowed" => Ok(Verdict::Allow),
        "deny" | "denied" => Ok(Verdict::Deny),
        _ => Err("allowed or denied".to_owned()),
    }
}

/// Which flows of the past to list.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Flows of the past")]
pub struct Past {
    /// List flows of the past, counted together by who and to whom; from so long ago on, as 2h or 7d.
    #[arg(long, value_name = "AGO", value_parser = ago, conflicts_with_all = ["follow", "domain"])]
    pub since: Option<Ago>,
    /// Until so long ago.
    #[arg(long, value_name = "AGO", value_parser = ago, requires = "since")]
    pub until: Option<Ago>,
    /// Who opened them: DOMAIN[:EXE] with patterns, /EXE, SET/SERVICE, an address or block, or `world`.
    #[arg(long, value_name = "WHO", requires = "since")]
    pub from: Option<String>,
    /// Who they went to, in the same words.
    #[arg(long, value_name = "WHO", requires = "since")]
    pub to: Option<String>,
    /// The port they went to.
    #[arg(long, value_name = "N", requires = "since")]
    pub port: Option<u16>,
    /// Their protocol.
    #[arg(long, requires = "since", value_parser = super::protocol)]
    pub protocol: Option<String>,
    /// allowed or denied.
    #[arg(long, requires = "since", value_parser = verdict)]
    pub verdict: Option<Verdict>,
    /// What decided, as SET/RULE, or how it begins.
    #[arg(long, requires = "since")]
    pub rule: Option<String>,
    /// At most so many.
    #[arg(short, long, value_name = "N", default_value_t = 100, requires = "since", value_parser = limit)]
    pub limit: usize,
    /// Leave out the first so many.
    #[arg(long, value_name = "N", requires = "since")]
    pub skip: Option<usize>,
}

fn limit(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=1000) => Ok(n),
        _ => Err("a number from 1 to 1000; see the rest with --skip".to_owned()),
    }
}

impl Past {
    /// As the daemon wants it; none where it is not about the past.
    pub fn query(&self) -> Option<PastQuery> {
        Some(PastQuery {
            since: Some(self.since?.time()),
            until: self.until.map(Ago::time),
            from: self.from.clone(),
            to: self.to.clone(),
            port: self.port,
            protocol: self.protocol.clone(),
            verdict: self.verdict,
            rule: self.rule.clone(),
            limit: Some(self.limit),
            skip: self.skip,
        })
    }
}

/// A policy to try on flows of the past.
#[derive(Debug, ClapArgs)]
pub struct Replay {
    /// The documents; `-` is standard input.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// On flows from so long ago on.
    #[arg(long, value_name = "AGO", default_value = "7d", value_parser = ago)]
    pub since: Ago,
    /// Until so long ago.
    #[arg(long, value_name = "AGO", value_parser = ago)]
    pub until: Option<Ago>,
}

/// A policy to run beside the one in force.
#[derive(Debug, ClapArgs)]
pub struct Shadow {
    /// The documents; `-` is standard input. Without any: what the present ones would do otherwise.
    pub files: Vec<PathBuf>,
    /// Let none run any more.
    #[arg(long, conflicts_with = "files")]
    pub off: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_ago() {
        assert_eq!(ago("90s"), Ok(Ago(90)));
        assert_eq!(ago("1d12h"), Ok(Ago(129_600)));
        assert_eq!(ago("2w"), Ok(Ago(1_209_600)));
        for bad in ["", "2", "h", "2x", "2h3", "99999999999999999999h", "-2h"] {
            assert!(ago(bad).is_err(), "{bad}");
        }
    }
}
