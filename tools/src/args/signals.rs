// SPDX-License-Identifier: GPL-3.0-only
//! How services fare with one another.

use clap::Args as ClapArgs;
use policyd_api::SignalsQuery;

/// Which signals to list.
#[derive(Debug, ClapArgs)]
pub struct Signals {
    /// Only of who opens connections under this name: a domain, SET/SERVICE, or `world`.
    #[arg(long, value_name = "NAME")]
    pub from: Option<String>,
    /// Only of who they go to, in the same words.
    #[arg(long, value_name = "NAME")]
    pub to: Option<String>,
    /// Look back so many seconds, 60 to 3600 [default: 300].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(60..=3600))]
    pub window: Option<u64>,
    /// List only what makes pairs slow.
    #[arg(long)]
    pub findings: bool,
}

impl Signals {
    /// As the daemon wants it.
    pub fn query(&self) -> SignalsQuery {
        SignalsQuery {
            window: self.window,
            from: self.from.clone(),
            to: self.to.clone(),
        }
    }
}
