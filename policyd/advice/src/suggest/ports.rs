// SPDX-License-Identifier: GPL-3.0-only
//! Ports: which are one, and how they are written.

use std::collections::BTreeSet;

use policy::PortRange;

use super::seen::EPHEMERAL;

/// So many ports that nobody chose stand for all of them.
const SOME_EPHEMERAL: usize = 3;
/// Ranges that a server's other ports are written as, at most.
const RANGES: usize = 8;
/// The last port that Linux takes by itself.
const LAST_EPHEMERAL: u16 = 60_999;
/// Below are the well-known ports, which only the superuser may serve.
const REGISTERED: u16 = 1024;

/// What ports of one program are taken as. Ports of one class go together into one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// As it is.
    Port(u16),
    /// One of many, written as ranges.
    Spread,
    /// One that the kernel chose.
    Ephemeral,
    /// Many that the history did not keep.
    Many,
}

/// The ports of one program, as they were seen.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    ports: BTreeSet<u16>,
    many: bool,
}

impl Seen {
    /// Adds a port; none: many.
    pub fn add(&mut self, port: Option<u16>) {
        self.many |= port.is_none();
        self.ports.extend(port);
    }

    /// What a port of them is taken as.
    pub fn class(&self, port: Option<u16>, exact: bool) -> Class {
        let Some(port) = port else {
            return Class::Many;
        };
        if self.many && self.of_many().contains(port) {
            return Class::Many;
        }
        let above = self.ports.range(EPHEMERAL..).count();
        match port >= EPHEMERAL {
            _ if exact || port == 0 => Class::Port(port),
            true if above >= SOME_EPHEMERAL => Class::Ephemeral,
            false if runs(&self.ports.range(..EPHEMERAL).copied().collect()).len() > RANGES => Class::Spread,
            _ => Class::Port(port),
        }
    }

    /// Where there were more than are kept, they may have been any from the class of the least on.
    fn of_many(&self) -> PortRange {
        let first = match self.ports.first().copied().unwrap_or(1) {
            EPHEMERAL.. => EPHEMERAL,
            REGISTERED.. => REGISTERED,
            _ => 1,
        };
        PortRange::new(first, u16::MAX).unwrap_or(PortRange::one(u16::MAX))
    }
}

/// How the ports of one class are written; `ports`: those of the class that were seen. And in what that is more than was seen.
pub fn written(class: Class, ports: &BTreeSet<u16>, all: &Seen) -> (Vec<PortRange>, Option<String>) {
    let range = |first, last| PortRange::new(first, last).into_iter().collect::<Vec<_>>();
    let last = ports.last().copied().unwrap_or(u16::MAX);
    match class {
        Class::Port(_) => (runs(ports), None),
        Class::Ephemeral => {
            let ranges = range(
                EPHEMERAL,
                if last > LAST_EPHEMERAL {
                    u16::MAX
                } else {
                    LAST_EPHEMERAL
                },
            );
            let why = format!(
                "ports {}: {} of them were seen, and such ports are taken from what is free",
                text(&ranges),
                ports.len()
            );
            (ranges, Some(why))
        }
        Class::Many => {
            let ranges = vec![all.of_many()];
            let why = format!(
                "ports {}: it was contacted on more than the history keeps each ({} are kept)",
                text(&ranges),
                ports.len()
            );
            (ranges, Some(why))
        }
        Class::Spread => {
            let ranges = joined(runs(ports), RANGES);
            let of: u32 = ranges.iter().map(|r| u32::from(r.last() - r.first()) + 1).sum();
            let seen = ports.len();
            let why = format!(
                "ports {}: {seen} of these {of} were seen, too many to list each",
                text(&ranges)
            );
            // Where no gap was closed nothing is more than was seen.
            let wider = usize::try_from(of).is_ok_and(|of| of > seen);
            (ranges, wider.then_some(why))
        }
    }
}

/// As in a document.
pub fn text(ranges: &[PortRange]) -> String {
    let texts: Vec<String> = ranges.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

/// Ports that follow one another are a range; nothing is added.
pub fn runs(ports: &BTreeSet<u16>) -> Vec<PortRange> {
    let mut runs: Vec<PortRange> = Vec::new();
    for port in ports {
        match runs.last_mut() {
            Some(run) if run.last().checked_add(1) == Some(*port) => {
                *run = PortRange::new(run.first(), *port).unwrap_or(*run);
            }
            _ => runs.push(PortRange::one(*port)),
        }
    }
    runs
}

/// Closes the smallest gaps until there are at most so many.
fn joined(mut ranges: Vec<PortRange>, most: usize) -> Vec<PortRange> {
    while ranges.len() > most.max(1) {
        let gaps = ranges.windows(2).enumerate().filter_map(|(i, pair)| match pair {
            [a, b] => Some((b.first() - a.last(), i)),
            _ => None,
        });
        let Some((_, at)) = gaps.min() else { break };
        let after = ranges.remove(at + 1);
        ranges[at] = PortRange::new(ranges[at].first(), after.last()).unwrap_or(after);
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ports: impl IntoIterator<Item = u16>) -> (Seen, BTreeSet<u16>) {
        let ports: BTreeSet<u16> = ports.into_iter().collect();
        let mut seen = Seen::default();
        ports.iter().for_each(|port| seen.add(Some(*port)));
        (seen, ports)
    }

    fn ranges(class: Class, ports: &BTreeSet<u16>, seen: &Seen) -> String {
        text(&written(class, ports, seen).0)
    }

    #[test]
    fn a_few_ports_are_as_they_are() {
        let (seen, ports) = of([80, 443, 8000, 8001, 8002]);
        assert_eq!(seen.class(Some(80), false), Class::Port(80));
        assert_eq!(ranges(Class::Port(80), &ports, &seen), "80, 443, 8000-8002");
        let (seen, _) = of([40_000, 40_001]);
        assert_eq!(seen.class(Some(40_000), false), Class::Port(40_000));
    }

    #[test]
    fn ports_that_nobody_chose_are_all_of_them() {
        let (seen, ports) = of([40_000, 41_111, 52_222]);
        assert_eq!(seen.class(Some(40_000), false), Class::Ephemeral);
        assert_eq!(seen.class(Some(40_000), true), Class::Port(40_000));
        assert_eq!(ranges(Class::Ephemeral, &ports, &seen), "32768-60999");
        let (seen, ports) = of([40_000, 41_111, 61_000]);
        assert_eq!(ranges(Class::Ephemeral, &ports, &seen), "32768-65535");
    }

    #[test]
    fn many_ports_become_ranges_with_as_little_added_as_can_be() {
        // Nine runs: the smallest gap, between 1010 and 1012, is closed.
        let (seen, ports) = of((0..8).map(|n| 1000 + n * 10).chain([1012]));
        assert_eq!(seen.class(Some(1000), false), Class::Spread);
        let (ranges, why) = written(Class::Spread, &ports, &seen);
        assert_eq!(
            text(&ranges),
            "1000, 1010-1012, 1020, 1030, 1040, 1050, 1060, 1070"
        );
        assert!(why.expect("a reason").contains("9 of these 10 were seen"));
    }

    #[test]
    fn what_was_not_kept_may_have_been_any_port_of_its_class() {
        for (least, range) in [(22, "1-65535"), (2000, "1024-65535"), (40_000, "32768-65535")] {
            let (mut seen, ports) = of([least, 50_000]);
            seen.add(None);
            assert_eq!(seen.class(Some(50_000), true), Class::Many);
            assert_eq!(ranges(Class::Many, &ports, &seen), range);
        }
    }
}
