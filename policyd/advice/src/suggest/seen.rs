// SPDX-License-Identifier: GPL-3.0-only
//! Which flows to learn from.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use policy::{Block, Protocol};
use policyd_api::{FlowEnd, FlowName, Verdict};

use super::{Groups, Options, Place, Sample, has_processes};
use crate::Guest;
use crate::calendar::timestamp;

/// A client that tried so many ports of a guest where nobody was seen to listen looks for something.
const SCAN: usize = 16;
/// Where Linux takes ports from that nobody chose (`net.ipv4.ip_local_port_range`).
pub const EPHEMERAL: u16 = 32_768;
/// What decided where it was only not known which process it was.
const NOT_KNOWN: &str = "process unknown";

/// The process at an end, as the history has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process<'f> {
    pub exe: Option<&'f str>,
    pub uid: u32,
    pub contained: bool,
}

impl<'f> Process<'f> {
    fn of(end: &'f FlowEnd) -> Option<Process<'f>> {
        Some(Process {
            exe: end.exe.as_deref().filter(|exe| !exe.is_empty()),
            uid: end.uid.filter(|_| end.domain.is_some())?,
            contained: end.container.is_some(),
        })
    }
}

/// A flow to learn from.
#[derive(Debug, Clone, Copy)]
pub struct Taken<'f> {
    pub sample: Sample<'f>,
    pub from: Place<'f>,
    /// None: no rule can ask.
    pub client: Option<Process<'f>>,
    pub to: Place<'f>,
    pub server: Option<Process<'f>>,
    pub protocol: Protocol,
    /// None: many, not kept each.
    pub port: Option<u16>,
}

/// Flows, sorted.
#[derive(Debug, Default)]
pub struct Sorted<'f> {
    pub taken: Vec<Taken<'f>>,
    pub refused: Vec<Sample<'f>>,
    pub left_out: Vec<(Sample<'f>, String)>,
    /// Without a known program, and like others with one.
    pub assumed: Vec<Sample<'f>>,
    /// All guests that had flows.
    pub guests: BTreeSet<&'f str>,
    /// Guests in which something runs in a container.
    pub contained: BTreeSet<&'f str>,
}

/// Who opened a flow to whom: what a verdict is of.
type Key<'f> = (Place<'f>, Option<Process<'f>>, Place<'f>, Protocol, Option<u16>);

/// Sorts flows. What is between ends that `options` do not cover is left away.
pub fn sort<'f>(samples: &[Sample<'f>], guests: &[Guest], options: &Options) -> Sorted<'f> {
    let mut sorted = Sorted::default();
    for sample in samples {
        for end in [&sample.name.from, &sample.name.to] {
            let Some(guest) = end.domain.as_deref() else {
                continue;
            };
            sorted.guests.insert(guest);
            if end.container.is_some() {
                sorted.contained.insert(guest);
            }
        }
    }
    let sight = Sight::new(samples, guests);
    let covered = |name: &FlowName| {
        let mut guests = [&name.from.domain, &name.to.domain].into_iter().flatten();
        guests.any(|guest| options.covers(guest))
    };
    let mut denied: HashMap<Key<'f>, u64> = HashMap::new();
    let mut allowed: Vec<Taken<'f>> = Vec::new();
    for sample in samples.iter().filter(|sample| covered(sample.name)) {
        let taken = take(*sample, options);
        if sample.name.verdict == Verdict::Deny {
            sorted.refused.push(*sample);
            let meant = sample.name.by_policy && sample.name.rule != NOT_KNOWN;
            if let (true, Ok(taken)) = (meant, taken) {
                let last = denied.entry(key(&taken)).or_default();
                *last = sample.totals.last.max(*last);
            }
            continue;
        }
        match taken {
            Ok(taken) if is_only_a_question(&taken) => {
                let why = "a socket was connected and nothing was sent: so a program asks for a route";
                sorted.left_out.push((*sample, why.to_owned()));
            }
            Ok(taken) => allowed.push(taken),
            Err(why) => sorted.left_out.push((*sample, why)),
        }
    }
    let mut last: HashMap<Key<'f>, u64> = HashMap::new();
    for taken in &allowed {
        let last = last.entry(key(taken)).or_default();
        *last = taken.sample.totals.last.max(*last);
    }
    let known = Known::new(&allowed);
    let scans = Scans::new(&allowed, &sight, &known);
    for mut taken in allowed {
        let key = key(&taken);
        let mut out = |why: String| sorted.left_out.push((taken.sample, why));
        if let Some(refused) = denied
            .get(&key)
            .filter(|at| **at > last.get(&key).copied().unwrap_or(0))
        {
            out(format!("refused since {}, or later", timestamp(*refused)));
            continue;
        }
        if scans.has(&taken, &sight, &known) {
            out(format!(
                "nobody was seen to listen on more than {SCAN} ports there that it tried"
            ));
            continue;
        }
        let asked = has_processes(taken.protocol);
        let mut assumed = false;
        if let (true, None, Place::Guest(guest)) = (asked, taken.client, taken.from) {
            match known.client(&taken) {
                Some(process) => (taken.client, assumed) = (Some(process), true),
                None if !options.unknown && sight.of(guest) => {
                    out("no program was seen to open it, though programs of the domain can be seen".into());
                    continue;
                }
                None => {}
            }
        }
        if let (true, None, Place::Guest(_)) = (asked, taken.server, taken.to)
            && let Some(process) = known.server(&taken)
        {
            (taken.server, assumed) = (Some(process), true);
        }
        if taken.port.is_none() && taken.server.is_none() {
            out("it went to many ports, and no program was seen to listen there".into());
            continue;
        }
        if assumed {
            sorted.assumed.push(taken.sample);
        }
        sorted.taken.push(taken);
    }
    sorted
}

/// Whether a UDP socket was only connected. `ping` does so, and who asks for the addresses of a name.
fn is_only_a_question(taken: &Taken<'_>) -> bool {
    let totals = taken.sample.totals;
    taken.protocol == Protocol::UDP && totals.packets_out == 0 && totals.packets_in == 0
}

fn key<'f>(taken: &Taken<'f>) -> Key<'f> {
    (taken.from, taken.client, taken.to, taken.protocol, taken.port)
}

fn take<'f>(sample: Sample<'f>, options: &Options) -> Result<Taken<'f>, String> {
    let name = sample.name;
    let protocol: Protocol = name
        .protocol
        .parse()
        .map_err(|e: policy::port::ProtocolError| e.to_string())?;
    let process = |end: &'f FlowEnd| match has_processes(protocol) {
        true => Process::of(end),
        // Such flows are decided by guest and address.
        false => None,
    };
    Ok(Taken {
        sample,
        from: place(&name.from, options)?,
        client: process(&name.from),
        to: place(&name.to, options)?,
        server: process(&name.to),
        protocol,
        port: match protocol.has_ports() {
            true => name.port,
            false => Some(0),
        },
    })
}

fn place<'f>(end: &'f FlowEnd, options: &Options) -> Result<Place<'f>, String> {
    if let Some(guest) = &end.domain {
        return Ok(Place::Guest(guest));
    }
    let Some(address) = end.address else {
        return Err("its ends were too many to keep each".into());
    };
    let address = address.to_canonical();
    let Some(prefix) = end.prefix else {
        return Ok(Place::Outside(Block::from(address)));
    };
    let shortest = options.shortest(address);
    match prefix < shortest {
        true => Err(format!(
            "its addresses are known by their block of /{prefix} only, and /{shortest} is the widest asked for"
        )),
        false => Ok(Place::Outside(Block::new(address, prefix))),
    }
}

/// Whose programs can be seen.
struct Sight<'f>(HashMap<&'f str, bool>);

impl<'f> Sight<'f> {
    /// Of guests that are no more, what was seen of them tells.
    fn new(samples: &[Sample<'f>], guests: &[Guest]) -> Sight<'f> {
        let there: HashMap<&str, bool> = guests.iter().map(|g| (g.name.as_str(), g.sighted)).collect();
        let mut sight = HashMap::new();
        for end in samples.iter().flat_map(|s| [&s.name.from, &s.name.to]) {
            let Some(guest) = end.domain.as_deref() else {
                continue;
            };
            let entry = sight
                .entry(guest)
                .or_insert_with(|| there.get(guest).copied() == Some(true));
            *entry |= !there.contains_key(guest) && end.uid.is_some();
        }
        Sight(sight)
    }

    fn of(&self, guest: &str) -> bool {
        self.0.get(guest).copied().unwrap_or(false)
    }
}

/// Who tried many ports of whom where nobody listens.
struct Scans<'f>(HashSet<(Place<'f>, Option<Process<'f>>, Place<'f>, Protocol)>);

impl<'f> Scans<'f> {
    fn new(allowed: &[Taken<'f>], sight: &Sight<'f>, known: &Known<'f>) -> Scans<'f> {
        let mut ports: HashMap<_, HashSet<u16>> = HashMap::new();
        for taken in allowed.iter().filter(|taken| is_nobodys(taken, sight, known)) {
            let tried = ports.entry((taken.from, taken.client, taken.to, taken.protocol));
            tried.or_default().extend(taken.port);
        }
        ports.retain(|_, ports| ports.len() > SCAN);
        Scans(ports.into_keys().collect())
    }

    fn has(&self, taken: &Taken<'f>, sight: &Sight<'f>, known: &Known<'f>) -> bool {
        let tried = (taken.from, taken.client, taken.to, taken.protocol);
        is_nobodys(taken, sight, known) && self.0.contains(&tried)
    }
}

/// Whether it went to a port on which nobody listens. What went to a port that nobody chose may have been an answer.
fn is_nobodys<'f>(taken: &Taken<'f>, sight: &Sight<'f>, known: &Known<'f>) -> bool {
    has_processes(taken.protocol)
        && taken.server.is_none()
        && taken.port.is_some_and(|port| port < EPHEMERAL)
        && matches!(taken.to, Place::Guest(guest) if sight.of(guest))
        && known.server(taken).is_none()
}

/// Processes that were seen at an end, for flows that are like theirs but for that.
struct Known<'f> {
    clients: BTreeMap<(Place<'f>, Place<'f>, Protocol, Option<u16>), Process<'f>>,
    servers: BTreeMap<(Place<'f>, Protocol, Option<u16>), Process<'f>>,
}

impl<'f> Known<'f> {
    /// Of several the one with most flows.
    fn new(allowed: &[Taken<'f>]) -> Known<'f> {
        let mut clients: Groups<_, _> = Groups::new();
        let mut servers: Groups<_, _> = Groups::new();
        for taken in allowed {
            let flows = taken.sample.totals.flows;
            if let Some(client) = taken.client {
                let like = (taken.from, taken.to, taken.protocol, taken.port);
                clients.entry(like).or_default().push((flows, client));
            }
            if let Some(server) = taken.server {
                let like = (taken.to, taken.protocol, taken.port);
                servers.entry(like).or_default().push((flows, server));
            }
        }
        Known {
            clients: most(clients),
            servers: most(servers),
        }
    }

    fn client(&self, taken: &Taken<'f>) -> Option<Process<'f>> {
        let like = (taken.from, taken.to, taken.protocol, taken.port);
        self.clients.get(&like).copied()
    }

    fn server(&self, taken: &Taken<'f>) -> Option<Process<'f>> {
        self.servers.get(&(taken.to, taken.protocol, taken.port)).copied()
    }
}

fn most<K: Ord, T: Ord>(groups: Groups<K, (u64, T)>) -> BTreeMap<K, T> {
    let most = |(key, seen): (K, Vec<(u64, T)>)| Some((key, seen.into_iter().max()?.1));
    groups.into_iter().filter_map(most).collect()
}
