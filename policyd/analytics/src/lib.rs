// SPDX-License-Identifier: GPL-3.0-only
//! What looks like an attack: rules over the events that the daemon tells anyway.
//!
//! Pure: an [`Event`] goes in, findings come out, and what a rule wants to know beyond events is asked for ([`Question`]) and
//! answered by who can read the guest. So nothing here is on the trap path, and all of it runs on events in a file. Time is that
//! of the events. What is remembered is bounded by domain; what is over the bound is let go, oldest first.
#![forbid(unsafe_code)]

mod beacon;
mod catalog;
mod family;
mod novelty;
mod privilege;
mod program;
pub mod saturation;
mod scan;
mod shell;
pub mod signals;
mod sketch;
pub mod spread;
mod text;
mod volume;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};

use policyd_api::{Event, Process, Seen, Severity, Threat, Verdict, What};

pub use catalog::rules;
pub use novelty::Baseline;
pub use volume::Volume;

use beacon::Beacons;
use family::Family;
use privilege::Rights;
use scan::Scans;

/// A threat, and what makes it the same as another.
#[derive(Debug, Clone)]
pub struct Found {
    /// The domain's id; none of what the history says, where domains are known by name.
    pub domid: Option<u16>,
    /// The domain's name.
    pub domain: String,
    /// What was found.
    pub threat: Threat,
    /// Findings of one rule and domain with the same key are one threat that came again.
    pub key: String,
}

/// What a rule wants to know beyond events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The domain's id.
    pub domid: u16,
    /// The domain's name.
    pub domain: String,
    /// The process as it was told.
    pub process: Process,
    /// Ask so many milliseconds after the event.
    pub after_ms: u64,
    /// What of it.
    pub about: About,
}

/// What is asked of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    /// The sockets that are its standard input and output. A process that connects makes a socket its standard input later.
    StandardSockets,
    /// Whether packets were seen of the UDP flow that it connected a socket for. Who only wants to know a route connects and sends
    /// nothing: `ping` does, and whoever asks for the addresses of a name.
    Packets {
        /// The guest's side.
        local: SocketAddr,
        /// The other side.
        remote: SocketAddr,
        /// When it was connected, in the time of events.
        time_ns: u64,
    },
}

/// What was found out.
#[derive(Debug, Clone, Copy)]
pub enum Answer<'a> {
    /// The sockets among its first three descriptors.
    Sockets(&'a [Descriptor]),
    /// Whether packets were seen.
    Packets(bool),
}

/// A socket that a process has as a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// The descriptor's number.
    pub fd: u32,
    /// The socket's own address and port.
    pub local: SocketAddr,
    /// Its peer; none of one that listens or is not connected.
    pub remote: Option<SocketAddr>,
}

/// What an event led to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Threats.
    pub found: Vec<Found>,
    /// What is to be asked.
    pub questions: Vec<Question>,
}

/// What is remembered of one domain.
#[derive(Default)]
struct Guest {
    family: Family,
    rights: Rights,
    scans: Scans,
    beacons: Beacons,
}

/// All rules that work on events.
#[derive(Default)]
pub struct Detector {
    guests: HashMap<u16, Guest>,
    baseline: Baseline,
}

impl Detector {
    /// A detector that knows what was usual before.
    pub fn new(baseline: Baseline) -> Detector {
        Detector {
            guests: HashMap::new(),
            baseline,
        }
    }

    /// Takes an event in.
    pub fn observe(&mut self, event: &Event) -> Outcome {
        let mut outcome = Outcome::default();
        // Where probes rest, or come back, execs were missed.
        if let What::Lost { .. } | What::Sight { .. } = &event.what {
            self.lost(event.domid);
        }
        let Some(domid) = event.domid else { return outcome };
        let name = event.domain.clone().unwrap_or_else(|| domid.to_string());
        if let What::Domain { change } = &event.what {
            if change == "destroyed" {
                self.guests.remove(&domid);
            }
            return outcome;
        }
        let guest = self.guests.entry(domid).or_insert_with(|| Guest {
            scans: Scans::knowing(self.baseline.take_met(&name)),
            ..Guest::default()
        });
        let mut found: Vec<(Threat, String)> = Vec::new();
        let ask = |process: &Process, after_ms| Question {
            domid,
            domain: name.clone(),
            process: process.clone(),
            after_ms,
            about: About::StandardSockets,
        };
        match &event.what {
            What::Fork { process } => {
                guest.family.lives(process);
                found.extend(guest.rights.forked(process));
            }
            What::Exec { process } => {
                guest.family.lives(process);
                guest.rights.begins(process);
                found.extend(program::look(process));
                if shell::is_interpreter(process) && guest.family.is_connected(process, event.time_ns) {
                    outcome.questions.push(ask(process, 0));
                }
            }
            What::Exit { process, .. } => {
                guest.family.ended(process);
                guest.rights.ended(process);
            }
            What::Cred {
                process,
                before,
                after,
            } => {
                found.extend(privilege::look(process, before, after));
                guest.rights.changed(process, after);
            }
            What::Listen { process, .. } | What::Bind { process, .. } => {
                found.extend(guest.rights.acts(process));
            }
            // What is translated was told of as it is inside.
            What::Accept {
                process,
                local,
                remote,
                seen,
                ..
            } if *seen != Seen::Translated => {
                found.extend(guest.rights.acts(process));
                guest
                    .family
                    .connected(process, *local, *remote, false, event.time_ns);
            }
            What::Connect {
                process,
                protocol,
                local,
                remote,
                to,
                decision,
                seen,
                ..
            } if *seen != Seen::Translated => {
                found.extend(guest.rights.acts(process));
                let outside = to.domain.is_none() && !is_inside(*local, *remote);
                if protocol == "tcp" && !remote.ip().is_loopback() {
                    guest
                        .family
                        .connected(process, *local, *remote, true, event.time_ns);
                    if shell::is_interpreter(process) {
                        outcome
                            .questions
                            .extend(shell::DELAYS_MS.map(|after| ask(process, after)));
                    }
                }
                let exe = process.exe.as_deref().unwrap_or(&process.comm);
                found.extend(guest.scans.connects(process, exe, *remote, event.time_ns));
                if outside && decision.verdict == Verdict::Allow {
                    // A lookup was made because there was a packet.
                    let is_certain = protocol != "udp" || *seen == Seen::Lookup;
                    if is_certain || guest.beacons.is_quick(exe, *remote, event.time_ns) {
                        found.extend(guest.beacons.connects(process, exe, *remote, event.time_ns));
                    } else {
                        outcome.questions.push(Question {
                            about: About::Packets {
                                local: *local,
                                remote: *remote,
                                time_ns: event.time_ns,
                            },
                            ..ask(process, beacon::PATIENCE_MS)
                        });
                    }
                }
                // What stays inside of the guest is in no history either.
                if !is_inside(*local, *remote) {
                    found.extend(
                        self.baseline
                            .connects(&name, process, exe, to, *remote, event.time_ns),
                    );
                }
            }
            What::Refused {
                direction,
                local,
                remote,
                ..
            } if direction == "in" => found.extend(guest.scans.refused(*remote, *local, event.time_ns)),
            What::Unowned {
                protocol,
                local,
                remote,
            } if !is_dhcp(protocol, *local, *remote) => found.push((
                catalog::threat(
                    "unowned-traffic",
                    format!("{protocol} traffic to {remote} belongs to no process"),
                    vec![format!(
                        "the vif saw {protocol} from {local} to {remote}; no socket of the guest has these ends"
                    )],
                    None,
                ),
                remote.to_string(),
            )),
            What::Measured { process, text } => found.extend(text::look(process, text)),
            What::Hidden { finding } => {
                found.push((catalog::finding("hidden", finding), finding.message.clone()));
            }
            What::Integrity { finding } => {
                found.push((catalog::finding("kernel-changed", finding), finding.message.clone()));
            }
            _ => {}
        }
        let found = found.into_iter().map(|(threat, key)| Found {
            domid: Some(domid),
            domain: name.clone(),
            threat,
            key,
        });
        outcome.found = found.collect();
        outcome
    }

    /// Events of a domain, or of any, did not get here: what follows only from all of them is not concluded.
    pub fn lost(&mut self, domid: Option<u16>) {
        let all = self.guests.iter_mut();
        let those = all.filter(|(id, _)| domid.is_none_or(|domid| **id == domid));
        those.for_each(|(_, guest)| guest.rights.lost());
    }

    /// Takes the answer to a question in.
    pub fn answered(&mut self, question: &Question, answer: Answer<'_>) -> Option<Found> {
        let guest = self.guests.get_mut(&question.domid)?;
        let process = &question.process;
        let (threat, key) = match (&question.about, answer) {
            (About::StandardSockets, Answer::Sockets(sockets)) => {
                shell::look(process, &guest.family, sockets)?
            }
            (About::Packets { remote, time_ns, .. }, Answer::Packets(true)) => {
                let exe = process.exe.as_deref().unwrap_or(&process.comm);
                guest.beacons.connects(process, exe, *remote, *time_ns)?
            }
            _ => return None,
        };
        Some(Found {
            domid: Some(question.domid),
            domain: question.domain.clone(),
            threat,
            key,
        })
    }
}

/// Whether a guest asks for an address: it has none yet, so it asks everybody, past all sockets.
fn is_dhcp(protocol: &str, local: SocketAddr, remote: SocketAddr) -> bool {
    protocol == "udp" && local.port() == 68 && remote == SocketAddr::from((Ipv4Addr::BROADCAST, 67))
}

/// Whether a guest speaks to itself.
fn is_inside(local: SocketAddr, remote: SocketAddr) -> bool {
    let ip = remote.ip().to_canonical();
    ip.is_loopback() || ip.is_unspecified() || ip == local.ip().to_canonical()
}

/// `/usr/bin/curl` (pid 17, uid 0), as evidence names a process.
fn who(process: &Process) -> String {
    let exe = process.exe.as_deref().unwrap_or(&process.comm);
    format!("{exe} (pid {}, uid {})", process.pid, process.uid)
}

/// What a process was started with, in a sentence.
fn started(process: &Process) -> String {
    let mut line = process.args.join(" ");
    if line.chars().count() > 200 {
        line = line.chars().take(200).chain(['…']).collect();
    }
    let by = match process.parents.first() {
        Some(parent) => format!(", by {parent}"),
        None => String::new(),
    };
    format!("it was started as `{line}`{by}")
}

/// Severity by name, for threats that have none of their own.
fn severity(id: &str) -> Severity {
    catalog::entry(id).map_or(Severity::Warning, |rule| rule.severity)
}

#[cfg(test)]
mod tests;
