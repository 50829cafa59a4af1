// SPDX-License-Identifier: GPL-3.0-only
//! What the rig's emulator counts, read in dom0 by the example `trap`.

use std::collections::BTreeMap;

use anyhow::ensure;
use xmesh_rig::Rig;

/// Counters at one moment, or the difference between two moments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<String, u64>);

impl Counts {
    /// What was counted so far. `program` is where the example is in dom0.
    ///
    /// # Errors
    /// Where nothing counts: on KVM, and on Debian's Bochs.
    pub fn now(rig: &Rig, program: &str) -> anyhow::Result<Counts> {
        let counts = Counts::parse(&rig.check("dom0", &[program, "counters"])?);
        ensure!(!counts.0.is_empty(), "the emulator told no counters");
        Ok(counts)
    }

    fn parse(text: &str) -> Counts {
        let pairs = text.lines().filter_map(|line| {
            let (name, value) = line.strip_prefix("counter ")?.split_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Counts(pairs.collect())
    }

    /// What was counted since an earlier moment.
    pub fn since(&self, earlier: &Counts) -> Counts {
        let less = |(name, value): (&String, &u64)| (name.clone(), value.saturating_sub(earlier.get(name)));
        Counts(self.0.iter().map(less).collect())
    }

    /// A counter; zero where nothing was counted.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Instructions that were not executed in guests.
    pub fn host(&self) -> u64 {
        self.get("instructions")
            .saturating_sub(self.get("guest-instructions"))
    }

    /// The sum of one counter over exits of these reasons.
    pub fn of(&self, counter: &str, reasons: &[u32]) -> u64 {
        reasons
            .iter()
            .map(|reason| self.get(&format!("{counter}-{reason}")))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_of_each_counter() {
        let before =
            Counts::parse("counter instructions 100\ncounter guest-instructions 10\ncounter exits-0 1\n");
        let after = Counts::parse(
            "found\ncounter instructions 1100\ncounter guest-instructions 60\ncounter exits-0 4\ncounter exits-37 2\n",
        );
        let spent = after.since(&before);
        assert_eq!((spent.host(), spent.get("guest-instructions")), (950, 50));
        assert_eq!(spent.of("exits", &[0, 37, 48]), 5);
    }
}
