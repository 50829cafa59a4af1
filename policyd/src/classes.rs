// SPDX-License-Identifier: GPL-3.0-only
//! Numbers of address classes. What the datapath measures is kept by number for longer than a set of tables lasts, so while the
//! daemon runs a number means one block of addresses, whatever guests come and go.

use std::collections::BTreeMap;

use policy::Block;

/// An earlier daemon's numbers may be in flows that it has not measured yet: those are left out.
const GAP: u32 = 1 << 16;

/// Which number stands for which block. It holds every block since the daemon started.
pub struct ClassNumbers {
    by_block: BTreeMap<Block, u32>,
    by_number: BTreeMap<u32, Block>,
    next: u32,
}

impl ClassNumbers {
    /// Without any block. `last`: the highest number that an earlier daemon is known to have used; 0 without one.
    pub fn after(last: u32) -> ClassNumbers {
        let next = match last {
            0 => 1,
            last => last.checked_add(GAP).unwrap_or(1),
        };
        ClassNumbers {
            by_block: BTreeMap::new(),
            by_number: BTreeMap::new(),
            next,
        }
    }

    /// The number of a block: never 0, which stands for addresses without a class, nor `u32::MAX`.
    pub fn of(&mut self, block: Block) -> u32 {
        if let Some(number) = self.by_block.get(&block) {
            return *number;
        }
        let number = self.next;
        self.next = if number >= u32::MAX - 1 { 1 } else { number + 1 };
        self.by_block.insert(block, number);
        self.by_number.insert(number, block);
        number
    }

    /// The block that has this number.
    pub fn block(&self, number: u32) -> Option<Block> {
        self.by_number.get(&number).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_means_one_block() {
        let block = |text: &str| text.parse::<Block>().expect("a block");
        let mut numbers = ClassNumbers::after(0);
        let first = numbers.of(block("10.0.0.1"));
        let second = numbers.of(block("10.0.0.0/8"));
        assert_eq!([first, second], [1, 2]);
        assert_eq!(numbers.of(block("10.0.0.1")), first);
        assert_eq!(numbers.block(second), Some(block("10.0.0.0/8")));
        assert_eq!(ClassNumbers::after(second).block(second), None);
        assert!(ClassNumbers::after(second).of(block("::1")) > second + 1000);
        assert_eq!(ClassNumbers::after(u32::MAX - 1).of(block("::1")), 1);
    }
}
