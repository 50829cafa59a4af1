// SPDX-License-Identifier: GPL-3.0-only
//! Addresses outside, as few blocks.

use std::collections::BTreeSet;

use policy::Block;

use super::Options;

/// Blocks beyond which addresses are taken together, as far as that is allowed.
const MANY: usize = 16;

/// Blocks that hold all of these. Halves that are both there become one block. Where there are more than 16 then, and nothing is to be
/// exact, those that are nearest to one another are taken together, never into a block wider than `options` say. The second: whether
/// they hold more than was seen.
pub fn cover(seen: &BTreeSet<Block>, exact: bool, options: &Options) -> (Vec<Block>, bool) {
    let mut blocks = whole(seen.iter().copied().collect());
    let before = blocks.clone();
    // The narrowest that hold two first.
    for length in (0..128).rev() {
        if exact || blocks.len() <= MANY {
            break;
        }
        blocks = joined(blocks, length, options);
    }
    let wider = blocks != before;
    (blocks, wider)
}

/// Takes blocks together that a block of this length holds, from the first on, until there are few enough. `blocks` are in order.
fn joined(blocks: Vec<Block>, length: u8, options: &Options) -> Vec<Block> {
    let mut left = blocks.len();
    let mut kept: Vec<Block> = Vec::with_capacity(left);
    for block in blocks {
        if let Some(last) = kept.last_mut()
            && left > MANY
            && same_family(last, &block)
            && length >= options.shortest(block.address())
            && length < bits(block)
            && Block::new(last.address(), length).contains(block.address())
        {
            // One that is wider already holds it.
            *last = Block::new(last.address(), length.min(last.length()));
            left -= 1;
        } else {
            kept.push(block);
        }
    }
    whole(kept)
}

/// Without those that others hold, and with halves joined.
fn whole(mut blocks: Vec<Block>) -> Vec<Block> {
    loop {
        // A block comes right before those that it holds.
        blocks.sort_by_key(|b| (b.address().is_ipv6(), b.address(), b.length()));
        let mut kept: Vec<Block> = Vec::with_capacity(blocks.len());
        let mut joined = false;
        for block in blocks {
            match kept.last_mut() {
                Some(last) if last.length() <= block.length() && last.contains(block.address()) => {}
                Some(last) if is_other_half(*last, block) => {
                    *last = Block::new(last.address(), last.length() - 1);
                    joined = true;
                }
                _ => kept.push(block),
            }
        }
        blocks = kept;
        if !joined {
            return blocks;
        }
    }
}

fn is_other_half(a: Block, b: Block) -> bool {
    a.length() > 0
        && a.length() == b.length()
        && same_family(&a, &b)
        && a != b
        && Block::new(a.address(), a.length() - 1).contains(b.address())
}

fn same_family(a: &Block, b: &Block) -> bool {
    a.address().is_ipv4() == b.address().is_ipv4()
}

fn bits(block: Block) -> u8 {
    if block.address().is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covered(texts: &[String], exact: bool, widest: u8) -> (Vec<String>, bool) {
        let seen = texts.iter().map(|text| text.parse().unwrap()).collect();
        let options = Options {
            widest: (widest, 64),
            ..Options::default()
        };
        let (blocks, wider) = cover(&seen, exact, &options);
        (blocks.iter().map(ToString::to_string).collect(), wider)
    }

    #[test]
    fn halves_become_one_and_nothing_is_added() {
        let texts = ["192.0.2.0", "192.0.2.1", "192.0.2.2/31", "192.0.2.9", "192.0.2.9"].map(str::to_owned);
        let found = covered(&texts, false, 24);
        assert_eq!(
            found,
            (vec!["192.0.2.0/30".to_owned(), "192.0.2.9".into()], false)
        );
    }

    #[test]
    fn many_are_taken_together_but_no_wider_than_told() {
        let many: Vec<String> = (0..40).map(|n| format!("198.51.100.{}", n * 5)).collect();
        let (blocks, wider) = covered(&many, false, 24);
        assert!(wider && blocks.len() <= MANY, "{blocks:?}");
        let (blocks, _) = covered(&many, false, 30);
        assert!(blocks.len() > MANY, "{blocks:?}");
        assert!(
            blocks.iter().all(|b| b.parse::<Block>().unwrap().length() >= 30),
            "{blocks:?}"
        );
        assert_eq!(covered(&many, true, 0), (many.clone(), false));
        // Far from one another: none may be joined.
        let far: Vec<String> = (0..40).map(|n| format!("203.0.{n}.1")).collect();
        assert_eq!(covered(&far, false, 24).0.len(), 40);
        let both: Vec<String> = (0..20)
            .flat_map(|n| [format!("203.0.113.{}", n * 4), format!("2001:db8::{:x}", n * 4)])
            .collect();
        let (blocks, _) = covered(&both, false, 24);
        assert!(
            blocks.len() <= MANY
                && blocks.iter().any(|b| b.contains(':'))
                && blocks.iter().any(|b| b.contains('.'))
        );
    }
}
