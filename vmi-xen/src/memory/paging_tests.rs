// SPDX-License-Identifier: GPL-3.0-only
use super::*;
use proptest::prelude::*;

/// Tables built by hand in a small memory: page 1 is the top table, the next
/// pages are tables in the order in which they are needed.
struct Tables {
    memory: Vec<u8>,
    next: u64,
}

const RIGHTS: u64 = PRESENT | WRITABLE;

impl Tables {
    fn new() -> Self {
        Self {
            memory: vec![0; 64 * PAGE_SIZE as usize],
            next: 2,
        }
    }

    fn entry(&mut self, table: u64, index: u64) -> &mut [u8] {
        let at = (table * PAGE_SIZE + index * 8) as usize;
        &mut self.memory[at..at + 8]
    }

    /// Maps `va` at `level` (1, 2 or 3) of tables `levels` deep.
    fn map(&mut self, levels: u32, va: u64, level: u32, pa: u64, flags: u64) {
        let mut table = 1;
        for at in (level..=levels).rev() {
            let index = (va >> (12 + 9 * (at - 1))) & 0x1ff;
            if at == level {
                let large = if level > 1 { LARGE } else { 0 };
                let raw = (pa | flags | large).to_le_bytes();
                self.entry(table, index).copy_from_slice(&raw);
                return;
            }
            let raw = u64::from_le_bytes(self.entry(table, index).try_into().unwrap());
            table = if raw & PRESENT != 0 {
                (raw & ENTRY_ADDRESS) / PAGE_SIZE
            } else {
                let new = self.next;
                self.next += 1;
                let raw = ((new * PAGE_SIZE) | RIGHTS | USER).to_le_bytes();
                self.entry(table, index).copy_from_slice(&raw);
                new
            };
        }
    }
}

const KERNEL: u64 = 0xffff_ffff_8100_0000;

#[test]
fn pages_of_every_size() {
    for levels in [4, 5] {
        let mut tables = Tables::new();
        tables.map(levels, KERNEL, 1, 0x5000, RIGHTS);
        tables.map(levels, KERNEL + (2 << 20), 2, 0x40_0000, PRESENT | NO_EXECUTE);
        tables.map(levels, 0xffff_8880_4000_0000, 3, 1 << 30, RIGHTS | 1 << 12);
        let space = AddressSpace::new(PAGE_SIZE, levels as u8);
        let mem = &tables.memory[..];
        let small = space.walk(mem, KERNEL + 0x123).unwrap();
        assert_eq!((small.pa, small.page_size), (0x5123, 4096));
        assert!(small.flags.writable && small.flags.executable && !small.flags.user);
        let large = space.walk(mem, KERNEL + (2 << 20) + 0x12_3456).unwrap();
        assert_eq!((large.pa, large.page_size), (0x52_3456, 2 << 20));
        assert!(!large.flags.writable && !large.flags.executable);
        // The PAT bit of a huge page is not part of its address.
        let huge = space.walk(mem, 0xffff_8880_4765_4321).unwrap();
        assert_eq!((huge.pa, huge.page_size), (0x4765_4321, 1 << 30));
    }
}

#[test]
fn absent_entries_tell_their_level() {
    let mut tables = Tables::new();
    tables.map(4, KERNEL, 1, 0x5000, RIGHTS);
    let space = AddressSpace::new(PAGE_SIZE, 4);
    for (va, expected) in [(KERNEL + 0x1000, 1), (KERNEL + (2 << 20), 2), (0, 4)] {
        match space.translate(&tables.memory[..], va) {
            Err(MemoryError::NotMapped { level, .. }) => assert_eq!(level, expected),
            other => panic!("{va:#x}: {other:?}"),
        }
    }
}

#[test]
fn addresses_that_are_not_canonical() {
    let tables = Tables::new();
    let mem = &tables.memory[..];
    let four = AddressSpace::new(PAGE_SIZE, 4);
    let five = AddressSpace::new(PAGE_SIZE, 5);
    // Canonical only with five levels.
    let va = 0xff11_0000_0000_0000;
    assert!(matches!(
        four.walk(mem, va),
        Err(MemoryError::NonCanonical { .. })
    ));
    assert!(matches!(
        five.walk(mem, va),
        Err(MemoryError::NotMapped { level: 5, .. })
    ));
    let end = four.read(mem, u64::MAX - 3, &mut [0; 8]);
    assert!(end.is_err());
}

#[test]
fn reads_cross_pages_that_are_apart() {
    let mut tables = Tables::new();
    tables.map(4, KERNEL, 1, 0x20_000, RIGHTS);
    tables.map(4, KERNEL + 0x1000, 1, 0x30_000, RIGHTS);
    tables.memory[0x20_ffe..0x21_000].copy_from_slice(&[1, 2]);
    tables.memory[0x30_000..0x30_002].copy_from_slice(&[3, 4]);
    let space = AddressSpace::new(PAGE_SIZE, 4);
    let mem = &tables.memory[..];
    assert_eq!(space.read_u32(mem, KERNEL + 0xffe).unwrap(), 0x0403_0201);
    // The third page is absent: the prefix ends before it.
    let mut buf = [0; 16];
    assert_eq!(space.read_prefix(mem, KERNEL + 0x1ff8, &mut buf), 8);
    assert!(space.read(mem, KERNEL + 0x1ff8, &mut buf).is_err());
}

#[test]
fn the_cache_forgets_on_flush() {
    let mut tables = Tables::new();
    tables.map(4, KERNEL, 1, 0x5000, RIGHTS);
    let space = AddressSpace::new(PAGE_SIZE, 4);
    assert_eq!(space.translate(&tables.memory[..], KERNEL).unwrap(), 0x5000);
    tables.map(4, KERNEL, 1, 0x6000, RIGHTS);
    assert_eq!(space.translate(&tables.memory[..], KERNEL).unwrap(), 0x5000);
    space.flush();
    assert_eq!(space.translate(&tables.memory[..], KERNEL).unwrap(), 0x6000);
}

proptest! {
    /// Tables of any content: the walk ends, and what it returns agrees with
    /// what the cache returns.
    #[test]
    fn random_tables(
        memory in proptest::collection::vec(any::<u64>(), 2048),
        va in any::<u64>(),
        levels in 4u8..=5,
    ) {
        // Entries point into this little memory, or the walk is over at once.
        let bytes: Vec<u8> = memory
            .iter()
            .flat_map(|word| (word & !0x000f_ffff_ffff_c000).to_le_bytes())
            .collect();
        let space = AddressSpace::new(0, levels);
        let canonical = ((va << 16) as i64 >> 16) as u64;
        for va in [va, canonical] {
            let walked = space.walk(&bytes[..], va);
            let translated = space.translate(&bytes[..], va);
            prop_assert_eq!(walked.map(|t| t.pa).ok(), translated.ok());
            let mut buf = [0; 300];
            let _ = space.read(&bytes[..], va, &mut buf);
        }
    }
}
