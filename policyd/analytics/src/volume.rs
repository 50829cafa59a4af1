// SPDX-License-Identifier: GPL-3.0-only
//! What the history of flows says about bytes: who sends far more out than ever, and who asks name servers too much.

use std::collections::HashMap;

use policyd_api::{FlowName, FlowTotals, Verdict};

use crate::Found;
use crate::catalog::threat;

/// The least that is much, bytes.
const MUCH: u64 = 64 << 20;
/// So many times the busiest hour of before.
const TIMES: u64 = 10;
/// Days of before must be so many for there to be a usual, s.
const KNOWN: u64 = 24 * 3600;
/// Packets to name servers from which on their size says something.
const QUESTIONS: u64 = 200;
/// Bytes of a question, headers included, that names of hosts do not need: they are 60 to 110.
const LARGE: u64 = 160;
/// Questions in an hour that nobody needs who is no resolver.
const ENDLESS: u64 = 20_000;

/// Who sends: domain and executable.
type Sender = (String, String);

/// What was sent out in each hour that is over.
#[derive(Default)]
pub struct Volume {
    busiest: HashMap<Sender, u64>,
    since: Option<u64>,
}

impl Volume {
    /// Takes an hour of before in.
    pub fn learn<'a>(&mut self, hour: u64, past: impl IntoIterator<Item = (&'a FlowName, FlowTotals)>) {
        self.since = Some(self.since.map_or(hour, |since| since.min(hour)));
        for (sender, sum) in by_sender(past, goes_out) {
            let busiest = self.busiest.entry(sender).or_default();
            *busiest = (*busiest).max(sum.bytes_out);
        }
    }

    /// What is much of the hour until `now`, seconds since 1970.
    pub fn look<'a>(
        &self,
        now: u64,
        last: impl IntoIterator<Item = (&'a FlowName, FlowTotals)> + Clone,
    ) -> Vec<Found> {
        let mut found = Vec::new();
        let known = self.since.is_some_and(|since| since.saturating_add(KNOWN) <= now);
        if known {
            for ((domain, exe), sum) in by_sender(last.clone(), goes_out) {
                let key = (domain, exe);
                let busiest = self.busiest.get(&key).copied().unwrap_or(0);
                let (domain, exe) = key;
                if sum.bytes_out >= MUCH && sum.bytes_out >= busiest.saturating_mul(TIMES) {
                    let title = format!(
                        "{exe} in {domain} sent {} MiB out within an hour",
                        sum.bytes_out >> 20
                    );
                    let before = format!("its busiest hour of before had {} KiB", busiest >> 10);
                    let threat = threat("exfiltration", title, vec![before], None);
                    found.push(of(&domain, &exe, threat));
                }
            }
        }
        for ((domain, exe), sum) in by_sender(last, is_question) {
            let mean = sum.bytes_out / sum.packets_out.max(1);
            let large = sum.packets_out >= QUESTIONS && mean >= LARGE;
            if large || sum.packets_out >= ENDLESS {
                let title = format!("{exe} in {domain} asks name servers more than names need");
                let evidence = format!(
                    "{} packets to port 53 within an hour, {mean} bytes each",
                    sum.packets_out
                );
                let threat = threat("dns-tunnel", title, vec![evidence], None);
                found.push(of(&domain, &exe, threat));
            }
        }
        found
    }
}

fn of(domain: &str, exe: &str, threat: policyd_api::Threat) -> Found {
    Found {
        domid: None,
        domain: domain.to_owned(),
        threat,
        key: exe.to_owned(),
    }
}

fn goes_out(name: &FlowName) -> bool {
    name.verdict == Verdict::Allow
        && name.to.domain.is_none()
        && name.to.address.is_none_or(|a| !a.is_loopback())
}

fn is_question(name: &FlowName) -> bool {
    name.verdict == Verdict::Allow && name.port == Some(53)
}

fn by_sender<'a>(
    flows: impl IntoIterator<Item = (&'a FlowName, FlowTotals)>,
    counts: impl Fn(&FlowName) -> bool,
) -> HashMap<Sender, FlowTotals> {
    let mut sums: HashMap<Sender, FlowTotals> = HashMap::new();
    for (name, totals) in flows {
        let Some(domain) = name.from.domain.clone().filter(|_| counts(name)) else {
            continue;
        };
        let exe = name
            .from
            .exe
            .clone()
            .unwrap_or_else(|| "an unknown process".into());
        sums.entry((domain, exe)).or_default().add(&totals);
    }
    sums
}
