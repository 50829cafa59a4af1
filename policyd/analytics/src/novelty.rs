// SPDX-License-Identifier: GPL-3.0-only
//! What never happened before, where it is known long enough what does.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use policyd_api::{FlowName, FlowTotals, Party, Process, Threat};

use crate::catalog::threat;
use crate::{started, who};

/// How long a domain, and a program in it, must have been known, s: a day.
const KNOWN: u64 = 24 * 3600;
/// Who goes to more places goes everywhere.
const PLACES: usize = 32;
/// Domains, by name, that are told apart.
const DOMAINS: usize = 4096;
/// Programs of a domain that are told apart.
const PROGRAMS: usize = 4096;

#[derive(Default)]
struct Program {
    since: u64,
    places: HashSet<(String, u16)>,
}

#[derive(Default)]
struct Known {
    since: u64,
    programs: HashMap<String, Program>,
}

/// What each domain's programs are known to do.
#[derive(Default)]
pub struct Baseline {
    domains: HashMap<String, Known>,
}

impl Baseline {
    /// What the history of flows knows.
    pub fn learned<'a>(past: impl IntoIterator<Item = (&'a FlowName, FlowTotals)>) -> Baseline {
        let mut baseline = Baseline::default();
        for (name, totals) in past {
            let (Some(domain), Some(exe)) = (&name.from.domain, &name.from.exe) else {
                continue;
            };
            let place = match (&name.to.domain, name.to.address) {
                (Some(domain), _) => domain.clone(),
                (None, Some(address)) => address.to_string(),
                (None, None) => continue,
            };
            baseline.learn(domain, exe, place, name.port.unwrap_or(0), totals.first);
        }
        baseline
    }

    /// Whether program and place are new; both are known from then on.
    fn learn(&mut self, domain: &str, exe: &str, place: String, port: u16, at: u64) -> (bool, bool) {
        if self.domains.len() >= DOMAINS && !self.domains.contains_key(domain) {
            return (false, false);
        }
        let known = self.domains.entry(domain.to_owned()).or_insert(Known {
            since: at,
            programs: HashMap::new(),
        });
        known.since = known.since.min(at);
        if known.programs.len() >= PROGRAMS && !known.programs.contains_key(exe) {
            return (false, false);
        }
        let is_old = |since: u64| since.saturating_add(KNOWN) <= at;
        let new_program = !known.programs.contains_key(exe);
        let domain_old = is_old(known.since);
        let program = known.programs.entry(exe.to_owned()).or_insert(Program {
            since: at,
            places: HashSet::new(),
        });
        program.since = program.since.min(at);
        let everywhere = program.places.len() >= PLACES;
        let new_place = !everywhere && program.places.insert((place, port));
        (
            new_program && domain_old,
            new_place && !new_program && is_old(program.since),
        )
    }

    pub(crate) fn connects(
        &mut self,
        domain: &str,
        process: &Process,
        exe: &str,
        to: &Party,
        remote: SocketAddr,
        at_ns: u64,
    ) -> Option<(Threat, String)> {
        let place = to
            .domain
            .clone()
            .unwrap_or_else(|| remote.ip().to_canonical().to_string());
        let at = at_ns / 1_000_000_000;
        let label = format!("{place}:{}", remote.port());
        match self.learn(domain, exe, place, remote.port(), at) {
            (true, _) => Some((
                threat(
                    "new-program",
                    format!(
                        "{} connects to {label}: it never went anywhere before",
                        who(process)
                    ),
                    vec![started(process)],
                    Some(process),
                ),
                exe.to_owned(),
            )),
            (_, true) => Some((
                threat(
                    "new-destination",
                    format!("{} connects to {label}: it never did before", who(process)),
                    vec![started(process)],
                    Some(process),
                ),
                format!("{exe} {label}"),
            )),
            _ => None,
        }
    }
}
