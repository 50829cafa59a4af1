// SPDX-License-Identifier: GPL-3.0-only
//! TBF's attributes (linux/pkt_sched.h): one rate for all, where the kernel has no HTB.

use super::htb::{rate_spec, with_options};
use super::plan::{Tree, burst};
use crate::netlink::{TCA_OPTIONS, attribute, put, u32_at};

const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;

pub(super) const TBF: &[u8] = b"tbf\0";

/// Attributes of the root qdisc.
pub(super) fn qdisc(tree: &Tree) -> Vec<u8> {
    let mut parameters = Vec::new();
    parameters.extend(rate_spec(tree.total));
    // No peak rate.
    parameters.extend([0; 12]);
    let limit = tree.nodes.iter().map(|node| node.limit).max().unwrap_or(u32::MAX);
    // Bytes that may wait; burst and the peak's burst as times, in whose place there is the number of bytes below.
    for word in [limit, 0, 0] {
        parameters.extend(word.to_ne_bytes());
    }
    let mut options = Vec::new();
    put(&mut options, TCA_TBF_PARMS, &parameters);
    put(&mut options, TCA_TBF_BURST, &burst(tree.total).to_ne_bytes());
    if tree.total > u64::from(u32::MAX) {
        put(&mut options, TCA_TBF_RATE64, &tree.total.to_ne_bytes());
    }
    with_options(TBF, &options)
}

/// Its rate, in bytes per second.
pub(super) fn rate(attributes: &[u8]) -> Option<u64> {
    let options = attribute(attributes, TCA_OPTIONS)?;
    attribute(options, TCA_TBF_RATE64)
        .and_then(|value| value.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes)))
        .or_else(|| u32_at(attribute(options, TCA_TBF_PARMS)?, 8).map(u64::from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Rate;

    #[test]
    fn a_rate_comes_back_also_beyond_32_bits() {
        for total in [1_000, 12_500_000, Rate::MAX.bytes()] {
            let tree = Tree {
                total,
                nodes: Vec::new(),
            };
            assert_eq!(rate(&qdisc(&tree)), Some(total));
        }
        assert_eq!(rate(&[]), None);
    }
}
