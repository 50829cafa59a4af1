// SPDX-License-Identifier: GPL-3.0-only
//! Many ports of one address, or one port of many addresses, within a minute.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use policyd_api::{Process, Severity, Threat};

use crate::catalog::threat;
use crate::novelty::Met;
use crate::{started, who};

/// How long is counted, ns.
const MINUTE: u64 = 60_000_000_000;
/// Ports of one address that are a scan.
const PORTS: usize = 25;
/// Ports of one address that nobody tries by chance.
const MANY_PORTS: usize = 200;
/// Addresses with one port that are a sweep. None is counted again that was met in an earlier minute.
const ADDRESSES: usize = 50;
/// Who is told apart: programs of the guest, or addresses that come in.
const SOURCES: usize = 1024;
/// Ends that are remembered of each.
const ENDS: usize = 8192;

#[derive(Default)]
struct Tried {
    since_ns: u64,
    ports: HashMap<IpAddr, HashSet<u16>>,
    addresses: HashMap<u16, HashSet<IpAddr>>,
    met: HashSet<SocketAddr>,
    told: HashSet<String>,
}

#[derive(Default)]
pub(crate) struct Scans {
    sources: HashMap<String, Tried>,
    /// What programs met in earlier days: monitoring that meets its hosts again is no sweep only because we began anew.
    before: Met,
}

impl Scans {
    /// Scans of a domain of which the history knows.
    pub(crate) fn knowing(before: Met) -> Scans {
        Scans {
            before,
            ..Scans::default()
        }
    }

    /// A process of the guest connects.
    pub(crate) fn connects(
        &mut self,
        process: &Process,
        exe: &str,
        to: SocketAddr,
        at_ns: u64,
    ) -> Option<(Threat, String)> {
        let (rule, what, severity, key) = self.tried(exe, to, at_ns)?;
        let evidence = vec![what.clone(), started(process)];
        let title = format!("{} tries {what}", who(process));
        let found = threat(rule, title, evidence, Some(process));
        Some((Threat { severity, ..found }, format!("{exe} {key}")))
    }

    /// The vif refused what came from elsewhere to the guest's own `port`.
    pub(crate) fn refused(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        at_ns: u64,
    ) -> Option<(Threat, String)> {
        let source = format!("from {}", from.ip());
        let (rule, what, severity, key) = self.tried(&source, to, at_ns)?;
        let title = format!("{} tries {what}", from.ip());
        let found = threat(rule, title, vec![format!("refused: {what}")], None);
        Some((Threat { severity, ..found }, format!("{source} {key}")))
    }

    fn tried(
        &mut self,
        source: &str,
        to: SocketAddr,
        at_ns: u64,
    ) -> Option<(&'static str, String, Severity, String)> {
        if self.sources.len() >= SOURCES && !self.sources.contains_key(source) {
            self.sources
                .retain(|_, tried| at_ns.saturating_sub(tried.since_ns) < MINUTE);
            if self.sources.len() >= SOURCES {
                return None;
            }
        }
        let tried = self.sources.entry(source.to_owned()).or_default();
        if at_ns.saturating_sub(tried.since_ns) >= MINUTE {
            tried.since_ns = at_ns;
            tried.ports.clear();
            tried.addresses.clear();
            tried.told.clear();
        }
        if tried.met.len() >= ENDS {
            tried.met.clear();
        }
        if !tried.met.insert(to) {
            return None;
        }
        let ports = tried.ports.entry(to.ip()).or_default();
        ports.insert(to.port());
        let severity = match ports.len() {
            MANY_PORTS.. => Severity::Alert,
            _ => Severity::Warning,
        };
        // Told at the first bound, and again when it can be nothing else.
        if ports.len() == PORTS || ports.len() == MANY_PORTS {
            let what = format!("{} ports of {} within a minute", ports.len(), to.ip());
            return Some(("port-scan", what, severity, to.ip().to_string()));
        }
        let met_before =
            |met: &HashSet<SocketAddr>| met.contains(&SocketAddr::new(to.ip().to_canonical(), to.port()));
        if self.before.get(source).is_some_and(met_before) {
            return None;
        }
        let addresses = tried.addresses.entry(to.port()).or_default();
        addresses.insert(to.ip());
        if addresses.len() >= ADDRESSES && tried.told.insert(to.port().to_string()) {
            let what = format!(
                "port {} of {} addresses within a minute",
                to.port(),
                addresses.len()
            );
            return Some(("sweep", what, Severity::Warning, to.port().to_string()));
        }
        None
    }
}
