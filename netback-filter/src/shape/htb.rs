// SPDX-License-Identifier: GPL-3.0-only
//! HTB's attributes (linux/pkt_sched.h), written and read.

use super::plan::{Node, buffer};
use crate::layout::SHAPE_DEFAULT;
use crate::netlink::{TCA_KIND, TCA_OPTIONS, attribute, put, u32_at};

const TCA_HTB_PARMS: u16 = 1;
const TCA_HTB_INIT: u16 = 2;
const TCA_HTB_RATE64: u16 = 6;
const TCA_HTB_CEIL64: u16 = 7;
const TCA_STATS2: u16 = 7;
const TCA_STATS_BASIC: u16 = 1;
const TCA_STATS_QUEUE: u16 = 3;

/// `TC_HTB_PROTOVER`, the major half.
const VERSION: u32 = 3;
/// TC_LINKLAYER_ETHERNET: the kernel then computes times by itself, and asks for no table of them.
const LINK_LAYER: u8 = 1;

pub(super) const HTB: &[u8] = b"htb\0";

/// `tc_ratespec`: the rate in bytes; one beyond 32 bits is told by an attribute of its own.
pub(super) fn rate_spec(rate: u64) -> [u8; 12] {
    let mut spec = [0; 12];
    spec[1] = LINK_LAYER;
    spec[8..].copy_from_slice(&u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes());
    spec
}

/// Attributes of the root qdisc.
pub(super) fn qdisc() -> Vec<u8> {
    let mut global = Vec::new();
    // Version, bytes of rate a byte of quantum (each class sets its own), default class, debug, packets sent directly.
    for word in [VERSION, 10, u32::from(SHAPE_DEFAULT), 0, 0] {
        global.extend(word.to_ne_bytes());
    }
    let mut options = Vec::new();
    put(&mut options, TCA_HTB_INIT, &global);
    with_options(HTB, &options)
}

/// Attributes of a class.
pub(super) fn class(rate: u64, ceil: u64, prio: u32, quantum: u32) -> Vec<u8> {
    let mut parameters = Vec::new();
    parameters.extend(rate_spec(rate));
    parameters.extend(rate_spec(ceil));
    // Buffer of the rate, of the ceiling, quantum, level, priority.
    for word in [buffer(), buffer(), quantum, 0, prio] {
        parameters.extend(word.to_ne_bytes());
    }
    let mut options = Vec::new();
    put(&mut options, TCA_HTB_PARMS, &parameters);
    if rate > u64::from(u32::MAX) {
        put(&mut options, TCA_HTB_RATE64, &rate.to_ne_bytes());
    }
    if ceil > u64::from(u32::MAX) {
        put(&mut options, TCA_HTB_CEIL64, &ceil.to_ne_bytes());
    }
    with_options(HTB, &options)
}

pub(super) fn node(node: &Node) -> Vec<u8> {
    class(node.rate, node.ceil, node.prio, node.quantum)
}

/// Attributes of a qdisc or class of a kind.
pub(super) fn with_options(kind: &[u8], options: &[u8]) -> Vec<u8> {
    let mut attributes = Vec::new();
    put(&mut attributes, TCA_KIND, kind);
    if !options.is_empty() {
        put(&mut attributes, TCA_OPTIONS, options);
    }
    attributes
}

/// Rate and ceiling of a class, in bytes per second.
pub(super) fn rates(attributes: &[u8]) -> Option<(u64, u64)> {
    let options = attribute(attributes, TCA_OPTIONS)?;
    let parameters = attribute(options, TCA_HTB_PARMS)?;
    let wide = |kind, narrow: usize| {
        attribute(options, kind)
            .and_then(|value| value.first_chunk().map(|b| u64::from_ne_bytes(*b)))
            .or_else(|| u32_at(parameters, narrow).map(u64::from))
    };
    Some((wide(TCA_HTB_RATE64, 8)?, wide(TCA_HTB_CEIL64, 20)?))
}

/// What the kernel counted of a qdisc or a class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub bytes: u64,
    pub packets: u64,
    pub backlog_packets: u32,
    pub backlog_bytes: u32,
    pub drops: u32,
}

pub(super) fn counted(attributes: &[u8]) -> Counted {
    let Some(stats) = attribute(attributes, TCA_STATS2) else {
        return Counted::default();
    };
    let basic = attribute(stats, TCA_STATS_BASIC).unwrap_or_default();
    let queue = attribute(stats, TCA_STATS_QUEUE).unwrap_or_default();
    let word = |at| u32_at(queue, at).unwrap_or(0);
    Counted {
        bytes: basic.first_chunk().map_or(0, |b| u64::from_ne_bytes(*b)),
        packets: u32_at(basic, 8).unwrap_or(0).into(),
        backlog_packets: word(0),
        backlog_bytes: word(4),
        drops: word(8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rates_come_back_also_beyond_32_bits() {
        for (rate, ceil) in [
            (1_000, 2_000),
            (1_000, 12_500_000_000),
            (5_000_000_000, 12_500_000_000),
        ] {
            assert_eq!(rates(&class(rate, ceil, 1, 2_000)), Some((rate, ceil)));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            rates(&bytes);
            counted(&bytes);
        }
    }
}
