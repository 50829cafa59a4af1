// SPDX-License-Identifier: GPL-3.0-only
//! The symbols of one kernel, by name and by address.

use std::fmt;
use std::hash::BuildHasher;

use foldhash::quality::RandomState;

/// All symbols of a kernel image (not those of modules).
///
/// About 200 000 entries; the names share one arena and no entry owns memory.
#[derive(Clone, Default)]
pub struct Symbols {
    /// All names, one after the other.
    arena: String,
    /// Sorted by address.
    entries: Vec<Entry>,
    by_name: NameIndex,
}

/// Finds entries by their name's hash. Made in two passes, which for 200 000
/// names takes a fifth of the time that sorting them would; keyed at random, so
/// that no guest, which sees nothing of it, can make all its names collide.
#[derive(Clone, Default)]
struct NameIndex {
    hasher: RandomState,
    /// Indexes into the entries, bucket by bucket, ascending in each.
    order: Vec<u32>,
    /// Where each bucket starts in `order`; one more, for the end.
    starts: Vec<u32>,
}

impl NameIndex {
    /// `names` in the order of the entries, of which there are fewer than 2^32.
    fn build<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> Self {
        let hasher = RandomState::default();
        let buckets = names.len().next_power_of_two();
        let of_entry: Vec<u32> = names
            .map(|name| (hasher.hash_one(name) as usize % buckets) as u32)
            .collect();
        let mut starts = vec![0u32; buckets + 1];
        for &bucket in &of_entry {
            starts[bucket as usize + 1] += 1;
        }
        for bucket in 0..buckets {
            starts[bucket + 1] += starts[bucket];
        }
        let mut next = starts.clone();
        let mut order = vec![0; of_entry.len()];
        for (entry, &bucket) in (0u32..).zip(&of_entry) {
            let place = &mut next[bucket as usize];
            order[*place as usize] = entry;
            *place += 1;
        }
        Self {
            hasher,
            order,
            starts,
        }
    }

    /// Entries that may have this name, ascending.
    fn candidates(&self, name: &str) -> &[u32] {
        // None where nothing was built.
        let Some(buckets) = self.starts.len().checked_sub(1) else {
            return &[];
        };
        let bucket = self.hasher.hash_one(name) as usize % buckets;
        &self.order[self.starts[bucket] as usize..self.starts[bucket + 1] as usize]
    }
}

#[derive(Clone, Copy)]
struct Entry {
    address: u64,
    name: u32,
    len: u16,
    kind: u8,
}

/// One symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its run-time address; of a per-CPU variable, what to add to a CPU's base.
    pub address: u64,
    /// Letter of `nm`: `T` and `t` text, `D` and `d` data, `A` absolute …;
    /// upper case is global.
    pub kind: char,
}

impl fmt::Debug for Symbols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Symbols")
            .field("count", &self.entries.len())
            .finish_non_exhaustive()
    }
}

impl Symbols {
    /// Builds the two indexes. `names` are kind and range in `arena`, one for
    /// each of `addresses`.
    pub(super) fn build(
        arena: String,
        names: impl Iterator<Item = Name>,
        addresses: impl Iterator<Item = u64>,
    ) -> Self {
        let mut entries: Vec<Entry> = names
            .zip(addresses)
            .map(|(name, address)| Entry {
                address,
                name: name.start,
                len: name.len,
                kind: name.kind,
            })
            .collect();
        // kallsyms is nearly sorted already: cheap.
        entries.sort_by_key(|entry| entry.address);
        let mut symbols = Self {
            arena,
            entries,
            by_name: NameIndex::default(),
        };
        symbols.by_name = NameIndex::build(symbols.entries.iter().map(|entry| symbols.name_of(entry)));
        symbols
    }

    /// Number of symbols.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Address of the symbol `name`. Where several have that name (static
    /// functions of several files), a global one comes first, then the lowest.
    pub fn address(&self, name: &str) -> Option<u64> {
        let mut first = None;
        for symbol in self.all(name) {
            if symbol.kind.is_ascii_uppercase() {
                return Some(symbol.address);
            }
            first = first.or(Some(symbol.address));
        }
        first
    }

    /// Every symbol called `name`, by ascending address.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Symbol<'a>> {
        self.by_name
            .candidates(name)
            .iter()
            .map(|&index| self.symbol(&self.entries[index as usize]))
            .filter(move |symbol| symbol.name == name)
    }

    /// The symbol that `address` belongs to, that is the nearest one at or
    /// below it, and the distance from it in bytes. Any address above the first
    /// symbol has one: the caller judges whether the distance makes sense.
    pub fn nearest(&self, address: u64) -> Option<(Symbol<'_>, u64)> {
        let after = self.entries.partition_point(|entry| entry.address <= address);
        let entry = self.entries.get(after.checked_sub(1)?)?;
        Some((self.symbol(entry), address - entry.address))
    }

    /// The lowest address above `address` at which a symbol starts: where what starts at `address` ends at the latest.
    pub fn next_after(&self, address: u64) -> Option<u64> {
        let after = self.entries.partition_point(|entry| entry.address <= address);
        self.entries.get(after).map(|entry| entry.address)
    }

    /// Name of a symbol that starts exactly at `address`.
    pub fn name(&self, address: u64) -> Option<&str> {
        let at = self.entries.partition_point(|entry| entry.address < address);
        let entry = self.entries.get(at)?;
        (entry.address == address).then(|| self.name_of(entry))
    }

    /// Names of all symbols that start exactly at `address`.
    pub fn names(&self, address: u64) -> impl Iterator<Item = &str> {
        let at = self.entries.partition_point(|entry| entry.address < address);
        self.entries[at..]
            .iter()
            .take_while(move |entry| entry.address == address)
            .map(|entry| self.name_of(entry))
    }

    /// The lowest address above `address` that a symbol has: where what starts
    /// at `address` ends at the latest.
    pub fn above(&self, address: u64) -> Option<u64> {
        let at = self.entries.partition_point(|entry| entry.address <= address);
        Some(self.entries.get(at)?.address)
    }

    /// All symbols by ascending address.
    pub fn iter(&self) -> impl Iterator<Item = Symbol<'_>> {
        self.entries.iter().map(|entry| self.symbol(entry))
    }

    fn symbol(&self, entry: &Entry) -> Symbol<'_> {
        Symbol {
            name: self.name_of(entry),
            address: entry.address,
            kind: char::from(entry.kind),
        }
    }

    fn name_of(&self, entry: &Entry) -> &str {
        let start = entry.name as usize;
        self.arena
            .get(start..start + usize::from(entry.len))
            .unwrap_or("")
    }
}

/// Where a name lies in the arena, and its kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name {
    pub start: u32,
    pub len: u16,
    pub kind: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Symbols {
        let arena = "firstsecondtwin".to_owned();
        let name = |start, len, kind| Name { start, len, kind };
        let names = [
            name(5, 6, b'T'),
            name(0, 5, b't'),
            name(11, 4, b't'),
            name(11, 4, b'T'),
        ];
        Symbols::build(arena, names.into_iter(), [200, 100, 150, 300].into_iter())
    }

    #[test]
    fn by_name_prefers_global() {
        let symbols = sample();
        assert_eq!(symbols.address("first"), Some(100));
        assert_eq!(symbols.address("twin"), Some(300));
        assert_eq!(symbols.all("twin").count(), 2);
        assert_eq!(symbols.address("nothing"), None);
        assert_eq!(symbols.address("zzz"), None);
    }

    #[test]
    fn every_name_is_found_in_a_large_table_and_none_in_an_empty_one() {
        let mut arena = String::new();
        let names: Vec<Name> = (0..5000)
            .map(|index| {
                let start = arena.len() as u32;
                // Every name twice, at addresses apart.
                arena += &format!("name_{}", index % 2500);
                Name {
                    start,
                    len: (arena.len() as u32 - start) as u16,
                    kind: b't',
                }
            })
            .collect();
        let symbols = Symbols::build(arena, names.into_iter(), (0..5000).map(|index| index * 16));
        for index in 0..2500u64 {
            let name = format!("name_{index}");
            let found: Vec<u64> = symbols.all(&name).map(|symbol| symbol.address).collect();
            assert_eq!(found, [index * 16, (index + 2500) * 16], "{name}");
        }
        assert_eq!(symbols.all("name_2500").count(), 0);
        assert_eq!(Symbols::default().address("name"), None);
    }

    #[test]
    fn by_address() {
        let symbols = sample();
        assert_eq!(symbols.name(200), Some("second"));
        assert_eq!(symbols.name(201), None);
        assert_eq!(symbols.names(200).collect::<Vec<_>>(), ["second"]);
        assert_eq!(symbols.names(201).count(), 0);
        assert_eq!(
            (symbols.above(100), symbols.above(299), symbols.above(300)),
            (Some(150), Some(300), None)
        );
        let (symbol, distance) = symbols.nearest(299).unwrap();
        assert_eq!((symbol.name, distance), ("second", 99));
        assert!(symbols.nearest(99).is_none());
        assert_eq!(symbols.next_after(99), Some(100));
        assert_eq!(symbols.next_after(100), Some(150));
        assert_eq!(symbols.next_after(300), None);
    }
}
