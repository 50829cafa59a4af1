// SPDX-License-Identifier: GPL-3.0-only
//! What the datapath counts and measures, by the names that people know.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use netback_filter::{ConnectionHistograms, Counters, Direction, Histogram, ScopeStats};
use policy::{Decider, Decision, Refuse, Verdict};
use policyd_api as api;

use crate::classes::ClassNumbers;
use crate::daemon::{Daemon, DaemonError};
use crate::gate::decider;
use crate::present;
use crate::registry::lock;
use crate::world::World;

impl Daemon {
    /// `GET /v1/stats`.
    pub fn stats(&self, domain: Option<&str>) -> Result<api::Stats, DaemonError> {
        let scope = domain.map(|d| self.find(d)).transpose()?.map(|d| d.scope());
        let (mut counted, mut measured) = {
            let datapath = lock(&self.datapath);
            (datapath.stats()?, datapath.histograms()?)
        };
        counted.retain(|stats| scope.is_none_or(|scope| scope == stats.scope));
        measured.retain(|histograms| scope.is_none_or(|scope| scope == histograms.scope));
        let world = self.world.load();
        Ok(api::Stats {
            domains: domains(&world, &counted),
            connections: connections(&world, &lock(&self.classes), &measured),
            dry_runs: self.dry_runs.all(&world.rules),
        })
    }

    /// Events that the datapath had no room for, of all guests.
    pub(crate) fn datapath_events_lost(&self) -> u64 {
        // What cannot be read is an error of `xmesh stats`; the daemon's status is told all the same.
        let counted = lock(&self.datapath).stats().unwrap_or_default();
        counted.iter().map(|stats| stats.counters.events_lost).sum()
    }
}

fn name(world: &World, scope: u32) -> String {
    match world.vm(scope) {
        Some(vm) => vm.id.name.clone(),
        None => scope.to_string(),
    }
}

/// By scope.
fn domains(world: &World, counted: &[ScopeStats]) -> Vec<api::DomainStats> {
    let mut domains: BTreeMap<u32, api::DomainStats> = BTreeMap::new();
    for stats in counted {
        let domain = domains.entry(stats.scope).or_insert_with(|| api::DomainStats {
            domain: name(world, stats.scope),
            ..Default::default()
        });
        let counts = match stats.direction {
            Direction::FromGuest => &mut domain.out,
            Direction::ToGuest => &mut domain.into,
        };
        *counts = packets(&stats.counters);
    }
    domains.into_values().collect()
}

fn packets(counters: &Counters) -> api::PacketCounts {
    api::PacketCounts {
        passed: counters.passed,
        passed_bytes: counters.passed_bytes,
        denied: counters.denied,
        resets: counters.resets,
        malformed: counters.malformed,
        stray: counters.stray,
        forged: counters.forged,
        fragments: counters.fragments,
        unknown_l3: counters.unknown_l3,
        foreign: counters.foreign,
        unserved: counters.unserved,
        unrouted: counters.unrouted,
        flow_errors: counters.flow_errors,
        events_lost: counters.events_lost,
        held: counters.held,
        released: counters.released,
        unheld: counters.unheld,
        direct: counters.direct,
    }
}

/// By domain, direction, peer and rule: what bears the same names is one.
fn connections(
    world: &World,
    classes: &ClassNumbers,
    measured: &[ConnectionHistograms],
) -> Vec<api::ConnectionStats> {
    let mut all: BTreeMap<_, ConnectionHistograms> = BTreeMap::new();
    for histograms in measured {
        let names = (
            name(world, histograms.scope),
            histograms.origin == Direction::ToGuest,
            peer(world, classes, histograms.peer_class),
            rule(world, histograms),
        );
        match all.entry(names) {
            Entry::Vacant(entry) => {
                entry.insert(histograms.clone());
            }
            Entry::Occupied(mut entry) => entry.get_mut().merge(histograms),
        }
    }
    let shown = all.into_iter().map(|((domain, incoming, peer, rule), measured)| {
        let [rtt_out, rtt_in] = &measured.rtt_us;
        let [retransmissions_out, retransmissions_in] = &measured.retransmissions;
        let [zero_windows_out, zero_windows_in] = &measured.zero_windows;
        api::ConnectionStats {
            domain,
            outgoing: !incoming,
            peer,
            rule,
            setup_us: distribution(&measured.setup_us),
            rtt_out_us: distribution(rtt_out),
            rtt_in_us: distribution(rtt_in),
            retransmissions_out: distribution(retransmissions_out),
            retransmissions_in: distribution(retransmissions_in),
            zero_windows_out: distribution(zero_windows_out),
            zero_windows_in: distribution(zero_windows_in),
        }
    });
    shown.collect()
}

/// The guest that has the address now, or the block that policy names.
fn peer(world: &World, classes: &ClassNumbers, class: u32) -> Option<String> {
    let block = classes.block(class)?;
    let guest = world
        .vm_at(block.address())
        .filter(|_| block.address() == block.last());
    Some(guest.map_or_else(|| block.to_string(), |vm| vm.id.name.clone()))
}

/// Rules have their numbers by generation: of an older one the name is not known any more.
fn rule(world: &World, histograms: &ConnectionHistograms) -> String {
    let by = decider(histograms.rule);
    let generation = u64::from(histograms.generation);
    match by {
        Decider::Rule(id) if generation != world.rules.generation() => {
            format!("rule {} of {generation}", id.0)
        }
        _ => {
            let decision = Decision {
                verdict: Verdict::Allow,
                refuse: Refuse::Rst,
                audit: false,
                by,
                class: None,
                mirror: None,
                dry_run: None,
                generation,
            };
            present::decision(world, histograms.scope, &decision).rule
        }
    }
}

fn distribution(histogram: &Histogram) -> api::Distribution {
    api::Distribution {
        values: histogram.total(),
        sum: histogram.sum,
        p50: histogram.quantile(0.5),
        p90: histogram.quantile(0.9),
        p99: histogram.quantile(0.99),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use policy::{Document, Ruleset, VmId};

    use super::*;
    use crate::world::Vm;

    fn world() -> World {
        let text = "policy: shop\nrules:\n  - { name: cache, from: any, to: any, action: allow }\n";
        let document = Document::parse("t", text).expect("sound");
        let rules = Arc::new(Ruleset::compile(&[document], 7).expect("compiles"));
        let vm = |name: &str, scope: u32, address: &str| {
            let id = VmId::new(name, [0; 16]);
            Vm {
                claimed: vec![address.parse().expect("an address")],
                ..Vm::new(id, scope)
            }
        };
        World::new(rules, vec![vm("web1", 1, "10.0.0.11"), vm("db1", 2, "10.0.0.12")])
    }

    fn histogram(counts: &[u64], sum: u64) -> Histogram {
        Histogram {
            counts: counts.to_vec(),
            sum,
        }
    }

    fn measured(peer_class: u32, rule: u32, generation: u32) -> ConnectionHistograms {
        let none = || histogram(&[0; 4], 0);
        ConnectionHistograms {
            scope: 1,
            peer_class,
            rule,
            generation,
            origin: Direction::FromGuest,
            setup_us: histogram(&[0, 0, 9, 1], 24),
            rtt_us: [histogram(&[0, 2, 0, 0], 2), none()],
            retransmissions: [histogram(&[1, 0, 1, 0], 3), none()],
            zero_windows: [none(), none()],
        }
    }

    #[test]
    fn measurements_of_the_same_names_are_one() {
        let mut classes = ClassNumbers::after(0);
        let of_db = classes.of("10.0.0.12".parse().expect("a block"));
        let outside = classes.of("192.0.2.0/24".parse().expect("a block"));
        let found = connections(
            &world(),
            &classes,
            &[
                measured(of_db, 1, 7),
                measured(of_db, 1, 7),
                measured(of_db, 1, 6),
                measured(outside, 1, 7),
                measured(99, 1, 7),
            ],
        );
        let names: Vec<(Option<&str>, &str)> = found
            .iter()
            .map(|c| (c.peer.as_deref(), c.rule.as_str()))
            .collect();
        assert_eq!(
            names,
            [
                (None, "shop/cache"),
                (Some("192.0.2.0/24"), "shop/cache"),
                (Some("db1"), "rule 0 of 6"),
                (Some("db1"), "shop/cache"),
            ]
        );
        let both = &found[3];
        assert_eq!((both.domain.as_str(), both.outgoing), ("web1", true));
        let setup = both.setup_us;
        assert_eq!((setup.values, setup.sum), (20, 48));
        assert_eq!((setup.p50, setup.p90, setup.p99), (Some(3), Some(3), Some(7)));
        assert_eq!((both.rtt_out_us.values, both.rtt_in_us.p50), (4, None));
        assert_eq!(both.retransmissions_out.sum, 6);
    }

    #[test]
    fn every_counter_is_shown() {
        let counters = Counters {
            passed: 1,
            passed_bytes: 2,
            denied: 3,
            resets: 4,
            malformed: 5,
            unknown_l3: 9,
            foreign: 10,
            stray: 6,
            fragments: 8,
            flow_errors: 13,
            events_lost: 14,
            forged: 7,
            unserved: 11,
            unrouted: 12,
            held: 15,
            released: 16,
            unheld: 17,
            direct: 18,
        };
        let stats = |scope, direction, counters| ScopeStats {
            scope,
            direction,
            counters,
        };
        let found = domains(
            &world(),
            &[
                stats(1, Direction::FromGuest, counters),
                stats(1, Direction::ToGuest, Counters::default()),
                stats(9, Direction::ToGuest, counters),
            ],
        );
        let names: Vec<&str> = found.iter().map(|d| d.domain.as_str()).collect();
        assert_eq!(names, ["web1", "9"]);
        assert_eq!(
            found[0].out.named().map(|(_, count)| count)[..],
            (1..=18).collect::<Vec<u64>>()[..]
        );
        assert_eq!(found[0].into, api::PacketCounts::default());
        assert_eq!(found[1].into, found[0].out);
    }
}
