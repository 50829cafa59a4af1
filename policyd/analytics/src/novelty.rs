// SPDX-License-Identifier: GPL-3.0-only
//! What never happened before, where it is known long enough what does.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use policyd_api::{FlowName, FlowTotals, Party, Process, Threat, Verdict};

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
/// Ends that are remembered of all that the history knows, for [`Met`].
const ENDS: usize = 64 << 10;

/// Where programs of a domain went in earlier days, by executable.
pub(crate) type Met = HashMap<String, HashSet<SocketAddr>>;

/// A place and a port there; none stands for any.
type Place = (String, Option<u16>);

#[derive(Default)]
struct Program {
    since: u64,
    places: HashSet<Place>,
}

impl Program {
    /// Whether it was there, as the history tells it: of who has very many ports or addresses it keeps no port, and the block.
    fn knows(&self, place: &str, address: Option<IpAddr>, port: Option<u16>) -> bool {
        let is = |place: &str| {
            let known = |port| self.places.contains(&(place.to_owned(), port));
            known(port) || known(None)
        };
        is(place) || address.is_some_and(|address| is(&block_of(address)))
    }
}

/// The block that stands for an address where there were too many: /24, of IPv6 /48.
fn block_of(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            format!("{}/24", Ipv4Addr::new(a, b, c, 0))
        }
        IpAddr::V6(address) => {
            let [a, b, c, ..] = address.segments();
            format!("{}/48", Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0))
        }
    }
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
    met: HashMap<String, Met>,
    ends: usize,
}

impl Baseline {
    /// What the history of flows knows.
    pub fn learned<'a>(past: impl IntoIterator<Item = (&'a FlowName, FlowTotals)>) -> Baseline {
        let mut baseline = Baseline::default();
        for (name, totals) in past {
            let (Some(domain), Some(exe)) = (&name.from.domain, &name.from.exe) else {
                continue;
            };
            let place = match (&name.to.domain, name.to.address, name.to.prefix) {
                (Some(domain), ..) => domain.clone(),
                (None, Some(address), None) => address.to_string(),
                (None, Some(address), Some(prefix)) => format!("{address}/{prefix}"),
                (None, None, _) => continue,
            };
            baseline.learn(domain, exe, place, None, name.port, totals.first);
            if let (Some(address), None, Some(port), Verdict::Allow) =
                (name.to.address, name.to.prefix, name.port, name.verdict)
                && baseline.ends < ENDS
            {
                let met = baseline.met.entry(domain.clone()).or_default();
                let met = met.entry(exe.clone()).or_default();
                baseline.ends += usize::from(met.insert(SocketAddr::new(address, port)));
            }
        }
        baseline
    }

    /// Where a domain's programs went in earlier days. It is told once: who asks remembers.
    pub(crate) fn take_met(&mut self, domain: &str) -> Met {
        self.met.remove(domain).unwrap_or_default()
    }

    /// Whether program and place are new; both are known from then on. `address`: of a place outside.
    fn learn(
        &mut self,
        domain: &str,
        exe: &str,
        place: String,
        address: Option<IpAddr>,
        port: Option<u16>,
        at: u64,
    ) -> (bool, bool) {
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
        let known = program.knows(&place, address, port);
        let new_place = !everywhere && !known && program.places.insert((place, port));
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
        let ip = remote.ip().to_canonical();
        let (place, address) = match &to.domain {
            Some(domain) => (domain.clone(), None),
            None => (ip.to_string(), Some(ip)),
        };
        let at = at_ns / 1_000_000_000;
        let label = format!("{place}:{}", remote.port());
        match self.learn(domain, exe, place, address, Some(remote.port()), at) {
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
