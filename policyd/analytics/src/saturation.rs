// SPDX-License-Identifier: GPL-3.0-only
//! Which classes of which vifs carry all that policy lets them.

use std::collections::{HashMap, VecDeque};

use policyd_api::{Bottleneck, Culprit, Peer, PeerKind, Qos, ShapedClass};

/// Looks that are kept.
const LOOKS: usize = 7;
/// The share of its ceiling from which on a class is full.
const FULL: f64 = 0.9;

/// One class of a vif, in one direction.
type Which = (String, String, String, String);

/// What a look told of a class: when (µs since any moment), bytes, drops.
type Look = (u64, u64, u32);

/// What classes carried of late.
#[derive(Default)]
pub struct Saturation(HashMap<Which, (VecDeque<Look>, ShapedClass)>);

impl Saturation {
    /// A look at all classes. `at_us`: µs since any moment that is always the same.
    pub fn look(&mut self, at_us: u64, qos: &Qos) {
        let mut before = std::mem::take(&mut self.0);
        for vif in &qos.vifs {
            for class in &vif.classes {
                let which = (
                    vif.domain.clone(),
                    vif.vif.clone(),
                    class.direction.clone(),
                    class.class.clone(),
                );
                let (mut looks, _) = before
                    .remove(&which)
                    .unwrap_or_else(|| (VecDeque::new(), class.clone()));
                if looks.back().is_some_and(|(_, bytes, _)| *bytes > class.bytes) {
                    // It was made anew.
                    looks.clear();
                }
                looks.push_back((at_us, class.bytes, class.drops));
                if looks.len() > LOOKS {
                    looks.pop_front();
                }
                self.0.insert(which, (looks, class.clone()));
            }
        }
    }

    /// Classes that were full between the first look that is kept and the last.
    pub fn findings(&self) -> Vec<Bottleneck> {
        let mut found: Vec<Bottleneck> = self
            .0
            .iter()
            .filter_map(|(which, kept)| full(which, kept))
            .collect();
        found.sort_by(|a, b| {
            let names = |f: &Bottleneck| (f.from.name.clone(), f.evidence.clone());
            b.factor
                .total_cmp(&a.factor)
                .then_with(|| names(a).cmp(&names(b)))
        });
        found
    }
}

fn full(which: &Which, (looks, class): &(VecDeque<Look>, ShapedClass)) -> Option<Bottleneck> {
    let (domain, vif, direction, name) = which;
    let (first, last) = (looks.front()?, looks.back()?);
    let seconds = last.0.checked_sub(first.0).filter(|us| *us > 0)? as f64 / 1e6;
    let rate = (last.1 - first.1) as f64 * 8.0 / seconds;
    let ceiling = class.ceiling as f64;
    let dropped = last.2.wrapping_sub(first.2);
    // What is full and lets nobody wait is used well.
    if ceiling <= 0.0 || rate < FULL * ceiling || (dropped == 0 && class.backlog_packets == 0) {
        return None;
    }
    let what = match name.as_str() {
        "total" => format!("all that {vif} may carry"),
        name => format!("class {name} of {vif}"),
    };
    let of_domain = Peer {
        name: domain.clone(),
        kind: PeerKind::Domain,
    };
    let others = Peer {
        name: "(others)".into(),
        kind: PeerKind::Others,
    };
    let (from, to) = match direction.as_str() {
        "out" => (of_domain, others),
        _ => (others, of_domain),
    };
    Some(Bottleneck {
        from,
        to,
        version: None,
        port: None,
        culprit: Culprit::Qos,
        evidence: format!(
            "{what} is full: {:.1} of {:.1} Mbit/s in the last {seconds:.0} s, {} bytes wait, {dropped} packets were dropped",
            rate / 1e6,
            ceiling / 1e6,
            class.backlog_bytes
        ),
        factor: 1.0 + f64::from(class.backlog_bytes) * 8.0 / ceiling,
    })
}

#[cfg(test)]
mod tests {
    use policyd_api::ShapedVif;

    use super::*;

    fn qos(bytes: u64, drops: u32, backlog_packets: u32) -> Qos {
        Qos {
            shaper: String::new(),
            vifs: vec![ShapedVif {
                domain: "web1".into(),
                vif: "vif3.0".into(),
                problem: None,
                classes: vec![ShapedClass {
                    direction: "out".into(),
                    class: "shop/copies".into(),
                    priority: None,
                    rate: 1_000_000,
                    ceiling: 8_000_000,
                    bytes,
                    packets: 0,
                    drops,
                    backlog_bytes: backlog_packets * 1500,
                    backlog_packets,
                }],
            }],
        }
    }

    fn findings(looks: &[Qos]) -> Vec<Bottleneck> {
        let mut saturation = Saturation::default();
        for (n, qos) in (0..).zip(looks) {
            saturation.look(n * 10_000_000, qos);
        }
        saturation.findings()
    }

    #[test]
    fn a_class_that_is_full_and_lets_wait_is_told() {
        // A megabyte a second is what it may carry.
        let found = findings(&[qos(0, 0, 0), qos(9_800_000, 5, 4)]);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].culprit, found[0].from.name.as_str()),
            (Culprit::Qos, "web1")
        );
        assert_eq!(
            found[0].evidence,
            "class shop/copies of vif3.0 is full: 7.8 of 8.0 Mbit/s in the last 10 s, 6000 bytes wait, 5 packets were dropped"
        );
        // Nobody waits; there is room; one look tells nothing; it was made anew.
        assert_eq!(findings(&[qos(0, 0, 0), qos(9_800_000, 0, 0)]), []);
        assert_eq!(findings(&[qos(0, 0, 0), qos(5_000_000, 5, 4)]), []);
        assert_eq!(findings(&[qos(9_800_000, 5, 4)]), []);
        assert_eq!(findings(&[qos(99_000_000, 0, 0), qos(9_800_000, 5, 4)]), []);
    }

    #[test]
    fn what_was_long_ago_or_is_gone_counts_no_more() {
        let mut looks: Vec<Qos> = (0..9).map(|n| qos(n * 9_800_000, 1, 1)).collect();
        looks.extend((1..9).map(|n| qos(8 * 9_800_000 + n, 1, 1)));
        assert_eq!(findings(&looks), []);
        let mut saturation = Saturation::default();
        saturation.look(0, &qos(0, 0, 0));
        saturation.look(
            1,
            &Qos {
                shaper: String::new(),
                vifs: Vec::new(),
            },
        );
        assert!(saturation.0.is_empty());
    }
}
