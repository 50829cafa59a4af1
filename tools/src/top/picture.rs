// SPDX-License-Identifier: GPL-3.0-only
//! What is known of the mesh by all looks so far: the last answers, and rates between looks.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use policyd_api::{
    Domain, DomainStats, Flow, KnownThreat, Mode, PairSignals, Process, Severity, Signals, Stats, Status,
    Threats,
};

use super::look::{Answer, Look, Told};
use super::rates::{Counted, History, Rates};

/// How often the daemon itself looks at what flows carry, to add it up for their pairs.
const RECORDED: Duration = Duration::from_secs(10);

/// Counters of a domain, by index of its rates.
pub mod domain {
    /// TCP connections that were set up at its interfaces.
    pub const NEW: usize = 0;
    /// Packets that were denied.
    pub const DENIED: usize = 1;
    /// Bytes from it.
    pub const OUT: usize = 2;
    /// Bytes to it.
    pub const IN: usize = 3;
}

/// Counters of a pair.
pub mod pair {
    /// Flows that were opened, those denied included.
    pub const CONNECTIONS: usize = 0;
    /// Of them, denied.
    pub const DENIED: usize = 1;
    /// Connections that did not come about.
    pub const FAILED: usize = 2;
    /// Bytes from who opens.
    pub const OUT: usize = 3;
    /// Bytes to who opens.
    pub const IN: usize = 4;
    /// Segments that came twice, both ways.
    pub const RETRANSMISSIONS: usize = 5;
}

/// Counters of a flow.
pub mod flow {
    /// Bytes from the guest.
    pub const OUT: usize = 0;
    /// Bytes to the guest.
    pub const IN: usize = 1;
}

/// What all of the host does, a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Totals {
    /// Flows that are opened.
    pub flows: Option<f64>,
    /// Of them denied; or packets, where the daemon does not tell flows.
    pub denied: Option<f64>,
    /// Bytes from guests.
    pub bytes_out: Option<f64>,
    /// Bytes to guests.
    pub bytes_in: Option<f64>,
}

/// What is known.
#[derive(Debug)]
pub struct Picture {
    /// The daemon itself.
    pub status: Option<Status>,
    /// All domains.
    pub domains: Answer<Vec<Domain>>,
    /// How services fare.
    pub signals: Answer<Signals>,
    /// What looks like an attack.
    pub threats: Answer<Threats>,
    /// The processes that were looked at last, and of which domain.
    pub processes: Option<(String, Answer<Vec<Process>>)>,
    /// The flows that were looked at last, and of which domain.
    pub flows: Option<(Option<String>, Answer<Vec<Flow>>)>,
    domain_rates: Rates<String, 4>,
    pair_rates: Rates<String, 6>,
    flow_rates: Rates<FlowKey, 2>,
}

/// What tells flows apart.
pub type FlowKey = (String, String, SocketAddr, SocketAddr);

/// What tells this flow from others.
pub fn flow_key(flow: &Flow) -> FlowKey {
    (
        flow.domain.clone(),
        flow.protocol.clone(),
        flow.local,
        flow.remote,
    )
}

/// What tells this pair from others, in a string that no two share: parts are separated by what stands in no name.
pub fn pair_key(pair: &PairSignals) -> String {
    format!(
        "{}\0{:?}\0{}\0{:?}\0{}\0{}\0{}\0{}",
        pair.from.name,
        pair.from.kind,
        pair.to.name,
        pair.to.kind,
        pair.route.as_deref().unwrap_or_default(),
        pair.version.as_deref().unwrap_or_default(),
        pair.protocol,
        pair.port.map(|port| port.to_string()).unwrap_or_default()
    )
}

impl Default for Picture {
    fn default() -> Self {
        Picture {
            status: None,
            domains: Ok(Vec::new()),
            signals: Ok(Signals::default()),
            threats: Ok(Threats::default()),
            processes: None,
            flows: None,
            domain_rates: Rates::new(Some(bytes)),
            pair_rates: Rates::new(Some(connections)).over(RECORDED),
            flow_rates: Rates::new(None),
        }
    }
}

impl Picture {
    /// Takes what a look told; what it did not tell stays as it was.
    pub fn take(&mut self, look: Look) {
        if let Some(Told {
            answer: Ok(status), ..
        }) = look.status
        {
            self.status = Some(status);
        }
        if let Some(told) = look.domains {
            self.domains = told.answer;
        }
        if let Some(told) = look.threats {
            self.threats = told.answer;
        }
        if let Some(told) = look.stats {
            self.take_stats(told);
        }
        if let Some(told) = look.signals {
            if let Ok(signals) = &told.answer {
                self.pair_rates
                    .look(told.at, signals.pairs.iter().map(pair_counters));
            }
            self.signals = told.answer;
        }
        if let Some((domain, told)) = look.processes {
            self.processes = Some((domain, told.answer));
        }
        if let Some((of, told)) = look.flows {
            self.take_flows(of, told);
        }
    }

    fn take_stats(&mut self, told: Told<Stats>) {
        match told.answer {
            Ok(stats) => {
                let setups = setups(&stats);
                let counters = stats.domains.iter().map(|of| domain_counters(of, &setups));
                self.domain_rates.look(told.at, counters);
            }
            // Rates of earlier are not those of now.
            Err(_) => self.domain_rates = Rates::new(Some(bytes)),
        }
    }

    fn take_flows(&mut self, of: Option<String>, told: Told<Vec<Flow>>) {
        // Flows of another domain were not looked at before: there is no difference to take.
        if self.flows.as_ref().is_none_or(|(before, _)| *before != of) {
            self.flow_rates = Rates::new(None);
        }
        if let Ok(flows) = &told.answer {
            self.flow_rates.look(told.at, flows.iter().map(flow_counters));
        }
        self.flows = Some((of, told.answer));
    }

    /// The domains; none if they were refused.
    pub fn all_domains(&self) -> &[Domain] {
        self.domains.as_deref().unwrap_or_default()
    }

    /// The flows that were looked at last.
    pub fn all_flows(&self) -> &[Flow] {
        match &self.flows {
            Some((_, Ok(flows))) => flows,
            _ => &[],
        }
    }

    /// The threats.
    pub fn all_threats(&self) -> &[KnownThreat] {
        match &self.threats {
            Ok(found) => &found.threats,
            Err(_) => &[],
        }
    }

    /// A domain's rates.
    pub fn domain_rates(&self, name: &str) -> Option<&[f64; 4]> {
        self.domain_rates.of(&name.to_owned())
    }

    /// A pair's rates.
    pub fn pair_rates(&self, key: &str) -> Option<&[f64; 6]> {
        self.pair_rates.of(&key.to_owned())
    }

    /// A flow's rates.
    pub fn flow_rates(&self, flow: &Flow) -> Option<&[f64; 2]> {
        self.flow_rates.of(&flow_key(flow))
    }

    /// The last minutes of a domain or pair, by the key of its row.
    pub fn history(&self, key: &str) -> Option<&History> {
        let key = key.to_owned();
        self.domain_rates
            .history(&key)
            .or_else(|| self.pair_rates.history(&key))
    }

    /// What all of the host does. Flows are counted by the signals, where the daemon has them: each once. Else TCP connections are,
    /// at every interface that they pass.
    pub fn totals(&self) -> Totals {
        let domains = self.domain_rates.sum();
        let pairs = self.signals.as_ref().ok().and_then(|_| self.pair_rates.sum());
        Totals {
            flows: match pairs {
                Some(pairs) => Some(pairs[pair::CONNECTIONS]),
                None => domains.map(|all| all[domain::NEW]),
            },
            denied: match pairs {
                Some(pairs) => Some(pairs[pair::DENIED]),
                None => domains.map(|all| all[domain::DENIED]),
            },
            bytes_out: domains.map(|all| all[domain::OUT]),
            bytes_in: domains.map(|all| all[domain::IN]),
        }
    }

    /// How many flows are at the vifs.
    pub fn open_flows(&self) -> usize {
        self.all_domains().iter().map(|domain| domain.flows).sum()
    }

    /// How many domains are seen so well, the best first; degrees that no domain has are left out.
    pub fn sight(&self) -> Vec<(Mode, usize)> {
        let modes = [Mode::Altp2m, Mode::Breakpoint, Mode::Lookup, Mode::Vm, Mode::Off];
        let count = |mode| self.all_domains().iter().filter(|d| d.mode == mode).count();
        modes
            .into_iter()
            .map(|mode| (mode, count(mode)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// How many threats there are of each severity, the worst first.
    pub fn severities(&self) -> [(Severity, usize); 3] {
        [Severity::Alert, Severity::Warning, Severity::Notice].map(|severity| {
            let like = |known: &&KnownThreat| known.threat.severity == severity;
            (severity, self.all_threats().iter().filter(like).count())
        })
    }

    /// Threats of a domain, and the worst of them.
    pub fn threats_of(&self, domain: &str) -> (usize, Option<Severity>) {
        let its = self
            .all_threats()
            .iter()
            .filter(|known| known.domain.as_deref() == Some(domain));
        let worst = its.clone().map(|known| known.threat.severity).max();
        (its.count(), worst)
    }

    /// Which domain has an address.
    pub fn owners(&self) -> HashMap<IpAddr, &str> {
        self.all_domains()
            .iter()
            .flat_map(|domain| {
                let name = domain.name.as_str();
                domain.addresses.iter().map(move |address| (*address, name))
            })
            .collect()
    }
}

fn connections(rates: &[f64; 6]) -> f64 {
    rates[pair::CONNECTIONS]
}

fn bytes(rates: &[f64; 4]) -> f64 {
    rates[domain::OUT] + rates[domain::IN]
}

/// How many TCP connections were set up at the vifs of each domain.
fn setups(stats: &Stats) -> HashMap<&str, u64> {
    let mut setups = HashMap::new();
    for of in &stats.connections {
        let sum: &mut u64 = setups.entry(of.domain.as_str()).or_default();
        *sum = sum.saturating_add(of.setup_us.values);
    }
    setups
}

fn domain_counters(of: &DomainStats, setups: &HashMap<&str, u64>) -> (String, Counted<4>) {
    let counters = [
        setups.get(of.domain.as_str()).copied().unwrap_or_default(),
        of.out.denied.saturating_add(of.into.denied),
        of.out.passed_bytes,
        of.into.passed_bytes,
    ];
    (of.domain.clone(), Counted { counters, age: None })
}

fn pair_counters(pair: &PairSignals) -> (String, Counted<6>) {
    let total = &pair.total;
    let counters = [
        total.connections,
        total.denied,
        total.failed,
        total.bytes_out,
        total.bytes_in,
        total.retransmissions_out.saturating_add(total.retransmissions_in),
    ];
    (pair_key(pair), Counted { counters, age: None })
}

fn flow_counters(flow: &Flow) -> (FlowKey, Counted<2>) {
    let counted = Counted {
        counters: [flow.bytes_out, flow.bytes_in],
        age: Some(Duration::from_millis(flow.age_ms)),
    };
    (flow_key(flow), counted)
}
