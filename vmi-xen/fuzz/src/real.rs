// SPDX-License-Identifier: GPL-3.0-only
//! Page tables, kallsyms and BTF of a real kernel, with changes in them.

use std::ops::Range;

use vmi_xen::kernel::kallsyms::Kallsyms;
use vmi_xen::kernel::{Kernel, Layout, btf::Btf};
use vmi_xen::memory::{AddressSpace, CpuState, PhysicalMemory};

use super::bytes::{any_btf, any_kallsyms};
use super::edits::edited;
use super::memory::{Hostile, Recorder};

/// Bytes around the names, beside the offsets: `relative_base`, and padding.
const PADDING: usize = 64;
/// Where small tables end that a change anywhere would hardly ever meet: markers, tokens and their index.
const SMALL_TABLES: usize = 16 << 10;
/// Entries of a table that lead somewhere, followed at each level.
const FOLLOWED: usize = 3;

/// What a real kernel's memory holds for the parsers.
pub struct Real {
    tables: Hostile,
    /// Page tables, and addresses that they map.
    places: Vec<(AddressSpace, u64)>,
    kallsyms: Vec<u8>,
    /// First byte behind the token index, in `kallsyms`.
    index_end: usize,
    btf: Vec<u8>,
}

impl Real {
    /// Cuts it out of the memory of a guest that is sound.
    pub fn cut<M: PhysicalMemory>(memory: M, cpus: &[CpuState]) -> Real {
        let kernel = Kernel::find(&memory, cpus).expect("a sound guest");
        let symbol = |name: &str| kernel.symbols.address(name).expect(name);
        let read = |start: u64, end: u64| {
            let mut bytes = vec![0; (end - start) as usize];
            kernel
                .space
                .read(&memory, start, &mut bytes)
                .expect("read-only data");
            bytes
        };
        let btf = read(symbol("__start_BTF"), symbol("__stop_BTF"));
        let known = Layout::from_btf(&Btf::parse(&btf).expect("BTF"));
        assert_eq!(known.gaps().len(), kernel.layout.gaps().len());

        let start = symbol("__start_rodata");
        let constants = read(start, symbol("__end_rodata"));
        let Range { start: from, end } = Kallsyms::find(&constants).expect("kallsyms").extent();
        // The table of offsets is before the names, or behind them.
        let offsets = kernel.symbols.len() * 4 + PADDING;
        let from = from.saturating_sub(offsets) & !7;
        let kallsyms = constants[from..(end + offsets).min(constants.len())].to_vec();
        let cut = Kallsyms::find(&kallsyms).expect("what was cut out is whole");
        let text = cut.position("_text").expect("_text");
        let same =
            |candidate: &_| cut.address(*candidate, start + from as u64, text) == Some(kernel.text_base);
        assert!(cut.candidates().iter().any(same), "and tells the same");
        let index_end = cut.extent().end;

        let memory = Recorder::new(memory);
        let mut places = Vec::new();
        let mut roots: Vec<u64> = cpus.iter().map(CpuState::page_table_root).collect();
        roots.push(kernel.space.root());
        roots.sort_unstable();
        roots.dedup();
        for root in roots {
            let space = AddressSpace::new(root, kernel.space.levels());
            for va in mapped(&memory, &space) {
                places.push((space.clone(), va));
            }
        }
        assert!(places.len() > 20, "{} pages", places.len());
        Real {
            tables: memory.into_hostile(),
            places,
            kallsyms,
            index_end,
            btf,
        }
    }

    /// Walks of page tables that lie: a few reads each, and none panics.
    pub fn paging(&self, data: &[u8]) {
        self.tables.lie(data);
        for (space, va) in &self.places {
            space.flush();
            self.tables.spent();
            let _ = space.walk(&self.tables, *va);
            let spent = self.tables.spent();
            assert!(spent.reads <= 5, "{spent:?} for one walk");
            let mut buf = [0; 10_000];
            let _ = space.read(&self.tables, *va, &mut buf);
            let got = space.read_prefix(&self.tables, *va, &mut buf);
            assert!(got <= buf.len());
            let spent = self.tables.spent();
            assert!(spent.reads <= 2 * 6 * 4, "{spent:?} for four pages, twice");
        }
    }

    /// The kernel's own kallsyms, changed anywhere, in its small tables, or where the names begin.
    pub fn kallsyms(&self, data: &[u8]) {
        let (kind, data) = data.split_first().unwrap_or((&0, &[]));
        let all = self.kallsyms.len();
        let within = match kind % 3 {
            0 => 0..all,
            1 => self.index_end - SMALL_TABLES..self.index_end,
            _ => self.index_end..all.min(self.index_end + SMALL_TABLES),
        };
        any_kallsyms(&changed(&self.kallsyms, within, data), "_text");
    }

    /// The kernel's own BTF, changed anywhere or at its head.
    pub fn btf(&self, data: &[u8]) {
        let (kind, data) = data.split_first().unwrap_or((&0, &[]));
        let within = match kind % 2 {
            0 => 0..self.btf.len(),
            _ => 0..64,
        };
        any_btf(&changed(&self.btf, within, data));
    }
}

/// A block with the edits of an input in a part of it; where they cut the part off, the block ends.
fn changed(block: &[u8], within: Range<usize>, data: &[u8]) -> Vec<u8> {
    let part = edited(&block[within.clone()], data);
    let rest = if part.len() == within.len() {
        &block[within.end..]
    } else {
        &[]
    };
    [&block[..within.start], &part, rest].concat()
}

/// Addresses that tables map, some at each level, of the user's half and of the kernel's.
fn mapped<M: PhysicalMemory>(memory: &M, space: &AddressSpace) -> Vec<u64> {
    let mut found = Vec::new();
    // Tables to follow, with the level of each and the address that its first entry maps.
    let mut waiting = vec![(space.root(), space.levels(), 0u64)];
    while let Some((table, level, base)) = waiting.pop() {
        let shift = 12 + 9 * (u32::from(level) - 1);
        let mut followed = 0;
        // From both ends: the user's half begins the tables, the kernel's image is at their end.
        let order = (0..256).flat_map(|index| [index, 511 - index]);
        for index in order {
            let mut raw = [0; 8];
            let at = table + index * 8;
            if followed == FOLLOWED || memory.read_phys(at, &mut raw).is_err() {
                break;
            }
            let entry = u64::from_le_bytes(raw);
            if entry & 1 == 0 {
                continue;
            }
            followed += 1;
            let va = base | index << shift;
            if level == 1 || (entry & 1 << 7 != 0 && level <= 3) {
                let unused = 64 - (12 + 9 * u32::from(space.levels()));
                let va = ((va << unused) as i64 >> unused) as u64;
                found.push(va);
            } else {
                waiting.push((entry & 0x000f_ffff_ffff_f000, level - 1, va));
            }
        }
    }
    found
}
