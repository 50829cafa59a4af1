// SPDX-License-Identifier: GPL-3.0-only
//! Policy from behaviour, and canaries.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use policyd_advice::canary::Rules;
use policyd_api::SuggestQuery;

use super::Change;
use super::past::{Ago, ago};
use crate::completion;

/// From which flows of the past to learn, and what to show.
#[derive(Debug, ClapArgs)]
pub struct Suggest {
    /// From flows from so long ago on, as 10m or 7d.
    #[arg(long, value_name = "AGO", default_value = "1h", value_parser = ago)]
    pub since: Ago,
    /// Until so long ago.
    #[arg(long, value_name = "AGO", value_parser = ago)]
    pub until: Option<Ago>,
    /// Cover these domains only, by name or pattern; may be given more than once.
    #[arg(long = "vm", value_name = "PATTERN", add = completion::domains(), value_parser = pattern)]
    pub vms: Vec<String>,
    /// Name of the set; one in force of that name is what it would replace.
    #[arg(long, value_name = "SET", default_value = "suggested", add = completion::sets())]
    pub name: String,
    /// Write the document to a file, and tell what is in it.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Generalise nothing: domains, ports and addresses only as they were seen.
    #[arg(long)]
    pub exact: bool,
    /// Also allow, by domain and port, what no program was seen for though programs of the domain can be seen.
    #[arg(long)]
    pub unknown: bool,
    /// Prefix length of the widest block of IPv4 addresses outside.
    #[arg(long, value_name = "BITS", default_value_t = 24, value_parser = clap::value_parser!(u8).range(0..=32))]
    pub widest: u8,
    /// The same for IPv6.
    #[arg(long, value_name = "BITS", default_value_t = 48, value_parser = clap::value_parser!(u8).range(0..=128))]
    pub widest6: u8,
    /// Instead of the document list rules in force that decided nothing in that time.
    #[arg(long, conflicts_with = "output")]
    pub unused: bool,
    /// Instead of the document list rules in force that let pass more than what used them, and by how much.
    #[arg(long, conflicts_with = "output")]
    pub wide: bool,
    /// Instead of the document list which flows it would have cut or opened.
    #[arg(long, conflicts_with = "output")]
    pub effect: bool,
    /// Try its effect on flows from so long ago on.
    #[arg(long, value_name = "AGO", default_value = "7d", value_parser = ago)]
    pub tried: Ago,
}

/// The daemon takes them separated by commas.
fn pattern(text: &str) -> Result<String, String> {
    match text.parse::<policy::pattern::Pattern>() {
        Ok(_) if text.contains(',') => {
            Err("a name or pattern without a comma; give --vm once for each".to_owned())
        }
        Ok(_) => Ok(text.to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

impl Suggest {
    /// As the daemon wants it.
    pub fn query(&self) -> SuggestQuery {
        SuggestQuery {
            since: Some(self.since.time()),
            until: self.until.map(Ago::time),
            vm: (!self.vms.is_empty()).then(|| self.vms.join(",")),
            name: Some(self.name.clone()),
            exact: self.exact.then_some(true),
            unknown: self.unknown.then_some(true),
            widest: Some(self.widest),
            widest6: Some(self.widest6),
            tried: Some(self.tried.time()),
        }
    }
}

/// Which canary to judge, and how.
#[derive(Debug, ClapArgs)]
pub struct Canary {
    /// The route, as SET/ROUTE, or its name alone where no other set has one of that name.
    #[arg(value_name = "ROUTE", add = completion::routes())]
    pub route: String,
    /// The new version; the one with less weight unless told.
    #[arg(long, value_name = "VERSION")]
    pub canary: Option<String>,
    /// The version that it is compared with; the other one unless told.
    #[arg(long, value_name = "VERSION")]
    pub baseline: Option<String>,
    /// Look so many seconds back, 60 to 3600.
    #[arg(long, value_name = "S", default_value_t = 300, value_parser = clap::value_parser!(u64).range(60..=3600))]
    pub window: u64,
    /// The chance of calling a canary worse that is not. Who looks often takes a smaller one.
    #[arg(long, value_name = "P", default_value_t = Rules::default().alpha, value_parser = alpha)]
    pub alpha: f64,
    /// Connections that each version must have had for the canary to get more.
    #[arg(long, value_name = "N", default_value_t = Rules::default().least)]
    pub least: u64,
    /// Change the weights by the next step, or back, as a change of the policy.
    #[arg(long)]
    pub apply: bool,
    #[command(flatten)]
    pub change: Change,
}

fn alpha(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(p) if p > 0.0 && p < 1.0 => Ok(p),
        _ => Err("a number over 0 and under 1, such as 0.01".to_owned()),
    }
}
