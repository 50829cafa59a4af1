// SPDX-License-Identifier: GPL-3.0-only
//! A row a flow; and which flows are a process's or a pair's.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use policyd_api::{Flow, PeerKind};

use super::{age, bytes, micros};
use crate::render::style::Tone;
use crate::top::picture::{Picture, flow, flow_key};
use crate::top::table::{Cell, Column, End, Ends, Leads, Row};

/// The columns.
pub const COLUMNS: &[Column] = &[
    Column::text("Domain", "domain", 6, 16, 1),
    Column::text("Proto", "protocol", 5, 6, 4),
    // What has to be cut of an address (of IPv6) is its beginning: the port is needed most.
    Column::path("From", "from", 21, 47, 0),
    Column::path("To", "to", 21, 47, 0),
    Column::text("Verdict", "verdict", 7, 7, 1),
    Column::number("Bytes/s", "bytes_per_s", 7, 2),
    Column::number("RTT", "rtt_us", 6, 4),
    Column::number("Age", "age_s", 7, 3),
    Column::text("State", "state", 6, 11, 6),
    Column::text("Rule", "rule", 8, 32, 2),
    Column::path("Exe", "exe", 8, 32, 5),
    Column::number("PID", "pid", 7, 6),
    Column::text("Via", "via", 8, 40, 7),
];

/// Which flows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Of {
    /// All.
    All,
    /// Those of a domain.
    Domain(String),
    /// Those of a process: domain, process id, executable.
    Process(String, u32, String),
    /// Those that fit a pair.
    Pair(Box<Ends>),
}

impl Of {
    /// Of which domain the daemon is asked; none for all.
    pub fn domain(&self) -> Option<&str> {
        match self {
            Of::All => None,
            Of::Domain(domain) | Of::Process(domain, ..) => Some(domain),
            Of::Pair(ends) => [&ends.from, &ends.to]
                .into_iter()
                .find(|end| end.kind == PeerKind::Domain)
                .map(|end| end.name.as_str()),
        }
    }
}

/// The rows.
pub fn rows(picture: &Picture, of: &Of) -> Vec<Row> {
    // Those of what was looked at before are not these.
    let asked = picture.flows.as_ref().map(|(asked, _)| asked.as_deref());
    if asked != Some(of.domain()) {
        return Vec::new();
    }
    let owners = picture.owners();
    let fits = |flow: &&Flow| match of {
        Of::All => true,
        Of::Domain(domain) => flow.domain == *domain,
        Of::Process(domain, pid, _) => {
            flow.domain == *domain && flow.who.as_ref().and_then(|who| who.pid) == Some(*pid)
        }
        Of::Pair(ends) => is_of_pair(flow, ends, &owners),
    };
    let flows = picture.all_flows().iter().filter(fits);
    flows.map(|flow| row(picture, flow)).collect()
}

/// Whether a flow may be one of a pair. It names services of its own end only: the other end is told by address, port and version.
fn is_of_pair(flow: &Flow, ends: &Ends, owners: &HashMap<IpAddr, &str>) -> bool {
    let (ours, theirs) = match flow.outgoing {
        true => (&ends.from, &ends.to),
        false => (&ends.to, &ends.from),
    };
    let server = if flow.outgoing { flow.remote } else { flow.local };
    let remote = flow.route.as_ref().map_or(flow.remote, |route| route.backend);
    let port_fits = ends.port.is_none_or(|port| port == server.port());
    let backend_fits = ends
        .port
        .is_none_or(|port| flow.outgoing && port == remote.port());
    // Only who opens it knows the route.
    let way = flow.route.as_ref().filter(|_| flow.outgoing);
    let fits = |wanted: &Option<String>, there: Option<&String>| {
        !flow.outgoing || wanted.is_none() || there == wanted.as_ref()
    };
    let version_fits = fits(&ends.version, way.and_then(|way| way.version.as_ref()))
        && fits(&ends.route, way.and_then(|way| way.route.as_ref()));
    let protocol_fits = ends.protocol.as_ref().is_none_or(|p| *p == flow.protocol);
    protocol_fits
        && (port_fits || backend_fits)
        && version_fits
        && is_here(flow, ours)
        && is_there(owners.get(&remote.ip()).copied(), theirs)
}

fn is_here(flow: &Flow, end: &End) -> bool {
    let services = flow.who.as_ref().map(|who| who.services.as_slice());
    match end.kind {
        PeerKind::Service => services.is_some_and(|of| of.contains(&end.name)),
        PeerKind::Domain => flow.domain == end.name && services.is_none_or(<[String]>::is_empty),
        PeerKind::World => false,
        PeerKind::Others => true,
    }
}

fn is_there(owner: Option<&str>, end: &End) -> bool {
    match end.kind {
        PeerKind::Domain => owner == Some(end.name.as_str()),
        PeerKind::World => owner.is_none(),
        PeerKind::Service | PeerKind::Others => true,
    }
}

fn row(picture: &Picture, of: &Flow) -> Row {
    let rates = picture
        .flow_rates(of)
        .map(|rates| rates[flow::OUT] + rates[flow::IN]);
    let (from, to) = match of.outgoing {
        true => (of.local, of.remote),
        false => (of.remote, of.local),
    };
    let key = flow_key(of);
    let mut verdict = Cell::word(of.decision.verdict.as_str());
    if of.route.as_ref().is_some_and(|route| route.instead) {
        verdict.tone = Some(Tone::Odd);
    }
    let exe = of.who.as_ref().and_then(|who| who.exe.as_ref());
    let pid = of.who.as_ref().and_then(|who| who.pid);
    let via = of.route.as_ref().map(|route| {
        let parts = [
            route.route.clone(),
            route.version.clone(),
            Some(route.backend.to_string()),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    });
    Row {
        key: format!("{}\0{}\0{}\0{}", key.0, key.1, key.2, key.3),
        cells: vec![
            Cell::text(&of.domain),
            Cell::text(&of.protocol),
            Cell::text(from.to_string()),
            Cell::text(to.to_string()),
            verdict,
            bytes(rates),
            micros(of.timing.rtt_out_us.map(|us| us as f64)),
            age(Duration::from_millis(of.age_ms)),
            Cell::text(&of.state),
            Cell::text(&of.decision.rule),
            Cell::maybe(exe),
            Cell::measured(pid.map(f64::from), |pid| pid.to_string()),
            Cell::maybe(via),
        ],
        into: Leads::Nothing,
        detail: Vec::new(),
    }
}
